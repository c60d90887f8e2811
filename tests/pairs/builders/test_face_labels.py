"""Faces in the layouts in which their collections come, from raw files to pairs that were saved and loaded."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from notice_lens.pairs import MinimalPairs
from notice_lens.pairs.builders.face_labels import NUMBERINGS, OTHER_VERSION, UNLABELLED
from notice_lens.pairs.builders.facial_expressions import build_facial_expressions, facial_expressions
from notice_lens.pairs.problems import IMAGE, LABELS, NO_IMAGE, ROW, PairsError
from picture_folders import folders, picture

RAF = NUMBERINGS["raf-db"]
FER = NUMBERINGS["fer2013"]


def saved(folder: Path, bert, out: Path, **options) -> MinimalPairs:
    facial_expressions(folder, bert, progress=False, **options).save(out)
    return MinimalPairs.load(out)


def answers(pairs: MinimalPairs) -> Counter:
    return Counter([*pairs["correct_answer"], *pairs["incorrect_answer"]])


def accounted(pairs: MinimalPairs, ending: str) -> int:
    """Return how many files of an ending were skipped, or dropped as unreadable."""
    skipped = pairs.manifest.options["skipped_files"].get(ending, 0)
    return skipped + sum(name.lower().endswith(ending) for name in pairs.dropped["id"])


# RAF-DB


def raf_db(root: Path, numbers=range(1, 8), each: int = 2) -> Path:
    """RAF-DB's basic set: a label file, originals, and faces that are cut out and aligned."""
    lines = []
    for number in numbers:
        for count in range(each):
            name = f"{'test' if count else 'train'}_{number * 100 + count:05d}"
            lines.append(f"{name}.jpg {number}")
            picture(root / "Image" / "original" / f"{name}.jpg")
            picture(root / "Image" / "aligned" / f"{name}_aligned.jpg")
    (root / "EmoLabel").mkdir()
    (root / "EmoLabel" / "list_patition_label.txt").write_text("\r\n".join(lines) + "\r\n")
    return root


def test_raf_db_s_label_file(bert, tmp_path: Path):
    pairs = saved(raf_db(tmp_path / "basic"), bert, tmp_path / "saved")
    assert answers(pairs) == dict.fromkeys(RAF.values(), 2)
    for pair in pairs:
        for name, answer in zip(pair.id.split("|"), (pair.correct_answer, pair.incorrect_answer), strict=True):
            folder, file = name.rsplit("/", 1)
            assert folder == "Image/aligned"
            assert RAF[int(file.split("_")[1]) // 100] == answer
    assert pairs.manifest.options["skipped_files"] == {OTHER_VERSION: 14, ".txt": 1}
    assert f"skipped files: .txt 1, {OTHER_VERSION} 14" in repr(pairs)


def test_raf_db_as_numbered_folders_beside_its_tables(bert, tmp_path: Path):
    """As it is passed on: DATASET/train/5/train_00001_aligned.jpg, with train_labels.csv and test_labels.csv."""
    for part in ("train", "test"):
        rows = [f"{part}_{number:05d}_aligned.jpg,{number}" for number in RAF]
        (tmp_path / f"{part}_labels.csv").write_text("\n".join(["image,label", *rows]))
        for row in rows:
            name, number = row.split(",")
            picture(tmp_path / "DATASET" / part / number / name)
    pairs = saved(tmp_path, bert, tmp_path / "saved")
    assert answers(pairs) == dict.fromkeys(RAF.values(), 2)


def test_lines_of_a_label_file_that_label_nothing(bert, tmp_path: Path):
    root = raf_db(tmp_path / "basic")
    labels = root / "EmoLabel" / "list_patition_label.txt"
    labels.write_text(labels.read_text() + "train_99999.jpg 3\ntrain_00100.jpg 4\ntest_00201.jpg happy\n")
    picture(root / "Image" / "aligned" / "train_77777_aligned.jpg")
    built = build_facial_expressions(root, bert, progress=False)
    assert {problem.id: problem.reason for problem in built.problems} == {
        "train_99999": NO_IMAGE, "train_00100": LABELS, "test_00201": LABELS,
    }  # fmt: skip
    assert built.options["skipped_files"][UNLABELLED] == 1
    assert built.options["pictures"] == 12


# FER-2013


def fer_row(number: int, emotion, side: int = 48) -> list[str]:
    pixels = np.random.default_rng(number).integers(0, 256, side * side)
    return [str(emotion), " ".join(map(str, pixels)), ("Training", "PublicTest")[number % 2]]


def fer_table(path: Path, rows, header=("emotion", "pixels", "Usage")) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as opened:
        csv.writer(opened).writerows([header, *rows])
    return path


@pytest.mark.parametrize("header", [("emotion", "pixels", "Usage"), ("emotion", " pixels", " Usage")])
@pytest.mark.parametrize("by", ["table", "folder"])
def test_fer2013(bert, tmp_path: Path, header, by: str):
    rows = [fer_row(number, number % 7) for number in range(28)]
    table = fer_table(tmp_path / "fer" / "fer2013.csv", rows, header)
    pairs = saved(table if by == "table" else table.parent, bert, tmp_path / "saved")
    assert answers(pairs) == dict.fromkeys(FER.values(), 4)
    pair = pairs[0]
    part, line = pair.id.split("|")[0].rsplit("/", 2)[-2:]
    emotion, pixels, usage = rows[int(line) - 2]
    assert (part, pair.correct_answer) == (usage, FER[int(emotion)])
    gray = np.array(pair.clean_image)
    assert gray.shape == (48, 48, 3)
    np.testing.assert_array_equal(gray[..., 1].ravel(), np.array(pixels.split(), int))
    assert pairs.manifest.source == ("fer2013.csv" if by == "table" else "fer")


@pytest.mark.parametrize(
    ("row", "detail"),
    [
        (["7", "1 2 3 4", "x"], "emotion is '7'; expected 0 to 6"),
        (["happy", "1 2 3 4", "x"], "emotion is 'happy'"),
        (["", "1 2 3 4", "x"], "emotion is ''"),
        (["3", "1 2 3", "x"], "3 pixels; expected a square of them"),
        (["3", "", "x"], "0 pixels"),
        (["3", "1 2 3 256", "x"], "pixels are numbers from 0 to 255"),
        (["3", "1 2 3 -4", "x"], "pixels are numbers from 0 to 255"),
        (["3", "1 2 3 x", "x"], "invalid literal"),
        (["3", "1 2 3 99999999999999999999", "x"], "pixels are numbers"),
        (["3"], "0 pixels"),
    ],
)
def test_one_bad_row_of_fer2013_costs_no_other(bert, tmp_path: Path, row, detail: str):
    rows = [fer_row(0, 3, 4), row, fer_row(1, 4, 4), fer_row(2, 5, 4)]
    built = build_facial_expressions(fer_table(tmp_path / "fer2013.csv", rows), bert, progress=False)
    assert [(problem.id, problem.reason) for problem in built.problems] == [("fer2013.csv, line 3", ROW)]
    assert detail in built.problems[0].detail
    assert (built.options["pictures"], len(built.rows)) == (3, 1)


def test_fer2013_without_a_good_row(bert, tmp_path: Path):
    with pytest.raises(PairsError, match="row unreadable: 2"):
        facial_expressions(fer_table(tmp_path / "fer2013.csv", [["9", "", ""]] * 2), bert, progress=False)
    with pytest.raises(NotADirectoryError, match="is a file; expected a folder"):
        facial_expressions(fer_table(tmp_path / "a.csv", [], ("emotion", "image")), bert, progress=False)


# Folders


@pytest.mark.parametrize("name", NUMBERINGS)
def test_numbered_folders(bert, tmp_path: Path, name: str):
    numbers = NUMBERINGS[name]
    folders(tmp_path / "train", **{str(number): 2 for number in numbers}, **{"8": 1})
    with pytest.raises(ValueError, match=r"numbered folders \(.*\), which collections number differently: .*'raf-db'"):
        facial_expressions(tmp_path, bert, progress=False)
    pairs = saved(tmp_path, bert, tmp_path / "saved", numbering=name)
    assert answers(pairs) == dict.fromkeys(numbers.values(), 2)
    for pair in pairs:
        folder = int(pair.id.split("/")[1])
        assert numbers[folder] == pair.correct_answer
    assert pairs.manifest.options["folders_of_no_emotion"] == {"train/8": 1}


def test_a_numbering_of_one_s_own(bert, tmp_path: Path):
    folders(tmp_path, **{"10": 2, "20": 2})
    numbering = {10: "happy", 20: "sad"}
    pairs = saved(tmp_path, bert, tmp_path / "saved", numbering=numbering)
    assert answers(pairs) == {"happy": 2, "sad": 2}
    for wrong, message in (("raf", "did you mean 'raf-db'"), ({10: "joyful"}, "10: 'joyful'; expected whole numbers")):
        with pytest.raises(ValueError, match=message):
            build_facial_expressions(tmp_path, bert, numbering=wrong, progress=False)


def test_nested_folders_and_spellings_with_numbers(bert, tmp_path: Path):
    """Subjects below emotions, emotions below subjects, deep down, and numbered names."""
    root = tmp_path / "faces"
    for place in ("a/b/c/d/happy", "happy/s1/t1", "s2/t2/sad", "0_angry/s3", "4 - Fear", "Surprised (2)"):
        for number in range(2):
            picture(root / place / f"{number}.png")
    picture(root / "notes" / "face.png")
    (root / "happy" / "s1" / "one.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (root / "readme.txt").touch()
    (root / "happy" / "s1" / "video.mp4").touch()
    pairs = saved(root, bert, tmp_path / "saved")
    assert pairs.manifest.options["pictures"] == 12
    assert answers(pairs).keys() <= {"happy", "sad", "angry", "fear", "surprise"}
    assert pairs.manifest.options["folders_of_no_emotion"] == {"notes": 1}
    assert [accounted(pairs, ending) for ending in (".txt", ".mp4", ".heic")] == [1, 1, 1]


def test_links_in_a_circle_come_to_an_end(bert, tmp_path: Path):
    root = folders(tmp_path / "faces", happy=2, sad=2)
    (root / "happy" / "again").symlink_to(root)
    (root / "sad" / "loop").symlink_to("loop")
    (root / "sad" / "loop.png").symlink_to("loop.png")
    pairs = saved(root, bert, tmp_path / "saved")
    assert len(pairs) == 2
    assert pairs.manifest.dropped == {IMAGE: 1}


def test_names_that_are_no_text(bert, tmp_path: Path):
    """As from archives in an old encoding; names go into ids, problems, the manifest, and on disk."""
    root = folders(tmp_path / "faces", happy=2, sad=2)
    (root / "happy" / "0.png").rename(root / "happy" / "\udce9t\udce9.png")
    (root / "sad" / "\udcff.png").write_bytes(b"no picture")
    pairs = saved(root, bert, tmp_path / "saved")
    assert len(pairs) == 2
    assert any("\\udce9t\\udce9.png" in name for name in pairs["id"])
    assert pairs.dropped["id"] == ["sad/\\udcff.png"]
    assert all(pair.clean_image.size == (6, 6) for pair in pairs)


def test_linked_faces_unless_confined(bert, tmp_path: Path):
    root, disk = folders(tmp_path / "faces", happy=2, sad=2), tmp_path / "disk"
    (root / "sad").rename(disk)
    (root / "sad").symlink_to(disk, target_is_directory=True)
    assert len(facial_expressions(root, bert, progress=False)) == 2
    with pytest.raises(PairsError, match="sad/0.png: .* is a link that leads out of 'faces'"):
        facial_expressions(root, bert, confine=True, progress=False)
