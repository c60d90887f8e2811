"""The answers of one pair of a hosted model: which are teacher-forced, and how its logits are read."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from notice_lens.patching.engine.pair_batch import Setting
from notice_lens.patching.engine.read_out import AnswerReading

if TYPE_CHECKING:
    from notice_lens.models.vlm.hooked_vlm import HookedVLM
    from notice_lens.pairs.minimal_pair import MinimalPair


@dataclass(frozen=True)
class UnpatchedRun:
    """An unpatched run, as a batch of one.

    Attributes:
        logits: At the read-outs, [1, answer_pos, d_vocab].
    """

    logits: Tensor


def forced_answers(model: "HookedVLM", pair: "MinimalPair", foil: str) -> list[str | None]:
    """Return the answers to teacher-force: `[None]` for single tokens, else the correct answer and the foil."""
    answers = (pair.correct_answer, foil)
    return [*answers] if model.teacher_forced([pair.clean_prompt] * 2, answers) else [None]


def answer_reading(
    model: "HookedVLM", pair: "MinimalPair", foil: str, answer: str | None, setting: Setting
) -> AnswerReading:
    """Return how the logits of a pair are read.

    Args:
        model: The model.
        pair: The pair.
        foil: What its correct answer is compared with.
        answer: The teacher-forced answer, or None.
        setting: The corruption, with the caller's own metrics.
    """
    prompt = pair.clean_prompt

    def entries() -> tuple[Tensor, Tensor]:
        correct, other = (model.answer_entries([prompt], [one]) for one in (pair.correct_answer, foil))
        return correct, other

    targets = None if answer is None else torch.tensor([model.answer_ids(prompt, answer)])
    return AnswerReading(entries, targets, setting.custom)
