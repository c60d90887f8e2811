"""Questions: their text, which words of it play which role, and the right answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from notice_lens.models.layout import Span

OPEN_WORDS = {"colour": "color", "shape": "form", "texture": "texture", "size": "size"}
"""The word by which an open question asks for a group: `what color is this circle?`"""


@dataclass(frozen=True)
class Question:
    """A question about one picture.

    Attributes:
        text: The question.
        answer: Its right answer, one word.
        group: The group of the question, such as `colour`.
        options: The two answers it offers, in their order; empty where it is open.
        roles: Where the words stand that carry the meaning, by role.
    """

    text: str
    answer: str
    group: str
    options: tuple[str, ...] = ()
    roles: dict[str, Span] = field(default_factory=dict)


def compose(group: str, answer: str, pieces: Sequence[str | tuple[str, str]]) -> Question:
    """Return a question from its pieces, joined by spaces (none before a question mark).

    Args:
        group: The group of the question.
        answer: The right answer.
        pieces: Plain words, or (role, word). The role `option` becomes `correct` where the word is the answer and
            else `incorrect`.
    """
    text, roles, options = "", {}, []
    for piece in pieces:
        role, word = ("", piece) if isinstance(piece, str) else piece
        text += "" if not text or word == "?" else " "
        if role == "option":
            options.append(word)
            role = "correct" if word == answer else "incorrect"
        if role:
            roles[role] = (len(text), len(text) + len(word))
        text += word
    return Question(text, answer, group, tuple(options), roles)


def either(first: str, second: str, swap: bool) -> list[str | tuple[str, str]]:
    """Return the pieces `first or second`, or the other way round."""
    first, second = (second, first) if swap else (first, second)
    return [("option", first), "or", ("option", second)]
