"""`notice-lens pairs table`: wrong rows stop it, or are left out and counted."""

from pathlib import Path

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
