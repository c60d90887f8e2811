r"""Minimal circuits: the fewest heads that together restore a share of the answer, and whose loss costs as much.

A set S of nodes counts as a circuit where it is sufficient *and* necessary,

    worth(S) = min(restored(S) - z SE, lost(S) - z SE) ≥ share            (see `joint` for the two)

Sufficiency alone is content with either half of an OR, necessity alone with either half of an AND; a circuit has both.
A search takes what looks best on its own pairs, and others hold less of it. So what counts is the lower end of an
interval over clusters: with `lower=0.95`, z is 1.64.

1. Search on one half of the pairs. Rank the nodes by the larger of what each restores and what its loss costs; take the
   shortest beginning of that order that reaches the share; then leave out, one at a time, the node without which the
   rest is worth most, while it still reaches the share.
2. Score on the other half, whose pairs chose nothing: faithfulness (restored) and completeness (lost), with intervals,
   beside random sets with as many nodes of each layer.
3. Stability: search again on bootstrap resamples of the clusters of the first half, and count how often each node is
   in. Sets are measured once for all resamples, which go through the search in step with each other.

Limits: the search is greedy, so a smaller set may exist; two nodes that stand in for each other are both in, since the
loss of either alone costs nothing and that of both does. Heads outside may act on the answer through those inside.
"""

from collections.abc import Generator, Iterable, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from notice_lens.circuits.joint import JointPatches, NodeSet, halves, matched, nodes_at, refuse, with_ends
from notice_lens.errors import whole_number
from notice_lens.patching.options import JointOptions, PositionSpec
from notice_lens.stats.clusters import clusters_of, resamples
from notice_lens.stats.intervals import ratio_of_sums

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs
    from notice_lens.patching.nodes import Head

Search = Generator[list[NodeSet], None, NodeSet]
ROUNDING_OF_SHARES = 1e-6
"""What float32 may take from the share of all nodes, which is 1 in exact numbers."""


def minimal_circuit(
    model: "VisionLanguageModel",
    pairs: "MinimalPairs",
    nodes: "Head | Iterable[Head] | None" = None,
    *,
    positions: PositionSpec = "all",
    share: float = 0.8,
    lower: float = 0.95,
    n_resamples: int = 20,
    n_random: int = 40,
    seed: int = 0,
    confidence: float = 0.95,
    **options: "Unpack[JointOptions]",
) -> "xr.Dataset":
    """Find the fewest heads that restore a share of the gap and whose loss costs as much; score them on other pairs.

        circuit = circuits.minimal_circuit(model, pairs)
        circuit.attrs["circuit"]                      # ['text.cross_attn.L1.H5', ...]
        float(circuit.faithfulness), float(circuit.completeness)

    Args:
        model: The model. Hooks on it are refused.
        pairs: Validated for it here; one half finds the circuit, the other scores it.
        nodes: The nodes of a circuit: modules (`text.cross_attn`), whole stacks (`text`: heads and MLPs) or nodes by
            name. None takes the heads of `model.cfg.default_site`.
        positions: Where nodes are patched, as an `Edit` takes them.
        share: Of the gap, to be restored by the circuit and lost with it, above 0 and at most 1.
        lower: The confidence, one-sided, with which the search half has to reach the share, from 0.5 (the estimate
            itself) to below 1.
        n_resamples: Resamples of the search half for the stability; 0 leaves it out.
        n_random: Random sets with as many nodes of each layer, beside the scores.
        seed: Of the halves, the random sets, the resamples and the bootstrap.
        confidence: Of the intervals, between 0 and 1.
        **options: As `patching.sweep`: `corruption`, `contrast`, `memory`, `progress`, ...

    Returns:
        Along `node`: `in_circuit`; `restores` and `costs`, what each does alone on the search half, as shares of the
        gap; `stability`, the share of resamples whose circuit has it (NaN without resamples). On the held-out half, as
        ratios of sums over pairs with `_low` and `_high` by bootstrap over clusters: `faithfulness`, the share that the
        circuit restores; `completeness`, the share that is lost with it. `random_faithfulness` and
        `random_completeness` [draw] are those of random sets. `resampled_size` [resample] says how many nodes each
        resample's circuit has. Attributes: `circuit` (names, in order of rank), `searched_faithfulness` and
        `searched_completeness` (the same on the half that chose it), `share`, `pairs` and `clusters` (held out),
        `scored_ids` (of the held-out pairs), `n_nodes`.

    Raises:
        ValueError: All nodes together do not reach the share, all pairs are one cluster, or an option is out of range.
        TypeError: There is no option of that name, or this verb decides it.
        PairsError: The pairs do not hold for this model.

    Example:
        >>> from notice_lens import HookedBLIP, circuits
        >>> from notice_lens.pairs import mini_world
        >>> model, pairs = HookedBLIP.mini(), mini_world("states", n=12, seed=0)
        >>> found = circuits.minimal_circuit(model, pairs, share=0.7, n_resamples=0, n_random=2, progress=False)
        >>> found.sizes["node"]
        24
    """
    refuse(options, "minimal_circuit")
    if not 0 < share <= 1:
        raise ValueError(f"share={share}: expected a share of the gap, above 0 and at most 1")
    if not 0.5 <= lower < 1:
        raise ValueError(f"lower={lower}: expected a one-sided confidence, from 0.5 (the estimate itself) to below 1")
    for name, value in (("n_resamples", n_resamples), ("n_random", n_random), ("seed", seed)):
        whole_number(name, value, 0)
    pairs = pairs.validate(model)
    places = nodes_at(model, nodes, positions)
    chosen, held_out = (pairs.select(half.tolist()) for half in halves(pairs, seed))
    searched = JointPatches(model, chosen, places, **options)
    searched.measure([frozenset(range(len(places)))])
    rng = np.random.default_rng(seed)
    labels = clusters_of(chosen)
    again = resamples(rng, int(labels.max()) + 1, n_resamples)[:, labels]
    worths = [_Worth(searched, own, lower) for own in (np.ones(len(chosen)), *again.astype(float))]
    _refuse_unreachable(searched, share, worths[0])
    circuit, *resampled = _in_step(searched, [_search(searched, worth, share) for worth in worths])
    order = sorted(circuit, key=lambda node: -searched.shares(frozenset([node])).max())
    scored = JointPatches(model, held_out, places, **options)
    drawn = [frozenset(matched(order, places, rng)) for _ in range(n_random)]
    scored.measure([frozenset(circuit), *drawn])
    found = _dataset(searched, scored, order, resampled, drawn, (confidence, seed))
    return found.assign_attrs(share=float(share), seed=seed, confidence=float(confidence))


class _Worth:
    """The worth of sets on weighted pairs: the smaller of what each surely restores and what its loss surely costs.

    Args:
        patches: Where sets are measured.
        weights: How often each pair counts, [pair].
        lower: The one-sided confidence of "surely".
    """

    def __init__(self, patches: JointPatches, weights: np.ndarray, lower: float) -> None:
        self.patches, self.weights, self.z = patches, weights, NormalDist().inv_cdf(lower)

    def __call__(self, which: NodeSet) -> float:
        shares = self.patches.shares(which, self.weights)
        if self.z:
            shares = shares - self.z * self.patches.errors(which, self.weights)
        return float(shares.min()) + ROUNDING_OF_SHARES

    def alone(self, node: int) -> float:
        """Return the larger of what a node restores and what its loss costs."""
        return float(self.patches.shares(frozenset([node]), self.weights).max())


def _search(patches: JointPatches, worth: _Worth, share: float) -> Search:
    """Search for a circuit; yield the sets that have to be measured before it goes on, and return what it found."""
    n = len(patches.nodes)
    yield [frozenset([node]) for node in range(n)]
    order = sorted(range(n), key=lambda node: -worth.alone(node))
    beginnings = [frozenset(order[:size]) for size in range(1, n + 1)]
    yield beginnings
    # All nodes together may fall short of the share on a resample; then all of them stay.
    circuit = next((one for one in beginnings if worth(one) >= share), beginnings[-1])
    while len(circuit) > 1:
        smaller = [circuit - {node} for node in reversed(order) if node in circuit]
        yield smaller
        best = max(smaller, key=worth)
        if worth(best) < share:
            break
        circuit = best
    return circuit


def _in_step(patches: JointPatches, searches: Sequence[Search]) -> list[NodeSet]:
    """Run searches to their ends; what all of them ask for at a step is measured in one call."""
    found: dict[int, NodeSet] = {}
    running = dict(enumerate(searches))
    while running:
        asked: list[NodeSet] = []
        for number, search in list(running.items()):
            try:
                asked += next(search)
            except StopIteration as end:
                found[number] = end.value
                del running[number]
        patches.measure(asked)
    return [found[number] for number in range(len(searches))]


def _refuse_unreachable(patches: JointPatches, share: float, worth: _Worth) -> None:
    """Raise ValueError if all nodes together do not surely reach the share."""
    everything = frozenset(range(len(patches.nodes)))
    if worth(everything) < share:
        restored, lost = patches.shares(everything)
        raise ValueError(
            f"all {len(patches.nodes)} nodes together restore {restored:.0%} of the gap, and {lost:.0%} is lost with "
            f"them, by the lower end of an interval {worth(everything):.0%}: share={share:g} needs more nodes "
            f"(nodes='{patches.nodes[0].edit.site.partition('.')[0]}' takes all heads and MLPs of a stack), other "
            "positions, a smaller share, or more pairs"
        )


def _dataset(
    searched: JointPatches,
    scored: JointPatches,
    order: Sequence[int],
    resampled: Sequence[NodeSet],
    drawn: Sequence[NodeSet],
    settings: tuple[float, int],
) -> "xr.Dataset":
    import xarray as xr

    nodes, circuit = searched.nodes, frozenset(order)
    clusters, counted = clusters_of(scored.pairs), np.abs(scored.gap) >= scored.min_gap
    change = np.where(counted, scored.change(circuit), np.nan)
    found = ratio_of_sums(change.T, scored.gap, clusters, *settings)
    alone = np.array([searched.shares(frozenset([node])) for node in range(len(nodes))])
    stability = [
        sum(node in one for one in resampled) / len(resampled) if resampled else np.nan for node in range(len(nodes))
    ]
    by_chance = np.array([scored.shares(one, counted.astype(float)) for one in drawn]).reshape(-1, 2)
    in_circuit = [node in circuit for node in range(len(nodes))]
    variables: dict[str, Any] = {
        "in_circuit": ("node", in_circuit),
        "restores": ("node", alone[:, 0]),
        "costs": ("node", alone[:, 1]),
        "stability": ("node", stability),
        "resampled_size": ("resample", [len(one) for one in resampled]),
    }
    for number, name in enumerate(("faithfulness", "completeness")):
        variables |= with_ends(name, (), [values[number] for values in (found.mean, found.low, found.high)])
        variables[f"random_{name}"] = ("draw", by_chance[:, number])
    here = searched.shares(circuit)
    return xr.Dataset(
        variables,
        coords={
            "node": np.array([node.name for node in nodes], object),
            "alike": ("node", np.array([repr(node.alike) for node in nodes], object)),
        },
        attrs={
            "circuit": [nodes[node].name for node in order], "n_nodes": len(nodes),
            "searched_faithfulness": float(here[0]), "searched_completeness": float(here[1]),
            "pairs": int(counted.sum()), "clusters": len(np.unique(clusters[counted])),
            "searched_pairs": len(searched.gap), "scored_ids": [*map(str, scored.pairs["id"])],
            "model": searched.model.cfg.name_or_path or "",
            "corruption": str(searched.options.get("corruption", "image")),
            "task": ", ".join(sorted({*map(str, searched.pairs["task"])})),
        },
    )  # fmt: skip
