"""Which cross-attention heads of the mini model matter by ablation, against by patching.

    python benchmarks/ablation.py --n 100

Prints the tables of `docs/ablation.md`.
"""

from typing import Literal

import click
import numpy as np
import xarray as xr
from scipy.stats import spearmanr

from notice_lens import HookedBLIP
from notice_lens.pairs import MinimalPairs, mini_world
from notice_lens.patching import Site, ablate, aggregate, faithfulness, patch_heads, split

SITE, SHOWN = "text.cross_attn", 6
VALUES: tuple[Literal["mean", "resample", "zero"], ...] = ("mean", "resample", "zero")


def flat(values: xr.DataArray) -> xr.DataArray:
    """One entry a head, `L1.H3`."""
    found = values.stack(place=("layer", "head"))
    names = [f"L{layer}.H{head}" for layer, head in found.place.values]
    return found.drop_vars(["place", "layer", "head"]).assign_coords(place=names)


def heads(model: HookedBLIP, pairs: MinimalPairs, task: str) -> list[str]:
    """The table of the heads that patching finds largest. Returns their names, largest first."""
    gap = {}
    for direction in ("denoise", "noise"):
        effects = patch_heads(model, pairs, SITE, positions="all", direction=direction, controls=(), progress=False)
        gap[direction] = flat(aggregate(effects))
    ablated = {
        value: ablate(model, pairs, Site.of(model, SITE, positions="all"), value=value, progress=False)
        for value in VALUES
    }
    change = {value: flat(found.change_mean) for value, found in ablated.items()}
    order = [str(name) for name in gap["noise"].place.values[np.argsort(-abs(gap["noise"].values))]]
    print(
        f"\n`{task}`, {len(pairs)} pairs, mean logit difference {ablated['mean'].logit_diff_clean.mean().item():.1f}\n"
    )
    print("| head | denoise | noise | " + " | ".join(f"`{value}`" for value in VALUES) + " |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in order[:SHOWN]:
        cells = [f"{gap[direction].sel(place=name).item():.3f}" for direction in gap]
        for found in ablated.values():
            mean, low, high = (flat(found[f"change_{end}"]).sel(place=name).item() for end in ("mean", "low", "high"))
            cells.append(f"{mean:.2f} ({low:.2f} to {high:.2f})")
        print(f"| {name} | " + " | ".join(cells) + " |")
    print("\n| against patching (noise) | " + " | ".join(f"`{value}`" for value in VALUES) + " |")
    print("| --- | --- | --- | --- |")
    ranks = [spearmanr(abs(gap["noise"]), abs(found))[0] for found in change.values()]
    print("| rank correlation of sizes, 24 heads | " + " | ".join(f"{rank:.2f}" for rank in ranks) + " |")
    top = [set(found.place.values[np.argsort(-abs(found.values))][:SHOWN].tolist()) for found in change.values()]
    print(f"| of the first {SHOWN}, in both | " + " | ".join(str(len(own & set(order[:SHOWN]))) for own in top) + " |")
    for what, name in (("change of the logit difference", "change"), ("change of accuracy", "accuracy_change")):
        joint = [ablate(model, pairs, SITE, joint=True, value=value, progress=False) for value in VALUES]
        print(f"| all 24 at once: {what} | " + " | ".join(f"{one[f'{name}_mean'].item():.2f}" for one in joint) + " |")
    sums = [found.change_mean.sum().item() for found in ablated.values()]
    print("| sum of the 24 single changes | " + " | ".join(f"{total:.2f}" for total in sums) + " |")
    return order


def circuits(model: HookedBLIP, pairs: MinimalPairs, order: list[str]) -> None:
    """Scores of circuits of the largest heads, by `resample`."""
    print("\n| heads, largest first | faithfulness | completeness | smallest minimality |\n| --- | --- | --- | --- |")
    for n in (3, 6, 12, 18):
        names = [f"{SITE}.{name}" for name in order[:n]]
        found = faithfulness(model, pairs, names, universe=SITE, value="resample", progress=False)
        scores = [
            f"{found[name].item():.2f} ({found[f'{name}_low'].item():.2f} to {found[f'{name}_high'].item():.2f})"
            for name in ("faithfulness", "completeness")
        ]
        print(f"| {n} | {' | '.join(scores)} | {found.minimality.min().item():.3f} |")


def parts(model: HookedBLIP, pairs: MinimalPairs, order: list[str]) -> None:
    """What the largest heads do by pattern and by values."""
    print("\n| head | pattern | values | interaction | both |\n| --- | --- | --- | --- | --- |")
    for name in order[:4]:
        mean = aggregate(split(model, pairs, f"{SITE}.{name}", positions="all", controls=(), progress=False))
        shares = (mean.sel(part=part).item() for part in ("pattern", "values", "interaction", "both"))
        print(f"| {name} | " + " | ".join(f"{share:.3f}" for share in shares) + " |")


@click.command()
@click.option("--n", default=100, show_default=True, help="Pairs of each task.")
@click.option("--seed", default=0, show_default=True)
def main(n: int, seed: int) -> None:
    """Prints the tables."""
    model = HookedBLIP.mini()
    for task in ("states", "scenes"):
        pairs = mini_world(task, n, seed)
        order = heads(model, pairs, task)
        circuits(model, pairs, order)
        parts(model, pairs, order)


if __name__ == "__main__":
    main()
