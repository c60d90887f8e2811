"""Recorded runs: the base run that the wave grows from, and the runs that edits take their values from."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from notice_lens.models.blip.attention import KeyValues
from notice_lens.models.blip.hooked_blip import HookedBLIP
from notice_lens.models.blip.inputs import BLIPInputs
from notice_lens.models.blip.stacks import attention_mask
from notice_lens.patching.engine.plan import END, StackShape

if TYPE_CHECKING:
    from notice_lens.models.blip.blocks import Block

KEPT = 256 * 2**20
"""Bytes of keys and values that are kept from wave to wave, at most."""
Hook = tuple[str, Callable[..., Any]]


@dataclass
class Trace:
    """One run over some pairs, recorded.

    Attributes:
        inputs: What it ran on.
        states: What each stack handed on, by stack.
        activations: What passed the hook points that were asked for.
        logits: What it said.
    """

    inputs: BLIPInputs
    states: dict[str, Tensor]
    activations: dict[str, Tensor]
    logits: Tensor


def trace(
    model: HookedBLIP,
    inputs: BLIPInputs,
    names: Iterable[str] = (),
    corrupting: Sequence[Hook] = (),
    upstream: Trace | None = None,
    start: str | None = None,
) -> Trace:
    """Runs the model and records.

    Args:
        model: The model.
        inputs: What to run on.
        names: Hook points to record.
        corrupting: Hooks that corrupt the run, such as those of `Noise`.
        upstream: A run whose first stacks are taken over, with what was recorded there: for other words about the same
            image, or other answers to the same question.
        start: The first stack that runs anew; None for the last one.
    """
    stacks = model.cfg.stacks
    anew = stacks if upstream is None else stacks[stacks.index(start or stacks[-1]) :]
    wanted = [name for name in dict.fromkeys(names) if name.startswith(tuple(f"{stack}." for stack in anew))]
    found: dict[str, Tensor] = {}
    states: dict[str, Tensor] = {}
    if upstream is not None:
        states = {stack: value for stack, value in upstream.states.items() if stack not in anew}
        found = {name: value for name, value in upstream.activations.items() if name.partition(".")[0] in states}

    def keep(value: Tensor, hook: Any) -> None:
        found[hook.name] = value

    before = None
    with model.hooks([*corrupting, *((name, keep) for name in wanted)]):
        for stack in stacks:
            if stack in anew:
                states[stack] = model.run_stack(stack, inputs, before)
            before = states[stack]
        logits = model.head(states[stacks[-1]])
    if not torch.isfinite(logits).all():
        raise ValueError(
            f"the unpatched run gives logits that are NaN or infinite in {model.dtype}, so no effect could be "
            "measured: weights are broken, or activations too large for this dtype (load with dtype='float32' or "
            "'bfloat16')"
        )
    return Trace(inputs, states, found, logits)


class Run:
    """The base run of some pairs, with the runs that edits take their values from.

    Args:
        model: The model.
        base: The base run; the streams of the stacks that are edited or read an edited stack are recorded.
        sources: Other runs by name, such as `other` and `donor`.
    """

    def __init__(self, model: HookedBLIP, base: Trace, sources: Mapping[str, Any]) -> None:
        self.model, self.base = model, base
        self._sources = {"self": base.activations, **sources}
        self._key_values: dict[tuple[str, int], KeyValues] = {}

    def resid_pre(self, stack: str, layer: int) -> Float[Tensor, "pair pos d_model"]:
        """The base run's stream before a layer; what the stack hands on where the layer is `END`."""
        if layer == END:
            return self.base.states[stack]
        return self.base.activations[f"{stack}.blocks.{layer}.hook_resid_pre"]

    @cached_property
    def shapes(self) -> dict[str, StackShape]:
        """What a plan has to know of every stack, in their order."""
        stacks = {name: self.model.stack(name) for name in self.model.cfg.stacks}
        lengths = {name: states.shape[1] for name, states in self.base.states.items()}
        return {name: StackShape(one.steps, one.cfg.n_heads, lengths[name]) for name, one in stacks.items()}

    def values(self, source: str, hook: str) -> Tensor:
        """What passed a hook point in a run: [pair, pos, ...]; scores and patterns [pair, head, query_pos, key_pos]."""
        return self._sources[source][hook]

    def source(self, stack: str) -> Float[Tensor, "pair key_pos d_source"]:
        """What the cross-attention of a stack looks at in the base run."""
        stacks = self.model.cfg.stacks
        return self.base.states[stacks[stacks.index(stack) - 1]]

    def key_values(self, stack: str, layer: int) -> KeyValues:
        """Keys and values of what the cross-attention of a layer looks at in the base run.

        They are kept for the next wave where those of all layers are small.
        """
        if (stack, layer) not in self._key_values:
            source, blocks = self.source(stack), self.model.stack(stack).blocks
            projected = cast("Block", blocks[layer]).cross_attn.project_source(source)
            # Head by head in memory: many queries go through the fused kernel a tenth faster.
            projected = KeyValues(*(value.transpose(1, 2).contiguous().transpose(1, 2) for value in projected))
            if 2 * len(blocks) * projected.k.numel() * projected.k.element_size() > KEPT:
                return projected
            self._key_values[stack, layer] = projected
        return self._key_values[stack, layer]

    def masks(self, stack: str) -> tuple[Bool[Tensor, "pair 1 1 pos"] | None, Bool[Tensor, "pair 1 1 key_pos"] | None]:
        """Which positions of its own, and of its source, a stack may look at; None for all."""
        inputs = self.base.inputs
        own = None
        if inputs.attention_mask is not None and stack == ("decoder" if self.model.cfg.kind == "caption" else "text"):
            own = attention_mask(inputs.attention_mask.bool())
        return own, attention_mask(self.model.source_mask(stack, inputs))


@contextmanager
def attn_results(model: "HookedBLIP", names: Iterable[str]) -> Iterator[None]:
    """Compute what each head writes while it is recorded."""
    from notice_lens.models.blip.attention import Attention

    recorded = any(name.endswith("hook_result") for name in names)
    with model.in_use.held() as changes:
        for module in model.modules():
            if recorded and isinstance(module, Attention):
                changes.set(module, "use_attn_result", True)
        yield
