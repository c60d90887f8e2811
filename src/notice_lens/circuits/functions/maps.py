"""Attention maps: where each head looks from the words of each role, for many pairs, in one labelled array.

Two kinds of map, both over the patches of the image:

- `attention`: the pattern, its mean over the tokens of a role.
- `value_weighted`: the pattern times the norm of what the head would write for that patch, ||a_p (W_V x_p + b_V) W_O||.
  A head may look at a place whose value is nearly nothing, so that its attention there is a place to rest
  (Kobayashi et al. 2020, Attention is Not Only a Weight, arXiv 2004.10102).

Positions that are not image patches, such as a class token or the words of a chat, are kept apart, in `elsewhere`, and
never in a map; `sink` is the share of the stream's first position alone, where attention often rests (Xiao et al. 2023,
Efficient Streaming Language Models with Attention Sinks, arXiv 2309.17453).
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

from notice_lens.errors import names_among, one_of
from notice_lens.models.in_use import one_thread_at_a_time, outside_inference_mode
from notice_lens.models.layout import Layout
from notice_lens.models.protocol import axes
from notice_lens.pairs.roles import ALL, CORRECT, missing_role
from notice_lens.progress import bar

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs
    from notice_lens.patching import Site

MapKind = Literal["attention", "value_weighted"]
MAP_KINDS: tuple[MapKind, ...] = get_args(MapKind)


@one_thread_at_a_time
@outside_inference_mode
@torch.no_grad()
def attention_maps(
    model: "VisionLanguageModel",
    pairs: "MinimalPairs",
    site: "Site | str | None" = None,
    *,
    roles: str | Sequence[str] | None = None,
    maps: MapKind | Sequence[MapKind] = MAP_KINDS,
    image: Literal["clean", "corrupt", "donor"] = "clean",
    prompt: Literal["clean", "corrupt", "donor"] = "clean",
    norm_hook: str | None = None,
    batch_size: int = 32,
    dtype: Literal["float16", "float32", "float64"] = "float32",
    progress: bool = True,
) -> "xr.Dataset":
    """Return where every head looks, for every pair: one run of the model over all pairs.

    Args:
        model: The model.
        pairs: The pairs.
        site: An attention from words to the image; None takes the model's: `text.cross_attn` in BLIP
            (`decoder.cross_attn` for captions), `language.attn` in a chat model.
        roles: Names of roles, or `all` for all words at once; None takes each that the pairs have and that sees the
            image, and `all` too where there is no `correct`. A role's map is the mean over its tokens.
        maps: Of `attention`, `value_weighted`.
        image: Which run: `clean`, `corrupt` or `donor`.
        prompt: The same of the question.
        norm_hook: Where `norm` is measured; None takes the model's `cfg.image_norm_hook`. The vision tower's last
            `hook_resid_post` can be named where it has a position for each patch, with a class token or without.
        batch_size: Pairs at a time.
        dtype: Of the result: float16, float32 or float64.
        progress: Whether to show a bar.

    Returns:
        Maps by name, with their dimensions in brackets. `weight` [maps, pair, role, layer, head, patch]: of `attention`
        0 to 1, of `value_weighted` in units of the residual stream's norm; not renormalised, NaN where a pair has no
        such role. Patches are in rows, from the top left. `elsewhere` [maps, pair, role, layer, head]: the same at
        all positions that are not patches; with the patches' attention it sums to 1. `sink`: of these, what the first
        position gets. `norm` [pair, patch]: of the image's stream, at `norm_hook`. Attributes: `site`, `grid` (rows,
        columns), `image`, `prompt`, `norm_hook`, and `beside`, what lies elsewhere, in words.

    Raises:
        ValueError: The site does not look from words at the image, there is no such role or kind of map, images have
            no common grid, or the hook point of the norm has other positions than the image has patches.
    """
    from notice_lens.patching.positions import Positions

    found, kinds = check_site(model, site), _kinds(maps, dtype)
    spans = Positions(model, pairs).words
    looked_at = str(axes(model.cfg, found.stack, found.activation)[1])
    layout = pairs.layout(model, image)
    names = roles_asked(roles, spans, blind_roles(model, layout, spans))
    grid = _grid_of(layout, looked_at)
    layers = range(model.stack(found.stack).cfg.n_layers)
    shape = (len(kinds), len(pairs), len(names), len(layers), model.stack(found.stack).cfg.n_heads)
    weight = np.full((*shape, grid[0] * grid[1]), np.nan, str(dtype))
    aside, sink = np.full(shape, np.nan, str(dtype)), np.full(shape, np.nan, str(dtype))
    norm = np.empty((len(pairs), grid[0] * grid[1]), np.float32)
    leaves = [f"{found.stack}.blocks.{layer}.{found.activation}" for layer in layers]
    last = model.cfg.image_norm_hook if norm_hook is None else norm_hook
    watched = [last, *leaves, *(map(_values_of, leaves) if "value_weighted" in kinds else ())]
    batches = _unpadded(model, pairs, image, prompt, batch_size)
    with bar(progress, "attention maps", total=len(pairs), unit="pairs") as shown:
        for numbers in batches:
            inputs = pairs.select(numbers).prepare(model, image=image, prompt=prompt)
            _, cache = model.run_with_cache(inputs, names_filter=watched)
            own = _ImagePositions.of(layout.take(numbers), looked_at, cache[leaves[0]].device)
            norm[numbers] = own.norms(cache[last], last).cpu().numpy()
            mean = _role_weights([spans[number] for number in numbers], names, cache[leaves[0]])
            for layer, leaf in enumerate(leaves):
                weighted = _weighted(model, leaf, cache, mean, kinds)
                weight[:, numbers, :, layer] = _pair_first(own.take(weighted))
                aside[:, numbers, :, layer] = _pair_first(own.sum_of_others(weighted))
                sink[:, numbers, :, layer] = _pair_first(own.at_first(weighted))
            shown.update(len(numbers))
    alone = model.cfg.streams[looked_at] == ("image",)
    attrs = {"site": found.name, "image": image, "prompt": prompt, "grid": list(grid), "norm_hook": last}
    attrs["beside"] = "class token" if alone else "words and template"
    return _dataset((weight, aside, sink, norm), pairs, (kinds, names), attrs)


class _ImagePositions(NamedTuple):
    """The positions of a batch's images in the stream that words look at.

    Attributes:
        patches: The positions of each pair's patches.
        others: True at all positions that are not patches; also at padding, which gets no attention.
    """

    patches: Int[Tensor, "pair patch"]
    others: Bool[Tensor, "pair key"]

    @classmethod
    def of(cls, layout: Layout, stack: str, device: torch.device) -> "_ImagePositions":
        """Return the positions of the examples of a layout, all with as many patches."""
        index = np.stack([layout.positions(stack, number, "image") for number in range(len(layout))])
        return cls(torch.from_numpy(index).to(device), torch.from_numpy(~layout.mask(stack, "image")).to(device))

    def take(self, values: Tensor) -> Tensor:
        """Return the values at the patches; they are [pair, key], or [kind, pair, role, head, key]."""
        index = self._spread(self.patches, values)
        return values.gather(-1, index.expand(*values.shape[:-1], -1))

    def sum_of_others(self, values: Tensor) -> Tensor:
        """Return the sum of the values over all other positions."""
        return (values * self._spread(self.others, values)).sum(-1)

    def at_first(self, values: Tensor) -> Tensor:
        """Return the values at the first position of the stream where it is no patch; 0 where it is one."""
        return values[..., 0] * self._spread(self.others[:, :1], values)[..., 0]

    def norms(self, states: Tensor, hook: str) -> Float[Tensor, "pair patch"]:
        """Return the norm of each patch, of states [row, pos, d_model] at a hook point.

        Raises:
            ValueError: The states have other positions than the image has patches.
        """
        norms = states.float().norm(dim=-1)
        if norms.shape == self.others.shape:
            return self.take(norms)
        pairs, patches = self.patches.shape
        own = norms.reshape(pairs, -1) if norms.numel() % pairs == 0 else norms
        if own.shape[-1] - patches in (0, 1):  # a class token comes first
            return own[:, own.shape[-1] - patches :]
        raise ValueError(
            f"norm_hook={hook!r} has {own.shape[-1]} positions for an image of {patches} patches; expected as many, or "
            "one more for a class token"
        )

    @staticmethod
    def _spread(by_pair: Tensor, values: Tensor) -> Tensor:
        return by_pair if values.ndim == 2 else by_pair[None, :, None, None]


def relative_attention(maps: "xr.Dataset | xr.DataArray") -> "xr.DataArray":
    """Return maps minus the mean map of all heads of all layers: for the eye alone.

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


def check_site(model: "VisionLanguageModel", site: "Site | str | None") -> "Site":
    """Return the pattern of an attention from words to the image, as a site; None is the model's own.

    Raises:
        ValueError: It looks from something else, or at something else.
    """
    from notice_lens.patching.edits import Site

    site = model.cfg.looking_site if site is None else site
    name = site if isinstance(site, str) else site.name
    module = name.removesuffix(".pattern").removesuffix(".hook_pattern").removesuffix(".z").removesuffix(".hook_z")
    found = Site.of(model, f"{module}.pattern")
    asking, looked_at = axes(model.cfg, found.stack, found.activation)
    streams = model.cfg.streams
    if "prompt" not in streams[asking] or looked_at is None or "image" not in streams[looked_at]:
        raise ValueError(
            f"site {name!r} does not look from words at the image; in this model {model.cfg.looking_site!r} does"
        )
    return found


def _unpadded(
    model: "VisionLanguageModel", pairs: "MinimalPairs", image: str, prompt: str, most: int
) -> list[list[int]]:
    """Return batches of pairs whose runs have as many positions, so that no padding moves any of them."""
    prompts = [own or pair.clean_prompt for own, pair in zip(pairs[f"{prompt}_prompt"], pairs, strict=True)]
    layout = model.layout_of(prompts, sizes=pairs.image_sizes(model, image))
    alike: dict[int, list[int]] = {}
    for number in range(len(pairs)):
        alike.setdefault(layout.length(model.cfg.prompt_stack, number), []).append(number)
    return [own[start : start + most] for own in alike.values() for start in range(0, len(own), most)]


def _pair_first(values: Tensor) -> np.ndarray:
    """Return values [kind, pair, role, ...] as an array [pair, kind, role, ...], as NumPy puts pairs in by number."""
    return values.transpose(0, 1).cpu().numpy()


def _grid_of(layout: Layout, stack: str) -> tuple[int, int]:
    """Return the one grid of all pairs' images. Raises ValueError if maps of them cannot be laid over each other."""
    if stack not in layout.stacks:
        raise ValueError(
            f"words look at `{stack}`, whose positions lie in tiles, on no one grid: no maps can be made of them"
        )
    return layout.grid(stack)


def blind_roles(model: "VisionLanguageModel", layout: Layout, spans: Sequence[dict[str, Any]]) -> set[str]:
    """Return the roles that see no image, since they come before it or are a part of it, in every pair."""
    stack = model.cfg.prompt_stack
    if "image" not in model.cfg.streams[stack]:
        return set()
    seeing = set()
    for number, own in enumerate(spans):
        image = layout.positions(stack, number, "image")
        if len(image):
            seeing |= {role for role, places in own.items() if len(places) and places[-1] > image[-1]}
    return {role for own in spans for role in own} - seeing


def _kinds(maps: Any, dtype: Any) -> list[str]:
    """Return the requested kinds of map. Raises ValueError if there are no such kinds, or no such dtype."""
    from notice_lens.patching.options import DTYPES

    if str(dtype) not in DTYPES:
        raise ValueError(one_of("dtype of maps", dtype, DTYPES))
    kinds = names_among("kind of map", maps, MAP_KINDS)
    if not kinds:
        raise ValueError(f"no kinds of map given; there are {', '.join(MAP_KINDS)}")
    return kinds


def roles_asked(asked: Any, spans: Sequence[dict[str, Any]], blind: Collection[str] = ()) -> list[str]:
    """Return the names of the requested roles.

    Args:
        asked: One or several names; None takes each role, and all words at once where there is no `correct`.
        spans: Tokens by role of each pair, as `Positions.words` gives them.
        blind: Roles that are taken only where they are named.

    Raises:
        ValueError: There is no such role, or there are no roles.
    """
    known = list(dict.fromkeys(role for found in spans for role in found))
    each = [role for role in known if role not in blind and (role != ALL or CORRECT not in known)]
    names = each if asked is None else [asked] if isinstance(asked, str) else list(asked)
    for name in names:
        if name not in known:
            raise ValueError(missing_role(name, [role for role in known if role != ALL], "role of these pairs"))
    if not names:
        raise ValueError("no roles: there are no pairs, or none were given")
    return names


def _role_weights(
    spans: Sequence[dict[str, Any]], names: Sequence[str], pattern: Tensor
) -> Float[Tensor, "pair role query"]:
    """Return the weights of the mean over each role's tokens; NaN where a pair has no such role."""
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
    model: "VisionLanguageModel", leaf: str, cache: Any, mean: Tensor, kinds: Sequence[str]
) -> Float[Tensor, "kind pair role head key"]:
    """Return the maps of one layer, of each kind."""
    pattern = einsum(cache[leaf].float(), mean, "pair head query key, pair role query -> pair role head key")
    scaled = [pattern if kind == "attention" else pattern * _value_norms(model, leaf, cache)[:, None] for kind in kinds]
    return torch.stack(scaled)


def _values_of(leaf: str) -> str:
    """Return the hook point of the values that a pattern mixes."""
    return leaf.replace("hook_pattern", "hook_v")


def _value_norms(model: "VisionLanguageModel", leaf: str, cache: Any) -> Float[Tensor, "pair head key"]:
    """Return the norm of what each head writes for a patch at an attention of 1, by the Gram matrix of its W_O."""
    W_O = model.attention_of(leaf).W_O.float()
    gram = einsum(W_O, W_O, "head d_head d_model, head other d_model -> head d_head other")
    v = cache[_values_of(leaf)].float()
    v = v.repeat_interleave(len(W_O) // v.shape[-2], dim=-2)  # query heads share key-value heads in some models
    square = einsum(v, gram, v, "pair key head d_head, head d_head other, pair key head other -> pair head key")
    return square.clamp(min=0).sqrt()


def _dataset(arrays: Any, pairs: "MinimalPairs", labels: Any, attrs: dict[str, Any]) -> "xr.Dataset":
    """Return the arrays with their names."""
    import xarray as xr

    (weight, aside, sink, norm), (kinds, roles) = arrays, labels
    dims = ("maps", "pair", "role", "layer", "head")
    coords = {
        "maps": np.array(kinds, object), "pair": np.array(pairs["id"], object), "role": np.array(roles, object),
        "layer": np.arange(weight.shape[3]), "head": np.arange(weight.shape[4]), "patch": np.arange(weight.shape[-1]),
    }  # fmt: skip
    variables = {
        "weight": ((*dims, "patch"), weight),
        "elsewhere": (dims, aside),
        "sink": (dims, sink),
        "norm": (("pair", "patch"), norm),
    }
    return xr.Dataset(variables, coords, attrs)
