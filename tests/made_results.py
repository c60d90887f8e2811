"""Made-up results in the layout of the analysis: effects of heads, statistics over conditions, functions, labels."""

from typing import Any

import numpy as np
import xarray as xr


def important(layers: int = 3, heads: int = 8, seed: int = 0, **attrs: Any) -> xr.Dataset:
    """As of `circuits.important_heads`: two heads stand out, one of them with the wrong sign."""
    g = np.random.default_rng(seed)
    effect = g.normal(0, 0.01, (layers, heads))
    effect[1, 2], effect[-1, 5 % heads] = 0.31, -0.18
    mismatched = g.normal(0.02, 0.01, (layers, heads))
    width = 0.02 + abs(effect) / 8
    parts = {"of_gap": 0.7 * effect, "matched": 0.7 * effect + mismatched, "mismatched": mismatched}
    ends = {f"effect_{name}_{end}": part + way * width / 2 for name, part in parts.items()
            for end, way in (("low", -1), ("high", 1))}  # fmt: skip
    p = np.where(abs(effect) > 0.1, 1e-4, g.uniform(0.1, 1, (layers, heads)))
    found = {
        "effect": effect,
        **{f"effect_{name}": part for name, part in parts.items()},
        **ends,
        "low": effect - width,
        "high": effect + width,
        "p": p,
        "q": np.minimum(1, p * 3),
        "two_sigma": abs(effect) > 0.15,
        "significant": abs(effect) > 0.1,
        "sign": np.sign(effect).astype(int),
        "rank": (-abs(effect)).ravel().argsort().argsort().reshape(effect.shape) + 1,
    }
    said = {
        "task": "states",
        "corruption": "image",
        "role": "correct",
        "pairs": 60,
        "share_of": "what the mismatched donor leaves of the gap",
        "clusters": 58,
        "smallest_effect": 0.02,
        "ranked_by": "matched minus mismatched",
        "rule_two_sigma": "|mean| at least mean + 2 standard deviations over heads",
        "rule_significant": "|effect| larger than 0.02 of what the mismatched donor leaves of the gap, q at most 0.05",
    }
    dims = ("layer", "head")
    coords = {"layer": np.arange(layers), "head": np.arange(heads)}
    return xr.Dataset({name: (dims, values) for name, values in found.items()}, coords, said | attrs)


def untested(found: xr.Dataset) -> xr.Dataset:
    """As of `circuits.important_heads` where there are too few clusters for any p: nothing is significant."""
    none = found.p * np.nan
    return found.assign(p=none, q=none, significant=none.notnull()).assign_attrs(clusters=13)


def universal(conditions: dict[str, xr.Dataset], none: bool = False) -> xr.Dataset:
    """As of `circuits.universal_heads`."""
    kept = ["effect", "low", "high", "significant", "two_sigma", "sign"]
    joined = xr.concat(
        [one[kept].drop_attrs() for one in conditions.values()],
        xr.IndexVariable("condition", list(conditions)),
        join="exact",
    )
    p = xr.concat([one["p"] for one in conditions.values()], "condition").max("condition")
    count = joined["significant"].sum("condition")
    passed = count == len(conditions)
    found = {
        "p": p,
        "q": np.minimum(1, 3 * p),
        "universal": passed & (not none),
        "count": count,
        "same_sign": abs(joined["sign"].sum("condition")) == len(conditions),
        "selection_frequency": 1 - p,
        "two_sigma_count": joined["two_sigma"].sum("condition"),
        "null_expected": 0.3,
        "null_p": 0.012,
    }
    return joined.assign(found).assign_attrs(rule="significant in all conditions; q at most 0.05 over heads")


def profile(layers: int = 3) -> xr.Dataset:
    """As of `circuits.layer_profile`."""
    share = np.linspace(1, 2, layers) / np.linspace(1, 2, layers).sum()
    by_layer = {"share": share, "low": share * 0.8, "high": share * 1.2}
    single = {"centre_of_mass": 1.1, "centre_low": 0.9, "centre_high": 1.3, "middle_share": 0.33}
    single |= {"middle_low": 0.25, "middle_high": 0.4, "middle_p": 0.4}
    return xr.Dataset(
        {name: ("layer", values) for name, values in by_layer.items()} | single, {"layer": np.arange(layers)}
    )


def functions(layers: int = 3, heads: int = 8) -> xr.Dataset:
    """As of `circuits.head_functions`."""
    dims = ("maps", "role", "region", "layer", "head")
    coords = {
        "maps": ["attention", "value_weighted"],
        "role": ["correct", "noun"],
        "region": ["object", "distractor"],
        "layer": np.arange(layers),
        "head": np.arange(heads),
    }
    g = np.random.default_rng(3)
    shape = tuple(len(coords[dim]) for dim in dims)
    names = ("auroc", "auroc_null", "pointing", "iou", "q_segmentation", "q_avoidance")
    return xr.Dataset({name: (dims, g.uniform(size=shape)) for name in names}, coords)


def labels() -> list[dict[str, Any]]:
    """As of `circuits.label_heads`."""
    return [
        {
            "layer": 1,
            "head": 2,
            "label": "implicit segmentation",
            "evidence": "cutting inside the object costs 12 % of the gap [8, 16], p = 0.001; peers 1 %",
            "testable": True,
        },
        {"layer": 2, "head": 5, "label": None, "testable": False, "reason": "constant masks"},
    ]


def paths(layers: int = 2, heads: int = 3) -> xr.Dataset:
    """As of path patching, without baselines: a mean over pairs already."""
    dims = ("sender_layer", "sender_head", "receiver_layer", "receiver_head")
    g = np.random.default_rng(5)
    shape = (layers, heads, layers, heads)
    coords = {dim: np.arange(n) for dim, n in zip(dims, shape, strict=True)}
    return xr.Dataset({"patching_effect": (dims, g.normal(0, 0.1, shape))}, coords)


def swept(pairs: Any, corruption: str = "image", layers: int = 3, heads: int = 8, seed: int = 0) -> xr.Dataset:
    """As of `patch_heads` at `text.cross_attn`: one head restores a third of the gap at the role `correct`."""
    g = np.random.default_rng(seed)
    roles = ["[CLS]", "correct", "[SEP]"]
    shape = (len(pairs), layers, heads, len(roles))
    dims = ("pair", "layer", "head", "role")
    effect = g.normal(0, 0.01, shape)
    effect[:, 1, 2, 1] += 0.33
    control = g.normal(0.01, 0.01, shape)
    gap = g.uniform(8, 12, len(pairs))
    scale = gap[:, None, None, None]
    found = {
        "patching_effect": (dims, effect),
        "patching_effect_mismatched": (dims, control),
        "logit_diff_change": (dims, effect * scale),
        "logit_diff_change_mismatched": (dims, control * scale),
        "logit_diff_clean": ("pair", gap / 2),
        "logit_diff_corrupt": ("pair", -gap / 2),
        "noise_floor": ("pair", np.full(len(pairs), 1e-6)),
    }
    coords = {
        "pair": np.array(pairs["id"], object),
        "task": ("pair", np.array(pairs["task"], object)),
        "layer": np.arange(layers),
        "head": np.arange(heads),
        "role": roles,
    }
    attrs = {
        "direction": "denoise",
        "corruption": corruption,
        "min_gap": 1e-3,
        "model": "somewhere/mini",
        "seed": 0,
        "notice_lens": "0.1",
        "sites": '[{"stack": "text", "activation": "cross_attn.hook_z"}]',
    }
    return xr.Dataset(found, coords, attrs)
