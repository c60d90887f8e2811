"""Hostile command lines: one message that names what is wrong, and never a fault of the program dressed up as one."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from notice_lens import HookedBLIP, patching
from notice_lens.cli.commands import main
from notice_lens.cli.study import ByteSize
from notice_lens.files import sealed
from notice_lens.models.describe import CheckReport, CheckResult
from notice_lens.pairs import mini_world
from notice_lens.study import Choices
from open_questions import open_questions

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n"


def failed(*arguments: Any, code: int = 1, charset: str = "utf-8") -> str:
    """What a command that fails says on the error stream."""
    ended = CliRunner(charset=charset).invoke(main, [str(argument) for argument in arguments])
    assert ended.exit_code == code, ended.output
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert "Aborted" not in ended.stderr
    return ended.stderr


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return mini_world("states", 2).save(tmp_path_factory.mktemp("saved") / "pairs")


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """A finished study."""
    from notice_lens.study import run_study

    out = tmp_path_factory.mktemp("results")
    choices = Choices(corruptions=("image",), filtered=False, shown=1)
    run_study(HookedBLIP.mini(), {"states": mini_world("states", 2)}, out, choices, progress=False)
    return out


def _with(**changes: Any) -> Any:
    """JSON with other values; None takes a key out."""

    def change(content: bytes) -> bytes:
        values = {**json.loads(content), **changes}
        kept = {name: value for name, value in values.items() if name not in changes or value is not None}
        return json.dumps(kept).encode()

    return change


def _resealed(**changes: Any) -> Any:
    """The same with a checksum that fits."""
    return lambda content: json.dumps(sealed(json.loads(_with(sha256=None, **changes)(content)))).encode()


BROKEN_PAIRS = {
    "no manifest": ("manifest.json", b"{}", "'builder'"),
    "empty manifest": ("manifest.json", b"", "Expecting value"),
    "a list": ("manifest.json", b"[1]", "expected a JSON object, got list"),
    "no steps": ("manifest.json", _with(steps=None), "'steps'"),
    "steps are a number": ("manifest.json", _with(steps=3), "'steps' is 3; expected a list"),
    "steps are numbers": ("manifest.json", _with(steps=[1]), "'steps'"),
    "dropped is a list": ("manifest.json", _with(dropped=["a"]), "'dropped' is ['a']"),
    "dropped counts are text": ("manifest.json", _with(dropped={"a": "x"}), "'a'"),
    "files are a list": ("manifest.json", _with(files=["pairs.arrow"]), "'files'"),
    "digests are numbers": ("manifest.json", _with(files={"pairs.arrow": 1}), "'files'"),
    "an unknown key": ("manifest.json", _with(zzz=1), "unknown 'zzz'"),
    "too deep": ("manifest.json", b"[" * 100_000, "recursion"),
    "latin": ("manifest.json", '{"builder": "é"}'.encode("latin-1"), "utf-8"),
    "cut rows": ("pairs.arrow", lambda content: content[: len(content) // 2], "bytes"),
    "empty rows": ("pairs.arrow", b"", "schema"),
    "a pointer": ("pairs.arrow", LFS, "bytes"),
    "no dropped": ("dropped.arrow", None, "No such file"),
    "empty dropped": ("dropped.arrow", b"", "schema"),
}


@pytest.mark.parametrize(("file", "content", "said"), BROKEN_PAIRS.values(), ids=list(BROKEN_PAIRS))
def test_a_broken_folder_of_pairs_is_named_with_its_file(saved, tmp_path, file, content, said):
    """Of version 0.1, which wrote no checksums: what is read is believed, so reading has to name what is wrong."""
    folder = _broken(_without_checksums(saved, tmp_path / "old"), tmp_path / "pairs", file, content)
    for command in (["pairs", "show", folder], ["patch", "mini", folder, "--out", tmp_path / "out"]):
        message = failed(*command)
        assert message.startswith(f"notice-lens: {folder / file} cannot be read: ")
        assert said in message
        assert message.count("\n") == 1


@pytest.mark.parametrize("broken", [name for name, (file, *_) in BROKEN_PAIRS.items() if file.endswith(".arrow")])
def test_checksums_name_the_broken_file_before_it_is_read(saved, tmp_path, broken):
    file, content, _ = BROKEN_PAIRS[broken]
    folder = _broken(saved, tmp_path / "pairs", file, content)
    said = "is missing; was all of the folder copied?" if content is None else "is damaged: its checksum does not fit"
    for command in (["pairs", "show", folder], ["patch", "mini", folder, "--out", tmp_path / "out"]):
        message = failed(*command)
        assert message.startswith(f"notice-lens: {folder / file} {said}")
        assert message.count("\n") == 1


def _without_checksums(saved: Path, folder: Path) -> Path:
    """A copy as version 0.1 wrote it."""
    return _broken(saved, folder, "manifest.json", _with(files=None, sha256=None))


def _broken(good: Path, folder: Path, file: str, content: Any) -> Path:
    """A copy with another file, or without it."""
    shutil.copytree(good, folder)
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content if isinstance(content, bytes) else content((folder / file).read_bytes()))
    return folder


def test_rows_of_other_columns_or_types_are_named(saved, tmp_path):
    import pyarrow as pa
    from datasets import Dataset

    columns = Dataset.from_file(str(saved / "pairs.arrow")).column_names
    for number, (given, said) in enumerate([(["a"], "no column 'id'"), (columns, "'id' is of another type")]):
        folder = _without_checksums(saved, tmp_path / str(number))
        table = Dataset.from_dict({name: [1, 2] for name in given}).data.table
        with pa.OSFile(str(folder / "pairs.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        assert said in failed("pairs", "show", folder)


EDITED, GONE = "is damaged or was edited", "is missing; was all of the folder copied?"
BROKEN_REPORTS = {
    "empty": ("report.json", b"", "report.json cannot be read: it is cut off or not JSON"),
    "null": ("report.json", b"null", "report.json cannot be read: expected a JSON object, got NoneType"),
    "another format": ("report.json", _with(format=99), "the format 99"),
    "edited by hand": ("report.json", _with(title="mine"), EDITED),
    "without its checksum": ("report.json", _with(sha256=None), EDITED),
    "no conditions": ("report.json", _resealed(conditions=None), "it has no 'conditions'"),
    "conditions are a number": ("report.json", _resealed(conditions=3), "'conditions' is 3; expected a list"),
    "an empty condition": ("report.json", _resealed(conditions=[{}]), "it has no"),
    "labels are numbers": ("report.json", _resealed(labels=[1]), "JSON objects"),
    "settings are a list": ("report.json", _resealed(settings=[]), "'settings' is []; expected a JSON object"),
    "files are a list": ("report.json", _resealed(files=[]), "'files' is []; expected a JSON object"),
    "no word of maps": ("report.json", _resealed(attention=None), "it has no 'attention'"),
    "no labels of maps": ("report.json", _resealed(attention={}), "it has no 'labels'"),
    "empty maps": ("attention.npz", b"", "attention.npz is damaged"),
    "cut maps": ("attention.npz", lambda content: content[:200], "attention.npz is damaged"),
    "no maps": ("attention.npz", None, f"attention.npz {GONE}"),
    "no picture": ("pictures/0000-clean.png", None, f"pictures/0000-clean.png {GONE}"),
}


@pytest.mark.parametrize(("file", "content", "said"), BROKEN_REPORTS.values(), ids=list(BROKEN_REPORTS))
def test_a_broken_report_is_named_with_its_file(results, tmp_path, file, content, said):
    _broken(results / "report", tmp_path / "report", file, content)
    message = failed("report", tmp_path)
    assert said in message
    assert str(tmp_path / "report") in message
    assert message.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"PK", LFS], ids=["empty", "cut", "a pointer"])
def test_maps_that_fit_their_checksum_and_cannot_be_read_are_named(results, tmp_path, content):
    folder = _broken(results / "report", tmp_path / "report", "attention.npz", content)
    record = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    files = {**record["files"], "attention.npz": hashlib.sha256(content).hexdigest()}
    (folder / "report.json").write_bytes(_resealed(files=files)((folder / "report.json").read_bytes()))
    assert "attention.npz cannot be read" in failed("report", tmp_path)


# Whose fault an error is


def _fault(error: Exception) -> Callable[..., Any]:
    def raising(*_: Any, **__: Any) -> None:
        raise error

    return raising


FAULTS = {
    "type": TypeError("unsupported operand"),
    "attribute": AttributeError("no attribute 'x'"),
    "assertion": AssertionError(),
    "of a library": ValueError("operands could not be broadcast together"),
    "runtime": RuntimeError("a tensor of another device"),
    "index": IndexError("list index out of range"),
    "end of file": EOFError(),
}


@pytest.mark.parametrize("error", FAULTS.values(), ids=list(FAULTS))
def test_a_fault_of_the_program_is_never_called_one_of_the_user(monkeypatch, error):
    """Raised out of this file, so not on purpose by the package."""
    monkeypatch.setattr(HookedBLIP, "mini", _fault(error))
    said = failed("info", code=3)
    assert f"unexpected {type(error).__name__}" in said
    assert "models/by_name.py:" in said
    assert "--debug" in said
    shown = CliRunner().invoke(main, ["info", "--debug"])
    assert shown.exit_code == 3
    assert "Traceback (most recent call last)" in shown.stderr
    assert "in raising" in shown.stderr


def test_debug_shows_where_the_users_error_came_from(tmp_path):
    shown = CliRunner().invoke(main, ["report", str(tmp_path), "--debug"])
    assert shown.exit_code == 1
    assert "Traceback" in shown.stderr
    assert shown.stderr.splitlines()[-1].startswith(f"notice-lens: {tmp_path} has no report.json")


def test_what_the_system_says_is_the_users_and_names_the_file(monkeypatch, tmp_path):
    monkeypatch.setattr(HookedBLIP, "mini", _fault(PermissionError(13, "Permission denied", str(tmp_path / "x"))))
    assert failed("info") == f"notice-lens: {tmp_path / 'x'}: Permission denied\n"
    monkeypatch.setattr(HookedBLIP, "mini", _fault(MemoryError()))
    assert "out of memory" in failed("info")
    assert "--memory" in failed("info")


def test_a_self_test_that_fails_is_exit_code_1(monkeypatch):
    report = CheckReport((CheckResult("rows sum to one", np.nan, 1e-5),))
    monkeypatch.setattr(HookedBLIP, "check", lambda _: report)
    for options in ([], ["--json"]):
        ended = CliRunner().invoke(main, ["info", *options])
        assert ended.exit_code == 1
        assert "FAIL" in ended.stdout
    assert json.loads(ended.stdout)["passed"] is False


# What cannot work is said before the work

REFUSED = [
    ["--seed", "-1"], ["--seed", "1e3"], ["--seed", str(2**70)], ["--memory", "0"], ["--memory", "lots"],
    ["--memory", "-4GB"], ["--memory", "4 parsecs"], ["--memory", "nan"], ["--at-least", "0"], ["--at-least", "-2"],
    ["--limit", "1"], ["--smallest-effect", "-0.1"], ["--smallest-effect", "inf"], ["--shown", "-1"],
    ["--out", ""], ["--out", " "],
]  # fmt: skip


@pytest.mark.parametrize("options", REFUSED, ids=" ".join)
def test_numbers_and_names_are_checked_by_the_command_line(saved, tmp_path, options):
    said = failed("patch", "mini", saved, "--out", tmp_path / "out", *options, code=2)
    assert f"Invalid value for '{options[0]}'" in said
    assert not (tmp_path / "out").exists()


def test_sizes_have_units():
    def size(text: str) -> int:
        return ByteSize().convert(text, None, None)

    assert [size("4GB"), size("500 mb"), size("2GiB"), size("1.5k"), size("20000000")] == [
        4 * 10**9, 500 * 10**6, 2 * 2**30, 1500, 20_000_000
    ]  # fmt: skip


@pytest.mark.parametrize("inside", [".", "x", "../pairs/y", "manifest.json/z"])
def test_results_are_not_written_among_the_pairs(saved, monkeypatch, inside):
    monkeypatch.setattr("notice_lens.cli.commands.load_model", _fault(AssertionError("no work is done")))
    before = sorted(path.name for path in saved.iterdir())
    said = failed("patch", "mini", saved, "--out", saved / inside)
    assert f"lies in {saved}, which is read; choose a folder outside" in said
    assert sorted(path.name for path in saved.iterdir()) == before


def test_a_taken_folder_is_said_before_pairs_are_made(saved, tmp_path, monkeypatch):
    monkeypatch.setattr("notice_lens.pairs.mini_world", _fault(AssertionError("no work is done")))
    assert "--overwrite" in failed("pairs", "mini-world", "--out", saved)
    (tmp_path / "mine.txt").write_text("mine")
    assert "never replaced" in failed("pairs", "mini-world", "--out", tmp_path, "--overwrite")
    said = failed("pairs", "mini-world", "--out", tmp_path / "mine.txt" / "pairs")
    assert f"cannot write to {tmp_path / 'mine.txt'}" in said


@pytest.mark.parametrize(
    "make", [["svo", "{}/list.csv"], ["mit-states"], ["faces"], ["table", "{}/list.csv"]], ids=" ".join
)
def test_every_maker_of_pairs_says_before_its_work_that_the_folder_is_taken(saved, tmp_path, monkeypatch, make):
    (tmp_path / "list.csv").write_text("id")
    builders = ("svo_probes", "mit_states", "facial_expressions")
    for builder in builders:
        monkeypatch.setattr(f"notice_lens.pairs.{builder}", _fault(AssertionError("no work is done")))
    monkeypatch.setattr("notice_lens.pairs.MinimalPairs.from_csv", _fault(AssertionError("no work is done")))
    folders = [] if make[0] == "table" else [tmp_path]
    command = ["pairs", *(part.format(tmp_path) for part in make), *folders, "--out", saved]
    assert "--overwrite" in failed(*command)


def test_pairs_with_something_beside_them_are_not_replaced(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "pairs")
    (folder / "mine.txt").write_text("mine")
    assert "never replaced" in failed("pairs", "mini-world", "-n", 1, "--out", folder, "--overwrite")
    assert (folder / "mine.txt").read_text() == "mine"


def test_no_pairs_are_not_saved(tmp_path):
    header = "id,task,clean_image,corrupt_image,clean_prompt,correct_answer,incorrect_answer\n"
    (tmp_path / "none.csv").write_text(header)
    said = failed("pairs", "table", tmp_path / "none.csv", "--out", tmp_path / "saved")
    assert "0 pairs are left, so nothing is saved" in said
    assert not (tmp_path / "saved").exists()


def test_probing_a_folder_touches_nothing_in_it(saved, tmp_path, monkeypatch):
    (tmp_path / ".notice-lens").write_text("mine")
    monkeypatch.setattr(patching, "patch_heads", None)
    failed("patch", "mini", saved, "--out", tmp_path, "--role", "none such")
    assert (tmp_path / ".notice-lens").read_text() == "mine"


# Terminals


@pytest.mark.parametrize("charset", ["latin-1", "cp1252", "cp437"])
def test_a_terminal_without_the_characters_gets_others(saved, tmp_path, monkeypatch, charset):
    monkeypatch.setattr("notice_lens.study.findings.findings", lambda data: ["L0.H0 \N{MINUS SIGN}1.0 % \N{SNOWMAN}"])
    open_questions(2).save(tmp_path / "pairs")
    command = [
        "patch",
        "mini",
        tmp_path / "pairs",
        "--out",
        tmp_path / "out",
        "--unfiltered",
        "--shown",
        "0",
        "--quiet",
    ]
    ended = CliRunner(charset=charset).invoke(main, list(map(str, command)))
    assert ended.exit_code == 0, ended.output
    assert "L0.H0 ?1.0 % ?" in ended.stdout


def test_a_closed_pipe_ends_without_a_traceback(saved):
    environment = {**os.environ, "COLUMNS": "1", "PYTHONIOENCODING": "ascii"}
    environment.pop("HOME", None)
    command = [sys.executable, "-c", "from notice_lens.cli.commands import main; main()", "pairs", "show", str(saved)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read().decode()
    assert process.returncode == 1
    assert "Traceback" not in said


def test_slips_in_the_names_of_models_and_pairs_are_named_before_anything_is_fetched(tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("clean_image,corrupt_image\n")
    out = ["--out", str(tmp_path / "out")]
    found = CliRunner().invoke(main, ["patch", "mini", str(table), *out])
    assert found.exit_code == 1
    assert f"pairs.csv is a file; expected a folder of saved pairs, as `notice-lens pairs table {table}" in found.stderr
    mini_world("states", 2).save(tmp_path / "pairs")
    for slip, meant in (("mini_llava", "mini-llava"), ("minni", "mini"), ("mini-lava", "mini-llava")):
        found = CliRunner().invoke(main, ["patch", slip, str(tmp_path / "pairs"), *out])
        assert found.exit_code == 1
        assert f"cannot load {slip!r}: no such folder; did you mean {meant!r}, which is bundled?" in found.stderr
