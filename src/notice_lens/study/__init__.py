"""Studies: pairs in; universal heads, what they do, and a report out. Commands of `notice-lens` carry them out."""

from typing import TYPE_CHECKING

from notice_lens._lazy import lazy

if TYPE_CHECKING:
    from notice_lens.study.choices import Choices
    from notice_lens.study.findings import Study, summary
    from notice_lens.study.runner import SAVED, run_study

_HOMES = {
    "Choices": "notice_lens.study.choices",
    "Study": "notice_lens.study.findings",
    "summary": "notice_lens.study.findings",
    "SAVED": "notice_lens.study.runner",
    "run_study": "notice_lens.study.runner",
}
__all__ = ["SAVED", "Choices", "Study", "run_study", "summary"]
__getattr__, __dir__ = lazy(__name__, _HOMES)
