"""Corruptions compared: rank correlations as scipy's, of the same pairs, and who finds what."""

from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.stats import kendalltau, spearmanr

from notice_lens.circuits import compare_corruptions
from notice_lens.circuits.corruptions import AGREEMENTS
from notice_lens.stats.synthetic import synthetic_effects

QUICK: dict[str, Any] = {"role": None, "n_permutations": 299, "n_bootstrap": 60}


def made() -> dict[str, xr.Dataset]:
    """Pairs find (0, 1) and (1, 3), noise finds (0, 1) and (2, 2)."""
    ramp = np.linspace(-0.01, 0.01, 15).reshape(3, 5)
    by_pairs, by_noise = ramp.copy(), -ramp
    by_pairs[0, 1], by_pairs[1, 3], by_noise[0, 1], by_noise[2, 2] = 0.2, -0.2, 0.2, 0.2
    options = {"pairs": 40, "spread": 0.02}
    noise = synthetic_effects(by_noise, seed=2, **options).assign_attrs(corruption="Noise(scale=3.0)")
    return {
        "SMP": synthetic_effects(by_pairs, seed=0, **options),
        "STR": synthetic_effects(by_pairs, seed=1, **options).assign_attrs(corruption="text"),
        "noise": noise,
    }


@pytest.fixture(scope="module")
def found() -> xr.Dataset:
    return compare_corruptions(made(), **QUICK)


def test_agreement_is_scipys(found: xr.Dataset) -> None:
    for one, other in (("SMP", "STR"), ("SMP", "noise"), ("STR", "noise")):
        x, y = (found.effect.sel(corruption=name).values.ravel() for name in (one, other))
        expected = {
            "spearman": spearmanr(abs(x), abs(y)).statistic,
            "kendall": kendalltau(abs(x), abs(y)).statistic,
            "spearman_signed": spearmanr(x, y).statistic,
            "kendall_signed": kendalltau(x, y).statistic,
        }
        for kind, value in expected.items():
            assert found[kind].sel(corruption=one, other=other).item() == pytest.approx(value)
            assert found[kind].sel(corruption=other, other=one).item() == pytest.approx(value)
    for kind in AGREEMENTS:
        np.testing.assert_array_equal(np.diag(found[kind]), 1)
        assert (found[kind + "_low"] <= found[kind + "_high"]).all()


def test_a_result_agrees_with_itself_and_not_with_its_mirror() -> None:
    one = made()["SMP"]
    mirror = one.assign(logit_diff_change=-one.logit_diff_change)
    table = compare_corruptions({"one": one, "same": one, "mirror": mirror}, **QUICK)
    for kind in AGREEMENTS:
        own, turned = table[kind].sel(corruption="one", other=["same", "mirror"]).values
        assert own == pytest.approx(1)
        assert turned == pytest.approx(-1 if kind.endswith("signed") else 1)
    assert "only_noise" not in table


def test_what_noise_finds_and_pairs_do_not(found: xr.Dataset) -> None:
    assert np.argwhere(found.only_noise.values).tolist() == [[2, 2]]
    assert np.argwhere(found.only_pairs.values).tolist() == [[1, 3]]
    assert found.attrs["noise"] == "noise"
    named = compare_corruptions({"a": made()["noise"], "b": made()["SMP"]}, noise="b", **QUICK)
    assert np.argwhere(named.only_pairs.values).tolist() == [[2, 2]]


def test_only_the_pairs_in_common_count() -> None:
    some = made()
    some["STR"] = some["STR"].isel(pair=slice(None, 10, -1))
    assert compare_corruptions(some, **QUICK).attrs["pairs"] == 29
    some["STR"] = some["STR"].assign_coords(pair=[f"other {number}" for number in range(29)])
    with pytest.raises(ValueError, match=r"no pair in common \(SMP 40, STR 29, noise 40\)"):
        compare_corruptions(some, **QUICK)


def test_ties_are_no_agreement() -> None:
    nothing = synthetic_effects(np.zeros((2, 3)), 20, spread=0.0)
    other = synthetic_effects(np.zeros((2, 3)), 20)
    table = compare_corruptions({"a": nothing, "b": other}, **QUICK)
    assert np.isnan(table.spearman.values[0, 1])
    assert np.isnan(table.kendall_low.values[0, 1])


@pytest.mark.usefixtures("unchecked")
def test_messages() -> None:
    with pytest.raises(ValueError, match="expected effects by name, two or more"):
        compare_corruptions({"SMP": made()["SMP"]}, **QUICK)
    with pytest.raises(ValueError, match="no corruption 'nois'; did you mean 'noise'"):
        compare_corruptions(made(), noise="nois", **QUICK)
    cut = {**made(), "STR": made()["STR"].isel(head=slice(0, 2))}
    with pytest.raises(ValueError, match="the corruptions have other heads"):
        compare_corruptions(cut, **QUICK)
