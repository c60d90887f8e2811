"""Parts of a sweep: each an ordinary store of its own pairs, computed anywhere; `patching.gather` joins them.

    patch_heads(model, pairs, store="sweep.zarr", part=(0, 8))        # in eight processes, on any machines
    ...
    patch_heads(model, pairs, store="sweep.zarr", part=(7, 8))
    effects = gather("sweep.zarr")                                    # as of one call without parts

The same call without `part` gathers too, and checks that the parts are those of this call.

1. A part prepares all pairs (roles, references, the amount of noise and the memory plan are those of the whole), and
   patches its own: neighbours in the order of the pairs, as many as in every other part, one more or less.
2. Its store lies in the folder of the sweep, and keeps the ids of all pairs. It is resumed as any store is.
3. Gathering checks that all parts are there and complete, and that they are of one sweep, and joins them.
"""

import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from notice_lens.patching.store import checks as store_checks
from notice_lens.patching.store import format as store_format

if TYPE_CHECKING:
    import xarray as xr

SweepPart = tuple[int, int]
"""Which part, from 0, of how many."""
_NAME = re.compile(r"part-(\d+)-of-(\d+)\.zarr")
PART_SETTING, ALL_PAIRS = "part", "all_pairs"
"""The setting in which the parts of a sweep differ, and the one that only parts have: the ids of all pairs."""


def check_part(part: Any, store: Any) -> None:
    """Raise where a part is not a number below the number of parts, or has no store."""
    if part is None:
        return
    numbers = isinstance(part, tuple | list) and len(part) == 2 and all(type(one) is int for one in part)
    if not numbers or not 0 <= part[0] < part[1]:
        raise ValueError(f"part={part!r}: expected (k, n), part k of n, counted from 0: (0, 8) to (7, 8)")
    if store is None:
        raise ValueError(f"part={part!r} needs store=..., the folder in which the parts are gathered")


def pairs_of_part(n_pairs: int, part: SweepPart | None) -> range:
    """Return the numbers of the pairs of a part; of all where there are no parts.

    Raises:
        ValueError: There are fewer pairs than parts.
    """
    if part is None:
        return range(n_pairs)
    k, n = part
    if n_pairs < n:
        raise ValueError(f"part={part!r}: there are {n_pairs} pairs; expected at most as many parts")
    return range(k * n_pairs // n, (k + 1) * n_pairs // n)


def store_of(folder: str | PathLike[str], part: SweepPart | None) -> Path:
    """Return where the store of a part lies; without parts that is the folder itself.

    Raises:
        FileExistsError: The folder is the store of a whole sweep.
    """
    folder = Path(folder)
    if part is None:
        return folder
    if (folder / "zarr.json").exists():
        raise FileExistsError(f"{folder} is the store of a whole sweep; parts need a folder of their own")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name_of(part)


def name_of(part: SweepPart) -> str:
    """Return the name of a part's store within the folder of the sweep."""
    return f"part-{part[0]:0{len(str(part[1] - 1))}}-of-{part[1]}.zarr"


def pairs_done(store: Path) -> int:
    """Return how many pairs of a part are done, while it is being written too; 0 where there is no store yet."""
    import zarr

    if not (store / "zarr.json").is_file():  # it is moved to its place when it is complete
        return 0
    return int(np.count_nonzero(zarr.open_array(store / store_format.DONE, mode="r")[...]))


def has_parts(folder: Path) -> bool:
    """Return whether a folder holds parts of a sweep."""
    return folder.is_dir() and any(_NAME.fullmatch(path.name) for path in folder.iterdir())


def divisions(folder: Path) -> list[int]:
    """Return into how many parts the stores in a folder divide a sweep; one number where they belong together."""
    found = [_NAME.fullmatch(path.name) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted({int(match[2]) for match in found if match})


def joined(folder: Path, lazy: bool = False) -> "tuple[xr.Dataset, dict[str, Any]]":
    """Return the numbers of all parts in a folder, pairs in their order, and the settings of the whole sweep.

    Args:
        folder: Of the sweep.
        lazy: Whether numbers stay on disk, as dask arrays. They are checked here all the same.

    Raises:
        FileNotFoundError: There is no such folder, or parts are missing.
        ValueError: A part is not complete, is of another sweep or damaged; or there are parts of several divisions.
    """
    import xarray as xr

    paths = _parts_in(folder)
    read = {k: _complete(path, lazy) for k, path in paths.items()}
    first = read[0][1]
    for k, (_, settings) in read.items():
        if clauses := store_checks.differences(_shared(first), _shared(settings)):
            raise ValueError(
                f"{paths[k]} is a part of another sweep than {paths[0]}: {store_checks.clauses_joined(clauses)}"
            )
    whole = xr.concat([data for data, _ in read.values()], "pair", join="exact", combine_attrs="override")
    if whole["pair"].values.tolist() != first[ALL_PAIRS]:
        raise ValueError(f"{folder}: the parts do not have the pairs of the sweep in their order")
    for name in (PART_SETTING, "rows_at_a_time", "pairs_at_a_time"):
        whole.attrs.pop(name, None)
    return whole, {name: value for name, value in _shared(first).items() if name != ALL_PAIRS}


def _parts_in(folder: Path) -> dict[int, Path]:
    """Return the stores of all parts by their numbers."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no parts of a sweep in {folder}: there is no such folder")
    if (folder / "zarr.json").exists():
        raise ValueError(f"{folder} is the store of a whole sweep, and not of parts; the call that made it reads it")
    found = {path: match for path in sorted(folder.iterdir()) if (match := _NAME.fullmatch(path.name))}
    if not found:
        raise FileNotFoundError(f"no parts of a sweep in {folder}: expected part-0-of-8.zarr and the like")
    several = divisions(folder)
    if len(several) > 1:
        raise ValueError(
            f"{folder} has parts of {' and of '.join(map(str, several))}; leave those of one division there"
        )
    by_number = {int(match[1]): path for path, match in found.items()}
    if missing := [k for k in range(several[0]) if k not in by_number]:
        raise FileNotFoundError(
            f"{folder} lacks {len(missing)} of {several[0]} parts: {store_checks.listed(missing, str)}; run "
            f"part=({missing[0]}, {several[0]})"
        )
    return dict(sorted(by_number.items()))


def _complete(path: Path, lazy: bool) -> "tuple[xr.Dataset, Mapping[str, Any]]":
    """Return the data of a part and its settings. Raises ValueError if pairs are not done yet."""
    record = store_format.read_record(path)
    arrays = store_format.open_arrays(path, record, "r")
    done = np.asarray(arrays[store_format.DONE][...])
    if not done.all():
        raise ValueError(f"{path} is not complete: {int(done.sum())} of {len(done)} pairs are done; run it again")
    return store_format.read_lazily(path) if lazy else store_format.read(path), record["settings"]


def _shared(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != PART_SETTING}
