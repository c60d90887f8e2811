"""Folders of pictures as they are published, and what has to hold for any rows made from them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from notice_lens.images import digest, to_rgb


def picture(path: Path, seed: Any = None, size: tuple[int, int] = (6, 6)) -> Path:
    """Noise, of its own for each path or of a seed; the same wherever the temporary folder is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = "noise of " + "/".join(path.parts[-3:])
    random = np.random.default_rng(list(str(own if seed is None else seed).encode()))
    Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return path


def folders(root: Path, **counts: int) -> Path:
    """Folders with so many pictures each; `old_car=3` makes `old car`."""
    for name, count in counts.items():
        folder = root / name.replace("_", " ")
        folder.mkdir(parents=True)
        for i in range(count):
            picture(folder / f"{i}.png")
    return root


def pairs_of(rows: Sequence[Mapping[str, Any]]) -> Counter:
    """How often each two answers were paired."""
    return Counter(tuple(sorted((row["correct_answer"], row["incorrect_answer"]))) for row in rows)


def words(row: Mapping[str, Any], column: str) -> tuple[str, str]:
    """The two options of a prompt."""
    first, second = row[column].removesuffix("?").split(" or ")
    return first.split()[-1], second


def difference(rows: Sequence[Mapping[str, Any]], yes: Callable[[Mapping[str, Any]], bool]) -> int:
    """How many more rows say yes than no."""
    return sum(1 if yes(row) else -1 for row in rows)


def right_first(row: Mapping[str, Any]) -> bool:
    return row["roles"]["correct"] < row["roles"]["incorrect"]


def check_rows(rows: Sequence[Mapping[str, Any]], tokenizer: Any, answer: Callable[[Path], str]) -> None:
    """What has to hold for any rows.

    Args:
        rows: Of one builder.
        tokenizer: Theirs.
        answer: The right answer for a picture, from its path.
    """
    used = [path for row in rows for path in (row["clean_image"], row["corrupt_image"])]
    digests = [digest(to_rgb(path)) for path in used]
    assert len(set(used)) == len(used)
    assert len(set(digests)) == len(digests)
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        correct, incorrect = row["correct_answer"], row["incorrect_answer"]
        assert (answer(row["clean_image"]), answer(row["corrupt_image"])) == (correct, incorrect)
        assert {row["clean_digest"], row["corrupt_digest"]} <= set(digests)
        prompt, roles = row["clean_prompt"], row["roles"]
        assert {prompt[slice(*roles[role])] for role in ("correct", "incorrect")} == {correct, incorrect}
        assert prompt[slice(*roles["correct"])] == correct
        _check_replacements(row, tokenizer)
        if row["donor_image"] is not None:
            assert answer(row["donor_image"]) not in (correct, incorrect)
    _check_balance(rows)


def _check_replacements(row: Mapping[str, Any], tokenizer: Any) -> None:
    options = [words(row, column) for column in ("clean_prompt", "corrupt_prompt", "donor_prompt") if row[column]]
    flat = [word for two in options for word in two]
    assert len(set(flat)) == len(flat)
    for slot in zip(*options, strict=True):
        assert len({len(tokenizer.tokenize(word)) for word in slot}) == 1
    for two in options:
        assert len({tokenizer.tokenize(word)[0] for word in two}) == 2


def _check_balance(rows: Sequence[Mapping[str, Any]]) -> None:
    for group in {row["group"] for row in rows}:
        inside = [row for row in rows if row["group"] == group]
        assert abs(difference(inside, right_first)) <= 1
        for two in pairs_of(inside):
            same = [row for row in inside if {row["correct_answer"], row["incorrect_answer"]} == set(two)]
            assert abs(difference(same, right_first)) <= 1
            assert abs(difference(same, lambda row, first=two[0]: row["correct_answer"] == first)) <= 1
            for clean in two:
                assert abs(difference([row for row in same if row["correct_answer"] == clean], right_first)) <= 1
