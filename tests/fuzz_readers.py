"""Fuzz every reader of files that others write: damaged bytes and damaged values end in our errors, or in a result.

    python tests/fuzz_readers.py --seconds 3600            # every reader, an hour
    python tests/fuzz_readers.py --only masks --case 1723  # one case again, with its traceback

1. A target makes valid files in a folder once. A case copies them, damages one of them (its bytes, or a value of its
   JSON), and calls the reader. Case n of a target is the same in every run.
2. A worker process runs cases one after the other and writes each number down first. Its parent watches: a worker that
   dies has crashed, one that stays at a case has hung; either is a finding, and the next worker goes on behind it.
3. An exception is ours where a `raise` in the package raised it, with a message. Everything else is a finding: what a
   library or Python itself raises tells a user nothing about their file.
"""

import ast
import linecache
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import click

from fuzz_damage import damage
from fuzz_targets import TARGETS, Target

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

PACKAGE = "notice_lens"
HANG_SECONDS = 30
MEMORY = 6 << 30
"""Bytes of address space beyond what a worker starts with: what asks for more is a finding."""
OURS = (ValueError, KeyError, TypeError, IndexError, OSError)


@cache
def _raises(file: str) -> tuple[tuple[int, int], ...]:
    """First and last line of every `raise` in a file."""
    tree = ast.parse("".join(linecache.getlines(file)))
    return tuple((n.lineno, n.end_lineno or n.lineno) for n in ast.walk(tree) if isinstance(n, ast.Raise))


def is_ours(error: BaseException) -> bool:
    """Whether a `raise` of the package raised it, with a message."""
    if isinstance(error, FileNotFoundError) and error.filename:
        return True  # Python's own message names the file
    if not isinstance(error, OURS) or not str(error).strip("'\" "):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    if PACKAGE not in Path(last.filename).parts or last.lineno is None:
        return False
    return any(first <= last.lineno <= end for first, end in _raises(last.filename))


def run_case(target: Target, seeds: Path, name: str, number: int, folder: Path) -> BaseException | None:
    """Damage and read. Returns an exception that is not ours."""
    rng = random.Random(f"{name} {number}")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(seeds, folder)
    files = sorted({path for pattern in target.damaged for path in folder.glob(pattern) if path.is_file()})
    victim = rng.choice(files)
    if name in ("masks", "pictures", "regions"):
        # These are read one file at a time: only the damaged one is.
        for other in files:
            if other != victim:
                other.unlink()
    chance = rng.random()
    if chance < 0.03:
        victim.unlink()
    elif chance < 0.1:  # cut off, perhaps wholly
        victim.write_bytes(victim.read_bytes()[: rng.choice((0, 1, rng.randrange(victim.stat().st_size + 1)))])
    else:
        victim.write_bytes(damage(victim.read_bytes(), rng))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.read(folder)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return None if is_ours(error) else error
    return None


def _quiet(folder: Path) -> None:
    """Send what libraries print to nowhere, and bound the memory."""
    import resource

    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    os.chdir(folder)


def _work(name: str, seeds: str, scratch: str, start: int, until: float, at: Any, findings: Any) -> None:
    """Run cases until the time is up; in a process of its own."""
    _quiet(Path(scratch))
    number = start
    while time.time() < until:
        at.value = number
        error = run_case(TARGETS[name], Path(seeds), name, number, Path(scratch) / "case")
        if error is not None:
            text = "".join(traceback.format_exception(error))[-3000:]
            findings.put((name, number, "".join(traceback.format_exception_only(error)).strip()[:300], text))
        number += 1
    at.value = number


def fuzz(name: str, seconds: float, start: int = 0) -> tuple[int, list[tuple[str, int, str, str]]]:
    """Run the cases of a target for some seconds. Returns how many, and the findings."""
    context = multiprocessing.get_context("fork")
    findings, found = context.Queue(), []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        seeds, scratch = Path(folder) / "seeds", Path(folder) / "scratch"
        seeds.mkdir()
        scratch.mkdir()
        TARGETS[name].make(seeds)
        TARGETS[name].read(seeds)
        until, at = time.time() + seconds, context.Value("q", start)
        first = start
        while time.time() < until:
            worker = context.Process(target=_work, args=(name, str(seeds), str(scratch), start, until, at, findings))
            worker.start()
            ended = _watch(worker, at, findings, found)
            if ended:
                found.append((name, at.value, ended, ""))
            start = at.value + 1
    return start - first, found


def _watch(worker: Any, at: Any, findings: Any, found: list[tuple[str, int, str, str]]) -> str | None:
    """Wait for a worker, and collect its findings.

    Returns:
        How it ended before its time: a hang or a signal. None where it ended well.
    """
    case, since = at.value, time.time()
    while worker.is_alive() or not findings.empty():
        worker.join(0.1)
        while not findings.empty():  # a full queue would keep the worker from ending
            found.append(findings.get())
        if at.value != case or not worker.is_alive():
            case, since = at.value, time.time()
        elif time.time() - since > HANG_SECONDS:
            os.kill(worker.pid, signal.SIGKILL)
            worker.join()
            return f"no answer for {HANG_SECONDS} seconds"
    return None if worker.exitcode == 0 else f"the process ended with {worker.exitcode}"


@click.command()
@click.option("--seconds", default=60.0, help="Time for all targets together.")
@click.option("--only", multiple=True, type=click.Choice(list(TARGETS)), help="These targets alone.")
@click.option("--start", default=0, help="Number of the first case.")
@click.option("--case", type=int, help="Run this one case of --only here, with its traceback.")
def main(seconds: float, only: tuple[str, ...], start: int, case: int | None) -> None:
    """Fuzz every reader of files."""
    names = only or tuple(TARGETS)
    if case is not None:
        _again(names[0], case)
        return
    total, kinds = 0, {}
    for name in names:
        cases, found = fuzz(name, seconds / len(names), start)
        total += cases
        click.echo(f"{name}: {cases} cases, {len(found)} findings")
        for target, number, message, text in found:
            line = text.strip().splitlines()[-3:-1] if text else []
            key = (target, re.sub(r"\d+|'[^']*'|\"[^\"]*\"", "_", message)[:50], line[0].strip() if line else "")
            kinds.setdefault(key, []).append(number)
    for (target, message, where), numbers in kinds.items():
        click.echo(f"\n{target} --case {numbers[0]} ({len(numbers)} times): {message}\n    {where}")
    click.echo(f"\n{total} cases, {len(kinds)} kinds of findings")
    sys.exit(bool(kinds))


def _again(name: str, case: int) -> None:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        seeds = Path(folder) / "seeds"
        seeds.mkdir()
        TARGETS[name].make(seeds)
        error = run_case(TARGETS[name], seeds, name, case, Path(folder) / "case")
        click.echo("ours, or read" if error is None else "".join(traceback.format_exception(error)))


if __name__ == "__main__":
    main()
