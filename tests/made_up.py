"""Made-up pairs for models with random weights."""

import numpy as np
from PIL import Image

from notice_lens.pairs import MinimalPairs


def noise_picture(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8))


def reworded(prompt: str, question: str, caption: str) -> str:
    """The prompt with two other words in front."""
    return prompt.replace("or", "on").replace("is this", question).replace("a picture of", caption)


def made_up_pairs(kind: str, n: int = 3) -> MinimalPairs:
    """Pairs for models with random weights: answers of one to several tokens, prompts of unequal length."""
    answers = [("red", "green"), ("dog food", "cat"), ("blue car", "tree house")]
    rows = []
    for number in range(n):
        correct, incorrect = answers[number % 3]
        prompt = "is this " + "old " * number + "red or dog?"
        if kind == "caption":
            prompt = "a picture of" + " big" * number
        mask = np.zeros((64, 64), bool)
        mask[: 16 * (1 + number), :32] = True
        row = {
            "id": f"p{number}", "task": "made up", "kind": kind,
            "clean_image": noise_picture(3 * number), "corrupt_image": noise_picture(3 * number + 1),
            "donor_image": noise_picture(3 * number + 2), "clean_prompt": prompt.replace("or", "on"),
            "corrupt_prompt": reworded(prompt, "are the", "the photo of"),
            "donor_prompt": reworded(prompt, "where there", "one image in"),
            "correct_answer": correct, "incorrect_answer": incorrect, "corrupt_answer": "big apple",
            "clean_regions": {"object": mask, "background": ~mask}, "corrupt_regions": {"object": mask},
            "roles": {"noun": "dog"} if kind == "vqa" else None,
        }  # fmt: skip
        if kind == "match":
            row["roles"] = {"noun": "dog"}
            row |= {"correct_answer": "match", "incorrect_answer": "no match", "corrupt_answer": "no match"}
        rows.append(row)
    return MinimalPairs.from_rows(rows)
