"""Attention knock-outs: the clean answer without some of a head's attention, or without the head."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from notice_lens.circuits.functions.scores import BACKGROUND, region_masks
from notice_lens.coco import run_lengths
from notice_lens.models.protocol import image_stream

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs

AT_OUTLIERS, BESIDE_OUTLIERS = "patches: outliers", "patches: others outside the regions"


class KnockoutChanges(NamedTuple):
    """Changes of the logit difference when attention of heads of one layer is knocked out, by pair.

    Attributes:
        inside: Attention knocked out inside the region, or at outliers.
        outside: Attention knocked out at all other patches, or at all others outside the regions.
        ablated: The head ablated.
    """

    inside: Float[np.ndarray, "pair head"]
    outside: Float[np.ndarray, "pair head"]
    ablated: Float[np.ndarray, "pair head"]

    def take(self, pairs: Float[np.ndarray, " pair"] | np.ndarray) -> "KnockoutChanges":
        """Return the changes of some pairs."""
        return KnockoutChanges(*(values[pairs] for values in self))


class Knockout(NamedTuple):
    """Attention that is set to zero, in every head of a layer in turn.

    Attributes:
        layer: Which layer.
        role: From whose words.
        inside: The region, or `AT_OUTLIERS`.
    """

    layer: int
    role: str
    inside: str

    @property
    def outside(self) -> str:
        """Return the name of the patches that it is compared with."""
        return BESIDE_OUTLIERS if self.inside == AT_OUTLIERS else f"patches: outside {self.inside}"


class Knockouts:
    """Knocks out attention of heads and measures, in the clean run, the change of the logit difference.

    Args:
        model: The model.
        pairs: The pairs.
        functions: What `head_functions` gave for them.
        ablation: What takes a head's place: `mean` (over all clean runs, by role) or `zero`.
        **options: As `notice_lens.patching.sweep`.

    Attributes:
        gap: Mean logit difference of the clean runs minus that of the corrupted ones; NaN before anything is measured.
    """

    def __init__(
        self,
        model: "VisionLanguageModel",
        pairs: "MinimalPairs",
        functions: "xr.Dataset",
        ablation: str,
        **options: Any,
    ) -> None:
        self.model, self.options = model, {"controls": (), **options}
        self.module = str(functions.attrs["site"]).removesuffix(".hook_pattern")
        self.n_heads, self.ablation = functions.sizes["head"], ablation
        self.pairs = _with_patches(model, pairs, functions)
        self.gap = np.nan

    def changes(self, knockouts: Sequence[Knockout]) -> dict[Knockout, KnockoutChanges]:
        """Return changes for every head of each knock-out's layer, NaN for pairs that have no such role or region."""
        edits: dict[str, Any] = {}
        ablations: dict[str, Any] = {}
        for knockout in knockouts:
            for head in range(self.n_heads):
                for side in (knockout.inside, knockout.outside):
                    edits[_name(knockout, head, side)] = self._without(knockout, head, side)
                ablations[_name(knockout, head)] = self.ablated(knockout.layer, head, knockout.role)
        changes = self.measure(edits | ablations)
        return {
            knockout: KnockoutChanges(
                *(
                    np.stack([changes[_name(knockout, head, side)] for head in range(self.n_heads)], axis=-1)
                    for side in (knockout.inside, knockout.outside, None)
                )
            )
            for knockout in knockouts
        }

    def measure(self, variants: Mapping[str, Any]) -> dict[str, Any]:
        """Return the changes of each variant, [pair], in logits."""
        from notice_lens.patching import run_variants
        from notice_lens.patching.results import gap

        if not variants:
            return {}
        settings = {"metrics": "logit_diff_change", "direction": "noise", **self.options}
        effects = run_variants(self.model, self.pairs, dict(variants), **settings)
        self.gap = float(gap(effects, direction="denoise").mean())
        return dict(zip(variants, effects["logit_diff_change"].values.astype(float).T, strict=True))

    def ablated(self, layer: int, head: int, role: str) -> Any:
        """Return the edit that ablates a head at a role."""
        from notice_lens.patching import Edit

        return Edit(f"{self.module}.z", layer=layer, head=head, positions=role, source=self.ablation)

    def _without(self, knockout: Knockout, head: int, side: str) -> Any:
        from notice_lens.patching import Edit

        return Edit(
            f"{self.module}.pattern", layer=knockout.layer, head=head, positions=knockout.role, keys=side, source="zero"
        )


def _name(knockout: Knockout, head: int, side: str | None = None) -> str:
    """Return a variant's name; ablations are the same for all regions."""
    return f"L{knockout.layer}.H{head} {knockout.role}" + (f" | {side}" if side else "")


def _with_patches(model: "VisionLanguageModel", pairs: "MinimalPairs", functions: "xr.Dataset") -> "MinimalPairs":
    """Return the pairs with further regions, patch by patch: outside each region, outliers, and other patches."""
    grid = pairs.layout(model).grid(image_stream(model.cfg))
    masks = region_masks(model, pairs, functions["region"].values.tolist() or None)
    outlier = functions["outlier"].values
    further = {f"patches: outside {name}": ~mask & mask.any(-1, keepdims=True) for name, mask in masks.items()}
    things = [mask for name, mask in masks.items() if name != BACKGROUND]
    aside = ~np.any([*things, outlier], axis=0)
    further |= {AT_OUTLIERS: outlier, BESIDE_OUTLIERS: aside & outlier.any(-1, keepdims=True)}
    rows = [
        [*regions, *({"region": name, **run_lengths(mask[pair].reshape(grid))} for name, mask in further.items())]
        for pair, regions in enumerate(pairs["clean_regions"])
    ]
    return pairs.with_column("clean_regions", rows)
