"""The forward pass of BLIP, from a picture and a question to the logits of the answer.

    1. vision:  the image becomes 1 + n patch states
    2. text:    the question reads the image by cross-attention        (question answering, matching)
    3. decoder: the answer reads the question's states, or the image's (question answering; captions)
    4. head:    logits of the next token at every answer position, or of match and no match

`run_stack` is one of the first three; `forward` chains them. The arithmetic is in `attention.py` and `blocks.py`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from notice_lens.models.blip.config import BLIPConfig
from notice_lens.models.blip.inputs import BLIPInputs
from notice_lens.models.blip.readouts import AnswerHead, MatchHead
from notice_lens.models.blip.stacks import ProjectedSource, Stack, TextStack, VisionStack
from notice_lens.models.blip.steps import OUTPUT, last_hook, order, sublayers
from notice_lens.models.hooked_module import HookedModule
from notice_lens.models.in_use import InUse, one_thread_at_a_time


class ForwardPass(HookedModule):
    """The stacks and the head of a BLIP, in the order of the forward pass; the base class of `HookedBLIP`.

    Attributes:
        cfg: One config per stack.
        vision: The image encoder.
        text: The question encoder (not for captions).
        decoder: The answer decoder (not for matching).
        head: From the last states to logits.
    """

    vision: VisionStack
    text: TextStack
    decoder: TextStack

    def __init__(self, cfg: BLIPConfig):
        super().__init__()
        self._in_use = InUse()
        self.cfg = cfg
        self.vision = VisionStack(cfg.vision, cfg.image_size, cfg.patch_size)
        if cfg.text is not None:
            self.text = TextStack(cfg.text)
        if cfg.decoder is not None:
            self.decoder = TextStack(cfg.decoder)
            self.head: nn.Module = AnswerHead(cfg.decoder)
        elif cfg.text is not None:
            self.head = MatchHead(cfg.text)
        self.setup()
        self.eval()

    @property
    def in_use(self) -> InUse:
        """The lock that holds the model for one thread at a time."""
        return self._in_use

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.vision.class_embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.vision.class_embedding.dtype

    @one_thread_at_a_time
    def forward(
        self,
        inputs: BLIPInputs | Mapping[str, Any],
        *,
        start_at_stack: str | None = None,
        source: Float[Tensor, "source_batch key_pos d_source"] | ProjectedSource | None = None,
    ) -> Float[Tensor, "batch answer_pos d_vocab"] | Float[Tensor, "batch 2"]:
        """The logits.

        Args:
            inputs: What `prepare` gives, or a mapping with the same keys.
            start_at_stack: The first stack to run, with `source` for its cross-attention; None runs all.
            source: The output that the stacks before `start_at_stack` would have given.

        Returns:
            Question answering: [batch, answer_pos, d_vocab], where answer_pos is 1 unless answers are given. Captions:
            [batch, pos, d_vocab]. Matching: [batch, 2], no match and match.
        """
        inputs = BLIPInputs.of(inputs).to(self.device).check(self.cfg)
        states = source
        for stack in self.cfg.stacks[self._stack_index(start_at_stack) :]:
            states = self.run_stack(stack, inputs, states)
        return self.head(states)

    @one_thread_at_a_time
    def run_stack(
        self,
        name: str,
        inputs: BLIPInputs,
        source: Tensor | ProjectedSource | None = None,
        *,
        resid: Float[Tensor, "batch pos d_model"] | None = None,
        start_at_layer: int = 0,
        stop_at_layer: int | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """Return the states after one stack, or the stream before one of its layers.

        Args:
            name: `vision`, `text` or `decoder`.
            inputs: The inputs that the stack embeds.
            source: What its cross-attention reads.
            resid: The stream before `start_at_layer`; None embeds the inputs.
            start_at_layer: As `Stack.forward`.
            stop_at_layer: As `Stack.forward`.
        """
        stack: Any = self.stack(name)
        if resid is None:
            resid = self.embeddings(name, inputs)
        return stack(
            resid,
            mask=self.own_mask(name, inputs),
            source=source,
            source_mask=self.source_mask(name, inputs),
            start_at_layer=start_at_layer,
            stop_at_layer=stop_at_layer,
        )

    def embeddings(self, name: str, inputs: BLIPInputs) -> Float[Tensor, "batch pos d_model"]:
        """Return the stream before block 0 of one stack."""
        if name == "vision":
            return self.vision.embed(inputs.pixel_values, inputs.interpolate_pos_encoding)
        ids = inputs.input_ids if name == "text" else self.decoder_ids(inputs)
        assert ids is not None, "inputs were checked"
        return self.text.embed(ids) if name == "text" else self.decoder.embed(ids)

    @one_thread_at_a_time
    def source_of(self, name: str, inputs: BLIPInputs) -> Float[Tensor, "batch pos d_model"] | None:
        """Return the source of a stack's cross-attention: the states after the stack before it; None for `vision`."""
        states = None
        for stack in self.cfg.stacks[: self._stack_index(name)]:
            states = self.run_stack(stack, inputs, states)
        return states

    def own_mask(self, name: str, inputs: BLIPInputs) -> Bool[Tensor, "batch pos"] | None:
        """Return a mask of the positions of a stack that it may attend to; None for all.

        An answer's padding comes after it, where a causal stack cannot look: it needs no mask.
        """
        return _as_bool(inputs.attention_mask) if name == self.cfg.prompt_stack else None

    def source_mask(self, name: str, inputs: BLIPInputs) -> Bool[Tensor, "batch key_pos"] | None:
        """Return which positions of its source a stack may look at: the question's real tokens, or the whole image."""
        return _as_bool(inputs.attention_mask) if name == "decoder" and self.cfg.kind == "vqa" else None

    def decoder_ids(self, inputs: BLIPInputs) -> Int[Tensor, "batch answer_pos"]:
        """Return the decoder's tokens: answers or captions; `[DEC]` alone if none are given."""
        ids = inputs.input_ids if self.cfg.kind == "caption" else inputs.answer_ids
        if ids is not None:
            return ids
        return torch.full((len(inputs), 1), self.cfg.dec_token_id, device=inputs.pixel_values.device)

    def stack(self, name: str) -> Stack:
        """Return the stack of that name. Raises KeyError if this model has no such stack."""
        return getattr(self, self.cfg.stacks[self._stack_index(name)])

    def activations(self, stack: str) -> tuple[str, ...]:
        """Return the activations of a stack that can be patched, in the order of the flow."""
        points = order(self.stack(stack).steps)
        return tuple(point for point in points if not point.endswith(".inside") and point != OUTPUT)

    def sublayers(self, stack: str) -> tuple[str, ...]:
        """Return the modules that write to a stack's stream: `attn`, `cross_attn` and `mlp`, in their order."""
        return tuple(step.module for step in sublayers(self.stack(stack).steps))

    def block_output(self, stack: str) -> str:
        """Return the hook point that the output of a stack's block passes."""
        return last_hook(self.stack(stack).steps)

    def _stack_index(self, name: str | None) -> int:
        if name is None:
            return 0
        if name not in self.cfg.stacks:
            have = ", ".join(self.cfg.stacks)
            raise KeyError(f"no stack {name!r}: a model of kind {self.cfg.kind!r} has {have}")
        return self.cfg.stacks.index(name)

    @property
    def layers_by_stack(self) -> Mapping[str | None, int]:
        """Layers of each stack."""
        return {**self.cfg.n_layers}

    def attention_of(self, name: str) -> Any:
        """The attention module that a hook point belongs to."""
        return self.get_submodule(name.rpartition(".")[0])


def _as_bool(mask: Tensor | None) -> Bool[Tensor, "batch pos"] | None:
    return None if mask is None else mask.bool()
