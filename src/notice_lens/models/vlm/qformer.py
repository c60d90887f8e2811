"""The hook points of a Q-Former: the stack of learned queries that reads the vision tower (BLIP-2, InstructBLIP).

A block is one of BERT's, with a norm after each addition, so its names are those of BLIP's text stack:

| step | hook points | positions |
| --- | --- | --- |
| what the block is given | `hook_resid_pre` | all |
| self-attention, and the sum before its norm | `attn.*`, `hook_attn_out`, `hook_resid_mid` | all |
| cross-attention, in some blocks | `cross_attn.*`, `hook_cross_attn_out`, `hook_resid_mid_cross` | learned |
| MLP, and the sum before the last norm | `mlp.*`, `hook_mlp_out`, `hook_resid_post` | learned |
| what the block gives | `hook_normalized_resid_post` | all |

All positions are the learned queries, and behind them the question's tokens where the Q-Former reads them
(InstructBLIP). These see the image through the queries alone, and go through an MLP of their own, which has no hook
points.
"""

from collections.abc import Iterator

from torch import nn

from notice_lens.models.hooks import CopyingHookPoint
from notice_lens.models.vlm.anatomy import QFormerBlockParts, QFormerParts
from notice_lens.models.vlm.config import StackSizes
from notice_lens.models.vlm.points import LEARNED_AXES, QFORMER_AXES, AnyTap, Axes, HostedAttention, HostedMLP
from notice_lens.models.vlm.taps import Rows, Side, Tap


def _stream(axes: Axes) -> CopyingHookPoint:
    return CopyingHookPoint(f"{axes.row} {axes.pos} d_model")


class QFormerBlock(nn.Module):
    """The hook points of one block of a Q-Former.

    Args:
        parts: Hugging Face's modules.
        rows: Of their tensors.
    """

    def __init__(self, parts: QFormerBlockParts, rows: Rows):
        super().__init__()
        self._parts, self._rows = (parts,), rows
        self.hook_resid_pre = _stream(QFORMER_AXES)
        self.attn = HostedAttention(parts.attn, QFORMER_AXES, rows)
        self.hook_attn_out, self.hook_resid_mid = _stream(QFORMER_AXES), _stream(QFORMER_AXES)
        self.has_cross_attention = parts.cross_attn is not None
        if parts.cross_attn is not None:
            self.cross_attn = HostedAttention(parts.cross_attn, LEARNED_AXES, rows)
            self.hook_cross_attn_out = _stream(LEARNED_AXES)
            self.hook_resid_mid_cross = _stream(LEARNED_AXES)
        self.mlp = HostedMLP(parts.mlp, LEARNED_AXES, rows)
        self.hook_mlp_out, self.hook_resid_post = _stream(LEARNED_AXES), _stream(LEARNED_AXES)
        self.hook_normalized_resid_post = _stream(QFORMER_AXES)

    def attentions(self) -> dict[str, HostedAttention]:
        """Return the block's attention modules by name: `attn`, and `cross_attn` where there is one."""
        crossing = {"cross_attn": self.cross_attn} if self.has_cross_attention else {}
        return {"attn": self.attn, **crossing}

    def taps(self) -> Iterator[AnyTap]:
        """Yield the taps, in the order in which they fire."""
        parts, rows = self._parts[0], self._rows
        yield Tap(self.hook_resid_pre, parts.module, Side.INPUT, None, rows)
        yield from self.attn.taps()
        yield Tap(self.hook_attn_out, parts.attn.o, Side.OUTPUT, None, rows)
        yield Tap(self.hook_resid_mid, parts.attn_norm, Side.INPUT, None, rows)
        if parts.cross_attn is not None and parts.cross_attn_norm is not None:
            yield from self.cross_attn.taps()
            yield Tap(self.hook_cross_attn_out, parts.cross_attn.o, Side.OUTPUT, None, rows)
            yield Tap(self.hook_resid_mid_cross, parts.cross_attn_norm, Side.INPUT, None, rows)
        yield from self.mlp.taps()
        assert parts.mlp.down is not None, "a Q-Former's MLP has two layers"
        yield Tap(self.hook_mlp_out, parts.mlp.down, Side.OUTPUT, None, rows)
        yield Tap(self.hook_resid_post, parts.mlp_norm, Side.INPUT, None, rows)
        yield Tap(self.hook_normalized_resid_post, parts.module, Side.OUTPUT, None, rows)


class QFormerStack(nn.Module):
    """A Q-Former's blocks.

    Args:
        parts: Hugging Face's modules.

    Attributes:
        cfg: Its sizes; the model that it is a part of sets them.
    """

    cfg: StackSizes

    def __init__(self, parts: QFormerParts):
        super().__init__()
        rows = Rows()
        self.blocks = nn.ModuleList(QFormerBlock(block, rows) for block in parts.blocks)

    def taps(self) -> Iterator[AnyTap]:
        """Yield the taps, in the order in which they fire."""
        for block in self.blocks:
            assert isinstance(block, QFormerBlock)
            yield from block.taps()
