"""The command line: what commands make, print and say when they fail, and that they go on where they were stopped."""

import json
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

from notice_lens import HookedBLIP, MinimalPairs, __version__
from notice_lens.circuits import important_heads
from notice_lens.cli.commands import main
from notice_lens.cli.study import make_folder
from notice_lens.pairs import mini_world
from notice_lens.patching.runner import SweepRunner
from notice_lens.patching.store.format import read

HEAVY = ("torch", "transformers", "transformer_lens", "xarray", "plotly", "pandas", "datasets", "scipy")
MEMORY = "20000000"


def ran(*arguments: Any) -> Any:
    """A command that ends well."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


def said(*arguments: Any, code: int = 1) -> str:
    """What a command that fails says: one message, and nothing on the standard output."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pairs") / "states"
    ran("pairs", "mini-world", "--task", "states", "-n", 16, "--out", folder)
    return folder


@pytest.fixture(scope="module")
def patched(pairs, tmp_path_factory) -> tuple[Path, Any]:
    """The folder that `patch` wrote, and what it printed."""
    out = tmp_path_factory.mktemp("patched") / "new folder"
    options = ["--corruption", "image", "--corruption", "text", "--shown", 3, "--memory", MEMORY]
    return out, ran("patch", "mini", pairs, "--out", out, *options)


# What commands make


def test_patch_keeps_its_contract(patched):
    out, result = patched
    assert {path.name for path in out.iterdir()} == {"conditions", "report", "tables", "report.html"}
    assert {path.name for path in (out / "conditions").iterdir()} == {
        f"states, {corruption}{which}.zarr" for corruption in ("image", "text") for which in ("", ", all positions")
    }
    lines = result.stdout.strip().splitlines()
    assert lines[-1] == f"report: {(out / 'report.html').resolve()}"
    assert any(line.startswith("Strongest: L") for line in lines)
    assert "patching text.cross_attn on" in result.stderr
    assert "patching text.cross_attn on" not in result.stdout
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "notice-lens mini" in page
    assert "world/weights" not in page, "where this machine keeps the package is nobody's business"
    assert len(page.encode()) < 12e6 / 3


def test_tables_have_each_head_of_each_condition(patched):
    out, _ = patched
    tables = {path.name: pd.read_csv(path) for path in (out / "tables").iterdir()}
    assert set(tables) == {"heads.csv", "heads_all_positions.csv", "labels.csv", "universal.csv"}
    for name in ("heads.csv", "heads_all_positions.csv"):
        assert tables[name].groupby("condition").size().to_dict() == {"states, image": 24, "states, text": 24}
    assert len(tables["universal.csv"]) == 24
    assert list(tables["labels.csv"].columns[:5]) == ["task", "layer", "head", "label", "reason"]


def test_effects_are_read_at_one_role_and_checked_at_all_positions(patched, pairs):
    """The two tables are those of two sweeps: at the correct answer's word, and at all positions at once."""
    out, _ = patched
    kept = MinimalPairs.load(pairs)
    index = json.loads((out / "report" / "report.json").read_text(encoding="utf-8"))
    notes = [note for note in index["notes"] if "all positions" in note]
    assert [note.partition(", as a check")[0] for note in notes] == ["states, image", "states, text"]
    assert all(re.search(r"at once: \d+ significant, \d+ at 'correct', \d+ at both; strongest L\d", n) for n in notes)
    swept = read(out / "conditions" / "states, image, all positions.zarr")
    assert "role" not in swept.logit_diff_change.dims
    assert swept.sizes["pair"] <= len(kept)
    frame = pd.read_csv(out / "tables" / "heads_all_positions.csv").query("condition == 'states, image'")
    again = important_heads(swept, role="all")
    assert frame.effect.tolist() == pytest.approx(again.effect.values.ravel().tolist())


def test_a_second_run_sweeps_nothing_and_ends_with_the_same_tables(patched, pairs, monkeypatch):
    out, _ = patched
    before = {path.name: path.read_text() for path in (out / "tables").iterdir()}

    computed = SweepRunner.compute_batch

    def unstored(own: SweepRunner, *others: Any) -> Any:
        assert own.prepared.options.store is None, "every sweep of the study is done; heads are cut anew"
        return computed(own, *others)

    monkeypatch.setattr(SweepRunner, "compute_batch", unstored)
    options = ["--corruption", "image", "--corruption", "text", "--shown", 3, "--memory", MEMORY, "--json"]
    result = ran("patch", "mini", pairs, "--out", out, *options)
    assert {path.name: path.read_text() for path in (out / "tables").iterdir()} == before
    found = json.loads(result.stdout)
    assert set(found) == {"findings", "conditions", "universal", "null_expected", "null_p", "report"}
    assert set(found["conditions"]) == {"states, image", "states, text"}
    said = {"pairs", "clusters", "share_of", "significant", "two_sigma"}
    assert set(found["conditions"]["states, image"]) == said
    assert result.stderr == ""


@pytest.mark.large
def test_a_study_in_parts_ends_with_the_same_tables(patched, pairs, tmp_path):
    """Three parts in any order, then the command without --part: as one run, but for digits that rounding decides."""
    out, options = tmp_path / "parted", ["--corruption", "image", "--shown", 3, "--memory", MEMORY]
    for part in ("3/3", "1/3"):
        said_of_part = ran("patch", "mini", pairs, "--out", out, "--part", part, *options).stdout
        assert said_of_part.startswith(f"part {part[0]} of 3 is done; when all 3 are")
    assert not (out / "tables").exists()
    assert "lacks 1 of 3 parts: 1; run part=(1, 3)" in said("patch", "mini", pairs, "--out", out, *options)
    assert json.loads(ran("patch", "mini", pairs, "--out", out, "--part", "2/3", "--json", *options).stdout) == {
        "part": 2, "of": 3,
    }  # fmt: skip
    ran("patch", "mini", pairs, "--out", out, *options)
    mine, whole = (
        pd.read_csv(one / "tables" / "heads.csv").query("condition == 'states, image'") for one in (out, patched[0])
    )
    assert mine["effect"].tolist() == pytest.approx(whole["effect"].tolist(), abs=1e-5)
    assert (out / "report.html").is_file()
    assert "'4/3' is no part; expected one such as 1/8" in said(
        "patch", "mini", pairs, "--out", out, "--part", "4/3", code=2
    )


def test_report_needs_the_folder_alone(patched, tmp_path):
    """Neither model nor pairs: the sweeps are not even there."""
    folder = tmp_path / "moved"
    shutil.copytree(patched[0] / "report", folder / "report")
    assert ran("report", folder).stdout.strip() == str(folder / "report.html")
    ran("report", folder, "--out", tmp_path / "else" / "page.html")
    first, second = (folder / "report.html").read_text(), (tmp_path / "else" / "page.html").read_text()
    assert first == second == (patched[0] / "report.html").read_text()


def test_pairs_are_shown(pairs):
    assert "16" in ran("pairs", "show", pairs).stdout
    found = json.loads(ran("pairs", "show", pairs, "--json").stdout)
    assert (found["pairs"], found["tasks"]) == (16, {"states": 16})


def test_info():
    assert "text: 3 layers x 8 heads" in ran("info").stdout
    assert "from notice-lens mini" in ran("info", "mini").stdout
    found = json.loads(ran("info", "--json").stdout)
    assert found["stacks"]["text"] == {"layers": 3, "heads": 8, "d_model": found["stacks"]["vision"]["d_model"]}


def test_the_mini_models_name_is_no_path(mini):
    assert mini.cfg.name_or_path == "notice-lens mini"
    assert "notice-lens mini" in repr(mini)


def test_pairs_of_a_table_of_ones_own(pairs, tmp_path):
    MinimalPairs.load(pairs)[0].clean_image.save(tmp_path / "one.png")
    MinimalPairs.load(pairs)[0].corrupt_image.save(tmp_path / "two.png")
    row = "id,task,clean_image,corrupt_image,clean_prompt,correct_answer,incorrect_answer\n"
    (tmp_path / "own.csv").write_text(row + "a,own,one.png,two.png,is this circle red or green?,red,green\n")
    assert "1 pair" in ran("pairs", "table", tmp_path / "own.csv", "--out", tmp_path / "own").stdout
    assert "there already" in said("pairs", "table", tmp_path / "own.csv", "--out", tmp_path / "own")
    ran("pairs", "table", tmp_path / "own.csv", "--out", tmp_path / "own", "--overwrite")


# Help, imports and exit codes

COMMANDS = [[], ["demo"], ["pairs"], ["pairs", "svo"], ["patch"], ["report"], ["info"], ["replicate"]]
HELP = """
import sys
from notice_lens.cli.commands import main
from notice_lens.cli.study import make_folder
for command in {commands!r}:
    try:
        main([*command, "--help"])
    except SystemExit as ended:
        assert ended.code == 0, command
heavy = [name for name in {heavy!r} if name in sys.modules]
assert not heavy, heavy
"""


def test_help_of_every_command_is_quick_and_imports_nothing_heavy():
    """In processor time: a busy machine takes longer, and that says nothing of us."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    code = HELP.format(commands=COMMANDS, heavy=HEAVY)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 1, "all of them together"
    for word in ("demo", "pairs", "patch", "report", "info", "replicate"):
        assert word in ended.stdout


def test_version():
    assert ran("--version").stdout == f"notice-lens, version {__version__}\n"


def test_what_the_command_line_gets_wrong_is_exit_code_2(pairs, tmp_path):
    assert "No such command 'dmo'" in said("dmo", code=2)
    assert "--pairs" in said("demo", "--pairs", "3", "--out", tmp_path, code=2)
    assert "does not exist" in said("patch", "mini", tmp_path / "none", "--out", tmp_path, code=2)
    assert "'image', 'text', 'noise'" in said("patch", "mini", pairs, "--out", tmp_path, "--corruption", "txt", code=2)


WRONG = [
    (["--site", "text.cross_atn"], "cross_attn"),
    (["--site", "txt.cross_attn"], "text"),
    (["--site", "vision.attn"], "roles are words of the question"),
    (["--site", "text.mlp_out"], "has no heads"),
    (["--role", "corect"], "did you mean 'correct'?"),
    (["--at-least", "9"], "1 to the 2 conditions"),
    (["--corruption", "noise"], "noise is a baseline"),
    (["--device", "warp"], "device 'warp' cannot be used here"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[" ".join(options) for options, _ in WRONG])
def test_what_cannot_be_is_said_before_anything_runs(pairs, tmp_path, monkeypatch, options, message):
    monkeypatch.setattr(SweepRunner, "run", None)
    out = said("patch", "mini", pairs, "--out", tmp_path / "out", "--quiet", *options)
    assert message in out
    assert out.count("notice-lens:") == 1


def test_models_and_folders_that_are_not_there(pairs, tmp_path):
    assert "no such folder" in said("patch", tmp_path / "model", pairs, "--out", tmp_path / "out")
    assert "cannot load 'nobody/nothing'" in said("info", "nobody/nothing")
    assert "report.json" in said("report", tmp_path)
    (tmp_path / "file").write_text("in the way")
    blocked = tmp_path / "file" / "demo"
    assert f"cannot write to {blocked / 'blip'}" in said("demo", "--out", blocked)


def test_other_choices_do_not_overwrite_an_earlier_run(patched, pairs):
    out, _ = patched
    before = (out / "tables" / "heads.csv").read_text()
    wrong = said("patch", "mini", pairs, "--out", out, "--seed", 1, "--corruption", "image", "--quiet")
    assert "states, image.zarr is the store of another sweep: seed is 0 there and 1 here; name another folder" in wrong
    assert len(wrong.splitlines()) == 1
    assert (out / "tables" / "heads.csv").read_text() == before


def taken_report(out: Path) -> None:
    (out / "report").mkdir()
    (out / "report" / "report.json").write_text('{"format": 1, "title": "Q3"}')


def taken_store(out: Path) -> None:
    (out / "conditions" / "states, text.zarr").mkdir(parents=True)
    (out / "conditions" / "states, text.zarr" / "notes.txt").write_text("mine")


def taken_check(out: Path) -> None:
    (out / "conditions").mkdir(parents=True)
    (out / "conditions" / "states, text, all positions.zarr").write_text("mine")


def taken_tables(out: Path) -> None:
    (out / "tables").write_text("mine")


def taken_page(out: Path) -> None:
    (out / "report.html").mkdir()


TAKEN = {
    taken_report: "report holds something that is not known to be a report's data",
    taken_store: "states, text.zarr exists and is not a store of a sweep",
    taken_check: "states, text, all positions.zarr exists and is not a store of a sweep",
    taken_tables: "tables is a file",
    taken_page: "report.html is a folder",
}


@pytest.mark.parametrize("take", TAKEN)
def test_an_out_that_is_taken_is_said_before_any_sweep(pairs, tmp_path, monkeypatch, take):
    monkeypatch.setattr(SweepRunner, "run", None)
    take(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    wrong = said("patch", "mini", pairs, "--out", tmp_path, "--quiet")
    assert TAKEN[take] in wrong
    assert len(wrong.splitlines()) == 1
    assert {path: path.read_bytes() for path in before} == before


OTHER_RUNS = {
    "--direction noise": "direction is 'denoise' there and 'noise' here",
    "--site text.attn": "sites[0].activation is 'cross_attn.hook_z' there and 'attn.hook_z' here",
    "--limit 9": "pair.labels has ",
}


@pytest.mark.parametrize("options", OTHER_RUNS)
def test_an_out_of_another_run_is_said_before_any_sweep(patched, pairs, monkeypatch, options):
    monkeypatch.setattr(SweepRunner, "run", None)
    out, _ = patched
    wrong = said("patch", "mini", pairs, "--out", out, "--quiet", "--corruption", "text", *options.split())
    assert "is the store of another sweep: " in wrong
    assert OTHER_RUNS[options] in wrong
    assert "name another folder" in wrong
    assert len(wrong.splitlines()) == 1


def test_a_probe_takes_nobodys_file(pairs, tmp_path):
    (tmp_path / ".notice-lens").write_text("mine")
    make_folder(tmp_path)
    assert (tmp_path / ".notice-lens").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_too_few_pairs(pairs, tmp_path):
    wrong = said("patch", "mini", _unanswerable(tmp_path), "--out", tmp_path / "out", "--quiet")
    assert "no condition is left to study" in wrong
    assert "the model answers 0 of 3 pairs as expected" in wrong


def _unanswerable(folder: Path) -> Path:
    """Pairs whose right answer is called wrong."""
    drawn = mini_world("states", 3, seed=2)
    swapped = {"correct_answer": drawn["incorrect_answer"], "incorrect_answer": drawn["correct_answer"]}
    for column, values in swapped.items():
        drawn = drawn.with_column(column, values)
    drawn.save(folder / "wrong")
    return folder / "wrong"


def test_ctrl_c_is_exit_code_130(pairs, tmp_path, monkeypatch):
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SweepRunner, "run", stopped)
    wrong = said("patch", "mini", pairs, "--out", tmp_path / "out", "--quiet", code=130)
    assert wrong.splitlines()[-1] == "stopped; finished work is kept, and the same command resumes from there"
    monkeypatch.setattr(HookedBLIP, "mini", stopped)
    assert said("info", code=130) == "stopped\n"


KILLED = """
import os, signal, sys
from notice_lens.cli.commands import main
from notice_lens.cli.study import make_folder
from notice_lens.patching.store.store import Store
write, seen = Store.write, [0]

def once(*arguments):
    seen[0] += 1
    if seen[0] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(*arguments)

Store.write = once
main(sys.argv[1:])
"""


@pytest.mark.large
def test_a_patch_that_was_killed_goes_on_and_ends_with_the_same_tables(pairs, tmp_path):
    options = ["--corruption", "image", "--limit", "6", "--memory", "4000000", "--quiet", "--shown", "1"]

    def command(name: str) -> list[str]:
        return ["patch", "mini", str(pairs), "--out", str(tmp_path / name), *options]

    killed = [sys.executable, "-c", KILLED, *command("killed")]
    ended = subprocess.run(killed, capture_output=True, text=True, timeout=300)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not (tmp_path / "killed" / "tables").exists()
    done = [path.name for path in (tmp_path / "killed" / "conditions").iterdir() if path.suffix == ".zarr"]
    assert done, "it was in the middle of its sweeps"
    for name in ("killed", "unbroken"):
        ran(*command(name))
    tables = [
        {path.name: path.read_text() for path in (tmp_path / name / "tables").iterdir()}
        for name in ("killed", "unbroken")
    ]
    assert tables[0] == tables[1]
