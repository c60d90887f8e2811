"""Statistics of many heads over many pairs, and the memory of a sweep of many pairs.

    OMP_NUM_THREADS=2 python benchmarks/many_pairs.py                       # some minutes on two cores
    OMP_NUM_THREADS=2 python benchmarks/many_pairs.py --only statistics

- `statistics`: 1,024 heads over 10,000 pairs in clusters, made up (`circuits.synthetic`): important heads of each of
  two conditions, and universal heads of both.
- `memory`: the mini model's heads of one layer, swept into a store, for more and more pairs. What the process keeps is
  measured above the model and the pairs, just before the result is read back. The cost of a pair in the store is
  beside it.
"""

import argparse
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
    """Print what a sweep with a store keeps in memory."""
    print("| pairs | model and pairs, MB | the sweep keeps, MB | store, KB a pair | ms of a core a pair |")
    print("| --- | --- | --- | --- | --- |")
    model = HookedBLIP.mini()
    pairs = mini_world("states", 2)
    patching.patch_heads(model, pairs, layers=[0], controls=(), progress=False)  # a first run allocates
    load = Store.load
    for n in counts:
        pairs = mini_world("states", n)
        before, seen = megabytes(), list[float]()

        def noted(self: Store, seen: list[float] = seen) -> xr.Dataset:
            seen.append(megabytes())
            return load(self)

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "sweep.zarr"
            Store.load = noted  # pyright: ignore[reportAttributeAccessIssue]
            try:
                _, cores, _ = timed(
                    lambda pairs=pairs, path=path: patching.patch_heads(
                        model, pairs, positions=["correct"], layers=[0], controls=(), store=path, progress=False
                    )
                )
            finally:
                Store.load = load
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        print(
            f"| {n:,} | {before:.0f} | {seen[0] - before:.0f} | {size / n / 1e3:.2f} | {1000 * cores / n:.0f} |",
            flush=True,
        )


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
