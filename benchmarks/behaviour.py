"""Which share of the mini world's pairs the mini model passes through the behaviour filter.

    python benchmarks/behaviour.py --n 1000

Prints the table of `docs/pairs.md`.
"""

import click

from notice_lens import HookedBLIP
from notice_lens.mini.generate import GROUPS
from notice_lens.pairs import behaviour_filter, mini_world


@click.command()
@click.option("--n", default=1000, show_default=True, help="Pairs of each task.")
@click.option("--seed", default=0, show_default=True)
def main(n: int, seed: int) -> None:
    """Prints the table."""
    model = HookedBLIP.mini()
    print("| task | group | pairs | image corruption | text corruption |\n| --- | --- | --- | --- | --- |")
    for task, groups in GROUPS.items():
        pairs = mini_world(task, n, seed)
        kept = {what: behaviour_filter(model, pairs, what, progress=False) for what in ("image", "text")}
        for group in [None, *groups] if len(groups) > 1 else [None]:
            part = pairs if group is None else pairs.filter(group=group)
            left = [pairs if group is None else pairs.filter(group=group) for pairs in kept.values()]
            shares = [len(pairs) / len(part) for pairs in left]
            print(
                f"| `{task}` | {f'`{group}`' if group else 'all'} | {len(part)} | {shares[0]:.1%} | {shares[1]:.1%} |"
            )


if __name__ == "__main__":
    main()
