"""A lens for a bridge: one stack of a bridged BLIP as TransformerLens's utilities see a model.

`transformer_lens.patching` looks for names such as `blocks.3.attn.hook_z` and runs a model on tokens alone. A bridge of
BLIP has three stacks, two kinds of attention, and needs an image. As the lens of a `HookedBLIP` does
(`notice_lens.models.lens`), this one gives a stack these names and binds everything else. Each run is a whole forward
pass of the bridge.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.config import TransformerLensConfig

from notice_lens.errors import check_choice
from notice_lens.models.bridge import ARCHITECTURE, is_bridge
from notice_lens.models.hook_names import nearest
from notice_lens.models.stack_view import LENSES, as_cross_attention

_LISTS = {"vision": "vision_encoder.encoder_layers", "text": "encoder_blocks", "decoder": "decoder_blocks"}
_SELF_ATTENTION = {"decoder": "self_attn"}
_OF_SOURCE = ("attn.hook_k", "attn.hook_v", "attn.k.", "attn.v.")


class BridgeLens:
    """A stack of a bridged BLIP, on bound inputs, for TransformerLens's utilities.

    Args:
        bridge: Of a `BlipForQuestionAnswering`, as `notice_lens.register` makes TransformerLens load it.
        name: One of `LENSES`, such as `text.cross_attn`: what `attn` stands for.
        input_ids: The questions, [batch, pos].
        pixel_values: The preprocessed images, [batch, 3, height, width].
        attention_mask: 1 at the questions' tokens and 0 at padding, [batch, pos]; None for no padding.
        decoder_input_ids: `[DEC]` and what follows of the answers, [batch, answer_pos]; None for `[DEC]` alone.
        axis: `query`, or `source` for the keys and values of cross-attention, which have other positions.

    Attributes:
        tokens: What to hand to TransformerLens's helpers, [batch, pos]. Only the shape counts.
        full_names: The bridge's name of each of the lens's hook points.

    Raises:
        TypeError: It is not a bridge of BLIP's question answering.
        ValueError: There is no such lens, or the axis does not fit it.
    """

    def __init__(
        self,
        bridge: Any,
        name: str,
        *,
        input_ids: Int[Tensor, "batch pos"],
        pixel_values: Float[Tensor, "batch 3 height width"],
        attention_mask: Tensor | None = None,
        decoder_input_ids: Int[Tensor, "batch answer_pos"] | None = None,
        axis: str = "query",
    ) -> None:
        if not is_bridge(bridge) or bridge.cfg.architecture != ARCHITECTURE:
            raise TypeError(f"expected a TransformerBridge of {ARCHITECTURE}, got a {type(bridge).__name__}")
        check_choice("lens", name, LENSES)
        check_choice("axis", axis, ("query", "source"))
        self.stack_name, self.attn_name = name.split(".")
        if axis == "source" and self.attn_name == "attn":
            raise ValueError(f"`{name}` looks at its own positions: keys and values are on its query axis already")
        if decoder_input_ids is None:
            decoder_input_ids = torch.full_like(input_ids[:, :1], bridge.original_model.decoder_start_token_id)
        self.bridge, self.axis = bridge, axis
        self.input_ids = input_ids
        self.inputs = {"pixel_values": pixel_values, "decoder_input_ids": decoder_input_ids}
        if attention_mask is not None:
            self.inputs["attention_mask"] = attention_mask
        self.full_names = _names(bridge.hook_dict, self.stack_name, self.attn_name, axis)
        self.tokens = self._positions(axis)

    def _positions(self, axis: str) -> Int[Tensor, "batch pos"]:
        if (self.stack_name == "text" and axis == "query") or (self.stack_name == "decoder" and axis == "source"):
            return self.input_ids
        if self.stack_name == "decoder":
            return self.inputs["decoder_input_ids"]
        patch = self.bridge.cfg.vision_config.patch_size
        height, width = self.inputs["pixel_values"].shape[-2:]
        n = (height // patch) * (width // patch) + 1
        return torch.arange(n, device=self.input_ids.device).expand(len(self.input_ids), n)

    @property
    def cfg(self) -> TransformerLensConfig:
        """The stack's sizes, as TransformerLens writes them."""
        own = self.blocks[0].attn if self.stack_name == "vision" else self.blocks[0].cross_attn
        return TransformerLensConfig(
            d_model=own.config.d_model,
            d_head=own.config.d_head,
            n_layers=len(self.blocks),
            n_ctx=self.tokens.shape[1],
            n_heads=own.config.n_heads,
            n_key_value_heads=own.config.n_heads,
            device=self.bridge.cfg.device,
            dtype=self.bridge.cfg.dtype,
            act_fn=self.bridge.cfg.act_fn,
            normalization_type="LN",
        )

    @property
    def blocks(self) -> Any:
        """The bridge's blocks of this stack, under their own names."""
        return self.bridge.get_submodule(_LISTS[self.stack_name])

    @property
    def original_model(self) -> Any:
        """Hugging Face's model, in which TransformerLens looks for modules in training mode."""
        return self.bridge.original_model

    def to_tokens(self, *args: Any, **kwargs: Any) -> Int[Tensor, "batch pos"]:
        """Token ids of a text, as the bridge makes them. The lens itself runs on `lens.tokens`."""
        return self.bridge.to_tokens(*args, **kwargs)

    def __call__(self, tokens: Any = None) -> Float[Tensor, "batch answer_pos d_vocab"]:
        """Return the logits of the bound inputs; `tokens` are those of the lens, or None."""
        return self.run_with_hooks(tokens)

    def run_with_hooks(
        self, tokens: Any = None, fwd_hooks: Sequence[tuple[str, Callable[..., Any]]] = (), **options: Any
    ) -> Any:
        """Run the bridge on the bound inputs with hooks under the lens's names, and return the logits.

        Args:
            tokens: `lens.tokens`, or anything of its shape; None stands for it.
            fwd_hooks: Names of hook points, and functions of a tensor and its hook point.
            **options: As `TransformerBridge.run_with_hooks` takes them.

        Raises:
            KeyError: The lens has no such hook point.
            ValueError: Other tokens than the lens's.
        """
        if tokens is not None and (not isinstance(tokens, Tensor) or tokens.shape != self.tokens.shape):
            raise ValueError(
                f"this lens is bound to tokens of shape {list(self.tokens.shape)} (lens.tokens), got others"
            )
        hooks = [(self._full_name(name), hook) for name, hook in fwd_hooks]
        return self.bridge.run_with_hooks(self.input_ids, fwd_hooks=hooks, **self.inputs, **options)

    def run_with_cache(
        self, tokens: Any = None, names_filter: Callable[[str], bool] | None = None, **options: Any
    ) -> tuple[Any, ActivationCache]:
        """Run the bridge on the bound inputs, and return the logits and a cache under the lens's names.

        Args:
            tokens: As of `run_with_hooks`.
            names_filter: Which hook points to keep; None keeps all that fire.
            **options: As of `run_with_hooks`.
        """
        kept: dict[str, Tensor] = {}
        fires = [name for name, full in self.full_names.items() if not self.bridge._gated_hook_reason(full)]
        names = [name for name in fires if names_filter is None or names_filter(name)]
        logits = self.run_with_hooks(tokens, [(name, partial(_keep, kept, name)) for name in names], **options)
        return logits, ActivationCache(kept, self)

    def _full_name(self, name: str) -> str:
        if name in self.full_names:
            return self.full_names[name]
        other = "query" if self.axis == "source" else "source"
        hint = f"keys and values of cross-attention are on the lens with axis={other!r}; " if "attn." in name else ""
        close = ", ".join(nearest(name, self.full_names))
        raise KeyError(
            f"no hook point {name!r} in this lens; {hint if self.attn_name == 'cross_attn' else ''}nearest: {close}"
        )


def _keep(kept: dict[str, Tensor], name: str, tensor: Tensor, hook: Any) -> None:
    kept[name] = tensor.detach().clone()


def _names(hook_dict: Any, stack: str, attn: str, axis: str) -> dict[str, str]:
    """Names in the lens and in the bridge of the hook points in a stack's blocks."""
    names = {}
    own = f"{_SELF_ATTENTION.get(stack, 'attn')}."
    for full in hook_dict:
        if not full.startswith(f"{_LISTS[stack]}."):
            continue
        layer, _, leaf = full.removeprefix(f"{_LISTS[stack]}.").partition(".")
        leaf = f"attn.{leaf.removeprefix(own)}" if leaf.startswith(own) else leaf
        if attn == "cross_attn":
            renamed = as_cross_attention(leaf)
            if renamed is None or renamed.startswith(_OF_SOURCE) != (axis == "source"):
                continue
            leaf = renamed
        names[f"blocks.{layer}.{leaf}"] = full
    return names
