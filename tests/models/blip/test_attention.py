"""Attention: two ways to the same numbers, shared sources, split inputs."""

import pytest
import torch

from conftest import relative_error
from notice_lens.models.blip.attention import Attention, KeyValues


@pytest.fixture
def cross() -> Attention:
    torch.manual_seed(0)
    return Attention(24, 4, d_source=20)


def look(module: Attention, name: str) -> list:
    """What passes a hook point, collected."""
    seen: list[torch.Tensor] = []
    getattr(module, name).add_hook(lambda activation, hook: seen.append(activation))
    return seen


@pytest.mark.parametrize("hook", ["hook_attn_scores", "hook_pattern"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("variants", [1, 3])
def test_looking_gives_the_same_output(cross, hook, masked, variants):
    stream, source = torch.randn(2 * variants, 5, 24), torch.randn(2, 7, 20)
    mask = torch.arange(7)[None, None, None] < torch.tensor([7, 4])[:, None, None, None] if masked else None
    unseen = cross(stream, source, mask)
    seen = look(cross, hook)
    assert relative_error(cross(stream, source, mask), unseen) < 1e-5
    assert seen[0].shape == (2 * variants, 4, 5, 7)
    if masked:
        assert seen[0][variants:, ..., 4:].amax() == (0 if hook == "hook_pattern" else torch.finfo().min)


def test_causal_attention_sees_no_later_position():
    attention = Attention(24, 4, causal=True)
    stream = torch.randn(1, 6, 24)
    changed = stream.clone()
    changed[:, 4] += 1
    unseen = attention(stream), attention(changed)
    look(attention, "hook_pattern")
    for before, after in (unseen, (attention(stream), attention(changed))):
        assert torch.allclose(before[:, :4], after[:, :4], atol=1e-6)
        assert (before[:, 4:] - after[:, 4:]).abs().amax(-1).gt(1e-4).all()


def test_scores_are_products_of_queries_and_keys(cross):
    stream, source = torch.randn(2, 5, 24), torch.randn(2, 7, 20)
    q, k, scores = (look(cross, name) for name in ("hook_q", "hook_k", "hook_attn_scores"))
    cross(stream, source)
    expected = torch.einsum("bqhd,bkhd->bhqk", q[0], k[0]) / 6**0.5
    assert torch.allclose(scores[0], expected, atol=1e-6)


def test_a_shared_source_serves_consecutive_rows(cross):
    """Rows 0 to 2 look at the first source, rows 3 to 5 at the second, as when each had a copy."""
    stream, source = torch.randn(6, 5, 24), torch.randn(2, 7, 20)
    shared = cross(stream, cross.project_source(source))
    copies = cross(stream, source.repeat_interleave(3, 0))
    assert relative_error(shared, copies) < 1e-5


def test_head_results_add_up_to_the_output(cross):
    stream, source = torch.randn(2, 5, 24), torch.randn(2, 7, 20)
    whole = cross(stream, source)
    cross.use_attn_result = True
    results = look(cross, "hook_result")
    assert relative_error(cross(stream, source), whole) < 1e-5
    assert results[0].shape == (2, 5, 4, 24)
    assert relative_error(results[0].sum(2) + cross.b_O, whole) < 1e-5


def test_split_inputs_change_nothing_and_reach_one_head_each(cross):
    stream, source = torch.randn(2, 5, 24), torch.randn(2, 7, 20)
    whole = cross(stream, source)
    cross.use_split_qkv_input = True
    assert relative_error(cross(stream, source), whole) < 1e-5

    def change_head_1(activation, hook):
        activation[:, :, 1] += 1
        return activation

    z = look(cross, "hook_z")
    cross(stream, source)
    cross.hook_v_input.add_hook(change_head_1)
    cross(stream, source)
    changed = (z[0] - z[1]).abs().amax((0, 1, 3)) > 1e-3
    assert changed.tolist() == [False, True, False, False]


def test_split_inputs_cannot_use_a_projected_source(cross):
    cross.use_split_qkv_input = True
    with pytest.raises(ValueError, match="these were projected already: give the states, or switch use_split_qkv"):
        cross(torch.randn(1, 5, 24), cross.project_source(torch.randn(1, 7, 20)))


def test_weights_by_transformer_lens_names(cross):
    stream, source = torch.randn(1, 5, 24), torch.randn(1, 7, 20)
    q, k, v = (look(cross, name) for name in ("hook_q", "hook_k", "hook_v"))
    cross(stream, source)
    for found, states, weight, bias in (
        (q, stream, cross.W_Q, cross.b_Q),
        (k, source, cross.W_K, cross.b_K),
        (v, source, cross.W_V, cross.b_V),
    ):
        assert torch.allclose(found[0], torch.einsum("bpd,hde->bphe", states, weight) + bias, atol=1e-6)


def test_self_attention_reads_its_own_stream():
    attention = Attention(24, 4)
    stream = torch.randn(2, 5, 24)
    assert torch.equal(attention(stream), attention(stream, stream))
    assert isinstance(attention.project_source(stream), KeyValues)
