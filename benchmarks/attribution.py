"""Attribution beside exact patches, and what it costs.

    python benchmarks/attribution.py              # all tables; about an hour on two cores
    python benchmarks/attribution.py --only random

- `mini`: over the heads of the mini model, by site, task and corruption: Pearson correlation with exact patches, how
  often the sign agrees where the exact effect is 0.1 % of the gap or more, and how many of the ten largest are the
  same. Effects are means over pairs; a cell is a layer, a head and a role (of images, a layer and a head). The
  correlation has a 95 % interval, which resamples clusters of pairs; signs and the ten largest compare two
  computations on these pairs. In parentheses stands what one in twenty random orders of the heads exceeds.
- `random`: the same of a second model that nobody trained, with random weights of a real size (see
  `notice_lens.models.blip.random_blip`), on the same pictures and questions.
- `llava`: the same of the mini LLaVA, on the picture world, at the words and at `last`.
- `coverage`: how often that interval holds the correlation of planted effects.
- `cost`: all sites of a pair on the architecture of blip-vqa-base with random weights, in plain forwards of it.
- `vlm_cost`: every head at every position of a random LLaVA of 611 positions, in plain forwards of it.

Ratios are of times of one run; machines are noisy, and absolute times mean little.
"""

import argparse
import statistics
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from patching_vlm import SHAPES, difference, make

from notice_lens import HookedBLIP, HookedVLM, patching
from notice_lens.mini.generate import WorldName
from notice_lens.models.blip.random_blip import processor, random_hf
from notice_lens.models.protocol import VisionLanguageModel
from notice_lens.pairs import MinimalPairs, mini_world
from notice_lens.patching.engine.causal.given import Given
from notice_lens.patching.engine.pair_batch import Setting
from notice_lens.patching.gradient.backward import weights_at_rest
from notice_lens.patching.gradient.hosted import WayPoint
from notice_lens.stats.clusters import Sums, clusters_of
from notice_lens.stats.intervals import correlation_ends
from patching import VOCABULARY, Peak, make_pairs, timed

TASKS, CORRUPTIONS = ("states", "scenes", "faces"), ("image", "text")
MODULES = ("vision.attn", "text.attn", "text.cross_attn", "decoder.cross_attn")
LEAVES = ("z", "v", "q", "k", "pattern")
METHODS: dict[str, dict[str, Any]] = {
    "tangent": {"attention_correction": False},
    "softmax again": {},
    "integrated, 8": {"integrated_gradients": 8},
}
LEAST = 1e-3
"""Of the gap: smaller exact effects have no sign to agree with."""
RESAMPLES, ORDERS = 2000, 1000
LLAVA_MODULES, LLAVA_LEAVES = ("language.attn", "vision.attn"), ("z", "v", "q", "k")
ONLY = ("mini", "random", "llava", "cost", "vlm_cost", "coverage")


class Agreement(NamedTuple):
    """How well estimates of cells agree with exact effects, and what chance gives.

    Attributes:
        correlation: Pearson's, of means over pairs.
        low: The lower end of its 95 % interval, by resampling clusters of pairs; NaN with one cluster.
        high: The upper end.
        signs: The share of the cells whose exact effect counts where both signs are the same.
        overlap: How many of the ten largest are the same.
        chance: What one in twenty orders of the heads exceeds, each head's roles kept together: of the correlation, the
            signs and the overlap.
    """

    correlation: float
    low: float
    high: float
    signs: float
    overlap: float
    chance: tuple[float, float, float]

    def __str__(self) -> str:
        r, signs, overlap = self.chance
        return (
            f"{self.correlation:.2f} [{self.low:.2f}, {self.high:.2f}] ({r:.2f}), {self.signs:.0%} ({signs:.0%}), "
            f"{self.overlap:.0f} ({overlap:.0f})"
        )


def agreement(
    estimate: np.ndarray, exact: np.ndarray, clusters: np.ndarray, least: float, seed: int = 0
) -> Agreement | None:
    """Compare estimates with exact effects; None where no cell moves the answer.

    Args:
        estimate: By pair, [pair, head, role]; NaN where a pair has no such role.
        exact: The same of exact patches.
        clusters: The cluster of each pair, [pair].
        least: Of an exact effect whose sign counts, in the unit of the effects.
        seed: Of resamples and orders.
    """
    rng, (n_pairs, n_heads, _) = np.random.default_rng(seed), exact.shape
    values = np.concatenate([exact.reshape(n_pairs, -1), estimate.reshape(n_pairs, -1)], 1)
    there = np.tile(np.isfinite(values.reshape(n_pairs, 2, -1)).all(1), 2)
    sums = Sums.of(np.where(there, values, 0.0), there.astype(float), clusters)
    with np.errstate(invalid="ignore"):
        # Of roles that no pair of a resample has there is no mean.
        true, found = np.split(sums.change.sum(0) / sums.gap.sum(0), 2)
        if not (abs(true) >= least).any():
            return None
        low, high = correlation_ends(correlation, [sums], RESAMPLES, 0.95, rng)
        orders = rng.permuted(np.tile(np.arange(n_heads), (ORDERS, 1)), axis=1)
        by_chance = compared(found.reshape(n_heads, -1)[orders].reshape(ORDERS, -1), true, least)
        own = compared(found[None], true, least)
    r, signs, overlap = (float(np.quantile(values, 0.95)) for values in by_chance)
    return Agreement(float(own[0][0]), low[0], high[0], float(own[1][0]), float(own[2][0]), (r, signs, overlap))


def correlation(effects: np.ndarray) -> np.ndarray:
    """Return Pearson correlations of two halves, [1, resample], from [resample, 2 · place]; NaN without spread."""
    known = np.isfinite(effects)
    effects, counts = np.where(known, effects, 0.0), known.sum(1, keepdims=True) / 2
    halves = [half - half.sum(1, keepdims=True) / counts for half in np.split(effects, 2, axis=1)]
    one, other = (np.where(there, half, 0.0) for half, there in zip(halves, np.split(known, 2, axis=1), strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        return ((one * other).sum(1) / np.sqrt((one**2).sum(1) * (other**2).sum(1)))[None]


def compared(found: np.ndarray, true: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the correlation, the share of the same signs and how many of the ten largest are the same, [order] each.

    Args:
        found: Estimates, [order, place]; NaN where no pair has the role.
        true: Exact effects, [place].
        least: Of an exact effect whose sign counts.
    """
    known = np.isfinite(true)
    found, true = found[:, known], true[known]
    signs = (np.sign(found) == np.sign(true))[:, abs(true) >= least].mean(1)
    largest = np.zeros(true.size, bool)
    largest[np.argsort(-abs(true))[:10]] = True
    r = correlation(np.concatenate([np.tile(true, (len(found), 1)), found], 1))[0]
    return r, signs, largest[np.argsort(-abs(found), axis=1)[:, :10]].sum(1)


def cells(effects: Any) -> np.ndarray:
    """Return the changes of a result by pair, [pair, head, role], heads of all layers end to end."""
    change = effects.logit_diff_change
    if "role" not in change.dims:
        change = change.expand_dims("role")
    values = change.transpose("pair", "layer", "head", "role").values.astype(float)
    return values.reshape(len(values), -1, values.shape[-1])


def said(estimate: Any, exact: Any) -> str:
    """The agreement of an estimate with exact patches in words; a dash where nothing moves.

    Nothing does where the model says of the corrupted question what it says of the clean one: the contrast is then the
    correct answer itself.
    """
    gap = float(abs(exact.logit_diff_clean - exact.logit_diff_corrupt).mean())
    if gap < LEAST:
        return "-"
    found = agreement(cells(estimate), cells(exact), clusters_of(exact), LEAST * gap)
    return "-" if found is None else str(found)


def planted(rng: np.random.Generator, n_pairs: int, truth: np.ndarray, shared: float) -> tuple[np.ndarray, np.ndarray]:
    """Make up estimates and exact effects by pair, [pair, head, 1], with long tails on the effects' own side.

    Args:
        rng: Where they come from.
        n_pairs: How many pairs.
        truth: Exact effects and estimates of all pairs there could be, [2, head].
        shared: The share of the variance of single pairs that both have in common.
    """
    common, own = rng.gamma(1, 1, (2, n_pairs, truth.shape[1])) - 1
    z = common, np.sqrt(shared) * common + np.sqrt(1 - shared) * own
    exact, estimate = (mean + np.sign(mean) * (1.5 * abs(mean) + 0.003) * z for mean, z in zip(truth, z, strict=True))
    return estimate[..., None], exact[..., None]


def coverage(runs: int) -> None:
    """Print how often the interval of the correlation holds that of planted effects, a few of which are large."""
    print(f"\n95 % intervals of the correlation, planted effects, {runs} runs of each row\n")
    print("| pairs | heads | estimates are off by a factor | in common | correlation | covered |\n|" + " --- |" * 6)
    for n_pairs, n_heads, scatter, shared in product((24, 40), (32, 144), (0.05, 0.3, 1.0), (0.9, 0.5, 0.0)):
        rng = np.random.default_rng(0)
        exact = rng.choice([-1.0, 1.0], n_heads) * 0.15 * (np.arange(1, n_heads + 1) / n_heads) ** 6
        truth = np.stack([exact, exact * np.exp(scatter * rng.normal(size=n_heads))])
        r, held = correlation(truth.reshape(1, -1))[0, 0], []
        for _ in range(runs):
            sums = Sums.of(
                np.concatenate([own[..., 0] for own in reversed(planted(rng, n_pairs, truth, shared))], 1),
                np.ones(n_pairs),
                np.arange(n_pairs),
            )
            low, high = correlation_ends(correlation, [sums], RESAMPLES // 4, 0.95, rng)
            held.append(low[0] <= r <= high[0])
        factor = f"e^±{scatter:g}"
        print(f"| {n_pairs} | {n_heads} | {factor} | {shared:.0%} | {r:.2f} | {np.mean(held):.3f} |", flush=True)


def against_exact(
    model: VisionLanguageModel,
    n_pairs: int,
    what: str,
    sites: str,
    modules: Sequence[str] = MODULES,
    leaves: Sequence[str] = LEAVES,
    world: WorldName = "drawn",
) -> None:
    """Print the table of a model, of sites with this in their names."""
    columns = [(task, corruption) for corruption in CORRUPTIONS for task in TASKS]
    print(f"\n{what}, {n_pairs} pairs of each task: correlation [95 %], same sign, of the ten largest (by chance)")
    pairs = {task: mini_world(task, n_pairs, seed=0, world=world) for task in TASKS}
    counts = ", ".join(f"{task} {len(np.unique(clusters_of(own)))}" for task, own in pairs.items())
    print(f"clusters of pairs: {counts}\n")
    print("| site | by | " + " | ".join(f"{task}, {corruption}" for task, corruption in columns) + " |")
    print("| --- | --- |" + " --- |" * len(columns))
    for site in (f"{module}.{leaf}" for module in modules for leaf in leaves):
        for method, line in lines(model, pairs, site, columns).items() if sites in site else ():
            print(f"| `{site}` | {method} | " + " | ".join(line) + " |", flush=True)


def lines(
    model: VisionLanguageModel, pairs: dict[str, MinimalPairs], site: str, columns: list[tuple[str, str]]
) -> dict[str, list[str]]:
    """A line for each method that differs at a site."""
    methods = [name for name in METHODS if name != "softmax again" or site.endswith((".q", ".k"))]
    found: dict[str, list[str]] = {method: [] for method in methods}
    for task, corruption in columns:
        if corruption == "text" and site.startswith("vision"):
            for line in found.values():
                line.append("-")
            continue
        options: dict[str, Any] = {"corruption": corruption, "progress": False}
        positions = None
        if site.startswith("language"):
            positions = [*dict.fromkeys(role for pair in pairs[task] for role in pair.roles), "last"]
        asked = patching.Site.of(model, site, positions=positions, pairs=pairs[task])
        exact = patching.sweep(model, pairs[task], asked, controls=(), metrics="logit_diff_change", **options)
        for method, line in found.items():
            estimate = patching.attribute(model, pairs[task], asked, **METHODS[method], **options)
            line.append(said(estimate[site], exact))
    return found


def cost(repeats: int) -> None:
    """Prints what all sites of a pair take, beside plain forwards of the same pair in the same minute."""
    model = HookedBLIP.from_hf(random_hf("vqa", "base"), processor(VOCABULARY, 384))
    pairs = make_pairs(1)
    inputs = pairs.prepare(model)
    forwards, attributions, gigabytes = [], [], 0.0
    found = patching.attribute(model, pairs, "text.attn", progress=False)
    with torch.no_grad():
        model(inputs)
    for _ in range(repeats):
        with torch.no_grad():
            forwards += [timed(lambda: model(inputs))[0] for _ in range(2)]
        with Peak() as peak:
            seconds, found = timed(lambda: patching.attribute(model, pairs, progress=False))
        attributions.append(seconds)
        gigabytes = max(gigabytes, peak.gigabytes)
    forward, attribution = statistics.median(forwards), statistics.median(attributions)
    n_cells = sum(int(np.prod(own.logit_diff_change.shape)) for own in found.children.values())
    print(
        f"\n{len(found.children)} sites, {n_cells} cells of a pair in {attribution:.1f} s: {attribution / forward:.1f}"
    )
    print(f"plain forwards of {forward:.2f} s; at most {gigabytes:.2f} GB more than before")
    each = statistics.median(
        timed(lambda: patching.attribute(model, pairs, positions="each", progress=False))[0] for _ in range(repeats)
    )
    print(f"every position by itself, 577 of the image: {each / forward:.1f} plain forwards")


def vlm_cost(repeats: int) -> None:
    """Print what every head at every position of a pair takes, beside plain forwards of the same pair."""
    hf, inputs_of = make(SHAPES["small"], "cpu", torch.float32)
    model = HookedVLM.from_hf(hf)
    base, other = (
        WayPoint(Given(model, inputs, "", "", Setting("image"), False), inputs, 0.0, {}, range(length - 1, length))
        for inputs in (inputs_of(1), inputs_of(2))
        for length in [inputs["input_ids"].shape[1]]
    )
    hooks = [f"language.blocks.{layer}.attn.hook_z" for layer in range(model.cfg.n_layers)]
    n_effects = 0

    def attribution() -> None:
        nonlocal n_effects
        there = other.passed(hooks)
        with weights_at_rest(model), torch.enable_grad():
            here = base.run(hooks, [])
            grads = torch.autograd.grad(difference(here.logits[:, 0]).sum(), list(here.values.values()))
        changes = (there.values[hook] - here.values[hook].detach() for hook in hooks)
        n_effects = sum((grad * change).sum(-1).numel() for grad, change in zip(grads, changes, strict=True))

    times: dict[str, list[float]] = {"forward": [], "attribution": []}
    with torch.no_grad():
        hf(**base.inputs)
    for _ in range(repeats):
        with torch.no_grad():
            times["forward"] += [timed(lambda: hf(**base.inputs, logits_to_keep=1))[0] for _ in range(2)]
        times["attribution"].append(timed(attribution)[0])
    forward, attributed = (statistics.median(times[name]) for name in ("forward", "attribution"))
    print(f"\n{n_effects} effects, all heads at {len(base.inputs['input_ids'][0])} positions of a random LLaVA:")
    print(f"{attributed / forward:.1f} plain forwards of {forward:.2f} s, both runs in it")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ONLY, default=ONLY)
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--sites", default="", help="only those with this in their names, such as decoder")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--runs", type=int, default=400, help="of each row of `coverage`")
    asked = parser.parse_args()
    if "mini" in asked.only:
        against_exact(HookedBLIP.mini(), asked.pairs, "the mini model", asked.sites)
    if "random" in asked.only:
        own = processor(VOCABULARY, 64)
        second = HookedBLIP.from_hf(random_hf("vqa", "tiny", tokenizer=own.tokenizer), own)
        against_exact(second, asked.pairs, "a model with random weights", asked.sites)
    if "llava" in asked.only:
        where = (LLAVA_MODULES, LLAVA_LEAVES, "pictures")
        against_exact(HookedVLM.mini(), asked.pairs, "the mini LLaVA", asked.sites, *where)
    if "vlm_cost" in asked.only:
        vlm_cost(asked.repeats)
    if "cost" in asked.only:
        cost(asked.repeats)
    if "coverage" in asked.only:
        coverage(asked.runs)


if __name__ == "__main__":
    main()
