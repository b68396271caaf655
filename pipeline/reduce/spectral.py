"""Spectral clusters of the maps of one class (SpRAy, Lapuschkin et al. 2019), and how unlike the rest each cluster and each map is.

N maps, M of them different, h w cells, G cells a side of the common grid, D = G * G
"""

from typing import NamedTuple

import numpy as np

DIGITS = 6  # points that agree in as many decimals are one
SEED = 0  # of k-means


class Spectrum(NamedTuple):
    """The clusters of N points, the largest first and numbered from 0; the lowest eigenvalues of their graph and the gap behind the last cluster.

    The gap is NaN where fewer than two points differ.
    """

    cluster: np.ndarray
    eigenvalues: np.ndarray
    gap: float


def on_grid(maps: np.ndarray, side: int) -> np.ndarray:
    """The means of maps [N h w] over the cells of a grid [N G G] of `side` cells; a cell of the map counts by its share inside."""
    rows, columns = (_shares(size, side) for size in maps.shape[1:])
    return rows @ maps @ columns.T


def _shares(size: int, side: int) -> np.ndarray:
    """The share of each of `side` parts of a line that each of its `size` cells covers [side size]."""
    edges, cells = np.arange(side + 1) * size / side, np.arange(size)
    covered = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    return covered.clip(0) * side / size


def directions(maps: np.ndarray) -> np.ndarray:
    """Maps in [0, 1] on the common grid [N G G], none of them zero, as points at distance 1 from the origin [N D]."""
    flat = maps.reshape(len(maps), -1)
    return np.round(flat / np.linalg.norm(flat, axis=1, keepdims=True), DIGITS)


def spectrum(points: np.ndarray, neighbours: int, most: int) -> Spectrum:
    """The spectral clusters of points [N D]; equal points count once in the graph and share their cluster.

    The graph joins each point with its `neighbours` nearest, half as strongly where only one of two is among the other's. Of 1 to `most`
    clusters there are as many as the eigenvalues of its normalised Laplacian in front of their largest gap, but never fewer than the graph
    has separate parts. Clusters are those of k-means on the rows of as many eigenvectors (von Luxburg 2007, sections 4 and 8.3).
    """
    different, one_of = np.unique(points, axis=0, return_inverse=True)
    order = np.argsort(_first_positions(one_of), kind="stable")  # in the order of the points, whatever their values
    different, one_of = different[order], np.argsort(order)[one_of.reshape(-1)]
    cluster, eigenvalues, gap = _cut(different, neighbours, most)
    return Spectrum(_largest_first(cluster[one_of]), eigenvalues, gap)


def _first_positions(numbers: np.ndarray) -> np.ndarray:
    return np.unique(numbers.reshape(-1), return_index=True)[1]


def _cut(points: np.ndarray, neighbours: int, most: int) -> Spectrum:
    """The clusters of different points [M D], in any order."""
    from scipy.linalg import eigh
    from scipy.sparse.csgraph import connected_components, laplacian
    from sklearn.cluster import KMeans
    from sklearn.neighbors import kneighbors_graph

    if len(points) < 2:
        return Spectrum(np.zeros(len(points), int), np.zeros(len(points)), np.nan)
    nearest = kneighbors_graph(points, min(neighbours, len(points) - 1), include_self=False)
    affinity = (nearest + nearest.T) / 2
    parts, part_of = connected_components(affinity, directed=False)
    matrix, root_degree = laplacian(affinity, normed=True, return_diag=True)
    last = min(max(parts, most), len(points) - 1)
    eigenvalues, vectors = eigh(matrix.toarray(), subset_by_index=(0, last))
    eigenvalues = eigenvalues.clip(0)
    gaps = np.diff(eigenvalues)
    count = parts + int(np.argmax(gaps[parts - 1 :]))  # parts have two points at least, so there are eigenvalues beyond theirs
    if count > parts:
        rows = vectors[:, :count] / root_degree[:, None]
        part_of = KMeans(count, n_init=10, random_state=SEED).fit_predict(rows)
    return Spectrum(part_of, eigenvalues, float(gaps[count - 1]))


def _largest_first(cluster: np.ndarray) -> np.ndarray:
    """The same clusters, numbered by their size and, of equal ones, by their first point."""
    _, first, numbers, sizes = np.unique(cluster, return_index=True, return_inverse=True, return_counts=True)
    return np.argsort(np.lexsort((first, -sizes)))[numbers.reshape(-1)]


def distances(points: np.ndarray, others: np.ndarray, neighbours: int) -> np.ndarray:
    """The mean distance of each point [N D] to the nearest `neighbours` of `others` [L D], or to all of fewer: [N]; NaN where there are none.

    The outlier score of Angiulli and Pizzuti (2002), here against the maps of other classes.
    """
    from sklearn.neighbors import NearestNeighbors

    if not len(others):
        return np.full(len(points), np.nan)
    return NearestNeighbors(n_neighbors=min(neighbours, len(others))).fit(others).kneighbors(points)[0].mean(1)


def separation(points: np.ndarray, members: np.ndarray) -> float:
    """How far a cluster lies from the rest, as a share: b / (b + v + v'), NaN where there is no rest.

    b is the squared distance of its mean to that of the rest, v and v' the mean squared distances of members and of the rest to their means:
    the criterion of Fisher (1936), by which Anders et al. (2022) rank the clusters of SpRAy.

    Parameters:
        points: [N D].
        members: whether each is in the cluster [N].
    """
    if members.all():
        return np.nan
    means = [points[side].mean(0) for side in (members, ~members)]
    within = sum(np.square(points[side] - mean).sum(1).mean() for side, mean in zip((members, ~members), means, strict=True))
    between = np.square(means[0] - means[1]).sum()
    return float(between / (between + within))


def exemplars(points: np.ndarray, members: np.ndarray, most: int) -> np.ndarray:
    """The positions of the members [N] that are nearest to their mean, nearest first, `most` at most."""
    positions = np.flatnonzero(members)
    distances = np.linalg.norm(points[positions] - points[positions].mean(0), axis=1)
    return positions[np.argsort(np.round(distances, DIGITS), kind="stable")[:most]]


def plane(points: np.ndarray) -> np.ndarray:
    """The points [N D] on their first two principal axes [N 2], each axis towards its largest coordinate."""
    centred = points - points.mean(0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
    axes = axes * np.sign(np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1))
    flat = centred @ axes.T
    return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))
