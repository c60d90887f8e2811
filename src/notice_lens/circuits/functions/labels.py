"""Labels of heads: what a head's attention shows, and what cutting it confirms.

1. *Attention.* A head is a candidate for a label where `head_functions` found the attention that goes with it, by rank
   and by amount, at the role and region where that is clearest, and if it looks there enough: what the label is about
   has at least a twentieth of the head's attention, class token and words included.
2. *Cuts.* In the clean run its attention is set to zero inside the region, and outside; the head is ablated. So are all
   other heads of its layer. `verdicts.py` says what each label predicts, with its sign.
3. *Tests.* Four predictions over pairs, by sign flips; what the cut and the ablation change has to exceed a smallest
   effect of interest, a share of the gap between clean and corrupted runs. A label's p-value is the largest of the
   four, since it claims all of them (an intersection-union test, Berger 1982). False discoveries are controlled over
   all claims.
4. *Jointly.* All heads of a label, and all labelled heads, are ablated at once, since other heads may stand in for one.

Limits: a cut pattern no longer sums to one, which makes its head quieter. Pairs are the same for attention and for
cuts; the first says nothing of the second, but which role and region are cut is chosen by it. A missing label does not
prove that a head has no function: the tests may lack power.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from notice_lens.circuits.functions.knockout import AT_OUTLIERS, Knockout, KnockoutChanges, Knockouts
from notice_lens.circuits.functions.maps import MapKind
from notice_lens.circuits.functions.scores import (
    AMOUNT,
    BACKGROUND,
    NO_REGIONS,
    OUTLIER_AMOUNT,
    p_names,
    too_few,
)
from notice_lens.circuits.functions.verdicts import (
    HEAD_LABELS,
    INHIBITION,
    NO_ATTENTION,
    OF_ATTENTION,
    OUTLIERS,
    SCORE_OF_LABEL,
    SEGMENTATION,
    TESTS,
    Claim,
    Verdicts,
    agreements,
    not_testable,
)
from notice_lens.errors import names_among, one_of
from notice_lens.patching.edits import check_model
from notice_lens.stats.clusters import ENOUGH_CLUSTERS, clusters_of
from notice_lens.stats.mean_tests import MeanTests

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs


NOT_OF_THE_ANSWER = (BACKGROUND, "distractor")
"""Regions that the answer is not about: the predictions are not about them."""
LEAST_ATTENTION = 0.05
"""Share of a head's whole attention below which it does not look at what a label is about."""
SEEN = {SEGMENTATION: "the patches", INHIBITION: "patches outside the region", OUTLIERS: "patches beside the outliers"}
IN_WORDS = {
    "changes": "of the clean run's logit difference, correct minus contrast, in logits; below 0 the answer loses",
    "agreement": "what is predicted to be above 0, in logits; of outliers contrast and peers are per unit of attention",
    "label_rule": "attention by rank and by amount (q_attention), and all four predictions hold, cut and ablation by "
    "more than smallest_effect of the gap: p_causal is their largest p, q_causal controls false discoveries",
}


def label_heads(
    model: "VisionLanguageModel",
    pairs: "MinimalPairs",
    functions: "xr.Dataset",
    heads: Iterable[tuple[int, int]],
    *,
    maps: MapKind = "attention",
    regions: str | Sequence[str] | None = None,
    ablation: Literal["mean", "zero"] = "mean",
    alpha: float = 0.05,
    smallest_effect: float = 0.002,
    n_flips: int = 9999,
    n_resamples: int = 1999,
    seed: int = 0,
    **options: Any,
) -> "xr.Dataset":
    """Label each head: implicit segmentation, object inhibition, outlier inhibition, or no label.

    Experimental: the rules are our reading of the paper, which names heads by their maps.

    Args:
        model: The model.
        pairs: The pairs that `functions` is of.
        functions: The result of `head_functions` for them.
        heads: (layer, head) of each candidate.
        maps: Which kind of map shows the attention.
        regions: Which regions a label can be about; None takes all but `distractor` and `background`, which the answer
            is not about.
        ablation: What takes an ablated head's place: `mean` over all clean runs by role, or `zero`.
        alpha: Rate of false discoveries, for attention and for cuts.
        smallest_effect: Share of the gap that the cut and the ablation have to exceed, per unit of attention for the
            cut at outliers; 0 asks for a sign alone.
        n_flips: Of the sign-flip tests.
        n_resamples: Of the bootstrap.
        seed: Of both.
        **options: `memory`, `progress`, `contrast`, ... as `notice_lens.patching.sweep`.

    Returns:
        Over [candidate], with layer and head as coordinates: `label`, "" where none is given; of several the one with
        the smallest `q_causal`. Over [candidate, kind]: `verdict`, `given` or which of rank, amount and predictions
        fails; `role` and `region` where the attention is clearest, `attention_ratio`, `attention_ratio_low` and
        `attention_ratio_high` there (of outliers those of `outlier_attention`) and `q_attention`; `cut_inside`,
        `cut_outside` and `ablation`, mean changes of the clean run's logit difference, with their signs; `n_pairs`,
        `p_causal`, `q_causal`. Over [candidate, kind, test]: `agreement`, the mean of what is predicted to be above
        zero, with `low`, `high` (95 %) and one-sided `p`. Over [group], each label given and `all`: `joint_change` when
        its heads are ablated at once, `joint_low`, `joint_high`, two-sided `joint_p`, `joint_sum` of the single
        ablations, and `joint_heads`. The attribute `gap`, the mean logit difference of the clean runs minus that of the
        corrupted ones, says how much a change is; NaN where nothing was cut. The attribute `task` is the task of the
        pairs, which the labels are about; "" where they are of several.

    Raises:
        ValueError: A head, region or kind of map does not exist, the functions are of other pairs, or `n_flips` are too
            few for any label to pass.
    """
    check_model(model)
    verdicts = Verdicts(_candidates(heads, functions))
    scores = _scores(pairs, functions, maps, regions, ablation)
    claims = _claims(scores, alpha, n_flips, verdicts)
    knockouts = Knockouts(model, pairs, functions, ablation, **options)
    means = MeanTests(clusters_of(pairs), n_flips, n_resamples, np.random.default_rng(seed))
    changes = knockouts.changes(list(dict.fromkeys(claim.knockout for claim in claims)))
    least = smallest_effect * abs(knockouts.gap)
    for claim in claims:
        verdicts.put(claim, *_evidence(claim, changes[claim.knockout], scores, means, least))
    verdicts.decide(alpha)
    settings = {
        "maps": maps, "ablation": f"by {ablation}", "alpha": alpha, "n_flips": n_flips, "seed": seed,
        "smallest_effect": smallest_effect, "smallest_ratio": functions.attrs["smallest_ratio"],
    }  # fmt: skip
    of_pairs = {"site": functions.attrs["site"], "task": functions.attrs.get("task", "")}
    attrs = {**of_pairs, **settings, "gap": knockouts.gap, **IN_WORDS}
    return verdicts.dataset().merge(_jointly(verdicts, claims, changes, knockouts, means)).assign_attrs(attrs)


def _candidates(heads: Any, functions: "xr.Dataset") -> list[tuple[int, int]]:
    candidates = [(int(layer), int(head)) for layer, head in heads]
    for layer, head in candidates:
        for dim, number in (("layer", layer), ("head", head)):
            if number not in functions[dim].values:
                raise ValueError(f"{dim} {number} asked for; the functions are of {functions[dim].values.tolist()}")
    if len(set(candidates)) < len(candidates):
        raise ValueError(f"heads {candidates} asked for; expected each once")
    return candidates


def _scores(pairs: "MinimalPairs", functions: "xr.Dataset", maps: str, regions: Any, ablation: str) -> "xr.Dataset":
    """Return the functions at the requested kind of map and regions."""
    if functions.attrs.get("pairs") != pairs.fingerprint:
        raise ValueError("the functions are those of other pairs; compute these with head_functions(model, pairs)")
    if maps not in functions["maps"].values:
        raise ValueError(one_of("kind of map of these functions", maps, functions["maps"].values))
    if ablation not in ("mean", "zero"):
        raise ValueError(one_of("ablation", ablation, ("mean", "zero")))
    known = functions["region"].values.tolist()
    if regions is None:
        regions = [name for name in known if name not in NOT_OF_THE_ANSWER]
    return functions.sel(maps=maps, region=names_among("region of these functions", regions, known))


def _refuse_coarse(claims: int, n_flips: int, alpha: float) -> None:
    """Raise ValueError if no p-value could be small enough for any claim to pass."""
    if claims > alpha * (n_flips + 1):
        raise ValueError(
            f"{claims} claims are tested: with n_flips={n_flips} no p-value can pass false-discovery control at "
            f"alpha={alpha}; n_flips={int(np.ceil(claims / alpha))} can"
        )


def _claims(scores: "xr.Dataset", alpha: float, n_flips: int, verdicts: Verdicts) -> list[Claim]:
    """Return the claims that attention suggests: by head and label, at the role and region where it is clearest."""
    claims = []
    for number, (layer, head) in enumerate(verdicts.candidates):
        of_head = scores.sel(layer=layer, head=head)
        for kind in HEAD_LABELS:
            at = _clearest(of_head, kind)
            if at is None:
                verdicts.refuse(number, kind, not_testable(_reasons(scores, kind)))
                continue
            region = AT_OUTLIERS if kind == OUTLIERS else str(at["region"].item())
            knockout = Knockout(layer, str(at["role"].item()), region)
            ratio = (float(at[name]) for name in _amount(kind)[:3])
            q = float(at[f"q_{SCORE_OF_LABEL[kind]}"])
            verdicts.attend(number, kind, knockout, dict(zip(OF_ATTENTION, (*ratio, q), strict=True)))
            if missing := _missing(at, kind, alpha, scores.attrs["smallest_ratio"]):
                verdicts.refuse(number, kind, f"its attention does not show it: {missing}")
            else:
                claims.append(Claim(number, head, kind, knockout))
    _refuse_coarse(len(claims), n_flips, alpha)
    return claims


def _clearest(of_head: "xr.Dataset", kind: str) -> "xr.Dataset | None":
    """Return a head's scores at the role and region where its p-value, and then that of its rank, is the smallest."""
    rank, _, both = p_names(SCORE_OF_LABEL[kind])
    dims = of_head[both].dims
    places = of_head[[both, rank]].stack(place=dims).dropna("place", subset=[both])
    if not places.sizes["place"]:
        return None
    best = places["place"].values[np.lexsort((places[rank].values, places[both].values))[0]]
    return of_head.sel(dict(zip(dims, best, strict=True)))


def _amount(kind: str) -> tuple[str, ...]:
    """Return the names of the amount that a label asks for: ratio, low, high, expected."""
    return OUTLIER_AMOUNT if kind == OUTLIERS else AMOUNT


def _missing(at: "xr.Dataset", kind: str, alpha: float, smallest_ratio: float) -> str:
    """Return which part of the attention that a label asks for is missing; nothing where all is there.

    Args:
        at: Scores of one head, at one role and region.
        kind: The label.
        alpha: Rate of false discoveries.
        smallest_ratio: What the amount is compared with.
    """
    seen = _seen(at, kind)
    if seen < LEAST_ATTENTION:
        return f"{SEEN[kind]} have {seen:.2g} of its attention, {LEAST_ATTENTION} is the least"
    rank, amount = (float(at[name]) for name in p_names(SCORE_OF_LABEL[kind])[:2])
    missing = []
    if rank > alpha:
        areas = "" if kind == OUTLIERS else f"AUROC {float(at['auroc']):.2f}, {float(at['auroc_null']):.2f} by chance, "
        missing.append(f"rank ({areas}p = {rank:.2g})")
    if amount > alpha:
        ratio, low, high, expected = (float(at[name]) for name in _amount(kind))
        bound = f"at least {smallest_ratio:g}" if kind == SEGMENTATION else f"at most {1 / smallest_ratio:.2g}"
        missing.append(
            f"amount ({ratio:.2f} times an even share [{low:.2f}, {high:.2f}], {expected:.2f} in other images; "
            f"{bound} is needed, p = {amount:.2g})"
        )
    q = float(at[f"q_{SCORE_OF_LABEL[kind]}"])
    return ", ".join(missing) or (f"q = {q:.2g} over all tests" if q > alpha else "")


def _seen(at: "xr.Dataset", kind: str) -> float:
    """Return the share of a head's whole attention at the patches that a label is about, 0 to 1."""
    patches = 1 - float(at["elsewhere"])
    if kind == SEGMENTATION:
        return patches
    return patches * (float(at["ordinary_mass"]) if kind == OUTLIERS else 1 - float(at["attention_inside"]))


def _reasons(scores: "xr.Dataset", kind: str) -> list[str]:
    reasons = scores["testable_outlier" if kind == OUTLIERS else "testable"].values.ravel()
    return [reason for reason in dict.fromkeys(reasons) if reason] or [NO_REGIONS]


def _evidence(
    claim: Claim, changes: KnockoutChanges, scores: "xr.Dataset", means: MeanTests, least: float
) -> tuple[dict[str, Any], str]:
    """Return the numbers of a claim by name, and why it cannot be tested, or nothing.

    Args:
        claim: A label that a head's attention suggests.
        changes: Of all heads of its layer.
        scores: Of all heads.
        means: The tests.
        least: Logits that the cut and the ablation have to exceed; the cut at outliers, per unit of attention.
    """
    there = np.flatnonzero(~np.isnan(np.concatenate(changes, axis=-1)).any(-1))
    changes, labels = changes.take(there), means.labels[there]
    numbers: dict[str, Any] = {"n_pairs": len(there)}
    if not len(there) or changes.inside.shape[1] < 2:
        return numbers, NO_REGIONS if not len(there) else "there is no other head in its layer"
    raw = zip(("cut_inside", "cut_outside", "ablation"), changes, strict=True)
    numbers |= {name: change[:, claim.head].mean() for name, change in raw}
    n_clusters = len(set(labels.tolist()))
    if n_clusters < ENOUGH_CLUSTERS:
        return numbers, too_few(n_clusters)
    # Contrast and peers compare; how large an effect is, the cut and the ablation say.
    masses, bounds = None, least * np.isin(TESTS, ("cut", "ablation"))
    if claim.kind == OUTLIERS:
        at = scores.sel(role=claim.knockout.role, layer=claim.knockout.layer)
        masses = (at["outlier_mass"].values, at["ordinary_mass"].values)
        bounds[TESTS.index("cut")] *= max(masses[0][claim.head], NO_ATTENTION)
    values = agreements(claim.kind, changes, claim.head, masses)
    p = means.p(values - bounds[:, None], there)
    low, high = zip(*(means.interval(change, there) for change in values), strict=True)
    tested = {"agreement": values.mean(-1), "low": low, "high": high, "p": p, "p_causal": p.max()}
    return numbers | tested, ""


def _jointly(
    verdicts: Verdicts,
    claims: Sequence[Claim],
    changes: dict[Knockout, KnockoutChanges],
    knockouts: Knockouts,
    means: MeanTests,
) -> "xr.Dataset":
    """Ablate all heads of a label at once, and all labelled heads; each at the role that its label is about."""
    import xarray as xr

    given = [claim for claim in claims if verdicts.given(claim)]
    groups = {kind: [claim for claim in given if claim.kind == kind] for kind in HEAD_LABELS}
    groups = {kind: members for kind, members in groups.items() if members} | ({"all": given} if given else {})
    places = {
        group: list(dict.fromkeys((claim.knockout.layer, claim.head, claim.knockout.role) for claim in members))
        for group, members in groups.items()
    }
    changed = knockouts.measure(
        {group: [knockouts.ablated(*place) for place in members] for group, members in places.items()}
    )
    single = {
        (claim.knockout.layer, claim.head, claim.knockout.role): changes[claim.knockout].ablated[:, claim.head]
        for claim in given
    }
    columns: dict[str, list[Any]] = {f"joint_{name}": [] for name in ("change", "low", "high", "p", "sum", "heads")}
    for group, members in places.items():
        together, apart = changed[group], np.sum([single[place] for place in members], axis=0)
        there = np.flatnonzero(~np.isnan(together) & ~np.isnan(apart))
        low, high = means.interval(together[there], there)
        p = means.p(together[None, there], there, two_sided=True)[0]
        names = ", ".join(f"L{layer}.H{head} at {role}" for layer, head, role in members)
        row = (together[there].mean(), low, high, p, apart[there].mean(), names)
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    variables = {
        name: ("group", np.array(members, object if name == "joint_heads" else float))
        for name, members in columns.items()
    }
    return xr.Dataset(variables, {"group": np.array(list(groups), object)})
