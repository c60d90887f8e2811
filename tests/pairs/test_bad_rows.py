"""Rows that are no pairs: each problem is named, or its row is dropped and counted."""

import re

import numpy as np
import pytest

from notice_lens.pairs import MinimalPairs, PairsError
from notice_lens.pairs.problems import IMAGE
from pair_rows import make_row, picture


def changed(**changes):
    return changes


BAD = {
    "no id": (changed(id=None), "row 1: id is missing"),
    "no answer": (changed(correct_answer=""), "pair-1: correct_answer is missing"),
    "not a number": (changed(incorrect_answer=float("nan")), "incorrect_answer is missing"),
    "equal answers": (
        changed(incorrect_answer="Red ", roles=None, clean_prompt="what color is it?"),
        "correct_answer and incorrect_answer are both 'red'",
    ),
    "equal corrupt answer": (changed(corrupt_answer="red"), "correct_answer and corrupt_answer are both 'red'"),
    "unreadable": (changed(clean_image=b"no image"), "clean_image: an image: the bytes are not an image"),
    "no such file": (changed(corrupt_image="nowhere.png"), "nowhere.png: no such file"),
    "no image at all": (changed(clean_image=object()), "clean_image: object: an array of shape []"),
    "role elsewhere": (changed(roles={"noun": "pear"}), "role 'noun' is 'pear', which occurs 0 times"),
    "roles of no shape": (changed(roles=7), "roles are a mapping by name; got int"),
    "roles in no JSON": (changed(roles="{noun"), "roles are written as JSON"),
    "role of another word": (
        changed(roles={"correct": "apple"}), "role 'correct' points at 'apple'; the answer is 'red'",
    ),
    "empty question": (changed(clean_prompt="", roles=None, corrupt_prompt=...), "clean_prompt is missing"),
    "role of no name": (changed(roles={7: "apple"}), "the name of a role is text; got 7 (int)"),
    "role without an end": (changed(roles={"noun": {"start": 8}}), "role 'noun' is (8, None); expected a string"),
    "roles in deep JSON": (changed(roles="[" * 100_000), "roles are written as JSON"),
    "a number in JSON too long": (changed(roles='{"noun": ' + "1" * 5000 + "}"), "roles are written as JSON"),
    "lacks an option": (
        changed(incorrect_answer="blue", roles=None),
        "'is this apple red or green?' offers a choice, and the answer 'blue' is not in it",
    ),
    "unknown kind": (changed(kind="vqaa"), "no kind of pair 'vqaa'; did you mean 'vqa'?"),
    "region of another size": (
        changed(clean_regions={"object": np.ones((3, 3), bool)}),
        "clean_regions: it is 3 x 3 pixels, its picture 16 x 24",
    ),
    "same id": (changed(id="pair-0"), "pair-0: there is another pair of this id"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_or_dropped(case):
    changes, message = BAD[case]
    rows = [make_row(0), make_row(1, **changes), make_row(2)]
    with pytest.raises(PairsError, match=re.escape(message)):
        MinimalPairs.from_rows(rows)
    pairs = MinimalPairs.from_rows(rows, on_error="drop")
    assert pairs["id"] == ["pair-0", "pair-2"]
    assert len(pairs.dropped) == sum(pairs.manifest.dropped.values()) == 1
    assert pairs.manifest.kept == 2
    assert (
        message.removeprefix("pair-1: ").removeprefix("row 1: ").removeprefix("pair-0: ") in pairs.dropped[0]["detail"]
    )
    # Nothing is lost: what could be read of the row is there.
    assert pairs.dropped[0]["clean_prompt"] == rows[1]["clean_prompt"]


def test_a_bad_row_costs_no_good_one_of_its_id():
    good, bad = make_row(0), make_row(0, clean_image=b"no image", note="bad")
    for rows in ([good, bad], [bad, good]):
        pairs = MinimalPairs.from_rows(rows, on_error="drop")
        assert pairs["id"] == ["pair-0"]
        assert pairs[0].clean_image.size == (24, 16)
        assert pairs.dropped["note"] == ["bad"]
        assert pairs.manifest.dropped == {IMAGE: 1}


def test_a_pair_has_to_differ_in_something():
    same = picture(0)
    with pytest.raises(PairsError, match="nothing differs: 1\n.*clean_image and corrupt_image are the same picture"):
        MinimalPairs.from_rows([make_row(0, clean_image=same, corrupt_image=same, corrupt_prompt=...)])
    with pytest.raises(PairsError, match="clean_prompt and corrupt_prompt are both"):
        MinimalPairs.from_rows([make_row(0, corrupt_prompt="is this apple red or green?")])
    # Another question about one image is a pair for text corruptions.
    assert len(MinimalPairs.from_rows([make_row(0, clean_image=same, corrupt_image=same)])) == 1


def test_all_problems_are_in_one_report():
    rows = [make_row(0), *(make_row(n, roles={"noun": "pear"}, correct_answer="") for n in range(1, 8))]
    with pytest.raises(PairsError) as caught:
        MinimalPairs.from_rows(rows)
    report = str(caught.value)
    assert report.startswith("7 of 8 pairs have problems")
    assert "role not in the prompt: 7" in report
    assert "missing value: 7" in report
    assert "... and 2 more" in report
    assert report.endswith("on_error='drop' keeps the others")
    assert len(caught.value.problems) == 14


def test_columns_that_are_missing_altogether():
    rows = [make_row(n, clean_image=..., correct_answer=..., img_clean=picture(n)) for n in range(3)]
    with pytest.raises(ValueError, match="columns are missing: clean_image, correct_answer; there are .*img_clean"):
        MinimalPairs.from_rows(rows)
    with pytest.raises(TypeError, match="a row is a mapping by column; row 0 is a str"):
        MinimalPairs.from_rows(["pair"])
    with pytest.raises(TypeError, match="rows are an iterable of mappings, one a pair; got one dict"):
        MinimalPairs.from_rows(make_row())
    with pytest.raises(ValueError, match="no on_error 'warn'"):
        MinimalPairs.from_rows([make_row()], on_error="warn")


def test_rows_are_no_pairs_yet() -> None:
    with pytest.raises(TypeError, match=r"pairs are made by from_rows, .* such as MinimalPairs\.from_rows\(rows\)"):
        MinimalPairs([{}])


def test_ids_are_numbers_and_there_is_one_task_where_no_row_has_any() -> None:
    rows = [{name: value for name, value in make_row(n).items() if name not in ("id", "task")} for n in range(11)]
    pairs = MinimalPairs.from_rows(rows)
    assert pairs["id"] == [f"{number:02}" for number in range(1, 12)]
    assert {*pairs["task"]} == {"pairs"}
    # One row's own id makes the others' a mistake, as before.
    with pytest.raises(PairsError, match="row 1: id is missing"):
        MinimalPairs.from_rows([make_row(0), *rows[1:2]])
