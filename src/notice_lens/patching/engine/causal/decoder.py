"""The decoder of a Hugging Face vision-language model: its blocks, and where each site is in a block.

Everything is found by the public interface (`get_decoder`, `get_output_embeddings`) and by the names of submodules that
transformers' models share. A model that lacks one of them is refused by name, not guessed at.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

Side = Literal["in", "out"]


class Place(NamedTuple):
    """A submodule at whose input or output an activation is read and edited."""

    module: nn.Module
    side: Side


@dataclass(frozen=True)
class Decoder:
    """The causal language model inside a hosted vision-language model.

    Attributes:
        hf: The whole model, as Hugging Face made it.
        layers: Its decoder blocks, in order.
        norm: What the last block's output goes through.
        head: From there to the logits.
        softcap: Of the logits, where the model has one.
    """

    hf: nn.Module
    layers: tuple[nn.Module, ...]
    norm: nn.Module
    head: nn.Module
    softcap: float | None = None

    @classmethod
    def of(cls, model: Any) -> "Decoder":
        """Return the decoder of a Hugging Face model, or of the one that a `HookedVLM` hosts.

        Raises:
            TypeError: It is no Hugging Face model.
            ValueError: It has no decoder of blocks, or one that the causal wave cannot compute exactly.
        """
        hf = getattr(model, "hf", model)
        if not (isinstance(hf, nn.Module) and hasattr(hf, "get_decoder") and hasattr(hf, "config")):
            raise TypeError(f"expected a HookedVLM or a Hugging Face vision-language model, got {type(model).__name__}")
        name, stack = type(hf).__name__, hf.get_decoder()
        for part in ("layers", "norm"):
            if not hasattr(stack, part):
                raise ValueError(f"{name}: its decoder {type(stack).__name__} has no `{part}`; expected decoder blocks")
        head = hf.get_output_embeddings()
        if head is None:
            raise ValueError(f"{name} has no language-model head; expected a model made for text generation")
        config = stack.config
        if getattr(config, "num_kv_shared_layers", 0):
            raise ValueError(f"{name}: {config.num_kv_shared_layers} layers take another layer's keys and values, "
                             "which the causal wave does not follow")  # fmt: skip
        return cls(hf, tuple(stack.layers), stack.norm, head, getattr(config, "final_logit_softcapping", None))

    @cached_property
    def is_cross(self) -> tuple[bool, ...]:
        """Return which layers attend to the image alone, with keys and values that are no positions of the stream."""
        return tuple(hasattr(layer, "cross_attn") for layer in self.layers)

    @cached_property
    def layer_of(self) -> dict[nn.Module, int]:
        """The layer of each submodule of a block."""
        return {module: number for number, layer in enumerate(self.layers) for module in layer.modules()}

    def widest(self, layer: int) -> int:
        """Return the largest width of what the submodules of a layer write: as a rule the MLP's."""
        widths = (getattr(module, "out_features", 0) for module in self.layers[layer].modules())
        return max(width for width in widths if isinstance(width, int))

    def logits(self, residual: Float[Tensor, "row d_model"], capped: bool) -> Float[Tensor, "row d_vocab"]:
        """Return the logits of what the last block wrote."""
        logits = self.head(self.norm(residual))
        return torch.tanh(logits / self.softcap) * self.softcap if capped and self.softcap else logits

    def place(self, layer: int, leaf: str) -> Place:
        """Return where an activation is read in a layer: the input or the output of a submodule.

        Raises:
            ValueError: The block has no such submodule.
        """
        block = self.layers[layer]
        attention = getattr(block, "self_attn", None) or getattr(block, "cross_attn", None)
        sandwich = hasattr(block, "pre_feedforward_layernorm")
        written: dict[str, tuple[nn.Module | None, str, Side]] = {
            "hook_q": (attention, "q_proj", "out"),
            "hook_k": (attention, "k_proj", "out"),
            "hook_resid_mid": (block, "pre_feedforward_layernorm" if sandwich else "post_attention_layernorm", "in"),
            "hook_mlp_out": (block, "post_feedforward_layernorm" if sandwich else "mlp", "out"),
            "mlp.hook_pre": (getattr(block, "mlp", None), "gate_proj", "out"),
            "mlp.hook_pre_linear": (getattr(block, "mlp", None), "up_proj", "out"),
            "mlp.hook_post": (getattr(block, "mlp", None), "down_proj", "in"),
        }
        if leaf == "hook_attn_out":
            if sandwich:
                return Place(block.post_attention_layernorm, "out")  # pyright: ignore[reportArgumentType]
            if attention is not None:
                return Place(attention, "out")
        elif leaf in written:
            parent, name, side = written[leaf]
            module = getattr(parent, name, None)
            if isinstance(module, nn.Module):
                return Place(module, side)
        raise ValueError(
            f"{type(block).__name__} has no submodule where {leaf} is known to be; its submodules are "
            f"{', '.join(name for name, _ in block.named_modules() if name)}"
        )


def attach(place: Place, change: Callable[[Tensor], Tensor]) -> Any:
    """Attach `change` to a place and return the handle; it gets the activation and returns what is to be used."""
    if place.side == "in":
        return place.module.register_forward_pre_hook(lambda _, args: (change(args[0]), *args[1:]))

    def after(_: nn.Module, args: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    return place.module.register_forward_hook(after)
