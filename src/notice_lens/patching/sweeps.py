"""Sweeps: what every patch does to the answer of every pair, as one labelled result."""

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from notice_lens.errors import one_of
from notice_lens.models.blip.steps import OUTPUT, last_hook, sublayers
from notice_lens.models.in_use import one_thread_at_a_time, outside_inference_mode
from notice_lens.patching.edits import Site, check_model
from notice_lens.patching.grid import Grid, check_variants, grid_of_sites, grid_of_variants
from notice_lens.patching.options import Options
from notice_lens.patching.path_grid import RECEIVERS, Paths, grid_of_paths
from notice_lens.patching.positions import Places
from notice_lens.patching.runner import Sweep

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.models import HookedBLIP
    from notice_lens.pairs import MinimalPairs


@one_thread_at_a_time
@outside_inference_mode
def sweep(
    model: "HookedBLIP", pairs: "MinimalPairs", sites: Any, *, with_sites: bool | None = None, **options: Any
) -> "xr.Dataset":
    """What every patch at some sites does to every pair.

    The base run of each pair is patched with what the other run has at one cell of a site (a layer, a head, positions),
    for all cells, in one growing forward pass (see `notice_lens.patching.engine.wave`).

    Args:
        model: The model. Hooks on it are refused.
        pairs: Validated for it here.
        sites: One or several of `Site.of(model, ...)`, or their names; several share their dimensions.
        with_sites: Whether the result has a dimension `site`; None: where there are several.
        **options: `corruption`: `image`, `text` or `Noise(...)`. `direction`: `denoise` (the corrupted run is patched
            with clean activations: sufficiency) or `noise` (the reverse: necessity). `metrics`: names of built-in ones,
            or a mapping of names to functions of logits [row, answer_pos, d_vocab] (the built-in ones to None).
            `contrast`: `auto` or `incorrect`, see `Batch`. `min_gap`: in logits; below it a pair's effect is NaN.
            `source`: `other`, `zero`, `mean` (over all clean runs, by role) or `resample` (another pair's clean run).
            `reference`: pairs for means and examples; None takes these. `controls`: of `self`, `mismatched`.
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
    return _sweep_of(model, pairs, sites, with_sites, options).run()


def _sweep_of(
    model: "HookedBLIP", pairs: "MinimalPairs", sites: Any, with_sites: bool | None, options: dict[str, Any]
) -> Sweep:
    """Return the sweep of some sites, not yet run."""
    chosen = Options.of(options)
    several = list(sites) if isinstance(sites, list | tuple) else [sites]
    if not several:
        raise ValueError("no sites given; a site is, for instance, 'text.cross_attn'")
    checked = [Site.of(model, site, pairs=pairs) for site in several]

    def grid(places: Places, answer_length: int) -> Grid:
        return grid_of_sites(
            model, places, checked, chosen.source, answer_length, len(checked) > 1 if with_sites is None else with_sites
        )

    return Sweep(model, pairs, chosen, grid, {"sites": [asdict(site) for site in checked]})


def patch_heads(
    model: "HookedBLIP",
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
        model: The model.
        pairs: The pairs.
        site: Stack and module, `text.cross_attn`, `text.attn`, `vision.attn`, ...; any activation with heads.
        positions: `roles`, `regions`, `each`, `all` at once, or some by name or number. None takes `roles` for words,
            and `all` elsewhere and where the questions have no role `correct`, since they do not contain their answer.
        layers: One, several, or None for all.
        heads: One, several, or `each`.
        **options: As `sweep`.
    """
    options |= {"layers": layers, "heads": heads, "positions": positions}
    return head_sweep(model, pairs, site, **options).run()


def head_sweep(
    model: "HookedBLIP",
    pairs: "MinimalPairs",
    site: Any,
    *,
    positions: Any = None,
    layers: Any = None,
    heads: Any = "each",
    **options: Any,
) -> Sweep:
    """Return the sweep of `patch_heads`, checked and not yet run; arguments as there."""
    found = Site.of(model, site, layers=layers, heads=heads, positions=positions, pairs=pairs)
    if found.heads is None:
        raise ValueError(f"{found.name} has no heads; patch_modules is for what whole modules write")
    return _sweep_of(model, pairs, found, None, options)


def patch_modules(
    model: "HookedBLIP",
    pairs: "MinimalPairs",
    stack: Any = "text",
    *,
    positions: Any = None,
    layers: Any = None,
    **options: Any,
) -> "xr.Dataset":
    """What attention, cross-attention and MLP of a layer write, and what leaves its block: `pair, site, layer, ...`.

    Args:
        model: The model.
        pairs: The pairs.
        stack: `vision`, `text` or `decoder`.
        positions: As `patch_heads`.
        layers: One, several, or None for all.
        **options: As `sweep`.
    """
    check_model(model)
    if stack not in model.cfg.stacks:
        raise ValueError(one_of("stack", stack, model.cfg.stacks))
    steps = model.stack(stack).steps
    hooks = [*(step.out for step in sublayers(steps)), last_hook(steps)]
    sites = [Site.of(model, f"{stack}.{hook}", layers=layers, positions=positions, pairs=pairs) for hook in hooks]
    return sweep(model, pairs, sites, with_sites=True, **options)


@one_thread_at_a_time
@outside_inference_mode
def patch_paths(
    model: "HookedBLIP",
    pairs: "MinimalPairs",
    sender: Any = "text.cross_attn",
    receiver: Any = "text.output",
    *,
    positions: Any = None,
    sender_layers: Any = None,
    sender_heads: Any = "each",
    receiver_layers: Any = None,
    receiver_heads: Any = "each",
    joint: bool = False,
    freeze_layernorm: bool = False,
    freeze_mlp: bool = True,
    **options: Any,
) -> "xr.Dataset":
    """What one part of the model tells another: the effect of each path from a sender to a receiver.

    1. The base run and the other run; `direction` says which of clean and corrupted is which.
    2. The base run, in which the sender has what it has in the other run. A path lies in the stacks that it names:
       nodes *between* sender and receiver in those stacks are frozen at the base run. What the receiver takes in is
       recorded.
    3. The base run, in which the receiver takes the changed input. *Everything after the receiver runs free.*

    So "text head to answer" is the receiver `text.output`, with the decoder running free. Effects of single paths do
    not add up to the total in a real BLIP: LayerNorms and softmaxes are no sums.

    Args:
        model: The model.
        pairs: The pairs.
        sender: Heads, MLPs or embeddings: `text.cross_attn` (each head's z), `text.attn`, `text.mlp_out`,
            `text.embed`, `vision.attn`, ...; a `Site`; or several of them.
        receiver: Queries, keys or values (`text.attn.q`), an MLP's input (`text.mlp.pre`), what a stack hands on
            (`text.output`), or `logits`: what the senders' stack hands on, since all later stacks run free. Keys and
            values of cross-attention read the stack before: `text.cross_attn.k` takes senders of `vision`.
        positions: Of the sender, as `patch_heads`, and of the receiver: frozen attention moves nothing elsewhere.
        sender_layers: One, several, or None for all.
        sender_heads: `each`, one, several, or None for all at once.
        receiver_layers: As `sender_layers`.
        receiver_heads: As `sender_heads`.
        joint: Whether all senders are sent together.
        freeze_layernorm: Whether LayerNorms on the path divide by the base run's scale; else they are recomputed.
        freeze_mlp: Whether MLPs on the path write what they write in the base run; else they read the changed stream.
        **options: As `sweep`.

    Returns:
        Dimensions `pair, sender_layer, sender_head`, then `role`, `region`, `position` or none, then `receiver_layer`
        and `receiver_head` where there are; variables as of `sweep`; NaN where there is no such path.

    Raises:
        ValueError: There is no path from there to there, or as `sweep`.

    Source: path patching after Wang et al. (arXiv 2211.00593) and Goldowsky-Dill et al. (arXiv 2304.05969).
    """
    chosen = _of_paths(options)
    senders = _senders(model, pairs, sender, sender_layers, sender_heads, positions)
    ends = _receiver(model, receiver, receiver_layers, receiver_heads)
    paths = Paths.of(model, senders, joint, ends, freeze_layernorm=freeze_layernorm, freeze_mlp=freeze_mlp)
    return Sweep(model, pairs, chosen, partial(grid_of_paths, model, paths), asdict(paths)).run()


def _of_paths(options: Any) -> Options:
    """The options, if they are some of paths."""
    chosen = Options.of(options)
    if chosen.source != "other":
        raise ValueError(f"source={chosen.source!r}: a sender has what it has in the other run, source='other'")
    return chosen


def _senders(
    model: "HookedBLIP", pairs: "MinimalPairs", sender: Any, layers: Any, heads: Any, positions: Any
) -> list[Site]:
    several = list(sender) if isinstance(sender, list | tuple) else [sender]
    if len(several) == 1 and not isinstance(several[0], Site):
        return [Site.of(model, several[0], layers=layers, heads=heads, positions=positions, pairs=pairs)]
    return [_one_of_several(model, pairs, one, layers, heads, positions) for one in several]


def _one_of_several(
    model: "HookedBLIP", pairs: "MinimalPairs", name: Any, layers: Any, heads: Any, positions: Any
) -> Site:
    """One of several senders: layers and heads are for those that have them."""
    found = Site.of(model, name) if isinstance(name, Site) else Site.of(model, name, positions=positions, pairs=pairs)
    if isinstance(name, Site):
        return found
    layers, heads = layers if found.layers else None, heads if found.heads else "each"
    return Site.of(model, name, layers=layers, heads=heads, positions=positions, pairs=pairs)


def _receiver(model: "HookedBLIP", name: Any, layers: Any, heads: Any) -> Any:
    """A receiver as a site, or by its name where it is what a stack hands on."""
    if isinstance(name, Site):
        return Site.of(model, name)
    outputs = [f"{stack}.{OUTPUT}" for stack in model.cfg.stacks]
    if name in (*outputs, "logits"):
        if layers is not None or heads != "each":
            raise ValueError(f"{name} has no layers and heads to choose")
        return name
    try:
        site = Site.of(model, name, layers=layers, heads=heads, positions="all")
    except ValueError as error:
        raise ValueError(f"receiver {name!r}: {error}; or {', '.join(outputs)}, logits") from error
    if site.activation not in RECEIVERS:
        short = [f"{site.stack}.{own.replace('hook_', '')}" for own in RECEIVERS]
        raise ValueError(one_of("receiver", site.name, [*short, *outputs, "logits"]))
    return site


@one_thread_at_a_time
@outside_inference_mode
def run_variants(model: "HookedBLIP", pairs: "MinimalPairs", variants: Any, **options: Any) -> "xr.Dataset":
    """What arbitrary sets of edits do: groups of heads, knock-outs, circuits. Dimensions `pair, variant`.

    Args:
        model: The model.
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
        return grid_of_variants(model, places, variants, answer_length)

    described = {name: repr(edits) for name, edits in variants.items()}
    return Sweep(model, pairs, chosen, grid, {"sites": described}).run()
