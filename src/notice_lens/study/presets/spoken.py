"""Answers in the spelling in which the model gives them.

A data set has `red`; a chat model says `Red`, whose probability is another one. The papers measure the token that the
model says, so of several spellings the one with which its greedy answer begins is taken, before any patch.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from notice_lens.progress import bar

if TYPE_CHECKING:
    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs
    from notice_lens.pairs.corruption import Which

AT_ONCE = 16
"""Pairs a forward pass."""


def spellings(answers: Sequence[str]) -> list[str]:
    """Return each answer as it is and with a capital letter, without repeats."""
    return list(dict.fromkeys(form for answer in answers for form in (answer, answer[:1].upper() + answer[1:])))


def spoken(
    model: "VisionLanguageModel",
    pairs: "MinimalPairs",
    candidates: Sequence[Sequence[str]],
    prompt: "Which" = "clean",
    *,
    progress: bool = True,
) -> list[str | None]:
    """Return for each pair the candidate with which the model's greedy answer begins, or None.

    Args:
        model: The model.
        pairs: Of its kind; their clean pictures are shown.
        candidates: Of each pair, in order of preference.
        prompt: Which question is asked: `clean` or `corrupt`.
        progress: Whether there is a bar.
    """
    ids = [
        {answer: model.answer_ids(asked, answer) for answer in own}
        for asked, own in zip(pairs[f"{prompt}_prompt"], candidates, strict=True)
    ]
    longest = max((len(tokens) for own in ids for tokens in own.values()), default=1)
    said: list[list[int]] = []
    with bar(progress, f"answers to the {prompt} question", total=len(pairs), unit="pairs") as shown:
        for start in range(0, len(pairs), AT_ONCE):
            part = pairs[start : start + AT_ONCE]
            said += model.greedy_ids(part.prepare(model, "clean", prompt), longest)
            shown.update(len(part))
    return [
        next((answer for answer, tokens in own.items() if tokens and reply[: len(tokens)] == tokens), None)
        for own, reply in zip(ids, said, strict=True)
    ]
