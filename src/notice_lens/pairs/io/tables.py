"""Tables on disk, as spreadsheets, R and pandas write them: encodings, separators, missing cells, errors by line."""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

from notice_lens.pairs.problems import ROW, Problem

SEPARATORS = (",", ";", "\t", "|")
"""What cells stand between; of two that divide the header into as many names, the first counts."""
MISSING_WORDS = ("<NA>", "NA", "NaN", "NaT", "nan")
"""Cells that are empty where they stand without quotes."""
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte-order marks; that of UTF-32 begins as that of UTF-16 does."""


def decode(raw: bytes, name: str, expected: str = "a header and one row for each pair") -> str:
    """Return the text of a file in UTF-8, or in UTF-16, without its byte-order mark.

    Args:
        raw: Its content.
        name: Its name, for messages.
        expected: What should be in it, for messages.

    Raises:
        ValueError: It is empty, or in another encoding; the message says in which line.
    """
    encoding = _encoding(raw)
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        # `error.object` is what the offset counts in, with or without the byte-order mark.
        line = error.object[: error.start].decode(encoding, "ignore").count("\n") + 1
        raise ValueError(
            f"{name} is not in {encoding.removesuffix('-sig').upper()}: byte 0x{error.object[error.start]:02x} in line "
            f"{line}; save it as UTF-8, or convert it (iconv -f latin1 -t utf-8)"
        ) from error
    if not text.strip():
        raise ValueError(f"{name} is empty; expected {expected}")
    return text


def _encoding(raw: bytes) -> str:
    """Return the encoding of a text that begins with a byte-order mark, or with a character of ASCII."""
    for mark, encoding in MARKS:
        if raw.startswith(mark):
            return encoding
    if len(raw) > 1 and (raw[0] == 0) != (raw[1] == 0):
        return "utf-16-be" if raw[0] == 0 else "utf-16-le"
    return "utf-8"


def csv_rows(text: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """Return the line that each row begins in, and its cells, the header first; blank lines are skipped.

    Args:
        text: The file's.
        name: Its name, for messages.

    Raises:
        ValueError: It is no CSV.
    """
    separator = _separator(text)
    text = _without_missing(text, separator)
    # A cell may hold line breaks of any sort, so it is the csv module that looks for them.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
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


def _separator(text: str) -> str:
    """Return the separator that divides the header, the first line with something in it, into the most names."""
    header = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    return max(SEPARATORS, key=re.sub(r'"[^"]*"', "", header).count)


def _without_missing(text: str, separator: str) -> str:
    """Return a CSV with nothing in the cells that say without quotes that they are missing."""
    start, end = rf"(?<![^\r\n{re.escape(separator)}])", rf"(?=[\r\n{re.escape(separator)}]|\Z)"
    words = "|".join(map(re.escape, MISSING_WORDS))
    # Cells in quotes are found first, so that no word inside is taken for a cell; one left open goes to the end.
    return re.sub(rf'{start}(?:("(?:[^"]|"")*+"?)|(?:{words}){end})', lambda found: found[1] or "", text)


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
                "separators in quotes?"
            )
            found.append(Problem(f"{path.name}, line {line}", ROW, detail))
    return found


def read_jsonl(path: str | PathLike[str]) -> list[dict[str, Any] | Problem]:
    """Return the rows of a file of JSON objects: one a line, an array of them, or one after the other.

    Anything else is a problem in its place, with its line.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: As `decode`.
    """
    path = Path(path)
    text = decode(path.read_bytes(), path.name, "a JSON object a line, or an array of objects")
    rows: list[dict[str, Any] | Problem] = []
    for line, value in _json_values(text, path.name):
        several = isinstance(value, list)
        for number, row in enumerate(value if several else [value]):
            if not isinstance(row, dict | Problem):
                place = f"line {line}, item {number}" if several else f"line {line}"
                row = Problem(f"{path.name}, {place}", ROW, f"no JSON object but a {type(row).__name__}")
            rows.append(row)
    return rows


def _json_values(text: str, name: str) -> Iterator[tuple[int, Any]]:
    """Yield the line that each JSON value of a text begins in, and the value, or a problem if it is not JSON.

    Behind a value that cannot be read, the next line that begins an object counts. Of an array that cannot be read, its
    objects are read one by one.
    """
    decoder, something, object_ = json.JSONDecoder(), re.compile(r"\S"), re.compile(r"^\s*\{", re.MULTILINE)
    array = re.compile(r"\[\s*(?=\{)")
    end, line, counted = 0, 1, 0
    while found := something.search(text, end):
        line, counted = line + text.count("\n", counted, found.start()), found.start()
        try:
            value, end = decoder.raw_decode(text, found.start())
        # Also a number of thousands of digits, and brackets in brackets.
        except (ValueError, RecursionError) as error:
            if opened := array.match(text, found.start()):
                end, something = opened.end(), re.compile(r"[^\s,\]]")
                continue
            value = Problem(f"{name}, line {line}", ROW, f"no JSON: {error}")
            newline = text.find("\n", found.start())
            following = object_.search(text, newline) if newline >= 0 else None
            end = following.start() if following else len(text)
        yield line, value
