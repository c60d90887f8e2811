"""Pairs from pictures of faces in folders named by emotion, as the common collections of facial expressions come."""

from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from notice_lens.pairs.builders.folder_pairs import Task, build_pairs, check_options
from notice_lens.pairs.builders.labels import Label
from notice_lens.pairs.built import Built
from notice_lens.pairs.inventory import contents, existing_folder, images_in, is_content, relative_name
from notice_lens.pairs.replacement import Pool
from notice_lens.pairs.tokens import as_tokenizer

if TYPE_CHECKING:
    from notice_lens.pairs.minimal_pairs import MinimalPairs

SPELLINGS = {
    "angry": ("angry", "anger"),
    "disgust": ("disgust", "disgusted"),
    "fear": ("fear", "fearful", "afraid", "scared"),
    "happy": ("happy", "happiness", "joy"),
    "neutral": ("neutral", "neutrality"),
    "sad": ("sad", "sadness"),
    "surprise": ("surprise", "surprised", "suprise"),
}
"""By emotion, as it is asked for, what its folders are called."""

POSITIVE = ("happy", "surprise")
NEGATIVE = ("angry", "disgust", "fear", "sad")
GROUP, NOUN = "emotion", "person"
QUESTION = ("is this", "{noun}", "feeling")
DEPTH = 3
"""How far down folders named by emotion are looked for, for instance in `images/train`."""


def facial_expressions(
    folder: str | PathLike[str],
    tokenizer: Any,
    *,
    n: int | None = None,
    seed: int = 0,
    match: str | None = None,
    progress: bool = True,
) -> "MinimalPairs":
    """Minimal pairs of two faces with two emotions, asked as in "is this person feeling happy or sad?".

    Experimental: it ran on made-up downloads of the published layout alone.

    The pictures show any two people. In the corrupted prompt each emotion makes way for one of the opposite valence:
    happy and surprise for angry, disgust, fear and sad, and the other way round; neutral, which has no opposite, makes
    way for any emotion. None of the clean options comes back. The donor picture shows a third emotion. The donor
    prompt has two emotions that are in neither prompt; of any valence, since hardly any of the opposite one are left.

    Every picture is in one pair at most, as the clean or the corrupted one. Pairs are balanced over pairs of emotions,
    over which of the two is the clean one, and over the order of the options.

    Args:
        folder: Folders named by emotion, in any common spelling (`happy`, `Happiness`), in it or up to two folders
            further down, such as `train` and `test`; all are used, and a pair's id tells which.
        tokenizer: A HookedBLIP, a Hugging Face tokenizer, a hub id or a folder.
        n: How many pairs; fewer where the pictures do not suffice. None makes all that can be made.
        seed: Of everything that is drawn.
        match: "nearest" pairs pictures that are near each other for the model's vision stack; needs a HookedBLIP. None
            takes them as they come.
        progress: Whether to show progress bars.

    Raises:
        FileNotFoundError: There is no such folder.
        NotADirectoryError: It is a file.
        ValueError: It is laid out in another way, an argument is no valid value, or no pair can be made.
        TypeError: The tokenizer is none, or `match="nearest"` without a HookedBLIP.
    """
    return build_facial_expressions(folder, tokenizer, n=n, seed=seed, match=match, progress=progress).pairs()


def build_facial_expressions(
    folder: Any,
    tokenizer: Any,
    *,
    n: Any = None,
    seed: Any = 0,
    match: Any = None,
    progress: bool = True,
) -> Built:
    """The rows of `facial_expressions`, with the same arguments."""
    check_options(n, seed, match, tokenizer)
    root = existing_folder(folder)
    emotion_of = {spelling: emotion for emotion, spellings in SPELLINGS.items() for spelling in spellings}
    found = list(_folders(root, emotion_of, DEPTH))
    labels = [
        Label(relative_name(path, root), images_in(path), GROUP, NOUN, emotion_of[path.name.lower()])
        for path in found
        if path.name.lower() in emotion_of
    ]
    if not labels:
        raise ValueError(
            f"{str(root)!r} holds no faces by emotion: expected folders named {', '.join(SPELLINGS)}, in it or in its "
            f"'train', 'test' or 'validation'; it holds {contents(root)}"
        )
    options = {
        "empty_folders": sum(not label.files for label in labels),
        "folders_of_no_emotion": _beside(found, emotion_of, root),
    }
    task = _task(root, as_tokenizer(tokenizer))
    return build_pairs(task, labels, tokenizer, n=n, seed=seed, match=match, progress=progress, options=options)


def _task(root: Path, tokenizer: Any) -> Task:
    """The question, and which emotions replace which."""
    everything = Pool(tokenizer, SPELLINGS)
    opposite = dict.fromkeys(SPELLINGS, everything)
    opposite |= dict.fromkeys(POSITIVE, Pool(tokenizer, NEGATIVE))
    opposite |= dict.fromkeys(NEGATIVE, Pool(tokenizer, POSITIVE))
    return Task(
        "facial_expressions", root, QUESTION, lambda group, value: opposite[value], lambda group, value: everything
    )


def _folders(folder: Path, emotion_of: dict[str, str], depth: int) -> Iterable[Path]:
    """All folders down to a depth, sorted, without looking into those that are named by an emotion."""
    for path in sorted(folder.iterdir()):
        if is_content(path) and path.is_dir():
            yield path
            if depth > 1 and path.name.lower() not in emotion_of:
                yield from _folders(path, emotion_of, depth - 1)


def _beside(found: Sequence[Path], emotion_of: dict[str, str], root: Path) -> list[str]:
    """Folders that stand beside emotions, but are named like none: their pictures are not used."""
    parents = {path.parent for path in found if path.name.lower() in emotion_of}
    around = {parent for path in found for parent in path.parents}
    return [
        relative_name(path, root)
        for path in found
        if path.parent in parents and path.name.lower() not in emotion_of and path not in around
    ]
