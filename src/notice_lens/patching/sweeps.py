"""Sweeps: the effect of every patch on the answer of every pair, as one labelled result.

Each verb checks its options and sites, prepares the pairs, lays a grid over them and runs it:

    Options, Site  ->  prepare  ->  grid_of_sites  ->  SweepRunner.run
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, Unpack

from notice_lens.errors import one_of
from notice_lens.models.in_use import one_thread_at_a_time, outside_inference_mode
from notice_lens.patching.edits import Edit, Site, check_model
from notice_lens.patching.engine.metrics import USUAL
from notice_lens.patching.grid import check_variants, grid_of_sites, grid_of_variants
from notice_lens.patching.options import (
    CONTROLS,
    Controls,
    Corruption,
    Direction,
    Metrics,
    MoreOptions,
    Numbers,
    Options,
    PositionSpec,
    Source,
    StorePath,
    SweepOptions,
    VariantOptions,
)
from notice_lens.patching.prepare import prepare
from notice_lens.patching.runner import SweepRunner

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs


@one_thread_at_a_time
@outside_inference_mode
def sweep(
    model: "VisionLanguageModel",
    pairs: "MinimalPairs",
    sites: str | Site | Sequence[str | Site],
    *,
    with_sites: bool | None = None,
    corruption: Corruption = "image",
    direction: Direction = "denoise",
    metrics: Metrics = USUAL,
    source: Source = "other",
    controls: Controls = CONTROLS,
    store: StorePath = None,
    progress: bool = True,
    **options: "Unpack[MoreOptions]",
) -> "xr.Dataset":
    """Patch every layer, head and position of some sites, one at a time, and return the effects on every pair.

    For each cell of a site (a layer, a head, positions), the base run of a pair is repeated with the cell's activation
    taken from the other run. All cells are computed together, without a forward pass for each: see
    `notice_lens.patching.engine.wave` for BLIP, `notice_lens.patching.engine.causal.wave` for hosted models.

    Args:
        model: The model. Hooks on it are refused.
        pairs: Validated for it here.
        sites: One or several of `Site.of(model, ...)`, or their names; several share their dimensions.
        with_sites: Whether the result has a dimension `site`; None adds it where there are several.
        corruption: `image`, `text` or `Noise(...)`.
        direction: `denoise` (the corrupted run is patched with clean activations: sufficiency) or `noise` (the reverse:
            necessity).
        metrics: Names of built-in ones, or a mapping of names to functions of logits [row, answer_pos, d_vocab] (the
            built-in ones to None).
        source: `other` (the other run of the pair), `zero`, `mean` (over all clean runs, by role) or `resample`
            (another pair's clean run).
        controls: `self`, `mismatched`, both, or `()` for none.
        store: A folder to write to, and to resume from.
        progress: Whether to show a bar.
        **options: `contrast`: `auto` or `incorrect`, the foil. `min_gap`: in logits; below it a pair's effect is NaN.
            `reference`: pairs for means and examples; None takes these. `memory`: bytes that variants may take; None
            takes a share of what is free. `dtype`: of the result. `seed`: of what is drawn.

    Returns:
        Dimensions `pair`, then those of the sites. For each metric a variable, and one named `..._mismatched` for the
        mismatched donor; NaN where a pair has no such role, or no donor. Baselines (`logit_diff_clean`, ...), the
        noise floor and `below_floor`; columns of the pairs as coordinates; everything to repeat it in `attrs`.

    Raises:
        ValueError: A site, an option or a metric is not what it has to be, or hooks are on the model.
        TypeError: There is no option of that name.
        PairsError: The pairs do not hold for this model.
    """
    given = {
        "corruption": corruption, "direction": direction, "metrics": metrics, "source": source, "controls": controls,
        "store": store, "progress": progress,
    }  # fmt: skip
    return site_sweep(model, pairs, sites, with_sites, {**given, **options}).run()


def site_sweep(
    model: "VisionLanguageModel", pairs: "MinimalPairs", sites: Any, with_sites: bool | None, options: Mapping[str, Any]
) -> SweepRunner:
    """Return the sweep of some sites, checked and not yet run; arguments as of `sweep`."""
    chosen = Options.of(options)
    sites = list(sites) if isinstance(sites, list | tuple) else [sites]
    if not sites:
        raise ValueError("no sites given; expected sites such as 'text.cross_attn'")
    checked = [Site.of(model, site, pairs=pairs) for site in sites]
    prepared = prepare(model, pairs, chosen)
    grid = grid_of_sites(prepared, checked, chosen.source, with_sites)
    return SweepRunner(prepared, grid, {"sites": [asdict(site) for site in checked]})


@one_thread_at_a_time
@outside_inference_mode
def patch_heads(
    model: "VisionLanguageModel",
    pairs: "MinimalPairs",
    site: str | Site | None = None,
    *,
    positions: PositionSpec | None = None,
    layers: Numbers | None = None,
    heads: Numbers | Literal["each"] = "each",
    corruption: Corruption = "image",
    direction: Direction = "denoise",
    metrics: Metrics = USUAL,
    source: Source = "other",
    controls: Controls = CONTROLS,
    store: StorePath = None,
    progress: bool = True,
    **options: "Unpack[MoreOptions]",
) -> "xr.Dataset":
    """Patch each head, one at a time: `pair, layer, head`, then `role`, `region`, `position` or nothing.

    Args:
        model: The model. Hooks on it are refused.
        pairs: Validated for it here.
        site: Stack and module, `text.cross_attn`, `vision.attn`, `language.attn`, ...; any activation with heads. None
            takes the model's `cfg.default_site`: `text.cross_attn` in BLIP, `language.attn` in a decoder.
        positions: `roles`, `regions`, `each`, `all` at once, or some by name or number. None: on hosted models `last`,
            the token before the answer; on BLIP's words `roles`, or `all` where no question has a role `correct`; on
            image and answer positions `all`.
        layers: One, several, or None for all.
        heads: One, several, or `each`.
        corruption: As `sweep`, as are all that follow.
        direction: `denoise` or `noise`.
        metrics: Names, or a mapping of names to functions.
        source: Where the patched values come from.
        controls: `self`, `mismatched`, both, or `()` for none.
        store: A folder to write to, and to resume from.
        progress: Whether to show a bar.
        **options: As `sweep`.

    Returns:
        A result as of `sweep`.

    Raises:
        ValueError: The site has no heads, or as `sweep`.
        TypeError: As `sweep`.
        PairsError: As `sweep`.
    """
    given = {
        "corruption": corruption, "direction": direction, "metrics": metrics, "source": source, "controls": controls,
        "store": store, "progress": progress,
    }  # fmt: skip
    return head_sweep(model, pairs, site, positions=positions, layers=layers, heads=heads, **{**given, **options}).run()


def head_sweep(
    model: "VisionLanguageModel",
    pairs: "MinimalPairs",
    site: str | Site | None,
    *,
    positions: PositionSpec | None = None,
    layers: Numbers | None = None,
    heads: Numbers | Literal["each"] | None = "each",
    **options: Any,
) -> SweepRunner:
    """Return the sweep of `patch_heads`, checked and not yet run; arguments as there."""
    check_model(model)
    site = model.cfg.default_site if site is None else site
    checked = Site.of(model, site, layers=layers, heads=heads, positions=positions, pairs=pairs)
    if checked.heads is None:
        raise ValueError(f"{checked.name} has no heads; patch_modules is for what whole modules write")
    return site_sweep(model, pairs, checked, None, options)


@one_thread_at_a_time
@outside_inference_mode
def patch_modules(
    model: "VisionLanguageModel",
    pairs: "MinimalPairs",
    stack: str | None = None,
    *,
    positions: PositionSpec | None = None,
    layers: Numbers | None = None,
    **options: "Unpack[SweepOptions]",
) -> "xr.Dataset":
    """Patch the outputs of attention, cross-attention, MLP and block of each layer: `pair, site, layer, ...`.

    Args:
        model: The model. Hooks on it are refused.
        pairs: Validated for it here.
        stack: `vision`, `text`, `decoder`, or `language`; None takes the one that reads the prompt.
        positions: As `patch_heads`.
        layers: One, several, or None for all.
        **options: As `sweep`.

    Returns:
        A result as of `sweep`.

    Raises:
        ValueError: There is no such stack or layer, or as `sweep`.
        TypeError: As `sweep`.
        PairsError: As `sweep`.
    """
    check_model(model)
    stack = model.cfg.prompt_stack if stack is None else stack
    if stack not in model.cfg.stacks:
        raise ValueError(one_of("stack", stack, model.cfg.stacks))
    hooks = [*(f"hook_{module}_out" for module in model.sublayers(stack)), model.block_output(stack)]
    sites = [Site.of(model, f"{stack}.{hook}", layers=layers, positions=positions, pairs=pairs) for hook in hooks]
    return site_sweep(model, pairs, sites, True, options).run()


@one_thread_at_a_time
@outside_inference_mode
def run_variants(
    model: "VisionLanguageModel",
    pairs: "MinimalPairs",
    variants: Mapping[str, Edit | Sequence[Edit]],
    **options: "Unpack[VariantOptions]",
) -> "xr.Dataset":
    """Run arbitrary sets of edits, such as groups of heads, knock-outs and circuits: dimensions `pair, variant`.

    Args:
        model: The model. Hooks on it are refused.
        pairs: Validated for it here.
        variants: A mapping of names to one or several edits (`Edit`), made at once.
        **options: As `sweep`; each edit has its own source.

    Returns:
        A result as of `sweep`.

    Raises:
        TypeError: The variants are not a mapping of names, or an option is unknown.
        ValueError: A variant has no edits, or an edit does not fit the model or the pairs.
        PairsError: As `sweep`.
    """
    if "source" in options:
        raise TypeError("source belongs to the edits of variants: Edit(..., source=...)")
    check_variants(variants)
    prepared = prepare(model, pairs, Options.of(options))
    described = {name: repr(edits) for name, edits in variants.items()}
    return SweepRunner(prepared, grid_of_variants(prepared, variants), {"sites": described}).run()
