"""Text for figures: escaped, wrapped, and the right words marked."""

import html
import re

import pytest

from notice_lens.viz.marked_text import Piece, cut, ems, escape, lines, replaced


def read(line: str) -> str:
    """A line as Plotly shows it."""
    return html.unescape(re.sub(r"<[^<>]*>", "", line))


@pytest.mark.parametrize("text", ["a < b & c > d", "<b>x</b>", "$5 or $6?", "100%{x}", "&lt;"])
def test_what_is_escaped_reads_as_it_was(text: str):
    escaped = escape(text)
    assert html.unescape(escaped) == text
    assert not set("<>$%") & set(escaped)


def test_marked_words_stand_out_and_others_do_not():
    assert lines(cut("is it red or <b>?", {(6, 9): "#123456", (13, 16): "#654321"}), 80.0) == [
        'is it <span style="color:#123456"><b>red</b></span> or <span style="color:#654321"><b>&lt;b&gt;</b></span>?'
    ]


def test_a_mark_of_several_words_goes_on_over_their_space_and_over_a_line():
    pieces = [Piece("is it "), Piece("left of", bold=True), Piece(" the dog?")]
    assert lines(pieces, 80.0) == ["is it <b>left of</b> the dog?"]
    assert lines(pieces, 5.5) == ["is it <b>left</b>", "<b>of</b> the", "dog?"]


@pytest.mark.parametrize(
    "text", ["word " * 50, "x" * 300, "MAMMOTH " * 20, "犬" * 90, "a\n b\t\tc " * 30], ids=range(5)
)
def test_no_line_is_wider_than_asked_and_no_character_is_lost(text: str):
    broken = [read(line) for line in lines([Piece(text)], 20.0)]
    assert max(map(ems, broken)) <= 20
    assert len(broken) > 1
    assert "".join("".join(broken).split()) == "".join(text.split())


def test_no_text_is_one_empty_line():
    assert lines([Piece("")], 20.0) == [""]


@pytest.mark.parametrize(
    ("clean", "corrupt", "words"),
    [
        ("is it red or blue?", "is it striped or plain?", ["striped", "plain"]),
        ("is it red or blue?", "is it blue or red?", ["blue", "red"]),
        ("Is it red?", "is it Red?", []),
        ("a red dog", "a very big dog", ["very", "big"]),
        ("", "a dog", ["a", "dog"]),
    ],
)
def test_replaced_words(clean: str, corrupt: str, words: list[str]):
    assert [corrupt[start:end] for start, end in replaced(clean, corrupt)] == words
