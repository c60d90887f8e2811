"""Patches between two inputs of one example, without pairs: what `patch_inputs` asks of an engine.

Site, groups of positions  ->  an edit for each cell  ->  plan  ->  wave  ->  logits  ->  metric
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from notice_lens.patching.engine.causal.readout import LogitMetric


@runtime_checkable
class BetweenInputs(Protocol):
    """Patches from one recorded run into another, of one example."""

    @property
    def site(self) -> Any:
        """The patched site: `name`, `layers` and `heads`."""
        ...

    @property
    def length(self) -> int:
        """Positions of the site's stack."""
        ...

    @property
    def token_ids(self) -> Tensor | None:
        """The token at each of these positions, where they are words; None elsewhere."""
        ...

    @property
    def model_name(self) -> str:
        """The checkpoint's name, or the model's class."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The model's dtype."""
        ...

    def edits(self, groups: Sequence[tuple[int, ...]], source: str) -> Sequence[Any]:
        """Return the edit of every cell at every group of positions: by layer, by head, by group."""
        ...

    def of_itself(self, edit: Any) -> Any:
        """Return an edit with the base run as the source of its values."""
        ...

    def values(
        self, edits: Sequence[Any], metric: LogitMetric, memory: int | None, done: Callable[[int], Any]
    ) -> Float[Tensor, " edit"]:
        """Return the metric of each edit's run; `done` is told how many more there are."""
        ...

    def unpatched(self, metric: LogitMetric) -> tuple[float, float]:
        """Return the metric of the base run and of the other one, as they are."""
        ...


def between(
    model: Any, clean: Any, corrupted: Any, from_clean: bool, site: str | None, layers: Any, heads: Any
) -> BetweenInputs:
    """Record the runs of two inputs.

    Args:
        model: The model.
        clean: Inputs of one example.
        corrupted: The same with another picture or prompt, as long.
        from_clean: Whether the clean run's values go into the corrupted run, and not the reverse.
        site: The site to patch; None takes the model's default.
        layers: Which layers.
        heads: Which heads.

    Raises:
        ValueError: There is no such site, layer or head; or the inputs are not of one example, or differ in length.
        TypeError: They are not inputs of this model.
    """
    from notice_lens.models import HookedBLIP

    if isinstance(model, HookedBLIP):
        from notice_lens.patching.engine.between_blip_inputs import BetweenBLIPInputs

        return BetweenBLIPInputs.of(model, clean, corrupted, from_clean, site, layers, heads)
    from notice_lens.patching.engine.causal.between_inputs import BetweenDecoderInputs

    return BetweenDecoderInputs.of(model, clean, corrupted, from_clean, site, layers, heads)
