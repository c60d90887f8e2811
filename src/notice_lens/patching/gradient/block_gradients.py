"""What a gradient gives: the activations of one block, their gradients and their changes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from notice_lens.patching.gradient.softmax import AttentionAtBase


@dataclass(frozen=True)
class BlockGradients:
    """The activations of one block, their gradients and their changes.

    Attributes:
        context: Which of the teacher-forced answers.
        stack: The stack.
        layer: The layer; -1 for what belongs to none, such as the embedding.
        values: Activations of the run that is differentiated, by hook point without stack and layer: [row, pos, ...]. A
            pair has one row, or several of as many positions, one after the other, where a tower sees it in tiles.
        grads: Gradient of the summed logit difference with respect to each.
        changes: By how much each changes toward the other run.
        attention: Of `attn` and `cross_attn`, where effects through the softmax are asked for.
        kept: Values that were computed from them and may be needed again.
    """

    context: int
    stack: str
    layer: int
    values: Mapping[str, Tensor]
    grads: Mapping[str, Tensor]
    changes: Mapping[str, Tensor]
    attention: Mapping[str, AttentionAtBase]
    kept: dict[Any, Any] = field(default_factory=dict)
