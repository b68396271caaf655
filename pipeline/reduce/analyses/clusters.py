"""Spectral clusters of the maps of each class (SpRAy, Lapuschkin et al. 2019): an artefact that some of its images share is a cluster of its own.

N maps, G cells a side of the common grid, D = G * G
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.maps.quantise import quantise
from pipeline.reduce import spectral
from pipeline.reduce.analyses.images import StoredMap, read_maps
from pipeline.reduce.analyses.registry import analysis
from pipeline.reduce.analyses.rows import Rows
from pipeline.refusal import Count
from pipeline.tables.identity import seed_of

PLACE = ("distance", "outlier", "x", "y")  # the numbers of a member
Drawn = tuple[list[str], np.ndarray]  # images of a class, and their maps in [0, 1] [N G G]


@dataclass
class _Class:
    """The maps of one class that are not constant, on the common grid in [0, 1], and the number of those that are."""

    images: list[str] = field(default_factory=list)
    maps: list[np.ndarray] = field(default_factory=list)
    constant: int = 0

    def add(self, image_id: str, stored: StoredMap, grid: int) -> None:
        if stored.constant:
            self.constant += 1
        else:
            self.images.append(image_id)
            self.maps.append(spectral.on_grid(stored.levels[None] / 255, grid)[0])

    def drawn(self, most: int) -> Drawn:
        """The images of `most` maps at most, by a hash of their names, and the maps [N G G], both sorted by image."""
        order = sorted(range(len(self.images)), key=lambda i: _lot(self.images[i]))[:most]
        order = sorted(order, key=lambda i: self.images[i])
        return [self.images[i] for i in order], np.array([self.maps[i] for i in order])


@dataclass(frozen=True)
class _Settings:
    neighbours: int
    most: int
    exemplars: int


def _lot(image_id: str) -> int:
    return seed_of("clusters", image_id)


@analysis("method")
def clusters(
    images: Rows, maps: Rows, *, grid: Count = 7, neighbours: Count = 10, most: Count = 8,
    exemplars: Count = 5, most_images: Count = 1000, others: Count = 2000,
) -> Iterator[dict]:  # fmt: skip
    """A row a target, class and cluster, the largest cluster first. A class is a label; images without one are left out.

    Maps are scaled from least to largest, brought to `grid` x `grid` cells by the mean over each, and then to length 1. The graph joins each
    image with its `neighbours` nearest, half as strongly where only one is among the other's; equal maps are one point of it. Of 1 to `most`
    clusters there are as many as the eigenvalues of the normalised Laplacian in front of their largest gap (`eigengap`), but not fewer than
    the graph has separate parts. The clusters are those of k-means on as many eigenvectors.

    `separation` is b / (b + v + v'): b is the squared distance of the cluster's mean to that of the rest of the class, v and v' are the mean
    squared distances to either mean (Fisher's criterion). `distance` of an image is its mean distance to the `neighbours` nearest of `others`
    maps of other classes. `outlier` of an image is (1 - share) separation distance, high for a small cluster that lies apart from its class and
    where no other class has maps; a cluster's `suspicion` is the mean of its images' `outlier`. Without another class a distance counts as 1.

    Of a class with more images, `most_images` take part, by a hash of their ids. Those beyond and constant maps are counted in `left_out`; a
    class whose maps are all constant has one row without a cluster.
    """
    settings = _Settings(neighbours, most, exemplars)
    for (model, method, target, render), classes in sorted(_by_class(images, maps, grid).items()):
        drawn = {class_id: of_class.drawn(most_images) for class_id, of_class in sorted(classes.items())}
        class_of, reference = _reference(drawn, others)
        for class_id, (names, unit) in drawn.items():
            about = {"model": model, "method": method, "target": target, "class_id": class_id}
            left_out = {"class_images": len(names), "left_out": len(classes[class_id].images) - len(names) + classes[class_id].constant}
            if not names:
                yield about | left_out | {"n": 0}
                continue
            for row in _clusters_of(names, unit, reference[class_of != class_id], settings):
                yield about | left_out | row | {"render": render, "height": grid, "width": grid}


def _by_class(images: Rows, maps: Rows, grid: int) -> dict[tuple[str, ...], dict[int, _Class]]:
    """(model, method, target, render) -> class -> its maps."""
    labels = images.read("image_id", "label").to_pylist()
    label_of = {row["image_id"]: row["label"] for row in labels if row["label"] is not None}
    classes: dict[tuple[str, ...], dict[int, _Class]] = defaultdict(lambda: defaultdict(_Class))
    for image_id, stored in read_maps(maps):
        if image_id in label_of:
            of_class = classes[stored.model, stored.method, stored.target, stored.render][label_of[image_id]]
            of_class.add(image_id, stored, grid)
    return classes


def _reference(drawn: Mapping[int, Drawn], most: int) -> tuple[np.ndarray, np.ndarray]:
    """The classes [L] and points [L D] of `most` maps at most, of all classes, by a hash of their images' names."""
    lots = sorted((_lot(name), class_id, i) for class_id, (names, _) in drawn.items() for i, name in enumerate(names))[:most]
    points = [drawn[class_id][1][i] for _, class_id, i in lots]
    return np.array([class_id for _, class_id, _ in lots]), spectral.directions(np.array(points)) if points else np.zeros((0, 0))


def _clusters_of(names: Sequence[str], unit: np.ndarray, rest: np.ndarray, settings: _Settings) -> Iterator[dict]:
    """The clusters of one class, from its maps in [0, 1] [N G G] and points of other classes [L D]."""
    points = spectral.directions(unit)
    found = spectral.spectrum(points, settings.neighbours, settings.most)
    distance, plane = spectral.distances(points, rest, settings.neighbours), spectral.plane(points)
    for cluster, n in sorted(Counter(found.cluster.tolist()).items()):
        members, share = found.cluster == cluster, n / len(points)
        separation = spectral.separation(points, members)
        outlier = (1 - share) * separation * (distance if len(rest) else np.ones(len(points)))
        levels, low, high = quantise(unit[members].mean(0)[None])
        places = zip(distance[members], outlier[members], *plane[members].T, strict=True)
        yield {
            "cluster": cluster,
            "n": n,
            "share": share,
            "separation": _finite(separation),
            "distance": _finite(distance[members].mean()),
            "suspicion": _finite(outlier[members].mean()),
            "eigenvalues": found.eigenvalues.tolist(),
            "eigengap": _finite(found.gap),
            "exemplars": [names[i] for i in spectral.exemplars(points, members, settings.exemplars)],
            "map": levels[0].ravel(),
            "map_min": low[0],
            "map_max": high[0],
            "members": [
                {"image_id": names[int(i)], **{name: _finite(number) for name, number in zip(PLACE, place, strict=True)}}
                for i, place in zip(np.flatnonzero(members), places, strict=True)
            ],
        }


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None
