"""First weights of the mini LLaVA from which it learns in an hour.

1. The tower's heads begin by looking at the eight neighbours of a patch (`train_mini.neighbours`).
2. Heads of the language model begin with queries and keys that are alike, and outputs that give back their values: they
   look for what resembles them and copy it (after the "mimetic" first values of Trockman and Kolter, 2023).
3. Words have first embeddings of length one, whatever the width.

These are first values like any others, and all of them are trained.
"""

from typing import Any

import torch
from torch import Tensor, nn

from train_mini.neighbours import NEIGHBOURS, look_at, start_embeddings

LIKENESS = 1.6
"""Size of the language model's first queries and keys, in units of the normed stream."""


@torch.no_grad()
def first_weights(model: Any, generator: torch.Generator) -> None:
    """Set the first weights of a `LlavaForConditionalGeneration`."""
    _tower(model.model.vision_tower, generator)
    for parameter in model.model.multi_modal_projector.parameters():
        if parameter.ndim == 2:
            nn.init.xavier_uniform_(parameter, generator=generator)
    # Image tokens are about as long as embeddings at first.
    model.model.multi_modal_projector.linear_2.weight.mul_(0.15)
    width = model.config.text_config.hidden_size
    nn.init.normal_(model.get_input_embeddings().weight, std=width**-0.5, generator=generator)
    layers = model.model.language_model.layers
    for layer in layers:
        for parameter in layer.mlp.parameters():
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5, generator=generator)
        layer.mlp.down_proj.weight.mul_((2 * len(layers)) ** -0.5)
        _alike(layer.self_attn, generator, len(layers))


def _alike(attention: Any, generator: torch.Generator, layers: int) -> None:
    projections = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
    query, key, value, output = (projection.weight for projection in projections)
    start_alike(query, key, value, output, query.shape[0] // attention.head_dim, LIKENESS, generator)
    output.mul_((2 * layers) ** -0.5)


@torch.no_grad()
def start_alike(
    query: Tensor, key: Tensor, value: Tensor, output: Tensor, heads: int, likeness: float, generator: torch.Generator
) -> None:
    """Set an attention's first weights: heads look for what resembles their queries, and copy it.

    Args:
        query: Weights of the queries' projection, [head * d_head, width].
        key: Likewise.
        value: Likewise.
        output: Weights of the output's projection, [width, head * d_head].
        heads: Number of heads.
        likeness: Size of queries and keys, in units of the normed stream.
        generator: Of random draws.
    """
    width, d_head = query.shape[1], query.shape[0] // heads
    noise = {"std": 0.3 * width**-0.5, "generator": generator}
    for head in range(heads):
        rows = slice(head * d_head, (head + 1) * d_head)
        alike, copied = (_subspace(d_head, width, generator) for _ in range(2))
        for projection, subspace in ((query, alike), (key, alike), (value, copied)):
            weight = projection[rows]
            nn.init.normal_(weight, **noise)
            weight += subspace * (likeness if subspace is alike else 1.0)
        nn.init.normal_(output[:, rows], **noise)
        output[:, rows] += copied.T


def _subspace(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Return orthonormal rows, [rows, columns]."""
    return torch.linalg.qr(torch.randn(columns, rows, generator=generator)).Q.T


def _tower(tower: Any, generator: torch.Generator) -> None:
    config = tower.config
    width, heads = config.hidden_size, config.num_attention_heads
    d_head, grid = width // heads, config.image_size // config.patch_size
    for parameter in tower.parameters():
        if parameter.ndim == 2:
            nn.init.xavier_uniform_(parameter, generator=generator)
    embeddings = tower.embeddings if hasattr(tower, "embeddings") else tower.vision_model.embeddings
    layers = (tower.encoder if hasattr(tower, "encoder") else tower.vision_model.encoder).layers
    patch, positions = embeddings.patch_embedding.weight, embeddings.position_embedding.weight
    start_embeddings(patch, embeddings.class_embedding, positions, d_head, patch[0].numel() ** -0.5, generator)
    for layer in layers[:-1]:
        attention = layer.self_attn
        for head, offset in zip(range(heads), NEIGHBOURS, strict=False):
            rows = slice(head * d_head, (head + 1) * d_head)
            query, key = attention.q_proj.weight[rows], attention.k_proj.weight[rows]
            nn.init.normal_(query, std=0.01, generator=generator)
            nn.init.normal_(key, std=0.01, generator=generator)
            look_at(query, key, grid, offset)
        attention.out_proj.weight[:d_head] = 0
        layer.mlp.fc2.weight[:d_head] = 0
