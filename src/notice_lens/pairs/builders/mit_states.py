"""Pairs from MIT-States: one noun in two states, such as an old car and a new one.

The data: Isola, Lim and Adelson, *Discovering States and Transformations in Image Collections*, CVPR 2015. The paper
that asks such questions: arXiv 2406.16320.
"""

import difflib
import re
import tomllib
from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from notice_lens.pairs.builders.folder_pairs import FolderTask, build_pairs, check_options
from notice_lens.pairs.builders.labels import Label
from notice_lens.pairs.image_folder import contents, existing_folder, relative_name, walk
from notice_lens.pairs.io.assembly import Built
from notice_lens.pairs.token_replacement import Pool
from notice_lens.pairs.tokens import as_tokenizer

if TYPE_CHECKING:
    from notice_lens.pairs.minimal_pairs import MinimalPairs

STATE_GROUPS = ("colour", "shape", "texture")
STATE_QUESTION = ("is this", "{noun}")
LABELLED_FOLDERS = (".", "images", "release_dataset/images")
"""Where the labelled folders may be, relative to the given one."""

_NO_ADJECTIVE = "adj"


def mit_states(
    folder: str | PathLike[str],
    tokenizer: Any,
    *,
    n: int | None = None,
    seed: int = 0,
    groups: Iterable[str] = STATE_GROUPS,
    match: str | None = None,
    confine: bool = False,
    progress: bool = True,
) -> "MinimalPairs":
    """Minimal pairs of one noun with two adjectives, asked as in "is this box large or tiny?".

    Experimental: it ran on made-up downloads of the published layout alone.

    Both pictures show the noun; they are of different adjectives of one group, which do not mean nearly the same. The
    corrupted prompt has two other adjectives of that group, with as many word pieces. The donor picture shows the noun
    with a third adjective of the group, the donor prompt has two more adjectives; without them it is None.

    Every picture is in one pair at most, as the clean or the corrupted one. Pairs are balanced over groups, in them
    over pairs of adjectives, over which adjective is the clean one, and over the order of the options.

    Args:
        folder: MIT-States as published: folders named `{adjective} {noun}` or `{adjective}_{noun}`, or a folder that
            holds them in `images` or `release_dataset/images`. Pictures may lie in folders below. Folders named
            `adj {noun}` say nothing of the adjective and are skipped.
        tokenizer: A HookedBLIP, a Hugging Face tokenizer, a hub id or a folder.
        n: How many pairs; fewer where the pictures do not suffice. None makes all that can be made.
        seed: Of everything that is drawn.
        groups: Which of colour (with brightness), shape (with size) and texture.
        match: "nearest" pairs pictures that are near each other for the model's vision stack; needs a HookedBLIP. None
            takes them as they come.
        confine: Whether pictures that are links out of the folder count as unreadable.
        progress: Whether to show progress bars.

    Raises:
        FileNotFoundError: There is no such folder.
        NotADirectoryError: It is a file.
        ValueError: It is laid out in another way, an argument is invalid, or no pair can be made.
        TypeError: `tokenizer` is not a tokenizer, or `match="nearest"` without a HookedBLIP.
    """
    return build_mit_states(
        folder, tokenizer, n=n, seed=seed, groups=groups, match=match, confine=confine, progress=progress
    ).pairs()


def build_mit_states(
    folder: Any,
    tokenizer: Any,
    *,
    n: Any = None,
    seed: Any = 0,
    groups: Any = STATE_GROUPS,
    match: Any = None,
    confine: bool = False,
    progress: bool = True,
) -> Built:
    """Make the rows of `mit_states`, with the same arguments."""
    check_options(n, seed, match, tokenizer)
    wanted = _check_groups(groups)
    root = labelled_folder(existing_folder(folder))
    group_of = {word: group for group, words in adjectives().items() for word in words}
    labels, skipped = [], Counter()
    left_out = {name: Counter() for name in ("adjectives_in_no_group", "folders_without_adjective", "folders_unnamed")}
    for name, images in _by_folder(root, skipped).items():
        adjective, noun = _words(name)
        label = Label(name, images, group_of.get(adjective, ""), noun, adjective)
        if not noun:
            left_out["folders_unnamed"][name] += len(images)
        elif adjective == _NO_ADJECTIVE:
            left_out["folders_without_adjective"][noun] += len(images)
        elif not label.group:
            left_out["adjectives_in_no_group"][adjective] += len(images)
        elif label.group in wanted:
            labels.append(label)
    words = as_tokenizer(tokenizer)
    pools = {group: Pool(words, adjectives()[group]) for group in wanted}
    task = FolderTask(
        "mit_states", root, STATE_QUESTION, lambda group, value: pools[group], lambda group, value: pools[group]
    )
    options = {
        "groups": list(wanted),
        "empty_folders": sum(not label.files for label in labels),
        **{name: {key: n for key, n in sorted(counts.items()) if n} for name, counts in left_out.items()},
        "skipped_files": dict(sorted(skipped.items())),
    }
    return build_pairs(
        task, labels, tokenizer, n=n, seed=seed, match=match, confine=confine, progress=progress, options=options
    )


@cache
def adjectives() -> dict[str, list[str]]:
    """Return the adjectives that are used, by group."""
    return tomllib.loads(files("notice_lens.pairs").joinpath("data", "adjectives.toml").read_text(encoding="utf-8"))


def labelled_folder(folder: Path) -> Path:
    """Return where in a download the labelled folders are: where one of them has an adjective that is used.

    Raises:
        ValueError: Nowhere; the message says what was found instead.
    """
    used = {word for words in adjectives().values() for word in words}
    for inside in LABELLED_FOLDERS:
        here = folder / inside
        if here.is_dir() and any(_words(path.name)[0] in used for path in here.iterdir() if path.is_dir()):
            return here
    raise ValueError(
        f"{str(folder)!r} is not MIT-States: expected folders named like 'large car' or 'large_car', in it or in its "
        f"{' or '.join(map(repr, LABELLED_FOLDERS[1:]))}; it holds {contents(folder)}"
    )


def _by_folder(root: Path, skipped: Counter[str]) -> dict[str, list[Path]]:
    """Return the images of each folder in `root`, those in folders below it included; "." is `root` itself."""
    found: dict[str, list[Path]] = {}
    for here, images in walk(root, skipped):
        name, *_ = relative_name(here, root).split("/")
        found.setdefault(name, []).extend(images)
    return found


def _words(name: str) -> tuple[str, str]:
    """Return the adjective and the noun, in lower case, that `large dining room` or `large_dining_room` names.

    Names of one word have no noun: "".
    """
    adjective, _, noun = re.sub(r"[\s_]+", " ", name.lower()).strip().partition(" ")
    return adjective, noun


def _check_groups(groups: Any) -> tuple[str, ...]:
    """Return the groups in their usual order. Raises ValueError for an unknown group, with the nearest valid one."""
    asked = [groups] if isinstance(groups, str) else list(groups)
    for group in asked:
        if group not in STATE_GROUPS:
            near = difflib.get_close_matches(str(group), STATE_GROUPS, 1, cutoff=0.4)
            hint = f"; nearest: {near[0]!r}" if near else ""
            raise ValueError(f"no group {group!r} of adjectives: there are {', '.join(STATE_GROUPS)}{hint}")
    if not asked:
        raise ValueError(f"no groups asked for; expected some of {', '.join(STATE_GROUPS)}")
    return tuple(group for group in STATE_GROUPS if group in asked)
