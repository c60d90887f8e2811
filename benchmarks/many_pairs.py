"""Statistics of many heads over many pairs, and the memory of a sweep of many pairs.

    OMP_NUM_THREADS=2 python benchmarks/many_pairs.py                       # some minutes on two cores
    OMP_NUM_THREADS=2 python benchmarks/many_pairs.py --only statistics

- `statistics`: 1,024 heads over 10,000 pairs in clusters, made up (`circuits.synthetic`): important heads of each of
  two conditions, and universal heads of both.
- `memory`: the mini model's heads of one layer, swept into a store, for more and more pairs. What the process has above
  the model and the pairs is measured after every batch: the runs of some 64 pairs at a time, which do not grow, and
  what the C library keeps of them. The cost of a pair in the store is beside it.
"""

import argparse
import ctypes
import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import xarray as xr

from notice_lens import HookedBLIP, circuits, patching
from notice_lens.pairs import mini_world
from notice_lens.patching.store.store import Store
from notice_lens.stats.synthetic import synthetic_effects

HEADS, PLANTED = (32, 32), 10
FLIPS = 21_000
"""Sign flips: with fewer, no p-value is small enough for false-discovery rates over 1,024 heads."""


def megabytes() -> float:
    """What this process has in memory now, in MB."""
    gc.collect()
    return psutil.Process().memory_info().rss / 1e6


def in_use() -> float:
    """What it has when the C library has given back what is free, in MB; where that cannot be asked for, as above."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return megabytes()


def timed(run: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds by the clock, seconds of cores, and what was returned."""
    clock, cores = time.perf_counter(), time.process_time()
    found = run()
    return time.perf_counter() - clock, time.process_time() - cores, found


def made_effects(pairs: int, seed: int) -> xr.Dataset:
    """Effects of 1,024 heads, ten of them real, of pairs in clusters of ten."""
    truth = np.zeros(HEADS)
    truth.ravel()[np.linspace(0, truth.size - 1, PLANTED).astype(int)] = 0.1
    return synthetic_effects(truth, pairs, clusters=pairs // 10, seed=seed)


def statistics(counts: list[int]) -> None:
    """Print how long the rules take."""
    print("| 1,024 heads | pairs | clock, s | cores, s | memory above, MB | found of 10 |")
    print("| --- | --- | --- | --- | --- | --- |")
    for n in counts:
        conditions = {f"condition {seed}": made_effects(n, seed) for seed in (1, 2)}
        rules: dict[str, Callable[[], xr.Dataset]] = {
            "important heads": lambda own=conditions: circuits.important_heads(
                own["condition 1"], n_permutations=FLIPS
            ),
            "universal heads": lambda own=conditions: circuits.universal_heads(own, n_permutations=FLIPS),
        }
        for name, rule in rules.items():
            before = megabytes()
            clock, cores, found = timed(rule)
            kept = megabytes() - before
            what = "universal" if "universal" in found else "significant"
            print(f"| {name} | {n:,} | {clock:.1f} | {cores:.1f} | {kept:.0f} | {int(found[what].sum())} |", flush=True)


def memory(counts: list[int]) -> None:
    """Print how much memory a sweep with a store has, on its way."""
    print(
        "| pairs | model and pairs, MB | above that after 500 pairs | at the end | at most | in use at the end | ",
        end="",
    )
    print("store, KB a pair | ms of a core a pair |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    model = HookedBLIP.mini()
    pairs = mini_world("states", 2)
    patching.patch_heads(model, pairs, layers=[0], controls=(), progress=False)  # a first run allocates
    write = Store.write
    for n in counts:
        pairs = mini_world("states", n)
        before, seen, done = megabytes(), list[float](), list[int]()

        def noted(self: Store, pairs: Any, part: xr.Dataset, seen: list[float] = seen, done: list[int] = done) -> None:
            write(self, pairs, part)
            seen.append(megabytes())
            done.append(len(pairs))

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "sweep.zarr"
            Store.write = noted  # pyright: ignore[reportAttributeAccessIssue]
            try:
                _, cores, _ = timed(
                    lambda pairs=pairs, path=path: patching.patch_heads(
                        model, pairs, positions=["correct"], layers=[0], controls=(), store=path, progress=False
                    )
                )
            finally:
                Store.write = write
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        early = seen[min(int(np.searchsorted(np.cumsum(done), 500)), len(seen) - 1)]
        above = " | ".join(f"{value - before:.0f}" for value in (early, seen[-1], max(seen)))
        costs = f"{size / n / 1e3:.2f} | {1000 * cores / n:.0f}"
        print(f"| {n:,} | {before:.0f} | {above} | {in_use() - before:.0f} | {costs} |", flush=True)


def main() -> None:
    """Read the options and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["statistics", "memory"])
    parser.add_argument("--pairs", type=int, nargs="+", default=[100, 1000, 10_000])
    chosen = parser.parse_args()
    for name, table in {"statistics": statistics, "memory": memory}.items():
        if chosen.only in (None, name):
            table(chosen.pairs)


if __name__ == "__main__":
    main()
