"""Scores of maps against regions: what each head does by where it looks, without any model.

For each role and region, over the pairs that have both, every head gets

- `auroc`, how well its map tells patches inside from patches outside, and `auroc_null`, its mean with the masks of
  other images (`notice_lens.circuits.mask_null`). **Segmentation** is an area above its null, **object avoidance** one
  below;
- `pointing`, `iou` and `attention_inside` (`notice_lens.circuits.overlap`), which describe and are not tested;

and for each role, over the pairs with outliers, `outlier_attention` and `outlier_expected`; **outlier avoidance** is
the first below the second (`notice_lens.circuits.outliers`). False discoveries are controlled over all of these tests
at once: heads x roles x regions x labels (Benjamini and Hochberg 1995).

Maps are of patches alone and are renormalised to sum to one. Every head is held against its own maps: attention
relative to the mean of all heads sums to zero over heads, and would make inhibitors of those that do nothing.

Limits: a head that looks where things usually are is at its null, and rightly; where the masks are the same in all
images nothing can be tested, and `testable` says so. Regions may overlap; each is scored by itself.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import false_discovery_control

from notice_lens.circuits.mask_null import areas, by_cluster, tails
from notice_lens.circuits.outliers import FACTOR, avoidance, outlier_patches
from notice_lens.circuits.overlap import crossfitted_iou, inside, pointing

if TYPE_CHECKING:
    import xarray as xr

BACKGROUND = "background"
"""What is outside of things: no region to look at, or to avoid."""
SMALLEST_EFFECT = 0.1
"""Share of the room beyond the null below which nobody would call it a function."""
MIN_CLUSTERS = 15
"""Independent images below which nothing is tested."""
FITS = ("auroc", "auroc_null", "p_segmentation", "p_avoidance", "pointing", "iou", "attention_inside")
ASIDE = ("outlier_attention", "outlier_expected", "p_outlier", "outlier_mass", "ordinary_mass")
LABELS = ("segmentation", "avoidance", "outlier")
NO_REGIONS, SAME_MASKS, NO_OUTLIERS = "no regions", "the masks are the same in all images", "no outlier patches"
SAME_PLACES = "the outliers are at the same places in all images"


def score_maps(
    weight: "xr.DataArray",
    regions: Mapping[str, Any],
    norms: Any = None,
    *,
    clusters: Sequence[Any] | None = None,
    outlier_factor: float = FACTOR,
    smallest_effect: float = SMALLEST_EFFECT,
) -> "xr.Dataset":
    """What each head does by where it looks.

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

    Returns:
        Over [role, region, layer, head]: the scores in the module's docstring, `p_segmentation`, `p_avoidance` and
        `q_segmentation`, `q_avoidance`; over [role, region] `n_pairs`, the pairs that they rest on, and `testable`, ""
        or the reason why there is no p-value. Over [role, layer, head]: `outlier_attention`, `outlier_expected` (1 is
        as much as at other patches outside the regions), `outlier_mass`, `ordinary_mass` (shares of a map), `p_outlier`
        and `q_outlier`; over [role] `n_pairs_outlier` and `testable_outlier`. `outlier` [pair, patch]. All p and q are NaN
        where nothing can be tested.

    Raises:
        ValueError: Shapes do not fit, or weights are negative.
    """
    import xarray as xr

    values, masks = _checked(weight, regions)
    labels = np.arange(len(values)) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    if len(labels) != len(values):
        raise ValueError(f"{len(labels)} labels of clusters for {len(values)} pairs")
    outside = ~np.any(
        [masks[name] for name in masks if name != BACKGROUND] or [np.zeros(values[:, 0, 0].shape)], axis=0
    )
    high = np.zeros(outside.shape, bool)
    if norms is not None and any(name != BACKGROUND and mask.any() for name, mask in masks.items()):
        high = outlier_patches(_norms(norms, outside.shape), outside, outlier_factor)
    fits, aside = _Table(FITS, ("role", "region"), weight, masks), _Table(ASIDE, ("role",), weight, masks)
    for number in range(values.shape[1]):
        maps = values[:, number]
        has_role = ~np.isnan(maps).any((1, 2))
        for place, mask in enumerate(masks.values()):
            fits.put((number, place), *_fit(maps, mask, has_role, labels, smallest_effect))
        aside.put((number,), *_beside(maps, high, outside, has_role, labels, smallest_effect))
    found = xr.Dataset(
        {
            **fits.variables("n_pairs", "testable"),
            **aside.variables("n_pairs_outlier", "testable_outlier"),
            "outlier": (("pair", "patch"), high),
        },
        fits.coords | {str(name): weight[name] for name in ("pair", "patch") if name in weight.coords},
    )
    return with_q(found).assign_attrs(_attrs(outlier_factor, smallest_effect))


def with_q(scores: "xr.Dataset") -> "xr.Dataset":
    """The scores with p-values corrected for false discoveries, over all tests of all labels together."""
    p = np.concatenate([scores[f"p_{label}"].values.ravel() for label in LABELS])
    q = np.full(p.shape, np.nan)
    tested = ~np.isnan(p)
    if tested.any():
        q[tested] = false_discovery_control(p[tested])
    sizes = np.cumsum([scores[f"p_{label}"].size for label in LABELS])
    parts = zip(LABELS, np.split(q, sizes[:-1]), strict=True)
    return scores.assign({f"q_{label}": scores[f"p_{label}"].copy(data=part.reshape(scores[f"p_{label}"].shape))
                          for label, part in parts})  # fmt: skip


class _Table:
    """Scores by name, filled place by place: with heads along the end, and a count and a reason for each place."""

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
        """Fills one place."""
        for name, own in numbers.items():
            self.values[name][place] = own.reshape(self.heads)
        self.count[place], self.reason[place] = count, reason

    def variables(self, count: str, reason: str) -> dict[str, Any]:
        """All of them, as a data set takes them."""
        found = {name: ((*self.dims, "layer", "head"), own) for name, own in self.values.items()}
        return {**found, count: (self.dims, self.count), reason: (self.dims, self.reason)}


def _fit(maps: Any, mask: Any, has_role: Any, labels: Any, margin: float) -> tuple[dict[str, Any], int, str]:
    """Scores of all heads for one role and region: by name, of how many pairs, and why not tested."""
    used = np.flatnonzero(has_role & mask.any(-1) & ~mask.all(-1))
    if not len(used):
        return {}, 0, NO_REGIONS
    maps, mask, clusters = maps[used], mask[used], grouped(labels[used])
    values = areas(maps, mask)
    found = {
        "auroc": np.trace(values, axis1=1, axis2=2) / len(used),
        "pointing": pointing(maps, mask),
        "iou": crossfitted_iou(maps, mask, clusters),
        "attention_inside": inside(maps, mask).mean(0),
    }
    if (mask == mask[0]).all():
        return found, len(used), SAME_MASKS
    if len(clusters) < MIN_CLUSTERS:
        return found, len(used), too_few(len(clusters))
    null = tails(by_cluster(values, clusters), len(used), margin)
    tested = {"auroc_null": null.mean, "p_segmentation": null.above, "p_avoidance": null.below}
    return found | tested, len(used), ""


def _beside(
    maps: Any, high: Any, outside: Any, has_role: Any, labels: Any, margin: float
) -> tuple[dict[str, Any], int, str]:
    """The same for outliers."""
    used = np.flatnonzero(has_role)
    if not high[used].any():
        return {}, 0, NO_OUTLIERS
    own = avoidance(maps[used], high[used], outside[used], grouped(labels[used]), margin)
    count = int(own.pairs.sum())
    if not count:
        return {}, 0, SAME_PLACES
    found = {
        "outlier_attention": own.attention, "outlier_expected": own.expected,
        "outlier_mass": own.outlier_mass, "ordinary_mass": own.ordinary_mass,
    }  # fmt: skip
    if own.n_clusters < MIN_CLUSTERS:
        return found, count, too_few(own.n_clusters)
    return found | {"p_outlier": own.p}, count, ""


def grouped(labels: Any) -> list[Any]:
    """The places of each label, in the order in which labels first come."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return [np.flatnonzero(inverse == number) for number in np.argsort(first)]


def too_few(n: int) -> str:
    """What is said of images that are too few."""
    return f"{n} independent images; a test needs {MIN_CLUSTERS}"


def _checked(weight: "xr.DataArray", regions: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Maps that sum to one, in float64, and masks."""
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


def _norms(norms: Any, shape: tuple[int, ...]) -> Any:
    found = np.asarray(norms, float)
    if found.shape != shape:
        raise ValueError(f"norms are {found.shape}; expected (pair, patch) {shape}")
    return found


def _attrs(outlier_factor: float, smallest_effect: float) -> dict[str, Any]:
    """What the numbers are, in words."""
    return {
        "segmentation": "auroc above auroc_null, the head's own maps with the masks of other images",
        "avoidance": "auroc below auroc_null",
        "outlier": "less attention at outliers outside all regions than at the same places of other images",
        "outlier_factor": float(outlier_factor),
        "smallest_effect": float(smallest_effect),
        "family": "q: Benjamini-Hochberg over heads x roles x regions x labels",
        "null": "all assignments of masks to clusters of images; exact moments, Pearson type III tails",
    }
