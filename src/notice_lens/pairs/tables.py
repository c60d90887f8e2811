"""Tables on disk, as spreadsheets, R and pandas write them, with errors that say in which line.

- Text is UTF-8, with or without a byte-order mark, or UTF-16, which Excel and PowerShell write.
- Cells stand between commas, semicolons, tabs or bars: whichever divides the header into the most names.
- A cell `NA` without quotes is an empty one, as R writes it; so are `NaN`, `nan`, `NaT` and `<NA>`, which NumPy and
  pandas write. In quotes, these are words. `None`, `null` and `n/a` are always words: some questions are answered so.
- JSON is an object a line, an array of objects, or objects over several lines.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

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


def read_csv(path: str | PathLike[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV file by column.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: As `decode` and `csv_rows`, or a row has more or fewer cells than the header.
    """
    path = Path(path)
    (_, header), *rows = csv_rows(decode(path.read_bytes(), path.name), path.name)
    header = [column.strip() for column in header]
    twice = [column for column in header if header.count(column) > 1]
    if twice:
        raise ValueError(f"{path.name} has the column {twice[0]!r} more than once; expected each once")
    for line, cells in rows:
        if len(cells) != len(header):
            raise ValueError(
                f"{path.name}, line {line}: {len(cells)} cells, but the header has {len(header)} columns: "
                f"{', '.join(header)}; are cells with separators in quotes?"
            )
    return [dict(zip(header, cells, strict=True)) for _, cells in rows]


def read_jsonl(path: str | PathLike[str]) -> list[dict[str, Any]]:
    """Return the rows of a file of JSON objects: one a line, an array of them, or one after the other.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: As `decode`, or something in it is no JSON object; the message says in which line.
    """
    path = Path(path)
    text = decode(path.read_bytes(), path.name, "a JSON object a line, or an array of objects")
    rows = []
    for line, value in _json_values(text, path.name):
        several = isinstance(value, list)
        for number, row in enumerate(value if several else [value]):
            if not isinstance(row, dict):
                place = f"line {line}, item {number}" if several else f"line {line}"
                raise ValueError(f"{path.name}, {place} is no JSON object but a {type(row).__name__}")
            rows.append(row)
    return rows


def _json_values(text: str, name: str) -> Iterator[tuple[int, Any]]:
    """Yield the line that each JSON value of a text begins in, and the value."""
    decoder, something = json.JSONDecoder(), re.compile(r"\S")
    end, line = 0, 1
    while found := something.search(text, end):
        line += text.count("\n", end, found.start())
        try:
            value, behind = decoder.raw_decode(text, found.start())
        except json.JSONDecodeError as error:
            raise ValueError(f"{name}, line {error.lineno} is no JSON: {error.msg} in column {error.colno}") from error
        except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets in brackets
            raise ValueError(f"{name}, line {line} is no JSON that can be read: {error}") from error
        yield line, value
        line += text.count("\n", found.start(), behind)
        end = behind
