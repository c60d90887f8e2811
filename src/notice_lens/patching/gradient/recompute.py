"""Recomputation of parts of recorded runs: one block with its activations, or everything from a block on.

Of a run only the stream before every block, the embeddings and the states after every stack are kept. What else there
is in a block comes from running that block again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from notice_lens.models.blip.steps import EMBEDDING
from notice_lens.models.hook_names import HookName
from notice_lens.models.protocol import TABLES
from notice_lens.patching.engine.runs import Trace
from notice_lens.patching.gradient.softmax import Tables, table_mask
from notice_lens.patching.gradient.targets import EMBEDDING_LAYER

if TYPE_CHECKING:
    from notice_lens.models import HookedBLIP

ValuesByHook = dict[str, Tensor]
"""Activations of a block, by hook point without stack and layer."""
RunsByAnswer = Sequence[Trace]
"""A run for each thing that the decoder is made to say."""


@dataclass
class Moved(Trace):
    """A run with replaced activations in one block.

    Attributes:
        place: The block's stack and layer.
        put: The activations.
    """

    place: tuple[str, int] = ("", EMBEDDING_LAYER)
    put: ValuesByHook = field(default_factory=dict)


class Blocks:
    """The blocks of a model.

    Args:
        model: The model.
    """

    def __init__(self, model: "HookedBLIP") -> None:
        self.model = model

    @property
    def recorded(self) -> list[str]:
        """The hook points that have to be kept of a run."""
        stacks = self.model.cfg.stacks
        streams = [name for stack in stacks for name in self._streams(stack, 0)]
        return streams + [f"{stack}.{name}" for stack in stacks for name in EMBEDDING]

    def _streams(self, stack: str, first: int) -> list[str]:
        layers = range(max(first, 0), self.model.stack(stack).cfg.n_layers)
        return [f"{stack}.blocks.{layer}.hook_resid_pre" for layer in layers]

    def start(self, trace: Trace, stack: str, layer: int) -> list[Tensor]:
        """Return a block's inputs: the stream and the states that it reads; of an embedding its summands."""
        if layer == EMBEDDING_LAYER:
            return [trace.activations[f"{stack}.{name}"] for name in EMBEDDING]
        stream = trace.activations[f"{stack}.blocks.{layer}.hook_resid_pre"]
        before = self.model.cfg.stacks[: self.model.cfg.stacks.index(stack)]
        return [stream, *(trace.states[name] for name in before[-1:])]

    def again(
        self, trace: Trace, stack: str, layer: int, start: Sequence[Tensor], names: Sequence[str]
    ) -> tuple[Tensor, ValuesByHook]:
        """Run a block again; return its output (after the last block, the stack's states) and its activations.

        Args:
            trace: Of the run.
            stack: The stack.
            layer: The layer; -1 for the embedding.
            start: As `start` gives it.
            names: Hook points without stack and layer; scores and patterns are left out.
        """
        if layer == EMBEDDING_LAYER:
            return self._embedded(trace, stack, start)
        values: ValuesByHook = {}

        def keep(value: Tensor, hook: Any) -> None:
            values[HookName.parse(hook.name).leaf] = value

        module: Any = self.model.stack(stack)
        last = layer == module.cfg.n_layers - 1
        passing = [(f"{stack}.blocks.{layer}.{name}", keep) for name in names if not name.endswith(TABLES)]
        own, read = self._seen(trace, stack)
        with self.model.hooks([*_put(trace, stack, layer), *passing]):
            out = module(
                start[0], mask=own, source=start[1] if len(start) > 1 else None, source_mask=read,
                start_at_layer=layer, stop_at_layer=None if last else layer + 1,
            )  # fmt: skip
        return out, values

    def _embedded(self, trace: Trace, stack: str, start: Sequence[Tensor]) -> tuple[Tensor, ValuesByHook]:
        """The stream before block 0, and embedded words or patches and positions."""
        values: ValuesByHook = dict(zip(EMBEDDING, start, strict=True))
        if isinstance(trace, Moved) and trace.place == (stack, EMBEDDING_LAYER):
            values |= {name: value.detach().requires_grad_() for name, value in trace.put.items()}
        module: Any = self.model.stack(stack)
        total = values[EMBEDDING[0]] + values[EMBEDDING[1]]
        return module.ln_embed(total), values

    @torch.no_grad()
    def activations(self, trace: Trace, stack: str, layer: int, names: Sequence[str]) -> ValuesByHook:
        """Activations of a block, scores and patterns among them: as they were recorded, or from running it again."""
        values = self._recorded(trace, stack, layer, names)
        if values is None:
            values = self.again(trace, stack, layer, self.start(trace, stack, layer), names)[1]
        self.add_tables(values, trace, stack, layer, names)
        return values

    @staticmethod
    def _recorded(trace: Trace, stack: str, layer: int, names: Sequence[str]) -> ValuesByHook | None:
        """Return the recorded activations of a block; None where something is lacking, or was moved since."""
        hooks = {name: f"{stack}.blocks.{layer}.{name}" for name in names if not name.endswith(TABLES)}
        if isinstance(trace, Moved) or not all(hook in trace.activations for hook in hooks.values()):
            return None
        return {name: trace.activations[hook] for name, hook in hooks.items()}

    def add_tables(self, values: ValuesByHook, trace: Trace, stack: str, layer: int, names: Sequence[str]) -> None:
        """Add scores and patterns that are wanted, from queries and keys.

        The model itself builds none, since its attention is fused while nothing is hooked.
        """
        for module in ("attn", "cross_attn"):
            scores, pattern = f"{module}.hook_attn_scores", f"{module}.hook_pattern"
            if scores in names or pattern in names:
                tables = Tables.of(
                    values[f"{module}.hook_q"], values[f"{module}.hook_k"], self.masks(trace, stack)[module]
                )
                values[scores], values[pattern] = tables
                if isinstance(trace, Moved) and trace.place == (stack, layer) and scores in trace.put:
                    values[scores], values[pattern] = trace.put[scores], trace.put[scores].softmax(-1)

    def masks(self, trace: Trace, stack: str) -> dict[str, Tensor | None]:
        """Return the keys that queries of `attn` and `cross_attn` may look at."""
        block: Any = self.model.stack(stack).blocks[0]
        n_keys = trace.states[stack].shape[1]
        seen = zip(("attn", "cross_attn"), self._seen(trace, stack), strict=True)
        return {name: table_mask(getattr(block, name), mask, n_keys) for name, mask in seen if hasattr(block, name)}

    def _seen(self, trace: Trace, stack: str) -> tuple[Tensor | None, Tensor | None]:
        """Return which own positions and which of its source a stack may look at: bool, [pair, pos]; None for all."""
        mask = trace.inputs.attention_mask
        own = mask if stack == self.model.cfg.prompt_stack else None
        return None if own is None else own.bool(), self.model.source_mask(stack, trace.inputs)

    @torch.no_grad()
    def moved(self, base: RunsByAnswer, stack: str, layer: int, put: Sequence[ValuesByHook]) -> list[Moved]:
        """Return the base run with other activations in one block, and everything after it.

        Args:
            base: The base run.
            stack: The block's stack.
            layer: The block's layer.
            put: The activations, for each thing that the decoder is made to say.
        """
        stacks, found = self.model.cfg.stacks, list[Moved]()
        for trace, own in zip(base, put, strict=True):
            run = Moved(
                trace.inputs, dict(trace.states), dict(trace.activations), trace.logits, (stack, layer), dict(own)
            )
            for name in stacks[stacks.index(stack) :]:
                if found and name != stacks[-1]:  # the same, whatever the decoder is made to say
                    self._take_over(found[0], run, name)
                else:
                    self._onward(run, name, layer if name == stack else 0)
            found.append(run)
        return found

    def _onward(self, run: Moved, stack: str, layer: int) -> None:
        """Run a stack from one block to its end, and record it into the run."""
        if layer == EMBEDDING_LAYER:
            stream = self._embedded(run, stack, self.start(run, stack, layer))[0]
            run.activations[f"{stack}.blocks.0.hook_resid_pre"] = stream
        first = max(layer, 0)
        stream, *source = self.start(run, stack, first)
        own, read = self._seen(run, stack)

        def keep(value: Tensor, hook: Any) -> None:
            run.activations[hook.name] = value

        kept = [(name, keep) for name in self._streams(stack, first + 1)]
        with self.model.hooks([*_put(run, stack, layer), *kept]):
            module: Any = self.model.stack(stack)
            run.states[stack] = module(
                stream, mask=own, source=source[0] if source else None, source_mask=read, start_at_layer=first
            )

    def _take_over(self, of: Trace, run: Trace, stack: str) -> None:
        """Take the same stack over from another run."""
        run.states[stack] = of.states[stack]
        for name in self._streams(stack, 0):
            run.activations[name] = of.activations[name]


def _put(trace: Trace, stack: str, layer: int) -> list[tuple[str, Any]]:
    """Return hooks that replace activations of a block."""
    if layer == EMBEDDING_LAYER or not isinstance(trace, Moved) or trace.place != (stack, layer):
        return []

    def hook(new: Tensor) -> Any:
        return lambda _, hook: new.detach().requires_grad_()

    return [(f"{stack}.blocks.{layer}.{name}", hook(new)) for name, new in trace.put.items()]
