"""The picture world's questions in the mini LLaVA's tokens."""

from dataclasses import dataclass

import numpy as np

from notice_lens.mini.questions import Question
from train_mini.llava.vocabulary import ids, tokens
from train_mini.picture_examples import PictureExamples, Written

MAX_TOKENS = 12
"""Tokens of the longest question, `ASSISTANT:` and the answer."""

ASSISTANT = tuple(tokens("assistant :"))


def written(questions: list[list[Question]]) -> Written:
    """Return questions with `ASSISTANT:` and the answer behind them, the places of their answers, and the answers."""
    shape = (len(questions), len(questions[0]))
    rows, places, answers = (
        np.zeros((*shape, MAX_TOKENS), np.int16),
        np.zeros(shape, np.int16),
        np.zeros(shape, np.int16),
    )
    for image, asked in enumerate(questions):
        for number, question in enumerate(asked):
            # On a picture for which neither option is right there is no answer to write.
            answer = tokens(question.answer)[0] if question.answer else ids()["<unk>"]
            text = [*tokens(question.text), *ASSISTANT]
            rows[image, number, : len(text) + 1] = [*text, answer]
            places[image, number], answers[image, number] = len(text) - 1, answer
    return rows, places, answers


@dataclass(frozen=True)
class Examples(PictureExamples):
    """The endless stream of examples of one seed, for the mini LLaVA."""

    def written(self, questions: list[list[Question]]) -> Written:
        """Return questions as the model's tokens."""
        return written(questions)
