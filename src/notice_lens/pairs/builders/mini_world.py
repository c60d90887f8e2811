"""The mini worlds' pairs: `notice_lens.mini` draws them, here they become minimal pairs."""

from collections.abc import Iterator
from typing import Any

from notice_lens.errors import check_choice, whole_number
from notice_lens.mini.generate import WORLDS, WorldName, rows
from notice_lens.pairs.manifest import Manifest
from notice_lens.pairs.minimal_pairs import MinimalPairs
from notice_lens.pairs.problems import NO_REPLACEMENT, Problem

SLOT_CHOICES = ("answers", "control")


def mini_world(
    task: str,
    n: int = 100,
    seed: int = 0,
    *,
    split: str = "test",
    size: int | None = None,
    slots: str = "answers",
    world: WorldName | str = "drawn",
) -> MinimalPairs:
    """Return pairs of a mini world, with exact regions and a mismatched donor each.

    `HookedBLIP.mini()` answers those of the drawn world, `HookedVLM.mini()` those of the world of pictures.

    Args:
        task: `scenes`, `states` or `faces`.
        n: How many pairs.
        seed: A whole number, 0 or more; the same seed gives the same pairs.
        split: `test`, `validation` or `train`; the mini model has not seen any of them.
        size: Pixels along a side; None for the mini model's, 64 in the drawn world and 128 in the picture world.
        slots: Which words the corrupted question replaces. `answers`: both options. `control`: another word, so that
            the same two options are asked of something else in the picture and the other one is right; an answer-free
            control, since with new options a patch can copy the old word back. Pairs without one are dropped and
            counted; the drawn `faces` have none.
        world: `drawn`, shapes and faces drawn by Pillow; or `pictures`, emoji on grounds.

    Raises:
        ValueError: There is no such task, split, world or `slots`, or `n`, `seed` or `size` is invalid.
    """
    check_choice("slots", slots, SLOT_CHOICES)
    check_choice("world", world, tuple(WORLDS))
    n, seed = whole_number("n", n, 1), whole_number("seed", seed)
    options = {"task": task, "n": n, "split": split, "slots": slots}
    sized = {} if size is None else {"size": whole_number("size", size, 1)}
    # The drawn world's manifests stay as they were before there was another.
    named = {} if world == "drawn" else {"world": world}
    manifest = Manifest("mini_world", f"{task}, split {split}", seed=seed, options={**options, **sized, **named})
    columns = [row.columns() for row in rows(task, n, seed=seed, split=split, world=world, **sized)]
    lost: list[Problem] = []
    if slots == "control":
        lost = [_without_control(row["id"]) for row in columns if row["control_prompt"] is None]
        columns = list(_asked_of_another_thing(columns))
    return MinimalPairs.from_rows(columns, manifest=manifest, before=lost)


def _without_control(name: str) -> Problem:
    return Problem(name, NO_REPLACEMENT, "nothing else in the picture has the other option")


def _asked_of_another_thing(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the rows with the control question as the corrupted one; its donor keeps the clean question's options."""
    for row in rows:
        if row["control_prompt"] is not None:
            yield {**row, "corrupt_prompt": row["control_prompt"], "corrupt_answer": row["control_answer"]}
