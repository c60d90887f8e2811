"""TransformerLens's TransformerBridge: BLIP for it, and what to do with a bridge here.

`register` makes TransformerLens load BLIP. The verbs of this package take its own models; `refuse_bridge` says how to
get one from a bridge, and `without_bridges` gives Hugging Face's model back that a bridge was put into.
"""

import copy
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

ARCHITECTURE = "BlipForQuestionAnswering"
"""Hugging Face's class that `register` adds, as configs name it."""
_INSIDE = "_original_component"
_lock = threading.Lock()


def register() -> None:
    """Make `TransformerBridge.boot_transformers("Salesforce/blip-vqa-base")` load BLIP's question answering.

    A local folder does as well. TransformerLens 4.3 finds adapters of other packages by their entry points, which this
    package has, but decides before that whether it knows an architecture, and by a list of its own which class of
    transformers loads it. So an entry is added to that list, and one function is given BLIP's answer in front of its
    own. Calling it again changes nothing.
    """
    from transformer_lens.factories import architecture_adapter_factory as adapters
    from transformer_lens.model_bridge.sources.transformers import source

    from notice_lens.models.blip.bridge.adapter import BLIPArchitectureAdapter

    with _lock:
        # First, or TransformerLens would warn later that our own entry point overrides our own adapter.
        adapters.ArchitectureAdapterFactory.discover_entry_points()
        adapters.ArchitectureAdapterFactory.register_adapter(ARCHITECTURE, BLIPArchitectureAdapter)
        adapters.SUPPORTED_ARCHITECTURES[ARCHITECTURE] = BLIPArchitectureAdapter
        booting: Any = source
        choose = booting.get_hf_model_class_for_architecture
        if not isinstance(choose, _ModelClass):
            booting.get_hf_model_class_for_architecture = _ModelClass(choose)


@dataclass(frozen=True)
class _ModelClass:
    """The class of transformers that loads an architecture: BLIP's, or TransformerLens's choice."""

    others: Callable[[str], Any]

    def __call__(self, architecture: str) -> Any:
        if architecture != ARCHITECTURE:
            return self.others(architecture)
        from transformers import AutoModelForVisualQuestionAnswering

        return AutoModelForVisualQuestionAnswering


def is_bridge(model: Any) -> bool:
    """Return whether a model is a TransformerBridge, without importing TransformerLens."""
    return any(ancestor.__name__ == "TransformerBridge" for ancestor in type(model).__mro__)


def refuse_bridge(model: Any) -> None:
    """Raise TypeError for a TransformerBridge, with what to write instead."""
    if not is_bridge(model):
        return
    blip = getattr(getattr(model, "cfg", None), "architecture", "") == ARCHITECTURE
    name = "HookedBLIP" if blip else "HookedVLM"
    raise TypeError(
        f"the model is a TransformerBridge, whose forward pass this function does not run: write "
        f"{name}.from_hf(bridge.original_model, bridge.processor), which has the same weights"
    )


def without_bridges(model: nn.Module) -> nn.Module:
    """Return Hugging Face's model that a bridge was put into: its modules again, with the very same weights.

    The modules that hold others are copied without their weights; the bridge stays as it is. A model without a bridge
    in it is returned itself.
    """
    if not any(_INSIDE in module._modules for module in model.modules()):
        return model
    return _plain(model, {})


def _plain(module: nn.Module, made: dict[int, nn.Module]) -> nn.Module:
    while (inside := module._modules.get(_INSIDE)) is not None:
        module = inside
    if id(module) not in made:
        made[id(module)] = plain = copy.copy(module)
        for name, value in vars(module).items():
            if isinstance(value, dict):  # of weights, of hooks: what is added to one model is not the other's
                vars(plain)[name] = copy.copy(value)
            elif value is module:  # TransformerLens gives CLIP's tower one of these
                vars(plain)[name] = plain
        # Where an adapter gave an instance another forward, as that of BLIP does, it is bound to the bridge's model.
        vars(plain).pop("forward", None)
        plain._modules = {
            name: None if child is None else _plain(child, made) for name, child in module._modules.items()
        }
    return made[id(module)]
