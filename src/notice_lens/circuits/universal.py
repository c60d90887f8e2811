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

Beside it stand how often resampled pairs give the same answer, and how many heads would pass if what a layer's heads
do in one condition said nothing about which of them do it in another.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from notice_lens.circuits.condition import one_role, read_condition
from notice_lens.circuits.evidence import DependentPairs, partitions_of
from notice_lens.circuits.important import Examined, Rules, examined
from notice_lens.errors import one_of
from notice_lens.stats.clusters import first_seen, resamples
from notice_lens.stats.nulls import over_heads

PER_CONDITION = (
    "effect", "effect_of_gap", "effect_matched", "effect_mismatched", "sign", "low", "high", "significant", "two_sigma",
    "rank",
)  # fmt: skip
SAID = ("task", "group", "corruption", "ranked_by", "share_of", "pairs", "clusters", "effective_clusters")


def universal_heads(
    conditions: Mapping[str, Any],
    *,
    at_least: Any = "all",
    same_sign: bool = True,
    role: str | None = None,
    metric: str = "logit_diff_change",
    control: bool | None = None,
    n_null: int = 1_000,
    **options: Any,
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
        ValueError: There are fewer than two conditions, conditions have other heads, k is no number of conditions, or
            no p could be small enough to reject.
    """
    rules = _rules(options)
    found, together = _examine(conditions, role, metric, control, rules)
    k = _number(at_least, len(found))
    heads = int(np.prod(next(iter(found.values())).condition.shape))
    if not any(own.few for own in found.values()):
        rules.refuse_coarse(heads, min(own.clusters for own in found.values()), len(found) - k + 1)
    weights = _weights(list(found.values()), together)
    tables, resampled = [], []
    # One condition at a time: null distributions take room.
    for own, drawn in zip(found.values(), weights, strict=True):
        nulls = own.nulls()
        tables.append(own.table(nulls))
        again = own.test.resampled(drawn)
        resampled.append(signed(own.p_values(nulls, again.statistic), again.sign))
    p_condition = np.stack([signed(table.p.values.ravel(), table.sign.values.ravel()) for table in tables])
    by_head = _over_conditions(tables, p_condition, k, same_sign, rules.alpha)
    by_head["selection_frequency"] = _selected(np.stack(resampled), k, same_sign, rules.alpha)
    expected, null_p = _within_layers(p_condition, k, same_sign, next(iter(found.values())), n_null)
    place = next(iter(found.values())).condition.place
    result = _together(list(found), tables).assign({name: place(values) for name, values in by_head.items()})
    result = result.assign(null_expected=expected, null_p=null_p)
    return result.assign_attrs(_attrs(tables[0], rules, k, same_sign, list(found), n_null))


def _over_conditions(
    tables: Sequence[xr.Dataset], p_condition: np.ndarray, k: int, same_sign: bool, alpha: float
) -> dict[str, Any]:
    """What follows for each head from its numbers in all conditions, [place]."""
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

    A condition without a p is no evidence, so it counts as 1; where fewer than k have one the result is NaN.
    """
    ordered = np.sort(np.where(np.isnan(p), 1.0, p), axis=0)
    found = np.minimum(1.0, (len(p) - k + 1) * ordered[k - 1])
    return np.where((~np.isnan(p)).sum(0) >= k, found, np.nan)


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


def _rules(options: Mapping[str, Any]) -> Rules:
    """The options of the single conditions."""
    unknown = set(options) - set(Rules.__dataclass_fields__)
    if unknown:
        raise TypeError(
            one_of("option", min(unknown), [*Rules.__dataclass_fields__, "at_least", "same_sign", "n_null"])
        )
    return Rules(**options)


def _examine(
    conditions: Mapping[str, Any], role: str | None, metric: str, control: bool | None, rules: Rules
) -> tuple[dict[str, Examined], list[list[np.ndarray]]]:
    """The conditions with the sums over their clusters, and the clusters that pairs of all conditions make together."""
    if not isinstance(conditions, Mapping) or len(conditions) < 2:
        raise ValueError("universal heads are those of several conditions: expected effects by name, two or more")
    read = {}
    for name, effects in conditions.items():
        try:
            read[str(name)] = read_condition(effects, role, metric, control)
        except (TypeError, ValueError) as error:
            raise type(error)(f"condition {name!r}: {error}") from error
    one_role(read)
    first, *others = read.items()
    for name, condition in others:
        if condition.shape != first[1].shape or any(
            (condition.coords[dim] != own).any() for dim, own in first[1].coords.items()
        ):
            shapes = [f"{layers} x {heads}" for layers, heads in (condition.shape, first[1].shape)]
            raise ValueError(
                f"condition {name!r} has other heads than {first[0]!r}: layers x heads {' and '.join(shapes)}"
            )
    together = partitions_of(list(read.values()), rules.cluster)
    found = {}
    for name, condition in read.items():
        with warnings.catch_warnings():
            # What pairs share has been said of all conditions.
            warnings.simplefilter("ignore", DependentPairs)
            own = partitions_of([condition], rules.cluster)[0]
        found[name] = examined(condition, own, rules, f" in condition {name!r}")
    return found, together


def _number(at_least: Any, conditions: int) -> int:
    if at_least == "all":
        return conditions
    if isinstance(at_least, bool) or not isinstance(at_least, int) or not 1 <= at_least <= conditions:
        raise ValueError(
            f"at_least={at_least!r}: expected 'all' or a number from 1 to the {conditions} conditions there are"
        )
    return at_least


def _agree(p: np.ndarray, k: int) -> np.ndarray:
    """Whether the k conditions with the smallest p have one sign, [place]."""
    best = np.argsort(np.where(np.isnan(p), 1.0, np.abs(p)), axis=0, kind="stable")[:k]
    return np.abs(np.sign(np.take_along_axis(p, best, axis=0)).sum(0)) == k


def _weights(found: Sequence[Examined], together: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
    """How often each cluster is drawn, by condition and partition; what is linked over conditions is drawn together.

    Args:
        found: The conditions.
        together: The cluster that each pair is of where all conditions are taken together, by condition and partition.
    """
    rng, by_partition = found[0].rng("selection"), []
    for number in range(len(found[0].labels)):
        here = []
        for own, linked in zip(found, together, strict=True):
            _, rows = first_seen(own.labels[number])
            here.append(linked[number][np.unique(rows, return_index=True)[1]])
        known = np.unique(np.concatenate(here))
        drawn = resamples(rng, len(known), found[0].rules.n_bootstrap)
        by_partition.append([drawn[:, np.searchsorted(known, own)] for own in here])
    return [list(own) for own in zip(*by_partition, strict=True)]


def _selected(p: np.ndarray, k: int, same_sign: bool, alpha: float) -> np.ndarray:
    """Return how often a head is universal, 0 to 1, [place], from signed p, [condition, resample, place]."""
    found = conjunction(p, k, same_sign)
    if np.isnan(found).any():
        return np.full(p.shape[-1], np.nan)
    return (over_heads(found) <= alpha).mean(0)


def _within_layers(p: np.ndarray, k: int, same_sign: bool, own: Examined, n_null: int) -> tuple[float, float]:
    """Return the mean number of universal heads where heads are permuted within layers, and the p of the data."""
    found = conjunction(p, k, same_sign)
    if np.isnan(found).any():
        return np.nan, np.nan
    alpha, shape = own.rules.alpha, own.condition.shape
    seen = int((over_heads(found) <= alpha).sum())
    tiled = np.broadcast_to(p.reshape(len(p), 1, *shape), (len(p), n_null, *shape))
    permuted = own.rng("layers").permuted(tiled, axis=-1).reshape(len(p), n_null, -1)
    counts = (over_heads(conjunction(permuted, k, same_sign)) <= alpha).sum(-1)
    return float(counts.mean()), float((1 + (counts >= seen).sum()) / (n_null + 1))


def _together(names: list[str], tables: list[xr.Dataset]) -> xr.Dataset:
    """What the single conditions say, along `condition`."""
    renamed = [
        table[[*PER_CONDITION, "p", "q"]].rename(p="p_condition", q="q_condition").drop_attrs() for table in tables
    ]
    joined = xr.concat(renamed, dim=xr.Variable("condition", np.array(names, dtype=object)), join="exact")
    said = {name: ("condition", np.array([table.attrs[name] for table in tables])) for name in SAID}
    return joined.assign_coords({name: (dim, values.astype(object) if values.dtype.kind == "U" else values)
                                 for name, (dim, values) in said.items()})  # fmt: skip


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
