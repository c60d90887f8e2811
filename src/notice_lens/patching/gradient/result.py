"""The result of one site of an attribution: laid out, labelled and kept as a sweep of that site is."""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from notice_lens.patching.edits import Site
from notice_lens.patching.engine.pair_batch import Context
from notice_lens.patching.gradient.targets import Target
from notice_lens.patching.grid import Grid
from notice_lens.patching.options import Options
from notice_lens.patching.positions import Places
from notice_lens.patching.provenance import Arrays
from notice_lens.patching.runner import Sweep

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.models import HookedBLIP
    from notice_lens.pairs import MinimalPairs


class SiteResult(Sweep):
    """One of the sites of an attribution; `several` makes those of all sites.

    Attributes:
        target: The site, and how its result is laid out.
        common: What `attrs` says of all sites.
    """

    target: Target
    common: Mapping[str, Any]

    @classmethod
    def several(
        cls,
        model: "HookedBLIP",
        pairs: "MinimalPairs",
        options: Options,
        sites: Sequence[tuple[Site, bool]],
        method: Mapping[str, Any],
    ) -> "list[SiteResult]":
        """One for each site; pairs are checked and contrasts are found once for all.

        Args:
            model: The model.
            pairs: The pairs.
            options: Everything but the sites.
            sites: Each with whether its neurons have a dimension.
            method: What `attrs` says beside what a sweep's do.
        """
        targets: list[Target] = []
        corrected = bool(method["attention_correction"])

        def first(places: Places, answer_length: int) -> Grid:
            targets.extend(Target.of(model, places, site, answer_length, by, corrected) for site, by in sites)
            return targets[0].grid

        template = cls(model, pairs, options, first, {"sites": []})
        template.common = {**Sweep.attrs(template), **method}
        return [template._of(target) for target in targets]

    def _of(self, target: Target) -> "SiteResult":
        """The same for another site."""
        own = copy.copy(self)
        # Read once for all of them: a data set takes milliseconds for a column, and there are many sites.
        own.columns = self.columns
        own.target, own.grid, own.described = target, target.grid, {"sites": [asdict(target.site)]}
        folder = self.options.store
        own.options = replace(self.options, store=None if folder is None else Path(folder) / target.site.name)
        return own

    def attrs(self) -> dict[str, Any]:
        """Everything needed to repeat the run, in plain values."""
        return {**self.common, "sites": json.dumps(self.described["sites"], default=str)}

    def streams(self) -> list[str]:
        """All stacks: there are no cells to tell which are patched."""
        return list(self.model.cfg.stacks)

    @property
    def name(self) -> str:
        """The site's."""
        return self.target.site.name

    def zeros(self, contexts: Sequence[Context]) -> Arrays:
        """Arrays of some pairs to add effects to; baselines are filled in."""
        arrays = self.baselines(contexts)
        return {**arrays, "logit_diff_change": np.zeros_like(arrays["logit_diff_change"])}

    def part(self, several: list[int], draws: Sequence[Arrays]) -> "xr.Dataset":
        """The result of some pairs, over draws of the noise."""
        return self.labelled(several, self.averaged(draws))
