"""notice-lens: how BLIP thinks, by causal mediation with real counterfactuals.

Importing the package is quick: everything heavy is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from notice_lens.models import BLIPInputs, HookedBLIP, Lens

__version__ = "0.1.0.dev0"
__all__ = ["BLIPInputs", "HookedBLIP", "Lens", "__version__"]

_HOMES = {"HookedBLIP": "notice_lens.models", "BLIPInputs": "notice_lens.models", "Lens": "notice_lens.models"}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for (PEP 562)."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
