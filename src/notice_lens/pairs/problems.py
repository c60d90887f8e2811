"""Problems of pairs and their reasons. Problems are collected, so that one report names them all."""

from collections.abc import Iterable
from dataclasses import dataclass

from notice_lens.pairs.io.values import storable
from notice_lens.plain_text import printable

MISSING = "missing value"
NOT_TEXT = "neither text nor a whole number"
IMAGE = "image unreadable"
NO_IMAGE = "image missing"
ROW = "row unreadable"
TEXT = "text that cannot be stored"
DUPLICATE = "duplicate"
EQUAL_ANSWERS = "answers equal"
ROLE = "role not in the prompt"
OPTION = "option not in the prompt"
REGION = "region unreadable"
NOTHING_DIFFERS = "nothing differs"
UNEQUAL_LENGTH = "prompts of unequal token length"
FIRST_TOKEN = "answers share their first token"
UNKNOWN_WORD = "[UNK]"
NO_TOKENS = "text without tokens"
TOO_LONG = "text longer than the model reads"
NO_REPLACEMENT = "no replacement of the same token length"
IMAGE_POSITIONS = "pictures of unequal numbers of image positions"
KIND = "unknown kind"
LABELS = "contradicting labels"
PROBLEMS_SHOWN = 5
"""How many problems of one reason a report spells out."""


@dataclass(frozen=True)
class Problem:
    """A problem of one pair; its texts can be printed and stored, whatever a file's name contains.

    Attributes:
        id: The pair's, or what stands for it where it never became one, such as a line of a file.
        reason: The kind of problem, one of this module's constants; dropped pairs are counted by it.
        detail: What was found and what was expected.
    """

    id: str
    reason: str
    detail: str

    def __post_init__(self) -> None:
        for name in ("id", "detail"):
            object.__setattr__(self, name, storable(getattr(self, name)))

    def __str__(self) -> str:
        return printable(f"{self.id}: {self.detail}")


def describe(problems: Iterable[Problem], of: int) -> str:
    """Return a report of all problems: how many pairs have each kind, and the first few spelled out.

    Args:
        problems: Any number of them.
        of: How many pairs were looked at.
    """
    by_reason: dict[str, list[Problem]] = {}
    for problem in problems:
        by_reason.setdefault(problem.reason, []).append(problem)
    wrong = len({problem.id for found in by_reason.values() for problem in found})
    lines = [f"{wrong} of {of} pairs have problems" if wrong else f"{of} pairs, no problems"]
    for reason, found in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        lines.append(f"  {reason}: {len(found)}")
        lines += [f"    {problem}" for problem in found[:PROBLEMS_SHOWN]]
        if len(found) > PROBLEMS_SHOWN:
            lines.append(f"    ... and {len(found) - PROBLEMS_SHOWN} more")
    return "\n".join(lines)


class PairsError(ValueError):
    """Pairs are invalid; the message is the whole report.

    Attributes:
        problems: Every problem found.
    """

    def __init__(self, problems: list[Problem], of: int, hint: str = "") -> None:
        super().__init__(describe(problems, of) + printable(hint))
        self.problems = problems
