"""`notice-lens pairs table`: wrong rows stop it, or are left out and counted."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from notice_lens.cli.commands import main
from notice_lens.pairs import MinimalPairs

HEADER = "id,task,clean_image,corrupt_image,clean_prompt,correct_answer,incorrect_answer"


def test_wrong_rows_stop_it_or_are_skipped(folder: Path):
    rows = ["good,t,0.png,1.png,is it red or green?,red,green", "bad,t,none.png,1.png,is it red or green?,red,green"]
    (folder / "pairs.csv").write_text("\n".join([HEADER, *rows]), encoding="utf-8")
    asked = ["pairs", "table", str(folder / "pairs.csv"), "--out", str(folder / "saved")]
    stopped = CliRunner().invoke(main, asked)
    assert stopped.exit_code == 1
    assert "none.png: no such file" in stopped.stderr
    assert "--skip leaves these rows out, and counts them" in stopped.stderr
    assert "on_error" not in stopped.stderr
    skipped = CliRunner().invoke(main, [*asked, "--skip"])
    assert skipped.exit_code == 0, skipped.output
    assert "dropped: image unreadable 1" in skipped.output
    assert MinimalPairs.load(folder / "saved")["id"] == ["good"]


def test_tables_of_other_programs(folder: Path):
    row = ["one", "t", "0.png", "1.png", "is it red or green?", "red", "green"]
    as_json = json.dumps([dict(zip(HEADER.split(","), row, strict=True))], indent=1)
    files = {
        "semicolons.csv": (f"{HEADER.replace(',', ';')}\n{';'.join(row)}", "utf-8-sig"),
        "tabs.tsv": ("\n".join(["\t".join(HEADER.split(",")), "\t".join(row)]), "utf-16"),
        "array.json": (as_json, "utf-8"),
        "lines.ndjson": (as_json.replace("\n", "").strip("[]"), "utf-8"),
    }
    for name, (text, encoding) in files.items():
        (folder / name).write_text(text, encoding=encoding)
        read = CliRunner().invoke(main, ["pairs", "table", str(folder / name), "--out", str(folder / f"{name}-saved")])
        assert read.exit_code == 0, read.output
        assert MinimalPairs.load(folder / f"{name}-saved")["id"] == ["one"]


def test_tables_in_other_words_need_neither_ids_nor_a_task(folder: Path):
    (folder / "fruit.csv").write_text(
        "photo,other,question,answer,wrong\n"
        "0.png,1.png,what color is it?,red,green\n1.png,0.png,what color is it?,green,red\n"
    )
    names = {"clean_image": "photo", "corrupt_image": "other", "clean_prompt": "question"}
    names |= {"correct_answer": "answer", "incorrect_answer": "wrong"}
    columns = [word for ours, theirs in names.items() for word in ("--columns", f"{ours}={theirs}")]
    out = str(folder / "saved")
    read = CliRunner().invoke(main, ["pairs", "table", str(folder / "fruit.csv"), *columns, "--out", out])
    assert read.exit_code == 0, read.output
    saved = MinimalPairs.load(folder / "saved")
    assert (saved["id"], saved["task"]) == (["1", "2"], ["fruit", "fruit"])
    assert saved["correct_answer"] == ["red", "green"]
    for wrong, message in (
        ("clean_image", "--columns clean_image: expected our name and the file's, such as clean_image=photo"),
        ("clean_picture=photo", "no column 'clean_picture'; did you mean 'clean_image'"),
        ("clean_image=fotos", "fruit.csv has no column 'fotos'; it has answer, other, photo"),
        ("photo=clean_image", "our name comes first; did you mean clean_image=photo?"),
    ):
        asked = ["pairs", "table", str(folder / "fruit.csv"), "--columns", wrong, "--out", f"{out}-not"]
        stopped = CliRunner().invoke(main, asked)
        assert stopped.exit_code == 1
        assert message in stopped.stderr


@pytest.mark.parametrize("seed", ["-1", "0.5", "nan", "x"])
def test_seeds_are_refused_before_the_work(seed: str, tmp_path: Path):
    out = str(tmp_path / "out")
    here = str(tmp_path)
    for asked in (
        ["demo", "--out", out],
        ["patch", "mini", here, "--out", out],
        ["replicate", "--out", out],
        ["pairs", "mini-world", "--out", out],
        ["pairs", "faces", here, "--out", out],
    ):
        stopped = CliRunner().invoke(main, [*asked, "--seed", seed])
        assert stopped.exit_code == 2
        assert "Invalid value for '--seed'" in stopped.stderr
        assert not (tmp_path / "out").exists()


def test_labels_and_formats_of_boxes(folder: Path):
    """Given once for all rows; without them the rows stop, with the question."""
    values = np.zeros((16, 24), np.uint8)
    values[2:9, 3:15] = 255
    values[4:7, 5:13] = 15
    Image.fromarray(values).save(folder / "mask.png")
    regions = {"clean_regions": {"object": "mask.png"}, "corrupt_regions": {"object": [3, 2, 15, 9]}}
    cells = "r,t,0.png,1.png,is it red or green?,red,green".split(",") + [
        json.dumps(value) for value in regions.values()
    ]
    with open(folder / "pairs.csv", "w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([[*HEADER.split(","), *regions], cells])
    asked = ["pairs", "table", str(folder / "pairs.csv"), "--out", str(folder / "saved")]
    stopped = CliRunner().invoke(main, asked)
    assert stopped.exit_code == 1
    assert "label=" in stopped.stderr
    assert "box_format=" in stopped.stderr
    made = CliRunner().invoke(main, [*asked, "--label", "15", "--label", "3", "--box-format", "xyxy"])
    assert made.exit_code == 0, made.output
    pair = MinimalPairs.load(folder / "saved")[0]
    assert (pair.clean_regions["object"].sum(), pair.corrupt_regions["object"].sum()) == (3 * 8, 7 * 12)


def test_no_pair_is_an_error_and_nothing_is_saved(folder: Path):
    (folder / "pairs.csv").write_text(f"{HEADER}\nbad,t,none.png,1.png,is it red or green?,red,green")
    asked = ["pairs", "table", str(folder / "pairs.csv"), "--skip", "--out", str(folder / "saved")]
    found = CliRunner().invoke(main, asked)
    assert found.exit_code == 1
    assert "0 pairs are left, so nothing is saved" in found.stderr
    assert "dropped: image unreadable 1" in found.stderr
    assert not (folder / "saved").exists()


def test_task_and_kind_given_once(folder: Path):
    (folder / "pairs.csv").write_text(
        "id,clean_image,corrupt_image,clean_prompt,corrupt_prompt\n7,0.png,1.png,a dog chases a cat,a cat chases a dog"
    )
    asked = ["pairs", "table", str(folder / "pairs.csv"), "--out", str(folder / "saved")]
    assert "columns are missing: correct_answer" in CliRunner().invoke(main, asked).stderr
    found = CliRunner().invoke(main, [*asked, "--task", "captions", "--kind", "match"])
    assert found.exit_code == 0, found.output
    pair = MinimalPairs.load(folder / "saved")[0]
    assert (pair.task, pair.kind, pair.correct_answer) == ("captions", "match", "match")


def test_svo_probes_without_a_pair(folder: Path):
    header = "sentence,pos_triplet,neg_triplet,pos_image_id,neg_image_id,subj_neg,verb_neg,obj_neg"
    row = 'a,"girl,sit,beach","boy,sit,beach",77.0,78.0,True,False,False'
    (folder / "svo.csv").write_text(f"{header}\n{row}\n")
    asked = ["pairs", "svo", str(folder / "svo.csv"), str(folder), "--model", "mini", "--out", str(folder / "saved")]
    found = CliRunner().invoke(main, asked)
    assert found.exit_code == 1
    assert "image missing: 1" in found.stderr
    assert "No pair can be made of its rows" in found.stderr
    assert not (folder / "saved").exists()


def test_numbered_folders_of_faces(folder: Path, bert, tmp_path: Path):
    bert.save_pretrained(tmp_path / "bert")
    for number, names in {"1": "01", "4": "23"}.items():
        (folder / "faces" / number).mkdir(parents=True)
        for name in names:
            (folder / f"{name}.png").rename(folder / "faces" / number / f"{name}.png")
    asked = ["pairs", "faces", str(folder / "faces"), "--model", "mini", "--out", str(folder / "saved")]
    assert "expected numbering='raf-db'" in CliRunner().invoke(main, asked).stderr
    found = CliRunner().invoke(main, [*asked, "--numbering", "raf-db", "--model", str(tmp_path / "bert")])
    assert found.exit_code == 0, found.output
    pairs = MinimalPairs.load(folder / "saved")
    assert {*pairs["correct_answer"], *pairs["incorrect_answer"]} == {"happy", "surprise"}
