"""Universal heads: partial conjunctions by hand, and what several conditions must and must not do to the answer."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from notice_lens.circuits import FewClusters, important_heads, universal_heads
from notice_lens.circuits.condition import read_condition
from notice_lens.circuits.evidence import partitions_of
from notice_lens.circuits.important import Rules, examined
from notice_lens.circuits.universal import conjunction, linked_weights, partial_conjunction
from notice_lens.stats.synthetic import synthetic_effects

QUICK: dict[str, Any] = {"role": None, "n_permutations": 999, "n_bootstrap": 100}
nan = float("nan")


def conditions() -> dict[str, xr.Dataset]:
    """Three conditions: (1, 2) and (2, 4) in all, the second with another sign in the last; (0, 0) in two."""
    made = {}
    for number, name in enumerate(("states SMP", "states STR", "faces SMP")):
        truth = np.zeros((3, 6))
        truth[1, 2], truth[2, 4], truth[0, 0] = 0.15, 0.15, 0.15 * (number < 2)
        truth[2, 4] *= -1 if number == 2 else 1
        made[name] = synthetic_effects(truth, 60, spread=0.05, seed=number)
        made[name] = made[name].assign_coords(task=("pair", np.array([name.split()[0]] * 60, object)))
    return made


@pytest.fixture(scope="module")
def every() -> xr.Dataset:
    return universal_heads(conditions(), **QUICK)


def where(values: xr.DataArray) -> list[list[int]]:
    return np.argwhere(values.values).tolist()


def test_partial_conjunctions_by_hand() -> None:
    p = np.array([[0.5, nan], [0.01, 0.2], [0.02, 0.1]])
    np.testing.assert_allclose(partial_conjunction(p, 3), [0.5, nan])
    np.testing.assert_allclose(partial_conjunction(p, 2), [2 * 0.02, 2 * 0.2])
    np.testing.assert_allclose(partial_conjunction(p, 1), [3 * 0.01, 3 * 0.1])
    np.testing.assert_allclose(partial_conjunction(np.array([[0.9], [0.8]]), 1), [1])


def test_heads_of_every_condition(every: xr.Dataset) -> None:
    # (2, 4) is as large in all of them, and argues against the answer in the last.
    assert where(every.universal) == [[1, 2]]
    assert every.same_sign.values[1, 2]
    assert not every.same_sign.values[2, 4]
    assert every["count"].values[[1, 2, 0], [2, 4, 0]].tolist() == [3, 3, 2]
    assert every.selection_frequency.values[[1, 2, 0], [2, 4, 0]].tolist() == [1, 0, 0]
    np.testing.assert_allclose(every.p.values[1, 2], every.p_condition.max("condition").values[1, 2])
    assert every.p.values[2, 4] == 1
    assert every["task"].values.tolist() == ["states", "states", "faces"]
    assert every.attrs["conditions"] == ["states SMP", "states STR", "faces SMP"]
    assert "with the same sign in all 3 conditions" in every.attrs["rule_universal"]


def test_one_sign_is_part_of_the_claim_unless_it_is_turned_off(every: xr.Dataset) -> None:
    either = universal_heads(conditions(), same_sign=False, **QUICK)
    assert where(either.universal) == [[1, 2], [2, 4]]
    np.testing.assert_allclose(either.p, either.p_condition.max("condition"))
    assert (either.p <= every.p).all()
    assert not either.same_sign.values[2, 4]
    assert either.attrs["same_sign"] is False
    # Two of three agree.
    assert where(universal_heads(conditions(), at_least=2, **QUICK).universal) == [[0, 0], [1, 2], [2, 4]]


def test_conjunctions_with_a_sign_by_hand() -> None:
    p = np.array([[0.01, 0.01, -0.01, 0.01], [0.02, -0.02, -0.02, nan], [0.5, 0.03, 0.5, -0.03]])
    np.testing.assert_allclose(conjunction(p, 2, same_sign=True), [2 * 0.02, 2 * 0.03, 2 * 0.02, 1])
    np.testing.assert_allclose(conjunction(p, 3, same_sign=True), [0.5, 1, 1, nan])
    np.testing.assert_allclose(conjunction(p, 3, same_sign=False), [0.5, 0.03, 0.5, nan])


@pytest.mark.parametrize("truth", [(0.0, 0.0), (0.15, -0.15), (0.15, 0.0), (-1e-3, 0.15)])
def test_a_sign_costs_no_error_rate(truth: tuple[float, float]) -> None:
    """A head that is not large with one sign in both conditions is called so by its own p in at most 5 % of runs."""
    wrong, heads = [], 40
    for seed in range(15):
        made = [synthetic_effects(np.full((1, heads), size), 40, skewness=0.0, seed=[seed, condition])
                for condition, size in enumerate(truth)]  # fmt: skip
        found = universal_heads(dict(zip("ab", made, strict=True)), smallest_effect=0.0, role=None,
                                n_permutations=1_000, n_bootstrap=2, n_null=1)  # fmt: skip
        wrong.append((found.p <= 0.05).mean().item())
    assert np.mean(wrong) <= 0.05 + 3 * np.std(wrong) / np.sqrt(len(wrong)) + 1e-3


def test_conditions_say_what_they_say_alone(every: xr.Dataset) -> None:
    alone = important_heads(conditions()["states STR"], **QUICK)
    own = every.sel(condition="states STR")
    for name in ("effect", "low", "high", "significant", "two_sigma", "sign", "rank"):
        np.testing.assert_array_equal(own[name], alone[name])
    np.testing.assert_array_equal(own.p_condition, alone.p)
    np.testing.assert_array_equal(own.q_condition, alone.q)


def test_at_least_k(every: xr.Dataset) -> None:
    two = universal_heads(conditions(), at_least=2, **QUICK)
    assert where(two.universal) == [[0, 0], [1, 2], [2, 4]]
    assert two.same_sign.values[0, 0]
    one = universal_heads(conditions(), at_least=3, **QUICK)
    np.testing.assert_array_equal(one.p, every.p)


def test_the_order_of_conditions_is_irrelevant(every: xr.Dataset) -> None:
    turned = universal_heads(dict(reversed(conditions().items())), **QUICK)
    for name in ("p", "q", "count", "same_sign", "two_sigma_count"):
        np.testing.assert_array_equal(turned[name], every[name])


def test_the_null_permutes_heads_within_layers(every: xr.Dataset) -> None:
    # Two of 18 heads that two layers have in each of three conditions: by chance hardly ever in the same place.
    assert every.null_expected < 0.2
    assert every.null_p < 0.05
    # With all heads of a layer alike the permutation changes nothing.
    truth = np.repeat([[0.2], [0.0]], 4, axis=1)
    alike = {name: synthetic_effects(truth, 40, spread=0.02, seed=seed) for seed, name in enumerate("ab")}
    found = universal_heads(alike, **QUICK)
    assert where(found.universal) == [[0, head] for head in range(4)]
    assert (found.null_expected, found.null_p) == (4, 1)


def test_conditions_of_the_same_pairs_are_resampled_together() -> None:
    read = [read_condition(synthetic_effects(np.zeros((1, 2)), 30, 20), None) for _ in range(2)]
    part = read_condition(read[0].effects.isel(pair=slice(0, 12)), None)
    own = partitions_of([*read, part], "pair")
    rules = Rules(n_bootstrap=7)
    with pytest.warns(FewClusters):
        found = [examined(condition, one, rules) for condition, one in zip((*read, part), own, strict=True)]
    (first,), (second,), (third,) = linked_weights(found, own)
    np.testing.assert_array_equal(first, second)
    # The first twelve pairs' clusters come first.
    np.testing.assert_array_equal(first[:, : third.shape[1]], third)


def test_a_condition_without_p_is_no_evidence() -> None:
    some = conditions()
    some["faces SMP"] = some["faces SMP"].isel(pair=slice(0, 10))
    with pytest.warns(FewClusters, match="10 clusters of pairs in condition 'faces SMP'"):
        found = universal_heads(some, **QUICK)
    assert found.q.isnull().all()
    assert np.isnan(found.null_p)
    assert not found.universal.any()
    with pytest.warns(FewClusters):
        found = universal_heads(some, at_least=2, **QUICK)
    assert where(found.universal) == [[0, 0], [1, 2], [2, 4]]


@pytest.mark.usefixtures("unchecked")
def test_messages() -> None:
    made = conditions()
    with pytest.raises(ValueError, match="universal heads are those of several conditions"):
        universal_heads({"one": made["states SMP"]})
    with pytest.raises(ValueError, match="condition 'states SMP': role 'correct' was given, .* pass role='all'"):
        universal_heads(made, role="correct")
    read_at_noun = {**made, "faces SMP": made["faces SMP"].assign_coords(role="noun")}
    with pytest.raises(ValueError, match="read at several: states SMP at 'all', .*faces SMP at 'noun'"):
        universal_heads(read_at_noun, **QUICK)
    with pytest.raises(
        ValueError, match=r"at_least=4: expected 'all' or a number from 1 to the 3 conditions there are"
    ):
        universal_heads(made, at_least=4, **QUICK)
    with pytest.raises(TypeError, match="no option 'smalest_effect'; did you mean 'smallest_effect'"):
        universal_heads(made, smalest_effect=0.1)
    other = {**made, "faces SMP": made["faces SMP"].isel(head=slice(0, 5))}
    with pytest.raises(ValueError, match="condition 'faces SMP' has other heads than 'states SMP': .* 3 x 5 and 3 x 6"):
        universal_heads(other, **QUICK)
    with pytest.raises(ValueError, match="n_permutations=719 or more can reject"):
        universal_heads(made, at_least=2, **{**QUICK, "n_permutations": 500})
