"""Pairs by number: world, split, task, seed and number alone decide each pair."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from notice_lens.errors import check_choice
from notice_lens.mini import face_pairs, scene_pairs, state_pairs
from notice_lens.mini.pair import Pair, Row, Split, Task
from notice_lens.mini.pictures import faces, scenes, states
from notice_lens.mini.stream import RandomStream

WorldName = Literal["drawn", "pictures"]


@dataclass(frozen=True)
class World:
    """The pairs of a world.

    Attributes:
        groups: The groups of each task; pairs take turns in them.
        makers: The function that makes a pair of each task, from random draws, its group, and whether the right answer
            is the second option.
        prefix: First parts of a pair's key and id.
    """

    groups: dict[Task, tuple[str, ...]]
    makers: dict[Task, Callable[[RandomStream, str, bool], Pair]]
    prefix: tuple[str, ...] = ()


WORLDS: dict[WorldName, World] = {
    "drawn": World(
        groups={
            "scenes": ("subject", "verb", "object"),
            "states": ("colour", "shape", "texture"),
            "faces": ("emotion",),
        },
        makers={"scenes": scene_pairs.make_pair, "states": state_pairs.make_pair, "faces": face_pairs.make_pair},
    ),
    "pictures": World(
        groups={
            "scenes": ("subject", "verb", "object"),
            "states": states.STATE_ATTRIBUTES,
            "faces": ("emotion",),
        },
        makers={"scenes": scenes.make_pair, "states": states.make_pair, "faces": faces.make_pair},
        prefix=("pictures",),
    ),
}
"""Shapes and faces drawn by Pillow, and emoji on grounds."""

GROUPS = WORLDS["drawn"].groups
"""The groups of each task of the drawn world."""


def make_pair(
    task: Task | str, number: int, *, seed: int = 0, split: Split | str = "test", world: WorldName | str = "drawn"
) -> Pair:
    """Return the pair of a number, not drawn yet.

    Numbers alternate between the two orders of the options and go through the task's groups, so that any six in a row
    are balanced.

    Args:
        task: `scenes`, `states` or `faces`.
        number: The pair's number, from 0 on.
        seed: Any whole number; pairs of different seeds are independent.
        split: `train`, `validation` or `test`; no pair is in two of them, whatever the seeds.
        world: `drawn` or `pictures`.

    Raises:
        ValueError: The task, split or world is unknown, or the number is negative.
    """
    check_choice("task", task, get_args(Task))
    check_choice("split", split, get_args(Split))
    check_choice("world", world, tuple(WORLDS))
    if number < 0:
        raise ValueError(f"expected a number of 0 or more, got {number}")
    task, made_in = cast("Task", task), WORLDS[cast("WorldName", world)]
    groups, key = made_in.groups[task], (*made_in.prefix, split, task, seed, number)
    pair = made_in.makers[task](RandomStream(*key), groups[number // 2 % len(groups)], number % 2 == 1)
    return replace(pair, id="-".join(map(str, key)))


def pairs(
    task: Task | str, count: int, *, seed: int = 0, split: Split | str = "test", world: WorldName | str = "drawn"
) -> Iterator[Pair]:
    """Return the first `count` pairs of a seed, not drawn yet. Arguments and errors as of `make_pair`."""
    return (make_pair(task, number, seed=seed, split=split, world=world) for number in range(count))


def rows(
    task: Task | str,
    count: int,
    *,
    seed: int = 0,
    split: Split | str = "test",
    size: int | None = None,
    world: WorldName | str = "drawn",
) -> Iterator[Row]:
    """Return the first `count` pairs of a seed, drawn. Other arguments and errors as of `make_pair`.

    Args:
        task: See `make_pair`.
        count: How many pairs.
        seed: See `make_pair`.
        split: See `make_pair`.
        size: Pixels along a side; None for what the world's mini model takes, 64 (drawn) or 128 (pictures).
        world: See `make_pair`.
    """
    return (pair.row(size) for pair in pairs(task, count, seed=seed, split=split, world=world))
