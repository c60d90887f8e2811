"""The targets of `fuzz_readers.py`: every reader, and valid files for it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
    from notice_lens.study.presets.preset import fix

    fix(PLANNED, folder)


def _read_plan(folder: Path) -> None:
    from notice_lens.study.presets.preset import fix

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
