"""Patch between two inputs of a vision-language model, for people who hold tensors: no pairs, no tokenizer needed."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from notice_lens import __version__
from notice_lens.errors import check_choice
from notice_lens.models.in_use import one_thread_at_a_time, outside_inference_mode
from notice_lens.patching.engine.between_inputs import between
from notice_lens.patching.engine.causal.readout import LogitMetric
from notice_lens.patching.engine.causal.site import PositionsAsked, groups_of
from notice_lens.patching.identity import installed_version
from notice_lens.patching.options import Direction
from notice_lens.progress import bar

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.models import HookedBLIP
    from notice_lens.models.blip.inputs import BLIPInputs
    from notice_lens.models.vlm.hooked_vlm import HookedVLM

SELF_PATCHES = 8
"""How many patches from the base run itself measure the noise floor."""


@one_thread_at_a_time
@outside_inference_mode
def patch_inputs(
    model: "HookedVLM | HookedBLIP | nn.Module",
    clean_inputs: "Mapping[str, Any] | BLIPInputs",
    corrupted_inputs: "Mapping[str, Any] | BLIPInputs",
    site: str | None = None,
    *,
    metric: LogitMetric,
    positions: PositionsAsked = (-1,),
    layers: int | list[int] | None = None,
    heads: int | list[int] | Literal["each"] | None = "each",
    direction: Direction = "denoise",
    source: Literal["other", "zero"] = "other",
    memory: int | None = None,
    progress: bool = True,
) -> "xr.Dataset":
    """Patch every cell of a site from one input into another, and return a metric of the answer for each.

    Every cell is a layer, a head where the site has heads, and a position. Its activation in the base run is replaced
    with that of the other run, and the model continues from there; the result is what a full forward pass with a hook
    would give, to rounding, in a small part of the time (see `notice_lens.patching.engine.causal.wave`).

    For instance, with `inputs = processor(text=prompt, images=picture, return_tensors="pt")` for two pictures:

        effects = patch_inputs(model, clean, corrupted, metric=lambda logits: logits[:, red] - logits[:, green])
        effects.metric - effects.metric_corrupted    # layer, head, position

    Args:
        model: A `HookedVLM`, a `HookedBLIP`, or a vision-language model of transformers in eval mode. Hooks on it are
            refused.
        clean_inputs: What a Hugging Face processor gives for one example, or `model.prepare`.
        corrupted_inputs: The same for the other picture or prompt, with as many tokens.
        site: Stack and activation. None takes `language.attn`, in BLIP the model's `cfg.default_site`; there are
            `language.attn` (each head's z), `language.cross_attn`, `language.attn.q`, `.k`,
            `.v`, `.rot_q`, `.rot_k`, `.attn_scores`, `.pattern`, `language.attn_out`, `language.mlp_out`,
            `language.mlp.post`, `language.resid_pre`, `.resid_mid`, `.resid_post`. Of keys and values, heads are
            key-value heads; of scores and patterns, positions are those of queries, with all of their keys. In BLIP as
            of `sweep`.
        metric: A function of the read-out's logits [row, d_vocab], in float32 at least, that returns one number a row:
            [row]. The read-out is the last position that is not padding.
        positions: Each patched separately; negative ones count from the end. Or names of groups that are patched at
            once: `{"image": range(5, 581)}`.
        layers: One, several, or None for all that have the activation.
        heads: `each` separately, one, several, or None for all heads at once.
        direction: `denoise` patches clean activations into the corrupted run (is this enough for the answer?), `noise`
            corrupted ones into the clean run (is it needed?).
        source: Where new values come from: the `other` run, or `zero`.
        memory: Bytes that patched rows may take; None takes a share of what is free.
        progress: Whether to show a bar.

    Returns:
        `metric` with the dimensions `layer`, `head` where there are heads, and `position`; `metric_clean` and
        `metric_corrupted`, of the two runs as they are; `noise_floor`, the largest change by patches that replace a
        value with itself. What it takes to repeat the call is in `attrs`.

    Raises:
        TypeError: `model` or the inputs are something else, or `metric` does not return a tensor.
        ValueError: Something does not fit: a site, layer, head or position, two inputs of unequal length, or a model
            with hooks, in training mode, or of a kind that cannot be patched exactly. The message says what would. A
            model of a family that notice-lens does not know is checked first, with four patches by full forward
            passes, and refused if it differs.
    """
    check_choice("direction", direction, ("denoise", "noise"))
    check_choice("source", source, ("other", "zero"))
    two = between(model, clean_inputs, corrupted_inputs, direction == "denoise", site, layers, heads)
    labels, groups = groups_of(positions, two.length)
    edits = two.edits(groups, source)
    step = max(1, len(edits) // SELF_PATCHES)
    floor = [two.of_itself(edit) for edit in edits[step // 2 :: step]]
    with bar(progress, "patching", total=len(edits) + len(floor), unit="patches") as shown:
        values = two.values([*edits, *floor], metric, memory, shown.update)
    coords = _coords(two.site.layers, two.site.heads, labels, groups, two.token_ids)
    result = _with_runs(
        _labelled(coords, values[: len(edits)]), *two.unpatched(metric), values[len(edits) :], direction
    )
    return result.assign_attrs(_attrs(two.model_name, two.site.name, direction, source, two.dtype))


def _coords(
    layers: Sequence[int],
    heads: Sequence[int] | None,
    labels: list[int] | list[str],
    groups: list[tuple[int, ...]],
    ids: Tensor | None,
) -> dict[str, Any]:
    """Return the coordinates of a result, dimensions in their order."""
    coords: dict[str, Any] = {"layer": list(layers)} if layers else {}
    if heads is not None:
        coords["head"] = list(heads)
    coords["position"] = labels
    if ids is not None and all(len(group) == 1 for group in groups):
        coords["token_id"] = ("position", [int(ids[group[0]]) for group in groups])
    return coords


def _labelled(coords: dict[str, Any], values: Tensor) -> "xr.Dataset":
    """Return the numbers with their dimensions."""
    import xarray as xr

    dims = [name for name in coords if name != "token_id"]
    shaped = values.reshape([len(coords[name]) for name in dims]).cpu().numpy()
    return xr.Dataset({"metric": (dims, shaped)}, coords)


def _with_runs(result: "xr.Dataset", base: float, other: float, self_patches: Tensor, direction: str) -> "xr.Dataset":
    """Return a result with the metric of the two runs as they are, and the noise floor."""
    clean, corrupted = (other, base) if direction == "denoise" else (base, other)
    floor = float((self_patches - base).abs().max())
    return result.assign(metric_clean=clean, metric_corrupted=corrupted, noise_floor=floor)


def _attrs(model: str, site: str, direction: str, source: str, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "model": model,
        "site": site,
        "direction": direction,
        "source": source,
        "dtype": str(dtype).removeprefix("torch."),
        "notice_lens": __version__,
        **{package: installed_version(package) for package in ("torch", "transformers")},
    }
