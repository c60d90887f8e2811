"""A minimal pair: two pictures that differ in one meaning, two questions of equal length, and what controls need."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from notice_lens.mini.picture import Drawing, Picture
from notice_lens.mini.questions import Question
from notice_lens.models.layout import Span

Task = Literal["scenes", "states", "faces"]
Split = Literal["train", "validation", "test"]
Parts = dict[str, tuple[str, ...]]
"""Names of a picture's parts by region; a region without parts is empty in this picture."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Pair:
    """One pair, not drawn yet.

    Attributes:
        id: World, split, task, seed and number, joined by `-`; empty until the pair is numbered.
        task: Its task.
        group: What changes, such as `colour`.
        clean: The picture for which the question's answer is right.
        corrupt: The picture that differs in the group's meaning, and in nothing else.
        donor: Another such picture, for which the right answer is neither option.
        question: The question about all three. Its options are the right answers for `clean` and for `corrupt`.
        incorrect: The right answer for `corrupt`.
        corrupt_question: A question with other options and as many words; its answer is the one on `clean`, or "" where
            neither option is right.
        donor_question: A question with as many words, whose answer on `donor` is neither option.
        control_question: The same options, but asked about something else of `clean`, so that the other one is right;
            None where the picture shows nothing else with that option.
        clean_parts: Which parts of `clean` make up each region.
        corrupt_parts: The same for `corrupt`; None for the same parts.
    """

    id: str = ""
    task: Task
    group: str
    clean: Picture
    corrupt: Picture
    donor: Picture
    question: Question
    incorrect: str
    corrupt_question: Question
    donor_question: Question
    control_question: Question | None = None
    clean_parts: Parts
    corrupt_parts: Parts | None = None

    def row(self, size: int | None = None) -> "Row":
        """Return the pair drawn, `size` pixels wide and high; None for what the world's mini model takes."""
        clean, corrupt = self.clean.drawn(size), self.corrupt.drawn(size)
        control = self.control_question
        parts = self.clean_parts if self.corrupt_parts is None else self.corrupt_parts
        return Row(
            id=self.id,
            task=self.task,
            group=self.group,
            clean_image=clean.image,
            corrupt_image=corrupt.image,
            clean_prompt=self.question.text,
            corrupt_prompt=self.corrupt_question.text,
            correct_answer=self.question.answer,
            incorrect_answer=self.incorrect,
            corrupt_answer=self.corrupt_question.answer or None,
            donor_image=self.donor.drawn(size, cover=False).image,
            donor_prompt=self.donor_question.text,
            donor_answer=self.donor_question.answer,
            control_prompt=control.text if control else None,
            control_answer=control.answer if control else None,
            roles=self.question.roles,
            clean_regions=_regions(clean, self.clean_parts),
            corrupt_regions=_regions(corrupt, parts),
        )


@dataclass(frozen=True, eq=False)
class Row:
    """A pair drawn: pictures, words and masks.

    Attributes:
        id: Which pair: split, task, seed and number.
        task: Its task.
        group: What changes, such as `colour`.
        clean_image: The picture for which `correct_answer` is right.
        corrupt_image: The picture for which `incorrect_answer` is right.
        clean_prompt: The question about both.
        corrupt_prompt: A question with other options and as many words.
        correct_answer: The right answer for `clean_image`.
        incorrect_answer: The right answer for `corrupt_image`, the other option of the question.
        corrupt_answer: The right answer to `corrupt_prompt` on `clean_image`; None where neither option is right.
        donor_image: A picture for which neither option is right.
        donor_prompt: A question with as many words.
        donor_answer: The right answer to `donor_prompt` on `donor_image`.
        control_prompt: A question with the same options, to which on `clean_image` the other one is right, or None.
        control_answer: That answer.
        roles: First character and the one after the last of the words of `clean_prompt`, by role.
        clean_regions: Masks, bool [size, size], by region. They overlap nowhere; a region may be empty.
        corrupt_regions: The same for `corrupt_image`.
        kind: What sort of question it is, always `vqa`.
    """

    id: str
    task: Task
    group: str
    clean_image: Image
    corrupt_image: Image
    clean_prompt: str
    corrupt_prompt: str
    correct_answer: str
    incorrect_answer: str
    corrupt_answer: str | None
    donor_image: Image
    donor_prompt: str
    donor_answer: str
    control_prompt: str | None
    control_answer: str | None
    roles: dict[str, Span]
    clean_regions: dict[str, NDArray[np.bool_]]
    corrupt_regions: dict[str, NDArray[np.bool_]]
    kind: str = "vqa"

    def columns(self) -> dict[str, Any]:
        """Return the row as a dictionary by column."""
        return dict(vars(self))


def _regions(drawing: Drawing, parts: Parts) -> dict[str, NDArray[np.bool_]]:
    return {region: drawing.mask([name for name in names if name in drawing.cover]) for region, names in parts.items()}


def without_answer(question: Question) -> Question:
    """Return the question with no right answer, for a picture on which neither of its options is right."""
    return replace(question, answer="")
