"""Symmetric replacement on pairs of any origin."""

import re

import numpy as np
import pandas as pd
import pytest

from notice_lens.pairs import MinimalPairs, mini_world, symmetric_replacement
from notice_lens.pairs.problems import NO_REPLACEMENT, ROLE
from pair_rows import make_row, picture

COLOURS = [("red", "green"), ("blue", "black"), ("white", "brown"), ("pink", "orange")]


def fruit(**changes):
    rows = [
        make_row(n, clean_prompt=f"is this {noun} {a} or {b}?", correct_answer=a, incorrect_answer=b,
                 roles={"noun": noun, "correct": a, "incorrect": b}, corrupt_prompt=..., **changes)
        for n, ((a, b), noun) in enumerate(zip(COLOURS, ["apple", "pear", "plum", "banana"], strict=True))
    ]  # fmt: skip
    return MinimalPairs.from_rows(rows)


def test_both_options_are_replaced(bert):
    pairs = symmetric_replacement(fruit(), bert, seed=1)
    assert len(pairs) == 4
    for pair in pairs:
        for prompt in (pair.corrupt_prompt, pair.donor_prompt):
            assert len(bert(prompt)["input_ids"]) == len(bert(pair.clean_prompt)["input_ids"])
            words, old = prompt[:-1].split(), pair.clean_prompt[:-1].split()
            assert [a == b for a, b in zip(words, old, strict=True)] == [True, True, True, False, True, False]
            assert not {pair.correct_answer, pair.incorrect_answer} & set(words)
        assert not set(pair.corrupt_prompt[:-1].split()[3::2]) & set(pair.donor_prompt[:-1].split()[3::2])
    assert pairs["corrupt_prompt"] == symmetric_replacement(fruit(), bert, seed=1)["corrupt_prompt"]
    assert pairs["corrupt_prompt"] != symmetric_replacement(fruit(), bert, seed=2)["corrupt_prompt"]
    assert pairs[2:]["corrupt_prompt"] != symmetric_replacement(fruit()[2:], bert, seed=1)["corrupt_prompt"]


def test_an_answer_free_control_keeps_the_options(bert):
    pairs = symmetric_replacement(fruit(), bert, slots="noun")
    for pair in pairs:
        assert pair.corrupt_prompt.split()[3:] == pair.clean_prompt.split()[3:]
        assert pair.corrupt_prompt.split()[2] != pair.clean_prompt.split()[2]


def test_an_answer_is_filled_in_where_some_pair_knows_it(bert):
    two = {"clean_image": picture(1), "corrupt_image": picture(2), "correct_answer": "red", "incorrect_answer": "green"}
    rows = [
        make_row(0, **two, clean_prompt="is this apple red or green?", corrupt_prompt=..., roles={"noun": "apple"}),
        make_row(1, **{**two, "clean_image": picture(2), "corrupt_image": picture(1)},
                 clean_prompt="is this pear red or green?", corrupt_prompt=..., roles={"noun": "pear"}),
    ]  # fmt: skip
    pairs = symmetric_replacement(MinimalPairs.from_rows(rows), bert, slots="noun")
    # On picture 1 the apple is red; asked about the pear there, the answer is green.
    assert pairs["corrupt_prompt"] == ["is this pear red or green?", "is this apple red or green?"]
    assert pairs["corrupt_answer"] == ["green", "green"]


def test_a_question_with_the_same_answer_is_no_replacement(bert):
    images = {"clean_image": picture(1), "corrupt_image": picture(2)}
    rows = [
        make_row(n, **images, clean_prompt=f"is this {noun} red or green?", corrupt_prompt=..., roles={"noun": noun})
        for n, noun in enumerate(["apple", "pear", "plum"])
    ]
    # All three are red on picture 1: to ask for another one leaves the answer as it is.
    assert len(symmetric_replacement(MinimalPairs.from_rows(rows), bert, slots="noun")) == 0
    more = symmetric_replacement(MinimalPairs.from_rows(rows), bert, ["apple", "pear", "plum", "table"], slots="noun")
    assert more["corrupt_prompt"] == ["is this table red or green?"] * 3


def test_the_mini_world_knows_what_flips_the_answer(mini):
    pairs = mini_world("states", 40)
    control = symmetric_replacement(pairs, mini, slots="noun")
    flips = [(p, q) for p, q in zip(pairs, control, strict=True) if p["control_prompt"] is not None]
    assert len(flips) > 20
    for pair, flipped in flips:
        assert flipped.corrupt_answer == pair.incorrect_answer == pair["control_answer"]
        assert flipped.corrupt_prompt == pair["control_prompt"]
    # The same by the builder itself.
    built = mini_world("states", 40, slots="control")
    assert built["corrupt_prompt"] == [flipped.corrupt_prompt for _, flipped in flips]
    assert built.manifest.dropped == {NO_REPLACEMENT: 40 - len(flips)}


def test_pairs_without_a_replacement_are_dropped_and_counted(bert):
    pairs = symmetric_replacement(fruit(), bert, pool=["crimson", "red", "green", "blue"])
    assert len(pairs) + pairs.manifest.dropped[NO_REPLACEMENT] == 4
    assert "nothing in the pool replaces 'red', 'green'" in pairs.dropped["detail"]
    # An empty pool stays empty; the words of the pairs are not taken in its place.
    assert len(symmetric_replacement(fruit(), bert, pool=[])) == 0
    with pytest.raises(ValueError, match="no slot 'anwsers'; did you mean 'answers'"):
        symmetric_replacement(fruit(), bert, slots="anwsers")
    with pytest.raises(ValueError, match="no slots given"):
        symmetric_replacement(fruit(), bert, slots=[])
    with pytest.raises(ValueError, match="pool='red blue': expected words, such as"):
        symmetric_replacement(fruit(), bert, pool="red blue")
    inside = MinimalPairs.from_rows([make_row(0), make_row(1, roles={"noun": (8, 11)})])
    assert "cuts through a token" in symmetric_replacement(inside, bert, ["pear"], slots="noun").dropped[0]["detail"]
    open_ended = MinimalPairs.from_rows([make_row(0, roles={"noun": "apple"}), *(fruit().select([1]).dataset)])
    dropped = symmetric_replacement(open_ended, bert, pool=["pink", "orange"])
    assert dropped.manifest.dropped == {ROLE: 1}
    assert dropped.dropped[0]["detail"] == "it has no role 'correct'; it has noun"


def test_open_questions_are_told_what_to_replace(bert):
    """A question that names no options has no slots `correct` and `incorrect`; `answers` was no misspelling."""
    asked = {"clean_prompt": "what color is the apple?", "corrupt_prompt": ...}
    some_role = MinimalPairs.from_rows([make_row(0, **asked, roles={"noun": "apple"}), make_row(1, **asked, roles=...)])
    said = "no pair has the role 'correct', as open questions have none: replace another role instead: slots='noun'"
    for slots in ("answers", ["answers"]):
        with pytest.raises(ValueError, match=said):
            symmetric_replacement(some_role, bert, pool=["red", "green"], slots=slots)
    replaced = symmetric_replacement(some_role, bert, pool=["table", "chair"], slots="noun")
    assert re.fullmatch("what color is the (table|chair)[?]", replaced[0].corrupt_prompt)
    with pytest.raises(ValueError, match="name the words to replace in the column `roles`, such as"):
        symmetric_replacement(MinimalPairs.from_rows([make_row(0, **asked, roles=...)]), bert)
    # Where there is no such slot, `answers` is not offered as one.
    with pytest.raises(ValueError, match=re.escape("no slot 'nuon'; did you mean 'noun'? valid: 'noun'")):
        symmetric_replacement(some_role, bert, slots="nuon")


def test_pools_are_words_in_any_container(bert, unchecked):
    words = ["pink", "orange", "gold", "silver"]
    expected = symmetric_replacement(fruit(), bert, pool=words)["corrupt_prompt"]
    for pool in (np.array(words), pd.Series(words), tuple(words), set(words), (word for word in words)):
        assert symmetric_replacement(fruit(), bert, pool=pool)["corrupt_prompt"] == expected
    for wrong in ([*words, float("nan")], pd.Series([*words, None]), {"correct": ["red", 7], "incorrect": words}):
        with pytest.raises(ValueError, match="the pool holds .*; expected words"):
            symmetric_replacement(fruit(), bert, pool=wrong)
    with pytest.raises(ValueError, match="pool='red blue': expected words, such as"):
        symmetric_replacement(fruit(), bert, pool={"correct": "red blue", "incorrect": words})


def test_pools_of_ones_own(bert):
    pairs = symmetric_replacement(
        fruit(), bert, pool={"noun": ["cherry", "melon"], "correct": ["gold"], "incorrect": ["silver", "grey"]},
        slots=["noun", "correct", "incorrect"],
    )  # fmt: skip
    assert all(prompt.split()[2] in ("cherry", "melon") for prompt in pairs["corrupt_prompt"])
    with pytest.raises(ValueError, match="no pool for the slot 'incorrect'; there are noun, correct"):
        symmetric_replacement(fruit(), bert, pool={"noun": [], "correct": []})


def test_wrong_settings_of_the_mini_world():
    with pytest.raises(ValueError, match="no slots 'answer'; did you mean 'answers'"):
        mini_world("states", 2, slots="answer")
    with pytest.raises(ValueError, match="n=0: expected a whole number, 1 or more"):
        mini_world("states", 0)
    with pytest.raises(ValueError, match="no task 'state'"):
        mini_world("state", 2)
