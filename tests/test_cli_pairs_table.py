"""`notice-lens pairs table`: wrong rows stop it, or are left out and counted."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

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
