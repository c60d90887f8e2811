"""Cutting heads: what becomes of the clean answer without some of a head's attention, or without the head."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from notice_lens.circuits.head_functions.predictions import Changes
from notice_lens.circuits.head_functions.scores import BACKGROUND, region_masks
from notice_lens.coco import run_lengths
from notice_lens.models.protocol import image_stream

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.models import HookedBLIP
    from notice_lens.pairs import MinimalPairs

AT_OUTLIERS, BESIDE_OUTLIERS = "patches: outliers", "patches: others outside the regions"


class Cut(NamedTuple):
    """What is cut in every head of a layer.

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
        """The name of the patches that it is held against."""
        return BESIDE_OUTLIERS if self.inside == AT_OUTLIERS else f"patches: outside {self.inside}"


class Knife:
    """Cuts heads of one attention and measures, in the clean run, the change of the logit difference.

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
        model: "HookedBLIP",
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

    def changes(self, cuts: Sequence[Cut]) -> dict[Cut, Changes]:
        """Changes of every head of each cut's layer, NaN for pairs that have no such role or region."""
        looks: dict[str, Any] = {}
        ablations: dict[str, Any] = {}
        for cut in cuts:
            for head in range(self.n_heads):
                for side in (cut.inside, cut.outside):
                    looks[_name(cut, head, side)] = self._look(cut, head, side)
                ablations[_name(cut, head)] = self.ablated(cut.layer, head, cut.role)
        # Apart, since a sweep with edits of patterns takes no means.
        found = self.measure(looks) | self.measure(ablations)
        return {
            cut: Changes(
                *(
                    np.stack([found[_name(cut, head, side)] for head in range(self.n_heads)], axis=-1)
                    for side in (cut.inside, cut.outside, None)
                )
            )
            for cut in cuts
        }

    def measure(self, variants: Mapping[str, Any]) -> dict[str, Any]:
        """Changes [pair] of each variant, in logits."""
        from notice_lens.patching import run_variants

        if not variants:
            return {}
        settings = {"metrics": "logit_diff_change", "direction": "noise", **self.options}
        effects = run_variants(self.model, self.pairs, dict(variants), **settings)
        self.gap = float((effects["logit_diff_clean"] - effects["logit_diff_corrupt"]).mean())
        return dict(zip(variants, effects["logit_diff_change"].values.astype(float).T, strict=True))

    def ablated(self, layer: int, head: int, role: str) -> Any:
        """A head without what it writes at a role."""
        from notice_lens.patching import Edit

        return Edit(f"{self.module}.z", layer=layer, head=head, positions=role, source=self.ablation)

    def _look(self, cut: Cut, head: int, side: str) -> Any:
        from notice_lens.patching import Edit

        return Edit(f"{self.module}.pattern", layer=cut.layer, head=head, positions=cut.role, keys=side, source="zero")


def _name(cut: Cut, head: int, side: str | None = None) -> str:
    """A variant's name; ablations are the same for all regions."""
    return f"L{cut.layer}.H{head} {cut.role}" + (f" | {side}" if side else "")


def _with_patches(model: "HookedBLIP", pairs: "MinimalPairs", functions: "xr.Dataset") -> "MinimalPairs":
    """The pairs with further regions, patch by patch: what is outside each region, outliers, and other patches."""
    grid = pairs.layout(model).grid(image_stream(model.cfg))
    masks = region_masks(model, pairs, functions["region"].values.tolist() or None)
    outlier = functions["outlier"].values
    further = {f"patches: outside {name}": ~mask & mask.any(-1, keepdims=True) for name, mask in masks.items()}
    things = [mask for name, mask in masks.items() if name != BACKGROUND]
    aside = ~np.any([*things, outlier], axis=0)
    further |= {AT_OUTLIERS: outlier, BESIDE_OUTLIERS: aside & outlier.any(-1, keepdims=True)}
    rows = [
        [*own, *({"region": name, **run_lengths(mask[pair].reshape(grid))} for name, mask in further.items())]
        for pair, own in enumerate(pairs["clean_regions"])
    ]
    return pairs.with_column("clean_regions", rows)
