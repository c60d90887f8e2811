"""Masks by their content: the object of every layout that people have, or a refusal that says what settles it."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw, ImageFilter

from notice_lens.pairs.regions import RegionFormat, as_run_lengths, run_lengths

SIZE = (40, 60)
OBJECT = np.zeros(SIZE, bool)
OBJECT[10:30, 15:45] = True
RING = np.zeros(SIZE, bool)
RING[8:32, 13:47] = True
RING &= ~OBJECT
VOC_COLOURS = {1: (128, 0, 0), 15: (192, 128, 128), 255: (224, 224, 192)}


def voc(index: int = 1, void: bool = True, colours: bool = True) -> Image.Image:
    """An annotation as VOC has it: the object's class, and a ring of void around it."""
    image = Image.fromarray(np.where(OBJECT, index, np.where(RING & void, 255, 0)).astype(np.uint8))
    if not colours:
        return image
    palette = np.zeros((256, 3), np.uint8)
    for value, colour in VOC_COLOURS.items():
        palette[value] = colour
    annotated = Image.new("P", image.size)
    annotated.frombytes(image.tobytes())
    annotated.putpalette(palette.tobytes())
    return annotated


def through_file(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def read(region: object, tmp_path: Path | None = None, **region_format: object) -> np.ndarray:
    """The mask that a region becomes, through run lengths; of an image the file's, where there is a place for it."""
    if isinstance(region, Image.Image) and tmp_path is not None:
        (tmp_path / "mask.png").write_bytes(through_file(region))
        region = tmp_path / "mask.png"
    found = as_run_lengths(region, SIZE, RegionFormat(**region_format))  # pyright: ignore[reportArgumentType]
    flat = np.repeat(np.arange(len(found["counts"])) % 2 == 1, found["counts"])
    return flat.reshape(SIZE, order="F")


def cut_out(mode: str, alpha: np.ndarray, colour: int = 0) -> Image.Image:
    """A photograph's noise with the object's alpha; `colour` lies under what is transparent."""
    grey = np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8)
    grey[~OBJECT] = colour
    image = Image.fromarray(grey).convert("RGB" if mode == "RGBA" else "L")
    image.putalpha(Image.fromarray(alpha.astype(np.uint8)))
    return image


def soft_disk(blur: float = 0) -> tuple[Image.Image, np.ndarray]:
    """A disk with soft edges, drawn in four times its size, and the same in black and white."""
    large = Image.new("L", (4 * SIZE[1], 4 * SIZE[0]), 0)
    ImageDraw.Draw(large).ellipse([41, 30, 190, 141], fill=255)
    soft = large.resize((SIZE[1], SIZE[0]), Image.Resampling.LANCZOS)
    if blur:
        soft = soft.filter(ImageFilter.GaussianBlur(blur))
    return soft, np.asarray(soft) >= 128


@pytest.mark.parametrize("index", [1, 15])
@pytest.mark.parametrize("colours", [True, False], ids=["palette", "grey"])
def test_an_index_mask_with_void_needs_a_label(tmp_path, index, colours):
    with pytest.raises(ValueError, match=rf"the values 0, {index}, 255: indices, as in VOC.*label= names the index"):
        read(voc(index, colours=colours), tmp_path)
    np.testing.assert_array_equal(read(voc(index, colours=colours), tmp_path, label=index), OBJECT)
    np.testing.assert_array_equal(read(voc(index, colours=colours), tmp_path, label=[index, 3]), OBJECT)
    np.testing.assert_array_equal(read({"mask": voc(index, colours=colours), "label": index}), OBJECT)
    with pytest.raises(ValueError, match=rf"label=7 does not occur in it.*the values 0, {index}, 255"):
        read(voc(index, colours=colours), tmp_path, label=7)


def test_an_index_mask_of_one_class_says_itself_what_the_object_is(tmp_path):
    for index in (1, 15):
        np.testing.assert_array_equal(read(voc(index, void=False), tmp_path), OBJECT)
        np.testing.assert_array_equal(read(voc(index, void=False, colours=False), tmp_path), OBJECT)


def test_void_alone_is_no_object(tmp_path):
    with pytest.raises(ValueError, match="255 is not white: void, as in VOC"):
        read(voc(0), tmp_path)


@pytest.mark.parametrize("values", [(1, 2, 3), (0, 128, 255), (0, 1, 2), (2, 1, 3), (1, 2, 2), (0, 7, 254)])
@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32, "image", "tensor"])
def test_trimaps_and_levels_are_refused(values, kind):
    inside, outside, border = values
    array = np.where(OBJECT, inside, np.where(RING, border, outside))
    region = {
        "image": lambda: Image.fromarray(array.astype(np.uint8)),
        "tensor": lambda: torch.from_numpy(array),
    }.get(kind if isinstance(kind, str) else "", lambda: array.astype(kind))()
    with pytest.raises(ValueError, match=", ".join(map(str, sorted(set(values)))) + ".*label= names"):
        read(region)
    np.testing.assert_array_equal(read(region, label=inside), OBJECT)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("colour", [0, 255])
def test_the_alpha_of_a_cut_out_is_its_mask(tmp_path, mode, colour):
    """Whatever lies under transparent pixels, and with soft edges."""
    image = cut_out(mode, OBJECT * 255, colour)
    assert image.mode == mode
    np.testing.assert_array_equal(read(image, tmp_path), OBJECT)
    soft, expected = soft_disk()
    np.testing.assert_array_equal(read(cut_out(mode, np.asarray(soft), colour), tmp_path), expected)


def test_constant_alpha_says_nothing(tmp_path):
    everywhere = np.full(SIZE, 255)
    with pytest.raises(ValueError, match=r"mode RGBA, alpha 255 everywhere with .* from 0 to 25\d: not a mask"):
        read(cut_out("RGBA", everywhere), tmp_path)
    two_valued = Image.fromarray(OBJECT).convert("RGBA")
    np.testing.assert_array_equal(read(two_valued, tmp_path), OBJECT)
    nearly = cut_out("RGBA", np.where(OBJECT, 255, 254))
    with pytest.raises(ValueError, match="alpha runs from 254 to 255: nothing is cut out"):
        read(nearly, tmp_path)
    with pytest.raises(ValueError, match="label=1 is for masks that hold indices; this is an image of mode RGBA"):
        read(cut_out("RGBA", OBJECT * 255), tmp_path, label=1)


def test_palettes_that_contradict_their_indices_are_refused(tmp_path):
    image = Image.new("P", SIZE[::-1])
    image.frombytes(OBJECT.astype(np.uint8).tobytes())
    image.putpalette([255, 255, 255, 0, 0, 0])
    with pytest.raises(ValueError, match="colours and indices contradict each other"):
        read(image, tmp_path)
    image.putpalette([0, 0, 0, 255, 255, 255])
    np.testing.assert_array_equal(read(image, tmp_path), OBJECT)
    (tmp_path / "hole.png").write_bytes(through_file(image, transparency=1))
    with pytest.raises(ValueError, match="transparency and values contradict each other"):
        read(tmp_path / "hole.png")
    np.testing.assert_array_equal(read(tmp_path / "hole.png", label=1), OBJECT)
    (tmp_path / "fits.png").write_bytes(through_file(image, transparency=0))
    np.testing.assert_array_equal(read(tmp_path / "fits.png"), OBJECT)


def test_masks_in_colours(tmp_path):
    red = np.zeros((*SIZE, 3), np.uint8)
    red[OBJECT] = (0, 0, 200)
    np.testing.assert_array_equal(read(Image.fromarray(red), tmp_path), OBJECT)
    red[RING] = (0, 200, 0)
    with pytest.raises(ValueError, match=re.escape("the colours (0, 0, 0), (0, 0, 200), (0, 200, 0): not a mask")):
        read(Image.fromarray(red), tmp_path)
    with pytest.raises(ValueError, match="not a mask of one object"):
        read(voc().convert("RGB"), tmp_path)


@pytest.mark.parametrize("quality", [30, 60, 75, 95])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_black_and_white_stored_as_jpeg(tmp_path, quality, mode):
    _, disk = soft_disk()
    (tmp_path / "mask.jpg").write_bytes(through_file(Image.fromarray(disk).convert(mode), "JPEG", quality=quality))
    np.testing.assert_array_equal(read(tmp_path / "mask.jpg"), disk)


@pytest.mark.parametrize("form", ["image", "16 bits", "float32", "tensor"])
@pytest.mark.parametrize("blur", [0, 1])
def test_soft_edges(form, blur):
    soft, expected = soft_disk(blur)
    values = np.asarray(soft)
    forms = {
        "image": soft,
        "16 bits": values.astype(np.uint16) * 257,
        "float32": values.astype(np.float32) / 255,
        "tensor": torch.from_numpy(values / 255),
    }
    np.testing.assert_array_equal(read(forms[form]), expected)


def test_soft_levels_of_an_index_mask_are_none(tmp_path):
    """VOC made smaller with interpolation has many values, and gathers near black and near white."""
    large = voc(colours=False).resize((480, 320), Image.Resampling.NEAREST)
    interpolated = large.resize(SIZE[::-1], Image.Resampling.BILINEAR).rotate(3, Image.Resampling.BICUBIC)
    assert len(np.unique(np.asarray(interpolated))) > 8
    for region in (interpolated, np.asarray(interpolated) / 255):
        with pytest.raises(ValueError, match="not a mask of one object"):
            read(region)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (
            np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8),
            "values from 0 to 255: not a mask of one object",
        ),
        (np.random.default_rng(0).random(SIZE), "not a mask of one object"),
        (np.random.default_rng(0).normal(size=SIZE), "not a mask of one object"),
        (np.where(OBJECT, np.nan, 0.0), "holds NaN or infinity"),
        (np.where(OBJECT, np.inf, 0.0), "holds NaN or infinity"),
        (np.zeros(SIZE, np.uint8), "the value 0: no pixel belongs to an object"),
        (Image.new("1", SIZE[::-1]), "the value 0: no pixel belongs to an object"),
        (Image.new("RGB", SIZE[::-1]), "the value 0: no pixel belongs to an object"),
        (np.full(SIZE, 255, np.uint8), "the value 255: all of the picture, or none"),
        (np.where(OBJECT, -1, 0), "the values -1, 0: indices"),
        (np.where(OBJECT, 255, 1), "the values 1, 255: indices, as in VOC"),
        (np.where(OBJECT, 1 / 255, RING.astype(float)), "the values 0, 0.00392157, 1"),
    ],
)
def test_what_is_no_mask_of_one_object(region, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read(region)


@settings(deadline=None)
@given(arrays(np.uint8, st.just(SIZE), elements=st.sampled_from([0, 3, 9])), st.sampled_from([0, 3, 9]))
def test_a_label_is_where_its_value_stands(values, label):
    if (values == label).any():
        np.testing.assert_array_equal(read(values, label=label), values == label)
    if len(np.unique(values)) == 3:
        with pytest.raises(ValueError, match="the values 0, 3, 9"):
            read(values)


def test_a_mask_stands_upright_as_its_picture_does(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(np.rot90(OBJECT).astype(np.uint8) * 255)
    (tmp_path / "mask.png").write_bytes(through_file(turned, exif=exif))
    np.testing.assert_array_equal(read(tmp_path / "mask.png"), OBJECT)


def test_masks_of_booleans_may_be_empty_or_full():
    for mask in (np.zeros(SIZE, bool), np.ones(SIZE, bool)):
        np.testing.assert_array_equal(read(mask), mask)
        np.testing.assert_array_equal(read(run_lengths(mask)), mask)
    np.testing.assert_array_equal(read(np.ones(SIZE, np.uint8)), np.ones(SIZE, bool))
