"""Which corruptions replace words, and which change them."""

import pytest

from notice_lens.pairs import Noise
from notice_lens.pairs.corruption import INPUTS_BY_CORRUPTION, changes_words, replaces_words


@pytest.mark.parametrize(
    ("corruption", "replaces", "changes"),
    [
        ("image", False, False),
        ("text", True, True),
        (Noise("vision.hook_embed"), False, False),
        (Noise("text.hook_embed", samples=1), False, True),
        (Noise("decoder.hook_embed"), False, True),
        ("", False, False),
    ],
)
def test_a_corruption_is_of_the_image_or_of_the_words(corruption, replaces, changes):
    assert (replaces_words(corruption), changes_words(corruption)) == (replaces, changes)
    # Results keep noise as its string, in which nothing is replaced.
    assert changes_words(str(corruption)) == changes


def test_runs_differ_from_the_clean_one_in_one_thing():
    assert [run.count("corrupt") for run in INPUTS_BY_CORRUPTION.values()] == [1, 1]
