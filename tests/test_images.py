"""to_rgb, file_format and digest: every kind of file gives the pixels that viewers show, or an error that says why."""

import gc
import io
import re
import struct
import threading
import time
import warnings
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from notice_lens.images import FORMATS, as_stored, digest, file_format, to_rgb
from notice_lens.pairs.image_folder import image_files, read_pictures
from notice_lens.pairs.io.records import open_image
from notice_lens.pairs.regions import as_mask

READ = "AVIF, BMP, GIF, JPEG, JPEG2000, PNG, PPM, TIFF, WEBP"
WHITE, BLACK = [255, 255, 255], [0, 0, 0]


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8))


def encoded(image: Image.Image, format: str = "PNG", **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **settings)
    return file.getvalue()


def pixels(image: Any) -> list[Any]:
    rgb = to_rgb(image)
    assert rgb.mode == "RGB"
    return np.asarray(rgb).tolist()


def bomb(width: int, height: int) -> bytes:
    """A valid PNG of one bit per pixel, written row by row: Pillow would need a byte for each."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    packer = zlib.compressobj(1)
    row = bytes(1 + (width + 7) // 8)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def test_a_path_a_string_and_bytes_give_the_same(picture, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(picture))
    expected = np.asarray(picture).tolist()
    for source in (path, str(path), path.read_bytes(), picture):
        assert pixels(source) == expected
    picture.save(tmp_path / "picture.txt", "BMP")
    assert pixels(tmp_path / "picture.txt") == expected, "the bytes count and not the name"


@pytest.mark.parametrize(("mode", "below"), [("RGBA", [200, 100, 50]), ("LA", [90, 90, 90])])
def test_transparency_is_laid_over_white(mode, below):
    values = {0: WHITE, 255: below, 51: [round(255 + (value - 255) * 0.2) for value in below]}
    colour = below if mode == "RGBA" else below[:1]
    array = np.array([[[*colour, alpha] for alpha in values]], dtype=np.uint8)
    image = Image.fromarray(array)
    assert image.mode == mode
    for source in (image, encoded(image)):
        assert np.abs(np.array(pixels(source)) - [list(values.values())]).max() <= 1
        assert pixels(source)[0][:2] == [WHITE, below]


@pytest.mark.parametrize("transparency", [1, b"\xff\x00\x80"])
def test_a_palette_with_transparency_is_laid_over_white(transparency):
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.frombytes(bytes([0, 1, 2]))
    third = [0, 0, 255] if transparency == 1 else [127, 127, 255]
    assert pixels(encoded(image, transparency=transparency)) == [[[255, 0, 0], WHITE, third]]
    assert pixels(encoded(image)) == [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]


def test_a_transparent_colour_is_laid_over_white():
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8))
    assert pixels(encoded(image, transparency=(1, 2, 3))) == [[WHITE, [4, 5, 6]]]
    grey = Image.fromarray(np.array([[7, 8]], dtype=np.uint8))
    assert pixels(encoded(grey, transparency=7)) == [[WHITE, [8, 8, 8]]]


def test_sixteen_bits_become_eight():
    deep = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]], dtype=np.uint16)
    expected = [0, 0, 1, 1, 128, 254, 255, 255]
    image = Image.fromarray(deep)
    for source in (encoded(image), encoded(image, "TIFF"), image, deep, deep.astype(np.int32)):
        assert pixels(source) == [[[value] * 3 for value in expected]]
    dark = encoded(Image.fromarray(np.full((1, 1), 200, dtype=np.uint16)))
    assert pixels(dark) == [[[1] * 3]], "16 bits are 16 bits, however dark"


def test_grey_black_and_white_palette_and_cmyk(picture):
    assert pixels(encoded(Image.fromarray(np.array([[0, 77, 255]], dtype=np.uint8)))) == [[BLACK, [77] * 3, WHITE]]
    assert pixels(encoded(Image.fromarray(np.array([[True, False]])))) == [[WHITE, BLACK]]
    few = picture.quantize(7)
    assert pixels(encoded(few)) == np.asarray(few.convert("RGB")).tolist()
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 255, 255, 0], [0, 0, 0, 255]]], dtype=np.uint8)
    cmyk = Image.frombytes("CMYK", (4, 1), inks.tobytes())
    assert pixels(encoded(cmyk, "TIFF")) == [[WHITE, [0, 255, 255], [255, 0, 0], BLACK]]


def test_cmyk_jpeg():
    solid = Image.frombytes("CMYK", (16, 16), bytes([0, 255, 255, 0]) * 256)
    colour = np.array(pixels(encoded(solid, "JPEG", quality=95))[8][8])
    assert np.abs(colour - [255, 0, 0]).max() <= 3


def test_of_an_animation_the_first_frame_counts():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    for format in ("GIF", "PNG", "WEBP"):
        lossless = {"lossless": True} if format == "WEBP" else {}
        file = encoded(frames[0], format, save_all=True, append_images=frames[1:], **lossless)
        assert pixels(file) == [[[255, 0, 0]] * 4] * 4, format


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda shown: shown),
        (2, lambda shown: shown[:, ::-1]),
        (3, lambda shown: shown[::-1, ::-1]),
        (4, lambda shown: shown[::-1]),
        (5, lambda shown: shown.transpose(1, 0, 2)),
        (6, lambda shown: np.rot90(shown, -1)),
        (7, lambda shown: shown.transpose(1, 0, 2)[::-1, ::-1]),
        (8, lambda shown: np.rot90(shown)),
    ],
)
def test_exif_stands_upright(orientation, upright):
    """Corners of four colours, 16 pixels wide: what JPEG does to them stays small."""
    corners = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[0, 0, 0], [255, 255, 255], [128, 128, 0]]])
    stored = Image.fromarray(corners.repeat(16, 0).repeat(16, 1).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encoded(stored, "JPEG", exif=exif, quality=100, subsampling=0)
    shown = np.array(pixels(file))[8::16, 8::16]
    assert shown.shape == upright(corners).shape
    assert np.abs(shown - upright(corners)).max() <= 4


def test_a_file_that_is_cut_off(picture, tmp_path):
    big = picture.resize((64, 64))
    for format in ("JPEG", "PNG", "WEBP", "TIFF", "BMP"):
        file = encoded(big, format)
        with pytest.raises(ValueError, match=r"."):
            to_rgb(file[: len(file) // 2])
    (tmp_path / "half.jpg").write_bytes(encoded(big, "JPEG")[:700])
    with pytest.raises(ValueError, match=r"image file is truncated \(\d+ bytes not processed\)"):
        to_rgb(tmp_path / "half.jpg")


def test_damaged_files_are_value_errors(picture):
    """Pillow's decoders raise what they like, such as AVIF's RuntimeError."""
    rng = np.random.default_rng(0)
    for format in ("JPEG", "PNG", "GIF", "WEBP", "BMP"):
        file = encoded(picture.resize((24, 24)), format)
        for _ in range(60):
            damaged = np.frombuffer(file, dtype=np.uint8).copy()
            damaged[rng.integers(0, min(len(file), 200), 4)] = rng.integers(0, 256, 4)
            with suppress(ValueError), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                to_rgb(damaged.tobytes())


def test_what_a_decoder_raises_is_a_value_error(picture, monkeypatch):
    def fail(_: Any) -> None:
        raise RuntimeError("Failed to decode frame 0")

    monkeypatch.setattr("PIL.ImageOps.exif_transpose", fail)
    with pytest.raises(ValueError, match="Failed to decode frame 0") as caught:
        to_rgb(encoded(picture))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_decompression_bomb(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(20_000, 20_000))
    assert path.stat().st_size < 1_000_000
    for read in (to_rgb, file_format):
        with pytest.raises(ValueError, match="it has more than 89,478,485 pixels, as decompression bombs do"):
            read(path)
    gc.collect()


@pytest.mark.parametrize("side", [11, 14, 15, 100])
def test_pillows_limit_is_a_limit(monkeypatch, tmp_path, side):
    """Pillow warns from 101 pixels on, and raises from 201 on."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = tmp_path / "large.png"
    path.write_bytes(bomb(side, side))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for source in (path, path.read_bytes()):
            with pytest.raises(ValueError, match=r"more than 100 pixels.*the limit is Pillow's: PIL.Image.MAX_IMAGE"):
                to_rgb(source)
        # A file that nobody closes warns when it is collected.
        gc.collect()
    assert not caught
    assert to_rgb(bomb(10, 10)).size == (10, 10)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert to_rgb(path).size == (side, side)


def test_threads_leave_the_filters_of_warnings_alone(monkeypatch, picture):
    """The filters belong to the whole process: two threads that change them at once leave them changed."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    good, large = encoded(picture), bomb(12, 12)
    before, wrong = list(warnings.filters), []

    def slowly(file: Any, formats: Any, open: Any = Image.open) -> Image.Image:
        time.sleep(0.001)
        return open(file, formats=formats)

    monkeypatch.setattr(Image, "open", slowly)

    def read() -> None:
        for _ in range(20):
            to_rgb(good)
            try:
                wrong.append(to_rgb(large))
            except ValueError:
                pass
            except Warning as warning:
                wrong.append(warning)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert list(warnings.filters) == before


@pytest.mark.parametrize("read", [to_rgb, file_format])
def test_files_that_are_no_images(tmp_path, read):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("this is a text and not a picture\n" * 9)
    (tmp_path / "folder.jpg").mkdir()
    messages = {
        "empty.jpg": "the file is empty (0 bytes)",
        "text.jpg": f"the bytes are not an image in a format that is read here: {READ}",
        "folder.jpg": "it is a folder, not an image file",
        "missing.jpg": "no such file",
    }
    for name, message in messages.items():
        for source in (tmp_path / name, str(tmp_path / name)):
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                read(source)
    with pytest.raises(ValueError, match="^it is empty [(]0 bytes[)]$"):
        read(b"")
    with pytest.raises(ValueError, match=f"^the bytes are not an image in a format that is read here: {READ}$"):
        read(b"text")
    gc.collect()


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n9 9 moveto showpage\n"


def in_format(format: str) -> bytes:
    return POSTSCRIPT if format == "EPS" else encoded(Image.new("RGB", (32, 32), "red"), format)


@pytest.mark.parametrize("format", ["EPS", "ICO", "TGA", "PCX", "SGI", "DDS", "ICNS"])
def test_formats_that_are_not_on_the_list_are_not_decoded(tmp_path, monkeypatch, format):
    """Whatever a file is called, at every door: as a path, as bytes, and where the caller has opened it."""
    started = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *args, **options: started.append(args))
    path = tmp_path / "picture.jpg"
    path.write_bytes(in_format(format))
    for source in (path, str(path), path.read_bytes()):
        for read in (to_rgb, file_format, as_stored):
            with pytest.raises(ValueError, match="not an image in a format that is read here: AVIF, BMP"):
                read(source)
    with (
        Image.open(path) as opened,
        pytest.raises(ValueError, match=f"an image of the format {format}; expected one of AVIF"),
    ):
        to_rgb(opened)
    with pytest.raises(ValueError, match="not an image in a format that is read here"):
        open_image({"path": "picture.jpg", "bytes": path.read_bytes()})
    with pytest.raises(ValueError, match="not an image in a format that is read here"):
        as_mask(path)
    assert read_pictures([path], progress=False).problems[0].detail.startswith("the bytes are not an image in a format")
    assert not started


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"hevc"])
def test_a_heic_file_is_named_with_what_to_do(tmp_path, brand):
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + bytes(100))
    Image.new("RGB", (8, 8)).save(tmp_path / "IMG_0002.jpg")
    for source in (path, path.read_bytes()):
        with pytest.raises(ValueError, match=r"a HEIC picture.*convert it to JPEG or PNG, or install pillow-heif"):
            to_rgb(source)
    found = read_pictures(image_files(tmp_path), root=tmp_path, progress=False)
    assert [problem.id for problem in found.problems] == ["IMG_0001.HEIC"]
    assert "convert it to JPEG or PNG" in found.problems[0].detail


def test_every_file_that_a_download_names_is_found_in_its_folder(tmp_path):
    for number, endings in enumerate(FORMATS.values()):
        (tmp_path / f"{number}{endings[0]}").touch()
    assert len(image_files(tmp_path)) == len(FORMATS)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_the_format_is_in_the_bytes(picture, tmp_path, format):
    path = tmp_path / "picture.xyz"
    path.write_bytes(encoded(picture, format))
    assert file_format(path) == file_format(str(path)) == file_format(path.read_bytes()) == format


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 2)), "an array of shape [4, 4, 2]; expected height x width x 3, or height x width"),
        (np.zeros((0, 4, 3)), "an array of shape [0, 4, 3]: it is empty"),
        (np.full((2, 2), 1.5), "floats have to lie between 0 and 1, not 1.5 and 1.5"),
        (np.full((2, 2), np.nan), "floats have to lie between 0 and 1, not nan and nan"),
        (np.full((2, 2), 70_000), "whole numbers have to lie between 0 and 255 or 65,535, not 70,000 and 70,000"),
        (np.full((2, 2), -1), "whole numbers have to lie between 0 and 255 or 65,535, not -1 and -1"),
        (np.full((2, 2), True), "an array of bool; expected uint8, uint16, or floats from 0 to 1"),
        (np.full((2, 2), 1j), "an array of complex128; expected uint8, uint16, or floats from 0 to 1"),
    ],
)
def test_arrays_that_are_no_pictures(array, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        to_rgb(array)


def test_the_digest_is_of_the_pixels(picture):
    expected = digest(picture)
    assert re.fullmatch("[0-9a-f]{32}", expected)
    for format in ("PNG", "BMP", "TIFF"):
        assert digest(to_rgb(encoded(picture, format))) == expected, format
    changed = picture.copy()
    red, green, blue = np.asarray(picture)[3, 2].tolist()
    changed.putpixel((2, 3), (red, green, blue ^ 1))
    assert digest(changed) != expected
    transposed = Image.frombytes("RGB", picture.size[::-1], picture.tobytes())
    assert transposed.tobytes() == picture.tobytes()
    assert digest(transposed) != expected


def test_a_picture_is_no_path(tmp_path):
    """Reading closes what it opens: the file can be replaced, and the picture stays."""
    path = Path(tmp_path / "picture.png")
    Image.new("RGB", (2, 2), "red").save(path)
    read = to_rgb(path)
    path.unlink()
    gc.collect()
    assert read.getpixel((0, 0)) == (255, 0, 0)
