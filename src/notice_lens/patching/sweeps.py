"""Sweeps: what every patch does to the answer of every pair, as one labelled result."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from notice_lens.models.names import one_of
from notice_lens.patching.grid import Grid, check_variants, grid_of_sites, grid_of_variants
from notice_lens.patching.options import Options
from notice_lens.patching.places import Places
from notice_lens.patching.running import Sweep
from notice_lens.patching.sites import Site

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.models import HookedBLIP
    from notice_lens.pairs import MinimalPairs


def sweep(
    blip: "HookedBLIP", pairs: "MinimalPairs", sites: Any, *, with_sites: bool | None = None, **options: Any
) -> "xr.Dataset":
    """What every patch at some sites does to every pair.

    The base run of each pair is patched with what the other run has at one cell of a site (a layer, a head, positions),
    for all cells, in one growing forward pass (see `notice_lens.patching.wave`).

    Args:
        blip: The model. Hooks on it are refused.
        pairs: Validated for it here.
        sites: One or several of `Site.of(blip, ...)`, or their names; several share their dimensions.
        with_sites: Whether the result has a dimension `site`; None: where there are several.
        **options: `corruption`: `image`, `text` or `Noise(...)`. `direction`: `denoise` (the corrupted run is patched
            with clean activations: sufficiency) or `noise` (the reverse: necessity). `metrics`: names of built-in ones,
            or a mapping of names to functions of logits [row, answer_pos, d_vocab] (the built-in ones to None).
            `contrast`: `auto` or `incorrect`, see `Batch`. `min_gap`: in logits; below it a pair's effect is NaN.
            `source`: `other`, `zero` or `mean` (over all clean runs, by role). `controls`: of `self`, `mismatched`.
            `memory`: bytes that variants may take; None takes a share of what is free. `dtype`: of the result.
            `seed`: of what is drawn. `store`: a folder to write to and to go on from. `progress`: a bar.

    Returns:
        Dimensions `pair`, then those of the sites. For each metric a variable, with `_mismatched` behind its name for
        the mismatched donor; NaN where a pair has no such role, or no donor. Baselines (`logit_diff_clean`, ...), the
        noise floor and `below_floor`; columns of the pairs as coordinates; everything to repeat it in `attrs`.

    Raises:
        ValueError: A site, an option or a metric is not what it has to be, or hooks are on the model.
        TypeError: There is no option of that name.
        PairsError: The pairs do not hold for this model.
    """
    chosen = Options.of(options)
    several = list(sites) if isinstance(sites, list | tuple) else [sites]
    if not several:
        raise ValueError("no sites given; a site is, for instance, 'text.cross_attn'")
    checked = [Site.of(blip, site) for site in several]

    def grid(places: Places, answer_length: int) -> Grid:
        return grid_of_sites(
            blip, places, checked, chosen.source, answer_length, len(checked) > 1 if with_sites is None else with_sites
        )

    return Sweep(blip, pairs, chosen, grid, [asdict(site) for site in checked]).run()


def patch_heads(
    blip: "HookedBLIP",
    pairs: "MinimalPairs",
    site: Any = "text.cross_attn",
    *,
    positions: Any = None,
    layers: Any = None,
    heads: Any = "each",
    **options: Any,
) -> "xr.Dataset":
    """What each head does, one head at a time: `pair, layer, head`, then `role`, `region`, `position` or nothing.

    Args:
        blip: The model.
        pairs: The pairs.
        site: Stack and module, `text.cross_attn`, `text.attn`, `vision.attn`, ...; any activation with heads.
        positions: `roles`, `regions`, `each`, `all`, or some by name or number; None takes roles for words, and all
            positions at once elsewhere.
        layers: One, several, or None for all.
        heads: One, several, or `each`.
        **options: As `sweep`.
    """
    found = Site.of(blip, site, layers=layers, heads=heads, positions=positions)
    if found.heads is None:
        raise ValueError(f"{found.name} has no heads; patch_modules is for what whole modules write")
    return sweep(blip, pairs, found, **options)


def patch_modules(
    blip: "HookedBLIP",
    pairs: "MinimalPairs",
    stack: Any = "text",
    *,
    positions: Any = None,
    layers: Any = None,
    **options: Any,
) -> "xr.Dataset":
    """What attention, cross-attention and MLP of a layer write, and what its block hands on: `pair, site, layer, ...`.

    Args:
        blip: The model.
        pairs: The pairs.
        stack: `vision`, `text` or `decoder`.
        positions: As `patch_heads`.
        layers: One, several, or None for all.
        **options: As `sweep`.
    """
    if stack not in blip.cfg.stacks:
        raise ValueError(one_of("stack", stack, blip.cfg.stacks))
    block = "resid_post" if stack == "vision" else "normalized_resid_post"
    names = ["attn_out", "mlp_out", block] if stack == "vision" else ["attn_out", "cross_attn_out", "mlp_out", block]
    sites = [Site.of(blip, f"{stack}.{name}", layers=layers, positions=positions) for name in names]
    return sweep(blip, pairs, sites, with_sites=True, **options)


def run_variants(blip: "HookedBLIP", pairs: "MinimalPairs", variants: Any, **options: Any) -> "xr.Dataset":
    """What arbitrary sets of edits do: groups of heads, knock-outs, circuits. Dimensions `pair, variant`.

    Args:
        blip: The model.
        pairs: The pairs.
        variants: A mapping of names to one or several edits (`Edit`), made at once.
        **options: As `sweep`; each edit has its own source.

    Raises:
        TypeError: The variants are no mapping of names, or an option has no such name.
        ValueError: A variant has no edits, or an edit does not fit the model or the pairs.
    """
    if "source" in options:
        raise TypeError("source belongs to the edits of variants: Edit(..., source=...)")
    check_variants(variants)
    chosen = Options.of(options)

    def grid(places: Places, answer_length: int) -> Grid:
        return grid_of_variants(blip, places, variants, answer_length)

    described = {name: repr(edits) for name, edits in variants.items()}
    return Sweep(blip, pairs, chosen, grid, described).run()
