"""Measure a trained mini BLIP on held-out pairs: `PYTHONPATH=tools python -m train_mini.blip.evaluate --model DIR`.

An answer is right where the most likely of all word pieces is the right word, and `[SEP]` the most likely to follow.
`train_mini.measure` tells what is measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from notice_lens.mini.questions import Question
from notice_lens.mini.vocabulary import tokens as drawn_tokens
from train_mini.blip.model import answer_logits, encode_images
from train_mini.measure import Answers, Pixels, measuring_command, read_answers
from train_mini.pixels import normalised

BATCH = 128


@torch.no_grad()
def ask(
    model: Any,
    pixels: Sequence[Pixels],
    questions: Sequence[Question],
    tokens: Callable[[str], list[int]] = drawn_tokens,
) -> Answers:
    """Ask one question about each picture (uint8 [size, size, 3]); `tokens` returns a text's with `[CLS]`, `[SEP]`."""

    def token_of(word: str) -> int:
        return tokens(word)[1]

    start, end = model.config.text_config.bos_token_id, model.config.text_config.sep_token_id
    logits, ended = [], []
    for first in range(0, len(questions), BATCH):
        some = questions[first : first + BATCH]
        images = encode_images(model, normalised(torch.from_numpy(np.stack(pixels[first : first + BATCH]))))
        rows = [torch.tensor(tokens(question.text)) for question in some]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)[:, None]
        answers = torch.tensor([token_of(question.answer) if question.answer else 0 for question in some])
        # The right answer is handed in: what follows it matters only where it was given.
        fed = torch.stack([torch.full_like(answers, start), answers], dim=-1)[:, None]
        given = answer_logits(model, images, ids, fed)[:, 0]
        logits.append(given[:, 0].numpy())
        ended.append((given[:, 1].argmax(-1) == end).numpy())
    answered = read_answers(np.concatenate(logits), questions, token_of)
    return replace(answered, right=answered.right & np.concatenate(ended))


main = measuring_command("BlipForQuestionAnswering", ask, "drawn")

if __name__ == "__main__":
    main()
