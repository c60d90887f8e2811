"""What a mismatched donor restores by itself, and what heads carry beyond it, on the mini model.

    python benchmarks/donors.py --n 100

Prints the numbers of README and `docs/concepts.md`, with 95 % intervals by clusters of pairs: those that share images
or donors are one piece of evidence. Effects are those of the demo, read at the correct answer's word under an image
corruption. `donor` is the share of the gap that the donor's own run restores, `erased` the share of a head's effect
that a mismatched patch has too.
"""

import click
import numpy as np

from notice_lens import HookedBLIP
from notice_lens.circuits import important_heads
from notice_lens.circuits.condition import read_condition
from notice_lens.circuits.evidence import partitions_of
from notice_lens.pairs import behaviour_filter, mini_world
from notice_lens.patching import patch_heads
from notice_lens.stats.clusters import Sums
from notice_lens.stats.intervals import bootstrap_t

STRONGEST = 4


def said(top: np.ndarray, whole: np.ndarray, labels: np.ndarray) -> str:
    """A ratio of sums over pairs, with its interval, in percent."""
    sums = Sums.of(top[:, None], whole, labels)
    low, high = bootstrap_t([sums], None, 2000, 0.95, np.random.default_rng(0))
    return f"{top.sum() / whole.sum():.1%} ({low[0]:.1%} to {high[0]:.1%})"


@click.command()
@click.option("--n", default=100, show_default=True, help="Pairs of each task.")
@click.option("--seed", default=0, show_default=True)
def main(n: int, seed: int) -> None:
    """Prints the tables."""
    model = HookedBLIP.mini()
    print("| task | pairs | clusters | donor, of the gap | sum of the carried shares of 24 heads |\n|" + " --- |" * 5)
    heads = ["\n| task, head | carried share | q (no larger than 2 %) | erased, of its effect |\n|" + " --- |" * 4]
    for task in ("states", "scenes", "faces"):
        pairs = behaviour_filter(model, mini_world(task, n, seed), progress=False)
        effects = patch_heads(model, pairs, positions=["correct"], progress=False)
        table, condition = important_heads(effects, seed=seed), read_condition(effects)
        assert condition.left is not None
        assert condition.mismatched is not None
        labels = partitions_of([condition], "shared")[0][0]
        donor = said(condition.gap - condition.left, condition.gap, labels)
        total = said(condition.change.sum(1), condition.left, labels)
        print(f"| {task} | {len(condition.gap)} | {table.attrs['clusters']} | {donor} | {total} |", flush=True)
        for place in np.argsort(-np.abs(condition.effect()))[:STRONGEST]:
            one = table.isel(layer=place // 8, head=place % 8)
            effect, low, high, q = (one[name].item() for name in ("effect", "low", "high", "q"))
            erased = said(condition.mismatched[:, place], condition.matched[:, place], labels)
            heads.append(
                f"| {task}, L{place // 8}.H{place % 8} | {effect:.1%} ({low:.1%} to {high:.1%}) | {q:.4f} | {erased} |"
            )
    print("\n".join(heads))


if __name__ == "__main__":
    main()
