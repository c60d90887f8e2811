"""Rows and pictures that tests of pairs are made of."""

from typing import Any

import numpy as np
from PIL import Image

from notice_lens.pairs import MinimalPairs


def picture(number: int, size: tuple[int, int] = (24, 16)) -> Image.Image:
    """A picture of noise that differs from every other number's; size as (width, height)."""
    noise = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


def make_row(number: int = 0, **changes: Any) -> dict[str, Any]:
    """A row that is right; `changes` make it wrong. A change to `...` takes the column away."""
    row = {
        "id": f"pair-{number}",
        "task": "fruit",
        "group": "colour",
        "clean_image": picture(2 * number),
        "corrupt_image": picture(2 * number + 1),
        "clean_prompt": "is this apple red or green?",
        "corrupt_prompt": "is this apple blue or black?",
        "correct_answer": "red",
        "incorrect_answer": "green",
        "roles": {"noun": "apple", "correct": "red", "incorrect": "green"},
        **changes,
    }
    return {column: value for column, value in row.items() if value is not ...}


def some(n: int = 4, **changes: Any) -> MinimalPairs:
    """Pairs of the first `n` rows."""
    return MinimalPairs.from_rows([make_row(number, **changes) for number in range(n)])
