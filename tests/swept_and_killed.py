"""Sweeps in forks of one process, which are killed; `test_resume` runs it in a process of its own.

A moment is a number of things that happened: of files that were opened, renamed or removed in the store's folder
(`sys.addaudithook`), or of pairs that were begun. So a killed run is the same each time.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from computed_batches import before_each_batch
from forks import forked

PAIRS_AT_A_TIME = 2
FILES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")


def main() -> None:
    """Arguments: a folder, and `[[what, moment], ...]`: for each store, when its first run is killed.

    `what` is `files`, with a share of those of an unbroken run, or `batches`, with how many are begun.
    """
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    from notice_lens import HookedBLIP
    from notice_lens.pairs import mini_world
    from notice_lens.patching import Site, sweep
    from notice_lens.patching.store import store

    assert store.Store
    model, pairs = HookedBLIP.mini(), mini_world("states", 6, seed=1)
    site = Site.of(model, "text.cross_attn", layers=[0, 2], heads=[1, 2, 5])

    def run(path: Path, what: str, moment: int) -> tuple[int, int]:
        """One sweep in a fork. Returns the signal that ended it, and how many files it touched."""

        def work() -> int:
            seen = {"files": 0, "batches": 0}

            def happened(which: str) -> None:
                seen[which] += 1
                if which == what and seen[which] == moment:
                    os.kill(os.getpid(), signal.SIGKILL)

            def audit(event: str, arguments: tuple[Any, ...]) -> None:
                if event in FILES and str(arguments[0]).startswith(str(path)):
                    happened("files")

            def noted(several: list[int]) -> None:
                with (path.parent / f"{path.name}.log").open("a") as log:
                    log.write(json.dumps(several) + "\n")
                happened("batches")

            before_each_batch(noted)
            sys.addaudithook(audit)
            sweep(model, pairs, site, store=path, memory=memory, progress=False)
            return seen["files"]

        return forked(work)

    one = sweep(model, pairs[:1], site, memory=10**9, progress=False)
    cells = 2 * one.logit_diff_change[0].size
    memory = int(10**9 / one.attrs["rows_at_a_time"] * (PAIRS_AT_A_TIME + 0.5) * cells)
    end, files = run(folder / "unbroken", "", 0)
    assert end == 0
    ends = [[end, files]]
    for number, (what, moment) in enumerate(json.loads(sys.argv[2])):
        at = 1 + int(moment * files) if what == "files" else moment
        ends.append([run(folder / str(number), how, at)[0] for how in (what, "")])
    print(json.dumps(ends))  # noqa: T201


if __name__ == "__main__":
    main()
