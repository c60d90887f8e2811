"""Ablation: the model's answer without some of its parts.

Patching asks what an activation carries from one run of a pair to the other. Ablation asks of the clean run alone what
it loses when a part says nothing about the pair at hand any more, one part at a time or several at once:

    mean        the mean over a reference set: of words by role, elsewhere by position (Wang et al. 2022, 2211.00593)
    resample    what the same place has in another example (Chan et al. 2022, Causal Scrubbing)
    zero        nothing: the model has never seen that, so that much of the change may be surprise

1. The base run is the clean one; an ablation is a patch of it by `Edit(source=value)`, in the wave (wave.py).
2. Each pair is its own control: the change is ablated minus clean, of the same pair.
3. Over pairs it gets a mean with an interval by bootstrap, where pairs that share images are drawn together.

Heads stand in for each other: one that does nothing while its fellow works may take over when that is ablated
(self-repair: McGrath et al. 2023, 2307.15771). Ablate them jointly, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np

from notice_lens.errors import one_of
from notice_lens.models.protocol import TABLES
from notice_lens.patching.edits import WITH_HEADS, Edit, Site
from notice_lens.patching.nodes import Head, Node, is_node
from notice_lens.patching.options import AblationOptions, PositionSpec, refuse_fixed, refuse_mismatched
from notice_lens.patching.sweeps import run_variants, sweep
from notice_lens.stats.clusters import clusters_of
from notice_lens.stats.intervals import RESAMPLES, labelled, ratio_of_sums

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs

AblatedPart = Edit | Head
Group = AblatedPart | Sequence[AblatedPart]
ABLATION_VALUES = ("mean", "resample", "zero")
NEEDED = ("logit_diff_change", "accuracy")
FIXED_BY_ABLATE = {
    "direction": "an ablation edits the clean run; patching.sweep patches from other runs",
    "source": "value= says what an ablation puts in; patching.sweep patches from other runs",
}
"""Options of sweeps that an ablation decides."""


def ablate(
    model: "VisionLanguageModel",
    pairs: "MinimalPairs",
    sites: str | Site | Sequence[str | Site] | None = None,
    *,
    positions: PositionSpec | None = None,
    value: Literal["mean", "resample", "zero"] = "mean",
    joint: bool | Mapping[str, Group] = False,
    reference: "MinimalPairs | None" = None,
    seed: int = 0,
    confidence: float = 0.95,
    **options: "Unpack[AblationOptions]",
) -> "xr.Dataset":
    """Run every clean pair without some of the model's parts; return each pair's change and the mean with its interval.

    Args:
        model: The model. Hooks on it are refused.
        pairs: Validated for it here.
        sites: One or several of `Site.of(model, ...)`, or their names; not where `joint` has groups.
        positions: Where the sites are ablated, as `patch_heads` takes them: `roles`, `regions`, `each`, `all` at once,
            or some by name or number. None takes what `patch_heads` takes by default, and for `joint` all positions at
            once. A `Site` and an `Edit` have their own positions.
        value: The value put there: `mean` over the reference set (words by role, all else by position), `resample` (the
            one of another example of the same task and number of tokens, words aligned by role), or `zero`.
        joint: False: each layer, head and label of the sites separately. True: all of them at once, a variant `all`. A
            mapping of names to groups: each of one or several `Edit`s, or nodes such as `text.cross_attn.L1.H3`, made
            at once; `positions` are those of the nodes. An edit whose source is left at `other` gets `value`.
        reference: The pairs whose clean runs give means and examples; None takes the pairs themselves.
        seed: Of the draw of examples, and of the bootstrap.
        confidence: Of the intervals, between 0 and 1.
        **options: As `sweep`: `corruption` and `contrast` say which answer the correct one is compared with; `store`,
            `memory`, `progress`; `metrics` adds others to those needed here. `controls`: `self` or `()`.

    Returns:
        Dimensions `pair` and those of the sites, or `pair, variant`. By pair: `logit_diff_change` (ablated minus clean,
        in logits), `logit_diff_ablated`, `accuracy_ablated` and `accuracy_change`, with the dimensions of the sites;
        `logit_diff_clean`, `accuracy_clean` and the other baselines of a sweep without them. Accuracy is 1 where greedy
        decoding begins with the correct answer (of a match, where the right logit is the higher one), else 0.
        Over pairs, without `pair`: `change_mean, change_low, change_high` of the logit difference and the same of
        `accuracy_change`, paired differences with the ends of their intervals; the coordinate `n` says of how many
        pairs. `resampled_from` is the id of each pair's example; a pair without one has none there, and is NaN.

    Raises:
        ValueError: A site, an option or a value is invalid, the reference set lacks what is asked of it,
            or hooks are on the model.
        TypeError: An option is unknown, or is not one of ablations.
        PairsError: The pairs do not hold for this model.

    Example:
        >>> from notice_lens import HookedBLIP, patching
        >>> from notice_lens.pairs import mini_world
        >>> model, pairs = HookedBLIP.mini(), mini_world("states", n=4, seed=0)
        >>> single = patching.ablate(model, pairs, "text.cross_attn", progress=False)
        >>> dict(single.change_mean.sizes)
        {'layer': 3, 'head': 8, 'role': 6}
        >>> groups = {"late": ["text.cross_attn.L2.H0", "text.mlp.L2"]}
        >>> joint = patching.ablate(model, pairs, joint=groups, value="zero", progress=False)
        >>> dict(joint.accuracy_ablated.sizes)
        {'pair': 4, 'variant': 1}
    """
    check_given(value, ABLATION_VALUES, confidence)
    given = {**_swept(options), "reference": reference, "seed": seed}
    if joint is not False:
        effects = run_variants(model, pairs, _groups(model, sites, joint, positions, value), **given)
    elif sites is not None:
        effects = sweep(model, pairs, _placed(model, pairs, sites, positions), source=value, **given)
    else:
        raise ValueError("sites: name what is ablated, such as 'text.cross_attn', or give groups as joint")
    return finished(effects, value=value, joint=joint, confidence=confidence, seed=seed)


def finished(
    effects: "xr.Dataset", *, value: str = "mean", joint: Any = False, confidence: float = 0.95, seed: int = 0
) -> "xr.Dataset":
    """Return the ablation of a sweep over all pairs, of one call or gathered; arguments as of `ablate`."""
    return summarised(effects.assign_attrs(source=value, joint=joint is not False), confidence, seed)


def _placed(model: "VisionLanguageModel", pairs: "MinimalPairs", sites: Any, positions: Any) -> list[Site]:
    """Return the sites with positions."""
    several = list(sites) if isinstance(sites, list | tuple) else [sites]
    return [
        Site.of(model, site, positions=positions, pairs=None if isinstance(site, Site) else pairs) for site in several
    ]


def check_given(value: Any, valid: Sequence[str], confidence: Any) -> None:
    """Raise ValueError if a value is not among the valid ones, or a confidence is out of range."""
    if value not in valid:
        raise ValueError(one_of("value of an ablation", value, valid))
    if not isinstance(confidence, Real) or not 0 < float(confidence) < 1:
        raise ValueError(f"confidence={confidence!r}: expected a number above 0 and below 1, such as 0.95")


def summarised(effects: "xr.Dataset", confidence: float, seed: int) -> "xr.Dataset":
    """Return a sweep of the clean run as an ablation: before, after, the differences and their intervals.

    Args:
        effects: With `logit_diff_change`, `accuracy`, and the baselines of both.
        confidence: Of the intervals.
        seed: Of the bootstrap.
    """
    change = effects.logit_diff_change
    effects = effects.rename({"accuracy": "accuracy_ablated"}).assign(
        logit_diff_ablated=effects.logit_diff_clean + change,
        accuracy_change=effects.accuracy - effects.accuracy_clean,
    )
    clusters, dims = clusters_of(effects), [str(dim) for dim in change.dims if dim != "pair"]
    for name, values in (("change", change), ("accuracy_change", effects.accuracy_change)):
        values = values.transpose("pair", ...).values
        found = ratio_of_sums(values, np.ones(len(values)), clusters, confidence, seed)
        ends = labelled(effects, found, name, dims)
        ends[f"{name}_mean"] = ends.pop(name)
        effects = effects.assign({own: end.assign_coords(n=(dims, found.n)) for own, end in ends.items()})
    effects.attrs |= {"confidence": float(confidence), "resamples": RESAMPLES, "clusters": int(clusters.max()) + 1}
    return effects


def _swept(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of the sweep underneath."""
    refuse_fixed(options, FIXED_BY_ABLATE, "an ablation")
    refuse_mismatched(
        options, "the mismatched donor controls a patch from the other run; an ablation has the control 'self'"
    )
    metrics = options.get("metrics") or {}
    if not isinstance(metrics, Mapping):
        metrics = dict.fromkeys([metrics] if isinstance(metrics, str) else metrics)
    needed = {**dict.fromkeys(NEEDED), **metrics}
    return {"controls": "self", **options, "direction": "noise", "metrics": needed}


def _groups(model: "VisionLanguageModel", sites: Any, joint: Any, positions: Any, value: str) -> dict[str, list[Edit]]:
    """Return the variants: everything at some sites, or groups by name."""
    if joint is True:
        if sites is None:
            raise ValueError("sites: name what is ablated jointly, such as 'text.cross_attn'")
        several = list(sites) if isinstance(sites, list | tuple) else [sites]
        return {"all": [edit for site in several for edit in _edits(model, site, positions, value)]}
    if not isinstance(joint, Mapping):
        raise TypeError(f"joint={joint!r}: expected False, True, or a mapping of names to groups of edits or nodes")
    if sites is not None:
        raise ValueError(
            "sites and groups were both given; the groups of joint say what is ablated, so leave sites out"
        )
    found = {}
    for name, group in joint.items():
        several = group if isinstance(group, list | tuple) and not is_node(group) else [group]
        found[name] = [_edit(model, name, one, positions, value) for one in several]
    return found


def _edit(model: "VisionLanguageModel", name: Any, one: Any, positions: Any, value: str) -> Edit:
    if not isinstance(one, Edit):
        try:
            edit = Node.of(model, one).edit(value)
            return edit if positions is None else replace(edit, positions=positions)
        except ValueError as error:
            raise ValueError(f"group {name!r}: {error}") from error
    return replace(one, source=value) if one.source == "other" else one


def _edits(model: "VisionLanguageModel", site: Any, positions: Any, value: str) -> list[Edit]:
    """Return everything at a site, as edits."""
    own = positions if positions is not None or isinstance(site, Site) else "all"
    found = Site.of(model, site, positions=own)
    leaf = found.activation.rpartition(".")[2]
    keys = {"keys": found.keys} if leaf in TABLES else {}
    heads = found.heads if leaf in WITH_HEADS and found.heads is not None else [None]
    positions = list(found.positions) if isinstance(found.positions, tuple) else found.positions
    return [
        Edit(found.name, layer, head, positions, **keys, source=value)
        for layer in found.layers or [None]
        for head in heads
    ]
