"""Caches of a hosted model: under full names, and one stack's under TransformerLens's short ones."""

from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.utilities.components_utils import get_act_name

from notice_lens.models.hook_names import full_name
from notice_lens.models.vlm.lens import VLMView

if TYPE_CHECKING:
    from notice_lens.models.vlm.hooked_vlm import HookedVLM

_NEED_NORMS = (
    *("apply_ln_to_stack", "decompose_resid", "get_full_resid_decomposition", "logit_attrs", "logit_lens"),
    *("compute_head_results", "accumulated_resid", "get_neuron_results", "stack_neuron_results"),
    "stack_head_results",
)


class VLMStackCache(ActivationCache):
    """One stack's activations under TransformerLens's names: `cache["pattern", 3]`."""

    model: VLMView

    def __getitem__(self, key: Any) -> Tensor:
        try:
            return super().__getitem__(key)
        except (KeyError, IndexError):
            name = key if isinstance(key, str) and key in self.model.hook_dict else _name_of(key)
            if name in self.model.hook_dict:
                raise KeyError(_not_cached(name)) from None
            raise KeyError(self.model.explain_missing(name)) from None


class VLMCache(ActivationCache):
    """Every activation of a run under its full name, with a view for each stack.

    `cache["language.blocks.3.attn.hook_pattern"]`, `cache["pattern", 3, "language"]` and
    `cache.stack("language")["pattern", 3]` are the same.
    """

    model: "HookedVLM"

    def __init__(self, cache: dict[str, Tensor], model: "HookedVLM", has_batch_dim: bool = True, inputs: Any = None):
        super().__init__(cache, model, has_batch_dim)
        self.inputs = inputs

    def stack(self, stack: str, attn: str = "attn") -> VLMStackCache:
        """Return one stack's activations under TransformerLens's names.

        Args:
            stack: `language` or `vision`.
            attn: `attn` or `cross_attn`: the layers of which kind; layers are then counted among these.
        """
        view = VLMView(self.model, f"{stack}.{attn}")
        found = {alias: self.cache_dict[full] for alias, full in view.full_names.items() if full in self.cache_dict}
        return VLMStackCache(found, view, self.has_batch_dim)

    def __getitem__(self, key: Any) -> Tensor:
        if isinstance(key, str) and key in self.cache_dict:
            return self.cache_dict[key]
        if (full := full_name(key, self.model.cfg.stacks)) is not None:
            return self[full]
        if not isinstance(key, str):
            short = ", ".join(map(repr, key))
            raise KeyError(
                f"{key!r} does not say which stack: cache.stack('language')[{short}], or cache[{short}, 'language']"
            )
        if key in self.model.hook_dict:
            raise KeyError(_not_cached(key))
        raise KeyError(self.model.explain_missing(key))


def _name_of(key: Any) -> str:
    return get_act_name(key) if isinstance(key, str) else get_act_name(*key)


def _not_cached(name: str) -> str:
    return f"{name} is not in this cache: names_filter left it out, or it is switched off"


def _refused(what: str) -> Any:
    def refuse(self: ActivationCache, *args: Any, **kwargs: Any) -> Tensor:
        raise ValueError(
            f"{what} takes the stream as the sum of its parts under TransformerLens's LayerNorm; a hosted model keeps "
            "Hugging Face's norms, and puts the image's features into the stream: read the activations themselves, "
            "for instance cache['language.blocks.3.hook_resid_post'], and model.W_U"
        )

    refuse.__doc__ = f"Refused: `{what}` needs TransformerLens's own norms."
    return refuse


for _what in _NEED_NORMS:
    setattr(VLMCache, _what, _refused(_what))
    setattr(VLMStackCache, _what, _refused(_what))
