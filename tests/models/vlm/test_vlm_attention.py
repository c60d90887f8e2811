"""Explicit attention against PyTorch's, and its own formulas where PyTorch has none."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from notice_lens.models.vlm.attention import causal_mask, explicit_attention, mask_of, watched_attention

G = torch.Generator().manual_seed(0)


def tensors(heads: int = 4, kv_heads: int = 2, queries: int = 5, keys: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    def normal(n_heads: int, n: int) -> Tensor:
        return torch.randn(2, n_heads, n, 8, generator=G, dtype=torch.float64)

    return normal(heads, queries), normal(kv_heads, keys), normal(kv_heads, keys)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("kind", ["none", "boolean", "additive", "causal"])
def test_it_is_pytorch_s(kv_heads: int, kind: str) -> None:
    q, k, v = tensors(kv_heads=kv_heads)
    seen = torch.rand(2, 1, 5, 5, generator=G) > 0.4
    seen[..., 0] = True
    mask = {
        "none": None,
        "boolean": seen,
        "additive": torch.randn(2, 1, 5, 5, generator=G, dtype=torch.float64),
        "causal": causal_mask(5, 5),
    }[kind]
    z, pattern = explicit_attention(q, k, v, mask, scaling=0.3)
    expected = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3, enable_gqa=True)
    close(z, expected.transpose(1, 2))
    close(pattern.sum(-1), torch.ones(2, 4, 5, dtype=torch.float64))


def test_the_default_scale_is_that_of_the_width() -> None:
    q, k, v = tensors()
    close(explicit_attention(q, k, v)[0], explicit_attention(q, k, v, scaling=8**-0.5)[0])


def test_a_row_that_sees_nothing_gives_zeros_as_pytorch_does() -> None:
    q, k, v = tensors()
    mask = causal_mask(5, 5).clone()
    mask[2] = False
    z, pattern = explicit_attention(q, k, v, mask)
    close(z, scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True).transpose(1, 2))
    assert not pattern[:, :, 2].any()


def test_a_soft_cap_bounds_the_scores_before_the_mask() -> None:
    q, k, v = tensors()
    found = {}

    def watch(stage: str, tensor: Tensor) -> Tensor:
        found[stage] = tensor
        return tensor

    explicit_attention(q * 100, k, v, causal_mask(5, 5), softcap=2.0, watch=watch)
    scores = found["attn_scores"]
    raw = torch.einsum("bhqd,bhkd->bhqk", q * 100, k.repeat_interleave(2, 1)) * 8**-0.5
    seen = causal_mask(5, 5).expand_as(raw)
    close(scores[seen], (2 * torch.tanh(raw / 2))[seen])
    assert torch.isneginf(scores[~seen]).all()
    assert list(found) == ["rot_q", "rot_k", "v", "attn_scores", "pattern", "z"]


def test_every_step_can_be_changed() -> None:
    q, k, v = tensors()
    plain, _ = explicit_attention(q, k, v)
    for changed in ("rot_q", "rot_k", "v", "attn_scores", "pattern", "z"):

        def watch(stage: str, tensor: Tensor, changed: str = changed) -> Tensor:
            return tensor * 1.5 if stage == changed else tensor

        z, _ = explicit_attention(q, k, v, watch=watch)
        assert (z - plain).abs().max() > 1e-3, changed
    close(explicit_attention(q, k, v, watch=lambda stage, x: x * 2 if stage == "v" else x)[0], plain * 2)


def test_the_softmax_is_float32_in_bfloat16() -> None:
    q, k, v = (tensor.to(torch.bfloat16) for tensor in tensors())
    found = {}
    explicit_attention(q, k, v, watch=lambda stage, x: found.setdefault(stage, x))
    assert torch.equal(found["pattern"], found["attn_scores"].float().softmax(-1).to(torch.bfloat16))


def test_where_no_mask_is_given_attention_is_causal_if_the_module_is() -> None:
    q, k, _ = tensors()
    module = nn.Module()
    assert torch.equal(mask_of(module, q, k, None), causal_mask(5, 5))  # as transformers' SDPA has it
    assert mask_of(module, q, k, None, is_causal=False) is None
    assert mask_of(module, q[:, :, :1], k, None) is None  # one query, while generating
    given = torch.ones(1, 1, 5, 9, dtype=torch.bool)
    assert mask_of(module, q, k, given).shape == (1, 1, 5, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"s_aux": torch.zeros(4)}, "attention sinks"),
        ({"position_bias": torch.zeros(1, 4, 5, 5)}, "position bias"),
        ({"dropout": 0.1}, r"dropout.*model.eval\(\)"),
    ],
)
def test_steps_that_are_not_known_are_refused(options: dict, message: str) -> None:
    attend = watched_attention(lambda stage, tensor: tensor)
    with pytest.raises(ValueError, match=message):
        attend(nn.Linear(1, 1), *tensors(), **options)
