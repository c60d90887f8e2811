"""Pixels as the mini models read them."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from notice_lens.mini.vocabulary import PIXEL_DEVIATION, PIXEL_MEAN


def normalised(pixels: UInt8[Tensor, "image height width 3"]) -> Float[Tensor, "image 3 height width"]:
    """Return pixels from 0 to 255 as the processors give them: less the mean, over the deviation."""
    mean, deviation = (torch.tensor(values, device=pixels.device) for values in (PIXEL_MEAN, PIXEL_DEVIATION))
    return ((pixels.float() / 255 - mean) / deviation).permute(0, 3, 1, 2)
