"""In which layers: shares by hand, the middle, and its permutations counted."""

from math import comb

import numpy as np
import pytest

from notice_lens.circuits import layer_profile
from notice_lens.circuits.layers import in_the_middle, layer_shares, permuted_layers
from notice_lens.stats.synthetic import synthetic_effects

RNG = np.random.default_rng(0)


def test_shares_by_hand() -> None:
    np.testing.assert_allclose(layer_shares(np.array([[0.1, -0.3], [0.0, 0.4], [0.2, 0.0]])), [0.4, 0.4, 0.2])
    assert np.isnan(layer_shares(np.zeros((2, 3)))).all()


@pytest.mark.parametrize(
    ("layers", "middle"), [(1, [0]), (2, []), (3, [1]), (4, [1, 2]), (6, [2, 3]), (7, [2, 3, 4]), (12, [4, 5, 6, 7])]
)
def test_the_middle_third(layers: int, middle: list[int]) -> None:
    assert np.flatnonzero(in_the_middle(layers)).tolist() == middle


def test_choices_of_layers_are_counted() -> None:
    share = np.array([0.05, 0.6, 0.35])
    assert permuted_layers(share, in_the_middle(3), RNG) == pytest.approx(1 / 3)
    assert permuted_layers(share[[1, 0, 2]], in_the_middle(3), RNG) == 1
    twelve = np.where(in_the_middle(12), 0.2, 0.025)
    assert permuted_layers(twelve, in_the_middle(12), RNG) == pytest.approx(1 / comb(12, 4))
    assert permuted_layers(np.full(12, 1 / 12), in_the_middle(12), RNG) == 1
    assert np.isnan(permuted_layers(np.array([0.5, 0.5]), in_the_middle(2), RNG))


def test_more_choices_than_can_be_counted_are_drawn() -> None:
    share = np.arange(30) / np.arange(30).sum()
    middle = in_the_middle(30)
    # In the middle of a ramp the sum is the mean of all choices.
    assert permuted_layers(share, middle, RNG) == pytest.approx(0.5, abs=0.02)


def test_the_profile_of_middle_layers() -> None:
    truth = np.zeros((6, 4))
    truth[2:4] = 0.2
    profile = layer_profile(synthetic_effects(truth, 60, spread=0.02), role=None, n_bootstrap=300)
    assert profile.share.sum() == pytest.approx(1)
    assert profile.middle_share > 0.9
    assert profile.middle_low <= profile.middle_share <= profile.middle_high
    assert profile.middle_p == pytest.approx(1 / comb(6, 2))
    assert profile.centre_low <= 2.5 <= profile.centre_high
    assert (profile.low <= profile.share).all()
    assert (profile.share <= profile.high).all()
    np.testing.assert_array_equal(profile.layer, range(6))


def test_intervals_hold_the_share() -> None:
    truth, held = np.array([[0.1, 0.05], [0.3, -0.2], [0.05, 0.1]]), 0
    shares = layer_shares(truth)
    for seed in range(25):
        made = synthetic_effects(truth, 50, spread=0.1, seed=seed)
        profile = layer_profile(made, role=None, n_bootstrap=200)
        held += ((profile.low <= shares) & (shares <= profile.high)).values.sum()
    assert held / 75 >= 0.85


def test_two_way_clusters() -> None:
    made = synthetic_effects(np.full((3, 2), 0.1), 60)
    made = made.assign_coords(noun=("pair", [str(number % 20) for number in range(60)]))
    profile = layer_profile(made, role=None, n_bootstrap=100, cluster=("pair", "noun"))
    assert profile.low.notnull().all()
    assert profile.attrs["clusters"] == 20
