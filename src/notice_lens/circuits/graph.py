"""The graph of a circuit: what its heads read, what they tell each other, and what they write to the answer.

Every edge is one exact patched run, denoised: the corrupted run, in which one thing alone is the clean run's.

| edge | what is clean |
| --- | --- |
| region or word → head | the head's keys or values there, or its queries at that word; everything after runs free |
| head → head | the path from what one writes to another's queries, keys or values |
| head → answer | the path from what it writes to the logits; in BLIP to the decoder, which runs free |

On a path other heads are frozen, while MLPs read what is sent, as in Wang et al. (arXiv 2211.00593): `patch_paths` with
`freeze_mlp=False`. So an edge says what one head tells another by way of no third head.

Effects of single edges do not add up to that of the circuit: a head that needs two inputs shows little for either.
Intervals are those of one edge at a time.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import numpy as np
import xarray as xr

from notice_lens.circuits.joint import refuse, with_ends
from notice_lens.errors import one_of
from notice_lens.models.blip.steps import OUTPUT
from notice_lens.models.hook_names import HookName
from notice_lens.models.protocol import axes
from notice_lens.patching.edits import Edit, check_model
from notice_lens.patching.engine.measure import Variant
from notice_lens.patching.engine.protocol import engine_of
from notice_lens.patching.engine.receivers import Receiver
from notice_lens.patching.grid import Grid, edits_at
from notice_lens.patching.nodes import MLP_MODULE, Node, nodes_of
from notice_lens.patching.options import JointOptions, Options
from notice_lens.patching.prepare import Prepared, prepare
from notice_lens.patching.results import CHANGE, gap
from notice_lens.patching.runner import SweepRunner
from notice_lens.stats.clusters import clusters_of
from notice_lens.stats.intervals import ratio_of_sums

if TYPE_CHECKING:
    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs
    from notice_lens.patching.nodes import Head

ANSWER = "answer"
"""The end of every circuit."""
WHOLE_IMAGE = "image"
ENOUGH_FOR_A_GRAPH, MOST_HEADS = 0.8, 12
"""Of a restoration curve: the share of the gap that its first heads restore, and how many of them are taken at most."""


class Edge(NamedTuple):
    """An edge of a graph, before it is measured.

    Attributes:
        source: A head's name, or a region or role.
        target: A head's name, or `answer`.
        via: The input of the target: `q`, `k`, `v`, or `mlp`; empty for the answer.
        variant: The patched run.
    """

    source: str
    target: str
    via: str
    variant: Variant


def circuit_graph(
    model: "VisionLanguageModel",
    pairs: "MinimalPairs",
    circuit: "xr.Dataset | Head | Iterable[Head]",
    *,
    labels: Sequence[str] | None = None,
    seed: int = 0,
    confidence: float = 0.95,
    **options: "Unpack[JointOptions]",
) -> xr.Dataset:
    """Measure the edges between the heads of a circuit, from the image and the words to the answer.

        circuit = circuits.minimal_circuit(model, pairs)
        graph = circuits.circuit_graph(model, pairs, circuit)
        viz.circuit(graph)

    Args:
        model: The model. Hooks on it are refused.
        pairs: Validated for it here. Of a result, those that scored it are used, so that no edge is measured on the
            pairs that chose its heads.
        circuit: A result of `circuits.minimal_circuit`; one of `circuits.restoration_curve`, whose first heads that
            restore four fifths are taken, 12 at most; or nodes by name (`text.cross_attn.L1.H3`).
        labels: Regions and roles that are read from, where a name is both `image:NAME` for the region; None takes all
            that the pairs have.
        seed: Of the bootstrap.
        confidence: Of the intervals, between 0 and 1.
        **options: As `patching.sweep`: `corruption`, `contrast`, `memory`, `progress`, ...

    Returns:
        Along `edge`, with the coordinates `source`, `target` and `via` (`q`, `k`, `v`, `mlp`, or empty for the answer):
        `effect`, the share of the gap that is restored, as a ratio of sums over pairs, with `effect_low` and
        `effect_high` by bootstrap over clusters; NaN where no pair has the label. Along `node`: `layer`. Attributes:
        `regions` and `roles` (what is read from), `pairs`, `clusters`, `note` where heads share keys and values.

    Raises:
        ValueError: There is no such node or label, or an option is out of range.
        TypeError: There is no option of that name, or this verb decides it.
        PairsError: The pairs do not hold for this model.

    Example:
        >>> from notice_lens import HookedBLIP, circuits
        >>> from notice_lens.pairs import mini_world
        >>> model, pairs = HookedBLIP.mini(), mini_world("states", n=4, seed=0)
        >>> heads = ["text.cross_attn.L1.H2", "text.cross_attn.L2.H2"]
        >>> graph = circuits.circuit_graph(model, pairs, heads, progress=False)
        >>> [str(one) for one in graph.target.values if one == "answer"]
        ['answer', 'answer']
    """
    refuse(options, "circuit_graph")
    check_model(model)
    names, pairs = _chosen(circuit, pairs)
    nodes = sorted(nodes_of(model, names), key=lambda node: (model.cfg.stacks.index(_stack(node)), node.layer))
    prepared = prepare(model, pairs, Options.of({**options, "metrics": CHANGE, "controls": ()}))
    plan = _Edges(prepared, nodes, labels)
    edges = plan.all()
    grid = Grid(("edge",), {"edge": list(range(len(edges)))}, [edge.variant for edge in edges])
    described = {"circuit": [node.name for node in nodes]}
    found = SweepRunner(prepared, grid, described).run()
    change, of_gap = (
        found[CHANGE].transpose("pair", "edge").values.astype(float),
        gap(found, direction="denoise").values,
    )
    counted = np.abs(of_gap) >= float(found.attrs["min_gap"])
    clusters = clusters_of(prepared.pairs)
    share = ratio_of_sums(np.where(counted[:, None], change, np.nan), of_gap, clusters, confidence, seed)
    note = _shared_keys(model, nodes)
    return xr.Dataset(
        with_ends("effect", ("edge",), [share.mean, share.low, share.high]),
        coords={
            **{part: ("edge", np.array([getattr(edge, part) for edge in edges], object)) for part in Edge._fields[:3]},
            "node": np.array([node.name for node in nodes], object),
            "layer": ("node", [node.layer for node in nodes]),
        },
        attrs={
            "regions": list(plan.regions), "roles": list(plan.roles), "pairs": int(counted.sum()),
            "clusters": len(np.unique(clusters[counted])), "confidence": float(confidence),
            "corruption": str(prepared.options.corruption), "model": model.cfg.name_or_path or "",
            "task": ", ".join(sorted({*map(str, prepared.pairs["task"])})), **({"note": note} if note else {}),
        },
    )  # fmt: skip


def _chosen(circuit: Any, pairs: "MinimalPairs") -> tuple[Any, "MinimalPairs"]:
    """Return the nodes of a circuit, and the pairs to measure it on."""
    if not isinstance(circuit, xr.Dataset):
        return circuit, pairs
    if {"order", "scored_in"} <= {*map(str, circuit.variables)}:
        names, scored = _first_heads(circuit)
    elif "circuit" in circuit.attrs:
        names, scored = list(circuit.attrs["circuit"]), {*circuit.attrs.get("scored_ids", ())}
    else:
        raise ValueError(
            "circuit: expected a result of circuits.minimal_circuit or restoration_curve, or nodes by name"
        )
    places = [place for place, one in enumerate(pairs["id"]) if str(one) in scored]
    return names, pairs.select(places) if places else pairs


def _first_heads(curve: xr.Dataset) -> tuple[list[str], set[str]]:
    """Return the first heads of one half's order that restore enough, and the ids of the pairs that they are scored on.

    Heads at words are the same heads here, at all positions.
    """
    enough = np.flatnonzero(curve["share"].sel(direction="denoise").values >= ENOUGH_FOR_A_GRAPH)
    size = int(curve["size"].values[enough[0]]) if len(enough) else MOST_HEADS
    order = [str(name).partition("@")[0] for name in curve["order"].values[0]]
    half = curve["scored_in"].values == 0
    return list(dict.fromkeys(order))[: max(1, min(size, MOST_HEADS))], {*map(str, curve["pair"].values[half])}


@dataclass
class _Edges:
    """The edges of a circuit.

    Args:
        prepared: The pairs.
        nodes: Of the circuit, in the order of the forward pass.
        labels: What is read from, or None.
    """

    prepared: Prepared
    nodes: Sequence[Node]
    labels: Sequence[str] | None

    def __post_init__(self) -> None:
        self.model, self.rules = self.prepared.model, engine_of(self.prepared.model).paths(self.prepared.model)
        self.regions: dict[str, None] = {}
        self.roles: dict[str, None] = {}
        if self.labels is not None:
            known = [name for stack in self.model.cfg.stacks for name in self.prepared.positions.names(stack)]
            for label in self.labels:
                if label not in known:
                    raise ValueError(one_of("region or role", label, list(dict.fromkeys(known))))

    def all(self) -> list[Edge]:
        """Return every edge, in the order of the forward pass."""
        edges = [edge for node in self.nodes for edge in self._read_by(node)]
        edges += [edge for sender in self.nodes for edge in self._told_by(sender)]
        return [edge._replace(variant=edge.variant._replace(at=(number,))) for number, edge in enumerate(edges)]

    def _read_by(self, node: Node) -> Iterator[Edge]:
        """Yield the edges from regions and words to a node."""
        for via, hook, head in self._inputs(node):
            leaf = hook.leaf
            axis = axes(self.model.cfg, _stack(node), leaf)[0]
            for label in self._labels_on(axis, of_queries=via not in ("k", "v")):
                edit = Edit(f"{_stack(node)}.{leaf}", node.layer, head, positions=[label])
                yield Edge(label, node.name, via, Variant((0,), tuple(edits_at(self.prepared, edit))))

    def _told_by(self, sender: Node) -> Iterator[Edge]:
        """Yield the edges from a node to later ones, and to the answer."""
        if _stack(sender) not in self.rules.stacks:
            return
        edits = tuple(edits_at(self.prepared, sender.edit("other")))
        for node in self.nodes:
            for via, hook, head in self._inputs(node):
                receiver = Receiver(str(hook), head, freeze_mlp=False)
                if self.rules.goes(_stack(sender), receiver) and self.rules.comes_before(edits[0].hook, receiver):
                    yield Edge(sender.name, node.name, via, Variant((0,), edits, receiver))
        if _stack(sender) == self.model.cfg.prompt_stack:
            answer = Receiver(f"{_stack(sender)}.{OUTPUT}", freeze_mlp=False)
            yield Edge(sender.name, ANSWER, "", Variant((0,), edits, answer))

    def _inputs(self, node: Node) -> Iterator[tuple[str, HookName, int | None]]:
        """Yield the inputs of a node: in short, the hook point, and the head there."""
        stack, _, module = node.module.partition(".")
        leaves = {"mlp": f"{MLP_MODULE}.hook_pre"} if node.head is None else {
            leaf: f"{module}.hook_{leaf}" for leaf in "qkv"
        }  # fmt: skip
        for via, leaf in leaves.items():
            if leaf in self.model.activations(stack) and leaf in self.rules.receivers:
                group = _group_size(self.model, node) if via in ("k", "v") else 1
                head = None if node.head is None else node.head // group
                yield via, HookName.parse(f"{stack}.blocks.{node.layer}.{leaf}"), head

    def _labels_on(self, axis: str, of_queries: bool) -> list[str]:
        """Return what is read from on an axis of positions, and note it; of queries words, where there are any."""
        positions, kinds = self.prepared.positions, self.model.cfg.streams[axis]
        roles = {name for one in positions.roles for name in one} if "prompt" in kinds else set()
        own = [name for name in positions.names(axis) if name != WHOLE_IMAGE or self.labels is not None]
        if of_queries and roles:
            own = [name for name in own if name in roles]
        if self.labels is not None:
            own = [name for name in own if name in self.labels]
        for name in own:
            (self.roles if name in roles else self.regions).setdefault(name)
        return own


def _stack(node: Node) -> str:
    return node.module.partition(".")[0]


def _group_size(model: Any, node: Node) -> int:
    """Return how many heads share keys and values in a node's module."""
    cfg = model.stack(_stack(node)).cfg
    return cfg.n_heads // cfg.n_key_value_heads


def _shared_keys(model: Any, nodes: Sequence[Node]) -> str:
    sizes = {_group_size(model, node) for node in nodes if node.head is not None} - {1}
    if not sizes:
        return ""
    return f"{max(sizes)} heads share their keys and values: edges by k and v are those of the group"
