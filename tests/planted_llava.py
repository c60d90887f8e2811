"""A LLaVA whose weights are set by hand, so that it is known which heads carry the answer, and how.

Every picture has 4 by 4 patches. Red says where the object is, green whether a patch has the attribute, blue is noise
that nobody reads. Every head of the language model looks where it looks with all its weight, or evenly everywhere:

    layer 0   image head      from image tokens at the object, seen so far: writes its colour there as ATTRIBUTE
    layer 1   mover           from the last position at the object: copies ATTRIBUTE to ANSWER
    layer 2   backup          the same where ANSWER is missing, at half strength; where it is there, looks at `<s>`
    layer 3   negative head   from the last position at itself: takes a fifth of ANSWER off again
    each      bystander       reads the colours of all tokens, evenly, and writes where nobody reads; all others write 0

The attribute is 1 or 0, so that in a picture without it the mover writes nothing. `red - green` is linear in ANSWER.
A constant of `SIZE` in every stream is nearly all of what an RMSNorm divides by, and the norm's weight undoes it. So
numbers are exact to about 1e-7: transformers takes these norms in float32. Rotary positions turn the dimensions in use
by less than that.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

import tiny_vlms
from notice_lens import HookedVLM
from notice_lens.coco import run_lengths
from notice_lens.pairs import MinimalPairs
from planted import neutral, write

Head = tuple[int, int]
Weights = Mapping[int, float]
SIDE, PATCH = 4, 7
N_LAYERS, N_HEADS, D_HEAD = 4, 4, 8
IMAGE_HEAD, MOVER, BACKUP, NEGATIVE = (0, 1), (1, 2), (2, 0), (3, 3)
BYSTANDERS = ((0, 3), (1, 0), (2, 1), (3, 2))
STANDS_IN, TAKES_OFF = 0.5, 0.2  # shares of ANSWER that the backup writes, and that the negative head takes off
OBJECT, COLOUR, CONSTANT = range(3)  # channels of the vision tower
SIZE, SHARP = 1e4, 60.0
LOGITS = 4.0  # logits of ANSWER

# Dimensions of the language model's stream.
CONST, BOS, LAST, IMAGE_TOKEN, ON_OBJECT, SEEN, ATTRIBUTE, ANSWER, UNREAD, WORDS = *range(9), slice(9, 32)
# Dimensions of a head whose rotary frequency is next to nothing: queries and keys lie there.
FIRST, SECOND = D_HEAD // 2 - 1, D_HEAD - 1

PROMPTS = ("is this apple red or green ?", "is this red or green ?", "is the book on the table red or green ?")
TEMPLATE = tiny_vlms.LLAVA_TEMPLATE.replace("USER: ", "<s>USER ")


def planted_llava(*, backup: bool = True, mover_reads_by: str = "v") -> HookedVLM:
    """Return the model of the module's docstring, in float64.

    Args:
        backup: Whether there is a backup.
        mover_reads_by: `v` as above. `k`: the mover looks at what has ATTRIBUTE, and copies that it is an image token.
    """
    tiny = tiny_vlms.llava(chat_template=TEMPLATE)
    sizes: dict[str, Any] = {**tiny_vlms.TEXT, "num_hidden_layers": N_LAYERS, "num_key_value_heads": N_HEADS}
    rotary = {"rope_type": "default", "rope_theta": 1e12}
    n_words = tiny.config.text_config.vocab_size
    tiny.config.text_config = transformers.LlamaConfig(**sizes, vocab_size=n_words, rope_parameters=rotary)
    hf, processor = tiny_vlms.make(tiny)
    hf = hf.double()
    with torch.no_grad():
        plant_tower(hf.model.vision_tower, processor.image_processor)
        plant_projector(hf.model.multi_modal_projector)
        plant_language(hf.model.language_model, processor.tokenizer)
        blocks = hf.model.language_model.layers
        plant_head(blocks, IMAGE_HEAD, {IMAGE_TOKEN: 1}, {ON_OBJECT: 1}, {SEEN: 1}, {ATTRIBUTE: 1})
        by_value = mover_reads_by == "v"
        keys = {ON_OBJECT: 1} if by_value else {ATTRIBUTE: 1}
        plant_head(blocks, MOVER, {LAST: 1}, keys, {ATTRIBUTE if by_value else IMAGE_TOKEN: 1}, {ANSWER: 1})
        if backup:
            plant_head(blocks, BACKUP, {LAST: 1}, {ON_OBJECT: 1}, {ATTRIBUTE: 1}, {ANSWER: STANDS_IN})
            # A quarter of ANSWER is enough to draw it away from the object, to `<s>`.
            plant_look(blocks, BACKUP, SECOND, {ANSWER: 4}, {BOS: 1})
        plant_head(blocks, NEGATIVE, {LAST: 1}, {LAST: 1}, {ANSWER: 1}, {ANSWER: -TAKES_OFF})
        for bystander in BYSTANDERS:
            plant_head(blocks, bystander, {}, {}, {SEEN: 1}, {UNREAD: 1})
        plant_read_out(hf.lm_head, processor.tokenizer)
    return HookedVLM.from_hf(hf, processor)


def plant_tower(tower: Any, images: Any) -> None:
    """Patch states are signs on two channels; a third is always there, so that all have one norm."""
    embeddings = tower.embeddings
    for parameter in (embeddings.patch_embedding.weight, embeddings.position_embedding.weight):
        parameter.zero_()
    for channel in (OBJECT, COLOUR):
        mean, std = images.image_mean[channel], images.image_std[channel]
        for dim, sign in ((2 * channel, 1), (2 * channel + 1, -1)):
            # The processor has taken the mean off and divided by the standard deviation; 0 to 1 becomes -1 to 1.
            embeddings.patch_embedding.weight[dim, channel] = sign * 2 * std / PATCH**2
            embeddings.position_embedding.weight[:, dim] = sign * (2 * mean - 1)
    for position in embeddings.position_embedding.weight:
        write(position, CONSTANT)
    # Far above the LayerNorm's epsilon, which leaves no trace in the size.
    embeddings.patch_embedding.weight *= SIZE
    embeddings.position_embedding.weight *= SIZE
    neutral(tower.pre_layrnorm, 3)
    for block in tower.encoder.layers:
        for part in (block.self_attn.out_proj, block.mlp.fc2):
            part.weight.zero_()
            part.bias.zero_()


def plant_projector(projector: Any) -> None:
    """A sign becomes 1 or 0: far from zero GELU is the identity or 0 to the last bit."""
    for parameter in projector.parameters():
        parameter.zero_()
    for channel, dim in ((OBJECT, ON_OBJECT), (COLOUR, SEEN)):
        projector.linear_1.weight[dim, 2 * channel] = SHARP
        projector.linear_2.weight[dim, dim] = 1 / SHARP
    projector.linear_2.bias[CONST] = SIZE
    projector.linear_2.bias[IMAGE_TOKEN] = 1


def plant_language(language: Any, tokenizer: Any) -> None:
    """Words are signs of their own; `<s>` and the last token are marked; no block writes anything yet."""
    table = language.embed_tokens.weight
    signs = torch.randint(0, 2, table[:, WORDS].shape, generator=torch.Generator().manual_seed(1)) * 2.0 - 1
    table.zero_()
    table[:, CONST], table[:, WORDS] = SIZE, signs.double()
    for token, dim in (("<s>", BOS), (":", LAST)):
        table[tokenizer.convert_tokens_to_ids(token), dim] = 1
    for block in language.layers:
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            getattr(block.self_attn, part).weight.zero_()
        block.mlp.down_proj.weight.zero_()
        for norm in (block.input_layernorm, block.post_attention_layernorm):
            keep_size(norm)
    keep_size(language.norm)


def keep_size(norm: Any) -> None:
    """A norm that leaves a stream with the constant as it is."""
    norm.weight.fill_(SIZE / len(norm.weight) ** 0.5)


def plant_head(blocks: Any, head: Head, queries: Weights, keys: Weights, values: Weights, writes: Weights) -> None:
    """A head that looks where `keys` are, from where `queries` are, and writes `values` to `writes`: by dimension.

    From elsewhere, and where nothing of that can be seen, it rests on `<s>`. Without keys it looks everywhere evenly.
    """
    attention, first = blocks[head[0]].self_attn, head[1] * D_HEAD
    if keys:
        plant_look(blocks, head, FIRST, queries, keys)
        plant_look(blocks, head, SECOND, {CONST: 0.5 / SIZE}, {BOS: 1})
    for dim, weight in values.items():
        attention.v_proj.weight[first, dim] = weight
    for dim, weight in writes.items():
        attention.o_proj.weight[dim, first] = weight


def plant_look(blocks: Any, head: Head, at: int, queries: Weights, keys: Weights) -> None:
    """One dimension of a head's queries and keys; where both are 1 the score is `SHARP`."""
    attention, row = blocks[head[0]].self_attn, head[1] * D_HEAD + at
    for dim, weight in queries.items():
        attention.q_proj.weight[row, dim] = weight * SHARP * D_HEAD**0.5
    for dim, weight in keys.items():
        attention.k_proj.weight[row, dim] = weight


def plant_read_out(head: Any, tokenizer: Any) -> None:
    """`red` is ANSWER, and `green` half of what it is in a picture with the attribute; other words are unlikely."""
    head.weight.zero_()
    head.weight[:, CONST] = -10 / SIZE
    red, green = tokenizer.convert_tokens_to_ids(["▁red", "▁green"])
    head.weight[[red, green], CONST] = 0
    head.weight[red, ANSWER] = LOGITS
    head.weight[green, CONST] = LOGITS * (1 - TAKES_OFF) / 2 / SIZE


def attribute_pairs(n: int = 4, *, answers: Sequence[str] = ("red",), seed: int = 0) -> MinimalPairs:
    """Pairs whose object, two by two patches somewhere, has the attribute in one of both pictures.

    Args:
        n: How many pairs.
        answers: Correct answers in turn: where it is `red`, the clean picture has the attribute, else the corrupted.
        seed: Of places, and of the colours of all other patches, which differ between the pictures.
    """
    rng, rows = np.random.default_rng(seed), []
    for number in range(n):
        answer = answers[number % len(answers)]
        mask = np.zeros((SIDE, SIDE), bool)
        row, column = rng.integers(0, SIDE - 1, 2)
        mask[row : row + 2, column : column + 2] = True
        clean, corrupt, donor = (picture(mask, (answer == "red") == is_clean, rng) for is_clean in (True, False, False))
        # A part of the picture that has nothing to do with the answer: the row that is farthest away.
        aside = np.zeros_like(mask)
        aside[SIDE - 1 if row < SIDE // 2 else 0] = True
        rows.append({
            "id": f"p{number}", "task": "planted", "kind": "vqa", "clean_image": clean, "corrupt_image": corrupt,
            "donor_image": donor, "clean_prompt": PROMPTS[number % len(PROMPTS)], "correct_answer": answer,
            "incorrect_answer": "green" if answer == "red" else "red", "roles": {"correct": answer},
            "clean_regions": {"object": run_lengths(larger(mask)), "aside": run_lengths(larger(aside))},
        })  # fmt: skip
    return MinimalPairs.from_rows(rows, progress=False)


def picture(mask: np.ndarray, has_attribute: bool, rng: np.random.Generator) -> Image.Image:
    """An object with the attribute or without; all other patches have it or not as it comes."""
    colours = np.where(mask, has_attribute, rng.integers(0, 2, mask.shape))
    noise = rng.integers(0, 256, mask.shape)
    return Image.fromarray(larger(np.stack([255 * mask, 255 * colours, noise], -1).astype(np.uint8)))


def larger(grid: np.ndarray) -> np.ndarray:
    """A grid of patches as pixels."""
    return grid.repeat(PATCH, axis=0).repeat(PATCH, axis=1)
