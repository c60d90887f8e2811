"""BLIPs whose heads look where they are told: attention and what it carries are set by hand, as in `planted`.

    image     36 patches of one colour each: red is where the object is, green what a patch says, blue marks outliers
    vision    each colour on a channel of its own; a patch with blue has a norm more than five times that of others
    text      heads whose keys read red and blue, and whose values read green, write to a channel each
    decoder   copies these channels to the answer, whose logit difference is linear in them

What a patch says is +1 for `red` and -1 for `green`, give or take a fifth; half of the pairs have either answer.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from conftest import make_pair
from notice_lens import HookedBLIP
from notice_lens.coco import run_lengths
from notice_lens.pairs import MinimalPairs
from planted import POSITIONS, SHARP, neutral, plant_decoder, plant_words, write

SIDE, SIZE = 6, 16
N = 20
OBJECT, CONTENT, OUTLIER, CLASS = range(4)  # channels of the vision stack; the first three are red, green and blue
OUTLIER_NORM = 8.0
ORDINARY = 2  # channels that an ordinary patch has at +1 or -1
Head = tuple[int, int]


class Looks(NamedTuple):
    """A head: by how much the score of its patches of the object, and of outliers, differs, and what it writes.

    Attributes:
        at_object: The score of the object's patches minus that of others.
        at_outliers: The same of outliers.
        writes: What it makes of what it reads: 1 hands it on, -1 turns it around, 0 drops it.
    """

    at_object: float = 0.0
    at_outliers: float = 0.0
    writes: float = 1.0


class Says(NamedTuple):
    """What patches say of the answer: 1 speaks for it, -1 against it, 0 is for the one here and the other there."""

    object: int = 1
    background: int = 0
    outlier: int = 0
    has_outliers: bool = False


def looking_pairs(says: Says, n: int = N, seed: int = 0) -> MinimalPairs:
    """Pairs whose object is somewhere, two by two patches; the corrupted image says the opposite everywhere."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(n):
        answer, other = ("red", "green") if number % 2 else ("green", "red")
        mask = np.zeros((SIDE, SIDE), bool)
        row, column = rng.integers(0, SIDE - 1, 2)
        mask[row : row + 2, column : column + 2] = True
        outlier = np.zeros(SIDE * SIDE, bool)
        outlier[rng.choice(np.flatnonzero(~mask.ravel()))] = says.has_outliers
        outlier = outlier.reshape(SIDE, SIDE)
        content = np.select([mask, outlier], [says.object, says.outlier], says.background) * (1 if number % 2 else -1)
        content = np.where(content == 0, rng.permuted(np.resize([1, -1], SIDE * SIDE)).reshape(SIDE, SIDE), content)
        content = content * rng.uniform(0.8, 1, content.shape)
        rows.append(
            {
                "id": f"p{number}", "task": "looking", "kind": "vqa",
                "clean_image": tiles(mask, content, outlier), "corrupt_image": tiles(mask, -content, outlier),
                "clean_prompt": f"is this {answer} or {other}?", "correct_answer": answer, "incorrect_answer": other,
                "roles": {"correct": answer}, "clean_regions": {"object": run_lengths(larger(mask))},
            }
        )  # fmt: skip
    return MinimalPairs.from_rows(rows)


def tiles(mask: np.ndarray, content: np.ndarray, outlier: np.ndarray) -> Image.Image:
    colours = np.stack([255 * mask, np.round(127.5 * (content + 1)), 255 * outlier], axis=-1).astype(np.uint8)
    return Image.fromarray(larger(colours))


def larger(grid: np.ndarray) -> np.ndarray:
    """A grid of patches as pixels."""
    return grid.repeat(SIZE, axis=0).repeat(SIZE, axis=1)


@torch.no_grad()
def looking(heads: Mapping[Head, Looks]) -> HookedBLIP:
    """A BLIP of two layers of three heads, in which these heads do what they are told and all others nothing."""
    few = {"num_hidden_layers": 2, "num_attention_heads": 3}
    vision = {**few, "image_size": SIDE * SIZE, "patch_size": SIZE}
    model = make_pair("vqa", torch.float64, text=few, vision=vision).model
    for stack in (model.vision, model.text, model.decoder):
        for block in stack.blocks:
            for part in (block.attn, block.mlp, getattr(block, "cross_attn", block.attn)):
                part.output.weight.zero_()
                part.output.bias.zero_()
    plant_colours(model)
    power = plant_words(model, "text")
    for layer, block in enumerate(model.text.blocks):
        neutral(block.ln1, power)
        block.cross_attn.key.weight.zero_()
        block.cross_attn.key.bias.zero_()
        for channel, ((at, head), looks) in enumerate(heads.items()):
            if at == layer:
                plant_look(block.cross_attn, head, channel, looks)
        neutral(block.ln2, power)
        neutral(block.ln3, power)
    plant_decoder(model, list(range(len(heads))))
    plant_linear_read_out(model, len(heads))
    return model


def plant_colours(model):
    """Red and green as -1 to 1, blue as 0 or `OUTLIER_NORM`; the class token has a channel of its own."""
    vision, processor = model.vision, model.processor.image_processor
    embedding = vision.patch_embedding
    for parameter in (vision.class_embedding, vision.position_embedding, embedding.weight, embedding.bias):
        parameter.zero_()
    scales = {OBJECT: (2.0, -1.0), CONTENT: (2.0, -1.0), OUTLIER: (OUTLIER_NORM, 0.0)}
    for channel, (scale, offset) in scales.items():
        mean, std = processor.image_mean[channel], processor.image_std[channel]
        for dim, sign in ((2 * channel, 1), (2 * channel + 1, -1)):
            # The processor has taken the mean off and divided by the standard deviation.
            embedding.weight[dim, channel] = sign * scale * std / SIZE**2
            embedding.bias[dim] = sign * (scale * mean + offset)
    write(vision.class_embedding.view(-1), CLASS)
    neutral(vision.ln_final, ORDINARY)


def plant_look(attn, head, channel, looks):
    """A head whose scores are the same from all words, and which never looks at the class token."""
    first = head * attn.d_head
    own = slice(first, first + attn.d_head)
    for projection in (attn.query, attn.value):
        projection.weight[own] = 0
        projection.bias[own] = 0
    attn.query.bias[first] = attn.d_head**0.5
    attn.key.weight[first, 2 * OBJECT] = looks.at_object / 2
    # LayerNorm gives an outlier the norm of any other patch, nearly all of it on this channel.
    attn.key.weight[first, 2 * OUTLIER] = looks.at_outliers / ORDINARY**0.5
    attn.key.weight[first, 2 * CLASS] = -100
    attn.value.weight[first, 2 * CONTENT] = 1
    write(attn.output.weight[:, first], channel)
    attn.output.weight[:, first] *= looks.writes / 2


def plant_linear_read_out(model, channels):
    """As `plant_read_out`, with positions beside the channels: they keep the last LayerNorm a constant, nearly."""
    head = model.head
    red, green = model.tokenizer.convert_tokens_to_ids(["red", "green"])
    for parameter in (head.dense.weight, head.dense.bias, head.ln.bias, head.unembed.weight, head.unembed.bias):
        parameter.zero_()
    head.ln.weight.fill_(1.0)
    for channel in (*range(channels), *POSITIONS):
        for dim in (2 * channel, 2 * channel + 1):
            head.dense.weight[dim, dim] = SHARP
    for channel in range(channels):
        head.unembed.weight[red, 2 * channel] = head.unembed.weight[green, 2 * channel + 1] = 1
