"""Measure a mini model on held-out pairs.

1. For each question of a pair: how often is the answer right?
2. For how many pairs do both pictures get their own right answer, and in how many does exchanging the pictures turn
   the answer from one option into the other?
3. With the mean picture instead, how often is the right option the likelier of the two, and the answer right?
4. How often does a model of the questions alone pick the right option?

Shares come with the ends of their 95 % interval (Wilson); every pair has pictures of its own.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from notice_lens.mini.generate import WORLDS, WorldName, pairs
from notice_lens.mini.pair import Pair, Split, Task
from notice_lens.mini.questions import Question

Pixels = NDArray[np.uint8]
Ask = Callable[[Sequence[Pixels], Sequence[Question]], "Answers"]
"""Asks a model one question about each picture (uint8 [size, size, 3])."""


@dataclass(frozen=True)
class Answers:
    """The answers to some questions.

    Attributes:
        right: Whether the most likely of all tokens was the right word, bool [question].
        option: Which option it was, -1 for neither; int [question].
        likelier: Whether the right option's logit was the larger of the two, bool [question].
    """

    right: NDArray[np.bool_]
    option: NDArray[np.int64]
    likelier: NDArray[np.bool_]


def read_answers(logits: NDArray[np.float32], questions: Sequence[Question], token_of: Callable[[str], int]) -> Answers:
    """Return the answers that logits give, [question, vocab]; `token_of` returns the token of a word."""
    answers = np.array([token_of(question.answer) if question.answer else -2 for question in questions])
    options = np.array([[token_of(word) for word in question.options] or [-1, -1] for question in questions])
    most_likely = logits.argmax(-1)
    named = most_likely[:, None] == options
    likelier = np.take_along_axis(logits, options, axis=1).argmax(1)
    chosen = np.take_along_axis(options, likelier[:, None], axis=1)[:, 0]
    return Answers(most_likely == answers, np.where(named.any(1), named.argmax(1), -1), chosen == answers)


def measure(
    ask: Ask, task: Task, count: int, *, seed: int = 0, split: Split = "test", world: WorldName = "drawn"
) -> dict[str, Any]:
    """Return every figure of a task on the first `count` pairs of a seed: share, low and high end, from 0 to 1."""
    chosen = list(pairs(task, count, seed=seed, split=split, world=world))
    drawn = {name: _pixels(chosen, name) for name in ("clean", "corrupt", "donor")}
    clean, corrupt = _both(ask, chosen, drawn)
    mean = np.mean([np.mean(drawn["clean"], axis=0), np.mean(drawn["corrupt"], axis=0)], axis=0).round()
    blind = ask([mean.astype(np.uint8)] * count, [pair.question for pair in chosen])
    groups = np.array([pair.group for pair in chosen])
    flips = (clean.option >= 0) & (corrupt.option >= 0) & (clean.option != corrupt.option)
    both = clean.right & corrupt.right
    return {
        "pairs": count,
        "accuracy": float(np.mean([clean.right, corrupt.right])),
        "clean": share(clean.right),
        "corrupt": share(corrupt.right),
        "accuracy_by_group": {
            group: float(np.mean([clean.right[groups == group], corrupt.right[groups == group]]))
            for group in WORLDS[world].groups[task]
        },
        "by_group": {group: share(clean.right[groups == group]) for group in WORLDS[world].groups[task]},
        "both_by_group": {group: share(both[groups == group]) for group in WORLDS[world].groups[task]},
        "both_right": share(both),
        "flips": share(flips),
        "mean_image_option": share(blind.likelier),
        "mean_image_free": share(blind.right),
        "words_alone": words_alone(task, count, seed=seed, split=split, world=world),
        **_other_questions(ask, chosen, drawn),
    }


def accuracies(
    ask: Ask, world: WorldName, count: int, *, seed: int = 0, split: Split = "validation"
) -> dict[str, float]:
    """Return the share of right answers of each task on the pictures of some pairs, and of pairs with both right."""
    shares = {}
    for task in WORLDS[world].groups:
        chosen = list(pairs(task, count, seed=seed, split=split, world=world))
        clean, corrupt = _both(ask, chosen, {name: _pixels(chosen, name) for name in ("clean", "corrupt")})
        shares[task] = round(float(np.mean([clean.right, corrupt.right])), 4)
        shares[f"{task}_both"] = round(float((clean.right & corrupt.right).mean()), 4)
    return shares


def _both(ask: Ask, chosen: list[Pair], drawn: dict[str, list[Pixels]]) -> tuple[Answers, Answers]:
    """Return the answers to the pairs' questions on their clean and on their corrupted pictures."""
    on_corrupt = [replace(pair.question, answer=pair.incorrect) for pair in chosen]
    return ask(drawn["clean"], [pair.question for pair in chosen]), ask(drawn["corrupt"], on_corrupt)


def _pixels(chosen: list[Pair], name: str) -> list[Pixels]:
    return [getattr(pair, name).drawn(cover=False).pixels for pair in chosen]


def _other_questions(ask: Ask, chosen: list[Pair], drawn: dict[str, list[Pixels]]) -> dict[str, Any]:
    """Return the accuracy on the pairs' other questions, where they have an answer."""
    shares = {}
    for kind, picture in {"corrupt": "clean", "control": "clean", "donor": "donor"}.items():
        asked = [
            (pixels, getattr(pair, f"{kind}_question")) for pixels, pair in zip(drawn[picture], chosen, strict=True)
        ]
        some = [(pixels, question) for pixels, question in asked if question and question.answer]
        if some:
            answers = ask([pixels for pixels, _ in some], [question for _, question in some])
            shares[f"{kind}_prompt"] = share(answers.right)
    return shares


def share(right: NDArray[np.bool_]) -> list[float]:
    """Return a share and the ends of its 95 % interval (Wilson)."""
    count, rate, z = len(right), float(right.mean()), 1.959964
    middle = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z * sqrt(rate * (1 - rate) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return [round(value, 4) for value in (rate, middle - half, middle + half)]


def words_alone(task: Task, count: int, *, seed: int = 0, split: Split = "test", world: WorldName = "drawn") -> float:
    """Return how often a logistic model of the words alone, by place, picks the right option: about one half.

    It learns from three times as many pairs of the split `train`.
    """
    learnt = _by_words(pairs(task, 3 * count, seed=seed, split="train", world=world))
    tested = _by_words(pairs(task, count, seed=seed, split=split, world=world))
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
    """Return words with their places, alone and each option with every other word; and if the first option is right."""
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


def measuring_command(
    model_class: str, ask: Callable[[Any, Sequence[Pixels], Sequence[Question]], Answers], world: WorldName
) -> click.Command:
    """Return the command that prints the figures of a model, of a class of transformers, as JSON."""

    @click.command()
    @click.option("--model", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
    @click.option("--n", "count", default=1000, show_default=True, help="Pairs of each task.")
    @click.option("--seed", default=0, show_default=True)
    @click.option("--split", type=click.Choice(["validation", "test"]), default="test", show_default=True)
    def main(folder: Path, count: int, seed: int, split: Split) -> None:
        """Print the figures of a model as JSON."""
        import transformers

        model = getattr(transformers, model_class).from_pretrained(folder, dtype=torch.float32).eval()
        figures = {
            task: measure(partial(ask, model), task, count, seed=seed, split=split, world=world)
            for task in WORLDS[world].groups
        }
        click.echo(json.dumps(figures, indent=2))

    return main
