"""The three stacks. Each can run by itself: from a given stream, from one layer to another, with a given source.

vision:  pixel_values ─ embed ─ blocks ─ ln_final ─ image states
text:    input_ids    ─ embed ─ blocks (cross-attention to the image states) ─ question states
decoder: answer ids   ─ embed ─ blocks (cross-attention to the question or image states) ─ answer states
"""

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from notice_lens.models.blip.attention import KeyValues
from notice_lens.models.blip.blocks import Block
from notice_lens.models.blip.config import StackConfig
from notice_lens.models.blip.layer_norm import LayerNorm
from notice_lens.models.blip.steps import Steps
from notice_lens.models.hooks import CopyingHookPoint

ProjectedSource = tuple[KeyValues, ...]
"""Keys and values of a source for each layer of the stack that reads it."""


class Stack(nn.Module):
    """An embedding followed by blocks. Subclasses assemble the parts, in the order of the forward pass.

    Attributes:
        cfg: The stack's configuration.
        blocks: Its layers.
        ln_embed: The LayerNorm after the embedding; the identity in stacks without it.
        ln_final: The LayerNorm after the last block; the identity where the blocks themselves end in one.
    """

    blocks: nn.ModuleList
    ln_embed: nn.Module
    ln_final: nn.Module

    def __init__(self, cfg: StackConfig):
        super().__init__()
        self.cfg = cfg
        self.hook_embed = CopyingHookPoint("batch pos d_model")
        self.hook_pos_embed = CopyingHookPoint("batch pos d_model")

    def forward(
        self,
        resid: Float[Tensor, "batch pos d_model"],
        *,
        mask: Bool[Tensor, "batch pos"] | None = None,
        source: Float[Tensor, "source_batch key_pos d_source"] | ProjectedSource | None = None,
        source_mask: Bool[Tensor, "source_batch key_pos"] | None = None,
        start_at_layer: int = 0,
        stop_at_layer: int | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """The stream after the last block and the final LayerNorm, or before `stop_at_layer`.

        Args:
            resid: The stream before `start_at_layer`; `embed` gives that of layer 0.
            mask: True at real tokens, False at padding.
            source: What cross-attention reads: states, or what `project_source` made of them. If it has fewer rows
                than the stream, each serves as many consecutive rows of it.
            source_mask: True at the real positions of the source.
            start_at_layer: The first block to run.
            stop_at_layer: The first block not to run; the stream before it is returned. None runs all.

        Raises:
            IndexError: There is no such layer.
            ValueError: Source and stack, or rows of source and stream, do not fit.
        """
        start, stop = self._layers(start_at_layer, stop_at_layer)
        self._check_source(resid, source)
        mask, source_mask = attention_mask(mask), attention_mask(source_mask)
        for layer in range(start, stop):
            layer_source = source[layer] if isinstance(source, tuple) else source
            resid = self.blocks[layer](resid, mask, layer_source, source_mask)
        return resid if stop_at_layer is not None else self.ln_final(resid)

    def project_source(self, states: Float[Tensor, "batch key_pos d_source"]) -> ProjectedSource:
        """Keys and values of the cross-attention source for every layer, to be shared by many runs."""
        if self.cfg.d_source is None:
            raise ValueError(f"`{self.cfg.name}` has no cross-attention, so nothing to project a source for")
        blocks = cast(Iterable[Block], self.blocks)
        return tuple(block.cross_attn.project_source(states) for block in blocks)

    def share_source(self, states: Float[Tensor, "batch key_pos d_source"]) -> Tensor | ProjectedSource:
        """The source for many runs: projected once, or its states while each head gets its own copy of them."""
        blocks = cast(Iterable[Block], self.blocks)
        split = any(block.cross_attn.use_split_qkv_input for block in blocks)
        return states if split else self.project_source(states)

    @property
    def steps(self) -> Steps:
        """The steps of every block of the stack, in order."""
        return cast(Block, self.blocks[0]).steps

    def _layers(self, start: int, stop: int | None) -> tuple[int, int]:
        n_layers = self.cfg.n_layers
        stop = n_layers if stop is None else stop
        # The stream after the last block may be stopped at as well: layer n_layers is its end.
        first, end = (index + n_layers if index < 0 else index for index in (start, stop))
        if not 0 <= first <= end <= n_layers:
            raise IndexError(
                f"layers {start} to {stop} asked for; `{self.cfg.name}` has layers 0 to {n_layers - 1}, and "
                f"start_at_layer <= stop_at_layer <= {n_layers}"
            )
        return first, end

    def _check_source(self, resid: Tensor, source: Tensor | ProjectedSource | None) -> None:
        if (source is None) != (self.cfg.d_source is None):
            need = "reads no source" if source is not None else "has cross-attention: give it a source to read"
            raise ValueError(f"`{self.cfg.name}` {need}")
        if isinstance(source, tuple) and len(source) != self.cfg.n_layers:
            raise ValueError(f"a source projected for {len(source)} layers; `{self.cfg.name}` has {self.cfg.n_layers}")
        if source is not None:
            rows = len(source[0].k) if isinstance(source, tuple) else len(source)
            if not rows or len(resid) % rows:
                raise ValueError(
                    f"{len(resid)} rows of `{self.cfg.name}` cannot share {rows} rows of its source; expected as many, "
                    "or a multiple"
                )


class VisionStack(Stack):
    """The image encoder: a ViT with the class token at position 0."""

    def __init__(self, cfg: StackConfig, image_size: int, patch_size: int):
        super().__init__(cfg)
        self.image_size = image_size
        self.patch_size = patch_size
        self.class_embedding = nn.Parameter(torch.zeros(1, 1, cfg.d_model))
        self.position_embedding = nn.Parameter(torch.zeros(1, cfg.n_ctx, cfg.d_model))
        self.patch_embedding = nn.Conv2d(3, cfg.d_model, kernel_size=patch_size, stride=patch_size)
        self.ln_embed = nn.Identity()
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.n_layers))
        self.ln_final = LayerNorm(cfg.d_model, cfg.eps)

    def embed(
        self, pixel_values: Float[Tensor, "batch 3 height width"], interpolate_pos_encoding: bool = False
    ) -> Float[Tensor, "batch pos d_model"]:
        """The stream before block 0: class token and patches, row by row, with their positions.

        Args:
            pixel_values: Preprocessed images.
            interpolate_pos_encoding: Stretch the position embeddings to images of another size.

        Raises:
            ValueError: The images have another size than the model's, and interpolation is off.
        """
        grid = self._grid(pixel_values, interpolate_pos_encoding)
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype))
        patches = rearrange(patches, "batch d_model row column -> batch (row column) d_model")
        class_token = repeat(self.class_embedding, "1 1 d_model -> batch 1 d_model", batch=len(patches))
        embed = self.hook_embed(torch.cat([class_token, patches], 1))
        positions = self._interpolated(*grid) if grid else self.position_embedding
        return self.ln_embed(embed + self.hook_pos_embed(positions.expand_as(embed)))

    def _grid(self, pixel_values: Tensor, interpolate: bool) -> tuple[int, int] | None:
        """Patches down and across; None where the model's own position embeddings fit."""
        height, width = pixel_values.shape[-2:]
        if height == width == self.image_size:
            return None
        if not interpolate:
            raise ValueError(
                f"images of {height} x {width} pixels; this model expects {self.image_size} x {self.image_size}. "
                "Resize them (prepare does), or set interpolate_pos_encoding=True"
            )
        if min(height, width) < self.patch_size:
            raise ValueError(f"images of {height} x {width} pixels are smaller than a patch ({self.patch_size})")
        return height // self.patch_size, width // self.patch_size

    def _interpolated(self, rows: int, columns: int) -> Float[Tensor, "1 pos d_model"]:
        """The position embeddings on another grid of patches; the class token keeps its own (bicubic, as in ViT)."""
        class_position, patch_positions = self.position_embedding.split([1, self.cfg.n_ctx - 1], dim=1)
        side = self.image_size // self.patch_size
        square = rearrange(patch_positions, "1 (row column) d_model -> 1 d_model row column", row=side)
        stretched = F.interpolate(square, size=(rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([class_position, rearrange(stretched, "1 d_model row column -> 1 (row column) d_model")], 1)


class TextStack(Stack):
    """The question encoder and the answer decoder: BERT with cross-attention."""

    def __init__(self, cfg: StackConfig):
        super().__init__(cfg)
        assert cfg.d_vocab is not None, "a text stack has a vocabulary"
        self.word_embedding = nn.Embedding(cfg.d_vocab, cfg.d_model)
        self.position_embedding = nn.Embedding(cfg.n_ctx, cfg.d_model)
        self.ln_embed = LayerNorm(cfg.d_model, cfg.eps)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.n_layers))
        self.ln_final = nn.Identity()

    def embed(self, input_ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """The stream before block 0: words plus positions, normalised.

        Raises:
            ValueError: There are more tokens than position embeddings.
        """
        n = input_ids.shape[-1]
        if n > self.cfg.n_ctx:
            raise ValueError(f"{n} tokens given; `{self.cfg.name}` has positions for {self.cfg.n_ctx}")
        words = self.hook_embed(self.word_embedding(input_ids))
        positions = self.hook_pos_embed(self.position_embedding.weight[:n].expand_as(words))
        return self.ln_embed(words + positions)


def attention_mask(mask: Bool[Tensor, "batch pos"] | None) -> Bool[Tensor, "batch 1 1 pos"] | None:
    """A mask over key positions that broadcasts over heads and queries; None where nothing is masked."""
    # Fused attention without a mask is quicker, so one look at the mask pays.
    return None if mask is None or bool(mask.all()) else rearrange(mask, "batch pos -> batch 1 1 pos")
