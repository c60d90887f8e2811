"""Pairs for tests of hosted models: pictures of noise, and prompts of the tiny models' words."""

import tiny_vlms
from notice_lens import HookedVLM
from notice_lens.pairs import MinimalPairs

FAMILIES = tuple(tiny_vlms.FAMILIES)
PROMPTS = ("is this apple red ?", "is this book red ?", "is this car red ?")
LONG = ("is this apple on the table red ?", "is this book on the table red ?", "is this car on the table red ?")
IMAGES = ("clean_image", "corrupt_image", "donor_image")
WORDS = ("red", "green", "man", "is", "or", "on", "a", "m", "s")


def single_tokens(model: HookedVLM) -> tuple[str, str]:
    """Two answers of one token each: which words are, depends on what stands in front of the answer."""
    first, second = [word for word in WORDS if len(model.answer_ids(PROMPTS[0], word)) == 1][:2]
    return first, second


def made_pairs(answers: tuple[str, str] = ("red", "green")) -> MinimalPairs:
    """Two pairs whose prompts have unequal numbers of tokens, each with an image, a text and a donor of either kind."""
    rows = []
    for number, (clean, corrupt, donor) in enumerate((PROMPTS, LONG)):
        images = (tiny_vlms.picture(10 * number + seed, 56) for seed in (1, 2, 3))
        rows.append({
            "id": f"pair {number}", "task": "states", **dict(zip(IMAGES, images, strict=True)),
            "clean_prompt": clean, "corrupt_prompt": corrupt, "donor_prompt": donor, "correct_answer": answers[0],
            "incorrect_answer": answers[1], "corrupt_answer": answers[1], "roles": {"object": clean.split()[2]},
        })  # fmt: skip
    return MinimalPairs.from_rows(rows, progress=False)
