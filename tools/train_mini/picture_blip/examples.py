"""The picture world's questions in the mini BLIP's word pieces."""

from dataclasses import dataclass

import numpy as np

from notice_lens.mini.questions import Question
from train_mini.picture_blip.vocabulary import ids, tokens
from train_mini.picture_examples import PictureExamples, Written

MAX_TOKENS = 11
"""Word pieces of the longest question, between `[CLS]` and `[SEP]`."""


@dataclass(frozen=True)
class Examples(PictureExamples):
    """The endless stream of examples of one seed, for the mini BLIP."""

    def written(self, questions: list[list[Question]]) -> Written:
        """Return questions between `[CLS]` and `[SEP]`, where their words begin, and the answers."""
        shape = (len(questions), len(questions[0]))
        rows, answers = np.zeros((*shape, MAX_TOKENS), np.int16), np.zeros(shape, np.int16)
        for image, asked in enumerate(questions):
            for number, question in enumerate(asked):
                text = tokens(question.text)
                rows[image, number, : len(text)] = text
                answers[image, number] = ids()[question.answer or "[UNK]"]
        return rows, np.ones(shape, np.int16), answers
