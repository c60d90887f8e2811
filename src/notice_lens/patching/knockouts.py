"""Attention knockout: what is lost where some positions may not look at others, in a window of layers.

Where a patch asks what an activation carries, a knockout asks which way it takes: `image -> last` cuts the last token
off from the image's tokens in a few neighbouring layers, and leaves everything else as it is. Scores of the cut keys
are minus infinity, so a query's pattern sums to one over the keys that are left, and to zero where none is.

Source: Geva et al. 2023 (arXiv 2304.14767); on vision-language models Zhang et al. 2024 (arXiv 2411.18620).
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np

from notice_lens.errors import one_of
from notice_lens.models.in_use import one_thread_at_a_time, outside_inference_mode
from notice_lens.models.protocol import axes
from notice_lens.patching.edits import Site, check_model
from notice_lens.patching.engine.measure import Variant
from notice_lens.patching.engine.metrics import USUAL
from notice_lens.patching.engine.plan import HookEdit, LabelledPositions
from notice_lens.patching.grid import Grid
from notice_lens.patching.options import Corruption, Metrics, MoreOptions, Numbers, Options, StorePath
from notice_lens.patching.positions import Positions
from notice_lens.patching.prepare import Prepared, prepare
from notice_lens.patching.runner import SweepRunner

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs

BaseRun = Literal["clean", "corrupt"]
Flow = str | tuple[str, str]
Flows = Flow | Sequence[Flow] | Mapping[str, tuple[str, str]]
ARROW, RIGHTWARDS = "->", "\N{RIGHTWARDS ARROW}"
USUAL_FLOWS = ("image -> question", "image -> last", "question -> last", "last -> last")
"""The flows into the words and into the answer's position, where all of them stand in one row."""
INTO_WORDS = ("image -> question",)
"""The flow of a stack whose words read the image by cross-attention, and are read out elsewhere."""


@one_thread_at_a_time
@outside_inference_mode
def knockout(
    model: "VisionLanguageModel",
    pairs: "MinimalPairs",
    flows: Flows | None = None,
    *,
    window: int = 9,
    site: str | None = None,
    layers: Numbers | None = None,
    heads: Numbers | Literal["each"] | None = None,
    run: BaseRun = "clean",
    corruption: Corruption = "image",
    metrics: Metrics = USUAL,
    store: StorePath = None,
    progress: bool = True,
    **options: "Unpack[MoreOptions]",
) -> "xr.Dataset":
    """Cut attention from one group of positions to another, in a window of layers around each layer.

        lost = patching.knockout(model, pairs, ["image -> last", "question -> last"])
        lost.prob_change.mean("pair")                      # flow, layer
        viz.profile(lost)                                  # lines with intervals by cluster

    Args:
        model: The model. Hooks on it are refused.
        pairs: Validated for it here.
        flows: `"image -> last"`: the last token may not look at the image. Names are `image` (from the first token of
            it to the last, with line ends and tile markers between; without BLIP's class token), `question` (all of
            the prompt's words), `last`, the pairs' roles and regions, and `all`. One flow, several, or a mapping of
            labels to `(from, to)`. None takes the usual ones: into the question and into the last token.
        window: Layers that are cut at once, 1 or more: those around `layer`, fewer at the ends.
        site: The attention that is cut, such as `language.attn`. None takes the model's `cfg.default_site`.
        layers: The middle of each window; one, several, or None for all.
        heads: None cuts all heads at once, `each` one at a time (a dimension `head`); or some, one at a time.
        run: The run that is cut: `clean` or `corrupt`.
        corruption: Of the pairs' other run, whose metrics are reported too: `image`, `text` or `Noise(...)`.
        metrics: As `sweep`.
        store: A folder to write to, and to resume from.
        progress: Whether to show a bar.
        **options: As `sweep`.

    Returns:
        Dimensions `pair, flow, layer`, and `head` where heads are cut one at a time. Metrics as of `sweep`, of the cut
        run: `prob_change` is the change of the correct answer's probability, `logit_diff_change` in logits,
        `patching_effect` the share of the gap that is lost (or, of the corrupted run, restored). Baselines.

    Raises:
        ValueError: There is no such group of positions, site, layer or head, or the window is shorter than a layer.
        TypeError: Flows are of another kind, or there is no option of that name.
        PairsError: The pairs do not hold for this model.

    Warns:
        UserWarning: In every pair what is looked at comes after what looks, where attention looks only back.
    """
    check_model(model)
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise ValueError(f"window={window!r}: expected a number of layers, 1 or more")
    if run not in ("clean", "corrupt"):
        raise ValueError(one_of("run", run, ("clean", "corrupt")))
    name = model.cfg.default_site if site is None else site
    scores = Site.of(model, f"{name}.attn_scores", layers=layers, heads="each" if heads is None else heads)
    several = Site.of(model, f"{name}.attn_scores").layers
    asked = flows_of(_usual(model, scores) if flows is None else flows)
    chosen = Options.of({
        "corruption": corruption, "direction": "noise" if run == "clean" else "denoise", "metrics": metrics,
        "controls": (), "store": store, "progress": progress, **options,
    })  # fmt: skip
    prepared = prepare(model, pairs, chosen)
    grid = _grid(prepared, scores, several, asked, window, by_head=heads is not None)
    described = {"flows": {label: list(ends) for label, ends in asked.items()}, "window": window, "site": name}
    result = SweepRunner(prepared, grid, {"knockout": described}).run()
    return result.assign_attrs(run=run)


def flows_of(asked: Any) -> dict[str, tuple[str, str]]:
    """Return flows by label, as the names of what is looked at and of what may not look.

    Raises:
        TypeError: They are neither text nor pairs of names.
        ValueError: No flows are given, or one has no arrow.
    """
    if isinstance(asked, Mapping):
        named = dict(asked)
    else:
        if not isinstance(asked, str | Sequence):
            raise TypeError(f"flows of type {type(asked).__name__}: expected text such as 'image -> last', or several")
        several = [asked] if isinstance(asked, str) or _is_pair(asked) else list(asked)
        named = {one if isinstance(one, str) else f" {ARROW} ".join(map(str, one)): one for one in several}
    found: dict[str, tuple[str, str]] = {}
    for label, flow in named.items():
        ends = flow.replace(RIGHTWARDS, ARROW).split(ARROW) if isinstance(flow, str) else flow
        if isinstance(flow, str) and len(ends) != 2:
            raise ValueError(f"flow {flow!r}: expected what is looked at, an arrow, and what looks: 'image -> last'")
        if not _is_pair(ends):
            raise TypeError(f"flow {flow!r}: expected text such as 'image -> last', or two names (from, to)")
        found[str(label)] = (ends[0].strip(), ends[1].strip())
    if not found:
        raise ValueError("no flows given; expected flows such as 'image -> last'")
    return found


def _is_pair(flow: Any) -> bool:
    """Return whether this is one flow as two names, and not several flows as text."""
    two = isinstance(flow, list | tuple) and len(flow) == 2
    return two and all(isinstance(end, str) and ARROW not in end and RIGHTWARDS not in end for end in flow)


def _usual(model: "VisionLanguageModel", scores: Site) -> tuple[str, ...]:
    of_queries, of_keys = axes(model.cfg, scores.stack, scores.activation)
    return USUAL_FLOWS if of_queries == of_keys and "image" in model.cfg.streams[of_queries] else INTO_WORDS


def _warn_of_later(positions: Positions, stack: str, label: str, looked_at: str, looks: str) -> None:
    """Warn of a flow that causal attention has in no pair: cutting it changes nothing, whatever the model does."""
    for pair in range(len(positions.pairs)):
        length = positions.layout.length(stack, pair)
        keys, queries = (positions.of(pair, group, stack, length) for group in (looked_at, looks))
        # Some models let the positions of an image see each other in both directions.
        image = positions.groups(stack, pair).get("image", np.arange(0))
        if not len(keys) or not len(queries) or keys.min() <= queries.max() or np.isin([*keys, *queries], image).all():
            return
    warnings.warn(
        f"flow {label!r}: {looked_at!r} comes after {looks!r} in every pair, and `{stack}` looks only back: there is "
        f"nothing to cut; the other way round it is '{looks} {ARROW} {looked_at}'",
        stacklevel=6,
    )


def _grid(
    prepared: Prepared,
    scores: Site,
    layers: Sequence[int],
    flows: Mapping[str, tuple[str, str]],
    window: int,
    by_head: bool,
) -> Grid:
    """Return the grid of every flow, window and head."""
    model = prepared.model
    of_queries, of_keys = axes(model.cfg, scores.stack, scores.activation)
    assert of_keys is not None, "scores have keys"
    if of_queries not in prepared.positions.layout.stacks:
        raise ValueError(f"{scores.name}: positions of `{of_queries}` have no groups here; cut attention of the words")
    for label, (looked_at, looks) in flows.items():
        for group, stack in ((looks, of_queries), (looked_at, of_keys)):
            try:
                prepared.positions.check_group(group, stack)
            except ValueError as error:
                raise ValueError(f"flow {label!r}: {error}") from error
        if of_queries == of_keys and model.stack(of_queries).cfg.causal:
            _warn_of_later(prepared.positions, of_queries, label, looked_at, looks)
    heads: Sequence[int | None] = scores.heads if by_head and scores.heads else (None,)
    coords: dict[str, list[Any]] = {"flow": list(flows), "layer": list(scores.layers)}
    if by_head:
        coords["head"] = list(heads)
    variants = []
    for number, (looked_at, looks) in enumerate(flows.values()):
        for at, middle in enumerate(scores.layers):
            place = layers.index(middle)
            cut = layers[max(0, place - window // 2) : place + (window - 1) // 2 + 1]
            for which, head in enumerate(heads):
                edits = tuple(
                    HookEdit(
                        scores.hook(layer),
                        LabelledPositions(looks, of_queries),
                        "cut",
                        head,
                        LabelledPositions(looked_at, of_keys),
                    )
                    for layer in cut
                )
                variants.append(Variant((number, at, *([which] if by_head else [])), edits))
    return Grid(tuple(coords), coords, variants)
