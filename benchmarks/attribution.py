"""Attribution beside exact patches, and what it costs.

    python benchmarks/attribution.py              # all tables; about ten minutes on two cores
    python benchmarks/attribution.py --only random

- `mini`: over the heads of the mini model, by site, task and corruption: Pearson correlation with exact patches, how
  often the sign agrees where the exact effect is 0.1 % of the gap or more, and how many of the ten largest are the
  same. Effects are means over pairs; a cell is a layer, a head and a role (of images, a layer and a head).
- `random`: the same of a second model that nobody trained, with random weights of a real size (see
  `notice_lens.models.blip.random_blip`), on the same pictures and questions.
- `cost`: all sites of a pair on the architecture of blip-vqa-base with random weights, in plain forwards of it.

Ratios are of times of one run; machines are noisy, and absolute times mean little.
"""

import argparse
import statistics
from typing import Any

import numpy as np
import torch

from notice_lens import HookedBLIP, patching
from notice_lens.models.blip.random_blip import processor, random_hf
from notice_lens.pairs import MinimalPairs, mini_world
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
ONLY = ("mini", "random", "cost")


def agreement(estimate: Any, exact: Any) -> str:
    """Pearson correlation, agreement of signs, and overlap of the ten largest; a dash where nothing moves.

    Nothing does where the model says of the corrupted question what it says of the clean one: the contrast is then the
    correct answer itself.
    """
    gap = float(abs(exact.logit_diff_clean - exact.logit_diff_corrupt).mean())
    found, true = (own.logit_diff_change.mean("pair").values.ravel() for own in (estimate, exact))
    found, true = found[~np.isnan(true)], true[~np.isnan(true)]
    counted = abs(true) >= LEAST * gap
    if gap < LEAST or not counted.any():
        return "-"
    r = np.corrcoef(found, true)[0, 1] if found.std() else np.nan
    signs = (np.sign(found) == np.sign(true))[counted].mean()
    tops = [set(np.argsort(-abs(own))[:10]) for own in (found, true)]
    return f"{r:.2f}, {signs:.0%}, {len(tops[0] & tops[1])}"


def against_exact(model: HookedBLIP, n_pairs: int, what: str, sites: str) -> None:
    """Print the table of a model, of sites with this in their names."""
    columns = [(task, corruption) for corruption in CORRUPTIONS for task in TASKS]
    print(f"\n{what}, {n_pairs} pairs of each task: correlation, same sign, of the ten largest\n")
    print("| site | by | " + " | ".join(f"{task}, {corruption}" for task, corruption in columns) + " |")
    print("| --- | --- |" + " --- |" * len(columns))
    pairs = {task: mini_world(task, n_pairs, seed=0) for task in TASKS}
    for site in (f"{module}.{leaf}" for module in MODULES for leaf in LEAVES):
        for method, line in lines(model, pairs, site, columns).items() if sites in site else ():
            print(f"| `{site}` | {method} | " + " | ".join(line) + " |", flush=True)


def lines(
    model: HookedBLIP, pairs: dict[str, MinimalPairs], site: str, columns: list[tuple[str, str]]
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
        exact = patching.sweep(model, pairs[task], site, controls=(), metrics="logit_diff_change", **options)
        for method, line in found.items():
            estimate = patching.attribute(model, pairs[task], site, **METHODS[method], **options)
            line.append(agreement(estimate[site], exact))
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


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ONLY, default=ONLY)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--sites", default="", help="only those with this in their names, such as decoder")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    if "mini" in asked.only:
        against_exact(HookedBLIP.mini(), asked.pairs, "the mini model", asked.sites)
    if "random" in asked.only:
        own = processor(VOCABULARY, 64)
        second = HookedBLIP.from_hf(random_hf("vqa", "tiny", tokenizer=own.tokenizer), own)
        against_exact(second, asked.pairs, "a model with random weights", asked.sites)
    if "cost" in asked.only:
        cost(asked.repeats)


if __name__ == "__main__":
    main()
