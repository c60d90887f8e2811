"""The tree of hook points of a hosted model, under TransformerLens's names, and where each of them is tapped.

The stacks, `HostedBlock`, `HostedAttention` and `HostedMLP` hold hook points and nothing else: the weights stay in
Hugging Face's modules, which they only refer to. `vlm.language.blocks[3].attn.W_Q` reads them there.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from notice_lens.models.hooks import CopyingHookPoint
from notice_lens.models.vlm.anatomy import AttentionParts, BlockParts, MLPParts, ModelParts, Slice
from notice_lens.models.vlm.attention import KeptSteps, Stage
from notice_lens.models.vlm.config import StackSizes
from notice_lens.models.vlm.taps import AttentionTap, ResultTap, Rows, Side, Tap

AnyTap = Tap | ResultTap | AttentionTap


class Axes(NamedTuple):
    """The names of the axes of a stack's hook points.

    Attributes:
        row: An example or an image.
        pos: The positions of its stream.
        source: Those that cross-attention reads.
    """

    row: str
    pos: str
    source: str


LANGUAGE_AXES = Axes("batch", "pos", "image_pos")
VISION_AXES = Axes("image", "patch", "image_pos")
QFORMER_AXES = Axes("image", "pos", "patch")
LEARNED_AXES = Axes("image", "learned", "patch")
"""Of a Q-Former's learned queries, which its cross-attention and its MLP see without the question's tokens."""


class HostedAttention(nn.Module):
    """The hook points of one attention module, and its weights.

    Attributes:
        n_heads, n_kv_heads, d_head: Query heads, key-value heads, width of a head.
        source_rows: Rows of what keys and values are made of.
        use_attn_result: Whether `hook_result` is computed.
        steps: Keeps the steps of a run for whoever asks for them.
    """

    def __init__(self, parts: AttentionParts, axes: Axes, rows: Rows):
        super().__init__()
        self.n_heads, self.n_kv_heads, self.d_head = parts.n_heads, parts.n_kv_heads, parts.d_head
        self.use_attn_result, self.steps = False, KeptSteps()
        axis, query, key = axes.row, axes.pos, axes.source if parts.is_cross else axes.pos
        self.hook_q = CopyingHookPoint(f"{axis} {query} head d_head")
        self.hook_k = CopyingHookPoint(f"{axis} {key} kv_head d_head")
        self.hook_v = CopyingHookPoint(f"{axis} {key} kv_head d_head")
        stages: dict[Stage, CopyingHookPoint] = {}
        if parts.rotary:
            self.hook_rot_q = stages["rot_q"] = CopyingHookPoint(f"{axis} {query} head d_head")
            self.hook_rot_k = stages["rot_k"] = CopyingHookPoint(f"{axis} {key} kv_head d_head")
        of_pattern = f"{axis} head query_{query} key_{key}"
        self.hook_attn_scores = stages["attn_scores"] = CopyingHookPoint(of_pattern)
        self.hook_pattern = stages["pattern"] = CopyingHookPoint(of_pattern)
        self.hook_z = CopyingHookPoint(f"{axis} {query} head d_head")
        self.hook_result = CopyingHookPoint(f"{axis} {query} head d_model")
        # In a tuple, so that Hugging Face's modules do not become a part of the tree.
        self._parts, self._stages, self._rows = (parts,), stages, rows
        self.source_rows = Rows() if parts.is_cross else rows

    @property
    def parts(self) -> AttentionParts:
        """Hugging Face's modules."""
        return self._parts[0]

    def taps(self) -> Iterator[AnyTap]:
        """Yield the taps, in the order in which they fire."""
        parts = self.parts
        yield Tap(self.hook_q, parts.q.module, Side.OUTPUT, parts.q, self._rows)
        yield Tap(self.hook_k, parts.k.module, Side.OUTPUT, parts.k, self.source_rows)
        yield Tap(self.hook_v, parts.v.module, Side.OUTPUT, parts.v, self.source_rows)
        yield AttentionTap(parts, self._stages, self._rows, self.steps)
        z = Slice(parts.o, 0, parts.n_heads * parts.d_head, parts.n_heads)
        yield Tap(self.hook_z, parts.o, Side.INPUT, z, self._rows)
        yield ResultTap(self.hook_result, parts, lambda: self.W_O, self._rows)

    @property
    def W_Q(self) -> Float[Tensor, "head d_model d_head"]:
        """Weights from the stream to queries, [head, d_model, d_head]."""
        return self._weights_in(self.parts.q)

    @property
    def W_K(self) -> Float[Tensor, "kv_head d_model d_head"]:
        """Weights from the stream (of the image, in cross-attention) to keys, [kv_head, d_model, d_head]."""
        return self._weights_in(self.parts.k)

    @property
    def W_V(self) -> Float[Tensor, "kv_head d_model d_head"]:
        """Weights from the stream (of the image, in cross-attention) to values, [kv_head, d_model, d_head]."""
        return self._weights_in(self.parts.v)

    @property
    def W_O(self) -> Float[Tensor, "head d_head d_model"]:
        """Weights from z to the stream, [head, d_head, d_model]."""
        return matrix(self.parts.o).T.unflatten(0, (self.n_heads, self.d_head))

    def _weights_in(self, columns: Slice) -> Tensor:
        rows = matrix(columns.module)[columns.start : columns.start + columns.width]
        return rows.unflatten(0, (columns.n_heads or 1, self.d_head)).transpose(1, 2)


def matrix(module: nn.Module) -> Float[Tensor, "out in"]:
    """Return the weights of a linear layer, as Hugging Face keeps them.

    Raises:
        ValueError: They are quantised or offloaded, so there is no matrix to look at.
    """
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.ndim != 2 or weight.is_meta:
        kept = "offloaded" if isinstance(weight, Tensor) and weight.is_meta else "quantised"
        raise ValueError(
            f"the weights of this {type(module).__name__} are {kept}, so there is no matrix to look at: load the model "
            "without quantization_config, and on a device that holds it, to read W_Q, W_K, W_V, W_O or hook_result"
        )
    return weight


class HostedMLP(nn.Module):
    """The hook points of an MLP's neurons; a mixture of experts has none."""

    def __init__(self, parts: MLPParts, axes: Axes, rows: Rows):
        super().__init__()
        self._parts, self._rows = (parts,), rows
        shape = f"{axes.row} {axes.pos} d_mlp"
        if parts.pre is not None:
            self.hook_pre = CopyingHookPoint(shape)
        if parts.pre_linear is not None:
            self.hook_pre_linear = CopyingHookPoint(shape)
        if parts.down is not None:
            self.hook_post = CopyingHookPoint(shape)

    @property
    def parts(self) -> MLPParts:
        """Hugging Face's modules."""
        return self._parts[0]

    def taps(self) -> Iterator[AnyTap]:
        """Yield the taps."""
        parts = self.parts
        if parts.pre is not None:
            yield Tap(self.hook_pre, parts.pre.module, Side.OUTPUT, parts.pre, self._rows)
        if parts.pre_linear is not None:
            yield Tap(self.hook_pre_linear, parts.pre_linear.module, Side.OUTPUT, parts.pre_linear, self._rows)
        if parts.down is not None:
            yield Tap(self.hook_post, parts.down, Side.INPUT, None, self._rows)


class HostedBlock(nn.Module):
    """The hook points of one block. `attn` is its self-attention, `cross_attn` its cross-attention; it has one."""

    def __init__(self, parts: BlockParts, axes: Axes, rows: Rows, flat_rows: Rows):
        super().__init__()
        self._parts, self._rows = (parts,), rows
        # A block that is its own MLP hands the tokens of all rows to it in one axis (OPT).
        self.flat_rows = flat_rows if parts.mlp.module is parts.module else rows
        self.is_cross = parts.attn.is_cross
        shape = f"{axes.row} {axes.pos} d_model"
        self.hook_resid_pre = CopyingHookPoint(shape)
        attention = HostedAttention(parts.attn, axes, rows)
        if self.is_cross:
            self.cross_attn, self.hook_cross_attn_out = attention, CopyingHookPoint(shape)
        else:
            self.attn, self.hook_attn_out = attention, CopyingHookPoint(shape)
        self.hook_resid_mid = CopyingHookPoint(shape)
        self.mlp = HostedMLP(parts.mlp, axes, self.flat_rows)
        self.hook_mlp_out = CopyingHookPoint(shape)
        self.hook_resid_post = CopyingHookPoint(shape)

    @property
    def attention(self) -> HostedAttention:
        """Return the attention that the block has, of either kind."""
        return self.cross_attn if self.is_cross else self.attn

    def attentions(self) -> dict[str, HostedAttention]:
        """Return the block's attention under its name, `attn` or `cross_attn`."""
        return {"cross_attn" if self.is_cross else "attn": self.attention}

    def taps(self) -> Iterator[AnyTap]:
        """Yield the taps, in the order in which they fire."""
        parts, rows = self._parts[0], self._rows
        yield Tap(self.hook_resid_pre, parts.module, Side.INPUT, None, rows)
        yield from self.attention.taps()
        attn_out = self.hook_cross_attn_out if self.is_cross else self.hook_attn_out
        yield Tap(attn_out, parts.attn_out, Side.OUTPUT, None, rows)
        yield Tap(self.hook_resid_mid, parts.mid_norm, Side.STREAM, None, self.flat_rows)
        yield from self.mlp.taps()
        yield Tap(self.hook_mlp_out, parts.mlp_out, Side.OUTPUT, None, self.flat_rows)
        yield Tap(self.hook_resid_post, parts.module, Side.OUTPUT, None, rows)


class Point(nn.Module):
    """One hook point on a module's output, under the name `hook_out`."""

    def __init__(self, module: nn.Module, shape: str, rows: Rows):
        super().__init__()
        self._module, self._rows = (module,), rows  # in a tuple, so that it is no submodule
        self.hook_out = CopyingHookPoint(shape)

    def taps(self) -> Iterator[AnyTap]:
        """Yield the tap."""
        yield Tap(self.hook_out, self.module, Side.OUTPUT, None, self._rows)

    @property
    def module(self) -> nn.Module:
        """Hugging Face's module."""
        return self._module[0]


class LanguageStack(nn.Module):
    """The language model: token embeddings, blocks, final norm.

    Attributes:
        cfg: Its sizes; the model that it is a part of sets them.
        flat_rows: Rows of tensors whose first axis is the tokens of all examples.
    """

    cfg: StackSizes

    def __init__(self, parts: ModelParts):
        super().__init__()
        whole = Rows()
        self.flat_rows = Rows()
        self._embed, self._rows = (parts.embed,), whole
        self.hook_embed = CopyingHookPoint("batch pos d_model")
        self.blocks = nn.ModuleList(
            HostedBlock(block, LANGUAGE_AXES, whole, self.flat_rows) for block in parts.language
        )
        self.ln_final = Point(parts.ln_final, "batch pos d_model", whole)

    def taps(self) -> Iterator[AnyTap]:
        """Yield the taps, in the order in which they fire."""
        yield Tap(self.hook_embed, self._embed[0], Side.OUTPUT, None, self._rows)
        for block in self.blocks:
            assert isinstance(block, HostedBlock)
            yield from block.taps()
        yield from self.ln_final.taps()


class HostedVisionStack(nn.Module):
    """The vision tower's blocks.

    Attributes:
        cfg: Its sizes; the model that it is a part of sets them.
    """

    cfg: StackSizes

    def __init__(self, parts: ModelParts, rows: Rows):
        super().__init__()
        self.blocks = nn.ModuleList(HostedBlock(block, VISION_AXES, rows, rows) for block in parts.vision)

    def taps(self) -> Iterator[AnyTap]:
        """Yield the taps, in the order in which they fire."""
        for block in self.blocks:
            assert isinstance(block, HostedBlock)
            yield from block.taps()


class Projector(Point):
    """The image as the language model receives it; `deepstack` holds the features that enter at later blocks.

    Attributes:
        cfg: Its sizes; the model that it is a part of sets them.
    """

    cfg: StackSizes

    def __init__(self, parts: ModelParts, rows: Rows):
        super().__init__(parts.projector, "image image_pos d_model", rows)
        self.deepstack = nn.ModuleList(Point(module, "image image_pos d_model", rows) for module in parts.deepstack)

    def taps(self) -> Iterator[AnyTap]:
        """Yield the taps."""
        yield from super().taps()
        for point in self.deepstack:
            assert isinstance(point, Point)
            yield from point.taps()


def stacked(weights: list[Tensor]) -> Float[Tensor, "layer *shape"]:
    """Return the weights of all layers, on the first one's device."""
    return torch.stack([weight.to(weights[0].device) for weight in weights])
