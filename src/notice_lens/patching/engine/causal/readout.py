"""From what the last block writes at the read-out to a metric: norm, unembedding and metric, in parts."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from notice_lens.patching.engine.causal.decoder import Decoder

LogitMetric = Callable[[Tensor], Tensor]
"""From logits [row, d_vocab] to one number a row, [row]."""
LOGITS_AT_ONCE = 64 * 2**20
"""Bytes of logits, in float32 or wider, that are computed at once."""


@torch.no_grad()
def metric_of_readouts(
    decoder: Decoder, readouts: Float[Tensor, "row d_model"], capped: bool, metric: LogitMetric
) -> Float[Tensor, " row"]:
    """Return a metric of every row, in float32 at least.

    Raises:
        TypeError: The metric returned something else than a tensor.
        ValueError: It did not return one number a row.
    """
    rows = max(1, LOGITS_AT_ONCE // (decoder.head_width * max(4, readouts.element_size())))
    found = []
    for some in readouts.split(rows):
        logits = decoder.logits(some, capped)
        found.append(checked_values(logits.to(torch.promote_types(logits.dtype, torch.float32)), metric))
    return torch.cat(found)


def checked_values(logits: Float[Tensor, "row d_vocab"], metric: LogitMetric) -> Float[Tensor, " row"]:
    """Return a metric of the logits of some rows. Raises as `metric_of_readouts`."""
    values = metric(logits)
    if not isinstance(values, Tensor):
        raise TypeError(
            f"the metric returned {type(values).__name__}; expected a tensor [row] from logits "
            f"{list(logits.shape)}, such as logits[:, yes] - logits[:, no]"
        )
    if values.shape != logits.shape[:1]:
        raise ValueError(
            f"the metric returned a tensor of shape {list(values.shape)} from logits {list(logits.shape)}; "
            f"expected one number a row, [{len(logits)}]"
        )
    return values.to(torch.promote_types(values.dtype, torch.float32))
