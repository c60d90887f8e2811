"""Text of others: terminals do not obey it, spreadsheets do not compute it, and passwords are not in it."""

import csv
import logging
import re
import unicodedata

import click
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from notice_lens.circuits.condition import read_condition
from notice_lens.circuits.evidence import FewClusters, warn_if_few
from notice_lens.cli.commands import main
from notice_lens.cli.errors import echo, told
from notice_lens.pairs import mini_world
from notice_lens.pairs.problems import PairsError, Problem
from notice_lens.plain_text import csv_cell, printable
from notice_lens.stats.synthetic import synthetic_effects
from notice_lens.study.tables import write_csv
from notice_lens.viz.display import show

TITLE = "\x1b]0;owned\x07"
"""A terminal that obeys takes this for its title. (click leaves it as it is, unlike colours, where no terminal is.)"""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\u001b[31mred\u001b[0m"),
        (TITLE, r"\u001b]0;owned\u0007"),
        ("\x9b2J", r"\u009b2J"),
        ("all is well\rfailed", r"all is well\u000dfailed"),
        ("a\x08b\x00\x7f", r"a\u0008b\u0000\u007f"),
        ("fdp.\u202eexe", r"fdp.\u202eexe"),
        ("one\u2028two", r"one\u2028two"),
        ("half a pair \ud83d", r"half a pair \ud83d"),
    ],
)
def test_controls_are_shown_and_not_obeyed(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    "text", ["", "two\n\tlines", "naïve 日本語 עברית", "\U0001f469\u200d\U0001f680 \u22120.5 %", "C:\\x1b"]
)
def test_plain_text_stays(text):
    assert printable(text) == text


@given(st.text() | st.text("=+-@\t\r\n\x1b\x9b'http://ab"))
def test_nothing_is_left_that_acts(text):
    shown = printable(text)
    assert not [one for one in shown if unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") and one not in "\t\n"]
    shown.encode("utf-8")
    assert printable(shown) == shown
    cell = csv_cell(text)
    assert cell in (shown, f"'{shown}")
    assert csv_cell(cell) == cell


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:secret@example.org/a.jpg", "https://***@example.org/a.jpg"),
        ("https://secret@example.org", "https://***@example.org"),
        ("see 'ftp://me:sec:re@t@example.org' and http://a:secret@b/?c=d@e", "see 'ftp://***@example.org' and http://***@b/?c=d@e"),
        ("http://me:se\x1bcret@example.org", "http://***@example.org"),
    ],
)  # fmt: skip
def test_addresses_lose_their_passwords(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    "text", ["https://example.org/@me/x", "http://example.org?at=a@b", "me@example.org", '"a://b", "c@d"']
)
def test_other_signs_of_at_stay(text):
    assert printable(text) == text


@pytest.mark.parametrize(
    "text",
    ["=1+1", "=cmd|' /C calc'!A0", "+1+1",
     "-1+cmd|' /C calc'!A0", "@SUM(1)", "\t=1+1", " =1+1", "\n=1", "\uff1d1+1", "\uff20SUM(1)"],
)  # fmt: skip
def test_formulas_become_text(text):
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["-5", "+0.5", "-.5e-3", "-an_id", "a=b", "", 5, -0.5, None, float("inf")])
def test_numbers_and_ids_stay(value):
    assert csv_cell(value) is value


def test_tables_hold_no_formulas(tmp_path):
    frame = pd.DataFrame(
        {
            "cell": ["=HYPERLINK(1), image", f"{TITLE}, text", None],
            "@more": pd.Series(["@a", "b", "http://me:secret@c"], dtype="category"),
            "layer": pd.array([1, None, 3], dtype="Int64"),
            "effect": [-0.5, float("nan"), 2.0],
            "significant": [True, False, True],
        }
    )
    write_csv(frame, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["cell", "'@more", "layer", "effect", "significant"],
            ["'=HYPERLINK(1), image", "'@a", "1", "-0.5", "True"],
            [r"\u001b]0;owned\u0007, text", "b", "", "", "False"],
            ["", "http://***@c", "3", "2.0", "True"],
        ]
    write_csv(frame.iloc[:0], tmp_path / "empty.csv")
    assert (tmp_path / "empty.csv").read_text().splitlines() == ["cell,'@more,layer,effect,significant"]


def run(command: click.Command, *arguments: str) -> str:
    """What a command prints, on both streams, where its terminal obeys."""
    return CliRunner().invoke(command, arguments, color=True).output


@pytest.mark.parametrize("error", [ValueError, OSError, RuntimeError, KeyboardInterrupt])
def test_errors_of_commands(error):
    @click.command
    @told
    def command() -> None:
        raise error(f"{TITLE} cannot be read: http://me:secret@example.org")

    assert r"\u001b]0;owned\u0007 cannot be read: http://***@example.org" in run(command)


def test_what_commands_print():
    assert run(click.command(lambda: echo(f"\x1b[2J{TITLE}"))) == "\\u001b[2J\\u001b]0;owned\\u0007\n"


def test_rows_of_others_that_are_wrong(tmp_path):
    table = tmp_path / "rows.csv"
    table.write_text(
        f"id,task,clean_image,corrupt_image,clean_prompt,correct_answer,incorrect_answer\n{TITLE},t,a\x1b[2J.png,b.png,what?,x,y\n"
    )
    shown = run(main, "pairs", "table", str(table), "--out", str(tmp_path / "out"))
    assert r"\u001b]0;owned\u0007" in shown
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", shown)


def test_problems_and_pairs_as_they_are_shown():
    error = PairsError([Problem(TITLE, "missing value", "\x9b2J")], 1, f"\n{TITLE}")
    assert str(error).count("owned") == 2
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x80-\x9f]", str(error))
    pairs = mini_world("states", 2, 0)
    pairs.manifest.dropped[TITLE] = 1
    assert r"\u001b]0;owned\u0007 1" in repr(pairs)


def test_warnings_and_logs(caplog):
    condition = read_condition(synthetic_effects(np.zeros((2, 3)), 3), None)
    with pytest.warns(FewClusters, match=re.escape(r"clusters of pairs in \u001b]0;owned\u0007 (3 pairs): below")):
        warn_if_few(condition, [np.arange(3)], f" in {TITLE}")

    class Undrawn:
        data = ()

        def to_plotly_json(self) -> None: ...

        def to_image(self, **_: object) -> bytes:
            raise OSError(f"{TITLE} is missing")

    with caplog.at_level(logging.WARNING, "notice_lens.viz"):
        show(Undrawn())
    assert r"\u001b]0;owned\u0007 is missing" in caplog.text
    assert TITLE not in caplog.text
