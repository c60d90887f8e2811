"""Sign flips and intervals, against SciPy's permutation test and the normal distribution."""

import numpy as np
import pytest
from scipy.stats import permutation_test

from notice_lens.stats.mean_tests import MeanTests, flip_p, interval


def test_flips_are_those_of_scipy():
    values = np.random.default_rng(0).normal(0.5, 1, (3, 11))
    values[2] *= -1
    found = flip_p(values, np.arange(11), 40000, np.random.default_rng(1))
    both = flip_p(values, np.arange(11), 40000, np.random.default_rng(1), two_sided=True)
    for row, p, two in zip(values, found, both, strict=True):
        settings = {"permutation_type": "samples", "n_resamples": np.inf}
        one_sided = permutation_test((row,), np.mean, alternative="greater", **settings).pvalue
        assert p == pytest.approx(one_sided, abs=0.01)
        expected = permutation_test((row,), lambda x: abs(np.mean(x)), alternative="greater", **settings).pvalue
        assert two == pytest.approx(expected, abs=0.01)


def test_clusters_flip_as_one():
    once = np.random.default_rng(3).normal(1.0, 1, 12)
    twice = np.repeat(once, 2)[None]
    together = flip_p(twice, np.repeat(np.arange(12), 2), 9999, np.random.default_rng(0))
    assert together == pytest.approx(flip_p(once[None], np.arange(12), 9999, np.random.default_rng(0)))
    assert flip_p(twice, np.arange(24), 9999, np.random.default_rng(0)) < together / 2


def test_the_smallest_p_is_that_of_the_flips():
    assert flip_p(np.ones((1, 40)), np.arange(40), 99, np.random.default_rng(0)) == pytest.approx(0.01)
    assert flip_p(np.zeros((1, 40)), np.arange(40), 99, np.random.default_rng(0)) == pytest.approx(1)


def test_intervals_are_about_those_of_the_normal_distribution():
    values = np.random.default_rng(4).normal(1, 2, 200)
    low, high = interval(values, np.arange(200), 1999, np.random.default_rng(0))
    half = 1.96 * values.std() / np.sqrt(200)
    assert low == pytest.approx(values.mean() - half, abs=0.04)
    assert high == pytest.approx(values.mean() + half, abs=0.04)
    wide = interval(np.repeat(values, 3), np.repeat(np.arange(200), 3), 1999, np.random.default_rng(0))
    assert wide[1] - wide[0] == pytest.approx(high - low, rel=0.05)
    assert interval(np.full(20, 2.5), np.arange(20), 99, np.random.default_rng(0)) == (2.5, 2.5)


def test_intervals_hold_the_mean_of_skewed_clusters():
    rng, held = np.random.default_rng(5), 0
    labels = np.arange(120) % 50
    for _ in range(150):
        shared = rng.lognormal(0, 0.7, 50)[labels]
        low, high = interval(shared * rng.lognormal(0, 0.2, 120), labels, 399, rng)
        held += low <= np.exp(0.7**2 / 2 + 0.2**2 / 2) <= high
    assert held / 150 > 0.87


def test_means_take_the_clusters_of_the_pairs_used():
    labels = np.array([7, 7, 3, 3, 5])
    means = MeanTests(labels, 99, 99, np.random.default_rng(0))
    values = np.array([[1.0, 2.0, 4.0]])
    expected = flip_p(values, np.array([0, 1, 1]), 99, np.random.default_rng(0))
    assert means.p(values, np.array([1, 2, 3])) == pytest.approx(expected)
