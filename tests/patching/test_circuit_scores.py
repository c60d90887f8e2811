"""Scores of circuits: what joint ablations give by hand, in planted circuits and in the mini model."""

import doctest

import numpy as np
import pytest
import xarray as xr

from notice_lens.pairs import MinimalPairs, mini_world
from notice_lens.patching import ablate, circuit_scores, faithfulness, run_variants
from notice_lens.patching.nodes import Node, universe_of
from notice_lens.stats.intervals import ratio_of_sums
from planted import Gate, light_and_dark, planted

QUIET = {"progress": False}
CIRCUIT = ["text.cross_attn.L0.H2", ("text.attn", 1, 3), "text.mlp.L2", "text.cross_attn.L2.H5"]


@pytest.fixture(scope="module")
def states() -> MinimalPairs:
    return mini_world("states", 4, seed=1)


def dark() -> MinimalPairs:
    """The planted pairs with their images swapped."""
    pairs = light_and_dark()
    images = [[getattr(pair, f"{which}_image") for pair in pairs] for which in ("corrupt", "clean")]
    return pairs.with_column("clean_image", images[0]).with_column("corrupt_image", images[1])


@pytest.mark.parametrize("value", ["mean", "resample", "zero", "other"])
def test_scores_are_ratios_of_joint_ablations(mini, states, value):
    """The same from groups that are written out here."""
    found = faithfulness(mini, states, CIRCUIT, value=value, seed=2, **QUIET)
    heads = [
        f"text.{module}.L{layer}.H{head}"
        for module in ("attn", "cross_attn")
        for layer in range(3)
        for head in range(8)
    ]
    every = [*heads, *[f"text.mlp.L{layer}" for layer in range(3)]]
    names = ["text.cross_attn.L0.H2", "text.attn.L1.H3", "text.mlp.L2", "text.cross_attn.L2.H5"]
    assert sorted(found.attrs["universe"]) == sorted(every)
    outside = [name for name in every if name not in names]
    groups = {"nothing": every, "circuit": outside, "rest": names, **{name: [*outside, name] for name in names}}
    if value == "other":
        edits = {name: [Node.of(mini, one).edit("other") for one in group] for name, group in groups.items()}
        plain = run_variants(mini, states, edits, direction="noise", controls=(), **QUIET)
        m = plain.logit_diff_clean + plain.logit_diff_change
    else:
        plain = ablate(mini, states, joint=groups, value=value, seed=2, **QUIET)
        m = plain.logit_diff_ablated
    m, full = m.astype(float), plain.logit_diff_clean.astype(float)
    nothing, circuit, rest = (m.sel(variant=name) for name in ("nothing", "circuit", "rest"))
    gap = (full - nothing).sum()
    assert found.faithfulness.item() == pytest.approx(((circuit - nothing).sum() / gap).item(), rel=1e-4)
    assert found.completeness.item() == pytest.approx(((full - rest).sum() / gap).item(), rel=1e-4)
    for name in names:
        dropped = (circuit - m.sel(variant=name)).sum() / gap
        assert found.minimality.sel(node=name).item() == pytest.approx(dropped.item(), rel=1e-3, abs=1e-5)
        np.testing.assert_allclose(found.logit_diff_without.sel(node=name), m.sel(variant=name), rtol=1e-4)
    for name, values in (("full", full), ("ablated", nothing), ("circuit", circuit), ("rest", rest)):
        np.testing.assert_allclose(found[f"logit_diff_{name}"], values, rtol=1e-4, atol=1e-5)
    interval = ratio_of_sums((circuit - nothing).values, (full - nothing).values, np.arange(4), 0.95, seed=2)
    np.testing.assert_allclose([found.faithfulness_low, found.faithfulness_high], interval[1:3], rtol=1e-3)
    assert (found.minimality_low <= found.minimality + 1e-6).all()


def test_the_whole_universe_is_faithful_complete_and_nothing_is_neither(mini, states):
    everything = [node.name for node in universe_of(mini, "text.cross_attn")]
    full = faithfulness(mini, states, everything, universe="text.cross_attn", **QUIET)
    assert full.faithfulness.item() == pytest.approx(1)
    assert full.completeness.item() == pytest.approx(1)
    assert (full.faithfulness_low, full.faithfulness_high) == pytest.approx((1, 1))
    none = faithfulness(mini, states, [], universe=["text.cross_attn"], **QUIET)
    assert none.faithfulness.item() == pytest.approx(0)
    assert none.completeness.item() == pytest.approx(0)
    assert none.minimality.sizes == {"node": 0}


def test_a_gap_that_is_too_small_gives_nan(mini, states):
    found = faithfulness(mini, states, ["text.mlp.L2"], min_gap=1e6, **QUIET)
    assert np.isnan([found.faithfulness, found.completeness, found.faithfulness_low]).all()
    assert found.minimality.isnull().all()


# Planted circuits


def scores(model, circuit, **options):
    return faithfulness(
        model, light_and_dark(), circuit, universe="text", reference=dark(), value="resample", **options, **QUIET
    )


def test_an_and_pair_with_its_gate():
    model = planted({(0, 1): 0, (1, 1): 1}, {2: 1.0}, [Gate(2, (0, 1))])
    heads, gate = ["text.cross_attn.L0.H1", "text.cross_attn.L1.H1"], "text.mlp.L1"
    found = scores(model, [*heads, gate, "text.attn.L0.H0"])
    assert found.faithfulness.item() == pytest.approx(1)
    assert found.completeness.item() == pytest.approx(1)
    np.testing.assert_allclose(found.minimality, [1, 1, 1, 0], atol=1e-9)
    half = scores(model, [heads[0], gate])
    assert half.faithfulness.item() == pytest.approx(0)
    assert half.completeness.item() == pytest.approx(1)


def test_a_backup_head_is_missed_by_leaving_one_out_and_not_by_completeness():
    """Either head alone is faithful with the gate; only what has both is complete, and neither is minimal."""
    model = planted({(0, 1): 0, (1, 2): 1}, {0: 1.0, 2: 1.0}, [Gate(2, (0, 1), signs=(-1, 1))])
    heads = ["text.cross_attn.L0.H1", "text.cross_attn.L1.H2"]
    both = scores(model, heads, confidence=0.9)
    np.testing.assert_allclose([both.faithfulness, both.completeness], 1)
    first = scores(model, heads[:1])
    np.testing.assert_allclose([first.faithfulness, first.completeness], [1, 0], atol=1e-9)
    np.testing.assert_allclose(both.minimality[1], 0, atol=1e-9)


# Names, stores, docs, messages


def test_nodes_by_name(mini):
    assert Node.of(mini, "text.cross_attn.L1.H3") == Node.of(mini, ("text.cross_attn", 1, 3))
    assert Node.of(mini, ("text.mlp", np.int64(2))).name == "text.mlp.L2"
    vision = mini.cfg.vision
    assert len(universe_of(mini, "vision")) == vision.n_layers * (vision.n_heads + 1)
    assert len(universe_of(mini, ["text", "text.attn", "text.attn.L0.H0", ("vision.mlp", 0)])) == 3 * 17 + 1
    assert [node.name for node in universe_of(mini, ("text.mlp", 0))] == ["text.mlp.L0"]


def test_a_store_is_gone_on_with(mini, states, tmp_path, batches):
    options = {"store": tmp_path / "s", **QUIET}
    first = faithfulness(mini, states, CIRCUIT[:2], **options)
    batches.refuse()
    xr.testing.assert_identical(faithfulness(mini, states, CIRCUIT[:2], **options), first)
    with pytest.raises(ValueError, match="sites"):
        faithfulness(mini, states, CIRCUIT[:2], value="zero", **options)


def test_the_example_runs():
    found = doctest.testmod(circuit_scores)
    assert found.failed == 0
    assert found.attempted > 5


ONE = ["text.mlp.L2"]
MESSAGES = [
    (["text.cross_atn.L1.H3"], {}, ValueError, "node 'text.cross_atn.L1.H3': no module 'text.cross_atn'; did you mean "
     "'text.cross_attn'?"),
    (["text.cross_attn.L1.H9"], {}, ValueError, "node 'text.cross_attn.L1.H9': head 9 asked for; text.cross_attn has "
     "heads 0 to 7; the nearest is 'text.cross_attn.L1.H7'"),
    ([("text.mlp", 12)], {}, ValueError, "node ('text.mlp', 12): layer 12 asked for; text.mlp has layers 0 to 2; the "
     "nearest is 'text.mlp.L2'"),
    (["text.mlp.L1.H0"], {}, ValueError, "node 'text.mlp.L1.H0': nodes of text.mlp are written like 'text.mlp.L0'"),
    (["text.attn.L1"], {}, ValueError, "node 'text.attn.L1': nodes of text.attn are written like 'text.attn.L0.H0'"),
    (["vision.cross_attn.L0.H0"], {}, ValueError, "node 'vision.cross_attn.L0.H0': no module 'vision.cross_attn'"),
    (["head 3"], {}, ValueError, "node 'head 3': a head is 'text.cross_attn.L1.H3' or ('text.cross_attn', 1, 3)"),
    ([3], {}, ValueError, "node 3: a head is"),
    (3, {}, TypeError, "circuit is of type int; expected a list of nodes"),
    (["text.mlp.L1", ("text.mlp", 1)], {}, ValueError, "node 'text.mlp.L1' is in the circuit 2 times"),
    ([], {}, ValueError, "circuit is empty; say what to ablate with a universe, such as universe='text'"),
    (ONE, {"universe": "txt"}, ValueError, "universe: no stack or module 'txt'; did you mean 'text'?"),
    (ONE, {"universe": []}, ValueError, "universe is empty; name stacks, modules or nodes, such as 'text'"),
    (ONE, {"universe": "text.attn"}, ValueError, "node 'text.mlp.L2' of the circuit is not in the universe, 24 nodes"),
    (ONE, {"value": "corrupt"}, ValueError, "no value of an ablation 'corrupt'; valid: 'mean', 'resample', 'zero'"),
    (ONE, {"confidence": 0}, ValueError, "confidence=0: expected a number above 0 and below 1"),
    (ONE, {"direction": "noise"}, TypeError, "direction is not an option of faithfulness: it is of logit differences"),
    (ONE, {"metrics": "kl"}, TypeError, "metrics is not an option of faithfulness"),
    (ONE, {"sead": 1}, TypeError, "no option 'sead'; did you mean 'seed'?"),
]  # fmt: skip


@pytest.mark.parametrize(("circuit", "options", "kind", "message"), MESSAGES, ids=[case[3][:40] for case in MESSAGES])
def test_messages(mini, states, circuit, options, kind, message, unchecked):
    with pytest.raises(kind) as caught:
        faithfulness(mini, states, circuit, **QUIET, **options)
    assert str(caught.value).startswith(message)
