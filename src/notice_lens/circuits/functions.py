"""What each head looks at: attention maps of many pairs, scored against the regions of their images."""

from typing import TYPE_CHECKING, Any

import numpy as np

from notice_lens.circuits.amounts import SMALLEST_RATIO
from notice_lens.circuits.maps import KINDS, attention_maps
from notice_lens.circuits.outliers import FACTOR
from notice_lens.circuits.scores import BACKGROUND, SMALLEST_EFFECT, score_maps
from notice_lens.models.names import one_of
from notice_lens.pairs.clusters import cluster_numbers

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.models import HookedBLIP
    from notice_lens.pairs import MinimalPairs


def head_functions(
    blip: "HookedBLIP",
    pairs: "MinimalPairs",
    site: Any = "text.cross_attn",
    *,
    roles: Any = None,
    regions: Any = None,
    maps: Any = KINDS,
    outlier_factor: float = FACTOR,
    smallest_effect: float = SMALLEST_EFFECT,
    smallest_ratio: float = SMALLEST_RATIO,
    attention: "xr.Dataset | None" = None,
    batch_size: int = 32,
    progress: bool = True,
) -> "xr.Dataset":
    """Return what each head does by where it looks from each role: segmentation, object or outlier avoidance.

    The clean run is looked at, and the regions are those of the clean image. What is scored and tested is in
    `notice_lens.circuits.scores`.

    Args:
        blip: The model.
        pairs: With `clean_regions`, or nothing can be tested.
        site: An attention from words to the image.
        roles: Names of roles; None takes all that the pairs have. With fewer roles fewer tests share the false
            discoveries.
        regions: Names of regions; None takes all but `background`.
        maps: Of `attention` and `value_weighted`; false discoveries are controlled for each of them by itself, since
            they are two readings of the same heads.
        outlier_factor: An outlier's norm over its image's median.
        smallest_effect: Of interest, as of `score_maps`.
        smallest_ratio: Of interest, as of `score_maps`.
        attention: What `attention_maps` gave for these pairs; None computes it.
        batch_size: Pairs at a time.
        progress: Whether to show a bar.

    Returns:
        What `score_maps` gives, with `maps` as the first dimension of all but `outlier`; and `class_token`
        [maps, role, layer, head]: the mean share of the attention, class token included, that the class token has.
        Attributes describe the numbers; `task` is the task of the pairs, "" where they are of several.

    Raises:
        ValueError: There is no such site, role, region or kind of map, or the maps are of other pairs.
    """
    import xarray as xr

    masks = region_masks(blip, pairs, regions)
    if attention is None:
        attention = attention_maps(blip, pairs, site, roles=roles, maps=maps, batch_size=batch_size, progress=progress)
    else:
        attention = _given(attention, pairs, roles, maps)
    options = {
        "clusters": clusters_by_images(pairs),
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
    """The scores of one kind of map, and the class token's mean share of all attention."""
    scores = score_maps(attention["weight"], masks, attention["norm"].values, **options)
    share = attention["class_token"] / (attention["class_token"] + attention["weight"].sum("patch", skipna=False))
    return scores.assign(class_token=share.mean("pair").astype(float))


def _task(pairs: "MinimalPairs") -> str:
    """Return the one task of the pairs, or nothing where they are of several."""
    tasks = set(pairs["task"])
    return str(*tasks) if len(tasks) == 1 else ""


def region_masks(blip: "HookedBLIP", pairs: "MinimalPairs", names: Any = None) -> dict[str, Any]:
    """Masks of the clean images' patches by region, bool [pair, patch], the class token left out.

    Args:
        blip: Its patch grid counts.
        pairs: The pairs.
        names: Which regions; None takes all but `background`.

    Raises:
        ValueError: No pair has a region of that name.
    """
    found = pairs.patch_masks(blip)
    known = list(dict.fromkeys(name for own in found for name in own))
    if names is None:
        chosen = [name for name in known if name != BACKGROUND]
    else:
        chosen = [names] if isinstance(names, str) else list(names)
    for name in chosen:
        if name not in known:
            raise ValueError(one_of("region of these pairs", name, known))
    n_patches = (blip.cfg.image_size // blip.cfg.patch_size) ** 2
    empty = np.zeros(n_patches, bool)
    return {name: np.stack([own[name].numpy()[1:] if name in own else empty for own in found]) for name in chosen}


def clusters_by_images(pairs: "MinimalPairs") -> np.ndarray:
    """Return the number of each pair's cluster, [pair]: pairs that are linked by any shared image are one."""
    return cluster_numbers(list(zip(pairs["clean_digest"], pairs["corrupt_digest"], strict=True)))


def _given(attention: "xr.Dataset", pairs: "MinimalPairs", roles: Any, maps: Any) -> "xr.Dataset":
    """Maps that were made before: of these pairs, and of the roles and kinds asked for."""
    if attention["pair"].values.tolist() != list(pairs["id"]):
        raise ValueError(f"the attention maps are of {attention.sizes['pair']} other pairs than the {len(pairs)} given")
    asked = {"role": roles, "maps": None if maps is KINDS else maps}
    for dim, names in asked.items():
        if names is None:
            continue
        several = [names] if isinstance(names, str) else list(names)
        for name in several:
            if name not in attention[dim].values:
                raise ValueError(one_of(f"{dim} of these attention maps", name, attention[dim].values))
        attention = attention.sel({dim: several})
    return attention
