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
import json
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

PACKAGE = "notice_lens"
HANG_SECONDS = 30
MEMORY = 6 << 30
"""Bytes of address space beyond what a worker starts with: what asks for more is a finding."""
OURS = (ValueError, KeyError, TypeError, IndexError, OSError)
NASTY_TEXT = (
    "", " ", "\x00", "\ud800", "é" * 300, "x" * 100_000, "../" * 40 + "etc/passwd", "/dev/null", "NaN", "null", "-1",
    "1e999", "=1+1", "\x1b[2J", "a\nb", '"', "'", "[", "{}", "0" * 5000, "\u202e", "CON", "😀",
)  # fmt: skip
NASTY_NUMBERS = (
    0,
    -1,
    1,
    2,
    255,
    2**31,
    2**63 - 1,
    2**63,
    -(2**63),
    10**30,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
)
NASTY_BYTES = (
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"[" * 5000, b'{"a":' * 2000, b"\x1f\x8b", b"PK\x03\x04",
    b"%!PS-Adobe", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", b"\r", b"\n" * 200, b'"',
    b"," * 300, b"9" * 400, b"-",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A reader and the files that it reads.

    Attributes:
        make: Writes valid files into a folder.
        read: Calls the reader on the folder, and uses what it returns.
        damaged: Glob patterns of the files that may be damaged.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    damaged: tuple[str, ...]


# --- targets ----------------------------------------------------------------------------------------------------------


def _picture(path: Path, seed: int = 0, mode: str = "RGB") -> None:
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(seed).integers(0, 255, (24, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(path)


def _rows(folder: Path) -> list[dict[str, Any]]:
    """Two rows of a table with everything that a row may have."""
    for number in range(4):
        _picture(folder / f"{number}.png", number)
    counts = {"size": [24, 16], "counts": [100, 50, 234]}
    return [
        {
            "id": f"pair-{number}", "task": "fruit", "group": "colour", "kind": "vqa",
            "clean_image": f"{2 * number}.png", "corrupt_image": f"{2 * number + 1}.png",
            "clean_prompt": "is this apple red or green?", "corrupt_prompt": "is this apple blue or black?",
            "correct_answer": "red", "incorrect_answer": "green",
            "roles": json.dumps({"noun": "apple", "correct": [14, 17]}),
            "clean_regions": json.dumps({"object": {"box": [2, 3, 8, 8], "box_format": "xywh"}, "other": counts}),
        }
        for number in range(2)
    ]  # fmt: skip


def _make_csv(folder: Path) -> None:
    import csv

    rows = _rows(folder)
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _make_jsonl(folder: Path) -> None:
    rows = [
        {**row, "roles": json.loads(row["roles"]), "clean_regions": json.loads(row["clean_regions"])}
        for row in _rows(folder)
    ]
    (folder / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))


def _use(pairs: Any) -> None:
    """Look at all that pairs hold."""
    for pair in pairs:
        repr(pair)


def _read_csv(folder: Path) -> None:
    from notice_lens import MinimalPairs

    _use(MinimalPairs.from_csv(folder / "table.csv", on_error="drop", progress=False))


def _read_jsonl(folder: Path) -> None:
    from notice_lens import MinimalPairs

    _use(MinimalPairs.from_jsonl(folder / "table.jsonl", on_error="drop", progress=False))


def _make_saved(folder: Path) -> None:
    from notice_lens import MinimalPairs

    _make_csv(folder)
    MinimalPairs.from_csv(folder / "table.csv", progress=False).save(folder / "saved")


def _read_saved(folder: Path) -> None:
    from notice_lens import MinimalPairs

    _use(MinimalPairs.load(folder / "saved"))


def _make_saved_0_1(folder: Path) -> None:
    """As version 0.1 saved them: without checksums, so that Arrow reads what is damaged."""
    _make_saved(folder)
    path = folder / "saved" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in manifest.items() if name not in ("files", "sha256")}))


def _make_masks(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    mask = np.zeros((24, 16), np.uint8)
    mask[4:12, 3:9] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    Image.fromarray(mask).convert("P").save(folder / "mask.gif")
    Image.fromarray(mask).save(folder / "mask.jpg")
    Image.fromarray(mask).save(folder / "mask.tiff")


def _read_masks(folder: Path) -> None:
    from notice_lens.pairs.regions import as_run_lengths

    for path in sorted(folder.glob("mask.*")):
        as_run_lengths(path, (24, 16))


COMPRESSED = "T3b1X6ROVJ"
"""The run lengths 100, 50, 200, 20, 14."""


def _make_regions(folder: Path) -> None:
    regions = [
        {"size": [24, 16], "counts": [100, 50, 234]},
        {"size": [24, 16], "counts": COMPRESSED},
        {"box": [2, 3, 8, 8], "box_format": "xywh"},
        [[2.0, 3.0, 8.0, 3.0, 8.0, 9.0]],
    ]
    for number, region in enumerate(regions):
        (folder / f"{number}.json").write_text(json.dumps(region))


def _read_regions(folder: Path) -> None:
    from notice_lens.pairs.regions import as_run_lengths

    for path in sorted(folder.glob("*.json")):
        try:
            region = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            continue
        try:
            as_run_lengths(region, (24, 16))
        except ValueError:
            if len(list(folder.glob("*.json"))) == 1:
                raise


def _make_pictures(folder: Path) -> None:
    for kind, mode in (("png", "RGBA"), ("jpg", "RGB"), ("gif", "P"), ("webp", "RGB"), ("bmp", "RGB"), ("tiff", "RGB")):
        _picture(folder / f"picture.{kind}", mode=mode)


def _read_pictures(folder: Path) -> None:
    from notice_lens.images import to_rgb

    for path in sorted(folder.glob("picture.*")):
        to_rgb(path)


def _make_model(folder: Path) -> None:
    from notice_lens.models.blip.random_blip import save_random_checkpoint

    save_random_checkpoint(folder / "model")


def _read_model(folder: Path) -> None:
    from notice_lens import HookedBLIP

    HookedBLIP.from_pretrained(folder / "model")


def _make_store(folder: Path) -> None:
    from made_stores import SETTINGS, effects, empty
    from notice_lens.patching.store.store import Store

    found = effects()
    with Store.open(folder / "sweep.zarr", empty(found), SETTINGS) as store:
        store.write(slice(0, 3), found.isel(pair=slice(0, 3)))


def _read_store(folder: Path) -> None:
    from made_stores import SETTINGS, effects, empty
    from notice_lens.patching.store.store import Store

    with Store.open(folder / "sweep.zarr", empty(effects()), SETTINGS) as store:
        store.load().load()


def _make_report(folder: Path) -> None:
    import made_results as made
    from notice_lens import HookedBLIP
    from notice_lens.pairs import mini_world
    from notice_lens.report.data import ReportData

    pairs = mini_world("states", 3)
    ReportData.collect(
        HookedBLIP.mini(),
        {"states, image": pairs},
        {"states, image": made.swept(pairs)},
        important={"states, image": made.important()},
        profiles={"states, image": made.profile()},
        universal=made.universal({"a": made.important(), "b": made.important(seed=1)}),
        functions=made.functions(),
        labels=made.labels(),
        progress=False,
    ).save(folder / "report")


def _read_report(folder: Path) -> None:
    from notice_lens import viz

    viz.report(folder / "report", folder / "page.html")


def _make_svo(folder: Path) -> None:
    from made_svo import Probes

    probes = Probes(folder)
    for name in range(6):
        probes.image(name)
    for number, verb in enumerate(("sit", "run", "jump")):
        probes.row("girl,sleep,beach", f"girl,{verb},beach", "verb", (2 * number, 2 * number + 1))
    probes.write()


def _read_svo(folder: Path) -> None:
    from notice_lens.models.blip.random_blip import processor
    from notice_lens.pairs import svo_probes

    svo_probes(folder / "svo_probes.csv", folder / "images", processor().tokenizer, progress=False)


def _make_faces(folder: Path) -> None:
    pixels = [" ".join(str((7 * value + number) % 256) for value in range(16)) for number in range(16)]
    rows = [f"{(0, 3, 4, 5)[number % 4]},{face},Training" for number, face in enumerate(pixels)]
    (folder / "fer2013.csv").write_text("\n".join(["emotion,pixels,Usage", *rows]))
    (folder / "raf" / "EmoLabel").mkdir(parents=True)
    (folder / "raf" / "Image").mkdir()
    names = [f"train_{number:05d}" for number in range(12)]
    for number, name in enumerate(names):
        _picture(folder / "raf" / "Image" / f"{name}.jpg", number)
    lines = [f"{name}.jpg {1 + number % 4}" for number, name in enumerate(names)]
    (folder / "raf" / "EmoLabel" / "list_patition_label.txt").write_text("\r\n".join(lines))


def _read_faces(folder: Path) -> None:
    from notice_lens.models.blip.random_blip import processor
    from notice_lens.pairs.builders.facial_expressions import build_facial_expressions

    for root in (folder / "fer2013.csv", folder / "raf"):
        if root.exists():
            build_facial_expressions(root, processor().tokenizer, progress=False)


def _make_plan(folder: Path) -> None:
    from notice_lens.study.replication import fix

    fix(PLANNED, folder)


def _read_plan(folder: Path) -> None:
    from notice_lens.study.replication import fix

    fix(PLANNED, folder)


PLANNED = {"model": "mini", "pairs": {"SVO-Probes": {"number": 4}}, "choices": {"alpha": 0.05, "names": ["a", "b"]}}


def _make_roles(folder: Path) -> None:
    (folder / "roles.json").write_text(json.dumps({"noun": "apple", "correct": [14, 17], "option": "green"}))


def _read_roles(folder: Path) -> None:
    """Roles as the cell of a table has them, and as the values that JSON holds."""
    from notice_lens.pairs.io.records import Seen, store

    cell = (folder / "roles.json").read_bytes().decode("utf-8", "surrogateescape")
    row = {**dict.fromkeys(("id", "task", "correct_answer"), "red"), "clean_prompt": "is this apple red or green?"}
    found = store({**row, "roles": cell}, 0, lambda stored: Seen("", 24, 16))
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return
    found = store({**row, "roles": value}, 0, lambda stored: Seen("", 24, 16))
    assert isinstance(found.record["roles"], list)


def _make_run_lengths(folder: Path) -> None:
    (folder / "counts").write_bytes(COMPRESSED.encode())


def _read_run_lengths(folder: Path) -> None:
    from notice_lens.pairs.regions import as_run_lengths

    as_run_lengths({"size": [24, 16], "counts": (folder / "counts").read_bytes()}, (24, 16))


TARGETS = {
    "csv": Target(_make_csv, _read_csv, ("table.csv", "*.png")),
    "jsonl": Target(_make_jsonl, _read_jsonl, ("table.jsonl",)),
    "saved": Target(_make_saved, _read_saved, ("saved/*",)),
    "saved 0.1": Target(_make_saved_0_1, _read_saved, ("saved/*",)),
    "masks": Target(_make_masks, _read_masks, ("mask.*",)),
    "regions": Target(_make_regions, _read_regions, ("*.json",)),
    "pictures": Target(_make_pictures, _read_pictures, ("picture.*",)),
    "svo": Target(_make_svo, _read_svo, ("svo_probes.csv", "images/*")),
    "roles": Target(_make_roles, _read_roles, ("roles.json",)),
    "run lengths": Target(_make_run_lengths, _read_run_lengths, ("counts",)),
    "faces": Target(_make_faces, _read_faces, ("fer2013.csv", "raf/*/*")),
    "plan": Target(_make_plan, _read_plan, ("plan.json",)),
    "config": Target(_make_model, _read_model, ("model/*.json",)),
    "model": Target(_make_model, _read_model, ("model/*",)),
    "store": Target(_make_store, _read_store, ("sweep.zarr/**/*",)),
    "report": Target(_make_report, _read_report, ("report/**/*",)),
}

# --- damage -----------------------------------------------------------------------------------------------------------


def damage(content: bytes, rng: random.Random) -> bytes:
    """The content with one to three faults: of its JSON where it is that, else of its bytes."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        try:
            content = _damaged_json(content, rng) if rng.random() < 0.7 else _damaged_bytes(content, rng)
        except (ValueError, RecursionError):  # it is no JSON
            content = _damaged_bytes(content, rng)
    return content


def _damaged_bytes(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    end = min(len(content), start + rng.choice((1, 2, 4, 16, 256, 10**9)))
    replacement = rng.choice(
        (
            b"",
            rng.choice(NASTY_BYTES),
            bytes(rng.randrange(256) for _ in range(rng.choice((1, 4, 8)))),
            content[start:end] * rng.choice((2, 2, 50)),
            str(rng.choice(NASTY_NUMBERS)).encode(),
            rng.choice(NASTY_TEXT).encode("utf-8", "surrogatepass"),
        )
    )
    return content[:start] + replacement + content[end:]


def _damaged_json(content: bytes, rng: random.Random) -> bytes:
    """One value of a JSON document, or of JSON lines, replaced, taken away, doubled or wrapped."""
    parts = content.splitlines() if b"\n{" in content[:2000] else [content]
    lines = [json.loads(part) for part in parts]
    document = {"root": lines}
    places = list(_places(document))
    parent, key = rng.choice(places)
    value = parent[key]
    choice = rng.randrange(6)
    if choice == 0:
        del parent[key]
    elif choice == 1:
        parent[key] = rng.choice(NASTY_TEXT)
    elif choice == 2:
        parent[key] = rng.choice(NASTY_NUMBERS)
    elif choice == 3:
        parent[key] = rng.choice((None, True, False, [], {}, [value], {"a": value}, [value] * 3, str(value)))
    elif choice == 4:
        other_parent, other_key = rng.choice(places)
        parent[key] = json.loads(json.dumps(other_parent[other_key]))
    elif isinstance(parent, dict):
        parent[rng.choice(NASTY_TEXT)] = value
    else:
        parent.append(value)
    root = document.get("root")
    return "\n".join(json.dumps(line) for line in (root if isinstance(root, list) else [root])).encode()


def _places(node: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """Every container with every key in it, from the root on."""
    items: Any = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in list(items)[:200]:
        yield node, key
        if depth < 12:
            yield from _places(value, depth + 1)


# --- verdicts ---------------------------------------------------------------------------------------------------------


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


# --- processes --------------------------------------------------------------------------------------------------------


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
