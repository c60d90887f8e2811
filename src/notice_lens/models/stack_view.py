"""One stack of the model under TransformerLens's names, for caches and lenses."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.config import TransformerLensConfig

from notice_lens.errors import one_of
from notice_lens.models.blip.inputs import BLIPInputs
from notice_lens.models.hook_names import HookName
from notice_lens.models.hooked_module import HookedModule
from notice_lens.models.hooks import AliasPoint, CopyingHookPoint
from notice_lens.models.in_use import InUse, one_thread_at_a_time

if TYPE_CHECKING:
    from notice_lens.models.blip.hooked_blip import HookedBLIP
    from notice_lens.models.describe import HooksTable

LENSES = ("vision.attn", "text.attn", "text.cross_attn", "decoder.attn", "decoder.cross_attn")
_KEYS_AND_VALUES = ("attn.hook_k", "attn.hook_v")
_CROSS_ATTENTION_AS_ATTENTION = {"hook_cross_attn_out": "hook_attn_out", "hook_resid_mid_cross": "hook_resid_mid"}


class StackView(HookedModule):
    """A stack under TransformerLens's names, as far as a cache needs it: `cfg`, `blocks` and the names.

    Args:
        model: The model.
        name: One of `LENSES`.
        axis: `query` or `source`.
        inputs: The model's inputs, where known.

    Raises:
        KeyError: There is no such lens, or the model has no such stack.
        ValueError: The axis does not fit the lens.
    """

    def __init__(self, model: "HookedBLIP", name: str, axis: str = "query", inputs: BLIPInputs | None = None):
        super().__init__()
        if name not in LENSES:
            raise KeyError(one_of("lens", name, LENSES))
        if axis not in ("query", "source"):
            raise ValueError(one_of("axis", axis, ("query", "source")))
        self.lens_name = name
        self.stack_name, self.attn_name = name.split(".")
        self.axis = axis
        if axis == "source" and self.attn_name == "attn":
            raise ValueError(f"`{name}` looks at its own positions: keys and values are on its query axis already")
        # In a tuple, so that the model does not become a part of the view, which could then move or rename it.
        self._model = (model,)
        self.inputs = inputs
        self.full_names = _aliases(model, self.stack_name, self.attn_name, axis)
        points: dict[str, Any] = {
            alias: AliasPoint(alias, cast(CopyingHookPoint, model.hook_dict[full]))
            for alias, full in self.full_names.items()
        }
        self.hook_dict, self.mod_dict = points, dict(points)
        # Only this view: whether the model trains is its owner's business.
        self.training = False

    @property
    def model(self) -> "HookedBLIP":
        """The model."""
        return self._model[0]

    @property
    def in_use(self) -> InUse:
        """The lock that holds the model for one thread at a time."""
        return self.model.in_use

    @property
    def original_model(self) -> "HookedBLIP":
        """The model, under the name by which TransformerLens's utilities look for one that is in training mode."""
        return self.model

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.lens_name!r}, {self.axis} axis, of {self.model!r})"

    def setup(self) -> None:
        """Do nothing: hook points keep the names that the model gave them."""

    @property
    def stack(self) -> Any:
        """The model's stack that this is a view of."""
        return self.model.stack(self.stack_name)

    @property
    def cfg(self) -> TransformerLensConfig:
        """The stack's config as TransformerLens writes it: a copy, so use the setters to change a switch."""
        cfg, attn = self.stack.cfg, self.blocks[0].attn
        return TransformerLensConfig(
            d_model=cfg.d_model,
            d_head=cfg.d_head,
            n_layers=cfg.n_layers,
            n_ctx=cfg.n_ctx,
            n_heads=cfg.n_heads,
            n_key_value_heads=cfg.n_heads,
            d_mlp=cfg.d_mlp,
            d_vocab=-1 if cfg.d_vocab is None else cfg.d_vocab,
            device=str(self.model.device),
            dtype=self.model.dtype,
            use_attn_result=attn.use_attn_result,
            use_split_qkv_input=attn.use_split_qkv_input,
            default_prepend_bos=False,
            eps=cfg.eps,
            act_fn=cfg.act_fn,
            normalization_type="LN",
        )

    @property
    def blocks(self) -> list[Any]:
        """The blocks; on a cross-attention lens, `attn` is the cross-attention."""
        if self.attn_name == "attn":
            return list(self.stack.blocks)
        return [
            SimpleNamespace(attn=block.cross_attn, mlp=block.mlp, ln1=block.ln1, ln2=block.ln2, ln3=block.ln3)
            for block in self.stack.blocks
        ]

    @property
    def ln_final(self) -> Any:
        """The LayerNorm after the last block (vision only)."""
        return self.stack.ln_final

    @property
    def post_norm(self) -> bool:
        """True where a LayerNorm follows each addition to the stream, so that the stream is not a sum of outputs."""
        return self.stack.cfg.normalization == "post"

    def accumulated_bias(
        self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> Float[Tensor, " d_model"]:
        """Sum of the output biases that were added to the stream before `layer` (pre-LayerNorm stacks)."""
        biases = [block.attn.b_O for block in self.blocks[: layer + bool(mlp_input)]]
        if include_mlp_biases:
            biases += [block.mlp.b_out for block in self.blocks[:layer]]
        return torch.stack(biases).sum(0) if biases else torch.zeros_like(self.blocks[0].attn.b_O)

    def to_tokens(self, text: str | list[str], *args: Any, **kwargs: Any) -> Int[Tensor, "batch pos"]:
        """Token ids of a text, `[CLS]` and `[SEP]` included. A lens itself runs on `lens.tokens`."""
        encoded = self.model.tokenizer([text] if isinstance(text, str) else text, padding=True, return_tensors="pt")
        return encoded["input_ids"].to(self.model.device)

    def to_single_token(self, text: str) -> int:
        """The id of a word of a single piece. Raises ValueError if it has more."""
        pieces = self.model.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(pieces) != 1:
            raise ValueError(f"{text!r} has {len(pieces)} tokens; expected a single one")
        return pieces[0]

    @one_thread_at_a_time
    def tokens_to_residual_directions(
        self, tokens: str | int | Sequence[str] | Int[Tensor, ""] | Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """Directions in the normalised final image stream along which the logits of `tokens` grow, to first order.

        No unembedding reads the image stream: the question and the answer do, by attention. The direction is therefore
        the gradient of the logit at the stack's output, taken on the run's own inputs without the run's hooks, times
        the weight of `ln_final`.

        Args:
            tokens: A word or an id, for all examples or one for each; for matching 0 (no match) or 1 (match).

        Raises:
            ValueError: This is not the vision stack, or the inputs of the run are not known.
        """
        if self.stack_name != "vision" or self.inputs is None:
            raise ValueError("logit directions are those of the vision stack's output, on known inputs")
        if not isinstance(tokens, int | Tensor):
            words = [tokens] if isinstance(tokens, str) else tokens
            tokens = torch.tensor([self.to_single_token(word) for word in words])
        with torch.inference_mode(False), torch.no_grad():
            ids = torch.as_tensor(tokens).clone()
            image = self.model.run_stack("vision", self.inputs).clone().requires_grad_()
        with torch.inference_mode(False), torch.enable_grad():
            logits = self.model(self.inputs, start_at_stack=self.model.cfg.stacks[1], source=image)
            answer = first_answer_logits(self.model, self.inputs, logits)
            asked = answer.gather(-1, ids.to(answer.device).expand(len(answer))[:, None])
            (gradient,) = torch.autograd.grad(asked.sum(), image)
        return gradient * self.ln_final.weight

    @property
    def layers_by_stack(self) -> Mapping[str | None, int]:
        """The layers, without a stack's name: a lens leaves it out."""
        return {None: self.stack.cfg.n_layers}

    def attention_of(self, name: str) -> Any:
        """The attention module that a hook point belongs to."""
        return self.model.attention_of(self.full_names[name])

    def explain_missing(self, name: str) -> str:
        """Explain a name that is not here: the other axis, the other attention, or a stack's prefix."""
        parsed = HookName.parse(name)
        other = "source" if self.axis == "query" else "query"
        if self.attn_name == "cross_attn" and name in _aliases(self.model, self.stack_name, self.attn_name, other):
            what = "keys and values" if other == "source" else "keys and values only; the rest"
            return (
                f"the {self.axis} view of `{self.lens_name}` has "
                + (f"no {what}: they" if other == "source" else f"{what}")
                + f" live on the {other} axis, whose positions are others: use model.lens({self.lens_name!r}, inputs, "
                f"axis={other!r})"
            )
        if parsed.stack == self.stack_name and str(HookName(None, parsed.layer, parsed.leaf)) in self.hook_dict:
            return f"a lens drops the stack's name: {HookName(None, parsed.layer, parsed.leaf)!s} instead of {name!r}"
        return super().explain_missing(name)

    def names_table(self) -> "HooksTable":
        """Return which full hook and which Hugging Face tensor each name of the lens is."""
        from notice_lens.models.describe import hooks_table

        return hooks_table(self.model, self.full_names)


def first_answer_logits(model: "HookedBLIP", inputs: BLIPInputs, logits: Tensor) -> Float[Tensor, "batch d_vocab"]:
    """The logits of the answer's first token (of no match and match): after `[DEC]`, or after a caption's prompt."""
    if logits.ndim == 2:
        return logits
    first = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    if inputs.target_ids is not None:
        first = (inputs.target_ids >= 0).int().argmax(-1)
    elif model.cfg.kind == "caption" and inputs.attention_mask is not None:
        first = inputs.attention_mask.sum(-1) - 1
    elif model.cfg.kind == "caption":
        first = first + logits.shape[1] - 1
    return logits[torch.arange(len(logits), device=logits.device), first]


def _aliases(model: "HookedBLIP", stack: str, attn: str, axis: str) -> dict[str, str]:
    """Lens name to full name, in the order of the model."""
    if stack not in model.cfg.stacks:
        raise KeyError(f"no stack {stack!r}: a model of kind {model.cfg.kind!r} has {', '.join(model.cfg.stacks)}")
    aliases = {}
    for full in model.hook_dict:
        parsed = HookName.parse(full)
        leaf = parsed.leaf if attn == "attn" else as_cross_attention(parsed.leaf)
        if parsed.stack != stack or leaf is None:
            continue
        if attn == "cross_attn" and (leaf in _KEYS_AND_VALUES) != (axis == "source"):
            continue
        aliases[str(HookName(None, parsed.layer, leaf))] = full
    return aliases


def as_cross_attention(leaf: str) -> str | None:
    """The lens's name for a leaf where cross-attention is called attention; None for what gives way to it."""
    if leaf.startswith("cross_attn."):
        renamed = leaf.removeprefix("cross_")
        # Copies of the source for each head belong to neither axis.
        return None if renamed in ("attn.hook_k_input", "attn.hook_v_input") else renamed
    if leaf.startswith("attn.") or leaf in _CROSS_ATTENTION_AS_ATTENTION.values():
        return None
    return _CROSS_ATTENTION_AS_ATTENTION.get(leaf, leaf)
