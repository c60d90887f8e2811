"""Pixels as the mini model reads them."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from notice_lens.mini.vocabulary import PIXEL_DEVIATION, PIXEL_MEAN


def normalised(pixels: UInt8[Tensor, "image height width 3"]) -> Float[Tensor, "image 3 height width"]:
    """Pixels from 0 to 255 as the processor hands them on: less the mean, over the deviation that BLIP is used to."""
    mean, deviation = (torch.tensor(values, device=pixels.device) for values in (PIXEL_MEAN, PIXEL_DEVIATION))
    return ((pixels.float() / 255 - mean) / deviation).permute(0, 3, 1, 2)
