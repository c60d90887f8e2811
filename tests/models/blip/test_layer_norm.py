"""LayerNorm: what its hook points show, what changing them does, and that looking changes nothing."""

import pytest
import torch

from notice_lens.models.blip.layer_norm import LayerNorm


@pytest.fixture
def norm() -> LayerNorm:
    torch.manual_seed(0)
    norm = LayerNorm(24, eps=0.3).double()
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    return norm


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_the_hook_points_show_what_they_say(norm, x):
    seen = {}
    for name in ("hook_scale", "hook_normalized"):
        getattr(norm, name).add_hook(lambda activation, hook, name=name: seen.__setitem__(name, activation))
    out = norm(x)
    scale = (x.var(-1, correction=0, keepdim=True) + 0.3).sqrt()
    normalized = (x - x.mean(-1, keepdim=True)) / scale
    assert torch.allclose(seen["hook_scale"], scale, rtol=1e-12)
    assert torch.allclose(seen["hook_normalized"], normalized, rtol=1e-12)
    assert torch.allclose(out, normalized * norm.weight + norm.bias, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_looking_changes_no_number(norm, x, dtype):
    norm, x = norm.to(dtype), x.to(dtype)
    unseen = norm(x)
    norm.hook_scale.add_hook(lambda scale, hook: None)
    assert torch.equal(norm(x), unseen)


def test_a_changed_scale_or_stream_goes_on(norm, x):
    unseen = norm(x)
    norm.hook_scale.add_hook(lambda scale, hook: 2 * scale)
    assert torch.allclose(norm(x) - norm.bias, (unseen - norm.bias) / 2, rtol=1e-10)
    norm.hook_normalized.add_hook(lambda normalized, hook: torch.zeros_like(normalized))
    assert torch.allclose(norm(x), norm.bias.expand_as(x), atol=1e-12)


def test_a_patched_stream_is_not_corrected_for_the_rounding_of_another():
    """In half precision: the clean normalised stream in place of the corrupted one gives the clean output."""
    norm = LayerNorm(24, eps=1e-5).bfloat16()
    generator = torch.Generator().manual_seed(2)
    clean, corrupt = (torch.randn(2, 500, 24, generator=generator).bfloat16() for _ in range(2))
    seen = []
    handle = norm.hook_normalized.add_hook(lambda normalized, hook: seen.append(normalized))
    expected = norm(clean)
    norm.hook_normalized.discard(handle)
    norm.hook_normalized.add_hook(lambda normalized, hook: seen[0])
    assert (norm(corrupt) - expected).abs().max() == 0


def test_gradients_are_those_of_the_fused_kernel(norm, x):
    def gradient() -> torch.Tensor:
        leaf = x.clone().requires_grad_()
        norm(leaf).pow(3).sum().backward()
        return leaf.grad

    unseen = gradient()
    norm.hook_scale.add_hook(lambda scale, hook: None)
    assert torch.allclose(gradient(), unseen, rtol=1e-10)
