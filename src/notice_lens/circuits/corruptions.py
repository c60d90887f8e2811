"""Comparison of corruptions: do semantic pairs, replaced tokens and Gaussian noise find the same heads?

Each corruption ranks heads. Agreement is Spearman's and Kendall's rank correlation over heads, of |effect| (which heads
matter) and of the signed effect (and which way), with intervals over pairs, resampled together for all corruptions.
Noise in the estimates lowers any agreement, so 1 is out of reach with few pairs; a bootstrap lowers it again, so
intervals reach farther out than in (see `stats.intervals`).

That a head is found under one corruption and not under another does not prove that it does nothing there: it says which
heads a study would have named.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Unpack

import numpy as np
import xarray as xr

from notice_lens.circuits.condition import ChangeMetric, Condition, one_role, read_condition
from notice_lens.circuits.evidence import partitions_of
from notice_lens.circuits.important import RuleOptions, Rules, examined
from notice_lens.errors import one_of
from notice_lens.patching.results import Effects
from notice_lens.stats.clusters import Sums
from notice_lens.stats.dims import HEADS
from notice_lens.stats.intervals import correlation_ends

AGREEMENTS = ("spearman", "kendall", "spearman_signed", "kendall_signed")
BY_CORRUPTION = ("effect", "low", "high", "q", "significant", "two_sigma", "rank")


def compare_corruptions(
    effects: Mapping[str, Effects],
    *,
    role: str | None = None,
    metric: ChangeMetric = "logit_diff_change",
    control: bool | None = None,
    noise: str | None = None,
    **options: Unpack[RuleOptions],
) -> xr.Dataset:
    """Return the rank agreement between corruptions, and the heads that are found under one and not under another.

    Args:
        effects: Effects by the corruption's name; results of the same pairs (others are left out). Each as in
            `important_heads`.
        role: As in `important_heads`.
        metric: As there.
        control: As there.
        noise: The name of the Gaussian baseline; None: the one whose corruption is a `Noise`.
        **options: `smallest_effect`, `alpha`, `method`, `n_permutations`, `n_bootstrap`, `confidence`, `cluster`,
            `seed`, as there.

    Returns:
        By `corruption, other`: `spearman` and `kendall` (of |effect|, -1 to 1), `spearman_signed` and `kendall_signed`
        (of the effect), each with `_low` and `_high`; NaN where all heads are the same. By `corruption, layer, head`:
        `effect`, `low`, `high`, `q`, `significant`, `two_sigma` and `rank`. By `layer, head`, where there is a noise
        baseline: `only_noise` (significant under noise and under no other corruption) and `only_pairs` (the reverse:
        under another and not under noise).

    Raises:
        ValueError: There are fewer than two corruptions, no pairs in common, other heads, or no such baseline.
    """
    rules = Rules(**options)
    conditions = _common(effects, role, metric, control)
    baseline = _baseline(conditions, noise)
    names, read = np.array(list(conditions), dtype=object), list(conditions.values())
    # A pair's own images link it to itself in every condition, so what it shares under one corruption counts under all.
    labels = partitions_of(read, rules.cluster)[0]
    tested = [examined(condition, labels, rules) for condition in read]
    tested[0].refuse_coarse()
    tables = [one.table(one.nulls())[list(BY_CORRUPTION)].drop_attrs() for one in tested]
    matrices = _agreement(read, labels, rules, tested[0].rng("agreement"))
    result = xr.concat(tables, dim=xr.Variable("corruption", names), join="exact").assign_coords(other=names)
    result = result.assign({name: (("corruption", "other"), values) for name, values in matrices.items()})
    if baseline is not None:
        significant = result.significant
        by_noise = significant.sel(corruption=baseline, drop=True)
        by_pairs = significant.sel(corruption=[name for name in names if name != baseline]).any("corruption")
        result = result.assign(only_noise=by_noise & ~by_pairs, only_pairs=by_pairs & ~by_noise)
    return result.assign_attrs(
        {
            "role": read[0].attrs()["role"],
            "pairs": len(read[0].gap),
            **tested[0].counts(),
            **rules.attrs(),
            "rule_significant": rules.in_words("what each effect is a share of"),
            "noise": baseline or "",
            "ranked_by": [f"{name}: {condition.ranked_by}" for name, condition in conditions.items()],
        }
    )


def rank_scores(effect: np.ndarray, kind: str) -> np.ndarray:
    """Return numbers whose cosine is the rank correlation, [..., score], from [..., place].

    For Spearman's these are centred ranks, for Kendall's tau-b the sign of each difference of two heads. SciPy's own
    functions take one sample at a time, and a bootstrap has thousands.
    """
    effect = effect if kind.endswith("signed") else np.abs(effect)
    if kind.startswith("spearman"):
        from scipy.stats import rankdata

        ranks = rankdata(effect, axis=-1)
        return ranks - ranks.mean(-1, keepdims=True)
    one, other = np.triu_indices(effect.shape[-1], 1)
    return np.sign(effect[..., one] - effect[..., other]).astype(np.float32)


def cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the cosine over the last axis; NaN where one of them is zero."""
    norm = np.sqrt(_dot(one, one) * _dot(other, other))
    return np.divide(_dot(one, other), norm, out=np.full(norm.shape, np.nan), where=norm > 0)


def _dot(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    # Signs add up to whole numbers, exact in float32 up to 5,793 heads.
    return np.einsum("...i,...i->...", one, other).astype(float)


def _agreement(
    conditions: list[Condition], labels: list[np.ndarray], rules: Rules, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return each kind of agreement with the ends of its interval, [corruption, other]."""
    n_conditions, heads = len(conditions), conditions[0].change.shape[1]
    change = np.concatenate([condition.change for condition in conditions], axis=1)
    gap = np.repeat(np.stack([condition.reach for condition in conditions], axis=1), heads, axis=1)
    partitions = [Sums.of(change, gap, one) for one in labels]

    def statistics(effect: np.ndarray) -> np.ndarray:
        """Return the agreement of each kind and each two corruptions, [number, resample]."""
        # A hundred resamples at a time: Kendall's signs of 144 heads are 10,296 for each resample and corruption.
        parts = np.array_split(effect, max(1, len(effect) // 100))
        return np.concatenate([_numbers(part.reshape(len(part), n_conditions, heads)) for part in parts], axis=1)

    point = statistics((change.sum(0) / gap.sum(0))[None])[:, 0]
    low, high = correlation_ends(statistics, partitions, rules.n_bootstrap, rules.confidence, rng)
    matrices = {}
    for ending, numbers in (("", point), ("_low", low), ("_high", high)):
        for kind, values in zip(AGREEMENTS, numbers.reshape(len(AGREEMENTS), -1), strict=True):
            matrix = np.ones((n_conditions, n_conditions))
            matrix[np.triu_indices(n_conditions, 1)] = values
            matrices[kind + ending] = np.triu(matrix) + np.triu(matrix, 1).T
    return matrices


def _numbers(effect: np.ndarray) -> np.ndarray:
    """Return the agreement of each kind and two corruptions, [number, resample], from [resample, corruption, place]."""
    numbers = []
    for kind in AGREEMENTS:
        scores = [rank_scores(effect[:, condition], kind) for condition in range(effect.shape[1])]
        numbers += [cosine(one, other) for one, other in combinations(scores, 2)]
    return np.stack(numbers)


def _common(
    effects: Mapping[str, Effects], role: str | None, metric: ChangeMetric, control: bool | None
) -> dict[str, Condition]:
    """Return the conditions, of the pairs that count in all of them."""
    if not isinstance(effects, Mapping) or len(effects) < 2:
        raise ValueError("corruptions are compared with each other: expected effects by name, two or more")
    first = {str(name): read_condition(one, role, metric, control) for name, one in effects.items()}
    one_role(first)
    pairs = {name: {*condition.effects["pair"].values.tolist()} for name, condition in first.items()}
    shared = set.intersection(*pairs.values())
    if not shared:
        sizes = ", ".join(f"{name} {len(ids)}" for name, ids in pairs.items())
        raise ValueError(f"the corruptions have no pair in common ({sizes}); sweep the same pairs under each")
    order = [pair for pair in next(iter(first.values())).effects["pair"].values.tolist() if pair in shared]
    conditions = {
        str(name): read_condition(one.sel(pair=order), role, metric, control) for name, one in effects.items()
    }
    shapes = {condition.shape for condition in conditions.values()}
    if len(shapes) > 1:
        raise ValueError(f"the corruptions have other heads ({' x '.join(HEADS)}: {sorted(shapes)})")
    return conditions


def _baseline(conditions: Mapping[str, Condition], noise: str | None) -> str | None:
    """Return the name of the Gaussian baseline, if there is one."""
    if noise is not None and noise not in conditions:
        raise ValueError(one_of("corruption", noise, conditions))
    by_noise = (name for name, condition in conditions.items() if condition.attrs()["corruption"].startswith("Noise"))
    return noise or next(by_noise, None)
