"""Caches: `BLIPCache` of the whole model, and views of it under TransformerLens's short names."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.utilities.components_utils import get_act_name
from transformer_lens.utilities.slice import Slice

from notice_lens.models.blip.inputs import BLIPInputs
from notice_lens.models.hook_names import full_name
from notice_lens.models.stack_view import StackView

if TYPE_CHECKING:
    from notice_lens.models.blip.hooked_blip import HookedBLIP

# Of ActivationCache, what needs to know which stack is meant.
_ONE_STACK = (
    *("accumulated_resid", "apply_ln_to_stack", "compute_head_results", "decompose_resid"),
    *("get_full_resid_decomposition", "get_neuron_results", "logit_attrs", "logit_lens"),
    *("stack_activation", "stack_head_results", "stack_neuron_results"),
)


class StackCache(ActivationCache):
    """One stack's activations under TransformerLens's names: `cache["pattern", 3]`.

    The decompositions of the residual stream work on the pre-LayerNorm vision stack and refuse, with the reason, on the
    post-LayerNorm stacks. `logit_attrs` of the vision stack is first order: see
    `StackView.tokens_to_residual_directions`.
    """

    model: StackView

    def __getitem__(self, key: Any) -> Tensor:
        if not isinstance(key, str) and len(key) > 1 and isinstance(key[1], int):
            self.model.stack.cfg.check_layer(key[1])
        try:
            return super().__getitem__(key)
        except (KeyError, IndexError):
            name = get_act_name(key) if isinstance(key, str) else get_act_name(*key)
            if name in self.model.hook_dict:
                raise KeyError(_not_cached(name)) from None
            raise KeyError(self.model.explain_missing(name)) from None

    def decompose_resid(self, *args: Any, **kwargs: Any) -> Any:
        """The stream as a stack of what was added to it: see `ActivationCache.decompose_resid`."""
        self._refuse_post_norm("decompose_resid")
        return super().decompose_resid(*args, **kwargs)

    def apply_ln_to_stack(self, *args: Any, **kwargs: Any) -> Any:
        """Components as the LayerNorm of a layer scales them: see `ActivationCache.apply_ln_to_stack`."""
        self._refuse_post_norm("apply_ln_to_stack")
        return super().apply_ln_to_stack(*args, **kwargs)

    def get_full_resid_decomposition(self, *args: Any, **kwargs: Any) -> Any:
        """The stream, down to heads and neurons: see `ActivationCache.get_full_resid_decomposition`."""
        self._refuse_post_norm("get_full_resid_decomposition")
        return super().get_full_resid_decomposition(*args, **kwargs)

    def accumulated_resid(self, *args: Any, **kwargs: Any) -> Any:
        """The stream before each layer and after the last: see `ActivationCache.accumulated_resid`."""
        self._refuse_post_norm("accumulated_resid")
        return super().accumulated_resid(*args, **kwargs)

    def stack_neuron_results(self, layer: int, *args: Any, incl_remainder: bool = False, **kwargs: Any) -> Any:
        """Return the output of each neuron: see `ActivationCache.stack_neuron_results`."""
        if incl_remainder:
            self._refuse_post_norm("stack_neuron_results(incl_remainder=True)")
        return super().stack_neuron_results(layer, *args, incl_remainder=incl_remainder, **kwargs)

    def apply_slice_to_batch_dim(self, batch_slice: Any) -> "StackCache":
        """The cache of some of the examples."""
        sliced = super().apply_slice_to_batch_dim(batch_slice)
        view = self.model
        inputs = _some_inputs(view.inputs, batch_slice)
        return StackCache(
            sliced.cache_dict, StackView(view.model, view.lens_name, view.axis, inputs), sliced.has_batch_dim
        )

    def stack_head_results(self, layer: int = -1, *args: Any, **kwargs: Any) -> Any:
        """Return the output of each head: see `ActivationCache.stack_head_results`."""
        if kwargs.get("incl_remainder") or (len(args) > 1 and args[1]):
            self._refuse_post_norm("stack_head_results(incl_remainder=True)")
        return super().stack_head_results(layer, *args, **kwargs)

    def logit_attrs(
        self,
        residual_stack: Tensor,
        tokens: Any,
        incorrect_tokens: Any = None,
        pos_slice: Any = None,
        batch_slice: Any = None,
        has_batch_dim: bool = True,
    ) -> Tensor:
        """First-order effect of each component of the image stream on a logit, or on a difference of two.

        Args:
            residual_stack: Components, [component, batch, pos, d_model].
            tokens: The token whose logit is decomposed: a word, an id, or an id for each example.
            incorrect_tokens: Subtracted, if given.
            pos_slice: Positions that `residual_stack` was cut to.
            batch_slice: Examples that it is to be cut to.
            has_batch_dim: Whether it has a batch axis.

        Returns:
            [component, batch, pos], in logits; the sum over everything is the gradient times the normalised stream.
        """
        self._refuse_post_norm("logit_attrs")
        direction = self.model.tokens_to_residual_directions(tokens)
        if incorrect_tokens is not None:
            direction = direction - self.model.tokens_to_residual_directions(incorrect_tokens)
        direction = Slice.unwrap(pos_slice).apply(direction, dim=1)
        direction = Slice.unwrap(batch_slice).apply(direction, dim=0) if has_batch_dim else direction[0]
        scaled = self.apply_ln_to_stack(
            residual_stack, layer=-1, pos_slice=pos_slice, batch_slice=batch_slice, has_batch_dim=has_batch_dim
        )
        return (scaled * direction).sum(-1)

    def logit_lens(self, **kwargs: Any) -> Any:
        """Refuse: no stack of BLIP is read out by an unembedding of its stream."""
        raise ValueError(
            f"the logit lens reads the stream by the unembedding; the stream of `{self.model.stack_name}` is read by "
            "another stack's attention, or by a head with its own layers. logit_attrs of the vision stack is the "
            "first-order answer"
        )

    def _refuse_post_norm(self, what: str) -> None:
        if self.model.post_norm:
            raise ValueError(
                f"{what} takes the residual stream as a sum of outputs; `{self.model.stack_name}` is post-LayerNorm, "
                "so each addition is rescaled by the next LayerNorm and the outputs do not add up to the stream. It "
                "works on cache.stack('vision')"
            )


class BLIPCache(ActivationCache):
    """Every activation of a run under its full name, with a view for each stack.

    `cache["text.blocks.3.cross_attn.hook_pattern"]`, `cache["pattern", 3, "text.cross_attn"]` and
    `cache.stack("text", "cross_attn")["pattern", 3]` are the same.
    """

    model: "HookedBLIP"

    def __init__(
        self,
        cache_dict: dict[str, Tensor],
        model: "HookedBLIP",
        has_batch_dim: bool = True,
        inputs: BLIPInputs | None = None,
    ):
        super().__init__(cache_dict, model, has_batch_dim)
        self.inputs = inputs

    def stack(self, stack: str, attn: str = "attn") -> StackCache:
        """One stack's activations under TransformerLens's names.

        Args:
            stack: `vision`, `text` or `decoder`.
            attn: Which attention is called `attn`: self-attention or cross-attention. Both views of cross-attention are
                there: queries, and the source's keys and values.
        """
        view = StackView(self.model, f"{stack}.{attn}", inputs=self.inputs)
        names = dict(view.full_names)
        if attn == "cross_attn":
            names |= StackView(self.model, f"{stack}.{attn}", axis="source").full_names
        found = {alias: self.cache_dict[full] for alias, full in names.items() if full in self.cache_dict}
        return StackCache(found, view, self.has_batch_dim)

    def __getitem__(self, key: Any) -> Tensor:
        if isinstance(key, str) and key in self.cache_dict:
            return self.cache_dict[key]
        if (full := full_name(key, self.model.cfg.stacks)) is not None:
            return self[full]
        if not isinstance(key, str):
            short = ", ".join(map(repr, key))
            raise KeyError(
                f"{key!r} does not say which stack: cache.stack('text', 'cross_attn')[{short}], or "
                f"cache[{short}, 'text.cross_attn']"
            )
        if key in self.model.hook_dict:
            raise KeyError(_not_cached(key))
        raise KeyError(self.model.explain_missing(key))

    def apply_slice_to_batch_dim(self, batch_slice: Any) -> "BLIPCache":
        """The cache of some of the examples."""
        sliced = super().apply_slice_to_batch_dim(batch_slice)
        return BLIPCache(sliced.cache_dict, self.model, sliced.has_batch_dim, _some_inputs(self.inputs, batch_slice))


def _some_inputs(inputs: BLIPInputs | None, batch_slice: Any) -> BLIPInputs | None:
    """The inputs of the same examples, so that logit directions match the run."""
    if inputs is None:
        return None
    picked = batch_slice if isinstance(batch_slice, Slice) else Slice(batch_slice)
    return inputs.take(picked.apply(torch.arange(len(inputs)), dim=0).reshape(-1))


def _not_cached(name: str) -> str:
    return f"{name} is not in this cache: names_filter left it out, or it is switched off"


def _needs_a_stack(what: str) -> Any:
    def refuse(self: BLIPCache, *args: Any, **kwargs: Any) -> torch.Tensor:
        raise ValueError(f"{what} is about one residual stream: cache.stack('vision').{what}(...)")

    refuse.__doc__ = f"Refused: `{what}` is about one stack's stream, so it is on `cache.stack(...)`."
    return refuse


for _what in _ONE_STACK:
    setattr(BLIPCache, _what, _needs_a_stack(_what))
