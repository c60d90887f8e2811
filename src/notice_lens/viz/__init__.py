"""Figures and reports. `viz.pairs` shows minimal pairs; importing the package imports nothing heavy."""

from typing import TYPE_CHECKING

from notice_lens._lazy import lazy

if TYPE_CHECKING:
    from notice_lens.viz.pair_figures import pairs

__all__ = ["pairs"]
__getattr__, __dir__ = lazy(__name__, {"pairs": "notice_lens.viz.pair_figures"})
