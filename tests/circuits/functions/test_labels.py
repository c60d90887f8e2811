"""Labels: planted changes with either sign, cuts against hooks, and the mini model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from known_attention import HEADS, LAYERS, SIDE, attention, boxes
from notice_lens import circuits
from notice_lens.circuits.functions import labels as module
from notice_lens.circuits.functions.knockout import AT_OUTLIERS, Knockout, KnockoutChanges, Knockouts
from notice_lens.circuits.functions.scores import score_maps
from notice_lens.circuits.functions.verdicts import (
    HEAD_LABELS,
    INHIBITION,
    NO_ATTENTION,
    OUTLIERS,
    SEGMENTATION,
    agreements,
)
from notice_lens.models import HookedBLIP
from notice_lens.pairs import MinimalPairs, mini_world
from notice_lens.report.label_rows import label_rows

N = 40
LOOKS, SHUNS, KEEPS_AWAY = (0, 1), (1, 3), (1, 6)


@pytest.fixture(scope="module")
def pairs() -> MinimalPairs:
    return mini_world("states", N, seed=5)


@pytest.fixture(scope="module")
def functions(pairs: MinimalPairs) -> xr.Dataset:
    """Attention in which one head looks at the object, one shuns it, and one shuns outliers."""
    masks, weight = boxes(N, seed=2), attention(N, seed=2)
    norms = np.full(masks.shape, 10.0)
    for pair in range(N):
        place = np.random.default_rng(pair).choice(np.flatnonzero(~masks[pair]))
        norms[pair, place] = 50
        weight[pair, 0, *KEEPS_AWAY, place] *= 1e-3
    weight[:, 0, *LOOKS] = masks / masks.sum(-1, keepdims=True)
    weight[:, 0, *SHUNS] = ~masks / (~masks).sum(-1, keepdims=True)
    scores = score_maps(weight, {"object": masks}, norms).expand_dims(maps=["attention"])
    scores["outlier"] = scores["outlier"].isel(maps=0)
    scores["elsewhere"] = 0 * scores.outlier_mass
    return scores.assign_attrs(site="text.cross_attn.hook_pattern", pairs=pairs.fingerprint)


def planted(layer: int, inside: str) -> KnockoutChanges:
    """What the three heads do as their labels predict it, beside heads that do nothing."""
    rng = np.random.default_rng(layer)
    quiet = 0.02 if inside != AT_OUTLIERS else 0.0002
    changes = KnockoutChanges(*(rng.normal(0, quiet, (N, HEADS)) for _ in range(3)))
    if layer == LOOKS[0]:
        changes.inside[:, LOOKS[1]] -= 0.5
        changes.ablated[:, LOOKS[1]] -= 0.5
    elif inside == AT_OUTLIERS:
        changes.inside[:, KEEPS_AWAY[1]] += 0.01
        changes.ablated[:, KEEPS_AWAY[1]] -= 0.3
    else:
        changes.outside[:, SHUNS[1]] += 0.4
        changes.ablated[:, SHUNS[1]] += 0.4
    return changes


class Planted(Knockouts):
    """A knockouts that finds what was planted, times a sign."""

    gap, sign = 4.0, 1.0

    def __init__(self, *_: Any, **__: Any) -> None:
        """Needs nothing."""

    def changes(self, cuts: Sequence[Knockout]) -> dict[Knockout, KnockoutChanges]:
        return {cut: KnockoutChanges(*(self.sign * own for own in planted(cut.layer, cut.inside))) for cut in cuts}

    def ablated(self, layer: int, head: int, role: str) -> Any:
        return layer, head, role

    def measure(self, variants: Mapping[str, Any]) -> dict[str, Any]:
        return {name: np.full(N, 0.25 * len(places)) for name, places in variants.items()}


CANDIDATES = [LOOKS, SHUNS, KEEPS_AWAY, (0, 0)]


@pytest.fixture
def labelled(mini: HookedBLIP, pairs: MinimalPairs, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Labels of the candidates by a knockouts."""

    def label(functions: xr.Dataset, knockouts: type) -> xr.Dataset:
        monkeypatch.setattr(module, "Knockouts", knockouts)
        return circuits.label_heads(mini, pairs, functions, CANDIDATES)

    return label


def test_labels_are_given_where_the_prediction_holds(functions: xr.Dataset, labelled: Any):
    found = labelled(functions, Planted)
    assert found.label.values.tolist() == [SEGMENTATION, INHIBITION, OUTLIERS, ""]
    first = found.sel(kind=SEGMENTATION).isel(candidate=0)
    assert first.region.item() == "object"
    assert first.role.item() == "role0"
    assert first.cut_inside.item() == pytest.approx(-0.5, abs=0.02)
    assert first.low.sel(test="cut").item() < 0.5 < first.high.sel(test="cut").item()
    assert first.p_causal.item() == first.p.max().item() == pytest.approx(1e-4)
    assert found.sel(kind=OUTLIERS).region[2].item() == ""
    place = {"maps": 0, "role": 0, "layer": KEEPS_AWAY[0], "head": KEEPS_AWAY[1]}
    at, beside = (functions[f"{where}_mass"].isel(place).item() for where in ("outlier", "ordinary"))
    cut = [own[:, KEEPS_AWAY[1]].mean() for own in planted(KEEPS_AWAY[0], AT_OUTLIERS)]
    contrast = found.agreement.sel(kind=OUTLIERS, test="contrast")[2].item()
    assert contrast == pytest.approx(cut[0] / max(at, NO_ATTENTION) - cut[1] / beside)
    assert found.verdict.values[3, 0].startswith("its attention does not show it: rank (AUROC 0.")
    assert found.group.values.tolist() == [*HEAD_LABELS, "all"]
    assert found.joint_change.values.tolist() == [0.25, 0.25, 0.25, 0.75]
    assert found.joint_sum.sel(group="all").item() == pytest.approx(-0.5 + 0.4 - 0.3, abs=0.02)
    assert found.joint_heads.sel(group="all").item() == "L0.H1 at role0, L1.H3 at role0, L1.H6 at role0"
    assert found.attrs["gap"] == 4.0


def test_no_label_where_the_sign_is_the_other(functions: xr.Dataset, labelled: Any):
    found = labelled(functions, type("Turned", (Planted,), {"sign": -1.0}))
    assert found.label.values.tolist() == [""] * 4
    assert found.verdict.values[0, 0].startswith("what it predicts fails: cut (p = 1), contrast (p = 1)")
    assert found.sizes["group"] == 0


def test_no_label_where_every_head_of_the_layer_does_it(functions: xr.Dataset, labelled: Any):
    class Alike(Planted):
        def changes(self, cuts: Sequence[Knockout]) -> dict[Knockout, KnockoutChanges]:
            noise = np.random.default_rng(0).normal(0, 0.02, (N, HEADS))
            quiet = KnockoutChanges(noise - 0.5, noise[::-1], noise - 0.5)
            return dict.fromkeys(cuts, quiet)

    found = labelled(functions, Alike)
    assert found.label[0].item() == ""
    assert found.verdict.values[0, 0].startswith("what it predicts fails: peers (p = ")
    assert "," not in found.verdict.values[0, 0]


def test_each_prediction_is_needed(functions: xr.Dataset, labelled: Any):
    class Unharmed(Planted):
        def changes(self, cuts: Sequence[Knockout]) -> dict[Knockout, KnockoutChanges]:
            return {cut: own._replace(ablated=-own.ablated) for cut, own in super().changes(cuts).items()}

    found = labelled(functions, Unharmed)
    assert found.label.values.tolist() == [""] * 4
    assert found.verdict.values[1, 1] == "what it predicts fails: ablation (p = 1)"


def test_what_is_not_testable_says_why(functions: xr.Dataset, labelled: Any):
    masks = np.repeat(boxes(1), N, axis=0)
    scores = score_maps(attention(N), {"object": masks}).expand_dims(maps=["attention"])
    scores["outlier"] = scores["outlier"].isel(maps=0)
    same = scores.assign(elsewhere=functions.elsewhere).assign_attrs(functions.attrs)
    found = labelled(same, Planted)
    reason = "not testable: the masks are the same in all images"
    assert (found.verdict.sel(kind=[SEGMENTATION, INHIBITION]) == reason).all()
    assert (found.verdict.sel(kind=OUTLIERS) == "not testable: no outlier patches").all()
    only = functions.assign_coords(region=["distractor"])
    assert (labelled(only, Planted).verdict[:, 0] == "not testable: no regions").all()


def test_a_head_that_looks_at_the_class_token_alone_gets_no_label(functions: xr.Dataset, labelled: Any):
    found = labelled(functions.assign(elsewhere=functions.elsewhere + 0.99), Planted)
    assert found.label.values.tolist() == [""] * 4
    start = "its attention does not show it: "
    assert found.verdict.values[0, 0] == f"{start}the patches have 0.01 of its attention, 0.05 is the least"
    assert found.verdict.values[1, 1].startswith(f"{start}patches outside the region have 0.01 of its attention")


def test_a_verdict_says_which_of_rank_and_amount_is_missing(functions: xr.Dataset, labelled: Any):
    at = {"layer": LOOKS[0], "head": LOOKS[1]}
    little = functions.copy(deep=True)
    for name, value in {"p_segmentation_amount": 0.7, "p_segmentation": 0.7, "attention_ratio": 1.2}.items():
        little[name].loc[at] = value
    said = labelled(little, Planted).verdict.values[0, 0]
    assert said.startswith("its attention does not show it: amount (1.20 times an even share [9.00, 9.00], ")
    assert said.endswith("at least 1.5 is needed, p = 0.7)")
    many = functions.assign(q_segmentation=functions.q_segmentation * 0 + 0.2)
    assert labelled(many, Planted).verdict.values[0, 0] == "its attention does not show it: q = 0.2 over all tests"


def test_labels_name_the_task_of_their_pairs(functions: xr.Dataset, labelled: Any):
    found = labelled(functions.assign_attrs(task="states"), Planted)
    assert found.attrs["task"] == "states"
    assert {row["task"] for row in label_rows(found)} == {"states"}
    assert "task" not in label_rows(found.assign_attrs(task=""))[0]


def test_agreements_are_worked_out_by_hand():
    changes = KnockoutChanges(*(np.array([own]) for own in ([-3.0, 1.0, 2.0], [0.5, -1.0, 4.0], [-2.0, 6.0, 1.0])))
    # Contrasts, outside minus inside, of the three heads: 3.5, -2, 2.
    assert agreements(SEGMENTATION, changes, 0)[:, 0].tolist() == [3.0, 3.5, 3.5, 2.0]
    assert agreements(INHIBITION, changes, 2)[:, 0].tolist() == [4.0, 2.0, 2.0 - 0.75, 1.0]
    masses = np.array([0.5, 0.1, 0.2]), np.array([0.25, 0.5, 1.0])
    # Per unit of attention, at outliers minus beside them: -6 - 2, 10 + 2, 10 - 4.
    assert agreements(OUTLIERS, changes, 1, masses)[:, 0].tolist() == [1.0, 12.0, 12.0 - (-8 + 6) / 2, -6.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": [(2, 0)]}, r"layer 2 asked for; the functions are of \[0, 1\]"),
        ({"heads": [(0, 1), (0, 1)]}, "expected each once"),
        ({"maps": "value"}, "no kind of map of these functions 'value'"),
        ({"ablation": "men"}, "no ablation 'men'; did you mean 'mean'"),
        ({"regions": "objekt"}, "no region of these functions 'objekt'"),
        ({"n_flips": 9}, "with n_flips=9 no p-value can pass .* n_flips=20 can"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_messages(mini: HookedBLIP, functions: xr.Dataset, pairs: MinimalPairs, changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        circuits.label_heads(mini, pairs, functions, **{"heads": [LOOKS], **changes})


def test_functions_of_other_pairs_are_refused(mini: HookedBLIP, functions: xr.Dataset, pairs: MinimalPairs):
    with pytest.raises(ValueError, match="the functions are those of other pairs"):
        circuits.label_heads(mini, pairs[:5], functions, [LOOKS])


# On a model


def difference(mini: HookedBLIP, pair: MinimalPairs, hook: str | None = None, change: Any = None) -> float:
    """The logit difference of one clean run, with a hook in layer 1."""
    hooks = [] if hook is None else [(f"text.blocks.1.cross_attn.{hook}", change)]
    with torch.no_grad():
        logits = mini.run_with_hooks(pair.prepare(mini), fwd_hooks=hooks)[0, 0]
    correct, incorrect = mini.tokenizer.convert_tokens_to_ids([pair[0].correct_answer, pair[0].incorrect_answer])
    return float(logits[correct] - logits[incorrect])


def blinded(tokens: slice, patches: torch.Tensor) -> Any:
    """A hook that cuts the attention of head 3."""

    def blind(pattern: torch.Tensor, hook: Any) -> torch.Tensor:
        pattern = pattern.clone()
        pattern[:, 3, tokens] = pattern[:, 3, tokens].masked_fill(patches, 0)
        return pattern

    return blind


def silenced(tokens: slice) -> Any:
    """A hook that takes head 3 away."""

    def silent(z: torch.Tensor, hook: Any) -> torch.Tensor:
        z = z.clone()
        z[:, tokens, 3] = 0
        return z

    return silent


@pytest.mark.parametrize("inside", ["object", "distractor", AT_OUTLIERS])
def test_cuts_are_those_of_hooks(mini: HookedBLIP, pairs: MinimalPairs, inside: str):
    few = pairs[:5]
    own = circuits.head_functions(mini, few, roles="correct", maps="attention", progress=False)
    masks, spans = few.patch_masks(mini), few.token_spans(mini)
    background = np.stack([(~mask["object"] & ~mask["distractor"])[1:].numpy() for mask in masks])
    outlier = background & (np.arange(64) % 7 == 0) & (np.arange(5) != 2)[:, None]
    cut = Knockout(1, "correct", inside)
    found = Knockouts(mini, few, own.assign(outlier=own.outlier.copy(data=outlier)), "zero", progress=False)
    changes = found.changes([cut])[cut]
    tested = []
    for number in range(5):
        pair, tokens = few[number : number + 1], slice(*spans[number]["correct"])
        if inside == AT_OUTLIERS:
            at, beside = outlier[number], background[number] & ~outlier[number]
        else:
            at = masks[number][inside][1:].numpy()
            beside = ~at
        tested.append(at.any())
        expected = [
            difference(mini, pair, "hook_pattern", blinded(tokens, torch.from_numpy(np.append(False, patches))))
            if at.any() else np.nan + difference(mini, pair) for patches in (at, beside)
        ]  # fmt: skip
        expected.append(difference(mini, pair, "hook_z", silenced(tokens)))
        got = [changes.inside[number, 3], changes.outside[number, 3], changes.ablated[number, 3]]
        np.testing.assert_allclose(got, np.array(expected) - difference(mini, pair), atol=2e-4)
    assert sum(tested) == (4 if inside == AT_OUTLIERS else 5)


def test_labels_of_the_mini_model(mini: HookedBLIP, pairs: MinimalPairs):
    pairs = pairs[:24]
    own = circuits.head_functions(mini, pairs, roles="correct", regions="object", maps="attention", progress=False)
    found = circuits.label_heads(mini, pairs, own, [(2, 2), (2, 0)], n_resamples=499, progress=False)
    assert found.label[0].item() == SEGMENTATION
    assert found.cut_inside.sel(kind=SEGMENTATION)[0] < found.cut_outside.sel(kind=SEGMENTATION)[0] < 0.1
    assert (found.verdict.sel(kind=OUTLIERS) == "not testable: no outlier patches").all()
    assert found.joint_change.sel(group="all").item() < 0
    assert found.joint_high.sel(group="all").item() < 0
    assert found.attrs["gap"] > 1
    assert (LAYERS, SIDE) == (2, 6)
