"""Figures and reports: `viz.heads` and its like draw results, `viz.report` writes a page. Importing it is quick."""

from typing import TYPE_CHECKING

from notice_lens._lazy import lazy

if TYPE_CHECKING:
    from notice_lens.report.data import ReportData
    from notice_lens.report.page import report
    from notice_lens.viz.attention_figures import attention
    from notice_lens.viz.circuit_figures import curve, forest
    from notice_lens.viz.display import show
    from notice_lens.viz.flow_figures import modules, paths, profile
    from notice_lens.viz.graph_figure import circuit
    from notice_lens.viz.head_figures import heads, universal
    from notice_lens.viz.lens_figure import lens
    from notice_lens.viz.pair_figures import pairs
    from notice_lens.viz.widget import explore

_HOMES = {
    "ReportData": "notice_lens.report.data",
    "attention": "notice_lens.viz.attention_figures",
    "circuit": "notice_lens.viz.graph_figure",
    "curve": "notice_lens.viz.circuit_figures",
    "explore": "notice_lens.viz.widget",
    "forest": "notice_lens.viz.circuit_figures",
    "heads": "notice_lens.viz.head_figures",
    "lens": "notice_lens.viz.lens_figure",
    "modules": "notice_lens.viz.flow_figures",
    "pairs": "notice_lens.viz.pair_figures",
    "paths": "notice_lens.viz.flow_figures",
    "profile": "notice_lens.viz.flow_figures",
    "report": "notice_lens.report.page",
    "show": "notice_lens.viz.display",
    "universal": "notice_lens.viz.head_figures",
}
__all__ = [
    "ReportData",
    "attention",
    "circuit",
    "curve",
    "explore",
    "forest",
    "heads",
    "lens",
    "modules",
    "pairs",
    "paths",
    "profile",
    "report",
    "show",
    "universal",
]
__getattr__, __dir__ = lazy(__name__, _HOMES)
