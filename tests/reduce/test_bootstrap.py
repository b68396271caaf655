"""The bootstrap against theory and scipy, and that nothing but names and values decides it.

An end of an interval is a quantile of R resampled means, so it is off by NOISE / sqrt(R) standard errors of the mean.
"""

import hashlib

import numpy as np
import pytest
from scipy import stats

from pipeline.reduce import bootstrap

NOISE = np.sqrt(0.025 * 0.975) / stats.norm.pdf(stats.norm.ppf(0.025))


def names(n: int) -> np.ndarray:
    return np.array([f"shard-{i % 7}.tar/{i}" for i in range(n)])


def interval(values: np.ndarray) -> np.ndarray:
    return np.array(bootstrap.percentile_interval(bootstrap.resampled_means(values, names(values.shape[1]))))


def test_a_thing_is_drawn_as_often_as_poisson_s_law_makes_of_its_name():
    told = bootstrap.draws_of(["a", "b/é"])
    for name, mine in zip(("a", "b/é"), told, strict=True):
        bits = np.frombuffer(hashlib.shake_128(name.encode()).digest(2 * bootstrap.RESAMPLES), "<u2")
        np.testing.assert_array_equal(mine, stats.poisson.ppf((bits + 0.5) / 2**16, 1))
    many = bootstrap.draws_of(names(2000))
    expected = stats.poisson.pmf(np.arange(8), 1)
    np.testing.assert_allclose(
        np.bincount(many.ravel(), minlength=8) / many.size, expected, atol=5 * np.sqrt(expected.max() / many.size) + 2**-16
    )
    assert abs(np.corrcoef(many[:2])[0, 1]) < 5 / np.sqrt(bootstrap.RESAMPLES)


def test_intervals_are_scipy_s_within_what_so_many_resamples_tell():
    rng = np.random.default_rng(0)
    shape, resamples = (15, 200), 2000
    values = np.concatenate([rng.random(shape), rng.normal(3, 2, shape), rng.exponential(1, shape), rng.beta(0.5, 2, shape)])
    told = stats.bootstrap((values,), np.mean, axis=1, n_resamples=resamples, method="percentile", batch=100, rng=rng).confidence_interval
    off = (interval(values) - np.array([told.low, told.high])) / stats.sem(values, axis=1)
    noise = NOISE * np.sqrt(1 / bootstrap.RESAMPLES + 1 / resamples)
    assert np.abs(off).max() < 5 * noise
    assert (np.abs(off.mean(1)) < 5 * noise / np.sqrt(len(values))).all()


def test_of_normal_numbers_the_interval_holds_the_mean_as_often_as_theory_has_it():
    """The bootstrap's standard error lacks n / (n - 1), and its quantiles are the normal law's where Student's are due."""
    n, columns = 50, 1000
    low, high = interval(np.random.default_rng(0).normal(1, 1, (columns, n)))
    expected = 1 - 2 * stats.t.sf(stats.norm.ppf(0.975) * np.sqrt((n - 1) / n), n - 1)
    assert ((low < 1) & (high > 1)).mean() == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / columns))


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_neither_order_nor_company_nor_chunks_move_a_digit(monkeypatch, chunk):
    rng = np.random.default_rng(0)
    values = rng.lognormal(0, 3, (6, 90)) * 10.0 ** rng.integers(-9, 9, (6, 1))
    values[rng.random(values.shape) < 0.2] = np.nan
    expected, order = bootstrap.resampled_means(values, names(90)), rng.permutation(90)
    monkeypatch.setattr(bootstrap, "CHUNK", chunk)
    np.testing.assert_array_equal(bootstrap.resampled_means(values[:, order], names(90)[order]), expected)
    for column in range(6):
        np.testing.assert_array_equal(bootstrap.resampled_means(values[column : column + 1], names(90))[0], expected[column])
        known = np.isfinite(values[column])
        np.testing.assert_array_equal(bootstrap.resampled_means(values[column : column + 1, known], names(90)[known])[0], expected[column])


def test_differences_are_paired():
    first, second = np.random.default_rng(0).random((2, 1, 40))
    told = [bootstrap.resampled_means(values, names(40)) for values in (first, second, first - second)]
    np.testing.assert_allclose(told[0] - told[1], told[2], atol=1e-9)


def test_resampled_means_are_weighted_means():
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (3, 30)) * [[1e-20], [1], [1e20]]
    values[1, 4:9] = np.nan
    found, times = bootstrap.resampled_means(values, names(30)), bootstrap.draws_of(names(30)).astype(float)
    for mine, told in zip(values, found, strict=True):
        known = np.isfinite(mine)
        expected = [np.average(mine[known], weights=draw[known]) for draw in times.T]
        np.testing.assert_allclose(told, expected, rtol=1e-6, atol=1e-9 * np.abs(mine[known]).max())


def test_what_has_no_interval_and_what_has_no_width():
    values = np.array([[np.nan, np.nan, np.nan], [np.nan, 0.3, np.nan], [0.3, 0.3, 0.3], [0, 0, 0], [1, 2, np.nan]])
    low, high = interval(values)
    assert np.isnan(low[:2]).all() and np.isnan(high[:2]).all()
    assert (low[2], high[2], low[3], high[3]) == (pytest.approx(0.3), pytest.approx(0.3), 0, 0)
    assert (low[4], high[4]) == (1, 2), "of two, resamples that draw neither are left out"
    assert [end.shape for end in bootstrap.percentile_interval(bootstrap.resampled_means(np.empty((2, 0)), []))] == [(2,), (2,)]


def test_ends_are_numpy_s_quantiles():
    values = np.random.default_rng(0).random((4, 333))
    values[1, ::3] = np.nan
    np.testing.assert_allclose(bootstrap.percentile_interval(values), np.nanquantile(values, [0.025, 0.975], axis=1), rtol=1e-12)
