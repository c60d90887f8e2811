"""`notice-lens pairs table`: wrong rows stop it, or are left out and counted."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from notice_lens.cli import main
from notice_lens.pairs import MinimalPairs

HEADER = "id,task,clean_image,corrupt_image,clean_prompt,correct_answer,incorrect_answer"


def test_wrong_rows_stop_it_or_are_skipped(folder: Path):
    rows = ["good,t,0.png,1.png,is it red or green?,red,green", "bad,t,none.png,1.png,is it red or green?,red,green"]
    (folder / "pairs.csv").write_text("\n".join([HEADER, *rows]), encoding="utf-8")
    asked = ["pairs", "table", str(folder / "pairs.csv"), "--out", str(folder / "saved")]
    stopped = CliRunner().invoke(main, asked)
    assert stopped.exit_code == 1
    assert "none.png: no such file" in stopped.stderr
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
