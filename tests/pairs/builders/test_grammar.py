"""Verb forms, prepositions and questions by rule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notice_lens.pairs.builders.grammar import SLOTS, Prepositions, ing, preposition, svo_question


@pytest.mark.parametrize(
    ("verb", "expected"),
    [
        ("open", "opening"), ("visit", "visiting"), ("listen", "listening"), ("happen", "happening"),
        ("squat", "squatting"), ("sit", "sitting"), ("lie", "lying"), ("run", "running"), ("ride", "riding"),
        ("see", "seeing"), ("dye", "dyeing"), ("die", "dying"), ("picnic", "picnicking"), ("be", "being"),
        ("pick up", "picking up"), ("look at", "looking at"), ("lies on", "lying on"),
        ("sits", "sitting"), ("sitting", "sitting"), ("sat", "sitting"), ("Running", "running"), ("goes", "going"),
        ("sing", "singing"), ("rings", "ringing"), ("bring", "bringing"), ("lay", "laying"), ("saw", "sawing"),
        ("kitesurf", "kitesurfing"), ("kitesurfs", "kitesurfing"), ("kitesurfing", "kitesurfing"),
        ("paddleboarded", "paddleboarding"), ("xyzzy", "xyzzying"), ("  pick   up ", "picking up"),
    ],
)  # fmt: skip
def test_ing(verb, expected):
    assert ing(verb) == expected


@pytest.mark.parametrize("verb", ["", "  "])
def test_no_verb(verb):
    with pytest.raises(ValueError, match=r"is not a verb; expected one in any form, such as 'sit' or 'picks up'"):
        ing(verb)


@pytest.mark.parametrize("verb", "sit run lie open pick walk stand jump squat listen".split())
def test_ing_again_changes_nothing(verb):
    assert ing(ing(verb)) == ing(verb)


@pytest.mark.parametrize(
    ("sentence", "verb", "obj", "expected"),
    [
        ("A girl is sitting on the beach.", "sit", "beach", "on"),
        ("A man rides a horse.", "ride", "horse", ""),
        ("the man sits, on his big old chairs!", "sit", "chair", "on"),
        ("A dog sits in front of the house", "sit", "house", "in front of"),
        ("A cat lies on top of a table", "lie", "table", "on top of"),
        ("She is walking next to her dog.", "walk", "dog", "next to"),
        ("He stands in the middle of the street.", "stand", "street", "in middle of"),
        ("A woman sits with friends at the table.", "sit", "table", "at"),
        ("People are walking down to the beach", "walk", "beach", "down to"),
        ("A man is looking at the camera", "look at", "camera", ""),
        ("A man is looking at the camera", "look", "camera", "at"),
        ("A man is picking up the trash", "pick up", "trash", ""),
        ("A GIRL SITTING ON THE BEACH", "Sit", "Beach", "on"),
        ("A girl sits in the living room", "sit", "living room", "in"),
        ("On the beach a girl sits", "sit", "beach", None),
        ("A girl sits on the grass", "sit", "beach", None),
        ("A girl stands on the beach", "sit", "beach", None),
        ("sitting", "sit", "beach", None),
        ("sit", "sit", "", None),
        ("", "sit", "beach", None),
        (None, "sit", "beach", None),
        (float("nan"), "sit", "beach", None),
    ],
)
def test_preposition(sentence, verb, obj, expected):
    assert preposition(sentence, verb, obj) == expected


@given(st.text(), st.text(max_size=8), st.text(max_size=8))
def test_preposition_of_anything(sentence, verb, obj):
    assert isinstance(preposition(sentence, verb, obj), str | None)


def test_the_usual_preposition_where_a_sentence_does_not_say():
    on, at, rides = "A dog sits on a beach", "A dog walks at the beach", "A man rides a horse"
    usual = Prepositions([(on, "sit", "beach"), (at, "walk", "beach"), (at, "walk", "beach"), (rides, "ride", "horse")])
    assert usual.usual(None, ["sit"], "beach") == "on"
    assert usual.usual("A girl sits near the beach", ["sit"], "beach") == "near"
    assert usual.usual("nothing", ["sleep", "sit"], "beach") == "on"
    assert usual.usual(None, ["sleep"], "beach") == "at"
    assert usual.usual(None, ["sit"], "sofa") == "on"
    assert usual.usual(None, ["ride"], "horse") == ""
    assert usual.usual(None, ["eat"], "apple") == ""


@pytest.mark.parametrize(
    ("slot", "other", "swap", "text"),
    [
        ("subject", "boy", False, "is girl or boy sitting on beach?"),
        ("subject", "boy", True, "is boy or girl sitting on beach?"),
        ("verb", "running", False, "is girl sitting or running on beach?"),
        ("object", "grass", False, "is girl sitting on beach or grass?"),
        ("object", "grass", True, "is girl sitting on grass or beach?"),
    ],
)
def test_questions_and_their_roles(slot, other, swap, text):
    triplet = ("girl", "sitting", "beach")
    question = svo_question(slot, triplet, other, "on", swap)
    assert question.text == text
    assert question.answer == triplet[SLOTS.index(slot)]
    words = {role: text[slice(*span)] for role, span in question.roles.items()}
    expected = dict(zip(SLOTS, triplet, strict=True))
    assert words == {"correct": expected.pop(slot), "incorrect": other, **expected}


def test_a_word_that_stands_twice_has_its_own_place():
    question = svo_question("object", ("man", "hugging", "woman"), "man")
    assert question.text == "is man hugging woman or man?"
    assert question.roles["subject"] == (3, 6)
    assert question.roles["incorrect"] == (24, 27)


def test_no_such_slot():
    with pytest.raises(ValueError, match=r"no slot 'verbs'; did you mean 'verb'\? valid: 'subject', 'verb', 'object'"):
        svo_question("verbs", ("girl", "sitting", "beach"), "running")
