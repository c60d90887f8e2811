"""One attention function for every attention of a hosted model, language model and vision tower alike.

transformers lets each attention module look up its arithmetic by name, after the projections, the q/k norms and the
rotary embedding, and before the output projection. `NAME` is registered there, with the boolean masks of SDPA.
`attention_by` makes a model use it for the length of a `with` block, and says which modules compute with which
function; all others stay with SDPA, so that their numbers are Hugging Face's.

`explicit_attention` is the arithmetic written out, for whoever wants to see or change a step of it:

1. scores = query · key * scaling, in groups where several query heads share a key-value head;
2. soft cap, then the mask (boolean or additive); masked scores are -inf, as in TransformerLens;
3. the softmax in float32 at least; a row that sees nothing gives zeros, as SDPA does;
4. z = pattern · value.

Attention sinks, position biases and paged caches are refused: they would need extra steps.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "notice_lens"
"""The name under which transformers knows `dispatch`."""

Stage = Literal["rot_q", "rot_k", "v", "attn_scores", "pattern", "z"]
Watch = Callable[[Stage, Tensor], Tensor]
"""Called with each step's result; returns what the next step is to use."""
AttentionFunction = Callable[..., tuple[Tensor, Tensor | None]]
"""As transformers calls it: module, query, key, value, attention_mask, and keywords."""

_REFUSED = {
    "s_aux": "attention sinks",
    "position_bias": "a position bias",
    "cache": "a paged cache",
}
_functions: ContextVar[Mapping[nn.Module, AttentionFunction] | None] = ContextVar("attention functions", default=None)


def unchanged(stage: Stage, tensor: Tensor) -> Tensor:
    """Return the tensor as it is: the `Watch` that looks at nothing."""
    return tensor


@dataclass
class KeptSteps:
    """The steps of one attention module in a run, for whoever computes parts of it again.

    Attributes:
        wanted: The stages that are kept.
        kept: By stage, as the next step was given them.
        scaling: Factor of the scores; None for d_head ** -0.5.
        softcap: Soft cap of the scores, or None.
    """

    wanted: tuple[Stage, ...] = ()
    kept: dict[Stage, Tensor] = field(default_factory=dict)
    scaling: float | None = None
    softcap: float | None = None

    def keep(self, stage: Stage, tensor: Tensor) -> Tensor:
        """Keep a step where it is wanted, and return it."""
        if stage in self.wanted:
            self.kept[stage] = tensor
        return tensor

    def recording_scale(self, attend: AttentionFunction) -> AttentionFunction:
        """Return the function, which also records how scores are scaled and capped."""

        def noted(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
            self.scaling, self.softcap = kwargs.get("scaling"), kwargs.get("softcap")
            return attend(*args, **kwargs)

        return noted


def scores_of_heads(
    query: Float[Tensor, "batch head query_pos d_head"],
    key: Float[Tensor, "batch kv_head key_pos d_head"],
    scaling: float | None = None,
    softcap: float | None = None,
) -> Float[Tensor, "batch head query_pos key_pos"]:
    """Return the scores before any mask. Arguments as of `explicit_attention`."""
    grouped = query.unflatten(1, (key.shape[1], -1))
    scores = (grouped @ key[:, :, None].transpose(-1, -2)).flatten(1, 2)
    scores = scores * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap


def explicit_attention(
    query: Float[Tensor, "batch head query_pos d_head"],
    key: Float[Tensor, "batch kv_head key_pos d_head"],
    value: Float[Tensor, "batch kv_head key_pos d_value"],
    mask: Tensor | None = None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    watch: Watch = unchanged,
) -> tuple[Float[Tensor, "batch query_pos head d_value"], Float[Tensor, "batch head query_pos key_pos"]]:
    """Return z and the pattern of attention, step by step.

    Args:
        query: After the rotary embedding.
        key: After the rotary embedding; query heads h * group to (h + 1) * group - 1 read key-value head h.
        value: As `key`.
        mask: True where a query sees a key, or what is added to the scores; broadcast to [batch, head, query_pos,
            key_pos]. None: every query sees every key.
        scaling: Factor of the scores; None for d_head ** -0.5.
        softcap: The scores become softcap * tanh(scores / softcap); None leaves them.
        watch: Called with `rot_q`, `rot_k`, `v` [batch, pos, head, d_head], `attn_scores`, `pattern` [batch, head,
            query_pos, key_pos] and `z`, in this order.
    """
    query = watch("rot_q", query.transpose(1, 2)).transpose(1, 2)
    key = watch("rot_k", key.transpose(1, 2)).transpose(1, 2)
    value = watch("v", value.transpose(1, 2)).transpose(1, 2)
    scores = watch("attn_scores", masked(scores_of_heads(query, key, scaling, softcap), mask))
    pattern = watch("pattern", softmax(scores).to(value.dtype))
    z = pattern.unflatten(1, (key.shape[1], -1)) @ value[:, :, None]
    return watch("z", z.flatten(1, 2).transpose(1, 2)), pattern


def masked(scores: Float[Tensor, "*rows key_pos"], mask: Tensor | None) -> Float[Tensor, "*rows key_pos"]:
    """Return the scores under a boolean mask (True is seen, the rest -inf) or an additive one; None masks nothing."""
    if mask is None:
        return scores
    return scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask


def softmax(scores: Float[Tensor, "*rows key_pos"]) -> Float[Tensor, "*rows key_pos"]:
    """Return the softmax over keys, in float32 at least; rows of nothing but -inf become zeros."""
    pattern = scores.softmax(-1, dtype=torch.promote_types(torch.float32, scores.dtype))
    return pattern.masked_fill((scores == float("-inf")).all(-1, keepdim=True), 0.0)


def mask_of(
    module: nn.Module, query: Tensor, key: Tensor, attention_mask: Tensor | None, is_causal: bool | None = None
) -> Tensor | None:
    """Return the mask that SDPA would apply, which is causal by itself where none is given.

    Args:
        module: The attention module, whose `is_causal` counts where the keyword is None.
        query: [batch, head, query_pos, d_head].
        key: [batch, kv_head, key_pos, d_head].
        attention_mask: As transformers hands it over; longer than the keys in static caches.
        is_causal: The keyword of the same name.
    """
    n_query, n_key = query.shape[2], key.shape[2]
    if attention_mask is not None:
        return attention_mask[..., :n_key]
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    return causal_mask(n_query, n_key, query.device) if causal and n_query > 1 else None


def causal_mask(n_query: int, n_key: int, device: torch.device | str = "cpu") -> Bool[Tensor, "query_pos key_pos"]:
    """Return True where the key stands at the query's position or before it."""
    return torch.ones(n_query, n_key, dtype=torch.bool, device=device).tril()


def watched_attention(watch: Watch) -> AttentionFunction:
    """Return explicit attention in the form in which transformers calls it, with each step shown to `watch`."""

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        *,
        scaling: float | None = None,
        softcap: float | None = None,
        is_causal: bool | None = None,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        refuse_unknown_steps(module, kwargs)
        if dropout:
            raise ValueError(f"attention with dropout {dropout} has no fixed pattern to look at: call model.eval()")
        mask = mask_of(module, query, key, attention_mask, is_causal)
        z, pattern = explicit_attention(query, key, value, mask, scaling=scaling, softcap=softcap, watch=watch)
        return z.contiguous(), pattern

    return attend


def refuse_unknown_steps(module: nn.Module, kwargs: Mapping[str, Any]) -> None:
    """Raise ValueError if transformers asks for a step that `explicit_attention` does not have."""
    for name, what in _REFUSED.items():
        if kwargs.get(name) is not None:
            raise ValueError(
                f"{type(module).__name__} computes attention with {what} (`{name}`), which notice-lens does not know "
                "how to hook; expected a softmax over scores and a mask"
            )


def dispatch(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Compute a module's attention with the function that `attention_by` has for it, else with SDPA."""
    function = (_functions.get() or {}).get(module)
    if function is None and kwargs.get("softcap") is not None:
        function = watched_attention(unchanged)  # SDPA has no soft cap
    return (function or sdpa_attention_forward)(module, query, key, value, attention_mask, **kwargs)


AttentionInterface.register(NAME, dispatch)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def attention_by(model: nn.Module, functions: Mapping[nn.Module, AttentionFunction]) -> Iterator[None]:
    """Let attention modules compute with functions of ours for the length of a `with` block.

    Args:
        model: A Hugging Face model; its attention goes through `dispatch` meanwhile, and back to what it was.
        functions: The function of each module that is not to use SDPA.
    """
    implementations = [(config, config._attn_implementation) for config in configs_of(model)]
    token = _functions.set(functions)
    try:
        for config, _ in implementations:
            config._attn_implementation = NAME
        yield
    finally:
        # Parents first: setting a config sets the configs inside it too.
        for config, implementation in implementations:
            config._attn_implementation = implementation
        _functions.reset(token)


def configs_of(model: nn.Module) -> list[PreTrainedConfig]:
    """Return every config that a module of `model` reads, each once, a config before those inside it."""
    configs: dict[int, PreTrainedConfig] = {}
    held = (getattr(module, "config", None) for module in model.modules())
    waiting = [config for config in held if isinstance(config, PreTrainedConfig)]
    while waiting:
        config = waiting.pop(0)
        if id(config) not in configs:
            configs[id(config)] = config
            inner = (getattr(config, name, None) for name in config.sub_configs)
            waiting[:0] = [sub for sub in inner if isinstance(sub, PreTrainedConfig)]
    return list(configs.values())
