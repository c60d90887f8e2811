"""Visual CounterFact in its published layout, and what is wrong with rows and folders."""

import pandas as pd
import pytest

from notice_lens.pairs.builders.visual_counterfact import KNOWN_COLOURS, questions, visual_counterfact
from notice_lens.pairs.problems import DUPLICATE, EQUAL_ANSWERS, IMAGE, MISSING, TEXT, PairsError
from preset_folders import THINGS, color_rows, counterfact_folder


def test_a_row_is_a_question_for_knowledge_and_one_for_what_is_seen(tmp_path):
    pairs = visual_counterfact(counterfact_folder(tmp_path))
    assert len(pairs) == len(THINGS)
    [pair] = [one for one in pairs if "apple" in one.clean_prompt]
    assert pair.clean_prompt == "What color is an apple usually? Respond with the color name only."
    assert pair.corrupt_prompt == "What color is this apple here? Respond with the color name only."
    assert (pair.correct_answer, pair.incorrect_answer, pair.corrupt_answer) == ("red", "green", "green")
    assert pair.clean_digest == pair.corrupt_digest, "one picture, two questions"
    assert pair.clean_prompt[slice(*pair.roles["object"])] == "apple"
    assert pair.task == "color"
    assert len({one.clean_digest for one in pairs}) == len(pairs)


def test_the_draw_is_seeded_and_files_may_lie_without_a_folder(tmp_path):
    folder = counterfact_folder(tmp_path)
    (folder / "data" / "color-00000-of-00001.parquet").rename(folder / "color-00000-of-00001.parquet")
    drawn = [visual_counterfact(folder, n=5, seed=seed) for seed in (0, 0, 1)]
    assert [len(pairs) for pairs in drawn] == [5, 5, 5]
    assert drawn[0]["id"] == drawn[1]["id"] != drawn[2]["id"]
    assert drawn[0].fingerprint == drawn[1].fingerprint


def test_several_known_colours_and_other_spellings(tmp_path):
    rows = color_rows()[:3]
    rows[0] |= {"object": "Guinea_Pig", "correct_answer": "['Red', 'Dark  Grey']"}
    rows[1] |= {"object": "owl", "correct_answer": ["Yellow"], "incorrect_answer": "Grey"}
    rows[2] |= {"correct_answer": "blue"}
    pairs = visual_counterfact(
        counterfact_folder(tmp_path, [{**row, "correct_answer": str(row["correct_answer"])} for row in rows])
    )
    by_colours = dict(zip(pairs[KNOWN_COLOURS], pairs, strict=True))
    assert set(by_colours) == {"red|dark gray", "yellow", "blue"}
    assert "a guinea pig usually" in by_colours["red|dark gray"].clean_prompt
    assert "an owl usually" in by_colours["yellow"].clean_prompt
    assert by_colours["yellow"].incorrect_answer == "gray"


def test_rows_without_a_conflict_or_a_single_thing_are_dropped_and_counted(tmp_path):
    rows = color_rows()
    rows[0] |= {"correct_answer": "['Red', 'Green']"}  # its other colour is green
    rows[1] |= {"object": "bananas"}
    rows[2] |= {"object": "crow (bird)"}
    rows[3] |= {"incorrect_answer": None}
    rows[4] |= {"counterfact_image": {"bytes": b"no picture", "path": None}}
    rows[6] = rows[5]
    pairs = visual_counterfact(counterfact_folder(tmp_path, rows))
    assert pairs.manifest.dropped == {EQUAL_ANSWERS: 1, TEXT: 2, MISSING: 1, IMAGE: 1, DUPLICATE: 1}
    assert len(pairs) == 6
    with pytest.raises(PairsError, match=r"'bananas' is a plural"):
        visual_counterfact(counterfact_folder(tmp_path / "none", [rows[1]]))


def test_missing_files_and_columns_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no color-\*\.parquet: expected data/color-00000-of-00001"):
        visual_counterfact(tmp_path)
    folder = counterfact_folder(tmp_path / "one")
    file = folder / "data" / "color-00000-of-00001.parquet"
    pd.read_parquet(file).drop(columns="object").to_parquet(file)
    with pytest.raises(ValueError, match=r"color-00000-of-00001\.parquet cannot be read: it has no column object; its"):
        visual_counterfact(folder)
    file.write_bytes(b"no table")
    with pytest.raises(ValueError, match=r"color-00000-of-00001\.parquet cannot be read"):
        visual_counterfact(folder)


def test_the_questions_differ_in_two_words():
    first, second = (form.split() for form in questions("egg"))
    assert [(one, other) for one, other in zip(first, second, strict=True) if one != other] == [
        ("an", "this"), ("usually?", "here?"),
    ]  # fmt: skip
