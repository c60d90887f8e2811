"""Pairs of the picture world by number: which one a number is, follows from split, task, seed and number alone."""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import cast, get_args

from notice_lens.mini.pair import Pair, Row, Split, Task
from notice_lens.mini.pictures import faces, scenes, states
from notice_lens.mini.pictures.drawing import UNITS
from notice_lens.mini.stream import RandomStream

GROUPS: dict[Task, tuple[str, ...]] = {
    "scenes": ("subject", "verb", "object"),
    "states": states.STATE_KINDS,
    "faces": ("emotion",),
}
"""The groups of each task; pairs take turns in them."""

_MAKERS = {"scenes": scenes.make_pair, "states": states.make_pair, "faces": faces.make_pair}


def make_pair(task: Task | str, number: int, *, seed: int = 0, split: Split | str = "test") -> Pair:
    """Return the pair of a number, not drawn yet.

    Numbers take turns in the order of the options and in the task's groups, so that any six in a row are balanced.

    Args:
        task: `scenes`, `states` or `faces`.
        number: Which pair, from 0 on.
        seed: Any whole number; pairs of different seeds have nothing to do with each other.
        split: `train`, `validation` or `test`; no seed of one leads to a pair of another.

    Raises:
        ValueError: There is no such task or split, or the number is negative.
    """
    _check("task", task, tuple(GROUPS))
    _check("split", split, get_args(Split))
    if number < 0:
        raise ValueError(f"pair {number} asked for; they are numbered from 0 on")
    groups = GROUPS[cast("Task", task)]
    stream = RandomStream("pictures", split, task, seed, number)
    pair = _MAKERS[task](stream, groups[number // 2 % len(groups)], number % 2 == 1)
    return pair.named(f"pictures-{split}-{task}-{seed}-{number}")


def pairs(task: Task | str, count: int, *, seed: int = 0, split: Split | str = "test") -> Iterator[Pair]:
    """Return the first `count` pairs of a seed, not drawn yet. Arguments and errors as of `make_pair`."""
    return (make_pair(task, number, seed=seed, split=split) for number in range(count))


def rows(
    task: Task | str, count: int, *, seed: int = 0, split: Split | str = "test", size: int = UNITS
) -> Iterator[Row]:
    """Return the first `count` pairs of a seed, drawn `size` pixels wide and high. Arguments as of `make_pair`."""
    return (pair.row(size) for pair in pairs(task, count, seed=seed, split=split))


def _check(what: str, name: str, valid: tuple[str, ...]) -> None:
    if name not in valid:
        nearest = get_close_matches(name, valid, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"{what} {name!r} asked for; there are {', '.join(valid)}{hint}")
