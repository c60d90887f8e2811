"""Recorded runs: the base run that the wave grows from, and the runs that edits take their values from.

1. `trace` runs the model stack by stack and records the requested hook points. Stacks that an earlier run
   went through with the same inputs are taken over from it: the image, where only the words differ, and everything but
   the decoder, where only the teacher-forced answer differs.
2. A `Run` is the base run with all sources of edits, looked up by name. It also keeps the keys and values that
   cross-attention reads from the base run: they are the same for all variants of a pair, and a sweep needs them again
   for every chunk of rows.

Limit: recorded activations stay on the device for as long as the variants of their pairs go through; the memory plan
(`memory.bytes_per_pair`) counts them.
"""

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

KEY_VALUE_BYTES_KEPT = 256 * 2**20
"""Bytes of keys and values that are kept from wave to wave, at most."""
NamedHook = tuple[str, Callable[..., Any]]
Masks = tuple[Bool[Tensor, "pair 1 1 pos"] | None, Bool[Tensor, "pair 1 1 key_pos"] | None]


@dataclass
class Trace:
    """One run over some pairs, recorded.

    Attributes:
        inputs: Its inputs.
        states: The output of each stack.
        activations: The recorded activations by hook point.
        logits: The logits.
    """

    inputs: BLIPInputs
    states: dict[str, Tensor]
    activations: dict[str, Tensor]
    logits: Tensor


def trace(
    model: HookedBLIP,
    inputs: BLIPInputs,
    names: Iterable[str] = (),
    corrupting: Sequence[NamedHook] = (),
    upstream: Trace | None = None,
    start: str | None = None,
) -> Trace:
    """Run the model and record.

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

    before = None  # the output of the stack before, which the next one reads
    with model.hooks([*corrupting, *((name, keep) for name in wanted)]):
        for stack in stacks:
            if stack in anew:
                states[stack] = model.run_stack(stack, inputs, before)
            before = states[stack]
        logits = model.head(states[stacks[-1]])
    # One NaN would make NaN of every effect, which means that nothing was measured: say why instead.
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
        self._masks: dict[str, Masks] = {}

    def resid_pre(self, stack: str, layer: int) -> Float[Tensor, "pair pos d_model"]:
        """Return the base run's stream before a layer; the stack's output where the layer is `END`."""
        if layer == END:
            return self.base.states[stack]
        return self.base.activations[f"{stack}.blocks.{layer}.hook_resid_pre"]

    @cached_property
    def shapes(self) -> dict[str, StackShape]:
        """The shape of every stack that a plan needs, in their order."""
        stacks = {name: self.model.stack(name) for name in self.model.cfg.stacks}
        lengths = {name: states.shape[1] for name, states in self.base.states.items()}
        return {name: StackShape(one.steps, one.cfg.n_heads, lengths[name]) for name, one in stacks.items()}

    def values(self, source: str, hook: str) -> Tensor:
        """Return the values of a source at a hook point: [pair, pos, ...]; tables [pair, head, query_pos, key_pos]."""
        return self._sources[source][hook]

    def source(self, stack: str) -> Float[Tensor, "pair key_pos d_source"]:
        """Return the states that the cross-attention of a stack looks at in the base run."""
        stacks = self.model.cfg.stacks
        return self.base.states[stacks[stacks.index(stack) - 1]]

    def key_values(self, stack: str, layer: int) -> KeyValues:
        """Return keys and values of the states that the cross-attention of a layer looks at in the base run.

        They are kept for the next wave where those of all layers are small.
        """
        if (stack, layer) not in self._key_values:
            source, blocks = self.source(stack), self.model.stack(stack).blocks
            projected = cast("Block", blocks[layer]).cross_attn.project_source(source)
            # Head by head in memory: many queries go through the fused kernel a tenth faster.
            projected = KeyValues(*(value.transpose(1, 2).contiguous().transpose(1, 2) for value in projected))
            if 2 * len(blocks) * projected.k.numel() * projected.k.element_size() > KEY_VALUE_BYTES_KEPT:
                return projected
            self._key_values[stack, layer] = projected
        return self._key_values[stack, layer]

    def masks(self, stack: str) -> Masks:
        """Return masks of the positions of a stack, and of its source, that it may attend to; None for all."""
        # Reading a mask makes the CPU wait for a GPU: once a run, not once a wave.
        if stack not in self._masks:
            inputs = self.base.inputs
            own = None
            if inputs.attention_mask is not None and stack == (
                "decoder" if self.model.cfg.kind == "caption" else "text"
            ):
                own = attention_mask(inputs.attention_mask.bool())
            self._masks[stack] = own, attention_mask(self.model.source_mask(stack, inputs))
        return self._masks[stack]


@contextmanager
def attn_results(model: "HookedBLIP", names: Iterable[str]) -> Iterator[None]:
    """Compute the output of each head while it is recorded; attention adds them up otherwise."""
    from notice_lens.models.blip.attention import Attention

    recorded = any(name.endswith("hook_result") for name in names)
    with model.in_use.held() as changes:
        for module in model.modules():
            if recorded and isinstance(module, Attention):
                changes.set(module, "use_attn_result", True)
        yield
