"""Models in float64 and pairs that they can be run on."""

import numpy as np
import pytest
import torch
from PIL import Image

from notice_lens import HookedBLIP
from notice_lens.pairs import MinimalPairs, mini_world


@pytest.fixture(scope="session")
def mini64() -> HookedBLIP:
    return HookedBLIP.mini(dtype=torch.float64)


@pytest.fixture(scope="session")
def states() -> MinimalPairs:
    return mini_world("states", 6, seed=1)


def noise_picture(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8))


def made_up_pairs(kind: str, n: int = 3) -> MinimalPairs:
    """Pairs for models with random weights: answers of one to several tokens, prompts of unequal length."""
    answers = [("red", "green"), ("dog bone", "cat"), ("blue car", "tree house")]
    rows = []
    for number in range(n):
        correct, incorrect = answers[number % 3]
        prompt = "is this " + "very " * number + "red or dog?"
        if kind == "caption":
            prompt = "a picture of" + " a" * number
        mask = np.zeros((64, 64), bool)
        mask[: 16 * (1 + number), :32] = True
        row = {
            "id": f"p{number}", "task": "made up", "kind": kind,
            "clean_image": noise_picture(3 * number), "corrupt_image": noise_picture(3 * number + 1),
            "donor_image": noise_picture(3 * number + 2), "clean_prompt": prompt.replace("or", "and"),
            "corrupt_prompt": prompt.replace("or", "and").replace("is this", "are these").replace("a picture", "the photo"),
            "donor_prompt": prompt.replace("or", "and").replace("is this", "was that").replace("a picture", "one image"),
            "correct_answer": correct, "incorrect_answer": incorrect, "corrupt_answer": "big apple",
            "clean_regions": {"object": mask, "background": ~mask}, "corrupt_regions": {"object": mask},
            "roles": {"noun": "dog"} if kind == "vqa" else None,
        }  # fmt: skip
        if kind == "match":
            row |= {"correct_answer": "match", "incorrect_answer": "no match", "corrupt_answer": "no match"}
        rows.append(row)
    return MinimalPairs.from_rows(rows)
