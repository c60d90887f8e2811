"""Measure a trained mini BLIP on held-out pairs: `PYTHONPATH=tools python -m train_mini.evaluate --model DIR`.

An answer is right where the most likely of all word pieces is the right word, and `[SEP]` the most likely to follow.

1. For each question of a pair: how often is the answer right?
2. For how many pairs do both pictures get their own right answer, and in how many does exchanging the pictures turn
   the answer from one option into the other?
3. With the mean picture instead, how often is the right option the likelier of the two?
4. How often does a model of the questions alone pick the right option?
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from notice_lens.mini.generate import GROUPS, pairs
from notice_lens.mini.pair import Pair, Split, Task
from notice_lens.mini.questions import Question
from notice_lens.mini.vocabulary import tokens
from train_mini.model import answer_logits, encode_images
from train_mini.pixels import normalised

BATCH = 128


@dataclass(frozen=True)
class Asked:
    """What was asked, and what came.

    Attributes:
        right: Whether the answer was right, bool [question].
        option: Which option was answered, -1 for none of them; int [question].
        likelier: Which of the two options got the larger logit; int [question].
        correct: Which option is right, -1 where neither is; int [question].
    """

    right: NDArray[np.bool_]
    option: NDArray[np.int64]
    likelier: NDArray[np.int64]
    correct: NDArray[np.int64]


@torch.no_grad()
def ask(model: Any, pixels: Sequence[NDArray[np.uint8]], questions: Sequence[Question]) -> Asked:
    """Asks one question about each picture (uint8 [size, size, 3])."""
    columns: list[Tensor] = []
    for first in range(0, len(questions), BATCH):
        some = questions[first : first + BATCH]
        images = torch.from_numpy(np.stack(pixels[first : first + BATCH]))
        columns.append(_ask_batch(model, images, some))
    rows = torch.cat(columns, dim=1).numpy()
    return Asked(rows[0].astype(bool), rows[1], rows[2], rows[3])


def _ask_batch(
    model: Any, images: UInt8[Tensor, "row height width 3"], questions: Sequence[Question]
) -> Int[Tensor, "4 row"]:
    ids = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(tokens(question.text)) for question in questions], batch_first=True
    )[:, None]
    answers = torch.tensor([_word(question.answer) for question in questions])
    options = torch.tensor([[_word(word) for word in question.options] or [-1, -1] for question in questions])
    start, end = model.config.text_config.bos_token_id, model.config.text_config.sep_token_id
    # The right answer is handed in: what follows it matters only where it was given.
    fed = torch.stack([torch.full_like(answers, start), answers.clamp(min=0)], dim=-1)[:, None]
    logits = answer_logits(model, encode_images(model, normalised(images)), ids, fed)[:, 0]
    free, after = logits.argmax(-1).unbind(-1)
    likelier = logits[:, 0].gather(1, options.clamp(min=0)).argmax(-1)
    right = ((free == answers) & (after == end)).long()
    return torch.stack([right, _which(free, options), likelier, _which(answers, options)])


def _which(words: Int[Tensor, " row"], options: Int[Tensor, "row 2"]) -> Int[Tensor, " row"]:
    """Which option a word is, -1 for neither."""
    same = words[:, None] == options
    return torch.where(same.any(1), same.long().argmax(1), -1)


def _word(word: str) -> int:
    return tokens(word)[1] if word else -2


def measure(model: Any, task: Task, count: int, *, seed: int = 0, split: Split = "test") -> dict[str, Any]:
    """Every figure of a task on the first `count` pairs of a seed; shares from 0 to 1."""
    chosen = list(pairs(task, count, seed=seed, split=split))
    clean, corrupt, donor = (
        [getattr(pair, name).drawn(cover=False).pixels for pair in chosen] for name in ("clean", "corrupt", "donor")
    )
    questions = [pair.question for pair in chosen]
    on_clean = ask(model, clean, questions)
    on_corrupt = ask(model, corrupt, [_answered(pair.question, pair.incorrect) for pair in chosen])
    mean = np.mean([np.mean(clean, axis=0), np.mean(corrupt, axis=0)], axis=0).round().astype(np.uint8)
    on_mean = ask(model, [mean] * len(chosen), questions)
    groups = np.array([pair.group for pair in chosen])
    both = on_clean.right & on_corrupt.right
    flips = (on_clean.option >= 0) & (on_corrupt.option >= 0) & (on_clean.option != on_corrupt.option)
    return {
        "pairs": count,
        "accuracy": float(np.mean([on_clean.right, on_corrupt.right])),
        "accuracy_by_group": {
            group: float(np.mean([on_clean.right[groups == group], on_corrupt.right[groups == group]]))
            for group in GROUPS[task]
        },
        "both_right": float(both.mean()),
        "flips": float(flips.mean()),
        "mean_image_option": float((on_mean.likelier == on_mean.correct).mean()),
        "mean_image_free": float(on_mean.right.mean()),
        "question_only": question_only(task, count, seed=seed, split=split),
        **_other_questions(model, chosen, clean, donor),
    }


def _other_questions(
    model: Any, chosen: list[Pair], clean: list[NDArray[np.uint8]], donor: list[NDArray[np.uint8]]
) -> dict[str, float]:
    """Accuracy on the questions beside the first, where they have an answer."""
    asked = {
        "corrupt_prompt": [(pixels, pair.corrupt_question) for pixels, pair in zip(clean, chosen, strict=True)],
        "control_prompt": [(pixels, pair.control_question) for pixels, pair in zip(clean, chosen, strict=True)],
        "donor": [(pixels, pair.donor_question) for pixels, pair in zip(donor, chosen, strict=True)],
    }
    found = {}
    for name, all_of in asked.items():
        some = [(pixels, question) for pixels, question in all_of if question and question.answer]
        if some:
            found[name] = float(ask(model, [pixels for pixels, _ in some], [q for _, q in some]).right.mean())
    return found


def _answered(question: Question, answer: str) -> Question:
    return Question(question.text, answer, question.group, question.options)


def question_only(task: Task, count: int, *, seed: int = 0, split: Split = "test") -> float:
    """How often a logistic model of the words alone, by place, picks the right option: about one half.

    It learns from three times as many pairs of the split `train`.
    """
    return words_alone(pairs(task, 3 * count, seed=seed, split="train"), pairs(task, count, seed=seed, split=split))


def words_alone(learn: Iterable[Pair], test: Iterable[Pair]) -> float:
    """How often a logistic model of the words, by place, picks the right option: from some pairs, on others."""
    learnt, tested = _by_words(learn), _by_words(test)
    words = {feature: place for place, feature in enumerate(sorted({word for row, _ in learnt for word in row}))}
    features, targets = _matrix(learnt, words)
    weights = torch.zeros(len(words), requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=60)

    def loss() -> float:
        optimizer.zero_grad()
        value = functional.binary_cross_entropy_with_logits(features @ weights, targets) + 1e-3 * weights.square().sum()
        value.backward()
        return value.item()

    optimizer.step(loss)
    features, targets = _matrix(tested, words)
    return float((((features @ weights) > 0) == targets.bool()).float().mean())


def _by_words(some: Iterable[Pair]) -> list[tuple[list[str], bool]]:
    """Words with their places, alone and each option with every other word; and whether the first option is right."""
    rows = []
    # Of the clean picture only: over both pictures of a pair any rule of the words alone is right half the time.
    for pair in some:
        words = [f"{place}{word}" for place, word in enumerate(pair.question.text.split())]
        both = [f"{option} {word}" for option in pair.question.options for word in words]
        rows.append(([*words, *both], pair.question.answer == pair.question.options[0]))
    return rows


def _matrix(
    rows: list[tuple[list[str], bool]], words: dict[str, int]
) -> tuple[Float[Tensor, "row word"], Float[Tensor, " row"]]:
    features = torch.zeros(len(rows), len(words))
    for row, (present, _) in enumerate(rows):
        features[row, [words[word] for word in present if word in words]] = 1
    return features, torch.tensor([float(first) for _, first in rows])


@click.command()
@click.option("--model", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--n", "count", default=3000, show_default=True, help="Pairs of each task.")
@click.option("--seed", default=0, show_default=True)
@click.option("--split", type=click.Choice(["validation", "test"]), default="test", show_default=True)
def main(folder: Path, count: int, seed: int, split: Split) -> None:
    """Prints the figures of a model as JSON."""
    from transformers import BlipForQuestionAnswering

    model = BlipForQuestionAnswering.from_pretrained(folder, dtype=torch.float32).eval()
    found = {task: measure(model, task, count, seed=seed, split=split) for task in GROUPS}
    click.echo(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
