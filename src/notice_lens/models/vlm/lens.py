"""One stack of a hosted model under TransformerLens's names, for TransformerLens's own utilities.

| lens | `attn.*` is | `hook_attn_out` is | positions |
| --- | --- | --- | --- |
| `language.attn` | self-attention | the same | of the prompt, image tokens among them |
| `language.cross_attn` | cross-attention (Llama-3.2-Vision) | `hook_cross_attn_out` | the same; of keys: the image's |

`transformer_lens.patching.get_act_patch_*` runs on a lens unmodified, and with the picture, which it leaves out on a
bare bridge: the lens runs on the inputs that it was made with, and takes `lens.tokens` as the sign that it shall.
Layers are counted without those of the other kind of attention, since TransformerLens walks all of them:
`lens.layers[0]` is the first one's number in the model.

A lens renames no module: hooks are attached to the model's own hook points under an alias.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.config import TransformerLensConfig

from notice_lens.errors import one_of
from notice_lens.models.hook_names import HookName
from notice_lens.models.hooked_module import HookedModule
from notice_lens.models.hooks import AliasPoint, CopyingHookPoint
from notice_lens.models.in_use import InUse, one_thread_at_a_time
from notice_lens.models.vlm.points import HostedAttention

if TYPE_CHECKING:
    from notice_lens.models.vlm.hooked_vlm import HookedVLM

HOSTED_LENSES = ("language.attn", "language.cross_attn", "vision.attn")
"""The views of a model; of these, TransformerLens's utilities run on the ones of the language model."""


class VLMView(HookedModule):
    """One stack's names, as far as a cache or a lens needs them.

    Args:
        model: The model.
        name: One of `HOSTED_LENSES`.

    Attributes:
        layers: The layer in the model of each layer of the view.
        full_names: Name in the view to name in the model.

    Raises:
        KeyError: There is no such lens, or the model has no such attention.
    """

    def __init__(self, model: "HookedVLM", name: str):
        super().__init__()
        if name not in HOSTED_LENSES:
            raise KeyError(one_of("lens", name, HOSTED_LENSES))
        self.lens_name = name
        self.stack_name, self.attn_name = name.split(".")
        # In a tuple, so that the model does not become a part of the view, which could then move it.
        self._model = (model,)
        is_cross = self.attn_name == "cross_attn"
        n_layers = model.layers_by_stack[self.stack_name]
        self.layers = [i for i in range(n_layers) if model.block(self.stack_name, i).is_cross == is_cross]
        if not self.layers:
            raise KeyError(f"no lens {name!r}: {model.family.name} has no cross-attention in its language model")
        self.full_names = self._aliases()
        points: dict[str, Any] = {
            alias: AliasPoint(alias, cast(CopyingHookPoint, model.hook_dict[full]))
            for alias, full in self.full_names.items()
        }
        self.hook_dict, self.mod_dict = points, dict(points)
        # Only this view: whether the model trains is its owner's business.
        self.training = False

    def setup(self) -> None:
        """Do nothing: hook points keep the names that the model gave them."""

    def _aliases(self) -> dict[str, str]:
        """Name in the view to full name, in the order of the model."""
        aliases = {}
        for full in self.model.hook_dict:
            parsed = HookName.parse(full)
            if parsed.stack != self.stack_name or (parsed.layer is not None and parsed.layer not in self.layers):
                continue
            layer = None if parsed.layer is None else self.layers.index(parsed.layer)
            leaf = parsed.leaf.replace("hook_cross_attn_out", "hook_attn_out").replace("cross_attn.", "attn.")
            aliases[str(HookName(None, layer, leaf))] = full
        return aliases

    @property
    def model(self) -> "HookedVLM":
        """The model."""
        return self._model[0]

    @property
    def original_model(self) -> "HookedVLM":
        """The model, under the name by which TransformerLens's utilities look for one that is in training mode."""
        return self.model

    @property
    def in_use(self) -> InUse:
        """The lock that gives the model to one thread at a time."""
        return self.model.in_use

    @property
    def layers_by_stack(self) -> Mapping[str | None, int]:
        """The layers, without a stack's name: a lens leaves it out."""
        return {None: len(self.layers)}

    @property
    def cfg(self) -> TransformerLensConfig:
        """The stack's config as TransformerLens writes it: a copy."""
        attention = next(iter(self.model.block(self.stack_name, self.layers[0]).attentions().values()))
        d_model = attention.W_O.shape[-1]
        return TransformerLensConfig(
            d_model=d_model,
            d_head=attention.d_head,
            n_layers=len(self.layers),
            n_ctx=getattr(self.model.config.get_text_config(), "max_position_embeddings", -1),
            n_heads=attention.n_heads,
            n_key_value_heads=attention.n_kv_heads,
            d_vocab=self.model.config.get_text_config().vocab_size,
            device=str(self.model.device),
            dtype=self.model.dtype,
            use_attn_result=attention.use_attn_result,
            default_prepend_bos=False,
        )

    @property
    def blocks(self) -> list[Any]:
        """The blocks' hook points."""
        return [self.model.block(self.stack_name, layer) for layer in self.layers]

    def attention_of(self, name: str) -> HostedAttention:
        """Return the attention module that a hook point belongs to."""
        return self.model.attention_of(self.full_names[name])

    def explain_missing(self, name: str) -> str:
        """Return the error message for a name that is not here."""
        parsed = HookName.parse(name)
        if parsed.stack == self.stack_name:
            return f"a lens drops the stack's name: {HookName(None, parsed.layer, parsed.leaf)!s} instead of {name!r}"
        return super().explain_missing(name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.lens_name!r} of {self.model!r})"


class VLMLens(VLMView):
    """A view that runs: the whole model on the inputs that it was made with, picture included.

    Attributes:
        tokens: What to hand to TransformerLens's helpers, [batch, pos]: the token ids of the inputs.

    Raises:
        KeyError: As `VLMView`; the vision tower has no lens, since its positions are not tokens.
        ValueError: The inputs have no token ids.
    """

    def __init__(self, model: "HookedVLM", name: str, inputs: Mapping[str, Any]):
        if name == "vision.attn":
            raise KeyError(
                "no lens 'vision.attn': TransformerLens walks positions of tokens, and the tower has patches; attach "
                "hooks to vision.blocks.* with model.run_with_hooks"
            )
        super().__init__(model, name)
        if "input_ids" not in inputs:
            raise ValueError(f"the inputs have no input_ids, only {', '.join(inputs)}: expected what prepare gives")
        self.inputs = dict(inputs)
        self.tokens: Tensor = inputs["input_ids"]

    def forward(self, tokens: Any = None) -> Tensor:
        """Return the logits of the inputs of the lens.

        Args:
            tokens: `lens.tokens`, or anything of its shape; None stands for it.

        Raises:
            ValueError: Another batch size or length.
        """
        if tokens is not None and getattr(tokens, "shape", None) != self.tokens.shape:
            got = list(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
            raise ValueError(
                f"this lens is bound to tokens of shape {list(self.tokens.shape)} (lens.tokens), got {got}: "
                "make another lens for other inputs"
            )
        return self.model(self.inputs)

    def to(self, *args: Any, **kwargs: Any) -> "VLMLens":
        """Refuse to move: a lens stays where its model is."""
        raise ValueError("a lens does not move: move the model (model.to) and make another lens")

    def to_str_tokens(self, row: int = 0) -> list[str]:
        """Return the token of each position of one example."""
        return self.model.tokenizer.convert_ids_to_tokens(self.tokens[row].tolist())

    def make_cache(self, cache: dict[str, Tensor], has_batch_dim: bool, inputs: Any = None) -> ActivationCache:
        """Return the cache of a run, under the lens's names."""
        from notice_lens.models.vlm.cache import VLMStackCache

        return VLMStackCache(cache, self, has_batch_dim)

    @one_thread_at_a_time
    def set_use_attn_result(self, use_attn_result: bool) -> None:
        """Set whether `attn.hook_result`, what each head writes, is computed in the lens's layers."""
        for block in self.blocks:
            block.attention.use_attn_result = bool(use_attn_result)
