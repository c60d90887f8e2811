"""Scores of a circuit against the whole model: faithfulness, completeness, minimality.

The *universe* is the set of nodes that an answer may be made of: attention heads (`hook_z`) and MLPs (`hook_mlp_out`),
at all positions. A circuit is a part of it. What is not in the universe (embeddings, LayerNorms, the stream itself,
other stacks) always runs as it does, and so reacts to what is ablated. m(S) is the logit difference of the clean run
where all nodes of the universe outside of S are ablated, that is, set to a mean, to another example's value, to zero,
or to what the corrupted run has there. Then with the model M, the circuit C, a node v, and nothing, 0,

    faithfulness   (m(C) - m(0)) / (m(M) - m(0))         1 where the circuit alone gives what the model gives
    completeness   (m(M) - m(M - C)) / (m(M) - m(0))     1 where nothing is left without it
    minimality     (m(C) - m(C - v)) / (m(M) - m(0))     what leaving one node out costs; 0 where it is not needed

The first is Hanna et al. 2024 (2403.17806), whose m(0) is a run with all corrupted: `value="other"`. One minus the
second is the faithfulness of the circuit's complement (Marks et al. 2024, 2403.19647). All are ratios of sums over
pairs, since means of ratios explode where one gap is small. None is bounded by 0 and 1.

Limits: leaving out one node at a time finds neither of two that stand in for each other (minimality 0 for both); ablate
them jointly (`ablate`).
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np

from notice_lens.patching.ablation import ABLATION_VALUES, check_given
from notice_lens.patching.edits import Edit
from notice_lens.patching.nodes import Head, Node, nodes_of, universe_of
from notice_lens.patching.options import AblationOptions, refuse_fixed
from notice_lens.patching.sweeps import run_variants
from notice_lens.stats.clusters import clusters_of
from notice_lens.stats.intervals import RESAMPLES, labelled, ratio_of_sums

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs

FAITHFULNESS_VALUES = (*ABLATION_VALUES, "other")
FIXED_BY_FAITHFULNESS: dict[str, str] = {
    **dict.fromkeys(("metrics", "direction", "source"), "it is of logit differences of the clean run"),
    "part": "it is a ratio of sums over all pairs",
}
"""Options of sweeps that faithfulness decides."""
NOTHING_KEPT, CIRCUIT, REST = "nothing", "circuit", "rest"
"""Variants: all of the universe ablated, all but the circuit, the circuit alone."""


def faithfulness(
    model: "VisionLanguageModel",
    pairs: "MinimalPairs",
    circuit: Head | Iterable[Head],
    *,
    universe: Head | Iterable[Head] | None = None,
    value: Literal["mean", "resample", "zero", "other"] = "mean",
    reference: "MinimalPairs | None" = None,
    seed: int = 0,
    confidence: float = 0.95,
    **options: "Unpack[AblationOptions]",
) -> "xr.Dataset":
    """Measure how much of the answer a circuit gives alone, how much is left without it, and what each node adds.

    With m(S), the logit difference of the clean run where all nodes of the universe outside of S are ablated:
    faithfulness is (m(C) - m(0)) / (m(M) - m(0)) (Hanna et al. 2024, 2403.17806), completeness (m(M) - m(M - C)) /
    (m(M) - m(0)), and the minimality of a node v (m(C) - m(C - v)) / (m(M) - m(0)); each a ratio of sums over pairs.

    Args:
        model: The model. Hooks on it are refused.
        pairs: Validated for it here.
        circuit: Heads and MLPs: `text.cross_attn.L1.H3` or `("text.cross_attn", 1, 3)`, `text.mlp.L1` or `("text.mlp",
            1)`. An empty one needs a universe.
        universe: The nodes that are ablated where they are not in the circuit: stacks (`text`: all heads of its
            self-attention and cross-attention, and all its MLPs), modules (`text.cross_attn`), or nodes by name; one
            or several. None takes the stacks of the circuit's nodes, all of each.
        value: What takes a node's place: `mean`, `resample`, `zero` as in `ablate`, or `other`, the corrupted run's.
        reference: The pairs whose clean runs give means and examples; None takes the pairs themselves.
        seed: Of the draw of examples, and of the bootstrap.
        confidence: Of the intervals, between 0 and 1.
        **options: As `sweep`: `corruption`, `contrast`, `store`, ... Where the mean gap is below `min_gap`, all is NaN.

    Returns:
        Scalars `faithfulness` and `completeness`, and `minimality` [node], each with `_low` and `_high`. By pair, in
        logits: `logit_diff_full` m(M), `logit_diff_ablated` m(0), `logit_diff_circuit` m(C), `logit_diff_rest`
        m(M - C), and `logit_diff_without` [pair, node], m(C - v). `node` has the circuit's names; `attrs["universe"]`
        those of all.

    Raises:
        ValueError: There is no such node, one is not in the universe, or an option is invalid.
        TypeError: The circuit is not a list of nodes, or there is no option of that name.
        PairsError: The pairs do not hold for this model.

    Example:
        >>> from notice_lens import HookedBLIP, patching
        >>> from notice_lens.pairs import mini_world
        >>> model, pairs = HookedBLIP.mini(), mini_world("states", n=4, seed=0)
        >>> circuit = ["text.cross_attn.L1.H3", ("text.mlp", 2)]
        >>> scores = patching.faithfulness(model, pairs, circuit, progress=False)
        >>> scores.faithfulness.dims, dict(scores.minimality.sizes)
        ((), {'node': 2})
    """
    check_given(value, FAITHFULNESS_VALUES, confidence)
    refuse_fixed(options, FIXED_BY_FAITHFULNESS, "faithfulness")
    nodes = nodes_of(model, circuit)
    everything = _universe(model, nodes, universe)
    given = {"controls": "self", **options, "reference": reference, "seed": seed, "direction": "noise"}
    effects = run_variants(model, pairs, _variants(nodes, everything, value), metrics="logit_diff_change", **given)
    effects.attrs |= {"source": value, "universe": [node.name for node in everything], "resamples": RESAMPLES}
    return _scores(effects, nodes, confidence, seed).assign_attrs(effects.attrs)


def _universe(model: "VisionLanguageModel", nodes: Sequence[Node], universe: Any) -> list[Node]:
    if universe is None:
        if not nodes:
            raise ValueError("circuit is empty; say what to ablate with a universe, such as universe='text'")
        universe = list(dict.fromkeys(node.module.partition(".")[0] for node in nodes))
    everything = universe_of(model, universe)
    for node in nodes:
        if node not in everything:
            names = [other.name for other in everything]
            short = f"{len(names)} nodes such as {names[0]!r}"
            raise ValueError(f"node {node.name!r} of the circuit is not in the universe, {short}")
    return everything


def _variants(nodes: Sequence[Node], everything: Sequence[Node], value: str) -> dict[str, list[Edit]]:
    """Return the edits of each variant; variants that ablate nothing are the clean run, and are left out."""
    outside = [node for node in everything if node not in nodes]
    ablated = {NOTHING_KEPT: list(everything), CIRCUIT: outside, REST: list(nodes)}
    ablated |= {node.name: [*outside, node] for node in nodes}
    return {name: [node.edit(value) for node in several] for name, several in ablated.items() if several}


def _scores(effects: "xr.Dataset", nodes: Sequence[Node], confidence: float, seed: int) -> "xr.Dataset":
    """Return the three scores, from the read-out of each variant."""
    full = effects.logit_diff_clean
    known = set(effects["variant"].values.tolist())

    def read_out(name: str) -> np.ndarray:
        return (full + (effects.logit_diff_change.sel(variant=name, drop=True) if name in known else 0)).values

    nothing, circuit, rest = read_out(NOTHING_KEPT), read_out(CIRCUIT), read_out(REST)
    without = np.array([read_out(node.name) for node in nodes]).reshape(len(nodes), len(full)).T
    found = effects.drop_dims("variant").drop_vars("logit_diff_clean")
    found = found.assign_coords(node=np.array([node.name for node in nodes], dtype=object)).assign(
        logit_diff_full=full,
        logit_diff_ablated=("pair", nothing),
        logit_diff_circuit=("pair", circuit),
        logit_diff_rest=("pair", rest),
        logit_diff_without=(("pair", "node"), without),
    )
    gap, clusters = (full.values - nothing).astype(float), clusters_of(effects)
    usable = abs(gap.mean()) >= float(effects.attrs["min_gap"])
    tops = {
        "faithfulness": circuit - nothing,
        "completeness": full.values - rest,
        "minimality": circuit[:, None] - without,
    }
    for name, top in tops.items():
        ratio = ratio_of_sums(top, gap if usable else gap * np.nan, clusters, confidence, seed)
        found = found.assign(labelled(found, ratio, name, ["node"] if name == "minimality" else []))
    return found
