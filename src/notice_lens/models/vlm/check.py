"""Self-tests of a hosted model, so that an untested family is safe to use.

1. Unwatched, the logits are the hosted model's own.
2. Watched at every hook point, they still are, up to rounding: every point fires, and attention written out step by
   step is the model's attention.
3. Every row of attention sums to one, or to nothing where it sees nothing.
4. A self-patch changes nothing: every activation is put back in its own place, all of them at once. Where that moves
   the logits, halves are tried until one hook point is left, which is named.
5. Every hook point is causal: noise on its activation moves the logits. One at a time; points that are inert for a
   reason are left out (`inert`). In the first and the last layer of each stack, unless all are requested.
6. The image matters: with its negative, the logits are others.

Errors are relative to the largest logit.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from notice_lens.models.describe import CheckReport, CheckResult
from notice_lens.models.hook_names import HookName
from notice_lens.models.vlm.families import feature_layers, unread_vision_layers

if TYPE_CHECKING:
    from notice_lens.models.vlm.hooked_vlm import HookedVLM

_HOSTED_TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.05}
_MOVES = {torch.float64: 1e-12, torch.float32: 1e-7, torch.bfloat16: 1e-5, torch.float16: 1e-6}
_HOSTED_IMAGE_CHANGE = 1e-3


@torch.no_grad()
def check(
    model: "HookedVLM", inputs: Mapping[str, Any] | None = None, progress: bool = True, all_layers: bool = False
) -> CheckReport:
    """Return the report of all self-tests; see the module's docstring.

    Args:
        model: The model.
        inputs: One example with a picture; None makes a picture of noise.
        progress: Whether to show a progress bar.
        all_layers: Whether to test every layer, instead of the first and last of each stack.

    Raises:
        ValueError: There are no inputs, and no processor that could make them.
    """
    inputs = _made_up(model) if inputs is None else inputs
    tolerance = _HOSTED_TOLERANCES[model.dtype]
    plain = model.hf_model(**inputs).logits
    results = [CheckResult("unwatched logits are the hosted model's", _distance(model(inputs), plain), 0.0)]
    try:
        watched, cache = model.run_with_cache(inputs, return_cache_object=False)
    except RuntimeError as error:
        return CheckReport((*results, CheckResult(f"every hook point fires: {error}", float("nan"), 0.0)))
    results.append(CheckResult("watched logits are the hosted model's", _distance(watched, plain), tolerance))
    results.append(_rows_sum_to_one(cache, tolerance))
    results.append(_self_patches(model, inputs, cache, watched, tolerance))
    results.append(_all_causal(model, inputs, cache, watched, progress, all_layers))
    negative = {**inputs, "pixel_values": -inputs["pixel_values"]}
    results.append(
        CheckResult(
            "the image changes the logits", _distance(model(negative), plain), _HOSTED_IMAGE_CHANGE, at_least=True
        )
    )
    return CheckReport(tuple(results))


def inert(model: "HookedVLM", name: str) -> str:
    """Return the reason why a change at a hook point may change nothing; empty where it has to change the logits."""
    parsed = HookName.parse(name)
    unread = unread_vision_layers(model.config, model.layers_by_stack["vision"])
    if parsed.stack == "vision" and parsed.layer in unread:
        chosen = feature_layers(model.config)
        return f"the model reads the tower's states {chosen}, and not what layer {parsed.layer} gives"
    return model.family.inert.get(f"{parsed.stack}.{parsed.leaf}", "")


def _made_up(model: "HookedVLM") -> Mapping[str, Any]:
    """A picture of noise and a question."""
    noise = torch.randint(0, 256, (3, 96, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return model.prepare(noise, "What is in this picture?")


def _distance(a: Tensor, b: Tensor) -> float:
    """Largest difference over the largest magnitude; NaN stays NaN, and fails."""
    return float((a - b).abs().max() / b.abs().max())


def _rows_sum_to_one(cache: Mapping[str, Tensor], tolerance: float) -> CheckResult:
    errors = {}
    for name, pattern in cache.items():
        if name.endswith("hook_pattern"):
            sums = pattern.double().sum(-1)
            errors[name] = float((sums - sums.round().clamp(0, 1)).abs().max())
    worst = max(errors, key=errors.__getitem__)
    return CheckResult("attention rows sum to one", errors[worst], tolerance, where=worst)


def _self_patches(
    model: "HookedVLM", inputs: Mapping[str, Any], cache: Mapping[str, Tensor], watched: Tensor, tolerance: float
) -> CheckResult:
    """All self-patches at once; where they move the logits, the one that does is searched by halves."""
    names = list(cache)
    error = _distance(_put(model, inputs, {name: cache[name] for name in names}), watched)
    while not error <= tolerance and len(names) > 1:
        first, second = names[: len(names) // 2], names[len(names) // 2 :]
        first_error = _distance(_put(model, inputs, {name: cache[name] for name in first}), watched)
        names = second if first_error <= tolerance else first
    return CheckResult("self-patches change nothing", error, tolerance, where="" if error <= tolerance else names[0])


def _put(model: "HookedVLM", inputs: Mapping[str, Any], activations: Mapping[str, Tensor]) -> Tensor:
    """Return the logits with these activations in place of the model's own."""

    def replace_by(new: Tensor) -> Any:
        return lambda activation, hook: new

    hooks = [(name, replace_by(activation)) for name, activation in activations.items()]
    return model.run_with_hooks(inputs, fwd_hooks=hooks)


def _all_causal(
    model: "HookedVLM",
    inputs: Mapping[str, Any],
    cache: Mapping[str, Tensor],
    watched: Tensor,
    progress: bool,
    all_layers: bool,
) -> CheckResult:
    """The hook point whose noise moves the logits least."""
    from tqdm.auto import tqdm

    names = [name for name in _tested(model, cache, all_layers) if not inert(model, name)]
    moves = {}
    for name in tqdm(names, desc="checking hook points", leave=False, disable=not progress):
        moves[name] = _distance(_put(model, inputs, {name: _noisy(cache[name])}), watched)
    least = min(moves, key=moves.__getitem__)
    return CheckResult(
        "noise at every hook point moves the logits", moves[least], _MOVES[model.dtype], at_least=True, where=least
    )


def _tested(model: "HookedVLM", names: Mapping[str, Tensor], all_layers: bool) -> Sequence[str]:
    ends = {stack: {None, 0, n_layers - 1} for stack, n_layers in model.layers_by_stack.items()}
    unread = unread_vision_layers(model.config, model.layers_by_stack["vision"])
    if unread:
        ends["vision"].add(unread[0] - 1)
    parsed = {name: HookName.parse(name) for name in names}
    return [name for name, parts in parsed.items() if all_layers or parts.layer in ends[parts.stack]]


def _noisy(activation: Tensor) -> Tensor:
    """The activation with as much noise as it has spread; what is -inf stays."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(activation.shape, generator=generator, dtype=torch.float32).to(activation)
    spread = activation[activation.isfinite()].float().std()
    return activation + noise * spread.to(activation.dtype)
