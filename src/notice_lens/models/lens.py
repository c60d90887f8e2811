"""The lens: one stack of BLIP as TransformerLens sees a model.

TransformerLens's utilities (`patching.get_act_patch_*`, `ActivationCache`) know names such as `blocks.3.attn.hook_z`
and a model that runs on tokens. A lens gives one stack these names and binds everything else: the stacks before it are
run once, their states projected to keys and values once, and each run goes from the lens's stack to the logits.

| lens | `attn.*` is | `hook_attn_out`, `hook_resid_mid` are | query positions | source positions |
| --- | --- | --- | --- | --- |
| `vision.attn` | self-attention | the same | image patches | |
| `text.attn` | self-attention | the same | question | |
| `text.cross_attn` | cross-attention | `hook_cross_attn_out`, `hook_resid_mid_cross` | question | image patches |
| `decoder.attn` | self-attention | the same | answer | |
| `decoder.cross_attn` | cross-attention | `hook_cross_attn_out`, `hook_resid_mid_cross` | answer | its source |

The source of `decoder.cross_attn` is the question, for captions the image patches; position 0 of the patches is the
class token. Every other name of the stack stays as it is, without the stack's prefix. TransformerLens walks positions
along `tokens.shape[-1]`, so a cross-attention lens has two axes: the query view without keys and values, and the source
view with nothing else. `lens.names_table()` says which full hook and which Hugging Face tensor each name is.

A lens never renames a module: hooks are attached to the model's own hook points under an alias. Hooks on the model fire
in its runs too. What comes before its stack is fixed when it is made: hooks there fire once, then, and weights that
change later do not count.
"""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens import ActivationCache

from notice_lens.models.blip.inputs import BLIPInputs
from notice_lens.models.blip.stacks import ProjectedSource
from notice_lens.models.in_use import one_thread_at_a_time
from notice_lens.models.stack_view import StackView

if TYPE_CHECKING:
    from notice_lens.models.blip.hooked_blip import HookedBLIP


class Lens(StackView):
    """A stack that runs by itself on bound inputs; see the module's docstring.

    Attributes:
        tokens: What to hand to TransformerLens's helpers, [batch, pos]. Only the shape counts: inputs and masks are the
            bound ones.
    """

    def __init__(self, model: "HookedBLIP", name: str, inputs: BLIPInputs, axis: str = "query"):
        super().__init__(model, name, axis, inputs.to(model.device).check(model.cfg).ordinary())
        with torch.inference_mode(False), torch.no_grad():
            states = model.source_of(self.stack_name, self.bound_inputs)
            self.source = None if states is None else self.stack.share_source(states)
        # Leaves of the graph: gradients reach hooks on keys and values, and end there.
        for tensor in _tensors_of(self.source):
            tensor.requires_grad_()
        self.tokens = self._positions(states)
        self._bound_to = (model.device, model.dtype)

    @property
    def bound_inputs(self) -> BLIPInputs:
        """The inputs that every run of the lens uses."""
        assert self.inputs is not None, "a lens is made with inputs"
        return self.inputs

    def _positions(self, source: Tensor | None) -> Int[Tensor, "batch pos"]:
        inputs = self.bound_inputs
        if self.axis == "source":
            assert source is not None, "a cross-attention lens has a source"
            n = source.shape[1]
        elif self.stack_name == "text":
            return torch.as_tensor(inputs.input_ids)
        elif self.stack_name == "decoder":
            return self.model.decoder_ids(inputs)
        else:
            patch = self.model.cfg.patch_size
            n = (inputs.pixel_values.shape[-2] // patch) * (inputs.pixel_values.shape[-1] // patch) + 1
        return torch.arange(n, device=self.model.device).expand(len(inputs), n)

    def forward(self, tokens: Any = None) -> Tensor:
        """The logits of the bound inputs.

        Args:
            tokens: `lens.tokens`, or anything of its shape; None stands for it.

        Raises:
            ValueError: Another batch size or length than the bound one, or the model has moved since.
        """
        if (self.model.device, self.model.dtype) != self._bound_to:
            raise ValueError(
                f"this lens was bound when the model was {self._bound_to[1]} on {self._bound_to[0]}; it is now "
                f"{self.model.dtype} on {self.model.device}. Make another lens"
            )
        if tokens is not None and (not isinstance(tokens, Tensor) or tokens.shape != self.tokens.shape):
            got = (
                f"of shape {list(tokens.shape)}"
                if isinstance(tokens, Tensor)
                else f"that are a {type(tokens).__name__}"
            )
            raise ValueError(
                f"tokens {got}; this lens is bound to inputs with tokens of shape {list(self.tokens.shape)} "
                "(lens.tokens). Make another lens for other inputs"
            )
        return self.model(self.bound_inputs, start_at_stack=self.stack_name, source=self.source)

    def to_str_tokens(self, row: int = 0) -> list[str]:
        """A label for each position of one example: its token, or `[CLS]` and `row,column` of the patch."""
        if self.stack_name != "vision" and self.axis == "query":
            return self._words(self.tokens[row])
        n = self.tokens.shape[1]
        if self.stack_name == "decoder" and self.model.cfg.kind == "vqa":
            assert self.bound_inputs.input_ids is not None, "checked when bound"
            return self._words(self.bound_inputs.input_ids[row])
        columns = self.bound_inputs.pixel_values.shape[-1] // self.model.cfg.patch_size
        return ["[CLS]", *(f"{patch // columns},{patch % columns}" for patch in range(n - 1))]

    def _words(self, ids: Int[Tensor, " pos"]) -> list[str]:
        """The tokens; `[DEC]`, which published tokenizers do not have, by its name."""
        words = self.model.tokenizer.convert_ids_to_tokens(ids.tolist())
        named = {self.model.cfg.dec_token_id: "[DEC]", self.model.cfg.dec_token_id + 1: "[ENC]"}
        return [word or named.get(index, "[UNK]") for word, index in zip(words, ids.tolist(), strict=True)]

    def to(self, *args: Any, **kwargs: Any) -> "Lens":
        """Refuse to move: a lens stays where its model is."""
        raise ValueError("a lens does not move: move the model (model.to) and make another lens")

    def make_cache(self, cache: dict[str, Tensor], has_batch_dim: bool, inputs: Any = None) -> ActivationCache:
        """The cache of a run, under the lens's names."""
        from notice_lens.models.cache import StackCache

        return StackCache(cache, self, has_batch_dim)

    @one_thread_at_a_time
    def set_use_attn_result(self, use_attn_result: bool) -> None:
        """Compute `attn.hook_result`, what each head writes, in the lens's attention, or stop doing so."""
        for block in self.blocks:
            block.attn.use_attn_result = bool(use_attn_result)

    @one_thread_at_a_time
    def set_use_split_qkv_input(self, use_split_qkv_input: bool) -> None:
        """Give each head of the vision stack its own copies of its inputs, before `ln1`, or stop doing so.

        Raises:
            ValueError: On a post-LayerNorm stack, where adding to a copy is not the effect of a path.
        """
        if use_split_qkv_input and self.post_norm:
            raise ValueError(
                f"`{self.lens_name}` is post-LayerNorm: what a head writes is rescaled by the LayerNorm after every "
                "addition before a later head reads it, so adding its change to that head's input is not the effect of "
                "the path. The direct-path helper is for the lens `vision.attn`; on the whole model, "
                "model.set_use_split_qkv_input(True) gives the copies without this claim"
            )
        for block in self.blocks:
            block.attn.use_split_qkv_input = bool(use_split_qkv_input)


def _tensors_of(source: Tensor | ProjectedSource | None) -> list[Tensor]:
    if isinstance(source, tuple):
        return [tensor for keys_and_values in source for tensor in keys_and_values]
    return [] if source is None else [source]
