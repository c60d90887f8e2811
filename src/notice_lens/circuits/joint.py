"""Joint patches of sets of nodes, both ways: what a set restores, what its loss costs, and where sets come from.

A *node* is a head, or an MLP, at all positions or at one label of them (a role, a region, a number). For a set S of
nodes, with sums over pairs and every change counted toward the run that the patch comes from,

    restored(S)   Σ change of the corrupted run, S patched clean / Σ gap        S is sufficient where it is 1
    lost(S)       Σ change of the clean run, S patched corrupted / Σ gap        S is necessary where it is 1

1. `nodes_at` names the nodes: of modules, of a list, or those that an earlier sweep has effects of.
2. `JointPatches` measures sets, each of them once, as variants of one exact call a direction. A node at a word or
   region that a pair does not have does nothing in that pair; pairs that have the same ones are measured together.
3. `halves` splits the pairs into two that share no image, so that a set is never scored on pairs that chose it.
4. `matched` draws random sets with as many nodes of each layer and label as a given order has.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from notice_lens.errors import one_of
from notice_lens.models.protocol import axes
from notice_lens.pairs.roles import IN_IMAGE
from notice_lens.patching.results import CHANGE, CONTROL, DIRECTIONS, dataset_of, gap
from notice_lens.stats.clusters import clusters_of

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs
    from notice_lens.patching import Edit

LABELLED = ("role", "region", "position")
SWEPT = ("each", "roles", "regions")
"""Positions that a sweep takes one after the other; a joint patch is made at all of its positions at once."""
ENDS = ("", "_low", "_high")
NodeSet = frozenset[int]


class NodeAt(NamedTuple):
    """A node at some positions.

    Attributes:
        name: Such as `text.cross_attn.L2.H2`, or `text.cross_attn.L2.H2@noun` at a label of positions.
        edit: The patch of it from the other run.
        alike: What random nodes share with it: module, layer, and label.
    """

    name: str
    edit: "Edit"
    alike: tuple[str, int | None, Any]


def nodes_at(model: "VisionLanguageModel", asked: Any, positions: Any) -> list[NodeAt]:
    """Return nodes by stacks, modules or names, at some positions.

    Args:
        model: The model.
        asked: `text` (all heads and MLPs of a stack), `text.cross_attn`, `text.cross_attn.L1.H3`, one or several; None
            takes the heads of the model's default site.
        positions: Where they are patched, as an `Edit` takes them.

    Raises:
        ValueError: There is no stack, module or node of that name, nothing was asked for, or the positions are those of
            a sweep.
    """
    from notice_lens.patching.nodes import universe_of

    if isinstance(positions, str) and positions in SWEPT:
        raise ValueError(
            f"positions={positions!r}: a joint patch is made at all of its positions at once; expected 'all', or names "
            "of roles or regions, or numbers"
        )
    found = universe_of(model, model.cfg.default_site if asked is None else asked)
    return [
        NodeAt(node.name, replace(node.edit("other"), positions=positions), (node.module, node.layer, None))
        for node in found
    ]


def nodes_of_effects(effects: "xr.Dataset") -> tuple[list[NodeAt], np.ndarray]:
    """Return the nodes that a result has effects of, and their changes toward the run patched from, [pair, node].

    Args:
        effects: A result of `patching.patch_heads`, at all positions or by role, region or position.

    Raises:
        ValueError: It is of something else than single heads.
    """
    from notice_lens.patching import Edit

    sites = json.loads(effects.attrs.get("sites", "[]"))
    dims = [str(dim) for dim in effects[CHANGE].dims if dim != "pair"] if CHANGE in effects else []
    expected = "expected the result of patching.patch_heads, by layer and head, perhaps by role, region or position"
    if (
        not isinstance(sites, list)
        or len(sites) != 1
        or dims[:2] != ["layer", "head"]
        or not {*dims[2:]} <= {*LABELLED}
    ):
        raise ValueError(f"effects have the dimensions {', '.join(dims) or 'of no patches'}; {expected}")
    module = f"{sites[0]['stack']}.{sites[0]['activation'].rpartition('.')[0]}"
    sign = -1 if effects.attrs.get("direction") == "noise" else 1
    label_dim = dims[2] if len(dims) == 3 else None
    nodes = []
    for layer in effects["layer"].values.tolist():
        for head in effects["head"].values.tolist():
            for label in effects[label_dim].values.tolist() if label_dim else [None]:
                # One label is a list of one, lest a role that is called `all` or `each` be taken for all positions.
                places = "all" if label is None else [IN_IMAGE + label if label_dim == "region" else label]
                at = "" if label is None else f"@{label}"
                edit = Edit(f"{module}.z", layer, head, positions=places, source="other")
                nodes.append(NodeAt(f"{module}.L{layer}.H{head}{at}", edit, (module, layer, label)))
    changes = effects[CHANGE].transpose("pair", *dims).values.astype(float)
    return nodes, sign * np.nan_to_num(changes).reshape(len(changes), -1)


class JointPatches:
    """Sets of nodes patched jointly on some pairs, in both directions; each set is measured once.

    Args:
        model: The model.
        pairs: The pairs.
        nodes: What sets are made of; a set holds their numbers.
        **options: As `patching.sweep`, less `direction`, `metrics`, `controls` and `store`.

    Attributes:
        gap: The clean run's logit difference minus the corrupted one's, [pair]; there once something was measured.
        base: The unpatched logit difference of the run that each direction patches, [direction, pair].
    """

    def __init__(
        self,
        model: "VisionLanguageModel",
        pairs: "MinimalPairs",
        nodes: Sequence[NodeAt],
        **options: Any,
    ) -> None:
        self.model, self.pairs, self.nodes, self.options = model, pairs, nodes, options
        self.gap, self.base = np.zeros(0), np.zeros((2, 0))
        self.min_gap = 0.0
        self._rows = clusters_of(pairs)
        self._groups = _alike(model, pairs, nodes)
        self._changes: dict[NodeSet, np.ndarray] = {}
        self._from_donors: dict[NodeSet, np.ndarray] = {}

    def measure(self, sets: Iterable[NodeSet], donors: bool = False) -> None:
        """Measure the sets that are not known yet, in one call for each direction.

        Args:
            sets: Which.
            donors: Whether they are also patched clean from each pair's mismatched donor.
        """
        known = self._from_donors if donors else self._changes
        new = [one for one in dict.fromkeys(sets) if one and one not in known]
        if not new:
            return
        n = len(self.pairs)
        changes, from_donors = np.zeros((len(new), 2, n)), np.full((len(new), n), np.nan)
        self.gap, self.base = np.zeros(n), np.zeros((2, n))
        for members, edits in self._groups:
            # Sets that are the same in these pairs are measured once; an empty one changes nothing.
            here = [frozenset(one & edits.keys()) for one in new]
            unlike = list(dict.fromkeys(one for one in here if one)) or [frozenset()]
            variants = [[edits[node] for node in sorted(one)] for one in unlike]
            change, from_donor = self._measured(members, variants, donors)
            place = {one: number for number, one in enumerate(unlike)}
            for number, one in enumerate(here):
                if one:
                    changes[number][:, members] = change[place[one]]
                    from_donors[number, members] = from_donor[place[one]]
                else:
                    from_donors[number, members] = 0.0
        self._changes |= dict(zip(new, changes, strict=True))
        if donors:
            self._from_donors |= dict(zip(new, from_donors, strict=True))

    def _measured(
        self, members: np.ndarray, variants: list[list["Edit"]], with_donors: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Measure variants on some pairs: changes [variant, direction, pair] and those from donors [variant, pair]."""
        from notice_lens.patching import run_variants

        some = self.pairs.select(members.tolist())
        # Where these pairs have no node of any set, their gap is wanted all the same: a patch of any node tells it.
        asked = {
            str(number): edits or [replace(self.nodes[0].edit, positions="all")]
            for number, edits in enumerate(variants)
        }
        found = []
        for direction in DIRECTIONS:
            controls = ("mismatched",) if with_donors and direction == "denoise" else ()
            settings = {**self.options, "metrics": CHANGE, "direction": direction, "controls": controls}
            found.append(run_variants(self.model, some, asked, **settings))
        first = found[0]
        self.gap[members] = gap(first, direction="denoise").values
        self.base[:, members] = first.logit_diff_corrupt.values, first.logit_diff_clean.values
        self.min_gap = float(first.attrs["min_gap"])
        toward = [
            sign * one[CHANGE].transpose("variant", "pair").values for sign, one in zip((1, -1), found, strict=True)
        ]
        donors = np.full((len(asked), len(members)), np.nan)
        if CHANGE + CONTROL in first:
            donors = first[CHANGE + CONTROL].transpose("variant", "pair").values.astype(float)
        return np.stack(toward, 1).astype(float), donors

    def change(self, which: NodeSet) -> np.ndarray:
        """Return the changes by a measured set, toward the run that they come from, in logits, [direction, pair]."""
        return self._changes[which] if which else np.zeros((2, len(self.gap)))

    def from_donors(self, which: NodeSet) -> np.ndarray:
        """Return the changes by a set that was measured with donors, [pair]; NaN for pairs without a donor."""
        return self._from_donors.get(which, np.full(len(self.gap), np.nan)) if which else np.zeros(len(self.gap))

    def shares(self, which: NodeSet, weights: np.ndarray | None = None) -> np.ndarray:
        """Return the share that a set restores, and the share that its loss costs, [direction].

        Args:
            which: A measured set.
            weights: How often each pair counts, [pair]; None counts each once.
        """
        weights = np.ones(len(self.gap)) if weights is None else weights
        return self.change(which) @ weights / (self.gap @ weights)

    def errors(self, which: NodeSet, weights: np.ndarray) -> np.ndarray:
        """Return the standard error of each of these shares over clusters of pairs, [direction].

        It is that of a ratio, by its linear part (Hinkley 1977); a cluster that counts k times is k draws of it.
        """
        counts = np.zeros(self._rows.max() + 1)
        counts[self._rows] = weights  # the same for all pairs of a cluster
        residuals = self.change(which) - self.shares(which, weights)[:, None] * self.gap
        of_clusters = np.stack([np.bincount(self._rows, own, len(counts)) for own in residuals])
        draws = counts.sum()
        return np.sqrt(of_clusters**2 @ counts * draws / max(draws - 1, 1)) / abs(self.gap @ weights)


def _alike(
    model: "VisionLanguageModel", pairs: "MinimalPairs", nodes: Sequence[NodeAt]
) -> list[tuple[np.ndarray, dict[int, "Edit"]]]:
    """Return pairs by the labels that they have: their numbers, and by node the patch at those of its labels.

    A node without any of its labels in these pairs is left out.
    """
    from notice_lens.patching import Site
    from notice_lens.patching.positions import Positions

    positions = Positions(model, pairs)
    labels: dict[tuple[str, Any], np.ndarray] = {}
    asked: list[list[tuple[str, Any]]] = []
    for node in nodes:
        spec = node.edit.positions
        own = [] if isinstance(spec, str) and spec == "all" else [spec] if isinstance(spec, str | int) else list(spec)
        site = Site.of(model, node.edit.site)
        axis = axes(model.cfg, site.stack, site.activation)[0]
        asked.append([(axis, label) for label in own])
        for label in own:
            if (axis, label) not in labels:
                lengths = [positions.layout.length(axis, pair) for pair in range(len(pairs))]
                there = [len(positions.of(pair, label, axis, length)) > 0 for pair, length in enumerate(lengths)]
                if not any(there):
                    known = list(dict.fromkeys(name for one in positions.named(axis) for name in one))
                    raise ValueError(f"{node.edit.site}: " + one_of("role or region", str(label), [*known, "all"]))
                labels[axis, label] = np.array(there)
    patterns = np.array(list(labels.values())).reshape(len(labels), len(pairs)).T
    kinds, which = np.unique(patterns, axis=0, return_inverse=True)
    groups = []
    for number, kind in enumerate(kinds):
        has = dict(zip(labels, kind.tolist(), strict=True))
        edits = {}
        for node, own in enumerate(asked):
            kept = [label for axis, label in own if has[axis, label]]
            if kept or not own:
                edits[node] = replace(nodes[node].edit, positions=kept) if own else nodes[node].edit
        groups.append((np.flatnonzero(which.reshape(-1) == number), edits))
    return groups


def with_ends(name: str, dims: tuple[str, ...], found: Sequence[Any]) -> dict[str, Any]:
    """Return a share and the ends of its interval as variables `{name}`, `{name}_low` and `{name}_high`."""
    return {name + end: (dims, values) for end, values in zip(ENDS, found, strict=True)}


def halves(pairs: "MinimalPairs", seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of two halves of the pairs that share no image, as equal as clusters allow.

    Raises:
        ValueError: All pairs are one cluster.
    """
    labels = clusters_of(pairs)
    sizes = np.bincount(labels)
    if len(sizes) < 2:
        raise ValueError(
            f"{len(labels)} pairs are linked by shared images to one cluster, and cannot be split into a half that "
            "chooses heads and one that scores them; take pairs with images of their own"
        )
    totals, side = [0, 0], np.zeros(len(sizes), int)
    # The largest first, each to the smaller half; chance decides among clusters of one size.
    for cluster in sorted(np.random.default_rng(seed).permutation(len(sizes)).tolist(), key=lambda one: -sizes[one]):
        side[cluster] = int(totals[1] < totals[0])
        totals[side[cluster]] += int(sizes[cluster])
    first, second = (np.flatnonzero(side[labels] == which) for which in (0, 1))
    return first, second


def matched(order: Sequence[int], nodes: Sequence[NodeAt], rng: np.random.Generator) -> list[int]:
    """Return a random order of the nodes whose beginnings have as many of each layer and label as those of `order`."""
    kinds: dict[Any, list[int]] = {}
    for number, node in enumerate(nodes):
        kinds.setdefault(node.alike, []).append(number)
    drawn = {kind: iter(rng.permutation(own).tolist()) for kind, own in kinds.items()}
    return [next(drawn[nodes[number].alike]) for number in order]


def refuse(options: Mapping[str, Any], what: str) -> None:
    """Raise TypeError for options that a verb of joint patches decides itself."""
    for name in ("direction", "metrics", "controls", "store", "part", "source"):
        if name in options:
            raise TypeError(
                f"{name}: {what} decides it itself: patches both ways, logit differences, from the other run"
            )


def of_these(effects: Any, pairs: "MinimalPairs") -> "xr.Dataset":
    """Return effects as a Dataset, checked to be of these pairs.

    Raises:
        ValueError: They are of other pairs, or of pairs in another order.
    """
    found = dataset_of(effects)
    if list(found["pair"].values) != list(pairs["id"]):
        raise ValueError("effects are of other pairs than those given, or in another order; sweep these pairs again")
    return found
