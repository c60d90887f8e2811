"""Self-tests of a loaded model, on its own inputs.

1. Every row of attention sums to one.
2. A self-patch changes nothing: each activation of the first and last layers is replaced by itself, one at a time.
3. The image comes in through the image stream and nowhere else: with the stream of other images put in its place behind
   the last vision block, the answers are those to the other images.
4. The image matters: those answers differ (a model with untrained weights of the usual size fails here).

Errors are relative to the largest logit in magnitude.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from notice_lens.models.inputs import BLIPInputs
from notice_lens.models.names import HookName
from notice_lens.models.tables import CheckReport, CheckResult

if TYPE_CHECKING:
    from notice_lens.models.hooked_blip import HookedBLIP

# The least change of the answers, between any two images, of a model that looks at them.
_SEEN = 1e-4
# What rounding may add up to over a few dozen layers.
_TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@torch.no_grad()
def check(blip: "HookedBLIP", inputs: Any = None) -> CheckReport:
    """The report of all self-tests; see the module's docstring.

    Args:
        blip: The model.
        inputs: Two or more images to run on; None for noise and a made-up question.

    Raises:
        ValueError: There is a single image, which cannot be exchanged for another.
    """
    inputs = made_up_inputs(blip) if inputs is None else BLIPInputs.of(inputs).to(blip.device).check(blip.cfg)
    if len(inputs) < 2:
        raise ValueError("check exchanges images, so it needs two or more; got 1")
    tolerance = _TOLERANCES[blip.dtype]
    logits, cache = blip.run_with_cache(inputs)
    swapped = replace(inputs, pixel_values=inputs.pixel_values.flip(0))
    expected = blip(swapped)
    end = f"vision.blocks.{blip.cfg.vision.n_layers - 1}.hook_resid_post"
    stream = {end: cache[end].flip(0)}
    exchanged = blip.run_with_hooks(inputs, fwd_hooks=_replacing(stream))
    return CheckReport(
        (
            _rows_sum_to_one(cache, tolerance),
            _self_patches(blip, inputs, logits, cache, tolerance),
            CheckResult("an exchanged image stream is an exchanged image", _distance(exchanged, expected), tolerance),
            CheckResult("the image changes the answer", _distance(expected, logits), _SEEN, at_least=True),
        )
    )


def made_up_inputs(blip: "HookedBLIP", batch: int = 2, length: int = 7) -> BLIPInputs:
    """Noise images and a question of arbitrary tokens, the same on every call.

    Args:
        blip: The model they have to fit.
        batch: How many.
        length: Tokens of the question.
    """
    generator = torch.Generator().manual_seed(0)
    size = blip.cfg.image_size
    text = blip.cfg.text or blip.cfg.decoder
    assert text is not None, "every kind of model reads text"
    assert text.d_vocab is not None, "and has a vocabulary for it"
    return BLIPInputs(
        pixel_values=torch.randn(batch, 3, size, size, generator=generator),
        input_ids=torch.randint(1, text.d_vocab, (1, length), generator=generator).expand(batch, -1).clone(),
    ).to(blip.device)


def _replacing(activations: dict[str, Tensor]) -> list:
    """Hooks that put these activations in place of what is there."""

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


def _self_patches(blip: "HookedBLIP", inputs: BLIPInputs, logits: Tensor, cache, tolerance: float) -> CheckResult:
    errors = {}
    for name, activation in cache.items():
        # The first and the last layer of each stack: a fault of a kind of hook shows there.
        parsed = HookName.parse(name)
        if parsed.layer in (None, 0, blip.stack(parsed.stack or "").cfg.n_layers - 1):
            patched = blip.run_with_hooks(inputs, fwd_hooks=_replacing({name: activation}))
            errors[name] = _distance(patched, logits)
    worst = max(errors, key=errors.__getitem__)
    return CheckResult(
        "a self-patch in the first or last layers changes nothing", errors[worst], tolerance, where=worst
    )
