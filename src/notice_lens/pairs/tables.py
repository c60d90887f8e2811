"""Tables on disk: CSV and JSON lines in UTF-8, with errors that say in which line."""

import csv
import io
import json
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

from notice_lens.pairs.problems import ROW, Problem


def decode(raw: bytes, name: str, expected: str = "a header and one row for each pair") -> str:
    """The text of a file in UTF-8, with or without a byte-order mark.

    Args:
        raw: Its content.
        name: Its name, for messages.
        expected: What should be in it, for messages.

    Raises:
        ValueError: It is empty, or not in UTF-8; the message says in which line.
    """
    if not raw.strip():
        raise ValueError(f"{name} is empty; expected {expected}")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # `error.object` is what the offset counts in, with or without the byte-order mark.
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{name} is not in UTF-8: byte 0x{error.object[error.start]:02x} in line {line}; "
            "save it as UTF-8, or convert it (iconv -f latin1 -t utf-8)"
        ) from error


def csv_rows(text: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """The line that each row begins in, and its cells, the header first; blank lines are skipped.

    Args:
        text: The file's.
        name: Its name, for messages.

    Raises:
        ValueError: It is no CSV.
    """
    # A cell may hold line breaks of any sort, so it is the csv module that looks for them.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows, line = [], 1
    usual = csv.field_size_limit()
    csv.field_size_limit(max(usual, len(text) + 1))
    try:
        for cells in reader:
            if cells:
                rows.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{name}, line {reader.line_num}: no CSV: {error}; is a quotation mark left open?") from error
    finally:
        csv.field_size_limit(usual)
    return iter(rows)


def read_csv(path: str | PathLike[str]) -> list[dict[str, str] | Problem]:
    """Return the rows of a CSV file by column; one with more or fewer cells than the header is a problem in its place.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: As `decode` and `csv_rows`.
    """
    path = Path(path)
    (_, header), *rows = csv_rows(decode(path.read_bytes(), path.name), path.name)
    header = [column.strip() for column in header]
    twice = [column for column in header if header.count(column) > 1]
    if twice:
        raise ValueError(f"{path.name} has the column {twice[0]!r} more than once; expected each once")
    found: list[dict[str, str] | Problem] = []
    for line, cells in rows:
        if len(cells) == len(header):
            found.append(dict(zip(header, cells, strict=True)))
        else:
            detail = (
                f"{len(cells)} cells, but the header has {len(header)} columns: {', '.join(header)}; are cells with "
                "commas in quotes?"
            )
            found.append(Problem(f"{path.name}, line {line}", ROW, detail))
    return found


def read_jsonl(path: str | PathLike[str]) -> list[dict[str, Any] | Problem]:
    """Return the rows of a file with one JSON object a line; any other line is a problem in its place.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: As `decode`.
    """
    path = Path(path)
    rows: list[dict[str, Any] | Problem] = []
    for number, line in enumerate(decode(path.read_bytes(), path.name, "a JSON object a line").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
            wrong = None if isinstance(row, dict) else f"no JSON object but a {type(row).__name__}"
        # Also a number of thousands of digits, and brackets in brackets.
        except (ValueError, RecursionError) as error:
            row, wrong = None, f"no JSON: {error}"
        rows.append(row if wrong is None else Problem(f"{path.name}, line {number}", ROW, wrong))
    return rows
