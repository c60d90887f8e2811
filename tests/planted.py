"""BLIPs whose weights are set by hand, so that it is known what carries the answer.

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
import torch
from PIL import Image

from conftest import make_small_pair
from notice_lens import HookedBLIP
from notice_lens.pairs import MinimalPairs

READ = 3  # the position of the question that the decoder looks at
COPIED = 2  # the position that copying heads look at
SIGNALS, WORDS, POSITIONS = range(8), range(8, 32), range(32, 48)  # channels of the text and decoder stacks
SHARP = 1e4
Head = tuple[int, int]


class Gate(NamedTuple):
    """Writes to `channel` whether both, or either, of two channels are +1: as +1 or -1. A sign of -1 negates one."""

    channel: int
    joins: tuple[int, int]
    either: bool = False
    signs: tuple[int, int] = (1, 1)


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
def planted(
    writes: Mapping[Head, int],
    reads: Mapping[int, float],
    gates: Sequence[Gate] = (),
    copies: Mapping[Head, tuple[int, int]] | None = None,
) -> HookedBLIP:
    """A BLIP with a circuit; see the module's docstring.

    Args:
        writes: The channel that each live cross-attention head of the text stack writes to.
        reads: The weight of each channel in the logit difference.
        gates: In the MLP of the last text layer.
        copies: The channels that each live self-attention head of the text stack reads, at position `COPIED`, and
            writes to, at all positions.
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
        for (at, head), channels in (copies or {}).items():
            if at == layer:
                plant_copy(blip, block.attn, head, channels)
                power += 1
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


def plant_copy(blip, attn, head, channels):
    """A head that copies a channel of one position to another channel of all positions."""
    own = slice(head * attn.d_head, (head + 1) * attn.d_head)
    for projection in (attn.query, attn.key, attn.value):
        projection.weight[own] = 0
        projection.bias[own] = 0
    for number, channel in enumerate(POSITIONS, own.start):
        attn.query.bias[number] = SHARP * blip.text.position_embedding.weight[COPIED, 2 * channel]
        attn.key.weight[number, 2 * channel] = 1
    attn.value.weight[own.start, 2 * channels[0]] = 1
    write(attn.output.weight[:, own.start], channels[1])


def plant_gate(mlp, neuron, gate):
    """Both: 2 GELU(a + b - 1) - 1. Either is what is left where not both are -1: 1 - 2 GELU(-a - b - 1)."""
    sign = -1.0 if gate.either else 1.0
    mlp.input.weight[neuron] = 0
    for channel, own in zip(gate.joins, gate.signs, strict=True):
        mlp.input.weight[neuron, 2 * channel] = sign * own * SHARP
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
