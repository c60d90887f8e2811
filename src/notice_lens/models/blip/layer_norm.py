"""LayerNorm with TransformerLens's two hook points."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from notice_lens.models.hooks import CopyingHookPoint


class LayerNorm(nn.Module):
    """LayerNorm whose scale and normalised stream can be read and changed.

    PyTorch's fused kernel runs as long as nothing is hooked; otherwise the same steps one by one, in float32 at least,
    and the difference in rounding is added back, so that hooks change no number. As in TransformerLens,
    `hook_normalized` is the stream before weight and bias.
    """

    def __init__(self, d_model: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))
        self.hook_scale = CopyingHookPoint("batch pos 1")
        self.hook_normalized = CopyingHookPoint("batch pos d_model")

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """The stream with mean 0 and variance 1 at each position, times weight plus bias."""
        fused = F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        if not (self.hook_scale.watched or self.hook_normalized.watched):
            return fused
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        centred = wide - wide.mean(-1, keepdim=True)
        scale = (centred.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()
        unseen = centred / scale
        normalized = self.hook_normalized(centred / self.hook_scale(scale))
        # What was changed is not made up for: the rounding is that of the numbers that stood there.
        rounding = torch.where(normalized == unseen, fused - self._affine(unseen), 0).detach()
        return (self._affine(normalized) + rounding).to(x.dtype)

    def _affine(self, normalized: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        return normalized * self.weight + self.bias
