"""Labels of faces by emotion, in the layouts of the common collections of facial expressions.

- A table with the columns `emotion` and `pixels`: FER-2013 as it was published, `fer2013.csv`.
- RAF-DB's label file, `list_patition_label.txt` (`train_00001.jpg 5`), or tables of the same names and numbers, with
  the pictures anywhere beside it.
- Folders named by emotion, at any depth, with the pictures in them or in folders below; in any common spelling, with a
  number or not (`happy`, `Happiness`, `3_happy`).
- Folders that are numbered. Collections number emotions differently, so `numbering` has to say which one it is.
"""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from notice_lens.errors import one_of
from notice_lens.pairs.builders.labels import Label
from notice_lens.pairs.image_folder import contents, ending, relative_name, walk
from notice_lens.pairs.io.records import as_png
from notice_lens.pairs.problems import LABELS, NO_IMAGE, ROW, Problem

GROUP, NOUN = "emotion", "person"
SPELLINGS = {
    "angry": ("angry", "anger"),
    "disgust": ("disgust", "disgusted"),
    "fear": ("fear", "fearful", "afraid", "scared"),
    "happy": ("happy", "happiness", "joy"),
    "neutral": ("neutral", "neutrality"),
    "sad": ("sad", "sadness"),
    "surprise": ("surprise", "surprised", "suprise"),
}
"""The names of an emotion's folders, by the emotion as questions name it."""

EMOTION_OF = {spelling: emotion for emotion, spellings in SPELLINGS.items() for spelling in spellings}
NUMBERINGS: dict[str, dict[int, str]] = {
    "raf-db": dict(enumerate(("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral"), start=1)),
    "fer2013": dict(enumerate(("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"))),
    "affectnet": dict(enumerate(("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry"))),
}
"""By collection, the emotion of each number."""

UNLABELLED, OTHER_VERSION = "picture without a label", "original beside an aligned face"
FER_COLUMNS = ("emotion", "pixels")
_RAF_LINE = re.compile(r"\s*((?:train|test)_\d+)(?:_aligned)?(?:\.\w+)?\s*[\s,;]\s*(\S+?)\s*")


@dataclass
class Faces:
    """Labelled faces, and the files that were not used.

    Attributes:
        labels: Which pictures show which emotion.
        contents: The bytes of pictures that are rows of a table.
        problems: Why rows of a table or of a label file gave none.
        options: What was left out, for the manifest.
    """

    labels: list[Label]
    contents: Mapping[Path, bytes] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)


def find_faces(root: Path, numbering: str | Mapping[int, str] | None) -> Faces:
    """Find the labelled faces of a folder, or of a table.

    Args:
        root: The folder, or FER-2013's table itself.
        numbering: The emotions of numbered folders: a name in `NUMBERINGS`, or the emotion of each number.

    Raises:
        ValueError: No faces are found; the message says what was found and what was expected.
    """
    numbers = _numbers(numbering)
    if root.is_file():
        return _from_tables([root], root)
    skipped: Counter[str] = Counter()
    folders = dict(walk(root, skipped))
    tables = [path for path in _texts(folders) if path.suffix.lower() == ".csv" and is_fer_table(path)]
    lines = [line for path in _texts(folders) if "label" in path.name.lower() for line in _raf_lines(path)]
    if tables:
        found = _from_tables(tables, root)
        skipped[UNLABELLED] += sum(map(len, folders.values()))
    elif lines:
        found = _from_label_files(lines, folders, root, skipped)
    else:
        found = _from_folders(folders, root, numbers)
        if not found.labels:
            raise ValueError(_no_faces(root, folders))
    found.options["skipped_files"] = {kind: count for kind, count in sorted(skipped.items()) if count}
    return found


def _numbers(numbering: Any) -> Mapping[int, str]:
    """Return the emotion of each number. Raises ValueError if `numbering` is invalid."""
    if numbering is None:
        return {}
    if isinstance(numbering, str) and numbering in NUMBERINGS:
        return NUMBERINGS[numbering]
    if not isinstance(numbering, Mapping):
        raise ValueError(one_of("numbering", numbering, NUMBERINGS))
    for number, emotion in numbering.items():
        if not isinstance(number, int) or emotion not in SPELLINGS:
            raise ValueError(
                f"numbering has {number!r}: {emotion!r}; expected whole numbers, each with "
                f"one of {', '.join(SPELLINGS)}"
            )
    return numbering


def _texts(folders: Iterable[Path]) -> list[Path]:
    """Return the text files and tables of folders."""
    return sorted(path for folder in folders for path in folder.iterdir() if ending(path.name) in (".csv", ".txt"))


# Tables of pixels


def is_fer_table(path: Path) -> bool:
    """Return whether a file is a table with FER-2013's columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as opened:
            header = opened.readline(1000)
    except (OSError, UnicodeDecodeError):
        return False
    return {column.strip().strip('"').lower() for column in header.split(",")} >= set(FER_COLUMNS)


def _from_tables(tables: Iterable[Path], root: Path) -> Faces:
    """Return the faces of FER-2013's tables, each named after its part (Training, PublicTest, ...) and its line."""
    files: dict[str, list[Path]] = defaultdict(list)
    found = Faces([])
    images: dict[Path, bytes] = {}
    for table in tables:
        for line, row in _fer_rows(table):
            try:
                emotion, png = _fer_face(row)
            except ValueError as error:
                found.problems.append(Problem(f"{table.name}, line {line}", ROW, str(error)))
                continue
            part = row.get("usage") or ""
            path = table / (part if part.isalnum() else "") / str(line)
            images[path] = png
            files[emotion].append(path)
    found.labels = [Label(emotion, files[emotion], GROUP, NOUN, emotion) for emotion in sorted(files)]
    found.contents = images
    return found


def _fer_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line and the cells of each row; the table is never in memory as a whole."""
    usual = csv.field_size_limit(2**31 - 1)
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as opened:
            reader = csv.reader(opened)
            header = [column.strip().lower() for column in next(reader)]
            for cells in reader:
                if cells:
                    yield reader.line_num, dict(zip(header, (cell.strip() for cell in cells), strict=False))
    finally:
        csv.field_size_limit(usual)


def _fer_face(row: Mapping[str, str]) -> tuple[str, bytes]:
    """Return the emotion of a row, and its face as a PNG. Raises ValueError if a row has no emotion."""
    number = row.get("emotion", "")
    emotion = NUMBERINGS["fer2013"].get(int(number)) if number.isascii() and number.isdigit() else None
    if emotion is None:
        raise ValueError(f"emotion is {number!r}; expected 0 to 6")
    cells = row.get("pixels", "").split()
    side = int(len(cells) ** 0.5)
    try:
        pixels = bytes(map(int, cells))
    except ValueError as error:
        raise ValueError(f"pixels are numbers from 0 to 255; {error}") from None
    if not side or side * side != len(pixels):
        raise ValueError(f"{len(pixels)} pixels; expected a square of them, such as 48 x 48 = 2304")
    return emotion, as_png(Image.frombytes("L", (side, side), pixels))


# Label files


def _raf_lines(path: Path) -> list[tuple[str, str]]:
    """Return the names, without `_aligned` and endings, and the labels of a file; none where it is another file."""
    with path.open(encoding="utf-8-sig", errors="replace") as opened:
        return [(match[1], match[2]) for line in opened if (match := _RAF_LINE.fullmatch(line[:200]))]


def _from_label_files(
    lines: Iterable[tuple[str, str]], folders: Mapping[Path, list[Path]], root: Path, skipped: Counter[str]
) -> Faces:
    """Return the faces that RAF-DB's label file names, cut out and aligned ones rather than the originals."""
    found = Faces([])
    numbers: dict[str, set[str]] = defaultdict(set)
    for name, number in lines:
        numbers[name].add(number)
    versions: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(path for images in folders.values() for path in images):
        versions[path.stem.removesuffix("_aligned")].append(path)
    skipped[UNLABELLED] += sum(len(paths) for name, paths in versions.items() if name not in numbers)
    files: dict[str, list[Path]] = defaultdict(list)
    emotions = {str(number): emotion for number, emotion in NUMBERINGS["raf-db"].items()}
    for name, given in numbers.items():
        emotion = emotions.get(*given) if len(given) == 1 else None
        paths = sorted(versions.get(name, ()), key=lambda path: not path.stem.endswith("_aligned"))
        if emotion is None:
            detail = f"labelled {' and '.join(sorted(given))}; expected one number from 1 to 7"
            found.problems.append(Problem(name, LABELS, detail))
        elif not paths:
            found.problems.append(Problem(name, NO_IMAGE, f"no image {name}.* or {name}_aligned.* in {root.name}"))
        else:
            files[emotion].append(paths[0])
            skipped[OTHER_VERSION] += len(paths) - 1
    found.labels = [Label(emotion, files[emotion], GROUP, NOUN, emotion) for emotion in sorted(files)]
    return found


# Folders


def _from_folders(folders: Mapping[Path, list[Path]], root: Path, numbers: Mapping[int, str]) -> Faces:
    """Return the faces in folders that are named by emotion, or numbered, and in the folders below these."""
    files: dict[Path, list[Path]] = defaultdict(list)
    unlabelled: dict[str, int] = {}
    for folder, images in folders.items():
        below_root = [folder, *folder.parents][: len(folder.relative_to(root).parts)]
        named = next((path for path in below_root if _emotion(path.name, numbers)), None)
        if named is not None:
            files[named] += images
        elif images:
            unlabelled[relative_name(folder, root)] = len(images)
    labels = [
        Label(relative_name(folder, root), images, GROUP, NOUN, _emotion(folder.name, numbers))
        for folder, images in files.items()
    ]
    empty = sum(not label.files for label in labels)
    return Faces(labels, options={"empty_folders": empty, "folders_of_no_emotion": dict(sorted(unlabelled.items()))})


def _emotion(name: str, numbers: Mapping[int, str]) -> str:
    """Return the emotion that a folder's name says; "" where it says none."""
    if name.isascii() and name.isdigit():
        return numbers.get(int(name), "") if len(name) < 4 else ""
    return EMOTION_OF.get(re.sub(r"[\W\d_]+", "", name.lower()), "")


def _no_faces(root: Path, folders: Iterable[Path]) -> str:
    """Say that no faces were found, and the way out where folders are numbered."""
    numbered = sorted({path.name for path in folders if path.name.isascii() and path.name.isdigit()})
    if numbered:
        return (
            f"{str(root)!r} has numbered folders ({', '.join(numbered[:8])}), which collections number differently: "
            f"expected numbering={' or '.join(map(repr, NUMBERINGS))}, or the emotion of each number, such as "
            "{1: 'happy', 2: 'sad'}; or RAF-DB's label file beside them"
        )
    return (
        f"{str(root)!r} holds no faces by emotion: expected folders named {', '.join(SPELLINGS)}, in it or in its "
        "'train', 'test' or 'validation', FER-2013's table (fer2013.csv), or RAF-DB's label file "
        f"(list_patition_label.txt) beside its pictures; it holds {contents(root)}"
    )
