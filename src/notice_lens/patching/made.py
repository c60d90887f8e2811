"""Sources of edits that are no runs of their pair, for all pairs of a sweep: means, and other examples' values."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from notice_lens.patching.means import Means
from notice_lens.patching.options import Options
from notice_lens.patching.places import Places
from notice_lens.patching.resamples import Resamples
from notice_lens.patching.sources import Make

if TYPE_CHECKING:
    from notice_lens.models import HookedBLIP
    from notice_lens.pairs import MinimalPairs


class Made:
    """Means over the reference set and values of its examples, where edits ask for them.

    Args:
        blip: The model.
        pairs: The pairs of the sweep.
        places: Of these.
        hooks: Hook points by source, `mean` and `resample`.
        options: Of the sweep: its reference set and its seed.
    """

    def __init__(
        self,
        blip: "HookedBLIP",
        pairs: "MinimalPairs",
        places: Places,
        hooks: Mapping[str, Sequence[str]],
        options: Options,
    ) -> None:
        self.blip, self.pairs, self.places, self.hooks, self.options = blip, pairs, places, hooks, options

    @cached_property
    def _means(self) -> Means:
        return Means(self.blip, self.pairs, self.places, self.hooks["mean"], self.options.reference)

    @cached_property
    def _resamples(self) -> Resamples:
        reference, seed = self.options.reference, self.options.seed
        return Resamples(self.blip, self.pairs, self.places, self.hooks["resample"], reference, seed)

    @property
    def partners(self) -> list[str]:
        """The id of the example that each pair's values come from; empty where there is none."""
        return self._resamples.names

    def has_partner(self, pair: int) -> bool:
        """Whether there is another example for a pair."""
        return self._resamples.numbers[pair] is not None

    def of(self, several: Sequence[int]) -> Make:
        """What makes the sources of some pairs."""
        resampled = self._resamples.of(several) if self.hooks["resample"] else None

        def make(like: Mapping[str, Tensor], spoken: list[str] | None) -> dict[str, Any]:
            found: dict[str, Any] = {}
            if self.hooks["mean"]:
                found["mean"] = self._means.of(several, like)
            if resampled is not None:
                found["resample"] = resampled(spoken)
            return found

        return make
