"""Every kind of edit equals an oracle that shares no code with the package: plain hooks on Hugging Face's modules.

The oracle knows nothing of taps, rows or the attention seam. It edits the input of an output projection, the output of
a projection, or computes a block's own formula by calling its modules. A mutant, the neighbouring position or head,
has to be further away than the tolerance by far.
"""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny_vlms
from forward_oracle import decoder_of
from hosted_vlms import LIBRARY_WARNINGS, Tiny, tiny_model
from notice_lens.models.hooks import CopyingHookPoint
from notice_lens.models.in_use import Changes
from notice_lens.models.vlm.taps import Rows, Side, Tap

pytestmark = LIBRARY_WARNINGS
LAYER = 1
POSITION = -3
TOLERANCE = 1e-10


@pytest.fixture(params=list(tiny_vlms.FAMILIES))
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return tiny_model(request.param)


@pytest.fixture
def llava() -> Tiny:
    return tiny_model("llava")


def self_attention_layer(tiny: Tiny) -> int:
    # In Gemma 3, the image is further away than the window of the first layer.
    return next(layer for layer in tiny.layers() if layer >= LAYER + (tiny.family == "gemma3"))


@contextmanager
def hooked(module: Any, change: Callable[[Tensor], Tensor], on: str = "output"):
    """A plain torch hook, on the first tensor that goes in or comes out."""

    def of_input(module: Any, args: Any) -> Any:
        return (change(args[0]), *args[1:])

    def of_output(module: Any, args: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    handle = (
        module.register_forward_pre_hook(of_input)
        if on == "input"
        else module.register_forward_hook(of_output, prepend=True)
    )
    try:
        yield
    finally:
        handle.remove()


def recorded(tiny: Tiny, inputs: Any, module: Any, on: str) -> Tensor:
    """What went in or came out, in a run of Hugging Face's model."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor.clone())
        return tensor

    with hooked(module, keep, on):
        tiny.logits(inputs)
    return found[0]


def by_oracle(tiny: Tiny, module: Any, on: str, at: tuple, width: slice) -> Tensor:
    """Logits with some columns at some place taken from the corrupted run."""
    other = recorded(tiny, tiny.corrupted, module, on)

    def change(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor[(*at, width)] = other[(*at, width)]
        return tensor

    with hooked(module, change, on):
        return tiny.logits()


def by_hooks(tiny: Tiny, name: str, at: tuple) -> Tensor:
    """Logits with one place of a hook point taken from the corrupted run."""
    _, other = tiny.model.run_with_cache(tiny.corrupted, names_filter=name)

    def change(activation: Tensor, hook: Any) -> None:
        activation[at] = other[name][at]

    return tiny.model.run_with_hooks(tiny.clean, fwd_hooks=[(name, change)])


def agree(found: Tensor, expected: Tensor, mutant: Tensor, unpatched: Tensor) -> None:
    """The edit is the oracle's, moves something, and the mutant is not it."""
    gap = (expected - unpatched).abs().max()
    assert gap > 1e-6
    assert (found - expected).abs().max() <= TOLERANCE * gap.clamp(min=1)
    assert (mutant - expected).abs().max() > 1e-4 * gap


def language_attention(tiny: Tiny) -> tuple[int, Any, int]:
    """Layer, Hugging Face's attention and the width of a head."""
    layer = self_attention_layer(tiny)
    attention = decoder_of(tiny.hf).layers[layer].self_attn
    return layer, attention, attention.head_dim


def projection_of(attention: Any) -> Any:
    """The output projection, by either of its names."""
    return attention.o_proj if hasattr(attention, "o_proj") else attention.out_proj


def test_z_of_one_head_at_one_position(tiny: Tiny) -> None:
    layer, attention, width = language_attention(tiny)
    head = 2
    name = f"language.blocks.{layer}.attn.hook_z"
    expected = by_oracle(
        tiny, projection_of(attention), "input", (0, POSITION), slice(head * width, (head + 1) * width)
    )
    agree(
        by_hooks(tiny, name, (0, POSITION, head)),
        expected,
        by_hooks(tiny, name, (0, POSITION, head - 1)),
        tiny.logits(),
    )


@pytest.mark.parametrize("which", ["q", "k", "v"])
def test_queries_keys_and_values_before_the_rotary_embedding(tiny: Tiny, which: str) -> None:
    """Keys and values have heads of their own count."""
    layer, attention, width = language_attention(tiny)
    head = 1
    name = f"language.blocks.{layer}.attn.hook_{which}"
    projection = getattr(attention, f"{which}_proj")
    expected = by_oracle(tiny, projection, "output", (0, POSITION), slice(head * width, (head + 1) * width))
    agree(
        by_hooks(tiny, name, (0, POSITION, head)),
        expected,
        by_hooks(tiny, name, (0, POSITION + 1, head)),
        tiny.logits(),
    )


def values_of(tiny: Tiny, layer: int) -> Tensor:
    """[head, pos, d_head]: each query head's values, by Hugging Face's projection."""
    attention = decoder_of(tiny.hf).layers[layer].self_attn
    values = recorded(tiny, tiny.clean, attention.v_proj, "output")[0].unflatten(-1, (-1, attention.head_dim))
    n_heads = projection_of(attention).in_features // attention.head_dim
    return values.transpose(0, 1).repeat_interleave(n_heads // values.shape[1], 0)


def with_z(tiny: Tiny, attention: Any, head: int, new: Tensor) -> Tensor:
    """Logits with one head's z [pos, d_head] in place of its own."""

    def change(z: Tensor) -> Tensor:
        z = z.clone()
        z[0, :, head * attention.head_dim : (head + 1) * attention.head_dim] = new
        return z

    with hooked(projection_of(attention), change, "input"):
        return tiny.logits()


def test_a_pattern_weighs_the_values(tiny: Tiny) -> None:
    layer, attention, _ = language_attention(tiny)
    head = 3
    name = f"language.blocks.{layer}.attn.hook_pattern"
    _, cache = tiny.model.run_with_cache(tiny.clean, names_filter=name)
    edited = cache[name][0, head].flip(-1)

    def change(pattern: Tensor, hook: Any) -> None:
        pattern[0, head] = edited

    found = tiny.model.run_with_hooks(tiny.clean, fwd_hooks=[(name, change)])
    values = values_of(tiny, layer)
    expected = with_z(tiny, attention, head, edited @ values[head])
    mutant = with_z(tiny, attention, head - 1, edited @ values[head - 1])
    agree(found, expected, mutant, tiny.logits())


def test_scores_become_the_pattern_by_a_softmax(tiny: Tiny) -> None:
    layer, attention, _ = language_attention(tiny)
    head = 0
    name = f"language.blocks.{layer}.attn.hook_attn_scores"
    _, cache = tiny.model.run_with_cache(tiny.clean, names_filter=name)
    scores = cache[name][0, head] * 0.5

    def change(scores: Tensor, hook: Any) -> None:
        scores[0, head] *= 0.5

    found = tiny.model.run_with_hooks(tiny.clean, fwd_hooks=[(name, change)])
    values = values_of(tiny, layer)
    expected = with_z(tiny, attention, head, scores.exp() / scores.exp().sum(-1, keepdim=True) @ values[head])
    mutant = with_z(tiny, attention, head, cache[name][0, head + 1].softmax(-1) @ values[head])
    agree(found, expected, mutant, tiny.logits())


def test_rotated_queries_and_keys_give_the_scores(tiny: Tiny) -> None:
    """Scores are q k / sqrt(d), query heads in groups; OPT's queries and keys are not rotated."""
    layer, attention, _ = language_attention(tiny)
    stem = f"language.blocks.{layer}.attn.hook_"
    rotated = ("rot_q", "rot_k") if tiny.family != "blip-2" else ("q", "k")
    names = [stem + leaf for leaf in (*rotated, "attn_scores")]
    _, cache = tiny.model.run_with_cache(tiny.clean, names_filter=names)
    q, k, scores = (cache[name][0] for name in names)
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    expected = torch.einsum("qhd,khd->hqk", q, k) * attention.scaling
    seen = scores.isfinite()
    torch.testing.assert_close(scores[seen], expected[seen], atol=1e-12, rtol=0)
    assert not seen.all() or tiny.family == "paligemma"


@pytest.mark.parametrize("which", ["rot_q", "rot_k"])
def test_an_edit_of_rotated_queries_or_keys_is_an_edit_of_their_scores(llava: Tiny, which: str) -> None:
    layer, attention, _ = language_attention(llava)
    stem = f"language.blocks.{layer}.attn.hook_"
    _, cache = llava.model.run_with_cache(llava.clean)
    q, k = cache[stem + "rot_q"][0].clone(), cache[stem + "rot_k"][0].clone()
    (q if which == "rot_q" else k)[POSITION, 1] *= -2
    grouped = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    scores = torch.einsum("qhd,khd->hqk", q, grouped) * attention.scaling
    scores = scores.masked_fill(~cache[stem + "attn_scores"][0].isfinite(), float("-inf"))

    def scale(activation: Tensor, hook: Any) -> None:
        activation[0, POSITION, 1] *= -2

    def put(activation: Tensor, hook: Any) -> Tensor:
        return scores[None]

    found = llava.model.run_with_hooks(llava.clean, fwd_hooks=[(stem + which, scale)])
    expected = llava.model.run_with_hooks(llava.clean, fwd_hooks=[(stem + "attn_scores", put)])
    agree(found, expected, llava.logits(), llava.logits())


def test_the_stream_half_way_is_what_the_norm_reads_and_what_the_mlp_is_added_to(tiny: Tiny) -> None:
    """The block keeps the stream for the addition: an edit has to reach that too."""
    layer = self_attention_layer(tiny)
    block = decoder_of(tiny.hf).layers[layer]
    name = f"language.blocks.{layer}.hook_resid_mid"
    _, cache = tiny.model.run_with_cache(tiny.corrupted, names_filter=name)
    _, own = tiny.model.run_with_cache(tiny.clean, names_filter=name)
    stream = own[name].clone()
    stream[0, POSITION] = cache[name][0, POSITION]
    with torch.no_grad():
        if tiny.family == "gemma3":
            added = block.post_feedforward_layernorm(block.mlp(block.pre_feedforward_layernorm(stream)))
        elif tiny.family == "glm4v":
            added = block.post_mlp_layernorm(block.mlp(block.post_attention_layernorm(stream)))
        elif tiny.family == "blip-2":
            added = block.fc2(block.activation_fn(block.fc1(block.final_layer_norm(stream))))
        else:
            added = block.mlp(block.post_attention_layernorm(stream))
    with hooked(block, lambda output: stream + added):
        expected = tiny.logits()
    agree(by_hooks(tiny, name, (0, POSITION)), expected, by_hooks(tiny, name, (0, POSITION - 1)), tiny.logits())


@pytest.mark.parametrize("leaf", ["hook_resid_pre", "hook_resid_post"])
def test_the_stream_before_and_behind_a_block(tiny: Tiny, leaf: str) -> None:
    layer = self_attention_layer(tiny)
    block = decoder_of(tiny.hf).layers[layer]
    on = "input" if leaf == "hook_resid_pre" else "output"
    name = f"language.blocks.{layer}.{leaf}"
    expected = by_oracle(tiny, block, on, (0, POSITION), slice(None))
    agree(by_hooks(tiny, name, (0, POSITION)), expected, by_hooks(tiny, name, (0, POSITION - 1)), tiny.logits())


def test_parts_of_a_block_add_up_to_its_stream(tiny: Tiny) -> None:
    """What attention and the MLP are said to add is what is added, norms behind them included."""
    _, cache = tiny.model.run_with_cache(tiny.clean)
    for layer in tiny.layers():
        stem = f"language.blocks.{layer}.hook_"
        pre, mid, post = (cache[stem + leaf] for leaf in ("resid_pre", "resid_mid", "resid_post"))
        torch.testing.assert_close(pre + cache[stem + "attn_out"], mid, atol=1e-12, rtol=0)
        torch.testing.assert_close(mid + cache[stem + "mlp_out"], post, atol=1e-12, rtol=0)


def test_results_of_heads_are_attention_s_output(tiny: Tiny) -> None:
    layer = self_attention_layer(tiny)
    name = f"language.blocks.{layer}.attn.hook_result"
    attention = decoder_of(tiny.hf).layers[layer].self_attn
    tiny.model.set_use_attn_result(True)
    try:
        _, cache = tiny.model.run_with_cache(tiny.clean, names_filter=name)
        found = by_hooks(tiny, name, (0, POSITION, 2))
        mutant = by_hooks(tiny, name, (0, POSITION, 1))
    finally:
        tiny.model.set_use_attn_result(False)
    output = recorded(tiny, tiny.clean, projection_of(attention), "output")
    bias = projection_of(attention).bias
    torch.testing.assert_close(cache[name].sum(2), output if bias is None else output - bias, atol=1e-12, rtol=0)
    width = attention.head_dim
    expected = by_oracle(tiny, projection_of(attention), "input", (0, POSITION), slice(2 * width, 3 * width))
    agree(found, expected, mutant, tiny.logits())


def test_neurons(tiny: Tiny) -> None:
    layer = self_attention_layer(tiny)
    block = decoder_of(tiny.hf).layers[layer]
    # OPT's block is its own MLP, which sees the positions of all examples, here one, in one axis.
    mlp, at = (block.mlp, (0, POSITION)) if hasattr(block, "mlp") else (block, (POSITION,))
    name = f"language.blocks.{layer}.mlp.hook_post"
    expected = by_oracle(tiny, mlp.fc2 if mlp is block else mlp.down_proj, "input", at, slice(7, 9))
    agree(
        by_hooks(tiny, name, (0, POSITION, slice(7, 9))),
        expected,
        by_hooks(tiny, name, (0, POSITION, slice(8, 10))),
        tiny.logits(),
    )
    _, cache = tiny.model.run_with_cache(tiny.clean)
    stem = f"language.blocks.{layer}.mlp.hook_"
    if mlp is block:
        neurons = mlp.activation_fn(cache[stem + "pre"])
        torch.testing.assert_close(neurons, cache[stem + "post"], atol=1e-12, rtol=0)
        return
    gated = mlp.activation_fn if tiny.family == "glm4v" else mlp.act_fn
    product = gated(cache[stem + "pre"]) * cache[stem + "pre_linear"]
    torch.testing.assert_close(product, cache[stem + "post"], atol=1e-12, rtol=0)


def tower_attention(tiny: Tiny, layer: int = 1) -> Any:
    """Hugging Face's attention of the tower, and its output projection."""
    tower = tiny.hf.get_encoder(modality="image")
    if tiny.family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v"):
        return tower.blocks[layer].attn.proj
    if tiny.family == "internvl":
        return tower.encoder.layer[layer].attention.projection_layer
    if tiny.family == "mllama":
        return tower.transformer.layers[layer].self_attn.o_proj
    attention = tower.encoder.layers[layer].self_attn
    return attention.projection if tiny.family in ("blip-2", "instructblip") else attention.out_proj


def test_heads_of_the_tower_go_on_through_everything(tiny: Tiny) -> None:
    projection = tower_attention(tiny)
    packed = tiny.family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v")
    patch, head, width = 5, 1, 8
    at = (patch,) if packed else (0, patch)
    expected = by_oracle(tiny, projection, "input", at, slice(head * width, (head + 1) * width))
    name = "vision.blocks.1.attn.hook_z"
    agree(
        by_hooks(tiny, name, (0, patch, head)),
        expected,
        by_hooks(tiny, name, (0, patch + 1, head)),
        tiny.logits(),
    )


def test_patterns_of_the_tower_weigh_its_values(tiny: Tiny) -> None:
    """Windows and images apart: where nothing is seen, the pattern is zero."""
    _, cache = tiny.model.run_with_cache(tiny.clean)
    for layer in tiny.layers("vision"):
        stem = f"vision.blocks.{layer}.attn.hook_"
        pattern, v, z = cache[stem + "pattern"], cache[stem + "v"], cache[stem + "z"]
        torch.testing.assert_close(torch.einsum("ihqk,ikhd->iqhd", pattern, v), z, atol=1e-12, rtol=0)
    if tiny.family == "qwen2_5_vl":
        windows = cache["vision.blocks.0.attn.hook_pattern"][0, 0] > 0
        assert windows.sum(-1).unique().tolist() == [16]  # windows of 28 pixels, 4 x 4 patches
        assert (cache["vision.blocks.1.attn.hook_pattern"] > 0).all()


def test_what_the_projector_gives_is_what_the_language_model_reads(llava: Tiny) -> None:
    expected = by_oracle(llava, llava.hf.model.multi_modal_projector, "output", (0, 4), slice(None))
    found, mutant = (by_hooks(llava, "projector.hook_out", (0, patch)) for patch in (4, 5))
    agree(found, expected, mutant, llava.logits())
    _, cache = llava.model.run_with_cache(llava.clean)
    places = llava.clean["input_ids"][0] == llava.hf.config.image_token_index
    stream = cache["language.blocks.0.hook_resid_pre"][0, places]
    torch.testing.assert_close(stream, cache["projector.hook_out"][0], atol=0, rtol=0)


def test_cross_attention_looks_at_the_image() -> None:
    """Llama-3.2-Vision: queries of the prompt, keys and values of the image, one hook point each."""
    tiny = tiny_model("mllama")
    layer = tiny.layers(is_cross=True)[0]
    attention = decoder_of(tiny.hf).layers[layer].cross_attn
    stem = f"language.blocks.{layer}.cross_attn.hook_"
    expected = by_oracle(tiny, projection_of(attention), "input", (0, POSITION), slice(8, 16))
    agree(
        by_hooks(tiny, stem + "z", (0, POSITION, 1)),
        expected,
        by_hooks(tiny, stem + "z", (0, POSITION, 2)),
        tiny.logits(),
    )
    # Keys of one image: [tile, patch] in Hugging Face's tensor, one axis of positions here.
    expected = by_oracle(tiny, attention.k_proj, "output", (0, 3), slice(8, 16))
    agree(by_hooks(tiny, stem + "k", (0, 3, 1)), expected, by_hooks(tiny, stem + "k", (0, 4, 1)), tiny.logits())


def test_gradients_reach_every_hook_point(llava: Tiny) -> None:
    """Half-way through a block as well, where the stream is written in place."""
    names = [
        f"language.blocks.1.{leaf}" for leaf in ("hook_resid_pre", "hook_resid_mid", "attn.hook_z", "attn.hook_pattern")
    ]
    gradients: dict[str, Tensor] = {}

    def keep(gradient: Tensor, hook: Any) -> None:
        gradients[hook.name] = gradient.clone()

    with torch.enable_grad(), llava.model.hooks(bwd_hooks=[(name, keep) for name in names]):
        llava.model(llava.clean)[0, -1, 7].backward()
    llava.hf.zero_grad()
    assert set(gradients) == set(names)
    step = 3e-3  # norms are float32 in transformers, so a smaller one is lost in rounding
    for name in names:
        place = (0, POSITION, 1, 1) if gradients[name].ndim == 4 else (0, POSITION, 1)

        def nudged(by: float, name: str = name, place: tuple = place) -> float:
            def nudge(activation: Tensor, hook: Any) -> None:
                activation[place] += by

            with torch.no_grad():
                return float(llava.model.run_with_hooks(llava.clean, fwd_hooks=[(name, nudge)])[0, -1, 7])

        slope = (nudged(step) - nudged(-step)) / (2 * step)
        assert abs(slope) > 1e-3
        assert float(gradients[name][place]) == pytest.approx(slope, rel=0.02, abs=2e-4), name


@pytest.mark.parametrize("name", ["hidden_states", "hidden_state"])
def test_a_stream_is_hooked_under_either_name(name: str) -> None:
    """Llama-3.2-Vision's tower hands `hidden_state` to its blocks by name, in transformers before 5.23."""

    class Block(torch.nn.Module):
        def forward(self, *args: Tensor, mask: Tensor, **kwargs: Tensor) -> Tensor:
            return (args[0] if args else kwargs[name]) + mask

    block, point, changes, rows = Block(), CopyingHookPoint("batch pos d_model"), Changes(), Rows()
    block.register_forward_pre_hook(rows.note_batch, with_kwargs=True)
    Tap(point, block, Side.INPUT).attach(changes, set())
    point.add_hook(lambda tensor, hook: 2 * tensor)
    stream, mask = torch.rand(2, 3, 4), torch.rand(2, 3, 4)
    for doubled in (block(**{"mask": mask, name: stream}), block(stream, mask=mask)):
        assert torch.equal(doubled, 2 * stream + mask)
    assert rows.n == 2
