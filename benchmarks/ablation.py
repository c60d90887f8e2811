"""Which cross-attention heads of the mini model matter by ablation, against by patching.

    python benchmarks/ablation.py --n 100

Prints the tables of `docs/ablation.md`: shares, changes, scores and ratios with 95 % intervals by clusters of pairs
that share images, and beside them the null of what is claimed:

- of a head by patching: that its share of the gap is no larger than 2 %, with all 24 heads allowed for (q);
- of two orders of the heads: the heads of each layer in any order, so that layers alone explain the agreement;
- of all heads at once against one at a time: that their changes add up (a ratio of 1);
- of a circuit: as many heads drawn at random. Its heads are chosen on some pairs and scored on others.
"""

from typing import Literal

import click
import numpy as np
import xarray as xr
from scipy.stats import rankdata

from notice_lens import HookedBLIP
from notice_lens.circuits import important_heads
from notice_lens.pairs import MinimalPairs, mini_world
from notice_lens.patching import Site, ablate, faithfulness, patch_heads, split
from notice_lens.patching.results import gap
from notice_lens.stats.clusters import Sums, clusters_of
from notice_lens.stats.intervals import RESAMPLES, correlation_ends, ratio_of_sums

SITE, SHOWN = "text.cross_attn", 6
VALUES: tuple[Literal["mean", "resample", "zero"], ...] = ("mean", "resample", "zero")
SMALLEST, SIZES = 0.02, (3, 6, 12, 18)
PERMUTATIONS, RANDOM = 10_000, 40
"""Orders of the heads within layers, and random circuits of each size."""
PARTS = ("pattern", "values", "interaction", "both")


def flat(values: xr.DataArray) -> xr.DataArray:
    """One entry a head, `L1.H3`."""
    found = values.stack(place=("layer", "head"))
    names = [f"L{layer}.H{head}" for layer, head in found.place.values]
    return found.drop_vars(["place", "layer", "head"]).assign_coords(place=names)


def said(mean: float | np.ndarray, low: float | np.ndarray, high: float | np.ndarray, digits: int = 2) -> str:
    """A number with its interval."""
    mean, low, high = float(mean), float(low), float(high)
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def named(found: xr.Dataset, name: str, mean: str = "", digits: int = 2) -> str:
    """A variable with its ends, `{name}_low` and `{name}_high`."""
    value, low, high = (found[one].item() for one in (mean or name, f"{name}_low", f"{name}_high"))
    return said(value, low, high, digits)


def header(*names: str) -> None:
    """The head of a table."""
    print(f"\n| {' | '.join(names)} |\n|{' --- |' * len(names)}")


def heads(model: HookedBLIP, pairs: MinimalPairs, task: str, seed: int) -> list[str]:
    """The tables of the heads that patching finds largest. Returns their names, largest first."""
    effects = {
        direction: patch_heads(model, pairs, SITE, positions="all", direction=direction, controls=(), progress=False)
        for direction in ("denoise", "noise")
    }
    patched = {
        direction: important_heads(own, control=False, smallest_effect=SMALLEST, seed=seed)
        for direction, own in effects.items()
    }
    ablated = {
        value: ablate(model, pairs, Site.of(model, SITE, positions="all"), value=value, progress=False)
        for value in VALUES
    }
    size = abs(flat(patched["noise"].effect))
    order = [str(name) for name in size.place.values[np.argsort(-size.values)]]
    clusters = patched["noise"].attrs["clusters"]
    mean = ablated["mean"].logit_diff_clean.mean().item()
    print(f"\n`{task}`, {len(pairs)} pairs in {clusters} clusters, mean logit difference {mean:.1f}")
    header("head", "denoise", "q", "noise", "q", *(f"`{value}`" for value in VALUES))
    for name in order[:SHOWN]:
        cells = []
        for found in patched.values():
            effect, low, high, q = (flat(found[key]).sel(place=name).item() for key in ("effect", "low", "high", "q"))
            cells += [said(effect, low, high, 3), f"{q:.4f}"]
        for found in ablated.values():
            cells.append(
                said(*(flat(found[f"change_{end}"]).sel(place=name).item() for end in ("mean", "low", "high")))
            )
        print(f"| {name} | {' | '.join(cells)} |")
    significant = {
        direction: [str(name) for name in order if flat(found.significant).sel(place=name).item()]
        for direction, found in patched.items()
    }
    for direction, names in significant.items():
        print(f"\nlarger than {SMALLEST:.0%} of the gap by {direction}: {', '.join(names) or 'none'}", end="")
    print()
    header("against patching (noise)", *(f"`{value}`" for value in VALUES))
    both = [against(effects["noise"], found, seed) for found in ablated.values()]
    for row in both[0]:
        print(f"| {row} | {' | '.join(own[row] for own in both)} |")
    joint = [ablate(model, pairs, SITE, joint=True, value=value, progress=False) for value in VALUES]
    for what, name in (("change of the logit difference", "change"), ("change of accuracy", "accuracy_change")):
        print(f"| all 24 at once: {what} | {' | '.join(named(one, name, f'{name}_mean') for one in joint)} |")
    singles = [found.logit_diff_change.sum(("layer", "head"), skipna=False).values for found in ablated.values()]
    labels = clusters_of(ablated["mean"])
    sums = [ratio_of_sums(single, np.ones(len(single)), labels, seed=seed) for single in singles]
    print(f"| sum of the 24 single changes | {' | '.join(said(*own[:3]) for own in sums)} |")
    ratios = [
        ratio_of_sums(one.logit_diff_change.values.ravel(), single, labels, seed=seed)
        for one, single in zip(joint, singles, strict=True)
    ]
    print(f"| at once, in sums of single changes (1: they add up) | {' | '.join(said(*own[:3]) for own in ratios)} |")
    return order


def against(effects: xr.Dataset, ablated: xr.Dataset, seed: int) -> dict[str, str]:
    """How alike the sizes of heads are by patching and by ablation, with the null that layers alone explain it."""
    change = [by_place(own.logit_diff_change) for own in (effects, ablated)]
    gaps = gap(effects).values.astype(float)
    there = np.isfinite(change[0]).all(1) & np.isfinite(change[1]).all(1) & (abs(gaps) >= effects.attrs["min_gap"])
    whole = np.concatenate([np.repeat(gaps[:, None], 24, 1), np.ones((len(gaps), 24))], 1)
    sums = Sums.of(np.concatenate(change, 1)[there], whole[there], clusters_of(effects)[there])
    rng = np.random.default_rng(seed)
    one, other = np.abs(sums.change.sum(0) / sums.gap.sum(0)).reshape(2, 24)
    low, high = correlation_ends(
        lambda drawn: spearman(*np.split(np.abs(drawn), 2, -1))[None], [sums], RESAMPLES, 0.95, rng
    )
    rank, common = spearman(one, other), in_both(one, other)
    layers = np.repeat(np.arange(3), 8)
    drawn = np.stack(
        [np.concatenate([rng.permutation(other[layers == layer]) for layer in range(3)]) for _ in range(PERMUTATIONS)]
    )
    ranks = spearman(np.broadcast_to(one, drawn.shape), drawn)
    commons = np.array([in_both(one, row) for row in drawn])
    p = [(1 + (null >= own).sum()) / (1 + PERMUTATIONS) for own, null in ((rank, ranks), (common, commons))]
    return {
        "rank correlation of sizes, 24 heads": said(rank, low.item(), high.item()),
        "by layers alone; p": f"{ranks.mean():.2f}; {p[0]:.4f}",
        f"of the first {SHOWN}, in both": str(common),
        "expected by layers alone; p": f"{commons.mean():.1f}; {p[1]:.4f}",
    }


def by_place(values: xr.DataArray) -> np.ndarray:
    """[pair, place]."""
    return values.transpose("pair", "layer", "head").values.reshape(values.sizes["pair"], -1).astype(float)


def spearman(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The rank correlation along the last dimension."""
    ranks = [rankdata(own, axis=-1) for own in (one, other)]
    centred = [own - own.mean(-1, keepdims=True) for own in ranks]
    scale = np.sqrt((centred[0] ** 2).sum(-1) * (centred[1] ** 2).sum(-1))
    return (centred[0] * centred[1]).sum(-1) / scale


def in_both(one: np.ndarray, other: np.ndarray) -> int:
    """How many of the first heads are the same."""
    first = [set(np.argsort(-own)[:SHOWN].tolist()) for own in (one, other)]
    return len(first[0] & first[1])


def circuits(model: HookedBLIP, pairs: MinimalPairs, order: list[str], seed: int) -> None:
    """Scores of circuits of the largest heads, by `resample`, beside random ones of as many heads."""
    clusters = int(clusters_of(pairs).max()) + 1
    print(f"\nother pairs: {len(pairs)} in {clusters} clusters; {RANDOM} random circuits of each size")
    header(
        "heads, largest first",
        "faithfulness",
        "of random circuits: mean, largest",
        "completeness",
        "smallest minimality",
    )
    for n in SIZES:
        names = [f"{SITE}.{name}" for name in order[:n]]
        found = faithfulness(model, pairs, names, universe=SITE, value="resample", progress=False)
        least = found.isel(node=int(np.argmin(found.minimality.values)))
        null = at_random(model, pairs, order, n, seed)
        scores = [
            named(found, "faithfulness"),
            f"{null.mean():.2f}, {null.max():.2f}",
            named(found, "completeness"),
            f"{str(least.node.item()).removeprefix(SITE + '.')} {named(least, 'minimality', digits=3)}",
        ]
        print(f"| {n} | {' | '.join(scores)} |", flush=True)


def at_random(model: HookedBLIP, pairs: MinimalPairs, every: list[str], n: int, seed: int) -> np.ndarray:
    """The faithfulness of circuits of n heads drawn at random, [circuit]."""
    rng = np.random.default_rng([seed, n])
    groups = {
        str(number): [f"{SITE}.{every[place]}" for place in rng.permutation(len(every))[n:]] for number in range(RANDOM)
    }
    groups["nothing"] = [f"{SITE}.{name}" for name in every]
    change = ablate(model, pairs, joint=groups, value="resample", progress=False).logit_diff_change
    total = change.dropna("pair").sum("pair")
    nothing = total.sel(variant="nothing").item()
    return 1 - total.drop_sel(variant="nothing").values / nothing


def parts(model: HookedBLIP, pairs: MinimalPairs, order: list[str], seed: int) -> None:
    """What the largest heads do by pattern and by values."""
    header("head", *PARTS)
    for name in order[:4]:
        found = split(model, pairs, f"{SITE}.{name}", positions="all", controls=(), progress=False)
        shares = []
        for part in PARTS:
            own = important_heads(found.sel(part=part), control=False, n_permutations=100, seed=seed)
            shares.append(said(own.effect.item(), own.low.item(), own.high.item(), 3))
        print(f"| {name} | {' | '.join(shares)} |")


@click.command()
@click.option("--n", default=100, show_default=True, help="Pairs of each task.")
@click.option("--seed", default=0, show_default=True)
def main(n: int, seed: int) -> None:
    """Prints the tables."""
    model = HookedBLIP.mini()
    for task in ("states", "scenes"):
        pairs = mini_world(task, n, seed)
        order = heads(model, pairs, task, seed)
        circuits(model, mini_world(task, n, seed + 1), order, seed)
        parts(model, pairs, order, seed)


if __name__ == "__main__":
    main()
