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
class token. Every other name of the stack stays as it is, without the stack in front. TransformerLens walks positions
along `tokens.shape[-1]`, so a cross-attention lens has two axes: the query view without keys and values, and the source
view with nothing else. `lens.names_table()` says which full hook and which Hugging Face tensor each name is.

A lens never renames a module: hooks are attached to the model's own hook points under an alias. The model's own hooks
fire in its runs too.
"""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.config import TransformerLensConfig
from transformer_lens.hook_points import LensHandle

from notice_lens.models.hook_point import BLIPHookPoint
from notice_lens.models.hooked_module import HookedModule
from notice_lens.models.inputs import BLIPInputs
from notice_lens.models.names import HookName, one_of

if TYPE_CHECKING:
    from notice_lens.models.hooked_blip import HookedBLIP
    from notice_lens.models.tables import HooksTable

LENSES = ("vision.attn", "text.attn", "text.cross_attn", "decoder.attn", "decoder.cross_attn")
_KEYS_AND_VALUES = ("attn.hook_k", "attn.hook_v")
_CROSS_ATTENTION_AS_ATTENTION = {"hook_cross_attn_out": "hook_attn_out", "hook_resid_mid_cross": "hook_resid_mid"}


class AliasPoint(BLIPHookPoint):
    """A hook point under another name: what is attached here goes to the target and is told the alias."""

    def __init__(self, alias: str, target: BLIPHookPoint):
        super().__init__(target.shape)
        self.name = alias
        # Kept in a tuple, so that it does not become a submodule: the target belongs to the model.
        self._target = (target,)

    @property
    def target(self) -> BLIPHookPoint:
        """The model's own hook point."""
        return self._target[0]

    def add_hook(
        self,
        hook: Callable[..., Any],
        dir: Literal["fwd", "bwd"] = "fwd",
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
        alias_names: list[str] | None = None,
    ) -> LensHandle:
        """Attaches a hook to the target under the alias."""
        names = [self.name or ""] if alias_names is None else alias_names
        handle = self.target.add_hook(hook, dir, is_permanent, level, prepend, names)
        (self.fwd_hooks if dir == "fwd" else self.bwd_hooks).append(handle)
        return handle

    def discard(self, handle: LensHandle) -> None:
        """Removes this one hook, here and at the target."""
        super().discard(handle)
        self.target.discard(handle)

    def remove_hooks(
        self,
        dir: Literal["fwd", "bwd", "both"] = "fwd",
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """Removes hooks that were attached through the alias; those of the model stay."""
        before = [*self.fwd_hooks, *self.bwd_hooks]
        super().remove_hooks(dir, including_permanent, level)
        for handle in before:
            if not any(handle is kept for kept in (*self.fwd_hooks, *self.bwd_hooks)):
                self.target.discard(handle)


class StackView(HookedModule):
    """A stack under TransformerLens's names, as far as a cache needs it: `cfg`, `blocks` and the names.

    Args:
        blip: The model.
        name: One of `LENSES`.
        axis: `query` or `source`.
        inputs: What the model ran on, where known.

    Raises:
        KeyError: There is no such lens, or the model has no such stack.
        ValueError: The axis does not fit the lens.
    """

    def __init__(self, blip: "HookedBLIP", name: str, axis: str = "query", inputs: BLIPInputs | None = None):
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
        self.blip = blip
        self.inputs = inputs
        self.full_names = _aliases(blip, self.stack_name, self.attn_name, axis)
        self.hook_dict = {  # type: ignore[assignment]
            alias: AliasPoint(alias, blip.hook_dict[full])  # type: ignore[arg-type]
            for alias, full in self.full_names.items()
        }
        self.mod_dict = dict(self.hook_dict)
        # Only this view: whether the model trains is its owner's business.
        self.training = False

    @property
    def stack(self) -> Any:
        """The model's stack that this is a view of."""
        return self.blip.stack(self.stack_name)

    @property
    def cfg(self) -> TransformerLensConfig:
        """The stack's config as TransformerLens writes it."""
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
            device=str(self.blip.device),
            dtype=self.blip.dtype,
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
        """The LayerNorm behind the last block (vision only)."""
        return self.stack.ln_final

    @property
    def post_norm(self) -> bool:
        """Whether LayerNorm stands behind each addition to the stream, so that the stream is no sum of outputs."""
        return self.stack.cfg.normalization == "post"

    def accumulated_bias(
        self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> Float[Tensor, " d_model"]:
        """Sum of the output biases that were added to the stream before `layer` (pre-LayerNorm stacks)."""
        biases = [block.attn.b_O for block in self.blocks[: layer + bool(mlp_input)]]
        if include_mlp_biases:
            biases += [block.mlp.b_out for block in self.blocks[:layer]]
        return torch.stack(biases).sum(0) if biases else torch.zeros(self.stack.cfg.d_model, device=self.blip.device)

    def to_tokens(self, text: str | list[str], *args: Any, **kwargs: Any) -> Int[Tensor, "batch pos"]:
        """Token ids of a text, `[CLS]` and `[SEP]` included. A lens itself runs on `lens.tokens`."""
        encoded = self.blip.tokenizer([text] if isinstance(text, str) else text, padding=True, return_tensors="pt")
        return encoded["input_ids"].to(self.blip.device)

    def to_single_token(self, text: str) -> int:
        """The id of a word of a single piece. Raises ValueError where it has more."""
        pieces = self.blip.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(pieces) != 1:
            raise ValueError(f"{text!r} has {len(pieces)} tokens; expected a single one")
        return pieces[0]

    def tokens_to_residual_directions(
        self, tokens: str | int | Int[Tensor, ""] | Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """Directions in the normalised final image stream along which the logits of `tokens` grow, to first order.

        No unembedding reads the image stream: the question and the answer do, by attention. The direction is therefore
        the gradient of the logit at the stack's output, taken on the run's own inputs, times the weight of `ln_final`.

        Raises:
            ValueError: This is not the vision stack, or the inputs of the run are not known.
        """
        if self.stack_name != "vision" or self.inputs is None:
            raise ValueError("logit directions are those of the vision stack's output, on known inputs")
        ids = torch.as_tensor(self.to_single_token(tokens) if isinstance(tokens, str) else tokens)
        image = self.blip.run_stack("vision", self.inputs).detach().requires_grad_()
        with torch.enable_grad():
            logits = self.blip(self.inputs, start_at_stack=self.blip.cfg.stacks[1], source=image)
            answer = first_answer_logits(self.blip, self.inputs, logits)
            asked = answer.gather(-1, ids.to(answer.device).expand(len(answer))[:, None])
            (gradient,) = torch.autograd.grad(asked.sum(), image)
        return gradient * self.ln_final.weight

    @property
    def layers_by_stack(self) -> Mapping[str | None, int]:
        """Layers under no stack's name: a lens drops it."""
        return {None: self.stack.cfg.n_layers}

    def attention_of(self, name: str) -> Any:
        """The attention module that a hook point belongs to."""
        return self.blip.attention_of(self.full_names[name])

    def explain_missing(self, name: str) -> str:
        """What to say of a name that is not here: the other axis, the other attention, the stack in front."""
        parsed = HookName.parse(name)
        other = "source" if self.axis == "query" else "query"
        if self.attn_name == "cross_attn" and name in _aliases(self.blip, self.stack_name, self.attn_name, other):
            what = "keys and values" if other == "source" else "keys and values only; the rest"
            return (
                f"the {self.axis} view of `{self.lens_name}` has "
                + (f"no {what}: they" if other == "source" else f"{what}")
                + f" live on the {other} axis, whose positions are others: use blip.lens({self.lens_name!r}, inputs, "
                f"axis={other!r})"
            )
        if parsed.stack == self.stack_name and str(HookName(None, parsed.layer, parsed.leaf)) in self.hook_dict:
            return f"a lens drops the stack's name: {HookName(None, parsed.layer, parsed.leaf)!s} instead of {name!r}"
        return super().explain_missing(name)

    def names_table(self) -> "HooksTable":
        """Which full hook and which Hugging Face tensor each name of the lens is."""
        from notice_lens.models.tables import hooks_table

        return hooks_table(self.blip, self.full_names)


class Lens(StackView):
    """A stack that runs by itself on bound inputs; see the module's docstring.

    Attributes:
        tokens: What to hand to TransformerLens's helpers, [batch, pos]. Only the shape counts: inputs and masks are the
            bound ones.
    """

    def __init__(self, blip: "HookedBLIP", name: str, inputs: BLIPInputs, axis: str = "query"):
        super().__init__(blip, name, axis, inputs.to(blip.device).check(blip.cfg))
        with torch.no_grad():
            states = blip.source_of(self.stack_name, self.bound_inputs)
        self.source = states
        if states is not None and not self.stack.blocks[0].cross_attn.use_split_qkv_input:
            self.source = self.stack.project_source(states)
        self.tokens = self._positions(states)

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
            return self.blip.decoder_ids(inputs)
        else:
            patch = self.blip.cfg.patch_size
            n = (inputs.pixel_values.shape[-2] // patch) * (inputs.pixel_values.shape[-1] // patch) + 1
        return torch.arange(n, device=self.blip.device).expand(len(inputs), n)

    def forward(self, tokens: Int[Tensor, "batch pos"] | None = None) -> Tensor:
        """The logits of the bound inputs.

        Args:
            tokens: `lens.tokens`, or anything of its shape; None stands for it.

        Raises:
            ValueError: Another batch size or length than the bound one.
        """
        if tokens is not None and tokens.shape != self.tokens.shape:
            raise ValueError(
                f"tokens of shape {list(tokens.shape)}; this lens is bound to inputs with tokens of shape "
                f"{list(self.tokens.shape)} (lens.tokens). Make another lens for other inputs"
            )
        return self.blip(self.bound_inputs, start_at_stack=self.stack_name, source=self.source)

    def to_str_tokens(self, row: int = 0) -> list[str]:
        """A label for each position of one example: its token, or `[CLS]` and `row,column` of the patch."""
        if self.stack_name != "vision" and self.axis == "query":
            return self.blip.tokenizer.convert_ids_to_tokens(self.tokens[row].tolist())
        n = self.tokens.shape[1]
        if self.stack_name == "decoder" and self.blip.cfg.kind == "vqa":
            assert self.bound_inputs.input_ids is not None, "checked when bound"
            return self.blip.tokenizer.convert_ids_to_tokens(self.bound_inputs.input_ids[row].tolist())
        columns = self.bound_inputs.pixel_values.shape[-1] // self.blip.cfg.patch_size
        return ["[CLS]", *(f"{patch // columns},{patch % columns}" for patch in range(n - 1))]

    def make_cache(self, cache: dict[str, Tensor], has_batch_dim: bool, *model_args: Any) -> ActivationCache:
        """The cache of a run, under the lens's names."""
        from notice_lens.models.cache import StackCache

        return StackCache(cache, self, has_batch_dim)

    def set_use_attn_result(self, use_attn_result: bool) -> None:
        """Whether `attn.hook_result`, what each head writes, is computed in the lens's attention."""
        for block in self.blocks:
            block.attn.use_attn_result = bool(use_attn_result)

    def set_use_split_qkv_input(self, use_split_qkv_input: bool) -> None:
        """Whether each head of the vision stack gets its own copies of its inputs, before `ln1`.

        Raises:
            ValueError: On a post-LayerNorm stack, where adding to a copy is not the effect of a path.
        """
        if use_split_qkv_input and self.post_norm:
            raise ValueError(
                f"`{self.lens_name}` is post-LayerNorm: what a head writes is rescaled by the LayerNorm behind every "
                "addition before a later head reads it, so adding its change to that head's input is not the effect of "
                "the path. The direct-path helper is for the lens `vision.attn`; on the whole model, "
                "blip.set_use_split_qkv_input(True) gives the copies without this claim"
            )
        for block in self.blocks:
            block.attn.use_split_qkv_input = bool(use_split_qkv_input)


def first_answer_logits(blip: "HookedBLIP", inputs: BLIPInputs, logits: Tensor) -> Float[Tensor, "batch d_vocab"]:
    """The logits of the answer's first token (of no match and match): behind `[DEC]`, or behind a caption's prompt."""
    if logits.ndim == 2:
        return logits
    first = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    if inputs.target_ids is not None:
        first = (inputs.target_ids >= 0).int().argmax(-1)
    elif blip.cfg.kind == "caption" and inputs.attention_mask is not None:
        first = inputs.attention_mask.sum(-1) - 1
    elif blip.cfg.kind == "caption":
        first = first + logits.shape[1] - 1
    return logits[torch.arange(len(logits), device=logits.device), first]


def _aliases(blip: "HookedBLIP", stack: str, attn: str, axis: str) -> dict[str, str]:
    """Lens name to full name, in the order of the model."""
    if stack not in blip.cfg.stacks:
        raise KeyError(f"no stack {stack!r}: a model of kind {blip.cfg.kind!r} has {', '.join(blip.cfg.stacks)}")
    aliases = {}
    for full in blip.hook_dict:
        parsed = HookName.parse(full)
        leaf = parsed.leaf if attn == "attn" else _as_cross_attention(parsed.leaf)
        if parsed.stack != stack or leaf is None:
            continue
        if attn == "cross_attn" and (leaf in _KEYS_AND_VALUES) != (axis == "source"):
            continue
        aliases[str(HookName(None, parsed.layer, leaf))] = full
    return aliases


def _as_cross_attention(leaf: str) -> str | None:
    """The lens's name for a leaf where cross-attention is called attention; None for what gives way to it."""
    if leaf.startswith("cross_attn."):
        renamed = leaf.removeprefix("cross_")
        # Copies of the source for each head belong to neither axis.
        return None if renamed in ("attn.hook_k_input", "attn.hook_v_input") else renamed
    if leaf.startswith("attn.") or leaf in _CROSS_ATTENTION_AS_ATTENTION.values():
        return None
    return _CROSS_ATTENTION_AS_ATTENTION.get(leaf, leaf)
