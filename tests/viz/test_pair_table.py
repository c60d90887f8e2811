"""What a notebook shows of pairs, of one pair and of inputs."""

import re
from html.parser import HTMLParser

import pytest

from made_up import noise_picture
from notice_lens import HookedBLIP
from notice_lens.pairs import MinimalPairs, mini_world


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in ("img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def pairs() -> MinimalPairs:
    return mini_world("states", 5, seed=0, world="pictures")


def test_pairs_show_their_summary_and_the_first_three(pairs):
    html = pairs._repr_html_()
    tags = Tags(html)
    assert not tags.open, "every tag is closed"
    assert tags.texts[0] == repr(pairs)
    assert html.count("<img ") == 6
    assert "… and 2 more" in html
    assert [pair.id + "<" in html for pair in pairs] == [True, True, True, False, False]
    assert all(pair.correct_answer in html and pair.incorrect_answer in html for pair in pairs[:3])
    assert len(html) < 200_000


def test_one_pair_shows_both_pictures_and_questions(pairs):
    html = pairs[1]._repr_html_()
    assert html.count("<img ") == 2
    assert pairs[1].clean_prompt in html
    assert pairs[1].corrupt_prompt in html
    assert "more" not in html


def test_what_a_file_says_is_no_markup():
    row = {
        "id": "<b>&", "task": "<script>alert(1)</script>", "clean_image": noise_picture(1),
        "corrupt_image": noise_picture(2), "clean_prompt": "is it <i>red</i>?", "correct_answer": "a<b",
        "incorrect_answer": "green",
    }  # fmt: skip
    html = MinimalPairs.from_rows([row])._repr_html_()
    assert not re.search(r"<script|<i>red|<b>&", html)
    assert not Tags(html).open


def test_inputs_say_what_they_hold_and_not_all_their_numbers(pairs):
    model = HookedBLIP.mini("pictures")
    inputs = model.prepare([pair.clean_image for pair in pairs], list(pairs["clean_prompt"]))
    said = repr(inputs)
    assert said.startswith("BLIPInputs of 5 on cpu: pixel_values [5, 3, 128, 128] float32, input_ids [5, ")
    assert len(said) < 400
