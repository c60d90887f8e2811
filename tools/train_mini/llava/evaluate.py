"""Measure a trained mini LLaVA on held-out pairs: `PYTHONPATH=tools python -m train_mini.llava.evaluate --model DIR`.

An answer is right where the most likely of all tokens behind `ASSISTANT:` is the right word. `train_mini.measure` tells
what is measured.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from notice_lens.mini.questions import Question
from train_mini.llava.examples import written
from train_mini.llava.model import answer_logits, image_tokens
from train_mini.llava.vocabulary import ids
from train_mini.measure import Answers, Pixels, measuring_command, read_answers
from train_mini.pixels import normalised

BATCH = 64


@torch.no_grad()
def ask(model: Any, pixels: Sequence[Pixels], questions: Sequence[Question]) -> Answers:
    """Ask one question about each picture (uint8 [128, 128, 3])."""
    logits = []
    for first in range(0, len(questions), BATCH):
        images = image_tokens(model, normalised(torch.from_numpy(np.stack(pixels[first : first + BATCH]))))
        rows, places, _ = written([[question] for question in questions[first : first + BATCH]])
        given, _ = answer_logits(
            model, images, torch.from_numpy(rows).long(), torch.from_numpy(places).long()[..., None]
        )
        logits.append(given[:, 0, 0].numpy())
    return read_answers(np.concatenate(logits), questions, ids().__getitem__)


main = measuring_command("LlavaForConditionalGeneration", ask, "pictures")

if __name__ == "__main__":
    main()
