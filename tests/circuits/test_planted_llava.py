"""A LLaVA planted by hand, and what the public verbs say of it: image head, mover, backup, negative head.

In shares of the gap, with the backup's half and the negative head's fifth: what the mover writes is 1 / (1 - 1/5) = 5/4
straight away, and the negative head takes a quarter off again. Without the mover half is left.
"""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from notice_lens import HookedVLM, circuits, patching
from notice_lens.circuits.functions.verdicts import SEGMENTATION
from planted_llava import (
    BACKUP,
    BYSTANDERS,
    IMAGE_HEAD,
    LOGITS,
    MOVER,
    N_HEADS,
    N_LAYERS,
    NEGATIVE,
    STANDS_IN,
    TAKES_OFF,
    attribute_pairs,
    planted_llava,
)

EXACT = 2e-6
QUIET: Any = {"progress": False}
ALONE = {"controls": (), **QUIET}
STRAIGHT = 1 / (1 - TAKES_OFF)
OFF = TAKES_OFF * STRAIGHT
GAP = LOGITS * (1 - TAKES_OFF)


def name(head: tuple[int, int]) -> str:
    return f"language.attn.L{head[0]}.H{head[1]}"


IMAGE, MOVES, STANDBY, AGAINST, IDLE = map(name, (IMAGE_HEAD, MOVER, BACKUP, NEGATIVE, BYSTANDERS[2]))


@pytest.fixture(scope="module")
def model() -> HookedVLM:
    return planted_llava()


def heads(effects: xr.Dataset) -> dict[tuple[int, int], float]:
    """The heads that do something, by their share of the gap, the same in every pair; all others do nothing."""
    share = effects.patching_effect.squeeze(drop=True)
    by_pair = share.transpose("pair", "layer", "head").values
    np.testing.assert_allclose(by_pair, np.broadcast_to(by_pair[:1], by_pair.shape), atol=EXACT)
    mean = by_pair.mean(0)
    assert mean.shape == (N_LAYERS, N_HEADS)
    assert (abs(mean[abs(mean) < 0.01]) < EXACT).all()
    return {(int(layer), int(head)): float(mean[layer, head]) for layer, head in np.argwhere(abs(mean) >= 0.01)}


def paths(found: xr.Dataset) -> dict[tuple, float]:
    """Paths that carry something, by their labels; all others carry nothing."""
    share = found.patching_effect.mean("pair")
    cells = share.stack(path=share.dims).dropna("path")
    large = abs(cells.values) >= 0.01
    assert (abs(cells.values[~large]) < EXACT).all()
    return dict(zip(map(tuple, cells.path.values[large]), cells.values[large].tolist(), strict=True))


def test_every_answer_is_right_and_its_gap_is_the_built_one(model: HookedVLM) -> None:
    swept = patching.patch_heads(model, attribute_pairs(6, answers=("red", "green")), metrics="accuracy", **QUIET)
    assert (swept.accuracy_clean == 1).all()
    assert (swept.accuracy_corrupt == 0).all()
    np.testing.assert_allclose(swept.logit_diff_clean, GAP / 2, atol=EXACT)
    np.testing.assert_allclose(swept.logit_diff_corrupt, -GAP / 2, atol=EXACT)


def test_heads_at_the_last_position(model: HookedVLM) -> None:
    """The mover restores all, and half is lost without it, since the backup stands in, which alone does nothing."""
    pairs = attribute_pairs()
    restored, lost = (patching.patch_heads(model, pairs, direction=one, **QUIET) for one in ("denoise", "noise"))
    assert heads(restored) == pytest.approx({MOVER: 1, NEGATIVE: -OFF}, abs=EXACT)
    assert heads(lost) == pytest.approx({MOVER: 1 - STANDS_IN, NEGATIVE: -OFF}, abs=EXACT)
    # The donor has no attribute either: another picture without it brings nothing back.
    np.testing.assert_allclose(restored.logit_diff_change_mismatched, 0, atol=EXACT)


def test_where_the_corrupted_picture_has_the_attribute_both_directions_change_places(model: HookedVLM) -> None:
    """Patches that take the attribute away leave the backup something to say; those that bring it do not."""
    pairs = attribute_pairs(answers=("green",))
    restored, lost = (patching.patch_heads(model, pairs, direction=one, **ALONE) for one in ("denoise", "noise"))
    assert heads(restored) == pytest.approx({MOVER: 1 - STANDS_IN, NEGATIVE: -OFF}, abs=EXACT)
    assert heads(lost) == pytest.approx({MOVER: 1, NEGATIVE: -OFF}, abs=EXACT)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_heads_in_the_image(model: HookedVLM, direction: Any) -> None:
    """The image head writes the attribute at the object, and nobody reads what it or others write elsewhere."""
    swept = patching.patch_heads(model, attribute_pairs(), positions="regions", direction=direction, **ALONE)
    assert heads(swept.sel(region="object")) == pytest.approx({IMAGE_HEAD: 1}, abs=EXACT)
    assert heads(swept.sel(region="aside")) == {}


def test_the_backup_stands_in_for_an_ablated_mover(model: HookedVLM) -> None:
    groups = {"mover": [MOVES], "backup": [STANDBY], "both": [MOVES, STANDBY], "negative": [AGAINST]}
    lost = patching.ablate(model, attribute_pairs(), joint=groups, value="zero", **QUIET)
    expected = GAP * np.array([-(1 - STANDS_IN), 0, -1, OFF])
    np.testing.assert_allclose(lost.change_mean, expected, atol=4 * EXACT)
    alone = patching.ablate(planted_llava(backup=False), attribute_pairs(), joint=groups, value="zero", **QUIET)
    np.testing.assert_allclose(alone.change_mean, GAP * np.array([-1, 0, -1, OFF]), atol=4 * EXACT)


def test_the_backup_stands_in_for_a_mover_that_cannot_see_the_image(model: HookedVLM) -> None:
    """Knocked out of one layer, then of two that follow each other: the last token's look at the image."""
    one = patching.knockout(model, attribute_pairs(), "image -> last", window=1, heads="each", **QUIET)
    change = one.logit_diff_change.mean("pair").squeeze(drop=True).transpose("layer", "head").values
    expected = np.zeros((N_LAYERS, N_HEADS))
    expected[MOVER] = -GAP * (1 - STANDS_IN)
    np.testing.assert_allclose(change, expected, atol=4 * EXACT)
    two = patching.knockout(model, attribute_pairs(), "image -> last", window=2, layers=[2], **QUIET)
    np.testing.assert_allclose(two.logit_diff_change, -GAP, atol=4 * EXACT)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_paths(model: HookedVLM, direction: str) -> None:
    """Values carry the attribute. What the mover says is read by the backup's query and the negative head's values.

    In the corrupted run the mover is silent, so the backup looks at the object, and hears what the image head tells it.
    In the clean run it does not look there, until a path tells its query that the mover is silent: then it brings half.
    """
    denoise, options = direction == "denoise", {"positions": "all", "direction": direction, **ALONE}

    def named(receiver: str) -> dict[tuple, float]:
        return paths(patching.patch_paths(model, attribute_pairs(), "language.attn", receiver, **options))

    to_values = {(*IMAGE_HEAD, *MOVER): 1 if denoise else 1 - STANDS_IN, (*MOVER, *NEGATIVE): -OFF}
    if denoise:
        to_values[*IMAGE_HEAD, *BACKUP] = STANDS_IN
    assert named("language.attn.v") == pytest.approx(to_values, abs=EXACT)
    to_queries = {} if denoise else {(*MOVER, *BACKUP): -STANDS_IN}
    assert named("language.attn.q") == pytest.approx(to_queries, abs=EXACT)
    assert named("language.attn.k") == {}
    assert named("language.mlp.pre") == {}
    assert named("logits") == pytest.approx({MOVER: STRAIGHT, NEGATIVE: -OFF}, abs=EXACT)


def test_a_path_starts_where_its_sender_writes(model: HookedVLM) -> None:
    """The image head tells the mover at the object, and nowhere else."""
    options = {"sender_layers": IMAGE_HEAD[0], "receiver_layers": MOVER[0], **ALONE}
    found = paths(
        patching.patch_paths(
            model, attribute_pairs(), "language.attn", "language.attn.v", positions="regions", **options
        )
    )
    assert found == pytest.approx({(*IMAGE_HEAD, "object", *MOVER): 1}, abs=EXACT)


def test_a_mover_that_finds_the_attribute_by_its_keys_is_told_by_its_keys() -> None:
    """Planted: it looks at what has the attribute, and copies that it sees an image token at all."""
    model, options = planted_llava(mover_reads_by="k"), {"positions": "all", "receiver_layers": MOVER[0], **ALONE}
    for receiver, expected in (("k", {(*IMAGE_HEAD, *MOVER): 1}), ("v", {}), ("q", {})):
        found = patching.patch_paths(model, attribute_pairs(), "language.attn", f"language.attn.{receiver}", **options)
        assert paths(found) == pytest.approx(expected, abs=EXACT)


def test_the_graph(model: HookedVLM) -> None:
    """All edges of the four heads and a bystander; every other of the many that are measured is nothing."""
    graph = circuits.circuit_graph(model, attribute_pairs(), [AGAINST, IDLE, STANDBY, MOVES, IMAGE], **QUIET)
    assert {*graph.attrs["regions"]} == {"object", "aside"}
    ends = zip(*(graph[end].values.tolist() for end in ("source", "target", "via")), strict=True)
    found = {
        edge: effect for edge, effect in zip(ends, graph.effect.values.tolist(), strict=True) if abs(effect) > EXACT
    }
    assert found == pytest.approx({
        ("object", IMAGE, "v"): 1, ("object", MOVES, "v"): 1, ("object", STANDBY, "v"): STANDS_IN,
        ("last", AGAINST, "v"): -OFF, (IMAGE, MOVES, "v"): 1, (IMAGE, STANDBY, "v"): STANDS_IN,
        (MOVES, AGAINST, "v"): -OFF, (MOVES, "answer", ""): STRAIGHT, (AGAINST, "answer", ""): -OFF,
    }, abs=EXACT)  # fmt: skip
    assert graph.sizes["edge"] > 50


@pytest.mark.parametrize(
    ("positions", "share", "backup", "circuit", "completeness"),
    [
        ("all", 0.8, True, [IMAGE], 1),
        (["last"], 0.8, True, [MOVES, STANDBY], 1),
        (["last"], 0.4, True, [MOVES], 1 - STANDS_IN),
        (["last"], 0.8, False, [MOVES], 1),
    ],
    ids=["everywhere", "at last", "at last, half is enough", "at last, without a backup"],
)
def test_the_minimal_circuit(
    positions: Any, share: float, backup: bool, circuit: list[str], completeness: float
) -> None:
    """At the last position the mover and, since half is left without it, its backup. Everywhere all is in one head.

    The image head alone is sufficient and necessary, as everything after it follows from what it writes. The negative
    head restores less than nothing, and what it takes off follows from the others.
    """
    options = {"positions": positions, "share": share, "n_resamples": 2, "n_random": 2, **QUIET}
    found = circuits.minimal_circuit(planted_llava(backup=backup), attribute_pairs(8), **options)
    assert found.attrs["circuit"] == circuit
    np.testing.assert_allclose([found.faithfulness, found.completeness], [1, completeness], atol=EXACT)
    np.testing.assert_array_equal(found.stability, found.in_circuit)


def test_the_restoration_curve(model: HookedVLM) -> None:
    """One head restores all; half of the answer is lost with it, and all as soon as the backup is among the heads."""
    curve = circuits.restoration_curve(model, attribute_pairs(8), positions=["last"], n_random=0, **QUIET)
    sizes = curve["size"].values
    for half, order in enumerate(curve.order.values.tolist()):
        assert (order[0], order.index(AGAINST)) == (MOVES, N_LAYERS * N_HEADS - 1)
        there = curve.scored_in.values == half
        share = (curve.change / curve.gap).sel(pair=there).transpose("direction", "size", "pair")
        restored, lost = (share.sel(direction=one) for one in ("denoise", "noise"))
        np.testing.assert_allclose(restored, np.broadcast_to(sizes[:, None] > 0, restored.shape), atol=EXACT)
        expected = np.select([sizes > order.index(STANDBY), sizes > 0], [1, 1 - STANDS_IN], 0)
        np.testing.assert_allclose(lost, np.broadcast_to(expected[:, None], lost.shape), atol=EXACT)
    np.testing.assert_allclose(curve.mismatched, 0, atol=EXACT)


def test_what_heads_do_together(model: HookedVLM) -> None:
    """Every two of the four, and of a bystander: one reads the other, stands in for it, or works against it."""
    some = [IMAGE, MOVES, STANDBY, AGAINST, IDLE]
    found = circuits.interactions(patching.pairs_of_heads(model, attribute_pairs(16), some, **QUIET))
    couples = zip(found["first"].values.tolist(), found["second"].values.tolist(), strict=True)
    named = dict(zip(couples, zip(found.kind.values, found.about.values, strict=True), strict=True))
    assert named == {
        (IMAGE, MOVES): ("series", ""), (MOVES, STANDBY): ("backup", STANDBY), (STANDBY, IDLE): ("nothing", ""),
        (IMAGE, AGAINST): ("negative", AGAINST), (MOVES, AGAINST): ("negative", AGAINST),
        (IMAGE, STANDBY): ("single", IMAGE), (IMAGE, IDLE): ("single", IMAGE), (MOVES, IDLE): ("single", MOVES),
        (STANDBY, AGAINST): ("single", AGAINST), (AGAINST, IDLE): ("single", AGAINST),
    }  # fmt: skip
    together = found.isel(pair_of_heads=[couple == (MOVES, STANDBY) for couple in named].index(True))
    np.testing.assert_allclose(together.joint, [1, 1], atol=EXACT)
    np.testing.assert_allclose(together.interaction, [0, STANDS_IN], atol=EXACT)


@pytest.mark.parametrize(
    ("answers", "ablation", "label"),
    [(("red",), "zero", SEGMENTATION), (("red", "green"), "mean", SEGMENTATION), (("red",), "mean", "")],
    ids=["zero", "mean of both answers", "mean of one answer"],
)
def test_labels(model: HookedVLM, answers: tuple[str, ...], ablation: Any, label: str) -> None:
    """The mover looks at the object and the answer loses without that; nobody else does both.

    From the last position the image head and the idle backup rest on `<s>`, the negative head looks at itself, and
    bystanders look everywhere. Where all answers are the same, the mean is what the mover writes, and costs nothing.
    """
    pairs, candidates = attribute_pairs(24, answers=answers), [IMAGE_HEAD, MOVER, BACKUP, NEGATIVE, *BYSTANDERS]
    functions = circuits.head_functions(model, pairs, roles="last", maps="attention", **QUIET)
    options = {"ablation": ablation, "n_resamples": 199, **QUIET}
    labels = circuits.label_heads(model, pairs, functions, candidates, **options)
    mover = candidates.index(MOVER)
    assert labels.label.values.tolist() == [label if number == mover else "" for number in range(len(candidates))]
    verdicts = labels.verdict.sel(kind=SEGMENTATION).values
    assert verdicts[mover] == ("given" if label else "what it predicts fails: ablation (p = 1)")
    assert all(one.startswith("its attention does not show it: ") for one in np.delete(verdicts, mover))
    of_mover = labels.sel(kind=SEGMENTATION).isel(candidate=mover)
    assert (of_mover.role, of_mover.region) == ("last", "object")
    # A quarter of the image has all of its attention; the answer is lost in pairs whose picture has the attribute.
    np.testing.assert_allclose(of_mover.attention_ratio, 4, atol=EXACT)
    np.testing.assert_allclose(of_mover.cut_inside, -GAP * (1 - STANDS_IN) / len(answers), atol=4 * EXACT)
    np.testing.assert_allclose(of_mover.cut_outside, 0, atol=EXACT)
    of_bystander = labels.sel(kind=SEGMENTATION).isel(candidate=candidates.index(BYSTANDERS[0]))
    np.testing.assert_allclose(of_bystander.attention_ratio, 1, atol=EXACT)


def test_attribution_sees_the_mover_and_not_its_backup(model: HookedVLM) -> None:
    """Along the tangent all is lost with the mover: what the backup's softmax does of it is no first-order effect.

    The backup's own query, with the softmax computed again, is told of the silence: it brings half.
    """
    pairs, options = attribute_pairs(), {"direction": "noise", **QUIET}
    found = patching.attribute(model, pairs, ["language.attn.z", "language.attn.q"], **options)
    assert heads(found["language.attn.z"].to_dataset()) == pytest.approx({MOVER: 1, NEGATIVE: -OFF}, abs=EXACT)
    assert heads(found["language.attn.q"].to_dataset()) == pytest.approx({BACKUP: -STANDS_IN}, abs=EXACT)
    exact = patching.sweep(model, pairs, "language.attn.q", controls=(), **options)
    assert heads(exact) == pytest.approx({BACKUP: -STANDS_IN}, abs=EXACT)
    tangent = patching.attribute(model, pairs, "language.attn.q", attention_correction=False, **options)
    assert heads(tangent["language.attn.q"].to_dataset()) == {}
