"""The data of a report on disk: one folder that needs nothing beside it.

report.json     conditions, pairs, statistics, settings, and the SHA-256 of itself and of every other file; it is
                written last, so a folder without it is not complete
attention.npz   maps in 8 bits
pictures/       each pair's two pictures, by number
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from notice_lens import __version__
from notice_lens.errors import one_of, reading
from notice_lens.files import check_files, check_kinds, check_seal, read_json, sealed, sha256
from notice_lens.report.data import ReportData, ReportPicture, ShownCondition, ShownPair
from notice_lens.report.plain import as_plain, from_plain, plain

FORMAT = 4
INDEX, MAPS, PICTURES = "report.json", "attention.npz", "pictures"
_LIST, _OBJECT = (list, "a list"), (dict, "a JSON object")
KINDS_OF_INDEX: dict[str, tuple[Any, str]] = {
    "title": (str, "text"), "conditions": _LIST, "pairs": _LIST, "functions": _OBJECT, "labels": _LIST, "notes": _LIST,
    "settings": _OBJECT, "files": _OBJECT, "universal": (dict | None, "a JSON object or null"),
    "attention": (dict | None, "a JSON object or null"),
}  # fmt: skip
IMAGE_KINDS = ("png", "jpeg", "webp")


def save(data: ReportData, folder: Path) -> Path:
    """Write the folder beside its place and move it there when it is complete; see `ReportData.save`."""
    folder = folder.resolve()
    check_place(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        _write(data, made)
        if folder.exists():
            folder.replace(Path(scratch) / "old")
        made.replace(folder)
    return folder


def check_place(folder: Path) -> None:
    """Raise FileExistsError where a folder may not be replaced: it is neither empty nor wholly written by `save`."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        index = _index(folder)
    except (OSError, ValueError) as error:
        raise FileExistsError(
            f"{folder} holds something that is not known to be a report's data, so it is not replaced ({error}); move "
            "it away, or choose another folder"
        ) from error
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if others := sorted(files - {INDEX, *index["files"]}):
        raise FileExistsError(
            f"{folder} holds {', '.join(others[:5])}, which no report wrote, so it is not replaced; move it away, or "
            "choose another folder"
        )


def _index(folder: Path) -> dict[str, Any]:
    """Return what `report.json` says. Raises FileNotFoundError, or ValueError where it is damaged or not ours."""
    if not (folder / INDEX).is_file():
        what = "is no folder" if not folder.is_dir() else f"has no {INDEX}, so it is no report's data, or not complete"
        raise FileNotFoundError(f"{folder} {what}; ReportData.save writes one")
    index = read_json(folder / INDEX)
    with reading(folder / INDEX):
        check_kinds(index, {})
    if "notice_lens" not in index or index.get("format") != FORMAT:
        raise ValueError(
            f"{folder / INDEX} has the format {index.get('format')!r}; notice-lens {__version__} reads {FORMAT}, which "
            "it writes itself: carry the study out anew into another folder"
        )
    check_seal(index, folder / INDEX)
    with reading(folder / INDEX):
        check_kinds(index, KINDS_OF_INDEX)
        if not all(isinstance(one, dict) for name in ("conditions", "pairs", "labels") for one in index[name]):
            raise ValueError("'conditions', 'pairs' and 'labels' hold something else than JSON objects")
    return index


def _write(data: ReportData, folder: Path) -> None:
    (folder / PICTURES).mkdir(parents=True)
    for number, pair in enumerate(data.pairs):
        for side, picture in pair.pictures.items():
            (folder / _picture(number, side, picture.kind)).write_bytes(picture.content)
    index = {
        "notice_lens": __version__,
        "format": FORMAT,
        "title": data.title,
        "conditions": [_plain_condition(condition) for condition in data.conditions],
        "pairs": [_plain_pair(pair) for pair in data.pairs],
        "universal": None if data.universal is None else as_plain(data.universal),
        "functions": {name: as_plain(one) for name, one in data.functions.items()},
        "labels": plain(data.labels),
        "curves": {name: as_plain(one) for name, one in data.curves.items()},
        "graphs": {name: as_plain(one) for name, one in data.graphs.items()},
        "notes": list(data.notes),
        "settings": plain(data.settings),
        "attention": None,
    }
    if data.attention is not None:
        labels = {str(dim): plain(data.attention[dim].values) for dim in data.attention["largest"].dims}
        index["attention"] = {
            "labels": labels,
            **{name: plain(data.attention.attrs[name]) for name in ("grid", "beside")},
        }
        arrays = {str(name): values.values for name, values in data.attention.data_vars.items()}
        np.savez_compressed(folder / MAPS, allow_pickle=False, **arrays)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    index["files"] = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    text = json.dumps(sealed(index), allow_nan=False, ensure_ascii=False)
    (folder / INDEX).write_text(text, encoding="utf-8")


def load(folder: Path) -> ReportData:
    """Read the folder; see `ReportData.load`."""
    index = _index(folder)
    check_files(folder, index["files"])
    with reading(folder / INDEX):
        data = _data(folder, index)
    return data if index["attention"] is None else replace(data, attention=_attention(folder, index["attention"]))


def _data(folder: Path, index: Mapping[str, Any]) -> ReportData:
    """Return the data of a folder without its maps, by its index."""
    stored = index["universal"]
    return ReportData(
        title=index["title"],
        conditions=tuple(map(_condition, index["conditions"])),
        pairs=tuple(_pair(folder, number, one) for number, one in enumerate(index["pairs"])),
        universal=None if stored is None else from_plain(stored),
        functions={name: from_plain(one) for name, one in index["functions"].items()},
        labels=tuple(index["labels"]),
        curves={name: from_plain(one) for name, one in index.get("curves", {}).items()},
        graphs={name: from_plain(one) for name, one in index.get("graphs", {}).items()},
        notes=tuple(index["notes"]),
        settings=index["settings"],
    )


def _picture(number: int, side: str, kind: str) -> Path:
    """Return the path of a picture; no user's text is in its name."""
    if kind not in IMAGE_KINDS:
        raise ValueError(one_of("kind of picture", kind, IMAGE_KINDS))
    return Path(PICTURES) / f"{number:04d}-{side}.{kind}"


def _plain_condition(condition: ShownCondition) -> dict[str, Any]:
    found = {each.name: getattr(condition, each.name) for each in fields(condition)}
    found |= {
        "heads": as_plain(condition.heads),
        "profile": None if condition.profile is None else as_plain(condition.profile),
    }
    return plain(found | {"by_pair": {"shape": condition.by_pair.shape, "data": condition.by_pair.ravel()}})


def _condition(stored: Mapping[str, Any]) -> ShownCondition:
    by_pair = np.array(stored["by_pair"]["data"], np.float32).reshape(stored["by_pair"]["shape"])
    read = {"heads": from_plain(stored["heads"]), "shown": tuple(stored["shown"]), "by_pair": by_pair}
    read["profile"] = None if stored["profile"] is None else from_plain(stored["profile"])
    return ShownCondition(**{**stored, **read})


def _plain_pair(pair: ShownPair) -> dict[str, Any]:
    found = {each.name: getattr(pair, each.name) for each in fields(pair)}
    return plain(found | {"pictures": {side: picture.kind for side, picture in pair.pictures.items()}})


def _pair(folder: Path, number: int, stored: Mapping[str, Any]) -> ShownPair:
    pictures = {
        side: ReportPicture((folder / _picture(number, _side(side), kind)).read_bytes(), kind)
        for side, kind in stored["pictures"].items()
    }
    spans = {
        side: {role: (span[0], span[1]) for role, span in found.items()} for side, found in stored["spans"].items()
    }
    regions = {
        side: {name: np.array(mask, bool) for name, mask in found.items()} for side, found in stored["regions"].items()
    }
    return ShownPair(**{**stored, "pictures": pictures, "spans": spans, "regions": regions})


def _side(side: str) -> str:
    if side not in ("clean", "corrupt"):
        raise ValueError(one_of("picture of a pair", side, ("clean", "corrupt")))
    return side


def _attention(folder: Path, stored: Mapping[str, Any]) -> xr.Dataset:
    path = folder / MAPS
    # Opened here: of a broken file, NumPy leaves its own open.
    with reading(path), path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        labels = {dim: np.array(each, object) if dim == "pair" else each for dim, each in stored["labels"].items()}
        parts = {name: ((*labels, "patch")[: arrays[name].ndim], arrays[name]) for name in arrays.files}
        return xr.Dataset(parts, labels, {"grid": tuple(stored["grid"]), "beside": str(stored["beside"])})
