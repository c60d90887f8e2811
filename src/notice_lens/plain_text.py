"""Escaping of untrusted text before it reaches a terminal, a log or a spreadsheet.

A file, a server or a table decides what its names and messages say. A terminal obeys the control characters in them, a
spreadsheet computes what begins like a formula, and an address may hold a password. Here all three become plain text
that still says what was there. Text that is plain already stays as it is, so it does no harm to ask twice.
"""

import re
from typing import Any

# Controls other than tab and newline, line and paragraph separators, marks that reverse the reading direction, and
# halves of surrogate pairs, which no stream can encode.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_USER_INFO = re.compile(r"://[^/?#\s\"'<>]*@")
# Full-width signs begin a formula too.
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")
_NUMBER_OR_ID = re.compile(r"[+-]?[\w.-]*")


def printable(text: object) -> str:
    r"""Return `str(text)` for a terminal or a log: control characters as `\u001b`, URLs without user and password."""
    escaped = _CONTROL.sub(lambda control: f"\\u{ord(control[0]):04x}", str(text))
    return _USER_INFO.sub("://***@", escaped)


def csv_cell(value: Any) -> Any:
    """Return a value for a cell of a CSV file: text is `printable`, and begins with `'` where it would be a formula."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER_OR_ID.fullmatch(text) else text
