"""A sweep that kills itself in the middle of the work on its files; `test_store` runs it in a process of its own.

Every opening, renaming and removal of a file is announced by Python (`sys.addaudithook`), so a moment has a number, and
a killed run is the same each time. The runs are forks of this process: it has imported everything, and started nothing.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from forks import forked

EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
N_PAIRS = 7
SETTINGS = {"corruption": "image", "seed": 3}


def result() -> xr.Dataset:
    """What an unbroken sweep gives."""
    g = np.random.default_rng(0)
    effects = g.normal(size=(N_PAIRS, 2, 3)).astype("float32")
    effects[2, :, 1] = np.nan
    return xr.Dataset(
        {
            "logit_diff_change": (("pair", "layer", "head"), effects),
            "below_floor": (("pair", "layer", "head"), effects < 0),
            "noise_floor": ("pair", g.random(N_PAIRS)),
        },
        coords={"id": ("pair", [f"pair {index}" for index in range(N_PAIRS)]), "layer": [4, 7]},
        attrs={"direction": "denoise", "min_gap": 1e-3},
    )


def sweep(path: Path, log: Path) -> None:
    """Goes on with the sweep, two pairs at a time; the log gets what was done at the start, and each part begun."""
    from notice_lens.patching.store.store import Store

    whole = result()
    with Store.open(path, whole, SETTINGS) as store:
        left = np.flatnonzero(~store.done)
        note(log, {"done": np.flatnonzero(store.done).tolist()})
        for start in range(0, len(left), 2):
            rows = left[start : start + 2]
            note(log, {"begun": rows.tolist()})
            store.write(rows, whole.isel(pair=rows))


def note(log: Path, line: Any) -> None:
    with log.open("a") as opened:
        opened.write(json.dumps(line) + "\n")


def die_at(moment: int, folder: Path) -> list[int]:
    """Kills this process at the `moment`th event in a folder. Returns a counter."""
    seen = [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        name = str(arguments[0]) if event in EVENTS else ""
        ours = name.startswith(str(folder)) or not os.path.isabs(name)  # whole trees are removed by relative names
        if name and ours and not name.endswith(".log"):
            seen[0] += 1
            if seen[0] == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return seen


def run(path: Path, log: Path, moment: int) -> tuple[int, int]:
    """One run in a fork. Returns the signal that ended it, and how many events there were where it ended by itself."""

    def work() -> int:
        seen = die_at(moment, path.parent)
        sweep(path, log)
        return seen[0]

    return forked(work)


def main() -> None:
    """Arguments: the folder, and `[[moment, ...], ...]`: for each sweep, when its runs are killed.

    Zero is never; a number below one is a share of the moments of an unbroken sweep.
    """
    folder = Path(sys.argv[1])
    import notice_lens.patching.store.store  # noqa: F401  so that no fork has to

    (folder / "unbroken").mkdir()
    end, events = run(folder / "unbroken" / "sweep.zarr", folder / "unbroken" / "sweep.log", 0)
    assert end == 0
    assert events > 100
    ends = []
    for number, moments in enumerate(json.loads(sys.argv[2])):
        place = folder / str(number)
        place.mkdir()
        whole = [1 + int(moment * events) if 0 < moment < 1 else moment for moment in moments]
        ends.append([run(place / "sweep.zarr", place / "sweep.log", moment)[0] for moment in whole])
    print(json.dumps(ends))  # noqa: T201


if __name__ == "__main__":
    main()
