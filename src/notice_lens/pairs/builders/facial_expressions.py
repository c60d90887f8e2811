"""Pairs from pictures of faces by emotion, as the common collections of facial expressions come."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from notice_lens.pairs.builders.face_labels import SPELLINGS, find_faces, is_fer_table
from notice_lens.pairs.builders.folder_pairs import FolderTask, build_pairs, check_options
from notice_lens.pairs.image_folder import existing_folder
from notice_lens.pairs.io.assembly import Built
from notice_lens.pairs.token_replacement import Pool
from notice_lens.pairs.tokens import as_tokenizer

if TYPE_CHECKING:
    from notice_lens.pairs.minimal_pairs import MinimalPairs

POSITIVE_EMOTIONS = ("happy", "surprise")
NEGATIVE_EMOTIONS = ("angry", "disgust", "fear", "sad")
FEELING_QUESTION = ("is this", "{noun}", "feeling")


def facial_expressions(
    folder: str | PathLike[str],
    tokenizer: Any,
    *,
    n: int | None = None,
    seed: int = 0,
    match: str | None = None,
    numbering: str | Mapping[int, str] | None = None,
    confine: bool = False,
    progress: bool = True,
) -> "MinimalPairs":
    """Minimal pairs of two faces with two emotions, asked as in "is this person feeling happy or sad?".

    Experimental: it ran on made-up downloads of the published layout alone.

    The pictures show any two people. In the corrupted prompt each emotion makes way for one of the opposite valence:
    happy and surprise for angry, disgust, fear and sad, and the other way round; neutral, which has no opposite, makes
    way for any emotion. The clean options do not recur. The donor picture shows a third emotion. The donor
    prompt has two emotions that are in neither prompt; of any valence, since hardly any of the opposite one are left.

    Every picture is in one pair at most, as the clean or the corrupted one. Pairs are balanced over pairs of emotions,
    over which of the two is the clean one, and over the order of the options.

    Args:
        folder: One of: folders named by emotion in any common spelling (`happy`, `Happiness`, `3_happy`), at any depth,
            such as in `train` and `test`, with pictures in them or in folders below; RAF-DB's label file
            `list_patition_label.txt` with its pictures; FER-2013's table `fer2013.csv`, or the folder that holds it.
            All of it is used, and a pair's id tells the files.
        tokenizer: A HookedBLIP, a Hugging Face tokenizer, a hub id or a folder.
        n: How many pairs; fewer where the pictures do not suffice. None makes all that can be made.
        seed: Of everything that is drawn.
        match: "nearest" pairs pictures that are near each other for the model's vision stack; needs a HookedBLIP. None
            takes them as they come.
        numbering: The emotions of numbered folders: "raf-db", "fer2013", "affectnet", or the emotion of each number.
        confine: Whether pictures that are links out of the folder count as unreadable.
        progress: Whether to show progress bars.

    Raises:
        FileNotFoundError: There is no such folder.
        NotADirectoryError: It is a file.
        ValueError: It is laid out in another way, an argument is invalid, or no pair can be made.
        TypeError: `tokenizer` is not a tokenizer, or `match="nearest"` without a HookedBLIP.
    """
    return build_facial_expressions(
        folder, tokenizer, n=n, seed=seed, match=match, numbering=numbering, confine=confine, progress=progress
    ).pairs()


def build_facial_expressions(
    folder: Any,
    tokenizer: Any,
    *,
    n: Any = None,
    seed: Any = 0,
    match: Any = None,
    numbering: Any = None,
    confine: bool = False,
    progress: bool = True,
) -> Built:
    """Make the rows of `facial_expressions`, with the same arguments."""
    check_options(n, seed, match, tokenizer)
    root = Path(folder)
    root = root if root.is_file() and is_fer_table(root) else existing_folder(root)
    faces = find_faces(root, numbering)
    task = _task(root, as_tokenizer(tokenizer), faces.contents)
    return build_pairs(
        task,
        faces.labels,
        tokenizer,
        n=n,
        seed=seed,
        match=match,
        confine=confine,
        progress=progress,
        options=faces.options,
        before=faces.problems,
    )


def _task(root: Path, tokenizer: Any, contents: Mapping[Path, bytes]) -> FolderTask:
    """Return the question, and which emotions replace which."""
    everything = Pool(tokenizer, SPELLINGS)
    opposite = dict.fromkeys(SPELLINGS, everything)
    opposite |= dict.fromkeys(POSITIVE_EMOTIONS, Pool(tokenizer, NEGATIVE_EMOTIONS))
    opposite |= dict.fromkeys(NEGATIVE_EMOTIONS, Pool(tokenizer, POSITIVE_EMOTIONS))
    return FolderTask(
        "facial_expressions",
        root,
        FEELING_QUESTION,
        lambda group, value: opposite[value],
        lambda group, value: everything,
        contents,
    )
