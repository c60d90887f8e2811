"""Roles: words to characters to tokens, and back."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notice_lens.pairs.roles import as_spans, token_spans
from notice_lens.pairs.tokens import as_reader

PROMPT = "is this apple red or green?"


def test_words_and_spans_become_spans():
    spans = as_spans({"noun": "apple", "correct": (14, 17), "incorrect": [21, 26], "object": None}, PROMPT)
    assert {role: PROMPT[slice(*span)] for role, span in spans.items()} == {
        "noun": "apple",
        "correct": "red",
        "incorrect": "green",
    }


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (
            {"noun": "pear"},
            "role 'noun' is 'pear', which occurs 0 times in 'is this apple red or green?'",
        ),
        ({"noun": "app"}, "role 'noun' is 'app', which occurs 0 times"),
        ({"noun": ""}, "role 'noun' is ''"),
        ({"noun": 7}, "role 'noun' is 7; expected a string, or [first character, last + 1]"),
        ({"noun": [1, 2, 3]}, "role 'noun' is [1, 2, 3]; expected a string"),
        (
            {"noun": (8.2, 13.7)},
            "role 'noun' is (8.2, 13.7); expected a string, or [first character, last + 1] in whole",
        ),
        ({"noun": (8, 13.5)}, "role 'noun' is (8, 13.5); expected a string"),
        ({"noun": ("8", "13")}, "role 'noun' is ('8', '13'); expected a string"),
        ({"noun": (False, True)}, "role 'noun' is (False, True); expected a string"),
        ({"noun": (8, float("nan"))}, "role 'noun' is (8, nan); expected a string"),
        ({"noun": (8, None)}, "role 'noun' is (8, None); expected a string"),
        ({"noun": (14, 99)}, "role 'noun' is [14, 99], outside of 'is this apple red or green?' with 27 characters"),
        ({"noun": (5, 5)}, "role 'noun' is [5, 5], outside"),
        (
            {"noun": (7, 13)},
            "' apple' in 'is this apple red or green?': it begins or ends with a space",
        ),
        ({"noun": "apple", "state": (8, 17)}, "roles 'noun' and 'state' overlap in"),
    ],
)
def test_roles_that_point_at_nothing(roles, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        as_spans(roles, PROMPT)


@pytest.mark.parametrize("name", ["[CLS]", "[DEC]", "[SEP]", "?", "all", "answers"])
def test_names_that_mean_something_already_are_no_roles(name):
    with pytest.raises(ValueError, match=re.escape(f"no role may be called {name!r}; these names have a meaning")):
        as_spans({"noun": "apple", name: "red"}, PROMPT)


def test_spans_of_whole_numbers_of_any_type():
    spans = as_spans({"noun": (8.0, 13.0), "correct": np.array([14, 17]), "incorrect": (np.int8(21), 26)}, PROMPT)
    assert spans == {"noun": (8, 13), "correct": (14, 17), "incorrect": (21, 26)}
    assert all(type(place) is int for span in spans.values() for place in span)


def test_a_word_that_occurs_twice_is_no_role():
    with pytest.raises(ValueError, match="'red', which occurs 2 times in 'is red or not red\\?'"):
        as_spans({"correct": "red"}, "is red or not red?")


def spans_of(tokenizer, prompt, roles, kind="vqa"):
    return token_spans(as_reader(tokenizer, kind).layout_of([prompt]), 0, roles)


def test_tokens_of_a_word_of_several_pieces(bert):
    prompt = "is this apple caramelized or green?"
    spans = spans_of(bert, prompt, as_spans({"noun": "apple", "correct": "caramelized", "incorrect": "green"}, prompt))
    # [CLS] is this apple cara ##mel ##ized or green ? [SEP]: an offset of one would move every word.
    assert spans == {
        "[CLS]": (0, 1),
        "noun": (3, 4),
        "correct": (4, 7),
        "incorrect": (8, 9),
        "?": (9, 10),
        "[SEP]": (10, 11),
    }


def test_captions_begin_with_dec_and_have_no_sep(bert):
    assert spans_of(bert, "a picture of", {"noun": (2, 9)}, "caption") == {"[DEC]": (0, 1), "noun": (2, 3)}
    assert spans_of(bert, "", {}, "caption") == {"[DEC]": (0, 1)}


def test_a_role_that_cuts_through_a_token(bert):
    with pytest.raises(ValueError, match="role 'verb', 'sit' in 'is girl sitting\\?', cuts through a token.*'sitting'"):
        spans_of(bert, "is girl sitting?", {"verb": (8, 11)})


def words_of(bert):
    return [word for word in bert.get_vocab() if word.isalpha()]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_spans_give_the_words_back_at_every_split(bert, data):
    """Words of one to many pieces: made of vocabulary words glued together, accented, capital, hyphenated."""
    vocabulary = words_of(bert)
    part = st.sampled_from(vocabulary)
    glued = st.lists(part, min_size=1, max_size=3).map("".join)
    word = st.one_of(part, glued, glued.map(str.title), st.tuples(part, part).map("-".join), st.just("naïve café"))
    parts = data.draw(st.lists(st.tuples(word, st.booleans()), min_size=1, max_size=6))
    prompt, spans = "", {}
    for number, (text, is_role) in enumerate(parts):
        prompt += " " if prompt else ""
        if is_role:
            spans[f"role{number}"] = (len(prompt), len(prompt) + len(text))
        prompt += text
    prompt += data.draw(st.sampled_from(["?", " ?", "", "."]))
    found = spans_of(bert, prompt, spans)
    ids = bert(prompt)["input_ids"]
    for role, (start, end) in spans.items():
        first, last = found[role]
        alone = bert(prompt[start:end], add_special_tokens=False)["input_ids"]
        assert ids[first:last] == alone
    assert ids[slice(*found["[CLS]"])] == [bert.cls_token_id]
    assert ids[slice(*found["[SEP]"])] == [bert.sep_token_id]
    assert ("?" in found) == prompt.endswith("?")
    if "?" in found:
        assert bert.convert_ids_to_tokens(ids[slice(*found["?"])]) == ["?"]
    places = [place for span in found.values() for place in range(*span)]
    assert len(places) == len(set(places))
