"""Coverage of the intervals of rank agreement between two measures of the same heads.

    python benchmarks/agreement.py --runs 150

Prints the table of `docs/circuits.md`. The truth is the agreement over all 400 pairs of the mini model (cross-attention
heads of the question encoder, by patching in the direction `noise` and by ablation), or that of planted effects; every
run takes 100 of the pairs, and its interval is of `compare_corruptions`. `BCa` is the interval that stood there before.
"""

from collections.abc import Callable, Iterator

import click
import numpy as np

from notice_lens import HookedBLIP
from notice_lens.circuits.corruptions import AGREEMENTS, cosine, rank_scores
from notice_lens.pairs import mini_world
from notice_lens.patching import Site, ablate, patch_heads
from notice_lens.patching.results import gap
from notice_lens.stats.clusters import Sums
from notice_lens.stats.intervals import bca, correlation_ends

SITE, ALL, PAIRS, HEADS = "text.cross_attn", 400, 100, 24
RESAMPLES = 400


def agreement(kind: str) -> Callable[[np.ndarray], np.ndarray]:
    """The agreement of two halves of the effects, [1, resample]."""

    def of(effect: np.ndarray) -> np.ndarray:
        one, other = (rank_scores(half, kind) for half in np.split(effect, 2, axis=1))
        return cosine(one, other)[None]

    return of


def cases() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, changes [pair, 2 · head] and what they are shares of."""
    model = HookedBLIP.mini()
    for task in ("states", "scenes"):
        pairs = mini_world(task, ALL, 0)
        patched = patch_heads(model, pairs, SITE, positions="all", direction="noise", controls=(), progress=False)
        for value in ("mean", "resample"):
            ablated = ablate(model, pairs, Site.of(model, SITE, positions="all"), value=value, progress=False)
            change = np.concatenate(
                [
                    own.logit_diff_change.transpose("pair", "layer", "head").values.reshape(ALL, HEADS)
                    for own in (patched, ablated)
                ],
                axis=1,
            )
            whole = np.concatenate([np.repeat(gap(patched).values[:, None], HEADS, 1), np.ones((ALL, HEADS))], 1)
            there = np.isfinite(change).all(1)
            yield f"{task}, patching and ablation (`{value}`)", change[there], whole[there]
    rng = np.random.default_rng(0)
    for name, power in (("evenly", 1), ("as squares", 2), ("as cubes: most do next to nothing", 3)):
        one = 0.1 * np.linspace(0.02, 1, HEADS) ** power
        effect = np.concatenate([one, one * rng.uniform(0.6, 1.6, HEADS)])
        change = rng.normal(0, 0.08, (10_000, 2 * HEADS))
        yield f"planted, 0 to 0.1 {name}, spread 0.08", effect + change - change.mean(0), np.ones_like(change)


@click.command()
@click.option("--runs", default=150, show_default=True, help="Samples of each row.")
def main(runs: int) -> None:
    """Prints the table."""
    print("| two measures | runs | agreement | truth | covered | by BCa |\n|" + " --- |" * 6)
    for name, change, whole in cases():
        for kind in AGREEMENTS:
            of = agreement(kind)
            truth = of((change.sum(0) / whole.sum(0))[None])[0, 0]
            rng, covered = np.random.default_rng(1), []
            for _ in range(runs):
                some = rng.choice(len(change), PAIRS, replace=len(change) <= ALL)
                sums = Sums.of(change[some], whole[some], np.arange(PAIRS))
                both = [ends(of, [sums], RESAMPLES, 0.95, rng) for ends in (correlation_ends, bca)]
                covered.append([low[0] <= truth <= high[0] for low, high in both])
            held = " | ".join(f"{share:.3f}" for share in np.mean(covered, 0))
            print(f"| {name} | {runs} | `{kind}` | {truth:.2f} | {held} |", flush=True)


if __name__ == "__main__":
    main()
