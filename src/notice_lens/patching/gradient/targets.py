"""Sites that are attributed to: how their results are laid out, and what has to be recorded for them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from notice_lens.models.protocol import TABLES
from notice_lens.patching.edits import WITH_HEADS, Site
from notice_lens.patching.grid import NUMBERED, Grid, SiteGrid
from notice_lens.patching.prepare import Prepared

EMBEDDING_LAYER = -1
"""The layer of what belongs to none, such as the embedding."""

NEURONS = ("mlp.hook_pre", "mlp.hook_post")
"""Hook points of single neurons."""

QUERIES, KEYS, BOTH = "queries", "keys", "both"
THROUGH_SOFTMAX = {
    "hook_q": QUERIES,
    "hook_rot_q": QUERIES,
    "hook_k": KEYS,
    "hook_rot_k": KEYS,
    "hook_attn_scores": BOTH,
}
"""Hook points before a softmax, and what of it a patch moves."""

HEAD_HOOKS = ("hook_q", "hook_k", "hook_v", "hook_z")
"""What scores, patterns and their gradients are made of."""


@dataclass(frozen=True)
class Target:
    """A site that is attributed to, and how its result is laid out.

    Attributes:
        site: The site.
        coords: Labels of each dimension after `pair`, in their order: as a sweep of the site has them, and last
            `neuron` where there is that.
        axis: What its positions are.
        key_axis: What its keys are, of scores and patterns.
        corrected: Whether the softmax is computed again.
    """

    site: Site
    coords: Mapping[str, list[Any]]
    axis: str
    key_axis: str | None
    corrected: bool

    @classmethod
    def of(cls, prepared: Prepared, site: Site, neurons: bool, corrected: bool) -> "Target":
        """Return a target with its labels.

        Args:
            prepared: The pairs.
            site: The site.
            neurons: Whether it has a dimension of neurons, if it is of neurons.
            corrected: Whether to compute the softmax again, if it is before one.
        """
        layout = SiteGrid.of(prepared, site)
        coords = dict(layout.coords)
        if neurons and site.activation in NEURONS:
            coords["neuron"] = list(range(prepared.model.stack(site.stack).cfg.d_mlp))
        coords = {dim: sorted(labels) if dim in NUMBERED else labels for dim, labels in coords.items()}
        leaf = site.activation.rpartition(".")[2]
        # Before a norm over all heads, a head's query moves those of the others: not by a softmax of its own alone.
        alone = leaf in THROUGH_SOFTMAX and not (
            leaf in HEAD_HOOKS and prepared.model.stack(site.stack).cfg.norm_over_heads
        )
        return cls(site, coords, layout.axis, layout.key_axis, corrected and alone)

    @property
    def module(self) -> str:
        """`attn`, `cross_attn`, `mlp`, or nothing."""
        return self.site.activation.rpartition(".")[0]

    @property
    def leaf(self) -> str:
        """The last part of the activation's name."""
        return self.site.activation.rpartition(".")[2]

    @property
    def moves(self) -> str:
        """What of the softmax a patch moves: `queries`, `keys`, or `both`; nothing where it is behind it."""
        return THROUGH_SOFTMAX.get(self.leaf, "")

    @property
    def with_heads(self) -> bool:
        """True where its activation has an axis of heads."""
        return self.leaf in WITH_HEADS

    @property
    def activation(self) -> str:
        """The activation that is differentiated; for a head's result its z: it is linear in that, and smaller."""
        return f"{self.module}.hook_z" if self.leaf == "hook_result" else self.site.activation

    @property
    def layers(self) -> tuple[int, ...]:
        """Its layers; -1 for the embedding."""
        return self.site.layers or (EMBEDDING_LAYER,)

    def has(self, stack: str, layer: int) -> bool:
        """Return whether a block has some of it; the embedding is layer -1."""
        return stack == self.site.stack and layer in self.layers

    @property
    def grid(self) -> Grid:
        """The shape of the result."""
        return Grid(tuple(self.coords), self.coords, ())

    @property
    def needs(self) -> list[str]:
        """Hook points to record, without stack and layer."""
        aside = [f"{self.module}.{own}" for own in HEAD_HOOKS] if self.corrected or self.leaf in TABLES else []
        own = [] if self.corrected and self.leaf in TABLES else [self.activation]
        return [*aside, *(name for name in own if name not in aside)]

    def labels(self, prefix: str = "") -> list[Any]:
        """Labels of the positions, of the keys with the prefix `key_`; None alone stands for all of them at once."""
        dims = (f"{prefix}{dim}" for dim in ("role", "region", "position"))
        return next((list(self.coords[dim]) for dim in dims if dim in self.coords), [None])


def wanted(targets: Iterable[Target]) -> dict[tuple[str, int], list[str]]:
    """Hook points to record, by stack and layer."""
    found: dict[tuple[str, int], list[str]] = {}
    for target in targets:
        for layer in target.site.layers or (EMBEDDING_LAYER,):
            names = found.setdefault((target.site.stack, layer), [])
            names += [name for name in target.needs if name not in names]
    # Tables are made of the others.
    return {place: sorted(names, key=lambda name: name.endswith(TABLES)) for place, names in found.items()}
