"""Planted circuits do what their construction says, in both directions.

`planted` sets the weights of a BLIP by hand. A *channel* is a pair of dimensions (x, -x), and whatever writes to a
channel writes +1 or -1 to it. So every stream has mean 0 and one norm, whatever the signs in it: each LayerNorm is a
constant, which its weight undoes, and nothing but the planted circuit can carry or leak anything.

    vision    the sign of each patch's brightness: +1 for light, -1 for dark; LayerNorm gives it one size
    text      heads write the sign to channels of their own; gates in the last MLP join channels
    decoder   looks at one position of the question alone (its softmax is saturated), and copies channels
    logits    of `red` and `green`: the logit difference is proportional to the sum of weight x channel

Far from zero GELU is 0 or the identity to the last bit, so gates are exact too. Errors are those of arithmetic.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import make_small_pair
from notice_lens import HookedBLIP
from notice_lens.pairs import MinimalPairs
from notice_lens.patching import Edit, patch_heads, patch_modules, run_variants

EXACT = 1e-9
DIRECTIONS = pytest.mark.parametrize("direction", ["denoise", "noise"])
READ = 3  # the position of the question that the decoder looks at
SIGNALS, WORDS, POSITIONS = range(8), range(8, 32), range(32, 48)  # channels of the text and decoder stacks
SHARP = 1e4
Head = tuple[int, int]


class Gate(NamedTuple):
    """Writes to `channel` whether both, or either, of two channels are +1: as +1 or -1."""

    channel: int
    joins: tuple[int, int]
    either: bool = False


def picture(light: bool, seed: int) -> Image.Image:
    low = 200 if light else 0
    pixels = np.random.default_rng(seed).integers(low, low + 56, (32, 32, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def light_and_dark(light_donor: bool = False) -> MinimalPairs:
    """Clean images are light and corrupted ones dark; questions differ in their words and length."""
    prompts = ["is this red or green?", "what is on the big old table?", "what color is the dog?"]
    rows = [
        {
            "id": f"p{number}", "task": "planted", "kind": "vqa",
            "clean_image": picture(True, 3 * number), "corrupt_image": picture(False, 3 * number + 1),
            "donor_image": picture(light_donor, 3 * number + 2), "clean_prompt": prompt,
            "correct_answer": "red", "incorrect_answer": "green",
        }
        for number, prompt in enumerate(prompts)
    ]  # fmt: skip
    return MinimalPairs.from_rows(rows)


@torch.no_grad()
def planted(writes: Mapping[Head, int], reads: Mapping[int, float], gates: Sequence[Gate] = ()) -> HookedBLIP:
    """A BLIP with a circuit; see the module's docstring.

    Args:
        writes: The channel that each live cross-attention head of the text stack writes to.
        reads: The weight of each channel in the logit difference.
        gates: In the MLP of the last text layer.
    """
    blip = make_small_pair().blip
    for stack in (blip.vision, blip.text, blip.decoder):
        for block in stack.blocks:
            for part in (block.attn, block.mlp, getattr(block, "cross_attn", block.attn)):
                part.output.weight.zero_()
                part.output.bias.zero_()
    plant_sign(blip)
    power = plant_words(blip, "text")
    for layer, block in enumerate(blip.text.blocks):
        power = plant_heads(block, {head: channel for (at, head), channel in writes.items() if at == layer}, power)
        here = gates if layer == len(blip.text.blocks) - 1 else ()
        for neuron, gate in enumerate(here):
            plant_gate(block.mlp, neuron, gate)
        power += len(here)
        neutral(block.ln3, power)
    plant_decoder(blip, list(reads))
    plant_read_out(blip, reads)
    return blip


def neutral(norm, channels):
    """A LayerNorm that changes nothing about a stream with so many channels at +1 or -1, and 0 elsewhere."""
    norm.weight.fill_((2 * channels / len(norm.weight)) ** 0.5)
    norm.bias.zero_()


def write(column, channel):
    column[2 * channel], column[2 * channel + 1] = 1.0, -1.0


def plant_sign(blip):
    """Patch states are +1 or -1 times a fixed vector; the class token's is zero."""
    signs = torch.ones(blip.cfg.vision.d_model).double()
    signs[1::2] = -1
    vision = blip.vision
    for parameter in (vision.class_embedding, vision.position_embedding, vision.patch_embedding.bias):
        parameter.zero_()
    # Far above the LayerNorm's epsilon, so that brightness leaves no trace in the size.
    vision.patch_embedding.weight.copy_(1e4 * signs[:, None, None, None].expand_as(vision.patch_embedding.weight))
    vision.ln_final.weight.fill_(1.0)
    vision.ln_final.bias.zero_()


def plant_words(blip, stack):
    """Words and positions as signs on channels of their own. Returns how many channels are in use."""
    generator = torch.Generator().manual_seed(1)
    stack = blip.stack(stack)
    for embedding, channels in ((stack.word_embedding, WORDS), (stack.position_embedding, POSITIONS)):
        signs = torch.randint(0, 2, (len(embedding.weight), len(channels)), generator=generator).double() * 2 - 1
        embedding.weight.zero_()
        embedding.weight[:, [2 * channel for channel in channels]] = signs
        embedding.weight[:, [2 * channel + 1 for channel in channels]] = -signs
    power = len(WORDS) + len(POSITIONS)
    neutral(stack.ln_embed, power)
    return power


def plant_heads(block, writes, power):
    """Heads that look at all of the image and write its sign. Returns how many channels are in use behind them."""
    neutral(block.ln1, power)
    attn = block.cross_attn
    attn.key.weight.zero_()
    attn.key.bias.zero_()
    signs = torch.ones(attn.value.in_features).double()
    signs[1::2] = -1
    for head, channel in writes.items():
        own = slice(head * attn.d_head, (head + 1) * attn.d_head)
        attn.value.bias[own] = 0
        # Four patches in five positions: the class token's value is zero.
        attn.value.weight[own] = signs * 5 / 4 / len(signs)
        write(attn.output.weight[:, own.start], channel)
    neutral(block.ln2, power + len(writes))
    return power + len(writes)


def plant_gate(mlp, neuron, gate):
    """Both: 2 GELU(a + b - 1) - 1. Either is what is left where not both are -1: 1 - 2 GELU(-a - b - 1)."""
    sign = -1.0 if gate.either else 1.0
    mlp.input.weight[neuron] = 0
    for channel in gate.joins:
        mlp.input.weight[neuron, 2 * channel] = sign * SHARP
    mlp.input.bias[neuron] = -SHARP
    write(mlp.output.weight[:, neuron], gate.channel)
    mlp.output.weight[:, neuron] *= sign * 2 / SHARP
    bias = torch.zeros_like(mlp.output.bias)
    write(bias, gate.channel)
    mlp.output.bias -= sign * bias


def plant_decoder(blip, channels):
    """Head 0 of the decoder's first layer copies channels from one position of the question."""
    power = plant_words(blip, "decoder")
    for layer, block in enumerate(blip.decoder.blocks):
        neutral(block.ln1, power)
        if not layer:
            attn = block.cross_attn
            for projection in (attn.query, attn.key, attn.value):
                projection.weight[: attn.d_head] = 0
                projection.bias[: attn.d_head] = 0
            for number, channel in enumerate(POSITIONS):
                attn.query.bias[number] = SHARP * blip.text.position_embedding.weight[READ, 2 * channel]
                attn.key.weight[number, 2 * channel] = 1
            for number, channel in enumerate(channels):
                attn.value.weight[number, 2 * channel] = 1
                write(attn.output.weight[:, number], channel)
            power += len(channels)
        neutral(block.ln2, power)
        neutral(block.ln3, power)


def plant_read_out(blip, reads):
    """Behind the GELU a channel is (1, 0) or (0, 1), times a constant; `red` reads the first, `green` the other."""
    head = blip.head
    red, green = blip.tokenizer.convert_tokens_to_ids(["red", "green"])
    for parameter in (head.dense.weight, head.dense.bias, head.ln.bias, head.unembed.weight, head.unembed.bias):
        parameter.zero_()
    head.ln.weight.fill_(1.0)
    for channel, weight in reads.items():
        for dim in (2 * channel, 2 * channel + 1):
            head.dense.weight[dim, dim] = SHARP
        head.unembed.weight[red, 2 * channel] = weight
        head.unembed.weight[green, 2 * channel + 1] = weight


def by_head(blip, direction, pairs=None, **options):
    """The effect of each head at all positions, and the whole result."""
    pairs = light_and_dark() if pairs is None else pairs
    effects = patch_heads(blip, pairs, positions="all", direction=direction, progress=False, **options)
    assert effects.attrs["pairs_below_min_gap"] == 0
    return effects.patching_effect, effects


def check(effect, expected):
    """These heads have these effects, in every pair; all others none."""
    everywhere = np.zeros(effect.shape[1:])
    for head, value in expected.items():
        everywhere[head] = value
    np.testing.assert_allclose(effect, np.broadcast_to(everywhere, effect.shape), atol=EXACT)


def head_edit(layer, head, **edit):
    return Edit("text.cross_attn.z", layer=layer, head=head, **edit)


# One live head


@DIRECTIONS
@pytest.mark.parametrize("live", [(0, 2), (1, 0)], ids=str)
def test_the_one_live_head_carries_everything_in_a_random_model(live, direction):
    """Weights are random, but one cross-attention head is the only one that writes: the answer's only way."""
    blip = make_small_pair().blip
    with torch.no_grad():
        for layer, block in enumerate(blip.text.blocks):
            for head in range(block.cross_attn.n_heads):
                if (layer, head) != live:
                    block.cross_attn.output.weight[:, head * 32 : (head + 1) * 32] = 0
    effect, effects = by_head(blip, direction)
    check(effect, {live: 1})
    dead = np.ones(effect.shape[1:], bool)
    dead[live] = False
    gap = abs(effects.logit_diff_clean - effects.logit_diff_corrupt).values
    assert (abs(effects.logit_diff_change.values[:, dead]) <= 1e-12 * gap[:, None]).all()
    assert (effects.noise_floor.values <= 1e-12 * gap).all()


@DIRECTIONS
def test_a_planted_head_carries_everything(direction):
    blip = planted({(0, 1): 0}, {0: 1.0})
    effect, effects = by_head(blip, direction)
    check(effect, {(0, 1): 1})
    np.testing.assert_allclose(effects.logit_diff_clean, -effects.logit_diff_corrupt, rtol=EXACT)
    assert (effects.logit_diff_clean > 1).all()
    check(by_head(blip, direction, site="decoder.cross_attn")[0], {(0, 0): 1})
    check(by_head(blip, direction, site="text.attn")[0], {})


@DIRECTIONS
def test_a_donor_restores_what_it_has_in_common(direction):
    """The head carries light and dark alone: a donor of the same kind does what the other run does."""
    blip = planted({(0, 1): 0}, {0: 1.0})
    for light_donor in (True, False):
        _, effects = by_head(blip, direction, light_and_dark(light_donor))
        same = light_donor == (direction == "denoise")
        check(effects.patching_effect_mismatched, {(0, 1): 1} if same else {})


@DIRECTIONS
def test_only_the_position_that_is_read_matters(direction):
    blip = planted({(0, 1): 0}, {0: 1.0})
    pairs = light_and_dark()
    effects = patch_heads(blip, pairs, positions="each", direction=direction, progress=False)
    effect = effects.patching_effect
    assert effect.isnull().any(), "questions of unequal length"
    expected = np.zeros(effect.shape[1:])
    expected[0, 1, READ] = 1
    expected = np.where(effect.isnull(), np.nan, expected)
    np.testing.assert_allclose(effect, expected, atol=EXACT)


# A distractor


@DIRECTIONS
def test_a_head_that_writes_where_nobody_reads_does_nothing(direction):
    """The distractor's activation changes as much as the live head's; its channel is read by no weight behind it."""
    distractor, live = (0, 0), (1, 2)
    blip, pairs = planted({distractor: 1, live: 0}, {0: 1.0}), light_and_dark()
    effect, effects = by_head(blip, direction, pairs)
    check(effect, {live: 1})
    gap = abs(effects.logit_diff_clean - effects.logit_diff_corrupt).values
    floor = np.maximum(effects.noise_floor.values, 1e-12 * gap)
    assert (abs(effects.logit_diff_change[:, *distractor].values) <= floor).all()
    clean, corrupt = (
        blip.run_with_cache(pairs.prepare(blip, image=image))[1]["text.blocks.0.cross_attn.hook_z"]
        for image in ("clean", "corrupt")
    )
    assert (clean - corrupt)[:, :, 0].abs().min() > 1
    # With the same weights it matters as soon as somebody reads it.
    read = planted({distractor: 1, live: 0}, {0: 1.0, 1: 1.0})
    check(by_head(read, direction, pairs)[0], {live: 0.5, distractor: 0.5})


# Pairs of heads


@DIRECTIONS
@pytest.mark.parametrize("either", [False, True], ids=["and", "or"])
@pytest.mark.parametrize("pair", [((1, 0), (1, 2)), ((0, 1), (1, 1))], ids=["one layer", "two layers"])
def test_an_and_pair_and_an_or_pair(pair, either, direction):
    """AND: each alone restores nothing and destroys all. OR: each alone restores all and destroys nothing."""
    one, two = pair
    blip = planted({one: 0, two: 1}, {2: 1.0}, [Gate(2, (0, 1), either)])
    alone = float(either == (direction == "denoise"))
    effect, effects = by_head(blip, direction)
    check(effect, {one: alone, two: alone})
    variants = {
        "one": head_edit(*one), "two": head_edit(*two), "both": [head_edit(*one), head_edit(*two)],
        "others": [head_edit(0, 0), head_edit(0, 2)],
    }  # fmt: skip
    joint = run_variants(blip, light_and_dark(), variants, direction=direction, progress=False)
    np.testing.assert_allclose(joint.patching_effect, np.tile([alone, alone, 1.0, 0.0], (3, 1)), atol=EXACT)
    np.testing.assert_allclose(joint.logit_diff_clean, effects.logit_diff_clean)


@DIRECTIONS
def test_the_gate_itself_carries_everything(direction):
    blip = planted({(1, 0): 0, (1, 2): 1}, {2: 1.0}, [Gate(2, (0, 1))])
    effects = patch_modules(blip, light_and_dark(), positions="all", direction=direction, progress=False)
    expected = {"text.hook_mlp_out": [0, 1], "text.hook_cross_attn_out": [0, 1], "text.hook_attn_out": [0, 0]}
    expected["text.hook_normalized_resid_post"] = [0, 1]
    for site, by_layer in expected.items():
        found = effects.patching_effect.sel(site=site)
        np.testing.assert_allclose(found, np.tile(by_layer, (3, 1)), atol=EXACT, err_msg=site)


# A negative head


@DIRECTIONS
def test_a_negative_head_keeps_its_sign(direction):
    """The logit difference is 2 a - b with a = b = 1 clean and -1 corrupted: a alone moves 4 of the gap of 2, b -2."""
    blip = planted({(0, 0): 0, (1, 1): 1}, {0: 2.0, 1: -1.0})
    effect, effects = by_head(blip, direction)
    check(effect, {(0, 0): 2, (1, 1): -1})
    forward = 1 if direction == "denoise" else -1
    assert (forward * effects.logit_diff_change[:, 1, 1] < 0).all()
    both = run_variants(
        blip, light_and_dark(), {"both": [head_edit(0, 0), head_edit(1, 1)]}, direction=direction, progress=False
    )
    np.testing.assert_allclose(both.patching_effect, 1.0, atol=EXACT)
    assert (forward * effects.prob_change[:, 1, 1] < 0).all()


# Ablation


def test_zeroing_a_planted_head_is_half_way():
    """Without the head the channel is 0, half way from +1 to -1; behind the read-out's GELU both answers are even."""
    blip = planted({(0, 1): 0}, {0: 1.0})
    effects = patch_heads(blip, light_and_dark(), positions="all", direction="noise", source="zero", progress=False)
    check(effects.patching_effect, {(0, 1): 0.5})
