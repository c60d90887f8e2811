"""Figures and reports: `viz.heads` and its like draw results, `viz.report` writes a page. Importing it is quick."""

from typing import TYPE_CHECKING

from notice_lens._lazy import lazy

if TYPE_CHECKING:
    from notice_lens.viz.attention_figures import attention
    from notice_lens.viz.flow_figures import modules, paths, profile
    from notice_lens.viz.head_figures import heads, universal
    from notice_lens.viz.looking import attention_maps
    from notice_lens.viz.pair_figures import pairs

__all__ = ["attention", "attention_maps", "heads", "modules", "pairs", "paths", "profile", "universal"]
_HOMES = {
    "attention": "notice_lens.viz.attention_figures",
    "attention_maps": "notice_lens.viz.looking",
    "heads": "notice_lens.viz.head_figures",
    "modules": "notice_lens.viz.flow_figures",
    "pairs": "notice_lens.viz.pair_figures",
    "paths": "notice_lens.viz.flow_figures",
    "profile": "notice_lens.viz.flow_figures",
    "universal": "notice_lens.viz.head_figures",
}
__getattr__, __dir__ = lazy(__name__, _HOMES)
