"""`patch_inputs` on a HookedBLIP: every patch equals a run with one hook, and what does not fit is named."""

from typing import Any

import pytest
import torch
from torch import Tensor

from notice_lens import HookedBLIP
from notice_lens.pairs import mini_world
from notice_lens.patching import patch_inputs

PAIR = mini_world("states", n=1, seed=0)[0]


@pytest.fixture(scope="module")
def model() -> HookedBLIP:
    return HookedBLIP.mini(dtype=torch.float64)


@pytest.fixture(scope="module")
def inputs(model: HookedBLIP) -> tuple[Any, Any]:
    clean, corrupted = (model.prepare(image, PAIR.clean_prompt) for image in (PAIR.clean_image, PAIR.corrupt_image))
    return clean, corrupted


def metric(logits: Tensor) -> Tensor:
    return logits[:, 7] - logits[:, 9]


def hooked(model: HookedBLIP, base: Any, other: Any, hook: str, index: tuple[Any, ...]) -> float:
    """The metric of a full run with one patch, by `run_with_hooks`."""
    with torch.no_grad():
        _, cache = model.run_with_cache(other, names_filter=hook)

        def patch(value: Tensor, hook: Any) -> Tensor:
            value[index] = cache[hook.name][index]
            return value

        return float(metric(model.run_with_hooks(base, fwd_hooks=[(hook, patch)])[:, -1]))


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize(
    ("site", "hook", "with_heads"),
    [
        (None, "text.blocks.{}.cross_attn.hook_z", True),
        ("vision.attn", "vision.blocks.{}.attn.hook_z", True),
        ("text.attn.k", "text.blocks.{}.attn.hook_k", True),
        ("decoder.attn.q", "decoder.blocks.{}.attn.hook_q", True),
        ("text.resid_pre", "text.blocks.{}.hook_resid_pre", False),
        ("vision.mlp.post", "vision.blocks.{}.mlp.hook_post", False),
    ],
)
def test_every_patch_equals_a_run_with_one_hook(
    model: HookedBLIP, inputs: tuple[Any, Any], site: str | None, hook: str, with_heads: bool, direction: Any
) -> None:
    clean, corrupted = inputs
    positions = [0] if hook.startswith("decoder") else [1, 4]
    found = patch_inputs(
        model, clean, corrupted, site, metric=metric, positions=positions, direction=direction, progress=False
    )
    base, other = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
    for layer in (0, 2):
        for position in positions:
            for head in (1, 5) if with_heads else (None,):
                index = (0, position) if head is None else (0, position, head)
                expected = hooked(model, base, other, hook.format(layer), index)
                cell = {"layer": layer, "position": position, **({} if head is None else {"head": head})}
                assert found.metric.sel(cell).item() == pytest.approx(expected, abs=1e-9)
    with torch.no_grad():
        for name, own in (("metric_clean", clean), ("metric_corrupted", corrupted)):
            assert found[name].item() == pytest.approx(float(metric(model(own)[:, -1])), abs=1e-9)
    assert found.noise_floor.item() < 1e-9


def test_groups_of_positions_a_pattern_and_zeros(model: HookedBLIP, inputs: tuple[Any, Any]) -> None:
    clean, corrupted = inputs
    groups = {"first": [1, 2], "word": 4}
    found = patch_inputs(
        model, clean, corrupted, "text.cross_attn.pattern", metric=metric, positions=groups, progress=False
    )
    assert found.position.values.tolist() == ["first", "word"]
    expected = hooked(model, corrupted, clean, "text.blocks.1.cross_attn.hook_pattern", (0, 3, [1, 2]))
    assert found.metric.sel(layer=1, head=3, position="first").item() == pytest.approx(expected, abs=1e-9)
    none = patch_inputs(model, clean, clean, metric=metric, source="zero", positions=[4], layers=2, progress=False)

    def nothing(z: Tensor, hook: Any) -> Tensor:
        z[:, 4, 6] = 0.0
        return z

    with torch.no_grad():
        logits = model.run_with_hooks(clean, fwd_hooks=[("text.blocks.2.cross_attn.hook_z", nothing)])
    assert none.metric.sel(head=6).item() == pytest.approx(float(metric(logits[:, -1])), abs=1e-9)


def test_a_small_memory_gives_the_same_numbers(model: HookedBLIP, inputs: tuple[Any, Any]) -> None:
    large, small = (
        patch_inputs(model, *inputs, "vision.attn", metric=metric, positions=[3], memory=memory, progress=False)
        for memory in (None, 1)
    )
    assert abs(large.metric - small.metric).max() < 1e-10


def test_what_does_not_fit_is_named(model: HookedBLIP, inputs: tuple[Any, Any]) -> None:
    clean, corrupted = inputs
    two = model.prepare([PAIR.clean_image] * 2, [PAIR.clean_prompt] * 2)
    with pytest.raises(ValueError, match="inputs of 2 examples; expected those of one: loop over examples"):
        patch_inputs(model, two, corrupted, metric=metric)
    longer = model.prepare(PAIR.clean_image, "is the apple red or green or blue?")
    with pytest.raises(ValueError, match=r"have \d+ and \d+ positions in `text`.*replace words by as many tokens"):
        patch_inputs(model, longer, corrupted, metric=metric)
    with pytest.raises(ValueError, match="no stack 'language'; valid: 'vision', 'text', 'decoder'"):
        patch_inputs(model, clean, corrupted, "language.attn", metric=metric)
    with pytest.raises(ValueError, match="position 99 asked for; the inputs have positions 0 to 8"):
        patch_inputs(model, clean, corrupted, metric=metric, positions=[99])
    with pytest.raises(ValueError, match="expected one number a row"):
        patch_inputs(model, clean, corrupted, metric=lambda logits: logits[:, :2], progress=False)
