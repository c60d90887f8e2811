"""Numbers as the page shows them, and the shades of its heat maps."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from notice_lens.viz.selection import MINUS, is_tested

UNTESTED = "not tested"

SHADES = 8
"""Each way; the page's styles have a class for each, and its script counts in the same steps."""


def percent(value: Any, digits: int = 1) -> str:
    """Return a share of the gap with its sign, such as `+23.4 %`; `none` for a missing one."""
    number = float(value)
    if not np.isfinite(number):
        return "none"
    return f"{_signed(number, digits)}\N{NO-BREAK SPACE}%"


def _signed(value: float, digits: int) -> str:
    """Return a share in percent with its sign; numbers that round to zero have no sign."""
    said = f"{100 * value:+.{digits}f}"
    return (said[1:] if float(said) == 0 else said).replace("-", MINUS)


def whole(value: Any) -> str:
    """Return a share of the gap in whole percent, without its unit and without a plus; empty for a missing one."""
    number = float(value)
    if not np.isfinite(number):
        return ""
    rounded = round(100 * number)
    return str(rounded).replace("-", MINUS)


def small(value: Any) -> str:
    """Return a probability, such as `.012` or `< .001`; `not tested` for a missing one."""
    number = float(value)
    if not np.isfinite(number):
        return UNTESTED
    return "< .001" if number < 0.001 else f"{number:.3f}".removeprefix("0")


def shade(value: Any, limit: float) -> str:
    """Return the class of a heat map's cell: `p` above zero and `n` below, 1 to 8; `z` near it, `none` if missing."""
    number = float(value)
    if not np.isfinite(number):
        return "none"
    step = int(np.floor(SHADES * min(1.0, abs(number) / limit) + 0.5))
    return f"{'p' if number > 0 else 'n'}{step}" if step else "z"


def with_interval(heads: xr.Dataset, name: str = "effect") -> str:
    """Return one head's effect with its interval, if it has one; of `effect` that is `low` to `high`.

    Args:
        heads: Of one head.
        name: The column, `effect` or one with an interval of its own, such as `effect_matched`.
    """
    said, ends = percent(heads[name]), interval_of(name)
    if all(end in heads and np.isfinite(heads[end]) for end in ends):
        said += " [" + ", ".join(_signed(float(heads[end]), 1) for end in ends) + "]"
    return said


def interval_of(name: str) -> tuple[str, str]:
    """Return the names of the two ends of a column's interval."""
    return ("low", "high") if name == "effect" else (f"{name}_low", f"{name}_high")


def frame(heads: xr.Dataset) -> str:
    """The class of a frame, with a space before it: full for significant, dotted for the two-sigma rule alone."""
    if is_tested(heads) and bool(heads["significant"]):
        return " significant"
    return " sigma" if "two_sigma" in heads and bool(heads["two_sigma"]) else ""


def rules(heads: xr.Dataset) -> str:
    """Return which of the two rules one head passes, in words, or that a rule was not tested."""
    names = {"significant": "significant", "two_sigma": "two-sigma"}
    passed = [name for key, name in names.items() if key in heads and bool(heads[key])]
    if "significant" in heads and not is_tested(heads):
        return "; ".join([*passed, f"significance {UNTESTED}"])
    return ", ".join(passed) or "neither"


def one_line(value: Any) -> str:
    """A value of any kind on one line: of mappings and lists the parts."""
    if isinstance(value, Mapping):
        return "; ".join(f"{str(name).replace('_', ' ')}: {one_line(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(one_line, value))
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", MINUS)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def counted(number: int, thing: str) -> str:
    """`1 head`, `2 heads`."""
    return f"{number} {thing}" + ("" if number == 1 else "s")


def by_layers(universal: xr.Dataset) -> str:
    """Return how many universal heads the layers alone would explain, in words; nothing where it is not known."""
    if not np.isfinite(universal.get("null_expected", np.nan)):
        return ""
    expected, p = float(universal["null_expected"]), small(universal["null_p"])
    return f"by their layers alone {expected:.1f} would be expected (as many: p {p})"
