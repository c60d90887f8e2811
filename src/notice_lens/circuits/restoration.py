"""The restoration curve: how much of the answer the best heads carry together, for every number of them.

Single effects undersell a model that spreads its work: no head may restore more than a tenth of the gap, and eight of
them together nearly all of it. So

1. split the pairs into two halves that share no image;
2. rank the heads on one half, by what each restores and what its loss costs;
3. on the other half patch the first k of them *jointly*, for every k and in both directions; so no pair scores a
   choice that it took part in;
4. exchange the halves, and put both together: every pair is scored once;
5. beside it, random heads: as many of each layer, many times over.

All of it is exact, since a joint patch is one more variant of a sweep.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from notice_lens.circuits.joint import (
    JointPatches,
    NodeAt,
    NodeSet,
    halves,
    matched,
    nodes_at,
    nodes_of_effects,
    of_these,
    refuse,
    with_ends,
)
from notice_lens.errors import whole_number
from notice_lens.pairs.corruption import CORRUPTIONS
from notice_lens.patching.options import JointOptions, PositionSpec
from notice_lens.patching.results import DIRECTIONS
from notice_lens.stats.clusters import clusters_of
from notice_lens.stats.intervals import ratio_of_sums

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs
    from notice_lens.patching.nodes import Head

EVERY = 12
"""Up to so many nodes, every number of them is patched; beyond, there are four for each doubling."""


def restoration_curve(
    model: "VisionLanguageModel",
    pairs: "MinimalPairs",
    effects: "xr.Dataset | None" = None,
    *,
    nodes: "Head | Iterable[Head] | None" = None,
    positions: PositionSpec = "all",
    sizes: Sequence[int] | None = None,
    n_random: int = 20,
    seed: int = 0,
    confidence: float = 0.95,
    **options: "Unpack[JointOptions]",
) -> "xr.Dataset":
    """Patch the k best heads jointly, for every k, on pairs that did not rank them.

        curve = circuits.restoration_curve(model, pairs)
        curve.share.sel(direction="denoise")          # size: share of the gap that the first k heads restore
        viz.curve(curve)

    Args:
        model: The model. Hooks on it are refused.
        pairs: Validated for it here; 20 or more, with images of their own.
        effects: A result of `patching.patch_heads` on these pairs: its heads (at its roles, regions or positions, if it
            has such) are ranked by its effects. None measures single heads in both directions, and ranks by the mean of
            what each restores and what its loss costs.
        nodes: Where no effects are given, what is ranked: modules (`text.cross_attn`), whole stacks (`text`: heads and
            MLPs) or nodes by name. None takes the heads of `model.cfg.default_site`.
        positions: Where no effects are given, the positions at which nodes are patched.
        sizes: How many nodes are patched at once, each 1 or more. None takes every number up to 12, and beyond that
            four for each doubling, to all of them.
        n_random: Random orders of the nodes, each with as many of every layer as the ranked one has at every size.
        seed: Of the halves, the random orders and the bootstrap.
        confidence: Of the intervals, between 0 and 1.
        **options: As `patching.sweep`: `corruption`, `contrast`, `memory`, `progress`, ...

    Returns:
        Along `direction` (`denoise`: patched clean into the corrupted run, which is restored; `noise`: the reverse,
        what is lost) and `size` (0 to all): `share` of the gap, a ratio of sums over pairs, and `turned`, the share of
        pairs whose answer turns from the one to the other (the sign of the logit difference; of pairs whose two runs
        differ in it), each with `_low` and `_high`, intervals by bootstrap over clusters of pairs. `random` is the mean
        share of random orders, `random_low` and `random_high` their range (quantiles of `confidence`), `random_p` the
        share of random orders, the ranked one counted among them, that do at least as well. `mismatched`, with ends,
        is what the same nodes restore from each pair's mismatched donor (`denoise` alone; NaN without donors). Along
        `pair`: `change` in logits, `gap`, and the coordinate `half`. `order` [half, rank] names the nodes as each half
        was scored with them. Attributes: `pairs`, `clusters`, `n_nodes`, and the settings.

    Raises:
        ValueError: There is no such node or role, effects are of other pairs or of noise that was not given again, all
            pairs are one cluster, or a size is out of range.
        TypeError: There is no option of that name, or this verb decides it.
        PairsError: The pairs do not hold for this model.

    Example:
        >>> from notice_lens import HookedBLIP, circuits
        >>> from notice_lens.pairs import mini_world
        >>> model, pairs = HookedBLIP.mini(), mini_world("states", n=8, seed=0)
        >>> curve = circuits.restoration_curve(model, pairs, sizes=[4, 24], n_random=2, progress=False)
        >>> dict(curve.share.sizes)
        {'direction': 2, 'size': 3}
    """
    refuse(options, "restoration_curve")
    whole_number("n_random", n_random, 0)
    whole_number("seed", seed, 0)
    pairs = pairs.validate(model)
    singles = None
    if effects is None:
        places = nodes_at(model, nodes, positions)
    else:
        if nodes is not None:
            raise TypeError("effects and nodes were given; the nodes are those that the effects are of")
        places, singles = nodes_of_effects(of_these(effects, pairs))
        options = {"corruption": _corruption_of(effects), **options} if "corruption" not in options else options
    sizes = curve_sizes(sizes, len(places))
    split = halves(pairs, seed)
    parts = [JointPatches(model, pairs.select(half.tolist()), places, **options) for half in split]
    worth = _alone(parts, len(places)) if singles is None else [singles[half].sum(0) for half in split]
    # Each half is scored in the order of the other.
    orders = [np.argsort(-own, kind="stable").tolist() for own in reversed(worth)]
    rng = np.random.default_rng(seed)
    chains = [[order, *(matched(order, places, rng) for _ in range(n_random))] for order in orders]
    for part, (ranked, *drawn) in zip(parts, chains, strict=True):
        part.measure((frozenset(ranked[:size]) for size in sizes), donors=True)
        part.measure(frozenset(order[:size]) for order in drawn for size in sizes)
    scored = _Scored(parts, split, clusters_of(pairs), confidence, seed)
    return scored.dataset(pairs, places, sizes, chains)


def _alone(parts: Sequence[JointPatches], n_nodes: int) -> list[np.ndarray]:
    """Return what each node does by itself on each half: the mean of what it restores and what its loss costs."""
    nodes = [frozenset([node]) for node in range(n_nodes)]
    for part in parts:
        part.measure(nodes)
    return [np.mean([part.shares(node) for node in nodes], axis=1) for part in parts]


class _Scored:
    """Both halves, each scored with its own sets, as one set of pairs."""

    def __init__(
        self,
        parts: list[JointPatches],
        split: tuple[np.ndarray, ...],
        clusters: np.ndarray,
        confidence: float,
        seed: int,
    ) -> None:
        self.parts, self.back = parts, np.argsort(np.concatenate(split))
        self.clusters, self.confidence, self.seed = clusters, confidence, seed
        self.half = np.concatenate([np.full(len(half), which) for which, half in enumerate(split)])[self.back]
        self.gap = np.concatenate([part.gap for part in parts])[self.back]
        self.base = np.concatenate([part.base for part in parts], axis=-1)[:, self.back]
        self.counted = np.abs(self.gap) >= parts[0].min_gap

    def changes(self, sets: Sequence[NodeSet]) -> np.ndarray:
        """Return the changes by one set for each half, [direction, pair]."""
        return np.concatenate([part.change(one) for part, one in zip(self.parts, sets, strict=True)], -1)[:, self.back]

    def from_donors(self, sets: Sequence[NodeSet]) -> np.ndarray:
        """Return the changes by one set for each half from the donors, [pair]."""
        found = [part.from_donors(one) for part, one in zip(self.parts, sets, strict=True)]
        return np.concatenate(found)[self.back]

    def ratio(self, top: np.ndarray, bottom: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the ratio of sums over pairs, [...], and the ends of its interval; `top` is [..., pair]."""
        values = np.moveaxis(np.where(self.counted, top, np.nan), -1, 0)
        found = ratio_of_sums(values, bottom, self.clusters, self.confidence, self.seed)
        return found.mean, found.low, found.high

    def dataset(
        self,
        pairs: "MinimalPairs",
        nodes: Sequence[NodeAt],
        sizes: Sequence[int],
        chains: Sequence[Sequence[Sequence[int]]],
    ) -> "xr.Dataset":
        """Return the result.

        Args:
            pairs: All of them.
            nodes: What orders are of.
            sizes: How many of an order are patched.
            chains: For each half the ranked order, and the random ones behind it.
        """
        import xarray as xr

        at = [[[frozenset(chain[:size]) for chain in draws] for draws in zip(*chains, strict=True)] for size in sizes]
        change = np.stack([self.changes(own[0]) for own in at], 1)
        differ = (self.base[0] < 0) & (self.base[1] > 0)
        after = self.base[:, None] + np.array([1, -1])[:, None, None] * change
        turned = np.stack([after[0] > 0, after[1] < 0]).astype(float)
        donors = np.stack([self.from_donors(own[0]) for own in at])
        has_donor = np.where(np.isnan(donors).any(0), np.nan, self.gap)
        by_chance = np.array([[self._share(self.changes(sets)) for sets in own[1:]] for own in at]).reshape(
            len(sizes), -1, 2
        )
        share = self.ratio(change, self.gap)
        along = ("direction", "size")
        variables: dict[str, Any] = {
            **with_ends("share", along, share),
            **with_ends("turned", along, self.ratio(turned, np.where(differ, 1.0, np.nan))),
            **with_ends("mismatched", ("size",), self.ratio(donors, has_donor)),
            **_random(by_chance, share[0], self.confidence, along),
            "change": (("direction", "size", "pair"), change),
            "gap": ("pair", self.gap),
            "order": (("half", "rank"), np.array([[nodes[n].name for n in own[0]] for own in chains], object)),
        }
        first = self.parts[0]
        settings = {name: str(value) for name, value in first.options.items() if name in ("corruption", "contrast")}
        return xr.Dataset(
            variables,
            coords={
                "direction": np.array(DIRECTIONS, object),
                "size": list(sizes),
                "pair": np.array(pairs["id"], object),
                "scored_in": ("pair", self.half),
                "task": ("pair", np.array(pairs["task"], object)),
            },
            attrs={
                "corruption": "image", **settings, "n_nodes": len(nodes), "n_random": by_chance.shape[1],
                "pairs": int(self.counted.sum()), "pairs_left_out": int((~self.counted).sum()),
                "clusters": len(np.unique(self.clusters[self.counted])), "pairs_that_can_turn": int(differ.sum()),
                "confidence": float(self.confidence), "seed": self.seed, "model": first.model.cfg.name_or_path or "",
            },
        )  # fmt: skip

    def _share(self, change: np.ndarray) -> np.ndarray:
        """Return the share of the gap, [direction], of changes [direction, pair]."""
        return change[:, self.counted].sum(-1) / self.gap[self.counted].sum()


def curve_sizes(asked: Sequence[int] | None, n: int) -> list[int]:
    """Return how many nodes are patched at once: none, what was asked for, and all where nothing was."""
    if asked is None:
        grown = [round(EVERY * 2 ** (step / 4)) for step in range(1, 4 * n.bit_length())]
        return sorted({*range(min(EVERY, n) + 1), *(size for size in grown if size < n), n})
    for size in asked:
        whole_number("sizes", size, 1)
        if size > n:
            raise ValueError(f"size {size} asked for; there are {n} nodes")
    return sorted({0, *(int(size) for size in asked)})


def _corruption_of(effects: "xr.Dataset") -> Any:
    """Return the corruption of a result, if a name says it; noise has to be given again."""
    corruption = effects.attrs.get("corruption", "image")
    if corruption not in CORRUPTIONS:
        raise ValueError(f"effects are of the corruption {corruption}; pass the same noise as corruption=Noise(...)")
    return corruption


def _random(
    shares: np.ndarray, ranked: np.ndarray, confidence: float, along: tuple[str, ...]
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Return mean, range and p of random orders, from their shares and the ranked one's.

    Args:
        shares: [size, draw, direction].
        ranked: [direction, size].
        confidence: Of the range.
        along: The dimensions of the returned array.
    """
    by_draw = np.moveaxis(shares, -1, 0)
    if not by_draw.shape[-1]:
        nothing = np.full(ranked.shape, np.nan)
        return {f"random{ending}": (along, nothing) for ending in ("", "_low", "_high", "_p")}
    tail = (1 - confidence) / 2
    low, high = np.quantile(by_draw, [tail, 1 - tail], axis=-1)
    as_good = (by_draw >= ranked[..., None] - 1e-9).sum(-1)
    p = (1 + as_good) / (1 + by_draw.shape[-1])
    return {
        "random": (along, by_draw.mean(-1)), "random_low": (along, low), "random_high": (along, high),
        "random_p": (along, p),
    }  # fmt: skip
