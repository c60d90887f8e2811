"""Error rates, power and coverage of the statistics of heads, on effects whose answer is known.

    python benchmarks/head_statistics.py                        # every table; about an hour on one quiet core
    python benchmarks/head_statistics.py --only power --runs 100

- `none`: no head has an effect. How often is any found (max-T), and what share of what is found is false (FDR)? Then
  every head is as large as the smallest effect of interest, which is the worst that the null allows, with tails of
  single pairs along the effect, on either side, and against it.
- `power`: ten of 144 heads have three times the smallest effect; the others have none, or are at the boundary.
- `coverage`: of the 95 % intervals.
- `mini`: the trained mini model; matched and mismatched patches are both from pictures drawn at random, so that their
  difference is nothing. Each run takes 100 of the pairs.

Rates come with their Monte-Carlo standard error. This script is not named `statistics.py`, since that would take the
place of Python's own module.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
import xarray as xr

from notice_lens import HookedBLIP, patching, world
from notice_lens.circuits.cells import read_cell
from notice_lens.circuits.clusters import labels
from notice_lens.circuits.important import examined
from notice_lens.circuits.intervals import bootstrap_t
from notice_lens.circuits.minimum_effect import Null, flips, over_heads, resamples
from notice_lens.circuits.rules import Rules
from notice_lens.circuits.synthetic import synthetic_effects
from notice_lens.pairs import MinimalPairs

HEADS, PLANTED, SMALLEST, ALPHA = (12, 12), 10, 0.02, 0.05
SIGNS = np.where(np.arange(PLANTED) % 3 == 2, -1.0, 1.0)
"""Of the planted heads: three of ten argue against the answer."""
Case = tuple[str, float, float, dict[str, Any]]
"""Name, effect of every head that is not planted, smallest effect, how it is made."""


@dataclass(frozen=True)
class Found:
    """What one run found: by method which heads, and which heads' intervals hold the truth."""

    max_t: np.ndarray
    fdr: np.ndarray
    covers: np.ndarray


def run_once(effects: xr.Dataset, truth: np.ndarray, rules: Rules, intervals: bool = False) -> Found:
    """Both methods on the same null draws, as `important_heads` makes them."""
    cell = read_cell(effects, None)
    own = examined(cell, labels([cell.effects], "pair")[0], rules)
    covers = np.zeros(truth.size, bool)
    if intervals:
        low, high = bootstrap_t(own.partitions, None, rules.n_bootstrap, rules.confidence, own.rng("intervals"))
        return Found(covers, covers, (low <= truth.ravel()) & (truth.ravel() <= high))
    test, size = own.test, rules.n_permutations
    nulls = [test.null(flips, size, own.rng("flips"), centred=False)]
    max_t, fdr = judged(nulls, test.statistic, rules)
    if max_t.any() or fdr.any():
        # The larger p counts: where flips find nothing, the second null cannot either.
        nulls.append(test.null(resamples, size, own.rng("null"), centred=True))
        max_t, fdr = judged(nulls, test.statistic, rules)
    return Found(max_t, fdr, covers)


def judged(nulls: list[Null], statistic: np.ndarray, rules: Rules) -> tuple[np.ndarray, np.ndarray]:
    """The heads that either method finds."""
    p = np.maximum.reduce([null.p(statistic) for null in nulls])
    q = np.maximum.reduce([null.family_wise(statistic) for null in nulls])
    return q <= rules.alpha, over_heads(p) <= rules.alpha


def line(name: str, runs: list[Found], real: np.ndarray) -> None:
    """Prints one row of the table of error rates and power."""
    cells = [name, str(len(runs))]
    for method in ("max_t", "fdr"):
        found = np.array([getattr(run, method) for run in runs])
        false = found[:, ~real]
        error = false.any(1).astype(float) if method == "max_t" else false.sum(1) / np.maximum(1, found.sum(1))
        cells.append(rate(error) if false.size else "-")
        cells.append(rate(found[:, real].mean(1)) if real.any() else "-")
    print("| " + " | ".join(cells) + " |", flush=True)


def rate(values: np.ndarray) -> str:
    """A mean with its standard error."""
    return f"{values.mean():.4f} ± {values.std() / np.sqrt(len(values)):.4f}"


def simulated(make: Callable[[int], xr.Dataset], truth: np.ndarray, runs: int, rules: Rules) -> Iterator[Found]:
    """Runs, each with a seed of its own."""
    for seed in range(runs):
        yield run_once(make(seed), truth, rules)


def error_rates(runs: int, planted: bool, rules: Rules) -> None:
    """The tables `none`, `boundary` and `power`."""
    print("\n| effects | runs | max-T: any false | max-T: power | FDR: false share | FDR: power |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for name, rest, smallest, options in power_cases() if planted else null_cases():
        truth = np.full(HEADS, rest)
        if planted:
            truth.ravel()[np.linspace(0, truth.size - 1, PLANTED).astype(int)] = 3 * SMALLEST * SIGNS
        own = Rules(smallest, ALPHA, n_permutations=rules.n_permutations, n_bootstrap=rules.n_bootstrap)
        found = list(simulated(lambda seed: synthetic_effects(truth, seed=seed, **options), truth, runs, own))  # noqa: B023
        line(name, found, np.abs(truth).ravel() > smallest if planted else np.zeros(truth.size, bool))


def null_cases() -> Iterator[Case]:
    """Nothing to be found."""
    yield "none, 50 clusters, skewness 3", 0.0, SMALLEST, {"clusters": 50, "tail": "either", "spread": 0.1}
    for clusters, skewness in ((100, 0.0), (50, 3.0)):
        made = {"clusters": clusters, "skewness": skewness, "tail": "either"}
        yield f"none, smallest effect 0, {clusters} clusters, skewness {skewness:g}", 0.0, 0.0, made
    for clusters, skewness, tail in (
        (100, 0.0, "along"), (100, 3.0, "along"), (50, 3.0, "either"), (50, 3.0, "against")
    ):  # fmt: skip
        made = {"clusters": clusters, "skewness": skewness, "tail": tail}
        yield f"boundary, {clusters} clusters, skewness {skewness:g} {tail}", SMALLEST, SMALLEST, made


def power_cases() -> Iterator[Case]:
    """Ten heads to be found among 144."""
    for spread in (0.06, 0.08):
        for tail, skewness in (("along", 0.0), ("along", 3.0), ("either", 3.0)):
            for clusters in (100, 60):
                made = {"clusters": clusters, "skewness": skewness, "tail": tail, "spread": spread}
                yield f"spread {spread}, {clusters} clusters, skewness {skewness:g} {tail}", 0.0, SMALLEST, made
    yield "others at the boundary, 100 clusters, skewness 3 along", SMALLEST, SMALLEST, {"tail": "along"}


def coverage(runs: int, rules: Rules) -> None:
    """The table `coverage`."""
    print("\n| intervals | runs | of all heads | of the worst head |\n| --- | --- | --- | --- |", flush=True)
    truth = np.linspace(-0.1, 0.3, 144).reshape(HEADS)
    for clusters, pairs in ((40, 40), (40, 80), (60, 100), (100, 100)):
        for skewness in (0.0, 1.0, 2.0, 3.0):
            made = {"pairs": pairs, "clusters": clusters, "skewness": skewness}
            covers = np.array(
                [
                    run_once(synthetic_effects(truth, seed=seed, **made), truth, rules, intervals=True).covers
                    for seed in range(runs)
                ]
            )
            name = f"{clusters} clusters of {pairs} pairs, skewness {skewness:g}"
            print(f"| {name} | {runs} | {rate(covers.mean(1))} | {covers.mean(0).min():.3f} |", flush=True)


def mini(runs: int, rules: Rules, n: int = 400) -> None:
    """The table `mini`: a sweep of the mini model in which donors are drawn at random, twice."""
    print(
        "\n| mini model | runs | max-T: any false | - | FDR: false share | - |\n| --- | --- | --- | --- | --- | --- |"
    )
    rng = np.random.default_rng(rules.seed)
    for task in ("states", "scenes", "faces"):
        effects = two_donors(task, n, rng)
        for smallest in (SMALLEST, 0.0):
            own = Rules(smallest, ALPHA, n_permutations=rules.n_permutations)
            none = np.zeros((effects.sizes["layer"], effects.sizes["head"]))
            draws = (rng.choice(effects.sizes["pair"], 100, replace=False) for _ in range(runs))
            found = [run_once(effects.isel(pair=some), none, own) for some in draws]
            line(f"{task}, smallest effect {smallest:g}", found, np.zeros(none.size, bool))


def two_donors(task: str, n: int, rng: np.random.Generator) -> xr.Dataset:
    """A result in which matched and mismatched are both patches from other pairs' pictures."""
    blip, rows = HookedBLIP.mini(), [row.columns() for row in world.rows(task, n, seed=1, split="test")]
    sweeps = []
    for _ in range(2):
        donors = [rows[other]["clean_image"] for other in rng.permutation(n)]
        pairs = MinimalPairs.from_rows(
            [{**row, "donor_image": donor} for row, donor in zip(rows, donors, strict=True)], on_error="drop"
        )
        sweeps.append(patching.patch_heads(blip, pairs, positions=["correct"], progress=False).sel(role="correct"))
    one, other = sweeps
    controls = {
        "logit_diff_change": one.logit_diff_change_mismatched,
        "logit_diff_change_mismatched": other.logit_diff_change_mismatched,
    }
    return one.assign(controls)


@click.command()
@click.option("--only", multiple=True, type=click.Choice(["none", "power", "coverage", "mini"]))
@click.option("--runs", default=2000, show_default=True, help="Runs of each row where error rates are measured.")
@click.option("--power-runs", default=400, show_default=True, help="Runs of each row of the other tables.")
@click.option("--flips", default=3000, show_default=True, help="Sign flips; 2,879 are needed for FDR over 144 heads.")
def main(only: tuple[str, ...], runs: int, power_runs: int, flips: int) -> None:
    """Prints the tables."""
    rules = Rules(SMALLEST, ALPHA, n_permutations=flips, n_bootstrap=1000)
    tables: dict[str, Callable[[], None]] = {
        "mini": lambda: mini(runs, rules),
        "power": lambda: error_rates(power_runs, True, rules),
        "coverage": lambda: coverage(power_runs, rules),
        "none": lambda: error_rates(runs, False, rules),
    }
    for name in only or tables:
        start = time.perf_counter()
        tables[name]()
        print(f"\n{name}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
