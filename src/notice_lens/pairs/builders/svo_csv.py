"""`svo_probes.csv` as its owners publish it: rows that can become pairs, and the problems of the others."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from notice_lens.models.hook_names import nearest
from notice_lens.pairs.builders.grammar import SLOTS, Triplet
from notice_lens.pairs.image_folder import ending
from notice_lens.pairs.io.tables import csv_rows, decode
from notice_lens.pairs.problems import MISSING, Problem

SLOT_FLAGS = {"subj_neg": "subject", "verb_neg": "verb", "obj_neg": "object"}
SVO_COLUMNS = ("sentence", "pos_triplet", "neg_triplet", "pos_image_id", "neg_image_id", *SLOT_FLAGS)
"""The columns that are read; urls are not."""

FIELDS = "row of another length than the header"
EMPTY_TRIPLET = "empty triplet"
NOT_THREE_PARTS = "triplet of other than three parts"
FLAG = "flags do not say which slot differs"
SLOT = "triplets do not differ in exactly the slot of the flag"

_TRUE, _FALSE = {"true", "1", "1.0", "yes"}, {"false", "0", "0.0", "no", ""}
_WHOLE = re.compile(r"(\d+)\.0+")


class _Refused(ValueError):
    """Return the problem that keeps a row from becoming a pair."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class SvoRow:
    """A sound row: two pictures whose triplets differ in one slot.

    Attributes:
        line: Of the file, where the row begins; the header is line 1.
        slot: Which of `SLOTS` differs.
        sentence: The description of the positive picture, as it stands.
        positive: The words for the positive picture, in lower case.
        negative: The words for the negative picture.
        positive_id: The positive picture's file, without its ending, as `as_id` writes it.
        negative_id: The negative picture's.
    """

    line: int
    slot: str
    sentence: str
    positive: Triplet
    negative: Triplet
    positive_id: str
    negative_id: str

    @property
    def id(self) -> str:
        """Return the name that ids of this row's pairs start with."""
        return f"svo-{self.line}"

    @property
    def group(self) -> str:
        """Return the group that draws are balanced over: the slot."""
        return self.slot

    @property
    def index(self) -> int:
        """The slot's place in a triplet."""
        return SLOTS.index(self.slot)

    @property
    def options(self) -> tuple[str, str]:
        """The two words of the slot, the positive picture's first; verbs as the file has them."""
        return self.positive[self.index], self.negative[self.index]


def read_rows(raw: bytes, name: str) -> tuple[list[SvoRow], list[Problem]]:
    """The rows of a file that can become pairs, and a problem for each of the others.

    Args:
        raw: The file's content.
        name: The file's name, for messages.

    Raises:
        ValueError: It is empty, not in UTF-8, no CSV, or lacks columns; the message says where or which.
    """
    rows, problems = [], []
    table = csv_rows(decode(raw, name, f"svo_probes.csv with the columns {', '.join(SVO_COLUMNS)}"), name)
    header = [column.strip() for column in next(table)[1]]
    _check_header(header, name)
    for line, cells in table:
        try:
            if len(cells) != len(header):
                raise _Refused(FIELDS, f"{len(cells)} cells, the header has {len(header)}; are triplets in quotes?")
            rows.append(_row(line, dict(zip(header, cells, strict=True))))
        except _Refused as refused:
            problems.append(Problem(f"line {line}", refused.reason, str(refused)))
    if not rows and not problems:
        raise ValueError(f"{name} has a header but no rows; expected those of svo_probes.csv")
    return rows, problems


def _check_header(header: list[str], name: str) -> None:
    absent = [column for column in SVO_COLUMNS if column not in header]
    if absent:
        spare = {column.lower(): column for column in header if column and column not in SVO_COLUMNS}
        close = {column: nearest(column, spare, 1) for column in absent}
        hints = [
            f"{column!r} (nearest: {spare[near[0]]!r})" if near else repr(column) for column, near in close.items()
        ]
        raise ValueError(f"{name} lacks the columns {', '.join(hints)}; it has {', '.join(map(repr, header))}")
    twice = [column for column, times in Counter(header).items() if times > 1 and column in SVO_COLUMNS]
    if twice:
        raise ValueError(f"{name} has the column {twice[0]!r} more than once; expected each once")


def _row(line: int, cells: Mapping[str, str]) -> SvoRow:
    positive, negative = (parse_triplet(cells[f"{sign}_triplet"], f"{sign}_triplet") for sign in ("pos", "neg"))
    slot = _slot(cells)
    differ = [name for name, ours, theirs in zip(SLOTS, positive, negative, strict=True) if ours != theirs]
    if differ != [slot]:
        found = " and ".join(differ) or "nothing"
        raise _Refused(
            SLOT, f"the flag says {slot}, but {','.join(positive)} and {','.join(negative)} differ in {found}"
        )
    ids = [_image_id(cells, f"{sign}_image_id") for sign in ("pos", "neg")]
    return SvoRow(line, slot, cells["sentence"], positive, negative, *ids)


def parse_triplet(cell: str, column: str = "triplet") -> Triplet:
    """Subject, verb and object from `girl,sit,beach` or from a list that was written as text, `['girl,sit,beach']`."""
    around = "[]'\" \t\r\n"
    parts = [" ".join(part.strip(around).lower().split()) for part in cell.split(",")]
    if not any(parts):
        raise _Refused(EMPTY_TRIPLET, f"{column} is {cell!r}; expected subject,verb,object")
    if len(parts) != 3 or not all(parts):
        raise _Refused(
            NOT_THREE_PARTS, f"{column} is {cell!r}, {sum(map(bool, parts))} parts; expected subject,verb,object"
        )
    return parts[0], parts[1], parts[2]


def _slot(cells: Mapping[str, str]) -> str:
    said = {column: cells[column].strip().lower() for column in SLOT_FLAGS}
    found = [slot for column, slot in SLOT_FLAGS.items() if said[column] in _TRUE]
    if len(found) != 1 or not set(said.values()) <= _TRUE | _FALSE:
        listed = ", ".join(f"{column}={cells[column]!r}" for column in SLOT_FLAGS)
        raise _Refused(FLAG, f"{listed}; expected True (or 1) once and False (or 0) twice")
    return found[0]


def _image_id(cells: Mapping[str, str], column: str) -> str:
    found = as_id(cells[column])
    if not found:
        raise _Refused(MISSING, f"{column} is empty")
    return found


def as_id(text: str) -> str:
    """Return an image id: a whole number as such, also where a table or a file's name has it as a float (`12.0`)."""
    text = text.strip()
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def find_images(files: Iterable[Path]) -> dict[str, Path]:
    """Return the file of each image id. Ids are only looked up here, so that none can lead anywhere else.

    Args:
        files: Images. Of several with one name but other endings the first counts.
    """
    found: dict[str, Path] = {}
    for path in files:
        found.setdefault(as_id(path.name.removesuffix(path.suffix if ending(path.name) else "")), path)
    return found
