"""Error rates, power and coverage of the statistics of heads, on effects whose answer is known.

    python benchmarks/head_statistics.py                        # every table; about an hour of one core
    python benchmarks/head_statistics.py --only power --power-runs 1000
    python benchmarks/head_statistics.py --quick                # a hundredth of the runs, without the mini model

- `spread`: how far single pairs of the mini model spread about a head's effect, and how skewed they are. It says which
  rows of `power` are like real sweeps.
- `mini`: the mini model; matched and mismatched patches are both from pictures drawn at random, so that their
  difference is nothing. Each run takes 100 of the pairs, and for each of them draws which of the two is which.
- `none`: no head has an effect. How often is any found (max-T), and what share of what is found is false (FDR)? Then
  every head is as large as the smallest effect of interest, which is the worst that the null allows, with tails of
  single pairs along the effect, on either side, and against it.
- `shared`: pairs that share images or donors, clusters of very different sizes, tails of Student's t, heads without
  spread: by the defaults, and with every two images counted as independent.
- `share`: power of matched minus mismatched as a share of what the donor leaves, or of the gap, and of matched alone.
- `power`: ten of 144 heads have three times the smallest effect; the others have none, or are at the boundary.
- `universal`: heads that are large in fewer conditions than is asked for, at the boundary (or nothing) in the others.
  What share of the universal heads are such?
- `coverage`: of the 95 % intervals.

Rates come with their Monte-Carlo standard error. Draws of the null stop as soon as no head can be found any more, which
changes no answer. This script is not named `statistics.py`, since that would take the place of Python's own
module.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import click
import numpy as np
import xarray as xr
from scipy.stats import skew

from notice_lens import HookedBLIP, patching
from notice_lens.circuits.condition import read_condition
from notice_lens.circuits.evidence import DependentPairs, FewClusters, partitions_of
from notice_lens.circuits.important import Examined, Rules, examined
from notice_lens.circuits.universal import conjunction, signed
from notice_lens.mini import rows as mini_rows
from notice_lens.pairs import MinimalPairs, behaviour_filter, mini_world
from notice_lens.stats.clusters import Sums, flips, resamples
from notice_lens.stats.intervals import bootstrap_t
from notice_lens.stats.minimum_effect import DRAWS_AT_ONCE, MinimumEffect
from notice_lens.stats.nulls import false_discoveries, family_wise, over_heads, p_values
from notice_lens.stats.synthetic import synthetic_effects

HEADS, PLANTED, SMALLEST, ALPHA = (12, 12), 10, 0.02, 0.05
SIGNS = np.where(np.arange(PLANTED) % 3 == 2, -1.0, 1.0)
"""Of the planted heads: three of ten argue against the answer."""
LIKE_PLANTED = (0.03, 0.12)
"""|effect| of real heads that are about as large as the planted ones."""
IN_COMMON = {"common": 0.5, "of_cluster": 0.2}
"""Shares of the variance where heads go together more than usual; on either side they then go apart as much."""
TABLES = ("spread", "mini", "none", "shared", "power", "share", "universal", "coverage")
Case = tuple[str, float, float, dict[str, Any]]
"""Name, effect of every head that is not planted, smallest effect, how it is made."""


@dataclass(frozen=True)
class Found:
    """The heads that one run found, by method, [place], and whether there were enough clusters to test any."""

    max_t: np.ndarray
    fdr: np.ndarray
    tested: bool = True


class Tally:
    """Draws of some heads of a condition so far, and what they say of the p-values that all draws will give.

    No count can become less, so no p can be less than as if none of the draws to come were as large as the data.
    """

    def __init__(self, own: Examined, places: np.ndarray) -> None:
        partitions = [Sums(sums.change[:, places], sums.gap) for sums in own.partitions]
        self.test = MinimumEffect(partitions, None, own.rules.smallest_effect)
        self.kinds: Any = [(flips, own.rng("flips"), False), (resamples, own.rng("null"), True)]
        self.size = own.rules.n_permutations
        self.as_large, self.largest = np.zeros((2, len(places))), np.zeros(2)

    def add(self, several: int) -> None:
        """More draws of both kinds."""
        statistic = self.test.statistic
        for number, (draw, rng, centred) in enumerate(self.kinds):
            null = self.test.null(draw, several, rng, centred)
            self.as_large[number] += (null.draws >= statistic).sum(0)
            self.largest[number] += (null.for_others.max(0) >= statistic.max()).sum()

    @property
    def least_p(self) -> np.ndarray:
        """No head's p by itself will be less, [place]."""
        return (1 + self.as_large.max(0)) / (self.size + 1)

    @property
    def least_of_all(self) -> float:
        """No p with all heads allowed for will be less, even if no head could be set aside."""
        return (1 + self.largest.max()) / (self.size + 1)


def run_once(effects: xr.Dataset, rules: Rules) -> Found:
    """Both methods on the same draws, as `important_heads` makes them."""
    own = look(effects, rules)
    statistic = own.test.statistic
    nothing = Found(*np.zeros((2, statistic.size), bool), tested=not own.few)
    if own.few or not (statistic >= 0).any():
        return nothing
    tally = Tally(own, np.flatnonzero(statistic >= 0))
    for several in steps(rules.n_permutations):
        tally.add(several)
        if min(tally.least_of_all, over_heads(tally.least_p).min()) > rules.alpha:
            return nothing
    nulls = own.nulls()
    by_method = [over(nulls, statistic) <= rules.alpha for over in (family_wise, false_discoveries)]
    return Found(by_method[0], by_method[1])


def run_conditions(conditions: list[xr.Dataset], k: int, rules: Rules, same_sign: bool = True) -> np.ndarray:
    """The heads that `universal_heads` finds in at least k conditions, [place]."""
    every = [look(effects, rules) for effects in conditions]
    if any(own.few for own in every):
        return np.zeros(every[0].test.statistic.size, bool)
    tallies = [Tally(own, np.arange(own.test.statistic.size)) for own in every]
    # The condition in which least is found first: it mostly settles that nothing is, before the others are drawn.
    for tally in sorted(tallies, key=lambda own: np.median(own.test.statistic)):
        for several in steps(rules.n_permutations):
            tally.add(several)
            least = conjunction(np.stack([signed(own.least_p, own.test.sign) for own in tallies]), k, same_sign)
            if over_heads(least).min() > rules.alpha:
                return np.zeros(least.size, bool)
    p = np.stack([signed(p_values(own.nulls(), own.test.statistic), own.test.sign) for own in every])
    return over_heads(conjunction(p, k, same_sign)) <= rules.alpha


def steps(size: int) -> Iterator[int]:
    """How many draws at a time: few are often enough."""
    for done in range(0, size, DRAWS_AT_ONCE):
        yield min(DRAWS_AT_ONCE, size - done)


def look(effects: xr.Dataset, rules: Rules, control: bool | None = None) -> Examined:
    """A condition of effects without roles."""
    condition = read_condition(effects, None, control=control)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (FewClusters, DependentPairs))
        return examined(condition, partitions_of([condition], rules.cluster)[0], rules)


def heading(*names: str) -> None:
    """Prints the head of a table."""
    print(f"\n| {' | '.join(names)} |\n|{' --- |' * len(names)}", flush=True)


def line(name: str, runs: list[Found], real: np.ndarray) -> None:
    """Prints one row of the table of error rates, and of power where there are heads to be found."""
    cells = [name, str(len(runs))]
    for method in ("max_t", "fdr"):
        found = np.array([getattr(run, method) for run in runs])
        false = found[:, ~real]
        cells.append(rate(false.any(1) if method == "max_t" else false.sum(1) / np.maximum(1, found.sum(1))))
        if real.any():
            cells.append(rate(found[:, real].mean(1)))
    print("| " + " | ".join(cells) + " |", flush=True)


def rate(values: Any) -> str:
    """A mean with its standard error."""
    return f"{values.mean():.4f} ± {values.std() / np.sqrt(len(values)):.4f}"


def error_rates(runs: int, planted: bool, rules: Rules, rows: str = "") -> None:
    """The tables `none` and `power`."""
    if planted:
        heading("effects", "runs", "max-T: any false", "max-T: power", "FDR: false share", "FDR: power")
    else:
        heading("effects", "runs", "max-T: any false", "FDR: false share")
    for name, rest, smallest, options in power_cases() if planted else null_cases():
        if rows not in name:
            continue
        truth = np.full(HEADS, rest)
        if planted:
            truth.ravel()[np.linspace(0, truth.size - 1, PLANTED).astype(int)] = 3 * SMALLEST * SIGNS
        own = replace(rules, smallest_effect=smallest)
        found = [run_once(synthetic_effects(truth, seed=seed, **options), own) for seed in range(runs)]
        line(name, found, np.abs(truth).ravel() > smallest if planted else np.zeros(truth.size, bool))


def shared_cases() -> Iterator[tuple[str, np.ndarray, int, dict[str, Any]]]:
    """Name, effects, pairs and how they are made: nothing is larger than the smallest effect of interest, which is 0.

    Half of what pairs spread is their images', so that counting pairs that share them as independent is found out.
    """
    none, hundred = np.zeros(HEADS), np.arange(100)
    image: dict[str, Any] = {"of_cluster": 0.0, "of_shared": 0.5, "skewness": 0.0, "spread": 0.08}
    yield "every clean image in four pairs", none, 100, {**image, "shared": {"clean_digest": hundred // 4}}
    both = {"clean_digest": np.arange(320) // 4, "corrupt_digest": np.arange(320) // 16 * 4 + np.arange(320) % 4}
    yield "every image in four pairs", none, 320, {**image, "of_shared": 0.4, "shared": both}
    yield "every donor in four pairs", none, 100, {**image, "shared": {"donor_digest": hundred // 4}}
    yield "four donors", none, 80, {**image, "shared": {"donor_digest": np.arange(80) % 4}}
    large = {"clean_digest": np.maximum(hundred, 19)}
    yield "one cluster of a fifth of the pairs", none, 100, {**image, "shared": large}
    skewed = {**image, "skewness": 2.0, "tail": "either"}
    yield "one cluster of a fifth of the pairs, skewness 2", none, 100, {**skewed, "shared": large}
    for clusters in (100, 40):
        options = {"clusters": clusters, "df": 2.0, "spread": 0.08}
        yield f"t(2) tails, {clusters} clusters", none, 100, options


def shared(runs: int, rules: Rules, rows: str = "") -> None:
    """The table `shared`."""
    rules = replace(rules, smallest_effect=0.0)
    heading(
        "no effect, smallest effect 0",
        "runs",
        "clusters",
        "max-T: any false",
        "FDR: false share",
        "each two images independent: any false",
    )
    for name, truth, pairs, options in shared_cases():
        if rows not in name:
            continue
        every = [synthetic_effects(truth, pairs, seed=seed, **options) for seed in range(runs)]
        found = [run_once(effects, rules) for effects in every]
        # A twelfth of the runs shows it: where heads are found, all draws are needed.
        independent = replace(rules, cluster="pair")
        before = np.array([run_once(effects, independent).max_t.any() for effects in every[: -(-runs // 12)]])
        said = rates(found) if found[0].tested else ["not tested", "not tested"]
        clusters = look(every[0], rules).counts()
        print(f"| {name} | {runs} | {clusters['clusters']} | {' | '.join(said)} | {rate(before)} |", flush=True)
    if rows not in "heads without spread":
        return
    found = [run_once(dead(seed), rules) for seed in range(runs)]
    said, power = rates(found, slice(1, None)), rate(np.array([run.max_t[0] for run in found]))
    print(
        f"| heads without spread beside an exact one, found in {power} | {runs} | 40 | {' | '.join(said)} | |",
        flush=True,
    )


def rates(found: list[Found], places: slice = slice(None)) -> list[str]:
    """Runs with any head by max-T, and the false share by FDR, where none of these places is real."""
    max_t, fdr = (np.array([getattr(run, name)[places] for run in found]) for name in ("max_t", "fdr"))
    every = np.array([run.fdr.sum() for run in found])
    return [rate(max_t.any(1)), rate(fdr.sum(1) / np.maximum(1, every))]


def dead(seed: int) -> xr.Dataset:
    """Half the gap in all of 40 pairs at one head, without noise; of the others half do something in one pair alone."""
    effects, rng = synthetic_effects(np.zeros(HEADS), 40, spread=0.0, seed=seed), np.random.default_rng([seed, 1])
    gap = effects.logit_diff_clean - effects.logit_diff_corrupt
    change = np.zeros(effects.logit_diff_change.shape)
    change[:, 0, 0] = 0.5 * gap
    places = rng.choice(np.arange(1, 144), 72, replace=False)
    change.reshape(40, -1)[rng.integers(0, 40, 72), places] = rng.normal(0, 4, 72)
    return effects.assign(logit_diff_change=(effects.logit_diff_change.dims, change))


def share(runs: int, rules: Rules) -> None:
    """The table `share`: power by each denominator, where the donor restores a part of the gap by itself."""
    heading("the donor restores", "of a donor's picture", "runs", "carried share", "share of the gap", "matched alone")
    truth = np.zeros(HEADS)
    truth.ravel()[np.linspace(0, truth.size - 1, PLANTED).astype(int)] = 3 * SMALLEST * SIGNS
    real = truth.ravel() != 0
    for restored in (0.0, 0.3, 0.55):
        for of_shared in (0.05, 0.2):
            options: dict[str, Any] = {"restored": restored, "of_shared": of_shared, "skewness": 2.0, "spread": 0.08}
            every = [synthetic_effects(truth, seed=seed, **options) for seed in range(runs)]
            kinds = [every, [one.drop_vars("logit_diff_donor") for one in every]]
            kinds.append([one.drop_vars("logit_diff_change_mismatched") for one in kinds[1]])
            found = [np.array([run_once(one, rules).max_t for one in kind]) for kind in kinds]
            assert all(each[:, ~real].any(1).mean() < 0.1 for each in found)
            powers = " | ".join(rate(each[:, real].mean(1)) for each in found)
            print(f"| {restored:.0%} of the gap | {of_shared:.0%} of the variance | {runs} | {powers} |", flush=True)


def made(clusters: int, skewness: float, tail: str, spread: float = 0.08) -> tuple[str, dict[str, Any]]:
    """How effects are made, in words and as options."""
    of = f"skewness {skewness:g} {tail}" if skewness else "normal"
    options = {"clusters": clusters, "skewness": skewness, "tail": tail, "spread": spread}
    return f"{clusters} clusters, {of}", options


def null_cases() -> Iterator[Case]:
    """Nothing to be found."""
    name, options = made(100, 2.0, "either")
    yield f"no effect, {name}", 0.0, SMALLEST, options
    for kind in ((100, 0.0, "either"), (60, 3.0, "either")):
        name, options = made(*kind)
        yield f"no effect, smallest effect 0, {name}", 0.0, 0.0, options
    for kind in (
        (100, 0.0, "along"), (100, 2.0, "along"), (60, 3.0, "along"), (60, 3.0, "either"), (60, 3.0, "against")
    ):  # fmt: skip
        name, options = made(*kind)
        yield f"at the boundary, {name}", SMALLEST, SMALLEST, options
    for clusters, skewness, tail in ((100, 0.0, "along"), (60, 3.0, "either")):
        name, options = made(clusters, skewness, tail)
        yield f"at the boundary, {name}, half in common", SMALLEST, SMALLEST, {**options, **IN_COMMON}
    name, options = made(100, 0.0, "along")
    yield f"at the boundary, smallest effect {SMALLEST / 5:g}, {name}", SMALLEST / 5, SMALLEST / 5, options


def power_cases() -> Iterator[Case]:
    """Ten heads to be found among 144."""
    for spread in (0.06, 0.08):
        for clusters in (100, 60):
            for tail, skewness in (("along", 2.0), ("along", 0.0), ("either", 3.0)):
                name, options = made(clusters, skewness, tail, spread)
                yield f"spread {spread:.2f}, {name}", 0.0, SMALLEST, options
    for spread in (0.10, 0.12):
        name, options = made(100, 2.0, "along", spread)
        yield f"spread {spread:.2f}, {name}", 0.0, SMALLEST, options
    for clusters, skewness, tail in ((100, 2.0, "along"), (60, 3.0, "either"), (60, 3.0, "against")):
        name, options = made(clusters, skewness, tail)
        yield f"spread 0.08, {name}, others at the boundary", SMALLEST, SMALLEST, options


def universal_cases() -> Iterator[tuple[str, np.ndarray, int, dict[str, Any]]]:
    """Name, effects [condition, place], k, how they are made; universal by the truth: large in k of them, one way."""
    full, edge, none = 3 * SMALLEST, SMALLEST, 0.0
    heads = HEADS[0] * HEADS[1]
    for kind in ((100, 0.0, "along"), (60, 3.0, "either"), (60, 3.0, "against")):
        name, options = made(*kind)
        yield f"large in one of two, at the boundary in the other, {name}", np.tile([[full], [edge]], heads), 2, options
    three = np.tile([[full], [edge], [edge]], heads)
    yield f"large in two of three, at the boundary in the third, {name}", three[[0, 0, 1]], 3, options
    yield f"at least 2: large in one of three, at the boundary in the others, {name}", three, 2, options
    opposed = np.tile([[full], [-full]], heads)
    yield f"large in both with opposite signs, {name}", opposed, 2, options
    third = np.zeros_like(opposed[:1])
    name_of_three = f"at least 2: large in two of three with opposite signs, none in the third, {name}"
    yield name_of_three, np.vstack([opposed, third]), 2, options
    for size, about in ((edge, "at the boundary"), (none, "none")):
        yield f"{about} in both, {name}", np.full((2, heads), size), 2, options
    for rest, about in ((edge, "at the boundary"), (none, "none")):
        name, options = made(100, 2.0, "along")
        truth = np.tile([[full], [rest]], heads)
        # Every other head is large in the second condition instead, and ten are in both.
        truth[:, ::2] = truth[::-1, ::2]
        truth[:, np.linspace(0, heads - 1, PLANTED).astype(int)] = full
        yield f"ten large in both, all others in one, {about} in the other, {name}", truth, 2, options


def universal(runs: int, power_runs: int, rules: Rules, rows: str = "") -> None:
    """The table `universal`: heads that matter in fewer conditions than asked for, found all the same."""
    heading("effects", "runs", "false share", "power")
    for name, truth, k, options in universal_cases():
        if rows not in name:
            continue
        real = np.maximum((truth > SMALLEST).sum(0), (truth < -SMALLEST).sum(0)) >= k
        found = np.array(
            [
                run_conditions(several_conditions(truth, seed, options), k, rules)
                for seed in range(power_runs if real.any() else runs)
            ]
        )
        share = rate(found[:, ~real].sum(1) / np.maximum(1, found.sum(1)))
        power = rate(found[:, real].mean(1)) if real.any() else ""
        print(f"| {name} | {len(found)} | {share} | {power} |", flush=True)


def several_conditions(truth: np.ndarray, seed: int, options: dict[str, Any]) -> list[xr.Dataset]:
    """Conditions of pairs of their own, from effects [condition, place]."""
    return [
        synthetic_effects(own.reshape(HEADS), seed=[seed, condition], **options) for condition, own in enumerate(truth)
    ]


def coverage_cases() -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Name, pairs and how they are made."""
    for clusters, pairs in ((40, 40), (40, 80), (100, 100)):
        for skewness in (0.0, 2.0, 3.0):
            name = f"{clusters} clusters of {pairs} pairs, skewness {skewness:g}"
            yield name, pairs, {"clusters": clusters, "skewness": skewness}
    for clusters in (40, 100):
        yield f"{clusters} clusters of 100 pairs, t(2) tails", 100, {"clusters": clusters, "df": 2.0}
    for name, _, pairs, options in shared_cases():
        if "t(2)" not in name and name != "four donors":
            yield f"{name}, {pairs} pairs", pairs, options
    more = {"of_cluster": 0.0, "of_shared": 0.5, "skewness": 2.0}
    yield (
        "every clean image in four of 160 pairs, skewness 2",
        160,
        {**more, "shared": {"clean_digest": np.arange(160) // 4}},
    )


def coverage(runs: int, rules: Rules, rows: str = "") -> None:
    """The table `coverage`."""
    heading("intervals", "runs", "clusters", "of all heads", "of the worst head", "each two images independent")
    truth = np.linspace(-0.1, 0.3, 144).reshape(HEADS)
    for name, pairs, options in coverage_cases():
        if rows not in name:
            continue
        own: Any = None
        covers: dict[str, list[np.ndarray]] = {}
        for cluster in ("pair", "shared"):
            covers[cluster] = []
            for seed in range(runs):
                own = look(synthetic_effects(truth, pairs, seed=seed, **options), replace(rules, cluster=cluster))
                low, high = bootstrap_t(own.partitions, None, rules.n_bootstrap, rules.confidence, own.rng("intervals"))
                covers[cluster].append((low <= truth.ravel()) & (truth.ravel() <= high))
        each, before = np.array(covers["shared"]), np.array(covers["pair"])
        worst = each.mean(0).min()
        print(
            f"| {name} | {runs} | {own.clusters} | {rate(each.mean(1))} | {worst:.3f} | {before.mean():.3f} |",
            flush=True,
        )


def spread(n: int) -> None:
    """The table `spread`: single pairs about the effect, in shares of the mean gap."""
    about = "heads of {} to {} of the gap".format(*LIKE_PLANTED)
    heading("mini model", "pairs", "largest effect", "spread, median head", f"{about}: effect, spread, skewness")
    model = HookedBLIP.mini()
    conditions: tuple[tuple[str, Literal["image", "text"]], ...] = (
        ("states", "image"), ("states", "text"), ("scenes", "image"), ("scenes", "text"), ("faces", "image")
    )  # fmt: skip
    for task, corruption in conditions:
        pairs = behaviour_filter(model, mini_world(task, n, seed=0), corruption, progress=False)
        for positions, where in ((["correct"], "the answer's word"), ("all", "all words")):
            effects = patching.patch_heads(
                model, pairs, positions=positions, corruption=corruption, controls=("mismatched",), progress=False
            )
            # As shares of the gap: what donors leave differs from task to task.
            effects = effects.drop_vars(["logit_diff_donor", "answer_prob_donor"])
            condition = read_condition(effects, None if positions == "all" else "correct")
            effect = condition.effect()
            residual = condition.change - effect * condition.reach[:, None]
            wide, tail = residual.std(0, ddof=1) / condition.reach.mean(), skew(residual) * np.sign(effect)
            low, high = LIKE_PLANTED
            like = [place for place in np.argsort(-np.abs(effect)) if low <= abs(effect[place]) <= high]
            said = "; ".join(f"{effect[i]:.3f}, {wide[i]:.3f}, {tail[i]:+.1f}" for i in like) or "none"
            largest = effect[np.abs(effect).argmax()]
            row = (
                f"{task}, {corruption}, {where}",
                len(condition.gap),
                f"{largest:.3f}",
                f"{np.median(wide):.3f}",
                said,
            )
            print(f"| {' | '.join(map(str, row))} |", flush=True)


def mini(runs: int, rules: Rules, n: int, rows: str = "") -> None:
    """The table `mini`: a sweep of the mini model in which donors are drawn at random, twice."""
    heading("mini model, one donor minus another", "runs", "max-T: any false", "FDR: false share")
    for number, task in enumerate(("states", "scenes", "faces")):
        names = {f"{task}, smallest effect {smallest:g}": smallest for smallest in (SMALLEST, 0.0)}
        names = {name: smallest for name, smallest in names.items() if rows in name}
        rng = np.random.default_rng([rules.seed, number])
        effects = two_donors(task, n, rng) if names else xr.Dataset()
        for name, smallest in names.items():
            # Chance says of each pair by itself which donor is which, so pairs are independent whatever they share.
            own = replace(rules, smallest_effect=smallest, cluster="pair")
            found = [run_once(exchanged(effects, rng), own) for _ in range(runs)]
            none = np.zeros(effects.sizes["layer"] * effects.sizes["head"], bool)
            line(name, found, none)


def exchanged(effects: xr.Dataset, rng: np.random.Generator, n: int = 100) -> xr.Dataset:
    """Some of the pairs; of each, chance says which of its donors is the matched one, so that nothing is to be found.

    Without that the two donors of the pairs that there are would differ by a little, and runs would find it.
    """
    some = effects.isel(pair=rng.choice(effects.sizes["pair"], n, replace=False))
    as_drawn = xr.DataArray(rng.random(n) < 0.5, dims="pair")
    names = ("logit_diff_change", "logit_diff_change_mismatched")
    one, other = (some[name] for name in names)
    return some.assign({names[0]: one.where(as_drawn, other), names[1]: other.where(as_drawn, one)})


def two_donors(task: str, n: int, rng: np.random.Generator) -> xr.Dataset:
    """A result in which matched and mismatched are both patches from other pairs' pictures."""
    model, rows = HookedBLIP.mini(), [row.columns() for row in mini_rows(task, n, seed=1, split="test")]
    sweeps = []
    for _ in range(2):
        donors = [rows[other]["clean_image"] for other in rng.permutation(n)]
        pairs = MinimalPairs.from_rows(
            [{**row, "donor_image": donor} for row, donor in zip(rows, donors, strict=True)], on_error="drop"
        )
        sweeps.append(patching.patch_heads(model, pairs, positions=["correct"], progress=False).sel(role="correct"))
    one, other = sweeps
    controls = {
        "logit_diff_change": one.logit_diff_change_mismatched,
        "logit_diff_change_mismatched": other.logit_diff_change_mismatched,
    }
    # The two donors take turns, so neither is what the other leaves to be carried.
    return one.assign(controls).drop_vars(["logit_diff_donor", "answer_prob_donor"])


@click.command()
@click.option("--only", multiple=True, type=click.Choice(TABLES))
@click.option("--runs", default=600, show_default=True, help="Runs of each row where error rates are measured.")
@click.option("--power-runs", default=200, show_default=True, help="Runs of each row of `power` and `coverage`.")
@click.option("--flips", default=3000, show_default=True, help="Sign flips; 2,879 are needed for FDR over 144 heads.")
@click.option("--rows", default="", help="Only rows with this in their names (not of `spread` and `share`).")
@click.option("--quick", is_flag=True, help="A hundredth of the runs; neither `spread` nor `mini`.")
def main(only: tuple[str, ...], runs: int, power_runs: int, flips: int, rows: str, quick: bool) -> None:
    """Prints the tables."""
    if quick:
        runs, power_runs = max(1, runs // 100), max(1, power_runs // 100)
    rules = Rules(SMALLEST, ALPHA, n_permutations=flips, n_bootstrap=1000)
    tables: dict[str, Callable[[], None]] = {
        "spread": lambda: spread(100),
        "power": lambda: error_rates(power_runs, True, rules, rows),
        "share": lambda: share(power_runs, rules),
        "coverage": lambda: coverage(power_runs, rules, rows),
        "none": lambda: error_rates(runs, False, rules, rows),
        "shared": lambda: shared(runs, rules, rows),
        "universal": lambda: universal(runs, power_runs, rules, rows),
        "mini": lambda: mini(runs, rules, 200, rows),
    }
    for name in only or [name for name in tables if not quick or name not in ("spread", "mini")]:
        start, used = time.perf_counter(), time.process_time()
        tables[name]()
        took = f"{time.process_time() - used:.0f} s of a core, {time.perf_counter() - start:.0f} s by the clock"
        print(f"\n{name}: {took}", flush=True)


if __name__ == "__main__":
    main()
