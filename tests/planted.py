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
PROMPTS = ("is this red or green?", "what is on the big old table?", "what color is the dog?")


class Majority(NamedTuple):
    """Writes +1 to `channel` where two or three of three channels are +1, and -1 elsewhere."""

    channel: int
    joins: tuple[int, int, int]


class Gate(NamedTuple):
    """Writes to `channel` whether all, or any, of some channels are +1: as +1 or -1. A sign of -1 negates one."""

    channel: int
    joins: tuple[int, ...]
    either: bool = False
    signs: tuple[int, ...] = ()


def picture(light: bool, seed: int) -> Image.Image:
    low = 200 if light else 0
    pixels = np.random.default_rng(seed).integers(low, low + 56, (32, 32, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def light_and_dark(light_donor: bool = False, n: int = 3, prompts: Sequence[str] = PROMPTS) -> MinimalPairs:
    """Clean images are light and corrupted ones dark; questions differ in their words and length."""
    rows = [
        {
            "id": f"p{number}", "task": "planted", "kind": "vqa",
            "clean_image": picture(True, 3 * number), "corrupt_image": picture(False, 3 * number + 1),
            "donor_image": picture(light_donor, 3 * number + 2), "clean_prompt": prompts[number % len(prompts)],
            "correct_answer": "red", "incorrect_answer": "green",
        }
        for number in range(n)
    ]  # fmt: skip
    return MinimalPairs.from_rows(rows)


@torch.no_grad()
def planted(
    writes: Mapping[Head, int],
    reads: Mapping[int, float],
    gates: "Sequence[Gate | Majority]" = (),
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
    model = make_small_pair().model
    for stack in (model.vision, model.text, model.decoder):
        for block in stack.blocks:
            for part in (block.attn, block.mlp, getattr(block, "cross_attn", block.attn)):
                part.output.weight.zero_()
                part.output.bias.zero_()
    plant_sign(model)
    power = plant_words(model, "text")
    for layer, block in enumerate(model.text.blocks):
        for (at, head), channels in (copies or {}).items():
            if at == layer:
                plant_copy(model, block.attn, head, channels)
                power += 1
        power = plant_heads(block, {head: channel for (at, head), channel in writes.items() if at == layer}, power)
        here = gates if layer == len(model.text.blocks) - 1 else ()
        neuron = 0
        for gate in here:
            neuron = (plant_majority if isinstance(gate, Majority) else plant_gate)(block.mlp, neuron, gate)
        power += len(here)
        neutral(block.ln3, power)
    plant_decoder(model, list(reads))
    plant_read_out(model, reads)
    return model


def neutral(norm, channels):
    """A LayerNorm that changes nothing about a stream with so many channels at +1 or -1, and 0 elsewhere."""
    norm.weight.fill_((2 * channels / len(norm.weight)) ** 0.5)
    norm.bias.zero_()


def write(column, channel):
    column[2 * channel], column[2 * channel + 1] = 1.0, -1.0


def plant_sign(model):
    """Patch states are +1 or -1 times a fixed vector; the class token's is zero."""
    signs = torch.ones(model.cfg.vision.d_model).double()
    signs[1::2] = -1
    vision = model.vision
    for parameter in (vision.class_embedding, vision.position_embedding, vision.patch_embedding.bias):
        parameter.zero_()
    # Far above the LayerNorm's epsilon, so that brightness leaves no trace in the size.
    vision.patch_embedding.weight.copy_(1e4 * signs[:, None, None, None].expand_as(vision.patch_embedding.weight))
    vision.ln_final.weight.fill_(1.0)
    vision.ln_final.bias.zero_()


def plant_words(model, stack):
    """Words and positions as signs on channels of their own. Returns how many channels are in use."""
    generator = torch.Generator().manual_seed(1)
    stack = model.stack(stack)
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


def across(model):
    """A direction of image states with mean 0, at right angles to the sign of patches."""
    found = torch.ones(model.cfg.vision.d_model).double()
    found[2::4] = found[3::4] = -1
    return found


@torch.no_grad()
def plant_backup(model, head, told, writes, idle):
    """A cross-attention head that looks at the image where the channel `told` is -1, and at the class token else.

    Of the image it writes the sign to `writes`, of the class token +1 to `idle`, so that the stream's size is the same.
    """
    model.vision.class_embedding.copy_(across(model))
    attn, signs = model.text.blocks[head[0]].cross_attn, torch.ones(model.cfg.vision.d_model).double()
    signs[1::2] = -1
    first = head[1] * attn.d_head
    for projection in (attn.query, attn.key, attn.value):
        projection.weight[first : first + attn.d_head] = 0
        projection.bias[first : first + attn.d_head] = 0
    attn.output.weight[:, first : first + attn.d_head] = 0
    attn.query.weight[first, 2 * told] = SHARP
    attn.key.weight[first] = across(model) / len(signs)
    for place, (looks_for, channel) in enumerate(((signs, writes), (across(model), idle)), first):
        attn.value.weight[place] = looks_for / len(signs)
        write(attn.output.weight[:, place], channel)


@torch.no_grad()
def plant_class_token(model, vision_head, text_head):
    """A vision head that tells the class token the sign of the patches, and a text head that reads it there alone."""
    block, size = model.vision.blocks[vision_head[0]], model.cfg.vision.d_model
    block.ln1.weight.fill_(1.0)
    block.ln1.bias.zero_()
    signs = torch.ones(size).double()
    signs[1::2] = -1
    first = vision_head[1] * block.attn.d_head
    own = slice(first, first + block.attn.d_head)
    for projection in (block.attn.query, block.attn.key, block.attn.value):
        projection.weight[own] = 0
        projection.bias[own] = 0
    block.attn.value.weight[first] = signs * 5 / 4 / size
    block.attn.output.weight[:, first] = across(model)
    cross = model.text.blocks[text_head[0]].cross_attn
    own = slice(text_head[1] * cross.d_head, (text_head[1] + 1) * cross.d_head)
    # The class token's share of a uniform look is a fifth; beside the size of patches what they are told is nothing.
    cross.value.weight[own] = across(model) * 5 / size


def plant_copy(model, attn, head, channels):
    """A head that copies a channel of one position to another channel of all positions."""
    own = slice(head * attn.d_head, (head + 1) * attn.d_head)
    for projection in (attn.query, attn.key, attn.value):
        projection.weight[own] = 0
        projection.bias[own] = 0
    for number, channel in enumerate(POSITIONS, own.start):
        attn.query.bias[number] = SHARP * model.text.position_embedding.weight[COPIED, 2 * channel]
        attn.key.weight[number, 2 * channel] = 1
    attn.value.weight[own.start, 2 * channels[0]] = 1
    write(attn.output.weight[:, own.start], channels[1])


def plant_gate(mlp, neuron, gate):
    """Both: 2 GELU(a + b - 1) - 1. Either is what is left where not both are -1: 1 - 2 GELU(-a - b - 1). So of three.

    Returns the next neuron.
    """
    sign = -1.0 if gate.either else 1.0
    mlp.input.weight[neuron] = 0
    for channel, own in zip(gate.joins, gate.signs or (1,) * len(gate.joins), strict=True):
        mlp.input.weight[neuron, 2 * channel] = sign * own * SHARP
    mlp.input.bias[neuron] = -SHARP * (len(gate.joins) - 1)
    write(mlp.output.weight[:, neuron], gate.channel)
    mlp.output.weight[:, neuron] *= sign * 2 / SHARP
    bias = torch.zeros_like(mlp.output.bias)
    write(bias, gate.channel)
    mlp.output.bias -= sign * bias
    return neuron + 1


def plant_majority(mlp, neuron, gate):
    """2 (GELU(s) - GELU(s - 1)) - 1, where s = a + b + c is 3, 1, -1 or -3. Returns the next neuron."""
    bias = torch.zeros_like(mlp.output.bias)
    write(bias, gate.channel)
    mlp.output.bias -= bias
    for own, (threshold, sign) in enumerate(((0, 1), (SHARP, -1)), neuron):
        mlp.input.weight[own] = 0
        mlp.input.weight[own, [2 * channel for channel in gate.joins]] = SHARP
        mlp.input.bias[own] = -threshold
        write(mlp.output.weight[:, own], gate.channel)
        mlp.output.weight[:, own] *= sign * 2 / SHARP
    return neuron + 2


def plant_decoder(model, channels):
    """Head 0 of the decoder's first layer copies channels from one position of the question."""
    power = plant_words(model, "decoder")
    for layer, block in enumerate(model.decoder.blocks):
        neutral(block.ln1, power)
        if not layer:
            attn = block.cross_attn
            for projection in (attn.query, attn.key, attn.value):
                projection.weight[: attn.d_head] = 0
                projection.bias[: attn.d_head] = 0
            for number, channel in enumerate(POSITIONS):
                attn.query.bias[number] = SHARP * model.text.position_embedding.weight[READ, 2 * channel]
                attn.key.weight[number, 2 * channel] = 1
            for number, channel in enumerate(channels):
                attn.value.weight[number, 2 * channel] = 1
                write(attn.output.weight[:, number], channel)
            power += len(channels)
        neutral(block.ln2, power)
        neutral(block.ln3, power)


def plant_read_out(model, reads):
    """Behind the GELU a channel is (1, 0) or (0, 1), times a constant; `red` reads the first, `green` the other."""
    head = model.head
    red, green = model.tokenizer.convert_tokens_to_ids(["red", "green"])
    for parameter in (head.dense.weight, head.dense.bias, head.ln.bias, head.unembed.weight, head.unembed.bias):
        parameter.zero_()
    head.ln.weight.fill_(1.0)
    for channel, weight in reads.items():
        for dim in (2 * channel, 2 * channel + 1):
            head.dense.weight[dim, dim] = SHARP
        head.unembed.weight[red, 2 * channel] = weight
        head.unembed.weight[green, 2 * channel + 1] = weight
