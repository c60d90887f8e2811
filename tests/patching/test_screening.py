"""Screening: what it picks and verifies, what it says was missed, and what it names in planted circuits."""

import math

import numpy as np
import pytest
import xarray as xr

from notice_lens.pairs import MinimalPairs, mini_world
from notice_lens.patching import Site, attribute, screen, sweep
from planted import COPIED, READ, Gate, light_and_dark, planted

DIRECTIONS = pytest.mark.parametrize("direction", ["denoise", "noise"])
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def pairs() -> MinimalPairs:
    return mini_world("states", 3, seed=1)


@pytest.fixture(scope="module")
def site(mini) -> Site:
    return Site.of(mini, "text.cross_attn", layers=[1, 2])


@pytest.fixture(scope="module")
def exact(mini, pairs, site) -> xr.Dataset:
    return sweep(mini, pairs, site, controls=(), **QUIET)


def named(found):
    """Labels of the cells that matter."""
    cells = found.matters.stack(cell=found.matters.dims)
    return {tuple(label) for label in cells.cell.values[cells.values]}


def test_it_verifies_the_largest_estimates_and_a_sample_of_the_others(mini, pairs, site, exact):
    found = screen(mini, pairs, site, share=0.1, sample=20, **QUIET)
    assert found.exact.dims == exact.logit_diff_change.dims
    n_cells = found.picked.size
    assert found.attrs["cells"] == n_cells
    assert int(found.picked.sum()) == math.ceil(0.1 * n_cells)
    assert int(found.sampled.sum()) == 20
    assert not (found.picked & found.sampled).any()
    assert (found.verified == (found.picked | found.sampled)).all()
    verified = np.broadcast_to(found.verified, found.exact.shape)
    assert (np.isnan(found.exact.values) == ~verified | np.isnan(exact.logit_diff_change.values)).all()
    np.testing.assert_allclose(found.exact, exact.logit_diff_change.where(found.verified), atol=1e-5)
    estimate = attribute(mini, pairs, site, **QUIET)[site.name].logit_diff_change
    np.testing.assert_allclose(found.estimate, estimate, atol=1e-6)
    size = abs(found.estimate).mean("pair")
    assert size.values[found.picked].min() >= size.values[~found.picked].max()


def test_what_was_missed_is_counted_as_it_is(mini, pairs, site, exact):
    """With all cells verified, the counts are those of the full sweep; a part of them gives an interval around it."""
    options = {"share": 0.05, "threshold": 0.004, **QUIET}
    gap = abs(exact.logit_diff_clean - exact.logit_diff_corrupt).mean()
    large = abs(exact.logit_diff_change).mean("pair") >= 0.004 * gap
    everything = screen(mini, pairs, site, sample=10**6, **options)
    assert (everything.matters.values == large.values).all()
    rejected = ~everything.picked
    true_share = float(large.where(rejected).mean())
    assert 0 < true_share < 1
    assert everything.attrs["missed_share"] == pytest.approx(true_share)
    assert everything.attrs["missed_low"] == everything.attrs["missed_high"] == everything.attrs["missed_share"]
    assert f"all {int(rejected.sum())} others were verified too" in everything.attrs["missed"]
    some = screen(mini, pairs, site, sample=25, **options)
    hits, at = round(some.attrs["missed_share"] * 25), some.attrs
    assert hits == int((some.sampled & large).sum())
    assert at["missed_low"] < at["missed_share"] < at["missed_high"]
    # Clopper and Pearson's bounds, by their definition: either tail of the binomial is 2.5 %.
    tail = sum(math.comb(25, n) * at["missed_high"] ** n * (1 - at["missed_high"]) ** (25 - n) for n in range(hits + 1))
    assert tail == pytest.approx(0.025, rel=1e-4)
    head = sum(math.comb(25, n) * at["missed_low"] ** n * (1 - at["missed_low"]) ** (25 - n) for n in range(hits))
    assert head == pytest.approx(0.975, rel=1e-4)
    assert f"25 of the {int(rejected.sum())} others were verified: {hits} of these move" in at["missed"]
    assert "with 95% confidence" in at["missed"]


def test_without_a_sample_nothing_is_known(mini, pairs, site):
    found = screen(mini, pairs, site, share=0.02, sample=0, **QUIET)
    assert np.isnan(found.attrs["missed_share"])
    assert found.attrs["missed"].endswith("what was missed is not known")
    few = Site.of(mini, "text.cross_attn", layers=2, heads=[1, 2], positions="all")
    everything = screen(mini, pairs, few, share=1, **QUIET)
    assert everything.attrs["missed"] == "2 of 2 cells were picked, all of them: nothing was left out"
    assert everything.attrs["missed_high"] == 0


def test_the_seed_draws_the_sample(mini, pairs, site):
    one, same, other = (
        screen(mini, pairs[:1], site, sample=5, share=0.01, seed=seed, **QUIET).sampled for seed in (0, 0, 1)
    )
    assert (one == same).all()
    assert (one != other).any()


def test_a_store_is_gone_on_with(mini, pairs, site, tmp_path, batches):
    options = {"share": 0.02, "sample": 3, "store": tmp_path / "s", **QUIET}
    first = screen(mini, pairs, site, **options)
    batches.refuse()
    xr.testing.assert_identical(screen(mini, pairs, site, **options), first)
    with pytest.raises(ValueError, match="direction"):
        screen(mini, pairs, site, direction="noise", **options)


# Planted circuits


@DIRECTIONS
def test_two_heads_in_series(direction):
    """A cross-attention head writes, a self-attention head reads that at one word and writes where the decoder is."""
    model = planted({(0, 1): 0}, {1: 1.0}, copies={(1, 2): (0, 1)})
    sites = [Site.of(model, name, positions="each") for name in ("text.cross_attn", "text.attn")]
    found = screen(model, light_and_dark(), sites, share=0.1, direction=direction, **QUIET)
    assert named(found) == {("text.cross_attn.hook_z", 0, 1, COPIED), ("text.attn.hook_z", 1, 2, READ)}
    assert (found.picked | ~found.matters).all()
    assert found.attrs["missed_share"] == 0
    gap = found.logit_diff_clean - found.logit_diff_corrupt
    carried = found.exact.where(found.matters).stack(cell=found.matters.dims).dropna("cell")
    np.testing.assert_allclose(abs(carried) / abs(gap), 1, atol=1e-9)


@pytest.mark.parametrize(
    ("either", "direction", "heads"),
    [
        (False, "noise", {(0, 1), (1, 1)}),
        (False, "denoise", set()),
        (True, "denoise", {(0, 1), (1, 1)}),
        (True, "noise", set()),
    ],
    ids=["and, noise", "and, denoise", "or, denoise", "or, noise"],
)
def test_an_and_pair_and_an_or_pair(either, direction, heads):
    """Each head of an AND is necessary and not sufficient; of an OR, sufficient and not necessary."""
    model = planted({(0, 1): 0, (1, 1): 1}, {2: 1.0}, [Gate(2, (0, 1), either)])
    found = screen(
        model,
        light_and_dark(),
        Site.of(model, "text.cross_attn", positions="all"),
        share=0.4,
        direction=direction,
        **QUIET,
    )
    assert named(found) == heads
    assert found.attrs["missed_share"] == 0


BACKUP = {"writes": {(0, 1): 0, (1, 2): 1}, "reads": {0: 1.0, 2: 1.0}, "gates": [Gate(2, (0, 1), signs=(-1, 1))]}


def test_a_backup_head_covers_for_the_first():
    """It speaks when the first is silent: neither is necessary. The gradient does not see that; the patch does."""
    model = planted(**BACKUP)
    site = Site.of(model, "text.cross_attn", positions="all")
    found = screen(model, light_and_dark(), site, share=0.2, direction="noise", **QUIET)
    gap = abs(found.logit_diff_clean - found.logit_diff_corrupt)
    assert found.picked.sel(layer=0, head=1)
    assert (abs(found.estimate.sel(layer=0, head=1)) > 0.5 * gap).all()
    assert (abs(found.exact.sel(layer=0, head=1)) < 1e-9 * gap).all()
    assert named(found) == set()


def test_a_backup_head_that_is_silent_has_no_gradient():
    """Either is sufficient. The gate of the backup is shut at the base run: only the sample finds it, and says so."""
    model = planted(**BACKUP)
    site = Site.of(model, "text.cross_attn", positions="all")
    found = screen(model, light_and_dark(), site, share=0.1, sample=100, **QUIET)
    assert named(found) == {(0, 1), (1, 2)}
    assert found.picked.sel(layer=0, head=1)
    assert found.sampled.sel(layer=1, head=2)
    assert found.attrs["missed_share"] == pytest.approx(1 / 5)
    assert "all 5 others were verified too: 1 of them move" in found.attrs["missed"]


# Messages

MESSAGES = [
    ({"share": 0}, ValueError, "share=0: expected the share of cells to pick, above 0 and 1 at most"),
    ({"share": True}, ValueError, "share=True: expected the share of cells to pick"),
    ({"sample": -1}, ValueError, "sample=-1: expected a number of rejected cells to verify, 0 or more"),
    ({"threshold": float("nan")}, ValueError, "threshold=nan: expected a share of the gap, 0 or more"),
    ({"confidence": 95}, ValueError, "confidence=95: expected a number between 0 and 1"),
    ({"source": "zero"}, TypeError, "source is not an option of attribution"),
    ({"metrics": "kl"}, TypeError, "metrics is not an option of attribution"),
    ({"sampel": 3}, TypeError, "no option 'sampel'"),
    ({"sites": ["text.attn", "text.mlp_out"]}, ValueError, "sites of one sweep share their dimensions"),
    ({"sites": []}, ValueError, "no sites given"),
]


@pytest.mark.parametrize(("given", "error", "message"), MESSAGES, ids=[str(given[0]) for given in MESSAGES])
def test_messages(mini, pairs, given, error, message, unchecked):
    with pytest.raises(error) as found:
        screen(mini, pairs, **{**given, **QUIET})
    assert str(found.value).startswith(message)
