"""The paper's first figure on the bundled LLaVA: which modules carry the answer, at which word and in which layer.

python benchmarks/words.py             # 100 pairs of each task, some minutes

Attention, MLP and block outputs are patched at each role, one layer at a time; printed are the largest effects of each
task with their 95 % interval over clusters of pairs, and the highest of random orders of the pairs' signs: what the
largest of so many would be by chance.
"""

from typing import Any

import click
import numpy as np

from notice_lens import HookedVLM, patching
from notice_lens.pairs import behaviour_filter, mini_world
from notice_lens.stats.clusters import clusters_of
from notice_lens.stats.intervals import ratio_of_sums

TASKS = ("states", "scenes", "faces")
DRAWS, SHOWN = 2000, 8


@click.command()
@click.option("--pairs", "n", default=100, show_default=True, help="Pairs of each task.")
@click.option("--seed", default=0, show_default=True, help="Of pairs, bootstrap and signs.")
def main(n: int, seed: int) -> None:
    """Print the largest modules of each task."""
    model: Any = HookedVLM.mini()
    print("| task | pairs | largest by chance, % | modules by word and layer, % |\n| --- | --- | --- | --- |")
    for task in TASKS:
        pairs = behaviour_filter(model, mini_world(task, world="pictures", n=n, seed=seed), progress=False)
        effects = patching.patch_modules(model, pairs, positions="roles", controls=(), progress=False)
        flat = effects.logit_diff_change.stack(place=("site", "role", "layer"), create_index=False)
        change = flat.transpose("pair", "place").values.astype(float)
        gap = (effects.logit_diff_clean - effects.logit_diff_corrupt).values
        found = ratio_of_sums(change, gap, clusters_of(effects), 0.95, seed)
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], (DRAWS, len(gap)))
        there = ~np.isnan(change)
        sums = (there * gap[:, None]).sum(0)
        by_chance = np.abs(signs @ np.nan_to_num(change) / sums)
        usable = there.mean(0) >= 0.5
        least = 100 * np.quantile(by_chance[:, usable].max(1), 0.95)
        # A block's output holds all that came before: attention and MLPs say where it was written.
        written = usable & ~np.char.endswith(flat["site"].values.astype(str), "hook_resid_post")
        order = [number for number in np.argsort(-np.abs(np.nan_to_num(found.mean))) if written[number]][:SHOWN]
        told = []
        for number in order:
            site = str(flat["site"].values[number]).partition("hook_")[2].removesuffix("_out")
            role, layer = flat["role"].values[number], flat["layer"].values[number]
            low, high = 100 * found.low[number], 100 * found.high[number]
            told.append(f"{site} L{layer} at `{role}` {100 * found.mean[number]:.0f} [{low:.0f}, {high:.0f}]")
        print(f"| `{task}` | {len(pairs)} | {least:.0f} | {'; '.join(told)} |", flush=True)


if __name__ == "__main__":
    main()
