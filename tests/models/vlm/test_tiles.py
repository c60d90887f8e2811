"""Which part of a picture each image position stands for, found by changing the picture and nothing else.

The tower's attention is silenced, so that no patch hears of another: the image tokens that change when a square of the
picture does are those of its place, in every family, whatever its tiles, lines, windows and merged patches are.
"""

from contextlib import ExitStack

import numpy as np
import pytest
import torch
from PIL import Image

from hosted_vlms import LIBRARY_WARNINGS, QUESTION, tiny_model
from notice_lens import HookedVLM
from notice_lens.models.layout import HALF

pytestmark = LIBRARY_WARNINGS
FAMILIES = (
    "llava", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "gemma3", "paligemma", "idefics3",
    "smolvlm", "internvl", "glm4v",
)  # fmt: skip
TILED = ("llava_next", "llava_onevision", "idefics3", "smolvlm", "internvl")
SIZES = {"square": (56, 56), "wide": (56, 112), "tall": (112, 56)}


def embedded(model: HookedVLM, picture: Image.Image) -> torch.Tensor:
    """Return what the language model is given, while no patch of the tower hears of another."""

    def silent(module, args):
        return (torch.zeros_like(args[0]), *args[1:])

    with ExitStack() as hooks:
        for block in model.vision.blocks:
            hooks.callback(block.attention.parts.o.register_forward_pre_hook(silent).remove)
        _, cache = model.run_with_cache(
            model.prepare(picture, QUESTION), names_filter="language.blocks.0.hook_resid_pre"
        )
    return cache["language.blocks.0.hook_resid_pre"][0]


def check(family: str, size: tuple[int, int]) -> int:
    """Compare layout and change for squares all over a picture; return how many image segments there are."""
    model, (height, width) = tiny_model(family).model, size
    layout = model.layout_of([QUESTION], sizes=[size])
    grey = np.full((height, width, 3), 90, np.uint8)
    before = embedded(model, Image.fromarray(grey))
    image = np.zeros(len(before), bool)
    image[layout.positions("language", 0, "image")] = True
    assert not image[list(layout.positions("language", 0, "prompt"))].any()
    cuts = 2 if family == "gemma3" else 4  # its pooled grid is 2 x 2
    for top in range(0, height, height // cuts):
        for left in range(0, width, width // cuts):
            square = np.zeros((height, width), bool)
            square[top : top + height // cuts, left : left + width // cuts] = True
            after = embedded(model, Image.fromarray(np.where(square[..., None], 255, grey).astype(np.uint8)))
            moved = (after - before).norm(dim=-1).numpy()
            covered = layout.covered("language", 0, square)
            assert (moved[covered >= HALF] > 0).all()
            # Resizing and kernels reach a little over the edge, by less than a patch: far away nothing changes.
            far = square.copy()
            reach = max(height, width) // 4
            down, across = top + height // cuts + reach, left + width // cuts + reach
            far[max(0, top - reach) : down, max(0, left - reach) : across] = True
            assert (moved[image & (layout.covered("language", 0, far) == 0)] < 1e-6).all()
            assert (moved[~image] < 1e-6).all()
            assert moved[covered >= HALF].mean() > 3 * moved[image & (covered == 0)].mean()
    return len(layout.image_segments("language", 0))


@pytest.mark.parametrize("family", FAMILIES)
def test_image_positions_are_where_the_layout_says(family: str) -> None:
    assert (check(family, SIZES["square"]) > 1) == (family in TILED)


@pytest.mark.parametrize("shape", ["wide", "tall"])
@pytest.mark.parametrize("family", TILED)
def test_tiles_of_pictures_that_are_not_square(family: str, shape: str) -> None:
    assert check(family, SIZES[shape]) > 1


def test_ends_of_lines_are_no_picture() -> None:
    layout = tiny_model("llava_next").model.layout_of([QUESTION], sizes=[SIZES["square"]])
    kinds = [(segment.kind, len(segment), segment.grid) for segment in layout.segments("language", 0)]
    assert kinds[1] == ("image", 16, (4, 4))
    assert kinds[2:18] == [("image", 8, (1, 8)), ("special", 1, None)] * 8
