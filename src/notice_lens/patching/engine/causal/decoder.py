"""The decoder of a hosted vision-language model, as the causal wave sees it: its blocks, and where each activation is.

Where the parts of a model are is known in one place, `notice_lens.models.vlm.anatomy`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from notice_lens.models.vlm.anatomy import BlockParts, Slice, model_parts


class ActivationPlace(NamedTuple):
    """The module and tensor at which an activation is read and edited.

    Attributes:
        module: Hugging Face's.
        side: Its input; its output; or the `stream`, an input that the block keeps for later as well.
        columns: Which columns of it; None for all.
    """

    module: nn.Module
    side: Literal["in", "out", "stream"]
    columns: slice | None = None

    def attach(self, change: Callable[[Tensor], Tensor]) -> Any:
        """Let `change` replace the activation, [batch, pos, width], and return the handle that takes it off again."""

        def changed(tensor: Tensor) -> Tensor:
            if tensor.dim() == 2:  # OPT's MLP sees the tokens of all examples in one axis; here there is one example
                new = changed(tensor[None])
                return tensor if new.data_ptr() == tensor.data_ptr() else new[0]
            if self.columns is None:
                return change(tensor)
            part = tensor[..., self.columns]
            new = change(part)
            if new is part:
                return tensor
            whole = tensor.clone()
            whole[..., self.columns] = new
            return whole

        def before(_: nn.Module, args: tuple[Any, ...]) -> Any:
            new = changed(args[0])
            if self.side == "stream":
                if new is not args[0]:
                    args[0].copy_(new)
                return None
            return (new, *args[1:])

        def after(_: nn.Module, args: Any, output: Any) -> Any:
            return (changed(output[0]), *output[1:]) if isinstance(output, tuple) else changed(output)

        hook = self.module.register_forward_hook if self.side == "out" else self.module.register_forward_pre_hook
        return hook(after if self.side == "out" else before)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Decoder:
    """The language model inside a vision-language model.

    Attributes:
        hf: The whole model, as Hugging Face made it.
        blocks: Its decoder blocks, in order.
        norm: What the last block's output goes through.
        head: From there to the logits.
        softcap: Of the logits, where its config has one.
    """

    hf: PreTrainedModel
    blocks: tuple[BlockParts, ...]
    norm: nn.Module
    head: nn.Module
    softcap: float | None = None

    @classmethod
    def of(cls, model: Any) -> "Decoder":
        """Return the decoder of a Hugging Face model, or of the one that a `HookedVLM` hosts.

        Raises:
            TypeError: It is not a Hugging Face model.
            ValueError: It is not a vision-language model, or cannot be patched exactly; the message says why.
        """
        hf = getattr(model, "hf_model", model)
        if not isinstance(hf, PreTrainedModel):
            raise TypeError(f"expected a HookedVLM or a Hugging Face vision-language model, got {type(model).__name__}")
        parts = model_parts(hf)
        softcap = getattr(hf.config.get_text_config(), "final_logit_softcapping", None)
        return cls(hf, parts.language, parts.ln_final, parts.unembed, softcap)

    @property
    def layers(self) -> tuple[nn.Module, ...]:
        """Hugging Face's modules of the blocks."""
        return tuple(block.module for block in self.blocks)

    @cached_property
    def is_cross(self) -> tuple[bool, ...]:
        """Return the layers that attend to the image alone; their keys and values are not positions of the stream."""
        return tuple(block.attn.is_cross for block in self.blocks)

    @cached_property
    def layer_of(self) -> dict[nn.Module, int]:
        """The layer of each attention module."""
        return {block.attn.module: number for number, block in enumerate(self.blocks)}

    @property
    def head_width(self) -> int:
        """Return how many logits there are."""
        return int(self.hf.config.get_text_config().vocab_size)

    def widest(self, layer: int) -> int:
        """Return the largest width of what the submodules of a layer write: as a rule the MLP's."""
        widths = (getattr(module, "out_features", 0) for module in self.blocks[layer].module.modules())
        return max(width for width in widths if isinstance(width, int))

    def logits(self, residual: Float[Tensor, "row d_model"], capped: bool) -> Float[Tensor, "row d_vocab"]:
        """Return the logits of what the last block wrote."""
        logits = self.head(self.norm(residual))
        return torch.tanh(logits / self.softcap) * self.softcap if capped and self.softcap else logits

    def place(self, layer: int, leaf: str) -> ActivationPlace:
        """Return where an activation is in a layer.

        Raises:
            ValueError: The layer has no such activation.
        """
        block = self.blocks[layer]
        if leaf == "hook_attn_out":
            return ActivationPlace(block.attn_out, "out")
        if leaf == "hook_mlp_out":
            return ActivationPlace(block.mlp_out, "out")
        if leaf == "hook_resid_mid":
            return ActivationPlace(block.mid_norm, "stream")
        if leaf == "mlp.hook_post" and block.mlp.down is not None:
            return ActivationPlace(block.mlp.down, "in")
        columns: dict[str, Slice | None] = {
            "hook_q": block.attn.q,
            "hook_k": block.attn.k,
            "mlp.hook_pre": block.mlp.pre,
            "mlp.hook_pre_linear": block.mlp.pre_linear,
        }
        found = columns.get(leaf)
        if found is None:
            raise ValueError(
                f"layer {layer} ({type(block.module).__name__}) has no {leaf} that can be told apart"
                + (f": its MLP is {type(block.mlp.module).__name__}" if leaf.startswith("mlp.") else "")
            )
        return ActivationPlace(found.module, "out", slice(found.start, found.start + found.width))
