"""Pictures labelled by their folders or by a file next to them, read once; only trustworthy labels are kept."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from notice_lens.pairs.builders.pairing import GroupAndNoun, Labelled
from notice_lens.pairs.image_folder import checksum, distinct, read_pictures, relative_name
from notice_lens.pairs.near_synonyms import NearSynonyms
from notice_lens.pairs.problems import LABELS, UNKNOWN_WORD, Problem
from notice_lens.pairs.tokens import has_unknown


@dataclass(frozen=True)
class Label:
    """A label of some pictures, such as the name of their folder.

    Attributes:
        folder: The folder, relative to the given one, or another source of the label.
        files: The pictures.
        group: The attribute that the value belongs to.
        noun: The noun for the thing in the picture.
        value: How it is; the answer.
    """

    folder: str
    files: Sequence[Path]
    group: str
    noun: str
    value: str


@dataclass(frozen=True)
class Labels:
    """The labelled pictures that were read.

    Attributes:
        pictures: Those that can be used, each content once, sorted by name.
        checksum: SHA-256 of all that can be read.
        problems: Why the others cannot.
    """

    pictures: list[Labelled]
    checksum: str
    problems: list[Problem]


def read_labels(
    labels: Iterable[Label],
    root: Path,
    tokenizer: Any,
    near: NearSynonyms,
    *,
    contents: Mapping[Path, bytes],
    confine: bool,
    progress: bool,
) -> Labels:
    """Read the pictures of labels.

    Args:
        labels: Which pictures show what.
        root: The folder above them all.
        tokenizer: The model's: a folder with a word that it does not know is not used.
        near: Labels that mean nearly the same do not contradict each other.
        contents: The bytes of pictures that are not files themselves.
        confine: Whether links out of `root` count as unreadable.
        progress: Whether to show a progress bar.
    """
    problems: list[Problem] = []
    of = {path: label for label in labels if _known(label, tokenizer, problems) for path in label.files}
    inventory = read_pictures(of, root=root, contents=contents, confine=confine, progress=progress)
    problems += inventory.problems
    labelled = {
        path: Labelled(picture, relative_name(path, root), of[path].group, of[path].noun, of[path].value)
        for path, picture in inventory.pictures.items()
    }
    usable, contradictions = without_contradictions(labelled.values(), near)
    kept, again = distinct([picture.picture for picture in usable], root)
    return Labels(
        [labelled[picture.path] for picture in kept],
        checksum(root, inventory.pictures.values()),
        [*problems, *contradictions, *again],
    )


def _known(label: Label, tokenizer: Any, problems: list[Problem]) -> bool:
    """Return whether the vocabulary has the label's words; if not, that is a problem of the whole folder."""
    unknown = [word for word in (label.noun, label.value) if has_unknown(tokenizer, word)]
    if unknown:
        detail = f"the tokenizer knows {unknown[0]!r} only as [UNK]; {len(label.files)} pictures are not used"
        problems.append(Problem(label.folder, UNKNOWN_WORD, detail))
    return not unknown


def without_contradictions(pictures: Iterable[Labelled], near: NearSynonyms) -> tuple[list[Labelled], list[Problem]]:
    """Return the pictures by name, without copies of one picture that are labelled with two answers to one question."""
    same: dict[tuple[str, GroupAndNoun], list[Labelled]] = defaultdict(list)
    for picture in sorted(pictures, key=lambda picture: picture.name):
        same[picture.picture.digest, picture.place].append(picture)
    kept: list[Labelled] = []
    problems: list[Problem] = []
    for copies in same.values():
        values = sorted({picture.value for picture in copies})
        if any(not near.near(a, b) for a, b in combinations(values, 2)):
            names = ", ".join(picture.name for picture in copies)
            detail = f"one picture is labelled {' and '.join(values)}: {names}"
            problems += [Problem(picture.name, LABELS, detail) for picture in copies]
        else:
            kept += copies
    return sorted(kept, key=lambda picture: picture.name), problems
