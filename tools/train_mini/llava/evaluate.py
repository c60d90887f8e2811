"""Measure a trained mini LLaVA on held-out pairs: `PYTHONPATH=tools python -m train_mini.llava.evaluate --model DIR`.

An answer is right where the most likely of all tokens behind `ASSISTANT:` is the right word.

1. For each question of a pair: how often is the answer right?
2. For how many pairs do both pictures get their own right answer, and in how many does exchanging the pictures turn
   the answer from one option into the other?
3. With the mean picture instead, how often is the right option the likelier of the two, and the answer right?
4. How often does a model of the questions alone pick the right option?

Shares come with the ends of their 95 % interval (Wilson); every pair has pictures of its own.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from notice_lens.mini.generate import WORLDS, pairs
from notice_lens.mini.pair import Pair, Split, Task
from notice_lens.mini.questions import Question
from train_mini.evaluate import words_alone
from train_mini.llava.examples import written
from train_mini.llava.model import answer_logits, image_tokens, normalised
from train_mini.llava.vocabulary import ids

BATCH = 64
GROUPS = WORLDS["pictures"].groups
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Answers:
    """What was answered.

    Attributes:
        right: Whether the most likely of all tokens was the right word, bool [question].
        option: Which option it was, -1 for neither; int [question].
        likelier: Whether the right option's logit was the larger of the two, bool [question].
    """

    right: NDArray[np.bool_]
    option: NDArray[np.int64]
    likelier: NDArray[np.bool_]


@torch.no_grad()
def ask(model: Any, pixels: Sequence[Pixels], questions: Sequence[Question]) -> Answers:
    """Ask one question about each picture (uint8 [128, 128, 3])."""
    logits = []
    for first in range(0, len(questions), BATCH):
        images = image_tokens(model, normalised(torch.from_numpy(np.stack(pixels[first : first + BATCH]))))
        rows, places, _ = written([[question] for question in questions[first : first + BATCH]])
        asked, _ = answer_logits(
            model, images, torch.from_numpy(rows).long(), torch.from_numpy(places).long()[..., None]
        )
        logits.append(asked[:, 0, 0].numpy())
    scores = np.concatenate(logits)
    free = scores.argmax(-1)
    answers = np.array([ids().get(question.answer, -2) for question in questions])
    options = np.array([[ids()[word] for word in question.options] for question in questions])
    named = free[:, None] == options
    pair_scores = np.take_along_axis(scores, options, axis=1)
    chosen = np.take_along_axis(options, pair_scores.argmax(1)[:, None], axis=1)[:, 0]
    return Answers(free == answers, np.where(named.any(1), named.argmax(1), -1), chosen == answers)


def on_corrupt(pair: Pair) -> Question:
    """Return the pair's question with the answer that is right on its corrupted picture."""
    return replace(pair.question, answer=pair.incorrect)


def accuracies(model: Any, count: int, seed: int = 0, split: Split = "validation") -> dict[str, float]:
    """Return the share of right answers of each task on the pictures of some pairs, and of pairs with both right."""
    found = {}
    for task in GROUPS:
        chosen = list(pairs(task, count, seed=seed, split=split, world="pictures"))
        clean = ask(model, _pixels(chosen, "clean"), [pair.question for pair in chosen])
        corrupt = ask(model, _pixels(chosen, "corrupt"), [on_corrupt(pair) for pair in chosen])
        found[task] = round(float(np.mean([clean.right, corrupt.right])), 4)
        found[f"{task}_both"] = round(float((clean.right & corrupt.right).mean()), 4)
    return found


def _pixels(chosen: list[Pair], name: str) -> list[Pixels]:
    return [getattr(pair, name).drawn(cover=False).pixels for pair in chosen]


def measure(model: Any, task: Task, count: int, *, seed: int = 0, split: Split = "test") -> dict[str, Any]:
    """Return every figure of a task on the first `count` pairs of a seed: share, low and high end, from 0 to 1."""
    chosen = list(pairs(task, count, seed=seed, split=split, world="pictures"))
    drawn = {name: _pixels(chosen, name) for name in ("clean", "corrupt", "donor")}
    questions = [pair.question for pair in chosen]
    clean, corrupt = ask(model, drawn["clean"], questions), ask(model, drawn["corrupt"], [*map(on_corrupt, chosen)])
    mean = np.mean([np.mean(drawn["clean"], axis=0), np.mean(drawn["corrupt"], axis=0)], axis=0).round()
    blind = ask(model, [mean.astype(np.uint8)] * count, questions)
    groups = np.array([pair.group for pair in chosen])
    flips = (clean.option >= 0) & (corrupt.option >= 0) & (clean.option != corrupt.option)
    both = clean.right & corrupt.right
    return {
        "pairs": count,
        "clean": share(clean.right),
        "corrupt": share(corrupt.right),
        "by_group": {group: share(clean.right[groups == group]) for group in GROUPS[task]},
        "both_by_group": {group: share(both[groups == group]) for group in GROUPS[task]},
        "both_right": share(both),
        "flips": share(flips),
        "mean_image_option": share(blind.likelier),
        "mean_image_free": share(blind.right),
        "words_alone": words_alone(
            list(pairs(task, 3 * count, seed=seed, split="train", world="pictures")),
            list(pairs(task, count, seed=seed, split=split, world="pictures")),
        ),
        **_other_questions(model, chosen, drawn),
    }


def _other_questions(model: Any, chosen: list[Pair], drawn: dict[str, list[Pixels]]) -> dict[str, Any]:
    """Accuracy on the questions beside the first, where they have an answer."""
    kinds = {"corrupt_prompt": "clean", "control_prompt": "clean", "donor_prompt": "donor"}
    found = {}
    for kind, picture in kinds.items():
        name = kind.replace("prompt", "question")
        asked = [(pixels, getattr(pair, name)) for pixels, pair in zip(drawn[picture], chosen, strict=True)]
        some = [(pixels, question) for pixels, question in asked if question and question.answer]
        if some:
            found[kind] = share(ask(model, [pixels for pixels, _ in some], [question for _, question in some]).right)
    return found


def share(right: NDArray[np.bool_]) -> list[float]:
    """Return a share and the ends of its 95 % interval (Wilson)."""
    count, rate, z = len(right), float(right.mean()), 1.959964
    middle = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z * sqrt(rate * (1 - rate) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return [round(value, 4) for value in (rate, middle - half, middle + half)]


@click.command()
@click.option("--model", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--n", "count", default=1000, show_default=True, help="Pairs of each task.")
@click.option("--seed", default=0, show_default=True)
@click.option("--split", type=click.Choice(["validation", "test"]), default="test", show_default=True)
def main(folder: Path, count: int, seed: int, split: Split) -> None:
    """Print the figures of a model as JSON."""
    from transformers import LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    found = {task: measure(model, task, count, seed=seed, split=split) for task in GROUPS}
    click.echo(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
