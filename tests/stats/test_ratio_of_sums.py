"""Intervals: those of SciPy, by cluster, and what they are where there is little."""

import numpy as np
import pytest
from scipy import stats

from notice_lens.stats.intervals import RESAMPLES, ratio_of_sums


def test_intervals_are_those_of_scipy():
    rng = np.random.default_rng(0)
    top, bottom = rng.normal(1, 1, (20, 2, 3)), rng.uniform(1, 2, 20)
    found = ratio_of_sums(top, bottom[:, None, None], np.arange(20), 0.9, seed=5)
    own = {"random_state": np.random.default_rng(5)}
    plain = stats.bootstrap(
        (top[:, 1, 2], bottom),
        lambda t, b, axis=-1: t.sum(axis) / b.sum(axis),
        paired=True,
        n_resamples=RESAMPLES,
        confidence_level=0.9,
        **own,
    )
    assert found.mean[1, 2] == pytest.approx(top[:, 1, 2].sum() / bottom.sum())
    assert found.low[1, 2] == pytest.approx(plain.confidence_interval.low)
    assert found.high[1, 2] == pytest.approx(plain.confidence_interval.high)
    assert (found.n == 20).all()


def test_intervals_where_there_is_little():
    top = np.array([[1.0, 0.1, np.nan, 2.0], [1.0, 0.1, np.nan, np.nan], [2.0, 0.1, np.nan, np.nan]])
    found = ratio_of_sums(top, np.ones(3), np.arange(3))
    np.testing.assert_allclose(found.mean, [4 / 3, 0.1, np.nan, 2])
    assert found.low[0] < 4 / 3 < found.high[0]
    np.testing.assert_allclose([found.low[1], found.high[1]], 0.1)
    assert np.isnan([found.low[2:], found.high[2:]]).all()
    assert found.n.tolist() == [3, 3, 0, 1]


def test_pairs_that_share_images_are_one_observation():
    """Each pair twice is no more evidence than once: same interval by cluster, a narrower one without."""
    top = np.random.default_rng(0).normal(size=(12, 4))
    twice, clusters = np.tile(top, (2, 1)), np.tile(np.arange(12), 2)
    once, both = ratio_of_sums(top, np.ones(12), np.arange(12)), ratio_of_sums(twice, np.ones(24), clusters)
    np.testing.assert_allclose(both.low, once.low)
    np.testing.assert_allclose(both.high, once.high)
    apart = ratio_of_sums(twice, np.ones(24), np.arange(24))
    assert (apart.high - apart.low < 0.85 * (once.high - once.low)).all()
