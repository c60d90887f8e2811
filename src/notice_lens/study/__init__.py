"""Studies: pairs in; universal heads, what they do, and a report out. Commands of `notice-lens` carry them out."""

from typing import TYPE_CHECKING

from notice_lens._lazy import lazy

if TYPE_CHECKING:
    from notice_lens.study.choices import Choices
    from notice_lens.study.findings import summary
    from notice_lens.study.runner import run_study

_HOMES = {
    "Choices": "notice_lens.study.choices",
    "summary": "notice_lens.study.findings",
    "run_study": "notice_lens.study.runner",
}
__all__ = ["Choices", "run_study", "summary"]
__getattr__, __dir__ = lazy(__name__, _HOMES)
