"""Universal heads: those that matter, with one sign, in every condition, or in at least k of them.

1. Each condition gives every head a p, that its effect is no larger than the smallest effect of interest. For one
   direction it is the p of a head whose effect in the data has that sign, and 1 for others.
2. A head matters in at least k of m conditions: the partial-conjunction p-value (Benjamini & Heller 2008, *Screening
   for partial conjunction hypotheses*, Biometrics 64). With p₁ ≤ ... ≤ pₘ it is (m - k + 1) · pₖ, for all conditions
   the largest p. Of their combinations this one holds under any dependence, and conditions do share images. The p of a
   head that is to have the same sign in these conditions is the smaller one of both directions. That needs no further
   factor of two: a p of either sign is split between the directions. Where a condition's effect is within the smallest
   one, the directions exclude each other and share the one p; where it is beyond it, a p of the wrong sign has half the
   chance.
3. False discoveries over heads: Benjamini and Hochberg.

Also reported: the selection frequency under bootstrap resampling of pairs, and the number of universal heads expected
if heads were exchangeable within each layer.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack

import numpy as np
import xarray as xr

from notice_lens.circuits.condition import ChangeMetric, one_role, read_condition
from notice_lens.circuits.evidence import DependentPairs, partitions_of
from notice_lens.circuits.important import Examined, RuleOptions, Rules, examined
from notice_lens.errors import one_of
from notice_lens.patching.results import Effects
from notice_lens.stats.clusters import first_seen, resamples
from notice_lens.stats.nulls import over_heads

PER_CONDITION = (
    "effect", "effect_of_gap", "effect_of_gap_low", "effect_of_gap_high", "effect_matched", "effect_matched_low",
    "effect_matched_high", "effect_mismatched", "effect_mismatched_low", "effect_mismatched_high", "sign", "low",
    "high", "significant", "two_sigma", "rank",
)  # fmt: skip
OF_CONDITION = ("task", "group", "corruption", "ranked_by", "share_of", "pairs", "clusters", "effective_clusters")


def universal_heads(
    conditions: Mapping[str, Effects],
    *,
    at_least: int | Literal["all"] = "all",
    same_sign: bool = True,
    role: str | None = None,
    metric: ChangeMetric = "logit_diff_change",
    control: bool | None = None,
    n_null: int = 1_000,
    **options: Unpack[RuleOptions],
) -> xr.Dataset:
    """Return which heads matter in every condition, or in at least k, and with the same sign in them.

    Args:
        conditions: Effects by the condition's name; each as in `important_heads`.
        at_least: `all`, or a number of conditions.
        same_sign: Whether the k conditions have to agree in the sign of the effect.
        role: The role at which all conditions are read, as in `important_heads`; it has to be the same in all of them.
        metric: As in `important_heads`.
        control: As in `important_heads`.
        n_null: Draws of the null that permutes heads within layers.
        **options: Options of `important_heads`: `smallest_effect`, `alpha`, `method`, `n_permutations`, `n_bootstrap`,
            `confidence`, `cluster`, `seed`. `method` is that of the single conditions; over heads it is always the
            false-discovery rate, at `alpha`.

    Returns:
        By `layer, head`: `p` (partial conjunction), `q` (over heads), `universal` (q at most alpha), `count` and
        `two_sigma_count` (conditions in which the head is significant, or stands out), `same_sign` (whether the k
        conditions with the smallest p, on which it rests, agree in sign) and `selection_frequency` (share of bootstrap
        resamples of the clusters in which the head is universal; the null distributions are those of the data). By
        `condition, layer, head`: what `important_heads` gives, its p as `p_condition` and its q as `q_condition`.
        Numbers: `null_expected` and `null_p`, how many universal heads the null gives on average, and how often as many
        as there are. Along `condition`: task, group, corruption, `ranked_by`, pairs and clusters. Where too few
        conditions have a p, everything about p is NaN.

    Raises:
        ValueError: There are fewer than two conditions, conditions have other heads, k is not a number of conditions,
            or no p could be small enough to reject.
    """
    rules = _rules(options)
    examined_by_name, together = _examine(conditions, role, metric, control, rules)
    names, tested = list(examined_by_name), list(examined_by_name.values())
    k = _number(at_least, len(tested))
    shape, as_heads = tested[0].condition.shape, tested[0].condition.place
    if not any(one.few for one in tested):
        rules.refuse_coarse(shape[0] * shape[1], min(one.clusters for one in tested), len(tested) - k + 1)
    tables, resampled = [], []
    # One condition at a time: null distributions take room.
    for one, weights in zip(tested, linked_weights(tested, together), strict=True):
        nulls = one.nulls()
        tables.append(one.table(nulls))
        again = one.test.resampled(weights)
        resampled.append(signed(one.p_values(nulls, again.statistic), again.sign))
    p_condition = np.stack([signed(table.p.values.ravel(), table.sign.values.ravel()) for table in tables])
    by_head = _over_conditions(tables, p_condition, k, same_sign, rules.alpha)
    by_head["selection_frequency"] = _selected(np.stack(resampled), k, same_sign, rules.alpha)
    expected, null_p = _within_layers(p_condition, k, same_sign, tested[0], n_null)
    result = _together(names, tables).assign({name: as_heads(values) for name, values in by_head.items()})
    result = result.assign(null_expected=expected, null_p=null_p)
    return result.assign_attrs(_attrs(tables[0], rules, k, same_sign, names, n_null))


def _over_conditions(
    tables: Sequence[xr.Dataset], p_condition: np.ndarray, k: int, same_sign: bool, alpha: float
) -> dict[str, Any]:
    """Return the conclusions for each head from its numbers in all conditions, [place]."""
    p = conjunction(p_condition, k, same_sign)
    q = over_heads(p)
    return {
        "p": p,
        "q": q,
        "universal": q <= alpha,
        "same_sign": _agree(p_condition, k),
        "count": sum(table.significant.values.ravel().astype(int) for table in tables),
        "two_sigma_count": sum(table.two_sigma.values.ravel().astype(int) for table in tables),
    }


def partial_conjunction(p: np.ndarray, k: int) -> np.ndarray:
    """Return the p-value that a head matters in at least k conditions, [..., place], from [condition, ..., place].

    A condition without a p is not evidence, so it counts as 1; where fewer than k have one the result is NaN.
    """
    ordered = np.sort(np.where(np.isnan(p), 1.0, p), axis=0)
    combined = np.minimum(1.0, (len(p) - k + 1) * ordered[k - 1])
    return np.where((~np.isnan(p)).sum(0) >= k, combined, np.nan)


def signed(p: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """Return p-values with the sign of the effect in the data, which is how both are permuted together."""
    return np.where(sign < 0, -p, p)


def conjunction(p: np.ndarray, k: int, same_sign: bool) -> np.ndarray:
    """Return the partial-conjunction p, [..., place], from signed p by condition, [condition, ..., place].

    Args:
        p: As `signed` gives them.
        k: In how many conditions a head has to matter.
        same_sign: Whether they have to agree in sign: then the smaller one of both directions.
    """
    if not same_sign:
        return partial_conjunction(np.abs(p), k)
    sides = [np.where(side * p < 0, 1.0, np.abs(p)) for side in (1, -1)]
    return np.minimum(*[partial_conjunction(one, k) for one in sides])


def _rules(options: RuleOptions) -> Rules:
    """Return the options of the single conditions. Raises TypeError for an unknown option."""
    unknown = set(options) - set(Rules.__dataclass_fields__)
    if unknown:
        raise TypeError(
            one_of("option", min(unknown), [*Rules.__dataclass_fields__, "at_least", "same_sign", "n_null"])
        )
    return Rules(**options)


def _examine(
    conditions: Mapping[str, Effects], role: str | None, metric: ChangeMetric, control: bool | None, rules: Rules
) -> tuple[dict[str, Examined], list[list[np.ndarray]]]:
    """Return the conditions with sums over their clusters, and the clusters of the pairs of all conditions together."""
    if not isinstance(conditions, Mapping) or len(conditions) < 2:
        raise ValueError("universal heads are those of several conditions: expected effects by name, two or more")
    read = {}
    for name, effects in conditions.items():
        try:
            read[str(name)] = read_condition(effects, role, metric, control)
        except (TypeError, ValueError) as error:
            raise type(error)(f"condition {name!r}: {error}") from error
    one_role(read)
    (first_name, first), *others = read.items()
    for name, condition in others:
        same = condition.shape == first.shape
        if not (same and all((condition.coords[dim] == numbers).all() for dim, numbers in first.coords.items())):
            shapes = [f"{layers} x {heads}" for layers, heads in (condition.shape, first.shape)]
            raise ValueError(
                f"condition {name!r} has other heads than {first_name!r}: layers x heads {' and '.join(shapes)}"
            )
    together = partitions_of(list(read.values()), rules.cluster)
    tested = {}
    for name, condition in read.items():
        with warnings.catch_warnings():
            # Dependence was reported for all conditions at once.
            warnings.simplefilter("ignore", DependentPairs)
            labels = partitions_of([condition], rules.cluster)[0]
        tested[name] = examined(condition, labels, rules, f" in condition {name!r}")
    return tested, together


def _number(at_least: int | Literal["all"], conditions: int) -> int:
    if at_least == "all":
        return conditions
    if isinstance(at_least, bool) or not isinstance(at_least, int) or not 1 <= at_least <= conditions:
        raise ValueError(
            f"at_least={at_least!r}: expected 'all' or a number from 1 to the {conditions} conditions there are"
        )
    return at_least


def _agree(p: np.ndarray, k: int) -> np.ndarray:
    """Return whether the k conditions with the smallest p have one sign, [place]."""
    best = np.argsort(np.where(np.isnan(p), 1.0, np.abs(p)), axis=0, kind="stable")[:k]
    return np.abs(np.sign(np.take_along_axis(p, best, axis=0)).sum(0)) == k


def linked_weights(tested: Sequence[Examined], together: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
    """Draw clusters, linked ones of several conditions together; return how often each is drawn, [resample, cluster].

    Args:
        tested: The conditions.
        together: The cluster that each pair is of where all conditions are taken together, by condition and partition.

    Returns:
        By condition and partition.
    """
    rng, by_partition = tested[0].rng("selection"), []
    for number in range(len(tested[0].labels)):
        linked_clusters = []
        for one, linked in zip(tested, together, strict=True):
            _, rows = first_seen(one.labels[number])
            linked_clusters.append(linked[number][np.unique(rows, return_index=True)[1]])
        known = np.unique(np.concatenate(linked_clusters))
        drawn = resamples(rng, len(known), tested[0].rules.n_bootstrap)
        by_partition.append([drawn[:, np.searchsorted(known, clusters)] for clusters in linked_clusters])
    return [list(weights) for weights in zip(*by_partition, strict=True)]


def _selected(p: np.ndarray, k: int, same_sign: bool, alpha: float) -> np.ndarray:
    """Return how often a head is universal, 0 to 1, [place], from signed p, [condition, resample, place]."""
    p = conjunction(p, k, same_sign)
    return np.full(p.shape[-1], np.nan) if np.isnan(p).any() else (over_heads(p) <= alpha).mean(0)


def _within_layers(p: np.ndarray, k: int, same_sign: bool, tested: Examined, n_null: int) -> tuple[float, float]:
    """Return the mean number of universal heads where heads are permuted within layers, and the p of the data."""
    joint = conjunction(p, k, same_sign)
    if np.isnan(joint).any():
        return np.nan, np.nan
    alpha, shape = tested.rules.alpha, tested.condition.shape
    observed = int((over_heads(joint) <= alpha).sum())
    tiled = np.broadcast_to(p.reshape(len(p), 1, *shape), (len(p), n_null, *shape))
    permuted = tested.rng("layers").permuted(tiled, axis=-1).reshape(len(p), n_null, -1)
    counts = (over_heads(conjunction(permuted, k, same_sign)) <= alpha).sum(-1)
    return float(counts.mean()), float((1 + (counts >= observed).sum()) / (n_null + 1))


def _together(names: list[str], tables: list[xr.Dataset]) -> xr.Dataset:
    """Return the tables of the single conditions, along `condition`."""
    renamed = [
        table[[*PER_CONDITION, "p", "q"]].rename(p="p_condition", q="q_condition").drop_attrs() for table in tables
    ]
    joined = xr.concat(renamed, dim=xr.Variable("condition", np.array(names, dtype=object)), join="exact")
    columns = {name: np.array([table.attrs[name] for table in tables]) for name in OF_CONDITION}
    return joined.assign_coords({name: ("condition", values.astype(object) if values.dtype.kind == "U" else values)
                                 for name, values in columns.items()})  # fmt: skip


def _attrs(table: xr.Dataset, rules: Rules, k: int, same_sign: bool, names: list[str], n_null: int) -> dict[str, Any]:
    which = f"all {len(names)} conditions" if k == len(names) else f"at least {k} of {len(names)} conditions"
    rule = (
        f"|effect| larger than {rules.smallest_effect:g} {'with the same sign ' if same_sign else ''}in {which}: "
        "partial-conjunction p, "
        f"false-discovery rate over heads (BH) at most {rules.alpha:g}"
    )
    return {
        **rules.attrs(),
        "role": table.attrs["role"],
        "conditions": names,
        "at_least": k,
        "same_sign": same_sign,
        "n_null": n_null,
        "rule_universal": rule,
        "rule_significant": rules.in_words("what each effect is a share of"),
        "rule_two_sigma": table.attrs["rule_two_sigma"].partition(":")[0],
        "rule_null": "heads permuted within layers, in each condition by itself",
    }
