"""Scores of maps against regions: what each head does by where it looks, without any model.

For each role and region, over the pairs that have both, every head gets

- `auroc`, how well its map tells the region's patches from those outside all regions, and `auroc_null`, its mean with
  the masks of other images (`notice_lens.stats.masks`): the *rank*;
- `attention_ratio`, its attention inside the region over the region's share of the patches, with an interval, and
  `attention_expected`, the same with the maps of other images (`amounts.py`): the *amount*;
- `pointing`, `iou` and `attention_inside` (`notice_lens.stats.masks`), which describe and are not tested;

and for each role, over the pairs with outliers, `outlier_attention` and `outlier_expected`
(`notice_lens.circuits.functions.outliers`).

**Segmentation** is a rank above its null and an amount of at least 1.5; **object avoidance** is a rank below its null
and an amount of at most 1 / 1.5; **outlier avoidance** is less attention at outliers than at the same places of other
images, by rank, and at most 1 / 1.5 of what other patches get, by amount. Each needs its rank and its amount, so its
p-value is the larger of the two. False discoveries are controlled over all of these at once: heads x roles x regions x
labels (Benjamini and Hochberg 1995).

Maps are of patches alone and are renormalised to sum to one. Every head is held against its own maps: attention
relative to the mean of all heads sums to zero over heads, and would make inhibitors of those that do nothing.

Limits: a head that looks where things usually are is at its null, and rightly; where the masks are the same in all
images nothing can be tested, and `testable` says so. Regions may overlap; each is scored separately.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from notice_lens.circuits.functions.amounts import SMALLEST_RATIO, amounts, by_habit, inside
from notice_lens.circuits.functions.maps import MAP_KINDS, MapKind, attention_maps
from notice_lens.circuits.functions.outliers import OUTLIER_FACTOR, avoidance, outlier_patches
from notice_lens.errors import names_among
from notice_lens.models.protocol import image_stream
from notice_lens.patching.edits import check_model
from notice_lens.stats.clusters import ENOUGH_CLUSTERS, clusters_of, members
from notice_lens.stats.masks import areas, by_cluster, crossfitted_iou, pointing, tails
from notice_lens.stats.nulls import over_tests

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs
    from notice_lens.patching import Site

SMALLEST_EFFECT = 0.1
"""Share of the room beyond the null below which it is not called a function."""
SCORED_LABELS = ("segmentation", "avoidance", "outlier")
AMOUNT = ("attention_ratio", "attention_ratio_low", "attention_ratio_high", "attention_expected")
OUTLIER_AMOUNT = ("outlier_attention", "outlier_attention_low", "outlier_attention_high", "outlier_expected")


class Table:
    """Scores by name, filled place by place: with heads along the end, and a count and a reason for each place.

    Args:
        names: Of the scores.
        dims: Of the places, of `role` and `region`.
        weight: The maps, for their labels.
        masks: The regions, by name.
    """

    def __init__(self, names: Sequence[str], dims: tuple[str, ...], weight: "xr.DataArray", masks: Any) -> None:
        self.dims, self.names = dims, names
        heads = {dim: weight[dim].values for dim in ("layer", "head")}
        self.coords = {
            "role": weight["role"].values,
            **({"region": np.array(list(masks), object)} if "region" in dims else {}),
            **heads,
        }
        self.shape = tuple(len(self.coords[dim]) for dim in dims)
        self.heads = tuple(map(len, heads.values()))
        self.values = {name: np.full((*self.shape, *self.heads), np.nan) for name in names}
        self.count, self.reason = np.zeros(self.shape, int), np.full(self.shape, "", object)

    def put(self, place: tuple[int, ...], numbers: Mapping[str, Any], count: int, reason: str) -> None:
        """Fill one place."""
        for name, values in numbers.items():
            self.values[name][place] = values.reshape(self.heads)
        self.count[place], self.reason[place] = count, reason

    def variables(self, count: str, reason: str) -> dict[str, Any]:
        """Return all scores, counts and reasons as variables of a data set."""
        variables = {name: ((*self.dims, "layer", "head"), values) for name, values in self.values.items()}
        return {**variables, count: (self.dims, self.count), reason: (self.dims, self.reason)}


def head_functions(
    model: "VisionLanguageModel",
    pairs: "MinimalPairs",
    site: "Site | str | None" = None,
    *,
    roles: str | Sequence[str] | None = None,
    regions: str | Sequence[str] | None = None,
    maps: MapKind | Sequence[MapKind] = MAP_KINDS,
    outlier_factor: float = OUTLIER_FACTOR,
    norm_hook: str | None = None,
    smallest_effect: float = SMALLEST_EFFECT,
    smallest_ratio: float = SMALLEST_RATIO,
    attention: "xr.Dataset | None" = None,
    batch_size: int = 32,
    progress: bool = True,
) -> "xr.Dataset":
    """Score each head by where it looks from each role: segmentation, object avoidance or outlier avoidance.

    The clean run is looked at, and the regions are those of the clean image. What is scored and tested is in
    `notice_lens.circuits.functions.scores`.

    Args:
        model: The model.
        pairs: With `clean_regions`, or nothing can be tested.
        site: An attention from words to the image; None takes the model's.
        roles: Names of roles; None takes all that the pairs have. With fewer roles fewer tests share the false
            discoveries.
        regions: Names of regions; None takes all but `background`.
        maps: Of `attention` and `value_weighted`; false discoveries are controlled for each of them separately, since
            they are two readings of the same heads.
        outlier_factor: An outlier's norm over its image's median.
        norm_hook: Where norms are measured, as of `attention_maps`: of image tokens, or of the vision tower's output.
        smallest_effect: Of interest, as of `score_maps`.
        smallest_ratio: Of interest, as of `score_maps`.
        attention: What `attention_maps` gave for these pairs; None computes it.
        batch_size: Pairs at a time.
        progress: Whether to show a bar.

    Returns:
        What `score_maps` gives, with `maps` as the first dimension of all but `outlier`; and [maps, role, layer,
        head] `elsewhere` and `sink`: the mean share of all attention that lies on no patch, and on the first position.
        Attributes describe the numbers; `task` is the task of the pairs, "" where they are of several.

    Raises:
        ValueError: There is no such site, role, region or kind of map, or the maps are of other pairs.
    """
    import xarray as xr

    check_model(model)
    masks = region_masks(model, pairs, regions)
    if attention is None:
        attention = attention_maps(
            model, pairs, site, roles=roles, maps=maps, norm_hook=norm_hook, batch_size=batch_size, progress=progress
        )
    else:
        attention = _given(attention, pairs, roles, maps)
    options = {
        "clusters": clusters_of(pairs),
        "outlier_factor": outlier_factor,
        "smallest_effect": smallest_effect,
        "smallest_ratio": smallest_ratio,
    }
    parts = [_scored(attention.sel(maps=kind), masks, options) for kind in attention["maps"].values]
    shared = parts[0]["outlier"]
    kinds = xr.Variable("maps", attention["maps"].values)
    joined = xr.concat([part.drop_vars(["outlier", "maps"], errors="ignore") for part in parts], dim=kinds)
    attrs = {**parts[0].attrs, **attention.attrs, "pairs": pairs.fingerprint, "task": _task(pairs)}
    return joined.assign(outlier=shared.drop_vars("maps", errors="ignore")).assign_attrs(attrs)


def _scored(attention: "xr.Dataset", masks: dict[str, Any], options: dict[str, Any]) -> "xr.Dataset":
    """Return the scores of one kind of map, and the mean shares of all attention that lie on no patch."""
    scores = score_maps(attention["weight"], masks, attention["norm"].values, **options)
    total = attention["elsewhere"] + attention["weight"].sum("patch", skipna=False)
    shares = {name: (attention[name] / total).mean("pair").astype(float) for name in ("elsewhere", "sink")}
    return scores.assign(shares)


def _task(pairs: "MinimalPairs") -> str:
    """Return the one task of the pairs, or nothing where they are of several."""
    tasks = set(pairs["task"])
    return str(*tasks) if len(tasks) == 1 else ""


def region_masks(model: "VisionLanguageModel", pairs: "MinimalPairs", names: Any = None) -> dict[str, Any]:
    """Return masks of the clean images' patches by region, bool [pair, patch], without other positions.

    Args:
        model: Its patch grid counts.
        pairs: The pairs.
        names: Which regions; None takes all but `background`.

    Raises:
        ValueError: No pair has a region of that name, or images have no common grid.
    """
    stack, layout = image_stream(model.cfg), pairs.layout(model)
    rows, columns = layout.grid(stack)
    by_pair, lost = pairs.covered_positions(model)
    known = list(dict.fromkeys(name for masks in by_pair for name in masks))
    things = [name for name in known if name != BACKGROUND]
    chosen = things if names is None else names_among("region of these pairs", names, known)
    lost.named(chosen).warn(stacklevel=3)
    stacked = {name: np.zeros((len(by_pair), rows * columns), bool) for name in chosen}
    for number, masks in enumerate(by_pair):
        at = layout.positions(stack, number, "image")
        for name in set(chosen) & set(masks):
            stacked[name][number] = masks[name].numpy()[at]
    return stacked


def _given(attention: "xr.Dataset", pairs: "MinimalPairs", roles: Any, maps: Any) -> "xr.Dataset":
    """Return given maps of the requested roles and kinds. Raises ValueError if they are of other pairs."""
    if attention["pair"].values.tolist() != list(pairs["id"]):
        raise ValueError(f"the attention maps are of {attention.sizes['pair']} other pairs than the {len(pairs)} given")
    for dim, names in (("role", roles), ("maps", None if maps is MAP_KINDS else maps)):
        if names is not None:
            there = attention[dim].values.tolist()
            attention = attention.sel({dim: names_among(f"{dim} of these attention maps", names, there)})
    return attention


BACKGROUND = "background"
"""What is outside of things: no region to look at, or to avoid."""


def p_names(label: str) -> tuple[str, str, str]:
    """Return the names of a label's p-values: of its rank, of its amount, and of both together."""
    return f"p_{label}_rank", f"p_{label}_amount", f"p_{label}"


FITS = (
    "auroc", "auroc_null", "pointing", "iou", "attention_inside",
    *AMOUNT, *p_names("segmentation"), *p_names("avoidance"),
)  # fmt: skip
OUTLIER_COLUMNS = (*OUTLIER_AMOUNT, "outlier_mass", "ordinary_mass", *p_names("outlier"))
NO_REGIONS, SAME_MASKS, NO_OUTLIERS = "no regions", "the masks are the same in all images", "no outlier patches"
SAME_PLACES = "the outliers are at the same places in all images"


def score_maps(
    weight: "xr.DataArray",
    regions: Mapping[str, Any],
    norms: Any = None,
    *,
    clusters: Any = None,
    outlier_factor: float = OUTLIER_FACTOR,
    smallest_effect: float = SMALLEST_EFFECT,
    smallest_ratio: float = SMALLEST_RATIO,
) -> "xr.Dataset":
    """Score each head by where it looks.

    Args:
        weight: Maps [pair, role, layer, head, patch], not negative, the class token left out; any scale; NaN where a
            pair has no such role.
        regions: Masks, bool [pair, patch], by name; all False where a pair has none. `background` is scored like any
            other, but does not count among the regions that outliers lie outside of.
        norms: [pair, patch], of the vision stack's last `hook_resid_post`; None tests no outliers.
        clusters: Of each pair, a label that pairs with the same images share; None takes each pair for itself.
        outlier_factor: An outlier's norm over its image's median.
        smallest_effect: Of interest, 0 to 1: the share of the room between a null and the best (or worst) that there
            could be. By default an area of .55 or .45 where the null is .5.
        smallest_ratio: Of interest, above 1: attention inside a region over the region's share of the patches; for
            avoidance 1 over it.

    Returns:
        The scores by name, with their dimensions in brackets.
        Over [role, region, layer, head]: the scores in the module's docstring, `attention_ratio_low` and
        `attention_ratio_high` (95 %), `p_segmentation`, `p_avoidance`, each the larger of `p_..._rank` and
        `p_..._amount`, and `q_segmentation`, `q_avoidance`; over [role, region] `n_pairs`, the pairs that they rest on,
        and `testable`, "" or the reason why there is no p-value. Over [role, layer, head]: `outlier_attention` with
        `_low` and `_high`, `outlier_expected` (1 is as much as at the mean patch outside the regions), `outlier_mass`,
        `ordinary_mass` (shares of a map), `p_outlier`, `p_outlier_rank`, `p_outlier_amount` and `q_outlier`; over
        [role] `n_pairs_outlier` and `testable_outlier`. `outlier` [pair, patch]. All p and q are NaN where nothing can
        be tested.

    Raises:
        ValueError: Shapes do not fit, weights are negative, or `smallest_ratio` is not above 1.
    """
    import xarray as xr

    if not smallest_ratio > 1:
        raise ValueError(f"expected a smallest_ratio above 1 (1 is as much attention as area), got {smallest_ratio!r}")
    margins = _Margins(smallest_effect, smallest_ratio)
    values, masks = _checked(weight, regions)
    labels = _labels(clusters, len(values))
    outside = ~np.any(
        [masks[name] for name in masks if name != BACKGROUND] or [np.zeros(values[:, 0, 0].shape)], axis=0
    )
    high = np.zeros(outside.shape, bool)
    if norms is not None and any(name != BACKGROUND and mask.any() for name, mask in masks.items()):
        high = outlier_patches(_norms(norms, outside.shape), outside, outlier_factor)
    fits, aside = Table(FITS, ("role", "region"), weight, masks), Table(OUTLIER_COLUMNS, ("role",), weight, masks)
    for number in range(values.shape[1]):
        there = np.flatnonzero(~np.isnan(values[:, number]).any((1, 2)))
        of = _Role(values[there, number], {name: mask[there] for name, mask in masks.items()}, outside[there])
        for place, (mask, area) in enumerate(of.areas()):
            fits.put((number, place), *_fit(of.maps, mask, area, labels[there], margins))
        aside.put((number,), *_beside(of.maps, high[there], of.outside, labels[there], margins))
    scores = xr.Dataset(
        {
            **fits.variables("n_pairs", "testable"),
            **aside.variables("n_pairs_outlier", "testable_outlier"),
            "outlier": (("pair", "patch"), high),
        },
        fits.coords | {str(name): weight[name] for name in ("pair", "patch") if name in weight.coords},
    )
    return with_q(scores).assign_attrs(_attrs(outlier_factor, margins))


def with_q(scores: "xr.Dataset") -> "xr.Dataset":
    """Return the scores with p-values corrected for false discoveries, over all tests of all labels together."""
    p = np.concatenate([scores[f"p_{label}"].values.ravel() for label in SCORED_LABELS])
    sizes = np.cumsum([scores[f"p_{label}"].size for label in SCORED_LABELS])
    parts = zip(SCORED_LABELS, np.split(over_tests(p), sizes[:-1]), strict=True)
    return scores.assign({f"q_{label}": scores[f"p_{label}"].copy(data=part.reshape(scores[f"p_{label}"].shape))
                          for label, part in parts})  # fmt: skip


class _Margins(NamedTuple):
    """Smallest effects of interest: of a rank (and beside a habit), and of an amount."""

    effect: float
    ratio: float


class _Role(NamedTuple):
    """The pairs that have a role.

    Attributes:
        maps: [pair, head, patch].
        masks: [pair, patch] by region.
        outside: Outside every region, [pair, patch].
    """

    maps: Any
    masks: dict[str, Any]
    outside: Any

    def areas(self) -> list[tuple[Any, Any]]:
        """Return each region's masks, and the areas [head, pair, mask] of all maps for them."""
        things = {name: mask for name, mask in self.masks.items() if name != BACKGROUND}
        by_region = dict(zip(things, areas(self.maps, list(things.values()), self.outside), strict=True))
        if BACKGROUND in self.masks:
            (by_region[BACKGROUND],) = areas(self.maps, [self.masks[BACKGROUND]], ~self.masks[BACKGROUND])
        return [(mask, by_region[name]) for name, mask in self.masks.items()]


def _fit(maps: Any, mask: Any, values: Any, labels: Any, margins: _Margins) -> tuple[dict[str, Any], int, str]:
    """Return scores of all heads for a role and region by name, the number of pairs, and why they are not tested."""
    used = np.flatnonzero(~np.isnan(values).any((0, 1)))
    if not len(used):
        return {}, 0, NO_REGIONS
    maps, mask, labels, values = maps[used], mask[used], labels[used], values[:, used][:, :, used]
    clusters, mass = members(labels), inside(maps, mask)
    even = np.broadcast_to(mask.mean(-1, keepdims=True), mass.shape)
    amount = amounts(mass, even, by_habit(maps, mask, labels), labels, margins.ratio, margins.effect)
    scores = {
        "auroc": np.trace(values, axis1=1, axis2=2) / len(used),
        "pointing": pointing(maps, mask),
        "iou": crossfitted_iou(maps, mask, clusters),
        "attention_inside": mass.mean(0),
        **dict(zip(AMOUNT, amount, strict=False)),
    }
    if (mask == mask[0]).all():
        return scores, len(used), SAME_MASKS
    if len(clusters) < ENOUGH_CLUSTERS:
        return scores, len(used), too_few(len(clusters))
    null = tails(by_cluster(values, clusters), len(used), margins.effect)
    scores |= {"auroc_null": null.mean}
    scores |= _both("segmentation", null.above, amount.p_more) | _both("avoidance", null.below, amount.p_less)
    return scores, len(used), ""


def _both(label: str, rank: Any, amount: Any) -> dict[str, Any]:
    """Return the p-values of a label that needs its rank and its amount."""
    return dict(zip(p_names(label), (rank, amount, np.maximum(rank, amount)), strict=True))


def _beside(maps: Any, high: Any, outside: Any, labels: Any, margins: _Margins) -> tuple[dict[str, Any], int, str]:
    """Return scores of all heads for outliers by name, the number of pairs, and why they are not tested."""
    if not high.any():
        return {}, 0, NO_OUTLIERS
    avoided = avoidance(maps, high, outside, labels, margins.effect)
    count = len(avoided.pairs)
    if not count:
        return {}, 0, SAME_PLACES
    amount = amounts(avoided.mass, avoided.even, avoided.habit, labels[avoided.pairs], margins.ratio, margins.effect)
    scores = {
        **dict(zip(OUTLIER_AMOUNT, amount, strict=False)),
        "outlier_mass": avoided.mass.mean(0),
        "ordinary_mass": avoided.ordinary_mass,
    }
    n_clusters = len(np.unique(labels[avoided.pairs]))
    if n_clusters < ENOUGH_CLUSTERS:
        return scores, count, too_few(n_clusters)
    return scores | _both("outlier", avoided.p, amount.p_less), count, ""


def too_few(n: int) -> str:
    """Return the reason that is given for too few images."""
    return f"{n} independent images; a test needs {ENOUGH_CLUSTERS}"


def _checked(weight: "xr.DataArray", regions: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return maps that sum to one, in float64, and masks."""
    dims = ("pair", "role", "layer", "head", "patch")
    if weight.dims != dims:
        raise ValueError(f"maps have the dimensions {', '.join(map(str, weight.dims))}; expected {', '.join(dims)}")
    values = weight.values.astype(float)
    if (values < 0).any():
        raise ValueError("maps have negative weights; attention relative to the mean of heads is for display only")
    total = values.sum(-1, keepdims=True)
    values = values / np.where(total > 0, total, 1)
    values = np.where(np.isnan(total), np.nan, values).reshape(*values.shape[:2], -1, values.shape[-1])
    masks = {str(name): np.asarray(mask, bool) for name, mask in regions.items()}
    for name, mask in masks.items():
        if mask.shape != (len(values), values.shape[-1]):
            raise ValueError(f"region {name!r} is {mask.shape}; expected (pair, patch) {len(values), values.shape[-1]}")
    return values, masks


def _labels(clusters: Any, pairs: int) -> Any:
    """Return the number of each pair's cluster, [pair]."""
    labels = np.arange(pairs) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    if len(labels) != pairs:
        raise ValueError(f"{len(labels)} labels of clusters for {pairs} pairs")
    return labels


def _norms(norms: Any, shape: tuple[int, ...]) -> Any:
    values = np.asarray(norms, float)
    if values.shape != shape:
        raise ValueError(f"norms are {values.shape}; expected (pair, patch) {shape}")
    return values


def _attrs(outlier_factor: float, margins: _Margins) -> dict[str, Any]:
    """Describe the numbers in words."""
    return {
        "segmentation": "auroc above auroc_null, and attention_ratio at least smallest_ratio",
        "avoidance": "auroc below auroc_null, and attention_ratio at most 1 / smallest_ratio",
        "outlier": "outliers outside all regions get less attention than the same places of other images, by rank, "
        "and outlier_attention is at most 1 / smallest_ratio",
        "outlier_factor": float(outlier_factor),
        "smallest_effect": float(margins.effect),
        "smallest_ratio": float(margins.ratio),
        "family": "q: Benjamini-Hochberg over heads x roles x regions x labels",
        "null": "ranks: all assignments of masks to clusters of images, exact moments, Pearson type III tails; "
        "amounts: t-tests over clusters of images",
    }
