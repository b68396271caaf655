"""How far methods disagree on an image: by hand, against scipy, and where there is nothing to compare."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from pipeline.maps.similarity import standard_ranks
from pipeline.reduce.analyses.disagreement import disagreement
from pipeline.reduce.analyses.images import StoredMap
from tests.conditioning import DOUBLE
from tests.reduce.stored_maps import image, stored


def row(*maps: StoredMap) -> dict:
    [only] = disagreement([image(*maps)])
    return only


def test_spearman_by_hand():
    a, b = ([[1, 2], [3, 4]], [[2, 1], [4, 3]])
    assert standard_ranks(np.array(a)) @ standard_ranks(np.array(b)) == pytest.approx(0.6, rel=1e-15)
    found = row(stored(a, "a"), stored(b, "b"))
    assert found["disagreement"] == pytest.approx(0.4, rel=1e-15)
    assert found["pairs"] == [{"a": "a", "b": "b", "spearman": pytest.approx(0.6, rel=1e-15)}]


@pytest.mark.parametrize("levels", [3, 10, 1000])
def test_ranks_with_ties_give_the_correlation_of_scipy(levels):
    a, b = np.random.default_rng(levels).integers(0, levels, (2, 7, 9))
    np.testing.assert_allclose(standard_ranks(a) @ standard_ranks(b), spearmanr(a.ravel(), b.ravel()).statistic, **DOUBLE)


def test_the_value_is_one_minus_the_mean_over_all_pairs_of_what_scipy_says():
    maps = [stored(cells, f"m{i}") for i, cells in enumerate(np.random.default_rng(0).random((4, 7, 7)))]
    pairs = [spearmanr(a.levels.ravel(), b.levels.ravel()).statistic for i, a in enumerate(maps) for b in maps[i + 1 :]]
    found = row(*maps)
    assert len(pairs) == len(found["pairs"]) == 6 and found["methods"] == 4
    np.testing.assert_allclose(found["disagreement"], 1 - np.mean(pairs), **DOUBLE)


def test_the_same_map_agrees_wholly_and_one_upside_down_is_its_opposite():
    cells = np.arange(-12, 13).reshape(5, 5)
    np.testing.assert_allclose(row(stored(cells, "a"), stored(3 * cells + 0.5, "b"))["disagreement"], 0, atol=1e-15)
    np.testing.assert_allclose(row(stored(cells, "a"), stored(-cells, "b"))["disagreement"], 2, **DOUBLE)


def test_controls_are_left_out_and_a_method_without_a_class_stands_beside_every_target():
    cells = np.random.default_rng(2).random((4, 3, 3))
    maps = [stored(cells[0], "cam"), stored(cells[1], "cam", "second"), stored(cells[2], "eigen", "none"), stored(cells[3], "random")]
    rows = [*disagreement([image(*maps)])]
    assert [(found["target"], [(pair["a"], pair["b"]) for pair in found["pairs"]]) for found in rows] == [
        ("label", [("cam", "eigen")]),
        ("second", [("cam", "eigen")]),
    ]
    assert [*disagreement([image(maps[0], maps[3])])] == []


def test_a_coarse_map_is_compared_on_the_finer_grid():
    fine = np.random.default_rng(3).random((4, 4))
    coarse = stored([[0, 1], [2, 3]], "b", render="area")
    expected = spearmanr(stored(fine).levels.ravel(), np.kron([[0, 1], [2, 3]], np.ones((2, 2))).ravel()).statistic
    np.testing.assert_allclose(row(stored(fine, "a"), coarse)["disagreement"], 1 - expected, **DOUBLE)


def test_a_signed_map_meets_a_rectified_one_by_its_positive_part():
    signed = np.array([[-3.0, -1.0], [2.0, 5.0]])
    np.testing.assert_allclose(row(stored(signed, "a"), stored(np.maximum(signed, 0), "b"))["disagreement"], 0, atol=1e-15)
    other = np.array([[-1.0, -3.0], [2.0, 5.0]])
    np.testing.assert_allclose(row(stored(signed, "a"), stored(other, "b"))["disagreement"], 1 - 0.8, **DOUBLE)


def test_a_constant_map_has_no_ranks_and_nothing_to_say():
    flat, cells = np.full((2, 2), 3.0), [[1, 2], [3, 4]]
    assert row(stored(flat, "a"), stored(cells, "b"))["disagreement"] is None
    found = row(stored(flat, "a"), stored(cells, "b"), stored(cells, "c"))
    assert found["methods"] == 3 and found["disagreement"] == pytest.approx(0, abs=1e-15)
    assert [(pair["a"], pair["b"]) for pair in found["pairs"]] == [("b", "c")]
    assert row(stored([[-1, -2], [-3, -4]], "a"), stored(cells, "b"))["disagreement"] is None, "nothing speaks for the class"
