"""Spectral clusters of points, and what is said of them: against scikit-learn and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.cluster import SpectralClustering
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from pipeline.reduce import spectral
from tests.reduce.blobs import blobs


@pytest.mark.filterwarnings("ignore:Graph is not fully connected")
@pytest.mark.parametrize("sizes", [(40, 20), (30, 30, 30), (50, 12, 25, 14)], ids=str)
@pytest.mark.parametrize("spread", [0.03, 0.1])
def test_clusters_are_those_of_scikit_learn(sizes, spread):
    points = spectral.directions(blobs(sizes, spread=spread)[0])
    found = spectral.spectrum(points, neighbours=10, most=8)
    # its neighbours include the point itself
    model = SpectralClustering(found.cluster.max() + 1, affinity="nearest_neighbors", n_neighbors=11, random_state=0)
    assert adjusted_rand_score(model.fit_predict(points), found.cluster) == 1
    assert (np.diff(np.bincount(found.cluster)) <= 0).all(), "the largest first"


@pytest.mark.parametrize("sizes", [(15, 14), (16, 12, 13), (15, 12, 16, 14)], ids=str)
def test_kinds_of_maps_are_clusters(sizes):
    maps, kind = blobs(sizes, spread=0.03)
    assert adjusted_rand_score(kind, spectral.spectrum(spectral.directions(maps), 10, 8).cluster) == 1


def test_eigenvalues_and_their_gap_by_hand():
    """Four points on a line, one neighbour each: two pairs, 0 and 2 twice. With two neighbours the graph is one."""
    points = np.array([[0.0], [1], [10], [11]])
    found = spectral.spectrum(points, neighbours=1, most=3)
    np.testing.assert_allclose(found.eigenvalues, [0, 0, 2, 2], atol=1e-12)
    assert found.cluster.tolist() == [0, 0, 1, 1] and found.gap == pytest.approx(2)
    # three points, each the neighbour of all: eigenvalues of a complete graph are 0 and n / (n - 1)
    whole = spectral.spectrum(np.array([[0.0], [1], [2]]), neighbours=10, most=8)
    np.testing.assert_allclose(whole.eigenvalues, [0, 1.5, 1.5], atol=1e-12)
    assert whole.cluster.tolist() == [0, 0, 0] and whole.gap == pytest.approx(1.5)


def test_the_parts_of_a_graph_are_clusters_however_many():
    points = np.repeat(np.arange(12.0) * 100, 3)[:, None] + np.tile([0.0, 1, 2], 12)[:, None]
    found = spectral.spectrum(points, neighbours=2, most=8)
    assert found.cluster.tolist() == np.repeat(np.arange(12), 3).tolist()
    np.testing.assert_allclose(found.eigenvalues[:12], 0, atol=1e-12)
    assert found.gap == pytest.approx(1.5)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_few_points_are_one_cluster(count):
    found = spectral.spectrum(np.arange(float(count))[:, None], neighbours=10, most=8)
    assert found.cluster.tolist() == [0] * count
    assert len(found.eigenvalues) == count and np.isnan(found.gap) == (count < 2)


def test_equal_points_share_a_cluster_and_make_none():
    """A hundred equal maps have neighbours at distance 0 only: as points of the graph they would fall apart by chance."""
    maps, kind = blobs((30, 15))
    points = spectral.directions(maps)
    alone = spectral.spectrum(points, 10, 8)
    copied = spectral.spectrum(np.concatenate([points, np.repeat(points[:1], 100, 0)]), 10, 8)
    assert copied.cluster.tolist() == [*alone.cluster, *[alone.cluster[0]] * 100]
    np.testing.assert_array_equal(copied.eigenvalues, alone.eigenvalues)
    assert spectral.spectrum(np.ones((50, 3)), 10, 8).cluster.tolist() == [0] * 50


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(45)))
def test_the_order_of_the_maps_moves_no_map_to_another_cluster(order):
    points = spectral.directions(blobs((25, 20), spread=0.1)[0])
    expected, found = (spectral.spectrum(rows, 10, 8) for rows in (points, points[order]))
    np.testing.assert_array_equal(found.cluster, expected.cluster[order])
    np.testing.assert_allclose(found.eigenvalues, expected.eigenvalues, atol=1e-12)


@pytest.mark.parametrize("size", [1, 3, 7, 14, 16])
def test_a_grid_keeps_the_mean_of_a_map_and_a_map_of_its_size(size):
    maps = np.random.default_rng(0).random((4, size, 2 * size))
    np.testing.assert_allclose(spectral.on_grid(maps, 7).mean((1, 2)), maps.mean((1, 2)))
    blown = np.kron(maps, np.ones((7, 7)))  # whose cells divide into those of the grid without a rest
    np.testing.assert_allclose(spectral.on_grid(maps, 7), blown.reshape(4, 7, size, 7, 2 * size).mean((2, 4)))
    square = maps[:, :, :size]
    np.testing.assert_allclose(spectral.on_grid(square, size), square)


def test_directions_forget_how_strong_a_map_is():
    maps, _ = blobs((5,))
    np.testing.assert_array_equal(spectral.directions(maps), spectral.directions(maps * 0.25))
    np.testing.assert_allclose(np.linalg.norm(spectral.directions(maps), axis=1), 1, atol=1e-5)


def test_distances_are_to_the_nearest_maps_of_other_classes():
    points, others = np.random.default_rng(0).random((2, 30, 3))
    np.testing.assert_allclose(spectral.distances(points, others, 4), np.sort(cdist(points, others), 1)[:, :4].mean(1), rtol=1e-6)
    np.testing.assert_allclose(spectral.distances(points, others[:2], 4), cdist(points, others[:2]).mean(1), rtol=1e-6)
    assert np.isnan(spectral.distances(points, others[:0], 4)).all()


def test_separation_by_hand_and_as_the_share_of_variance_that_two_groups_explain():
    """Means 0 and 4, so b = 16; v = 1 and v' = 2 / 3."""
    points, members = np.array([[-1.0], [1], [3], [4], [5]]), np.array([True, True, False, False, False])
    assert spectral.separation(points, members) == spectral.separation(points, ~members) == pytest.approx(16 / (16 + 1 + 2 / 3))
    assert np.isnan(spectral.separation(points, np.ones(5, bool)))
    # for groups of the same size b / 4 is the variance between them, (v + v') / 2 that within
    points, members = np.random.default_rng(0).random((2, 40))[0][:, None], np.arange(40) < 20
    between = points.var() - np.mean([points[members].var(), points[~members].var()])
    assert spectral.separation(points, members) == pytest.approx(
        4 * between / (4 * between + points[members].var() + points[~members].var())
    )


def test_exemplars_are_nearest_to_the_centre():
    points, members = np.array([[0.0], [9], [2], [1], [3.5]]), np.array([True, False, True, True, True])
    assert spectral.exemplars(points, members, 2).tolist() == [2, 3], "the mean is 1.625"
    assert spectral.exemplars(points, members, 9).tolist() == [2, 3, 0, 4]


def test_the_plane_is_that_of_the_principal_components():
    points = np.random.default_rng(0).random((30, 6)) * [3, 2, 1, 1, 1, 1]
    np.testing.assert_allclose(np.abs(spectral.plane(points)), np.abs(PCA(2, svd_solver="full").fit_transform(points)), atol=1e-12)
    assert spectral.plane(points[:1]).tolist() == [[0, 0]] and spectral.plane(points[:, :1]).shape == (30, 2)
