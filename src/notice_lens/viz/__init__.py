"""Figures and reports. `viz.pairs` shows minimal pairs; importing the package imports nothing heavy."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from notice_lens.viz.pair_figures import pairs

__all__ = ["pairs"]

_HOMES = {"pairs": "notice_lens.viz.pair_figures"}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for (PEP 562)."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
