"""Tiny hosted models of every family, with a clean and a corrupted input each."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny_vlms
from notice_lens.models.vlm.hooked_vlm import HookedVLM
from notice_lens.models.vlm.points import HostedBlock

QUESTION = "is this apple red ?"
LIBRARY_WARNINGS = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
"""PaliGemma's processor makes an array of a tensor in a way that NumPy 2 is going to drop."""


@dataclass(frozen=True)
class Tiny:
    """A hosted tiny model in float64, with the inputs of two pictures, clean and corrupted."""

    family: str
    model: HookedVLM
    clean: Mapping[str, Any]
    corrupted: Mapping[str, Any]

    @property
    def hf(self) -> Any:
        return self.model.hf_model

    def logits(self, inputs: Mapping[str, Any] | None = None) -> Tensor:
        """Hugging Face's own."""
        with torch.no_grad():
            return self.hf(**(self.clean if inputs is None else inputs)).logits

    def layers(self, stack: str = "language", is_cross: bool = False) -> list[int]:
        """The layers of a stack with the one or the other kind of attention."""
        n_layers = self.model.layers_by_stack[stack]
        return [layer for layer in range(n_layers) if self.model.block(stack, layer).is_cross == is_cross]

    def block(self, layer: int, stack: str = "language") -> HostedBlock:
        return self.model.block(stack, layer)


@cache
def tiny_model(family: str) -> Tiny:
    """The tiny model of a family; made once, since no test changes it."""
    hf, processor = tiny_vlms.make(family)
    model = HookedVLM.from_hf(hf.double(), processor)
    clean, corrupted = (model.prepare(tiny_vlms.picture(seed, 56), QUESTION) for seed in (1, 2))
    return Tiny(family, model, clean, corrupted)
