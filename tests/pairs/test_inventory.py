import os
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from notice_lens.images import digest
from notice_lens.pairs.image_folder import NO_ACCESS, NO_ENDING, checksum, distinct, image_files, read_pictures, walk
from notice_lens.pairs.problems import DUPLICATE, IMAGE


def write(path: Path, seed: int = 0, size: tuple[int, int] = (12, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def read(paths, **options):
    return read_pictures(paths, progress=False, **options)


def test_records(tmp_path: Path):
    paths = [write(tmp_path / f"{i}.png", i, (12 + i, 8)) for i in range(5)]
    found = read([*reversed(paths), paths[0]])
    assert list(found.pictures) == paths[::-1]
    assert found.problems == ()
    for path, picture in found.pictures.items():
        rgb = Image.open(path)
        assert (picture.path, picture.digest) == (path, digest(rgb))
        assert (picture.width, picture.height) == rgb.size


def test_what_cannot_be_read_is_named_and_the_rest_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    good = write(tmp_path / "good.jpg")
    cut = write(tmp_path / "cut.jpg", 1, (64, 64))
    cut.write_bytes(cut.read_bytes()[:-500])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    bomb = write(tmp_path / "bomb.png", 2, (100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    found = read([*image_files(tmp_path), tmp_path / "none.jpg"], root=tmp_path)
    assert list(found.pictures) == [good]
    assert {problem.reason for problem in found.problems} == {IMAGE}
    detail = {problem.id: problem.detail for problem in found.problems}
    assert set(detail) == {cut.name, bomb.name, "empty.jpg", "folder.jpg", "page.jpg", "none.jpg"}
    assert "truncated" in detail["cut.jpg"]
    assert detail["empty.jpg"] == "the file is empty (0 bytes)"
    assert detail["folder.jpg"] == "it is a folder, not an image file"
    assert "not an image in a format that is read here" in detail["page.jpg"]
    assert "more than 5,000 pixels" in detail["bomb.png"]
    assert detail["none.jpg"] == "no such file"


def test_threads_leave_the_filters_of_warnings_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Twice the limit raises by itself; between one and two it is a warning, which needs the filter in every thread.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    paths = [write(tmp_path / f"{i}.png", i, (15, 10) if i % 2 else (5, 5)) for i in range(200)]
    before = list(warnings.filters)
    found = read(paths, workers=8)
    assert warnings.filters == before
    assert len(found.problems) == len(found.pictures) == 100


def test_oddities_of_metadata_do_not_cost_a_picture(tmp_path: Path):
    path = write(tmp_path / "odd.jpg")
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"
    Image.open(path).save(path, exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(read([path]).pictures) == [path]


def test_decoder_that_trips_is_a_problem_of_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def trip(image):
        raise EOFError

    monkeypatch.setattr("notice_lens.pairs.image_folder.digest", trip)
    found = read([write(tmp_path / "a.png")])
    assert [problem.detail for problem in found.problems] == ["EOFError"]


def test_progress_is_shown_where_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture):
    path = write(tmp_path / "a.png")
    read([path])
    assert capsys.readouterr().err == ""
    read_pictures([path])
    assert "reading pictures" in capsys.readouterr().err


def test_image_files_by_name(tmp_path: Path):
    for name in ("b.JPG", "a.jpeg", "c.Png", ".hidden.jpg", "._a.jpeg", "notes.txt", "Thumbs.db", "plain"):
        (tmp_path / name).touch()
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "d.gif").mkdir()
    assert [path.name for path in image_files(tmp_path)] == ["a.jpeg", "b.JPG", "c.Png", "d.gif"]


def test_folder_that_holds_no_images(tmp_path: Path):
    with pytest.raises(ValueError, match=r"holds no images: expected files that end in .*\.jpg.*; it holds nothing"):
        image_files(tmp_path)
    for i in range(8):
        (tmp_path / f"{i}.txt").touch()
    (tmp_path / "0").mkdir()
    with pytest.raises(ValueError, match=r"it holds '0.txt', '0/', '1.txt', '2.txt', '3.txt' and 4 more"):
        image_files(str(tmp_path))


def test_folder_that_is_none(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no folder .*/none': expected one that holds images"):
        image_files(tmp_path / "none")
    (tmp_path / "a.zip").touch()
    with pytest.raises(NotADirectoryError, match=r"zip' is a file; expected a folder .*unpack"):
        image_files(tmp_path / "a.zip")


def test_same_content_counts_once(tmp_path: Path):
    paths = [write(tmp_path / f"{name}.png", seed) for name, seed in (("a", 0), ("b", 1), ("c", 0), ("d", 0))]
    kept, problems = distinct(read(paths).pictures.values(), tmp_path)
    assert [picture.path for picture in kept] == paths[:2]
    assert [(problem.id, problem.reason) for problem in problems] == [("c.png", DUPLICATE), ("d.png", DUPLICATE)]
    assert problems[0].detail == "the same picture as a.png"


def test_checksum_is_of_names_and_contents(tmp_path: Path):
    def folder(name: str, **seeds: int) -> str:
        paths = [write(tmp_path / name / f"{stem}.png", seed) for stem, seed in seeds.items()]
        return checksum(tmp_path / name, read(paths).pictures.values())

    same = folder("one", a=0, b=1)
    assert len(same) == 64
    assert folder("two", b=1, a=0) == same
    assert len({same, folder("three", a=1, b=0), folder("four", a=0), folder("five", a=0, c=1)}) == 4


@pytest.mark.skipif(os.sep != "/", reason="names that are no text exist on POSIX only")
def test_names_that_are_no_text(tmp_path: Path):
    os.rename(write(tmp_path / "a.png"), os.fsencode(tmp_path) + b"/\xff.png")
    found = read(image_files(tmp_path))
    assert len(checksum(tmp_path, found.pictures.values())) == 64


def test_walk_counts_what_it_skips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every file is an image, or counted; what systems leave behind, and hidden files, are neither."""
    write(tmp_path / "b" / "plain.png").rename(tmp_path / "b" / "plain")
    write(tmp_path / "a" / "12.0.png").rename(tmp_path / "a" / "12.0")
    write(tmp_path / "a" / "x.JPG")
    for name in ("a/raw.CR2", "b/raw.cr2", "b/notes", "b/3.14", "b/pic.jpg~", ".hidden/x.png", "b/.DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "locked").mkdir()
    scan = os.scandir

    def no_entry(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", no_entry)
    skipped: Counter[str] = Counter()
    found = {path.name: [image.name for image in images] for path, images in walk(tmp_path, skipped)}
    assert found == {tmp_path.name: [], "a": ["12.0", "x.JPG"], "b": ["plain"]}
    assert skipped == {".cr2": 2, NO_ENDING: 3, ".jpg~": 1, NO_ACCESS: 1}


def test_walk_enters_no_folder_twice(tmp_path: Path):
    write(tmp_path / "a" / "x.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "c").symlink_to("c")
    assert [path.name for path, images in walk(tmp_path, Counter()) if images] == ["a"]


def test_confined_pictures(tmp_path: Path):
    outside = write(tmp_path / "outside.png")
    root = write(tmp_path / "in" / "own.png", 1).parent
    (root / "link.png").symlink_to(outside)
    (root / "beside.png").symlink_to("own.png")
    paths = image_files(root)
    assert list(read(paths, root=root).pictures) == paths
    found = read(paths, root=root, confine=True)
    assert [path.name for path in found.pictures] == ["beside.png", "own.png"]
    assert found.problems[0].detail == "'link.png' is a link that leads out of 'in', and confine=True follows none"
