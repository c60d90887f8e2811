r"""Interactions of two heads: AND, OR, backup, majority, series, or none beyond what single patches show.

All effects are shares of the clean-to-corrupted gap, ratios of sums over pairs. With d the share that is restored when
heads are patched into the corrupted run (`denoise`), and n the share that is lost when they are patched into the clean
run (`noise`), three numbers decide, each of them 0 for heads that have nothing to do with each other:

    interaction, denoise   I_d = d(1, 2) - d(1) - d(2)
    interaction, noise     I_n = n(1, 2) - n(1) - n(2)
    asymmetry              D = (d(1) - d(2)) - (n(1) - n(2))

**Why these.** Let F(1, 2) be the share of the gap that the answer has where each head is clean (1) or corrupted (0) and
neither changes the other's output. Then d(1) = F(1, 0), n(1) = F(1, 1) - F(0, 1), and so on, which gives D = 0, and
I_n = -I_d if no other head takes part: an AND has F = 0 unless both are clean, an OR F = 1 unless both are corrupted.
The two interactions have the same sign only where other heads take part, or one head is upstream of the other:

| I_d | I_n | D | kind | because |
| --- | --- | --- | --- | --- |
| + | - | any | AND | neither restores alone, each destroys alone |
| 0 | - | any | AND | of more heads than these two: two of three restore nothing yet |
| - | + | 0 | OR | each restores alone, neither destroys alone |
| - | 0 | 0 | OR | of more heads than these two: without two of three nothing is lost yet |
| - or 0 | + | not 0 | backup | one restores, and its loss is made up for by the other, whose output depends on it |
| + | + | any | majority | neither does anything alone; two out-vote the third, clean or corrupted |
| + | + | any | negative | one works against the answer and reads the other, whose effect has its own in it already |
| - | - | any | series | one is read by the other: each does alone what both do |
| 0 | 0 | any | negative | effects of opposite sign that add up |
| 0 | 0 | any | independent | effects of one sign that add up |
| 0 | 0 | any | single | one of them has an effect |
| 0 | 0 | any | nothing | neither has |
| any other | | | other | an interaction that has no name here |

A backup whose output does *not* depend on the first head, but is shut off after it (in an MLP, say), is an OR to every
patch of outputs, and is called so. Interactions say what two heads do to the logit difference, and its saturation is an
interaction too: where either head alone restores nearly all, they are an OR.

**How sure.** +, - and 0 are decided by intervals against a smallest interaction of interest δ: wholly above δ, wholly
below -δ, wholly between. Any other interval leaves the kind `undecided`. Intervals are bootstrap-t
over clusters of pairs (see `intervals`), and simultaneous: their level is Bonferroni's over all pairs of heads and the
seven numbers that decide, so that all kinds that are named are right with the given confidence.
"""

import warnings
from itertools import combinations

import numpy as np
import xarray as xr

from notice_lens.circuits.evidence import FewClusters, clusters_by
from notice_lens.errors import whole_number
from notice_lens.patching.results import CHANGE
from notice_lens.patching.results import gap as gap_of
from notice_lens.stats.clusters import ENOUGH_CLUSTERS, Sums, clusters_of
from notice_lens.stats.intervals import bootstrap_t

AND, OR, BACKUP, MAJORITY, SERIES = "AND", "OR", "backup", "majority", "series"
NEGATIVE, INDEPENDENT, SINGLE, NOTHING = "negative", "independent", "single", "nothing"
OTHER, UNDECIDED = "other", "undecided"
INTERACTION_KINDS = (AND, OR, BACKUP, MAJORITY, SERIES, NEGATIVE, INDEPENDENT, SINGLE, NOTHING, OTHER, UNDECIDED)
BY_DIRECTION = ("first_alone", "second_alone", "joint", "interaction")
NUMBERS = (*(f"{name} {direction}" for direction in ("denoise", "noise") for name in BY_DIRECTION), "asymmetry")
DECIDING = 7
"""Numbers whose intervals decide: two interactions, the asymmetry, and four single effects."""
PLACES_AT_ONCE = 200
"""Numbers that are resampled together, which bounds the memory."""


def interactions(
    effects: xr.Dataset,
    *,
    smallest_effect: float = 0.05,
    confidence: float = 0.95,
    n_bootstrap: int = 5_000,
    cluster: str = "image",
    seed: int = 0,
) -> xr.Dataset:
    """Name what each pair of heads does together, from effects of singles and pairs in both directions.

    Args:
        effects: A result of `patching.pairs_of_heads` with both directions.
        smallest_effect: The smallest effect, and the smallest interaction, of interest, as a share of the gap.
        confidence: That all kinds that are named are right, between 0 and 1; intervals are that much wider.
        n_bootstrap: Resamples for intervals.
        cluster: What makes pairs one piece of evidence: `image` (linked by any shared image, clean or corrupted), or a
            coordinate along `pair`. No donor takes part in these effects.
        seed: Of all resampling.

    Returns:
        Along `pair_of_heads`, with coordinates `first` and `second`: `kind` (`AND`, `OR`, `backup`, `majority`,
        `series`, `negative`, `independent`, `single`, `nothing`, `other`, or `undecided`) and `about`, the head that is
        the backup, the negative one, or the single one ("" otherwise). Along `pair_of_heads, direction`, as shares of
        the gap (restored by `denoise`, lost by `noise`): `first_alone`, `second_alone`, `joint` and `interaction`
        (joint minus both singles). Along `pair_of_heads`: `asymmetry`. Each number has `_low` and `_high`, the ends of
        its simultaneous interval. Attributes have the options, pairs and clusters. Below 15 clusters every kind is
        `undecided`, with the warning `FewClusters`.

    Raises:
        ValueError: The effects lack a direction, an option is out of range, no pair counts, or the gaps cancel.

    Example:
        >>> from notice_lens import HookedBLIP, circuits, patching
        >>> from notice_lens.pairs import mini_world
        >>> model, pairs = HookedBLIP.mini(), mini_world("states", n=16, seed=0)
        >>> heads = ["text.cross_attn.L2.H2", "text.cross_attn.L2.H4", "text.cross_attn.L2.H6"]
        >>> effects = patching.pairs_of_heads(model, pairs, heads, progress=False)
        >>> found = circuits.interactions(effects)
        >>> dict(found.interaction.sizes)
        {'pair_of_heads': 3, 'direction': 2}
    """
    _check(effects, smallest_effect, confidence)
    whole_number("n_bootstrap", n_bootstrap, 2)
    whole_number("seed", seed, 0)
    names = [str(name) for name in effects["node"].values]
    couples = list(combinations(range(len(names)), 2))
    change, gap, counted = _numbers_by_pair(effects, couples)
    labels = clusters_of(effects) if cluster == "image" else clusters_by([effects], cluster, ["image"])
    sums = Sums.of(change, gap, labels[counted])
    few = _warn_if_few(len(sums))
    level = 1 - (1 - confidence) / (DECIDING * len(couples))
    ends = _intervals(sums, n_bootstrap, level, seed)
    estimate, low, high = (
        values.reshape(len(couples), len(NUMBERS)) for values in (sums.change.sum(0) / sums.gap.sum(0), *ends)
    )
    named = [(UNDECIDED, None)] * len(couples) if few else _kinds(low, high, smallest_effect)
    about = ["" if which is None else names[couple[which]] for couple, (_, which) in zip(couples, named, strict=True)]
    kinds = {"kind": [kind for kind, _ in named], "about": about}
    first, second = ([names[couple[side]] for couple in couples] for side in (0, 1))
    return xr.Dataset(
        {
            **{name: ("pair_of_heads", np.array(words, object)) for name, words in kinds.items()},
            **_variables(estimate, ""),
            **_variables(low, "_low"),
            **_variables(high, "_high"),
        },
        coords={
            "first": ("pair_of_heads", np.array(first, object)),
            "second": ("pair_of_heads", np.array(second, object)),
            "direction": np.array(["denoise", "noise"], object),
        },
        attrs={
            "smallest_effect": float(smallest_effect), "confidence": float(confidence), "n_bootstrap": n_bootstrap,
            "cluster": cluster, "seed": seed, "pairs": int(counted.sum()), "pairs_left_out": int((~counted).sum()),
            "clusters": len(sums), "corruption": str(effects.attrs.get("corruption", "")),
            "rule": f"by intervals that hold together with {confidence:g} over {len(couples)} pairs of heads, against "
            f"{smallest_effect:g} of the gap",
        },
    )  # fmt: skip


def _check(effects: xr.Dataset, smallest_effect: float, confidence: float) -> None:
    expected = "expected the result of patching.pairs_of_heads"
    if not isinstance(effects, xr.Dataset):
        raise TypeError(f"effects are of type {type(effects).__name__}; {expected}")
    for dim in ("pair", "direction", "node", "other"):
        if CHANGE not in effects or dim not in effects[CHANGE].dims:
            raise ValueError(f"effects have no {CHANGE} along `{dim}`; {expected}")
    directions = [str(name) for name in effects["direction"].values]
    for direction in ("denoise", "noise"):
        if direction not in directions:
            raise ValueError(
                f"effects are of the direction {directions[0]!r} alone; kinds of interaction need both directions"
            )
    if not 0 < smallest_effect < 1:
        raise ValueError(f"smallest_effect={smallest_effect}: expected a share of the gap, above 0 and below 1")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: expected a number between 0 and 1")


def _numbers_by_pair(effects: xr.Dataset, couples: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the numbers of each pair in logits, [pair, couple · number], its gap, [pair], and which pairs count."""
    gap = gap_of(effects, direction="denoise").values.astype(float)
    dims = ("pair", "direction", "node", "other")
    by_direction = [
        sign * effects[CHANGE].sel(direction=name).transpose("pair", *dims[2:]).values.astype(float)
        for name, sign in (("denoise", 1), ("noise", -1))
    ]
    parts = []
    for one, two in couples:
        columns = []
        for change in by_direction:
            alone = change[:, one, one], change[:, two, two]
            joint = change[:, one, two]
            columns += [*alone, joint, joint - alone[0] - alone[1]]
        columns.append((columns[0] - columns[1]) - (columns[4] - columns[5]))
        parts += columns
    numbers = np.stack(parts, 1)
    least = float(effects.attrs.get("min_gap", 0.0))
    counted = np.isfinite(numbers).all(1) & (np.abs(gap) >= least) & (gap != 0)
    if not counted.any():
        raise ValueError(f"none of {len(gap)} pairs has a gap and an effect of every pair of heads")
    total = gap[counted].sum()
    if abs(total) < max(least * counted.sum(), 1e-12):
        raise ValueError(f"the gaps of {counted.sum()} pairs cancel (their sum is {total:.2g}): no share")
    # Ratios do not know the gaps' sign, and bootstrap-t takes a positive one.
    return np.sign(total) * numbers[counted], np.sign(total) * gap[counted], counted


def _warn_if_few(clusters: int) -> bool:
    if clusters >= ENOUGH_CLUSTERS:
        return False
    rough = f"below {ENOUGH_CLUSTERS} intervals are rough, and no kind of interaction is named"
    warnings.warn(f"{clusters} clusters of pairs: {rough}", FewClusters, stacklevel=3)
    return True


def _intervals(sums: Sums, n_bootstrap: int, level: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of each number's interval, [place], some places at a time; the resamples are the same for all."""
    ends = []
    for start in range(0, sums.change.shape[1], PLACES_AT_ONCE):
        part = Sums(sums.change[:, start : start + PLACES_AT_ONCE], sums.gap)
        ends.append(bootstrap_t([part], None, n_bootstrap, level, np.random.default_rng(seed)))
    low, high = (np.concatenate(parts) for parts in zip(*ends, strict=True))
    return low, high


def _sign(low: float, high: float, smallest: float) -> str:
    """Return `+`, `-` or `0` for an interval beyond or within the smallest effect; `?` where it is neither."""
    if low > smallest:
        return "+"
    if high < -smallest:
        return "-"
    return "0" if -smallest <= low and high <= smallest else "?"


def _kinds(low: np.ndarray, high: np.ndarray, smallest: float) -> list[tuple[str, int | None]]:
    """Return the kind of each couple, and which of its heads it is about, from ends of intervals, [couple, number]."""
    return [
        _kind({name: _sign(*ends, smallest) for name, ends in zip(NUMBERS, zip(*couple, strict=True), strict=True)})
        for couple in zip(low, high, strict=True)
    ]


def _kind(signs: dict[str, str]) -> tuple[str, int | None]:
    """Return the kind by the table of the module, and which of the two heads it is about."""
    pattern, asymmetry = signs["interaction denoise"] + signs["interaction noise"], signs["asymmetry"]
    kinds = {"+-": AND, "0-": AND, "--": SERIES, "+0": OTHER}
    if pattern in kinds:
        return kinds[pattern], None
    if pattern == "++":
        return _more_than_the_sum(signs)
    if pattern == "00":
        return _additive(signs)
    if pattern not in ("-+", "-0", "0+") or asymmetry == "?":
        return UNDECIDED, None
    if asymmetry != "0":
        # The head that restores more than its loss costs is the one that the other stands in for.
        return (BACKUP, int(asymmetry == "+")) if pattern[1] == "+" else (OTHER, None)
    return (OTHER if pattern == "0+" else OR), None


def _alone(signs: dict[str, str]) -> list[str]:
    """Return the signs of what each of two heads does alone, denoised and noised."""
    return ["".join(signs[f"{name}_alone {way}"] for way in ("denoise", "noise")) for name in ("first", "second")]


def _more_than_the_sum(signs: dict[str, str]) -> tuple[str, int | None]:
    """Return the kind of two heads that do more together than alone, in both directions, and the negative one.

    A negative head that reads the other takes a share of what that one brings, alone or not. Together they do what the
    other does alone, which is more than the sum: it is no majority.
    """
    heads = _alone(signs)
    if any("?" in of_head for of_head in heads):
        return UNDECIDED, None
    against = ["-" in of_head for of_head in heads]
    if sum(against) == 1:
        return NEGATIVE, against.index(True)
    return (OTHER if any(against) else MAJORITY), None


def _additive(signs: dict[str, str]) -> tuple[str, int | None]:
    """Return the kind of two heads whose effects add up, and the negative or the single one."""
    heads = _alone(signs)
    if any("?" in of_head for of_head in heads):
        return UNDECIDED, None
    there = [of_head != "00" for of_head in heads]
    if sum(there) < 2:
        return (SINGLE, there.index(True)) if any(there) else (NOTHING, None)
    against = ["-" in of_head for of_head in heads]
    return (NEGATIVE, against.index(True)) if sum(against) == 1 else (INDEPENDENT, None)


def _variables(values: np.ndarray, ending: str) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Return numbers, [couple, number], as variables."""
    size = len(BY_DIRECTION)
    by_direction = np.stack([values[:, :size], values[:, size : 2 * size]], 1)
    variables: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
        name + ending: (("pair_of_heads", "direction"), by_direction[..., number])
        for number, name in enumerate(BY_DIRECTION)
    }
    return {**variables, f"asymmetry{ending}": (("pair_of_heads",), values[:, -1])}
