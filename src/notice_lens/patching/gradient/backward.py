"""Gradients of the logit difference at every hook point, block by block from the answer back to the image.

Nothing but the stream before each block is kept of a run. Going backwards, a block is run again with its graph, its
hook points are recorded, and its output is differentiated with respect to them, to the stream before it and to the
states that its cross-attention reads. Then its graph is dropped: memory is that of one block, whatever the depth
(checkpointing, Chen et al., arXiv 1604.06174).

1. The read-out: gradient of the logit difference, summed over pairs, at the last stack's states. Pairs are rows that
   know nothing of each other, so each row of the gradient is that of its own pair.
2. The blocks of the last stack, last first; what reaches their source adds up.
3. The same for the stack before, from that sum.

Where two answers are teacher-forced (see `Batch.runs`), the last stack is gone through once for each; the
two gradients meet, with their signs, in the states that both read, and the earlier stacks are gone through once.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from notice_lens.patching.engine.pair_batch import Context
from notice_lens.patching.gradient.block_gradients import BlockGradients
from notice_lens.patching.gradient.recompute import Blocks, RunsByAnswer, ValuesByHook
from notice_lens.patching.gradient.softmax import AttentionAtBase, PlainAttention, pattern_gradient, score_gradient
from notice_lens.patching.gradient.targets import EMBEDDING_LAYER, HEAD_HOOKS

if TYPE_CHECKING:
    from notice_lens.models import HookedBLIP
    from notice_lens.models.hooked_module import HookedModule

SIGNS = (1.0, -1.0)
"""Of the correct answer and of the foil, where both are teacher-forced."""


class Backward:
    """One backward pass; iterating yields the gradients block by block.

    Args:
        model: The model.
        contexts: Of the batch; they say what the logit difference is.
        at: The run that is differentiated.
        towards: The change of an activation, as a sum of weight times what it is in a run.
        wanted: Hook points to record, without stack and layer, by stack and layer (-1 for the embedding).
    """

    def __init__(
        self,
        model: "HookedBLIP",
        contexts: Sequence[Context],
        at: RunsByAnswer,
        towards: Sequence[tuple[float, RunsByAnswer]],
        wanted: Mapping[tuple[str, int], Sequence[str]],
    ) -> None:
        self.model, self.contexts, self.at, self.towards, self.wanted = model, contexts, at, towards, wanted
        self.blocks = Blocks(model)

    def __iter__(self) -> Iterator[BlockGradients]:
        stacks = self.model.cfg.stacks
        first = min(stacks.index(stack) for stack, _ in self.wanted)
        with weights_at_rest(self.model):
            grads = [self._read_out(number) for number in range(len(self.contexts))]
            for stack in reversed(stacks[first:]):
                own = [layer for name, layer in self.wanted if name == stack]
                # Below the lowest block of the first stack nothing is wanted; of others every block is on the way.
                lowest = min(own) if stack == stacks[first] else min([0, *own])
                below: Any = 0.0
                for number, grad in enumerate(grads):
                    for layer in range(self.model.stack(stack).cfg.n_layers - 1, lowest - 1, -1):
                        grad, source, found = self._block(number, stack, layer, grad)
                        below = below + source
                        if found is not None:
                            yield found
                grads = [below]

    def _read_out(self, number: int) -> Float[Tensor, "pair pos d_model"]:
        """Return the gradient at the last stack's states, signed."""
        context, states = self.contexts[number], leaf(self.at[number].states[self.model.cfg.stacks[-1]])
        everyone = np.arange(len(states))
        with torch.enable_grad():
            total = context.read_logits(self.model.head(states), everyone).logit_diff.sum()
        return SIGNS[number] * torch.autograd.grad(total, states)[0]

    def _block(self, number: int, stack: str, layer: int, grad: Tensor) -> tuple[Tensor, Any, BlockGradients | None]:
        """Return the gradients before a block and at its source, and what is found in it.

        Args:
            number: Which context.
            stack: The stack.
            layer: The layer.
            grad: Gradient with respect to the block's output.
        """
        names, run, blocks = self.wanted.get((stack, layer), ()), self.at[number], self.blocks
        start = [leaf(value) for value in blocks.start(run, stack, layer)]
        with torch.enable_grad():
            out, passed = blocks.again(run, stack, layer, start, names)
        to = [*start, *passed.values()]
        grads = torch.autograd.grad(out, to, grad, allow_unused=True, materialize_grads=True)
        found = None
        if names:
            values = {name: value.detach() for name, value in passed.items()}
            blocks.add_tables(values, run, stack, layer, names)
            own = dict(zip(passed, grads[len(start) :], strict=True))
            _add_table_grads(own, values)
            changes = self._changes(number, stack, layer, names, values)
            attention = self._attention(values, own, changes, blocks.masks(run, stack))
            found = BlockGradients(number, stack, layer, values, own, changes, attention)
        return grads[0], grads[1] if len(start) > 1 and layer != EMBEDDING_LAYER else 0.0, found

    @staticmethod
    def _attention(
        values: ValuesByHook, grads: ValuesByHook, changes: ValuesByHook, masks: Mapping[str, Tensor | None]
    ) -> dict[str, AttentionAtBase]:
        """Return the attention of each module whose queries, keys, values and z were recorded."""
        found: dict[str, AttentionAtBase] = {}
        for module, mask in masks.items():
            q, k, v, z = (f"{module}.{name}" for name in HEAD_HOOKS)
            if {q, k, v, z} <= set(values):
                found[module] = PlainAttention(
                    values[q], values[k], values[v], grads[z], changes.get(q), changes.get(k), mask
                )
        return found

    def _changes(self, number: int, stack: str, layer: int, names: Sequence[str], values: ValuesByHook) -> ValuesByHook:
        """Return the change of the block's activations toward the other run."""
        changes: ValuesByHook = {}
        for weight, node in self.towards:
            same = node is self.at
            there = values if same else self.blocks.activations(node[number], stack, layer, names)
            for name, value in there.items():
                changes[name] = changes[name].add_(value, alpha=weight) if name in changes else weight * value
        return changes


def leaf(value: Tensor) -> Tensor:
    """Return the value as something to differentiate with respect to."""
    return value.detach().requires_grad_()


def _add_table_grads(grads: ValuesByHook, values: ValuesByHook) -> None:
    """Add the gradients at scores and patterns, where there are any, from those at z."""
    for name in [name for name in values if name.endswith("hook_pattern")]:
        module = name.rpartition(".")[0]
        grad = pattern_gradient(grads[f"{module}.hook_z"], values[f"{module}.hook_v"])
        grads[name] = grad
        grads[f"{module}.hook_attn_scores"] = score_gradient(values[name], grad)


@contextmanager
def weights_at_rest(model: "HookedModule") -> Iterator[None]:
    """Turn off gradients of weights, which would cost a third of a backward pass and memory."""
    with model.in_use.held() as changes:
        for parameter in model.parameters():
            changes.set(parameter, "requires_grad", False)
        yield
