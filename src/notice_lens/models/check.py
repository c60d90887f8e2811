"""Self-tests of a loaded model, on its own inputs.

1. Every row of attention sums to one.
2. A self-patch changes nothing: each activation outside the layers and in the first and last of each stack is replaced
   by itself, one at a time, and its own block is run again: what the block gives stays the same. All that comes after
   it reads nothing else, so neither do the logits change; running them too would take ten times as long.
3. The image comes in through the image stream and nowhere else: with the stream of other images put in its place after
   the last vision block, the answers are those to the other images.
4. The image matters: those answers differ (a model with untrained weights of the usual size fails here).

Errors are relative to the largest magnitude of the compared tensors: logits, or a block's output.
"""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from notice_lens.models.blip.inputs import BLIPInputs
from notice_lens.models.describe import CheckReport, CheckResult
from notice_lens.models.hook_names import HookName
from notice_lens.models.in_use import one_thread_at_a_time, outside_inference_mode

if TYPE_CHECKING:
    from notice_lens.models.blip.hooked_blip import HookedBLIP

# The least change of the answers, between any two images, of a model that looks at them.
_IMAGE_CHANGE = 1e-4
# What rounding may add up to over a few dozen layers.
_TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@one_thread_at_a_time
@outside_inference_mode
@torch.no_grad()
def check(model: "HookedBLIP", inputs: Any = None, progress: bool = True) -> CheckReport:
    """Return the report of all self-tests; see the module's docstring.

    Args:
        model: The model.
        inputs: Two or more images to run on; None for noise and a made-up question.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: There is a single image, which cannot be exchanged for another.
    """
    inputs = made_up_inputs(model) if inputs is None else BLIPInputs.of(inputs).to(model.device).check(model.cfg)
    if len(inputs) < 2:
        raise ValueError("check exchanges images, so it needs two or more; got 1")
    tolerance = _TOLERANCES[model.dtype]
    from tqdm.auto import tqdm

    logits, cache = model.run_with_cache(inputs)
    swapped = replace(inputs, pixel_values=inputs.pixel_values.flip(0))
    expected = model(swapped)
    end = f"vision.blocks.{model.cfg.vision.n_layers - 1}.hook_resid_post"
    stream = {end: cache[end].flip(0)}
    exchanged = model.run_with_hooks(inputs, fwd_hooks=_replacing(stream))
    with tqdm(total=len(_checked(model, cache)), desc="checking hook points", leave=False, disable=not progress) as bar:
        self_patches = _self_patches(model, inputs, cache, tolerance, bar)
    return CheckReport(
        (
            _rows_sum_to_one(cache, tolerance),
            self_patches,
            CheckResult("an exchanged image stream is an exchanged image", _distance(exchanged, expected), tolerance),
            CheckResult("the image changes the answer", _distance(expected, logits), _IMAGE_CHANGE, at_least=True),
        )
    )


def made_up_inputs(model: "HookedBLIP", batch: int = 2, length: int = 7) -> BLIPInputs:
    """Noise images and a question of arbitrary tokens, the same on every call.

    Args:
        model: The model they have to fit.
        batch: How many.
        length: Tokens of the question.
    """
    generator = torch.Generator().manual_seed(0)
    size = model.cfg.image_size
    text = model.cfg.text or model.cfg.decoder
    assert text is not None, "every kind of model reads text"
    assert text.d_vocab is not None, "and has a vocabulary for it"
    return BLIPInputs(
        pixel_values=torch.randn(batch, 3, size, size, generator=generator, dtype=torch.float32),
        input_ids=torch.randint(1, text.d_vocab, (1, length), generator=generator).expand(batch, -1).clone(),
    ).to(model.device)


def _replacing(activations: dict[str, Tensor]) -> list:
    """Return hooks that replace activations by these."""

    def replace_by(new: Tensor):
        return lambda activation, hook: new

    return [(name, replace_by(activation)) for name, activation in activations.items()]


def _distance(a: Tensor, b: Tensor) -> float:
    """Largest difference over the largest magnitude; NaN stays NaN, and fails."""
    return float((a - b).abs().max() / b.abs().max())


def _rows_sum_to_one(cache, tolerance: float) -> CheckResult:
    patterns = {name: pattern for name, pattern in cache.items() if name.endswith("hook_pattern")}
    errors = {name: float((pattern.sum(-1) - 1).abs().max()) for name, pattern in patterns.items()}
    worst = max(errors, key=errors.__getitem__)
    return CheckResult("attention rows sum to one", errors[worst], tolerance, where=worst)


def _self_patches(model: "HookedBLIP", inputs: BLIPInputs, cache: Any, tolerance: float, bar: Any) -> CheckResult:
    """One self-patch at a time, each through its own block alone: a block's output decides all that follows."""
    sources = {stack: model.source_of(stack, inputs) for stack in model.cfg.stacks}
    errors, unpatched = {}, {}
    for name in _checked(model, cache):
        stack, layer = _block_of(model, name)
        before = {} if layer < 0 else {"start_at_layer": layer, "resid": _stream(model, cache, stack, layer)}
        stop = {} if layer == model.stack(stack).cfg.n_layers else {"stop_at_layer": layer + 1}
        rerun = partial(model.run_stack, stack, inputs, sources[stack], **before, **stop)
        if (stack, layer) not in unpatched:
            unpatched[stack, layer] = rerun()
        with model.hooks(_replacing({name: cache[name]})):
            errors[name] = _distance(rerun(), unpatched[stack, layer])
        bar.update()
    worst = max(errors, key=errors.__getitem__)
    return CheckResult(
        "a self-patch in the first or last layers changes nothing", errors[worst], tolerance, where=worst
    )


def _checked(model: "HookedBLIP", cache: Any) -> list[str]:
    """The hook points outside the layers and in the first and last of each stack: a fault of a kind shows there."""
    last = {stack: n_layers - 1 for stack, n_layers in model.cfg.n_layers.items()}
    parsed = {name: HookName.parse(name) for name in cache}
    return [name for name, parts in parsed.items() if parts.layer in (None, 0, last[parts.stack or ""])]


def _block_of(model: "HookedBLIP", name: str) -> tuple[str, int]:
    """Stack and layer of a hook point: -1 for the embedding, the number of layers for anything after the last block."""
    parsed = HookName.parse(name)
    stack = parsed.stack or ""
    if parsed.layer is not None:
        return stack, parsed.layer
    return stack, model.cfg.n_layers[stack] if parsed.leaf.startswith("ln_final") else -1


def _stream(model: "HookedBLIP", cache: Any, stack: str, layer: int) -> Float[Tensor, "batch pos d_model"]:
    """The stream before a layer, or after the last one."""
    if layer < model.cfg.n_layers[stack]:
        return cache[f"{stack}.blocks.{layer}.hook_resid_pre"]
    return cache[f"{stack}.blocks.{layer - 1}.hook_resid_post"]  # only the pre-LayerNorm stack has a final LayerNorm
