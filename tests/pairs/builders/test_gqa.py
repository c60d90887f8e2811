"""GQA in both published layouts: they give the same questions; what is wrong with rows and folders."""

import json

import numpy as np
import pytest

from notice_lens.pairs.builders.gqa import INSTRUCTION, gqa_questions
from notice_lens.pairs.problems import DUPLICATE, IMAGE, MISSING, NO_IMAGE, PairsError
from preset_folders import FILES, gqa_json, gqa_tables, is_uniform

COLUMNS = (
    "id",
    "clean_prompt",
    "correct_answer",
    "incorrect_answer",
    "clean_digest",
    "clean_regions",
    "roles",
    "group",
)


def read(folder, **options):
    return gqa_questions(folder, progress=False, **options)


def test_both_layouts_give_the_same_questions(tmp_path):
    tables, records = read(gqa_tables(tmp_path / "tables")), read(gqa_json(tmp_path / "json"))
    assert list(tables) == list(records) == list(FILES)
    for kind in tables:
        for column in COLUMNS:
            assert tables[kind][column] == records[kind][column], (kind, column)
        assert set(tables[kind]["task"]) == {kind}


def test_a_question_has_its_instruction_its_words_and_its_regions(tmp_path):
    pair = read(gqa_tables(tmp_path))["ChooseAttr"][0]
    assert pair.clean_prompt == "Is the apple red or green?" + INSTRUCTION
    assert pair.clean_prompt[slice(*pair.roles["asked"])] == "Is the apple red or green?"
    assert (pair.correct_answer, pair.incorrect_answer) == ("green", "red")
    expected = np.zeros((28, 28), bool)
    expected[7:21, :14] = True
    assert (pair.clean_regions["object"] == expected).all()
    assert (pair.clean_regions["rest"] == ~expected).all()
    assert is_uniform(pair.corrupt_image)
    assert pair.corrupt_image.size == pair.clean_image.size


def test_foils_are_the_other_option_or_another_answer_of_the_type(tmp_path):
    made = read(gqa_tables(tmp_path))
    for kind, two in (
        ("ChooseAttr", {"red", "green"}),
        ("LogicalObj", {"yes", "no"}),
        ("QueryAttr", {"left", "right"}),
    ):
        for pair in made[kind]:
            assert {pair.correct_answer, pair.incorrect_answer} == two


def test_a_question_without_boxes_has_no_regions(tmp_path):
    """The last one of the tables; in GQA's own layout, all where scene graphs are missing."""
    assert [bool(pair.clean_regions) for pair in read(gqa_tables(tmp_path / "one"))["QueryAttr"]] == [True] * 3 + [
        False
    ]
    folder = gqa_json(tmp_path / "two")
    (folder / "val_sceneGraphs.json").unlink()
    assert not any(pair.clean_regions for pair in read(folder)["QueryAttr"])


def test_the_draw_is_seeded_and_of_each_type(tmp_path):
    folder = gqa_tables(tmp_path)
    drawn = [read(folder, n=2, seed=seed) for seed in (0, 0, 3)]
    assert [len(pairs) for pairs in drawn[0].values()] == [2, 2, 2]
    assert [pairs.fingerprint for pairs in drawn[0].values()] == [pairs.fingerprint for pairs in drawn[1].values()]
    assert any(one["id"] != other["id"] for one, other in zip(drawn[0].values(), drawn[2].values(), strict=True))


def test_what_is_missing_is_dropped_and_counted(tmp_path):
    folder = gqa_tables(tmp_path, 6)
    (folder / "images" / "1000.jpg").unlink()
    (folder / "images" / "1001.jpg").write_bytes(b"no picture")
    table = folder / "datasets" / FILES["QueryAttr"]
    lines = table.read_text(encoding="utf-8").splitlines()
    lines[3] = lines[3].replace(",left,", ",,").replace(",right,", ",,")
    table.write_text("\n".join([*lines, lines[-1]]), encoding="utf-8")
    pairs = read(folder)["QueryAttr"]
    assert pairs.manifest.dropped == {NO_IMAGE: 1, IMAGE: 1, MISSING: 1, DUPLICATE: 1}
    assert len(pairs) == 3
    for file in (folder / "images").glob("*.jpg"):
        file.unlink()
    with pytest.raises(PairsError, match=r"1000\.jpg is missing"):
        read(folder)


def test_folders_and_files_of_another_layout_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no folder images: expected GQA's pictures by id"):
        read(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"expected the authors' tables, such as .*ChooseAttr\.csv, or GQA's val_"
    ):
        read(tmp_path)
    questions = tmp_path / "val_balanced_questions.json"
    questions.write_text("[]")
    with pytest.raises(ValueError, match=r"cannot be read: expected an object by id, got a list"):
        read(tmp_path)
    questions.write_text(json.dumps({"1": {"types": {"detailed": "verifyAttr"}}}))
    with pytest.raises(ValueError, match=r"has no question of the types ChooseAttr, ChooseCat"):
        read(tmp_path)
    questions.write_text(json.dumps({"1": {"question": "is it?"}}))
    with pytest.raises(ValueError, match=r"val_balanced_questions\.json cannot be read: it has no 'types'"):
        read(tmp_path)
    (tmp_path / FILES["ChooseAttr"]).write_text("question,answer\nis it?,yes\n")
    with pytest.raises(ValueError, match=r"ChooseAttr\.csv cannot be read: it has no column question_id, img_id"):
        read(tmp_path)
