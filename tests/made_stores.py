"""Results with every kind of array, as a store takes them."""

import numpy as np
import xarray as xr

SETTINGS = {"model": {"fingerprint": "abc", "layers": 12}, "corruption": "image", "metrics": ["kl", "answer_prob"]}


def effects(n_pairs: int = 5, seed: int = 0) -> xr.Dataset:
    """A result with every kind of array."""
    g = np.random.default_rng(seed)
    dims, shape = ("pair", "layer", "role"), (n_pairs, 2, 3)
    change = g.normal(size=shape).astype("float32")
    change[1, :, 2] = np.nan
    return xr.Dataset(
        {
            "kl": (dims, change, {"unit": "nats"}),
            "change": (dims, g.normal(size=shape)),
            "below_floor": (dims, change < 0),
            "n_tokens": ("pair", np.arange(n_pairs, dtype="int16")),
            "contrast": ("pair", np.array(["red", "green", "", "bläck", "a longer answer"] * 14, object)[:n_pairs]),
        },
        coords={
            "pair": [f"p{index}" for index in range(n_pairs)],
            "role": ["[CLS]", "noun", "?"],
            "layer": [0, 11],
            "group": ("pair", np.array(["colour", None, np.nan, "größe", ""] * 14, object)[:n_pairs]),
            "minimality": ("pair", np.where(np.arange(n_pairs) == 3, np.nan, 0.5)),
            "kept": ("pair", np.arange(n_pairs) % 2 == 0),
            "site": "text.cross_attn",
        },
        attrs={"direction": "denoise", "min_gap": 1e-3, "floor": float("nan"), "seeds": [1, 2], "versions": {"a": "1"}},
    )


def empty(like: xr.Dataset) -> xr.Dataset:
    """The template of a result: one value of each variable, broadcast."""
    blank = {name: np.broadcast_to(np.zeros((), like[name].dtype), like[name].shape) for name in like.data_vars}
    return like.assign({name: (like[name].dims, values, like[name].attrs) for name, values in blank.items()})
