"""Which share of the mini world's pairs the mini model passes through the behaviour filter, with 95 % intervals.

    python benchmarks/behaviour.py --n 1000

Prints the table of `docs/pairs.md`. Intervals are Wilson's, which count pairs by themselves; the column
`clusters` says whether they may.
"""

import click
from scipy.stats import binomtest

from notice_lens import HookedBLIP
from notice_lens.mini.generate import GROUPS
from notice_lens.pairs import MinimalPairs, behaviour_filter, mini_world
from notice_lens.stats.clusters import clusters_of


def share(kept: MinimalPairs, pairs: MinimalPairs) -> str:
    """The share that is kept, with its interval."""
    found = binomtest(len(kept), len(pairs))
    ends = found.proportion_ci(method="wilson")
    return f"{found.statistic:.1%} ({ends.low:.1%} to {ends.high:.1%})"


@click.command()
@click.option("--n", default=1000, show_default=True, help="Pairs of each task.")
@click.option("--seed", default=0, show_default=True)
def main(n: int, seed: int) -> None:
    """Prints the table."""
    model = HookedBLIP.mini()
    print("| task | group | pairs | clusters | image corruption | text corruption |\n|" + " --- |" * 6)
    for task, groups in GROUPS.items():
        pairs = mini_world(task, n, seed)
        kept = {what: behaviour_filter(model, pairs, what, progress=False) for what in ("image", "text")}
        for group in [None, *groups] if len(groups) > 1 else [None]:
            part = pairs if group is None else pairs.filter(group=group)
            left = [pairs if group is None else pairs.filter(group=group) for pairs in kept.values()]
            shares = " | ".join(share(own, part) for own in left)
            clusters = int(clusters_of(part).max()) + 1
            print(
                f"| `{task}` | {f'`{group}`' if group else 'all'} | {len(part)} | {clusters} | {shares} |", flush=True
            )


if __name__ == "__main__":
    main()
