"""TransformerLens's own patching, unmodified, on a lens: with the picture, and equal to plain hooks on Hugging Face."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import patching

from hosted_vlms import Tiny, tiny_model
from notice_lens.patching import patch_inputs

STREAMS = ("resid_pre", "resid_mid", "attn_out", "mlp_out")
HEADS = {"out": "z", "q": "q", "k": "k", "v": "v", "pattern": "pattern"}


@pytest.fixture(params=["llava", "qwen2_5_vl", "mllama"])
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return tiny_model(request.param)


def metric(logits: Tensor) -> Tensor:
    return logits[0, -1, 7] - logits[0, -1, 9]


class Kept:
    """The metric, with its numbers as they are: TransformerLens keeps results in float32."""

    def __init__(self) -> None:
        self.numbers: list[float] = []

    def __call__(self, logits: Tensor) -> Tensor:
        number = metric(logits)
        self.numbers.append(float(number))
        return number


def swept(tiny: Tiny, name: str, positions: Any) -> Any:
    """Every head by `patch_inputs`."""
    return patch_inputs(
        tiny.model, tiny.clean, tiny.corrupted, name,
        metric=lambda logits: logits[:, 7] - logits[:, 9], positions=positions, progress=False,
    )  # fmt: skip


def one_by_one(tiny: Tiny, name: str, index: tuple) -> Tensor:
    """The metric with one place of the clean run in the corrupted one, by a hook of the model's own."""
    _, clean = tiny.model.run_with_cache(tiny.clean, names_filter=name)

    def put(activation: Tensor, hook: Any) -> None:
        activation[index] = clean[name][index]

    # TransformerLens keeps its results in float32.
    return metric(tiny.model.run_with_hooks(tiny.corrupted, fwd_hooks=[(name, put)])).float()


@pytest.mark.parametrize("stream", STREAMS)
def test_streams_by_position(tiny: Tiny, stream: str) -> None:
    lens = tiny.model.lens("language.attn", tiny.corrupted)
    _, clean = tiny.model.lens("language.attn", tiny.clean).run_with_cache(lens.tokens)
    found = getattr(patching, f"get_act_patch_{stream}")(lens, lens.tokens, clean, metric)
    assert found.shape == (len(lens.layers), lens.tokens.shape[1])
    for layer, position in ((0, -1), (1, -4), (1, 6)):
        name = f"language.blocks.{lens.layers[layer]}.hook_{stream}"
        torch.testing.assert_close(found[layer, position], one_by_one(tiny, name, (0, position)), atol=0, rtol=1e-6)
    assert found.std() > 1e-4


@pytest.mark.parametrize("head", HEADS)
def test_heads_over_all_positions(tiny: Tiny, head: str) -> None:
    """Keys and values by their own number of heads."""
    lens = tiny.model.lens("language.attn", tiny.corrupted)
    _, clean = tiny.model.lens("language.attn", tiny.clean).run_with_cache(lens.tokens)
    found = getattr(patching, f"get_act_patch_attn_head_{head}_all_pos")(lens, lens.tokens, clean, metric)
    assert found.shape == (len(lens.layers), 2 if head in ("k", "v") else 4)
    name = f"language.blocks.{lens.layers[1]}.attn.hook_{HEADS[head]}"
    index = (0, 1) if head == "pattern" else (0, slice(None), 1)
    torch.testing.assert_close(found[1, 1], one_by_one(tiny, name, index), atol=0, rtol=1e-6)


@pytest.mark.parametrize(
    ("family", "name"),
    [*((family, "language.attn") for family in ("llava", "gemma3", "mllama")), ("mllama", "language.cross_attn"),
     pytest.param("qwen2_5_vl", "language.attn", marks=pytest.mark.large)],
)  # fmt: skip
def test_heads_equal_those_of_patch_inputs(family: str, name: str) -> None:
    """At every position, and at all of them at once: a full forward pass a patch, a plain hook, and the wave."""
    tiny = tiny_model(family)
    lens = tiny.model.lens(name, tiny.corrupted)
    length = lens.tokens.shape[1]
    by_position, at_once = Kept(), Kept()
    with torch.no_grad():
        _, clean = tiny.model.lens(name, tiny.clean).run_with_cache(lens.tokens)
        rounded = patching.get_act_patch_attn_head_out_by_pos(lens, lens.tokens, clean, by_position)
        patching.get_act_patch_attn_head_out_all_pos(lens, lens.tokens, clean, at_once)
    every, whole = swept(tiny, name, range(length)), swept(tiny, name, {"all": range(length)})
    gap = abs(float(every.metric_clean - every.metric_corrupted))
    assert every.layer.values.tolist() == whole.layer.values.tolist() == lens.layers
    found = every.metric.transpose("layer", "position", "head").values
    assert abs(found.ravel() - by_position.numbers).max() < 1e-9 * gap
    assert abs(whole.metric.values.ravel() - at_once.numbers).max() < 1e-9 * gap
    assert found.std() > 1e-4 * gap
    assert rounded.shape == found.shape
    hook = f"{name.replace('.', f'.blocks.{lens.layers[1]}.')}.hook_z"
    torch.testing.assert_close(rounded[1, -1, 2], one_by_one(tiny, hook, (0, -1, 2)), atol=0, rtol=1e-6)


def test_cross_attention_has_a_lens_of_its_own() -> None:
    tiny = tiny_model("mllama")
    lens = tiny.model.lens("language.cross_attn", tiny.corrupted)
    assert lens.layers == [1, 3]
    assert tiny.model.lens("language.attn", tiny.clean).layers == [0, 2]
    _, clean = tiny.model.lens("language.cross_attn", tiny.clean).run_with_cache(lens.tokens)
    out = patching.get_act_patch_attn_out(lens, lens.tokens, clean, metric)
    expected = one_by_one(tiny, "language.blocks.1.hook_cross_attn_out", (0, -1))
    torch.testing.assert_close(out[0, -1], expected, atol=0, rtol=1e-6)


def test_a_lens_says_what_is_wrong(tiny: Tiny) -> None:
    lens = tiny.model.lens("language.attn", tiny.clean)
    with pytest.raises(ValueError, match=r"bound to tokens of shape .*make another lens"):
        lens(lens.tokens[:, :-1])
    with pytest.raises(KeyError, match=r"a lens drops the stack's name: blocks.0.attn.hook_z instead of"):
        lens.run_with_cache(lens.tokens, names_filter="language.blocks.0.attn.hook_z")
    with pytest.raises(KeyError, match="no lens 'text.attn'; did you mean"):
        tiny.model.lens("text.attn", tiny.clean)
    with pytest.raises(KeyError, match=r"no lens 'vision.attn'.*patches"):
        tiny.model.lens("vision.attn", tiny.clean)
    if tiny.family != "mllama":
        with pytest.raises(KeyError, match="has no cross-attention"):
            tiny.model.lens("language.cross_attn", tiny.clean)
    with pytest.raises(ValueError, match="move the model"):
        lens.to("cpu")
    assert torch.equal(lens(lens.tokens), tiny.logits())
