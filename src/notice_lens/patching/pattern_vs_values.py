"""A head's effect, decomposed: where it looks (the pattern), and what it reads there (the values).

What a head gives at a position is its pattern there times the values of what it looks at, z = A v. So a patch of z from
the other run changes two things at once. Of each position that is patched:

    pattern      z = A(other) v(base)     the head looks where it looks in the other run, and reads what is there
    values       z = A(base) v(other)     it looks where it looked, and reads what the other run has there
    both         z = A(other) v(other)    the patch of z itself
    interaction  both - pattern - values  what needs both: new values at new places, and what the model makes of the sum

The first three are rows of one wave, patches of `hook_z`; in each of them everything else is the base run's, so that
the first is the patch of the head's rows of the pattern, and the second that of its values as these positions read
them. The interaction is a difference of their changes.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, Unpack

from notice_lens.models.in_use import one_thread_at_a_time, outside_inference_mode
from notice_lens.patching.edits import Site, check_model
from notice_lens.patching.engine.measure import Variant
from notice_lens.patching.grid import Grid, grid_of_sites
from notice_lens.patching.nodes import MLP_MODULE, Node, is_name, modules
from notice_lens.patching.options import (
    Numbers,
    Options,
    PositionSpec,
    SplitOptions,
    refuse_fixed,
    refuse_mismatched,
)
from notice_lens.patching.prepare import Prepared, prepare
from notice_lens.patching.runner import SweepRunner

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs

SOURCE_OF_PART = {"pattern": "pattern", "values": "values", "both": "other"}
"""The parts that are patched, and the source of each."""
CHANGES = ("prob_change", "logit_diff_change", "patching_effect")
"""Metrics that are 0 where nothing is patched, so that their difference means something."""
FIXED_BY_SPLIT = {
    "source": "the parts of a head come from the other run",
    "metrics": f"an interaction is a difference of changes, so there are {', '.join(CHANGES)}",
}


@one_thread_at_a_time
@outside_inference_mode
def split(
    model: "VisionLanguageModel",
    pairs: "MinimalPairs",
    site: str | Site | None = None,
    *,
    layers: Numbers | None = None,
    heads: Numbers | Literal["each"] = "each",
    positions: PositionSpec | None = None,
    **options: "Unpack[SplitOptions]",
) -> "xr.Dataset":
    """Patch each head by its pattern alone, by its values alone and by both, and return what needs both beside them.

    Args:
        model: The model. Hooks on it are refused.
        pairs: Validated for it here.
        site: Stack and module, `text.cross_attn`, `language.attn`, `vision.attn`, ...; a `Site` of its `z`; or one
            head, `text.cross_attn.L1.H3`. None takes `model.cfg.default_site`.
        layers: One, several, or None for all.
        heads: One, several, or `each`.
        positions: Where the head gives something else: `roles`, `regions`, `each`, `all`, or some by name or number;
            None as in `patch_heads`.
        **options: As `sweep`: `corruption`, `direction`, `store`, ... `controls`: `self` or `()`.

    Returns:
        Dimensions `pair, part, layer, head` and those of the positions. `part` is `pattern`, `values`, `both` and
        `interaction`, which is both minus pattern minus values. Variables are `logit_diff_change`, `prob_change` and
        `patching_effect`, the baselines of a sweep, the noise floor and `below_floor`; `aggregate` gives means.

    Raises:
        ValueError: The site has no heads, an option is invalid, or the model has hooks.
        TypeError: An option is unknown, or is not one of `split`.
        PairsError: The pairs do not hold for this model.

    Example:
        >>> from notice_lens import HookedBLIP, patching
        >>> from notice_lens.pairs import mini_world
        >>> model, pairs = HookedBLIP.mini(), mini_world("states", n=4, seed=0)
        >>> parts = patching.split(model, pairs, "text.cross_attn", layers=1, progress=False)
        >>> dict(parts.logit_diff_change.sizes)
        {'pair': 4, 'part': 4, 'layer': 1, 'head': 8, 'role': 6}
        >>> patching.aggregate(parts).sel(part="pattern").dims
        ('layer', 'head', 'role')
    """
    checked = _site(model, pairs, site, layers, heads, positions)
    refuse_fixed(options, FIXED_BY_SPLIT, "a split")
    refuse_mismatched(options, "a split has the control 'self'; the mismatched donor of a whole head is patch_heads's")
    prepared = prepare(model, pairs, Options.of({"controls": "self", **options, "metrics": CHANGES}))
    return with_interaction(SweepRunner(prepared, _grid(prepared, checked), {"split": asdict(checked)}).run())


def _grid(prepared: Prepared, site: Site) -> Grid:
    """Return the grid of the site's heads, once for each part."""
    whole = grid_of_sites(prepared, [site], "other")
    variants = [
        Variant((number, *one.at), tuple(edit.by(source) for edit in one.edits))
        for number, source in enumerate(SOURCE_OF_PART.values())
        for one in whole.variants
    ]
    return Grid(("part", *whole.dims), {"part": list(SOURCE_OF_PART), **whole.coords}, variants)


def _site(
    model: "VisionLanguageModel", pairs: "MinimalPairs", site: Any, layers: Any, heads: Any, positions: Any
) -> Site:
    """The site of the heads' z."""
    check_model(model)
    valid = ", ".join(repr(name) for name in modules(model) if not name.endswith(f".{MLP_MODULE}"))
    site = model.cfg.default_site if site is None else site
    if isinstance(site, str) and is_name(site):
        node = Node.of(model, site)
        if layers is not None or heads != "each":
            raise ValueError(f"{site!r} is one head already; layers and heads go with a module, {node.module!r}")
        if node.head is None:
            raise ValueError(f"{site!r} is not a head; only heads have a pattern and values, those of {valid}")
        site, layers, heads = node.module, node.layer, node.head
    found = Site.of(model, site, layers=layers, heads=heads, positions=positions, pairs=pairs)
    if not found.activation.endswith("hook_z"):
        raise ValueError(f"{found.name} cannot be split: pattern times values is a head's z, of {valid}")
    return found


def with_interaction(effects: "xr.Dataset") -> "xr.Dataset":
    """Return a split with its interaction: what needs pattern and values together."""
    import xarray as xr

    by_part = effects[[name for name, values in effects.data_vars.items() if "part" in values.dims]]
    rest = effects.drop_vars(list(by_part.data_vars)).drop_dims("part")
    names = [name for name in by_part.data_vars if name != "below_floor"]
    parts = {part: by_part[names].sel(part=part, drop=True) for part in SOURCE_OF_PART}
    needs_both = (parts["both"] - parts["pattern"] - parts["values"]).expand_dims(part=["interaction"], axis=1)
    joined = xr.concat([by_part[names], needs_both], dim="part", data_vars="all", join="exact").transpose(
        "pair", "part", ...
    )
    joined["part"] = joined.part.astype(object)
    found = rest.assign({name: joined[name] for name in names})
    if "below_floor" in effects:
        found["below_floor"] = abs(found.logit_diff_change) <= found.noise_floor
    return found.assign_attrs(effects.attrs)
