"""Attention maps: where each head looks from the words of each role, for many pairs, in one labelled array.

Two kinds of map, both over the patches of the image:

- `attention`: the pattern, its mean over the tokens of a role.
- `value_weighted`: the pattern times the norm of what the head would write for that patch, ||a_p (W_V x_p + b_V) W_O||.
  A head may look at a place whose value is nearly nothing, so that its attention there is a place to rest
  (Kobayashi et al. 2020, Attention is Not Only a Weight, arXiv 2004.10102).

The class token is no place in the image. It is kept apart, in `class_token`, and never in a map.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from notice_lens.errors import one_of
from notice_lens.models.in_use import one_thread_at_a_time, outside_inference_mode
from notice_lens.pairs.roles import ALL, CORRECT, missing_role

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.models import HookedBLIP
    from notice_lens.pairs import MinimalPairs
    from notice_lens.patching import Site

KINDS = ("attention", "value_weighted")


@one_thread_at_a_time
@outside_inference_mode
@torch.no_grad()
def attention_maps(
    model: "HookedBLIP",
    pairs: "MinimalPairs",
    site: Any = "text.cross_attn",
    *,
    roles: Any = None,
    maps: Any = KINDS,
    image: str = "clean",
    prompt: str = "clean",
    batch_size: int = 32,
    dtype: Any = "float32",
    progress: bool = True,
) -> "xr.Dataset":
    """Where every head looks, for every pair: one run of the model over all pairs.

    Args:
        model: The model.
        pairs: The pairs.
        site: An attention from words to the image: `text.cross_attn`, of captions `decoder.cross_attn`.
        roles: Names of roles, or `all` for all words at once; None takes each that the pairs have, and `all` too where
            there is no `correct`. A role's map is the mean over its tokens.
        maps: Of `attention`, `value_weighted`.
        image: Which run: `clean`, `corrupt` or `donor`.
        prompt: The same of the question.
        batch_size: Pairs at a time.
        dtype: Of what is kept: float16, float32 or float64.
        progress: Whether to show a bar.

    Returns:
        Maps by name, with their dimensions in brackets.
        `weight` [maps, pair, role, layer, head, patch]: of `attention` 0 to 1, of `value_weighted` in units of the
        residual stream's norm; not renormalised, NaN where a pair has no such role. Patches are in rows, from the top
        left. `class_token` [maps, pair, role, layer, head]: the same at the class token; with the patches' attention it
        sums to 1. `norm` [pair, patch]: of the vision stack's last `hook_resid_post`. Attributes: `site`, `grid`
        (rows, columns), `image`, `prompt`.

    Raises:
        ValueError: The site does not look from words at the image, or there is no such role or kind of map.
    """
    from notice_lens.patching.positions import Positions

    found, kinds = check_site(model, site), _kinds(maps, dtype)
    spans = Positions(model, pairs).words
    names = roles_asked(roles, spans)
    layers = range(model.stack(found.stack).cfg.n_layers)
    shape = (len(kinds), len(pairs), len(names), len(layers), model.stack(found.stack).cfg.n_heads, _positions(model))
    weight, norm = np.full(shape, np.nan, str(dtype)), np.empty((len(pairs), shape[-1]), np.float32)
    leaves = [f"{found.stack}.blocks.{layer}.{found.activation}" for layer in layers]
    last = f"vision.blocks.{model.stack('vision').cfg.n_layers - 1}.hook_resid_post"
    watched = [last, *leaves, *(map(_values_of, leaves) if "value_weighted" in kinds else ())]
    for start in tqdm(range(0, len(pairs), batch_size), desc="attention maps", disable=not progress):
        numbers = range(start, min(start + batch_size, len(pairs)))
        inputs = pairs.select(numbers).prepare(model, image=image, prompt=prompt)
        _, cache = model.run_with_cache(inputs, names_filter=watched)
        norm[start : numbers.stop] = cache[last].float().norm(dim=-1).cpu().numpy()
        mean = _role_weights([spans[number] for number in numbers], names, cache[leaves[0]])
        for layer, leaf in enumerate(leaves):
            weight[:, start : numbers.stop, :, layer] = _weighted(model, leaf, cache, mean, kinds).cpu().numpy()
    return _dataset(weight, norm, pairs, (kinds, names), {"site": found.name, "image": image, "prompt": prompt})


def relative_attention(maps: "xr.Dataset | xr.DataArray") -> "xr.DataArray":
    """A map minus the mean map of all heads of all layers: for the eye alone.

    It sums to zero over heads, so that beside a few heads that look at an object even a uniform head shows less of it
    than the mean and looks as if it shunned it. No test here reads it.

    Args:
        maps: What `attention_maps` gives, or its `weight`, or any array over [..., layer, head, ...].

    Returns:
        The same dimensions.
    """
    import xarray as xr

    weight = maps["weight"] if isinstance(maps, xr.Dataset) else maps
    return (weight - weight.mean(["layer", "head"])).rename("relative_attention").assign_attrs(weight.attrs)


def check_site(model: "HookedBLIP", site: Any) -> "Site":
    """The pattern of an attention from words to the image, as a site.

    Raises:
        ValueError: It looks from something else, or at something else.
    """
    from notice_lens.models.protocol import axes
    from notice_lens.patching.edits import Site

    name = site if isinstance(site, str) else site.name
    module = name.removesuffix(".pattern").removesuffix(".hook_pattern").removesuffix(".z").removesuffix(".hook_z")
    found = Site.of(model, f"{module}.pattern")
    kinds, (words, keys) = model.cfg.streams, axes(model.cfg, found.stack, found.activation)
    if "prompt" not in kinds[words] or keys is None or "image" not in kinds[keys]:
        looking = "decoder.cross_attn" if model.cfg.kind == "caption" else "text.cross_attn"
        raise ValueError(f"site {name!r} does not look from words at the image; of this model {looking!r} does")
    return found


def _kinds(maps: Any, dtype: Any) -> list[str]:
    """Return the kinds of map asked for. Raises ValueError where there are no such kinds, or no such dtype."""
    from notice_lens.patching.options import DTYPES

    if str(dtype) not in DTYPES:
        raise ValueError(one_of("dtype of maps", dtype, DTYPES))
    kinds = [maps] if isinstance(maps, str) else list(maps)
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(one_of("kind of map", kind, KINDS))
    if not kinds:
        raise ValueError(f"no kinds of map given; there are {', '.join(KINDS)}")
    return kinds


def roles_asked(asked: Any, spans: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of the roles asked for.

    Args:
        asked: One or several names; None takes each role, and all words at once where there is no `correct`.
        spans: Tokens by role of each pair, as `Positions.words` gives them.

    Raises:
        ValueError: There is no such role, or none at all.
    """
    known = list(dict.fromkeys(role for found in spans for role in found))
    each = [role for role in known if role != ALL or CORRECT not in known]
    names = each if asked is None else [asked] if isinstance(asked, str) else list(asked)
    for name in names:
        if name not in known:
            raise ValueError(missing_role(name, [role for role in known if role != ALL], "role of these pairs"))
    if not names:
        raise ValueError("no roles: there are no pairs, or none were given")
    return names


def _positions(model: "HookedBLIP") -> int:
    return (model.cfg.image_size // model.cfg.patch_size) ** 2 + 1


def _role_weights(
    spans: Sequence[dict[str, Any]], names: Sequence[str], pattern: Tensor
) -> Float[Tensor, "pair role query"]:
    """What takes the mean over each role's tokens; NaN where a pair has no such role."""
    mean = torch.zeros(len(spans), len(names), pattern.shape[-2], dtype=torch.float32)
    for pair, own in enumerate(spans):
        for number, name in enumerate(names):
            places = own.get(name, np.arange(0))
            if len(places):
                mean[pair, number, places] = 1 / len(places)
            else:
                mean[pair, number] = torch.nan
    return mean.to(pattern.device)


def _weighted(
    model: "HookedBLIP", leaf: str, cache: Any, mean: Tensor, kinds: Sequence[str]
) -> Float[Tensor, "kind pair role head key"]:
    """The maps of one layer, of each kind."""
    pattern = einsum(cache[leaf].float(), mean, "pair head query key, pair role query -> pair role head key")
    scaled = [pattern if kind == "attention" else pattern * _value_norms(model, leaf, cache)[:, None] for kind in kinds]
    return torch.stack(scaled)


def _values_of(leaf: str) -> str:
    """The hook point of the values that a pattern mixes."""
    return leaf.replace("hook_pattern", "hook_v")


def _value_norms(model: "HookedBLIP", leaf: str, cache: Any) -> Float[Tensor, "pair head key"]:
    """Norm of what each head writes for each patch where its attention is 1, by the Gram matrix of its W_O."""
    W_O = model.attention_of(leaf).W_O.float()
    gram = einsum(W_O, W_O, "head d_head d_model, head other d_model -> head d_head other")
    v = cache[_values_of(leaf)].float()
    square = einsum(v, gram, v, "pair key head d_head, head d_head other, pair key head other -> pair head key")
    return square.clamp(min=0).sqrt()


def _dataset(weight: Any, norm: Any, pairs: "MinimalPairs", labels: Any, attrs: dict[str, Any]) -> "xr.Dataset":
    """The arrays with their names, the class token apart."""
    import xarray as xr

    kinds, roles = labels
    side = round((weight.shape[-1] - 1) ** 0.5)
    dims = ("maps", "pair", "role", "layer", "head")
    coords = {
        "maps": np.array(kinds, object), "pair": np.array(pairs["id"], object), "role": np.array(roles, object),
        "layer": np.arange(weight.shape[3]), "head": np.arange(weight.shape[4]), "patch": np.arange(side * side),
    }  # fmt: skip
    variables = {
        "weight": ((*dims, "patch"), weight[..., 1:]),
        "class_token": (dims, weight[..., 0]),
        "norm": (("pair", "patch"), norm[:, 1:]),
    }
    return xr.Dataset(variables, coords, {**attrs, "grid": [side, side]})
