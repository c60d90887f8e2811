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
    assert "columns are missing: task, correct_answer" in CliRunner().invoke(main, asked).stderr
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
