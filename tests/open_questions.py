"""Pairs with open questions: "what is this thing?", whose words contain neither answer."""

from notice_lens import MinimalPairs
from notice_lens.pairs import mini_world


def open_questions(n: int) -> MinimalPairs:
    """Return pairs of pictures of two things, with a third as donor.

    Args:
        n: How many pairs.
    """
    drawn = list(mini_world("states", 3 * n, seed=1))
    things = [one.clean_prompt[slice(*one.roles["noun"])] for one in drawn]
    rows = []
    for number, (thing, one) in enumerate(zip(things[:n], drawn[:n], strict=True)):
        other = next(place for place in range(number, len(drawn)) if things[place] != thing)
        third = next(place for place in range(other, len(drawn)) if things[place] not in (thing, things[other]))
        rows.append({
            "id": f"open-{number}", "task": "things", "clean_prompt": "what is this thing?",
            "clean_image": one.clean_image, "corrupt_image": drawn[other].clean_image,
            "donor_image": drawn[third].clean_image, "correct_answer": thing, "incorrect_answer": things[other],
            "clean_regions": one.clean_regions,
        })  # fmt: skip
    return MinimalPairs.from_rows(rows)
