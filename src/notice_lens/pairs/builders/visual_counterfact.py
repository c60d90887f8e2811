"""Pairs of questions from Visual CounterFact: what a thing usually looks like, and what it looks like here.

1. The published Parquet files of the colour split are read: `object`, the colours that people know it in, another
   colour, the original picture and one in which the thing has the other colour.
2. A row becomes two questions about the *counterfactual* picture, one of which asks for knowledge and one for what is
   seen: "What color is a strawberry usually?" and "What color is this strawberry here?". So nothing differs but words,
   and the clean answer is the known colour, the corrupted one the colour in the picture.
3. Rows without a conflict (the other colour is among the known ones) and names that are no single thing (plurals, names
   with an addition in brackets) are dropped and counted.

Data: Golovanevsky et al., "Pixels Versus Priors", arXiv 2505.17127, `mgolov/Visual-Counterfact` on the hub. Questions:
Lietzow et al., "Vision-Default, Prior-Override", arXiv 2606.28273.
"""

import ast
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from notice_lens.errors import reading
from notice_lens.pairs.io.records import Seen, look
from notice_lens.pairs.manifest import Manifest
from notice_lens.pairs.minimal_pairs import MinimalPairs
from notice_lens.pairs.problems import DUPLICATE, EQUAL_ANSWERS, IMAGE, MISSING, TEXT, PairsError, Problem
from notice_lens.pairs.sampling import balanced

COLOR_FILES = "color-*.parquet"
COLOR_COLUMNS = ("object", "correct_answer", "incorrect_answer", "original_image", "counterfact_image")
SUFFIX = "Respond with the color name only."
KNOWN_COLOURS = "known_colours"
"""The column with all colours that a thing is known in, between bars; `correct_answer` is the first of them."""


class ColouredThing(NamedTuple):
    """A row of the colour split.

    Attributes:
        id: Of the pair.
        group: `colour`.
        thing: Its name in lower case.
        known: The colours that it is known in.
        shown: Its colour in the counterfactual picture.
        picture: The counterfactual picture, as `datasets` stores it.
        seen: The picture's digest and size.
    """

    id: str
    group: str
    thing: str
    known: tuple[str, ...]
    shown: str
    picture: Mapping[str, Any]
    seen: Seen


def visual_counterfact(folder: str | Path, *, n: int | None = None, seed: int = 0) -> MinimalPairs:
    """Return pairs of a knowledge and a picture question, from the colour split of Visual CounterFact.

    Experimental: it ran on made-up files of the published layout alone.

    Args:
        folder: Holds `color-*.parquet`, alone or in `data`, as the hub has them.
        n: How many pairs; None takes all.
        seed: Of the draw.

    Returns:
        Pairs of the task `color` whose two pictures are the same counterfactual one. `clean_prompt` asks for knowledge,
        `corrupt_prompt` for what is seen; the role `object` is the thing. Rows that gave none are dropped and counted.

    Raises:
        FileNotFoundError: The folder holds no such file.
        ValueError: A file is no Parquet file, or lacks columns; the message names them.
        PairsError: Not one row gives a pair. A ValueError.
    """
    files = color_files(Path(folder))
    things: dict[str, ColouredThing] = {}
    problems: list[Problem] = []
    for number, row in enumerate(_rows(files)):
        found = _read(row, number)
        if isinstance(found, ColouredThing) and found.id in things:
            found = Problem(f"row {number}", DUPLICATE, f"{found.thing!r} with this picture was there before")
        if isinstance(found, Problem):
            problems.append(found)
        else:
            things[found.id] = found
    if not things:
        raise PairsError(problems, len(problems), f"\nNo pair can be made of {', '.join(map(str, files))}")
    manifest = Manifest(
        "visual_counterfact", ", ".join(path.name for path in files), _checksum(things), seed, options={"n": n}
    )
    drawn = balanced(things.values(), n, seed)
    rows = (_pair(thing) for thing in drawn)
    return MinimalPairs.from_rows(rows, on_error="drop", manifest=manifest, before=problems, progress=False)


def color_files(folder: Path) -> list[Path]:
    """Return the Parquet files of the colour split, those in `data` first.

    Raises:
        FileNotFoundError: There are none.
    """
    for place in (folder / "data", folder):
        if files := sorted(place.glob(COLOR_FILES)):
            return files
    raise FileNotFoundError(
        f"{folder} holds no {COLOR_FILES}: expected data/color-00000-of-00001.parquet (or the file without data/), as "
        "the data set mgolov/Visual-Counterfact has it"
    )


def _rows(files: Sequence[Path]) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of some files, without their original pictures."""
    from pyarrow import parquet

    for path in files:
        with reading(path):
            names = parquet.read_schema(path).names
            missing = [name for name in COLOR_COLUMNS if name not in names]
            if missing:
                raise ValueError(f"it has no column {', '.join(missing)}; its columns are {', '.join(names)}")
            table = parquet.read_table(path, columns=[name for name in COLOR_COLUMNS if name != "original_image"])
        yield from table.to_pylist()


def _read(row: Mapping[str, Any], number: int) -> ColouredThing | Problem:
    """Return the coloured thing of a row, or the problem that drops the row."""
    where = f"row {number}"
    if any(row[name] is None for name in ("object", "correct_answer", "incorrect_answer", "counterfact_image")):
        return Problem(where, MISSING, f"one of {', '.join(COLOR_COLUMNS)} is missing")
    thing, shown = one_spelling(str(row["object"])), colour(str(row["incorrect_answer"]))
    known = tuple(dict.fromkeys(colour(str(one)) for one in _several(row["correct_answer"])))
    if not thing or not shown or not all(known) or not known:
        return Problem(where, MISSING, f"the name of the thing or of a colour is empty: {row['object']!r}")
    if "(" in thing or _is_plural(thing):
        return Problem(where, TEXT, f"{thing!r} is a plural, or has an addition; expected the name of one thing")
    if shown in known:
        return Problem(where, EQUAL_ANSWERS, f"{thing!r} is known to be {shown}, which is its other colour too")
    try:
        seen = look(row["counterfact_image"])
    except (ValueError, KeyError, TypeError) as error:
        return Problem(where, IMAGE, f"counterfact_image of {thing!r}: {error}")
    name = f"color-{thing.replace(' ', '-')}-{seen.digest[:8]}"
    return ColouredThing(name, "colour", thing, known, shown, row["counterfact_image"], seen)


def _several(answer: Any) -> Sequence[Any]:
    """Return the known colours of a cell: a list, or text that is written as one."""
    if isinstance(answer, str):
        try:
            answer = ast.literal_eval(answer)
        except (SyntaxError, ValueError):
            return [answer]
    return list(answer) if isinstance(answer, list | tuple) else [answer]


def one_spelling(name: str) -> str:
    """Return the name of a thing in lower case, with single spaces."""
    return " ".join(name.lower().replace("_", " ").split())


def colour(name: str) -> str:
    """Return the name of a colour in lower case; both spellings of grey are `gray`."""
    return one_spelling(name).replace("grey", "gray")


def _is_plural(thing: str) -> bool:
    """Return whether the last word of a name is a plural of another word."""
    from lemminflect import getLemma

    word = thing.split()[-1]
    lemmas = getLemma(word, upos="NOUN", lemmatize_oov=False)
    return bool(lemmas) and word not in lemmas


def _pair(thing: ColouredThing) -> dict[str, Any]:
    knowledge, visual = questions(thing.thing)
    start = knowledge.index(f" {thing.thing} ") + 1
    return {
        "id": thing.id, "task": "color", "group": thing.group, "clean_image": dict(thing.picture),
        "corrupt_image": dict(thing.picture), "clean_prompt": knowledge, "corrupt_prompt": visual,
        "correct_answer": thing.known[0], "incorrect_answer": thing.shown, "corrupt_answer": thing.shown,
        "roles": {"object": [start, start + len(thing.thing)]}, KNOWN_COLOURS: "|".join(thing.known),
    }  # fmt: skip


def questions(thing: str) -> tuple[str, str]:
    """Return the question for knowledge of a thing, and that for what the picture shows."""
    article = "an" if thing[0] in "aeiou" else "a"
    return f"What color is {article} {thing} usually? {SUFFIX}", f"What color is this {thing} here? {SUFFIX}"


def _checksum(things: Mapping[str, ColouredThing]) -> str:
    read = [(thing.thing, thing.known, thing.shown, thing.seen.digest) for thing in things.values()]
    return hashlib.sha256(repr(read).encode()).hexdigest()
