"""Progress bars, and the one line of a longer piece of work.

A sweep shows one bar, "patching". A study is many sweeps: it lists its steps beforehand, with their shares of the time,
and a terminal shows one line for the whole: `3 of 14: states, text, patching 48 %, about 40 s left`. The bars of a step
become the percentage in that line. Outside of `one_line` a step's name stands in front of its bars.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_STEP: ContextVar[str | None] = ContextVar("step", default=None)
_LINE: ContextVar["_Line | None"] = ContextVar("line", default=None)

SECONDS_BEFORE = 3.0
"""An estimate of the time left is not shown earlier: the first steps say too little."""
REDRAWN_AFTER = 0.1
"""Seconds between two states of the line."""


@contextmanager
def step(name: str) -> Iterator[None]:
    """Name the step for the bars of a `with` block."""
    line = _LINE.get()
    token = _STEP.set(name)
    if line is not None:
        line.begin(name)
    try:
        yield
    finally:
        _STEP.reset(token)
    if line is not None:
        line.end(name)


@contextmanager
def one_line(shown: bool, steps: Mapping[str, float | int], name: str = "") -> Iterator[None]:
    """Show one line for all steps of a `with` block, in place of a bar for each piece of work.

    Args:
        shown: Whether there is a line.
        steps: Each step's share of the time, in any unit, in their order; as `step` names them.
        name: Printed before the number of the step, such as the model's name.
    """
    line = _Line(shown, steps, name)
    token = _LINE.set(line)
    try:
        yield
    finally:
        _LINE.reset(token)
        line.close()


def bar(shown: bool, what: str, *, total: int, unit: str, begun: int = 0) -> Any:
    """Return a progress bar of tqdm, with the name of the step in front where there is one; or a part of the line.

    Args:
        shown: Whether there is a bar.
        what: What is done, in a word or two.
        total: How many units there are.
        unit: Their name, in the plural.
        begun: Units that were done before; the time left is not estimated from them.
    """
    from tqdm.auto import tqdm

    if (line := _LINE.get()) is not None:
        return _Part(line if shown else None, what, total, begun)
    name = _STEP.get()
    description = what if name is None else f"{name}, {what}"
    return tqdm(total=total, initial=begun, desc=description, unit=f" {unit}", disable=not shown, leave=name is None)


class _Line:
    """The line of several steps; a step that was not listed is shown without a number."""

    def __init__(self, shown: bool, steps: Mapping[str, float | int], name: str) -> None:
        from tqdm.auto import tqdm

        self.steps, self.name = dict(steps), name
        self.done = 0.0
        self.began, self.drawn = time.monotonic(), 0.0
        self.step = ""
        self.text = tqdm(total=0, bar_format="{desc}", leave=False, disable=not shown)

    def begin(self, step: str) -> None:
        """Show that a step begins."""
        self.step, self.drawn = step, 0.0
        self.draw("")

    def end(self, step: str) -> None:
        """Count a step as done."""
        self.done += self.steps.get(step, 0.0)

    def draw(self, what: str) -> None:
        """Show the state of the step, unless that was done a moment ago."""
        if time.monotonic() - self.drawn < REDRAWN_AFTER:
            return
        self.drawn = time.monotonic()
        names = list(self.steps)
        number = f"{names.index(self.step) + 1} of {len(names)}: " if self.step in self.steps else ""
        before = f"{self.name}, " if self.name else ""
        self.text.set_description_str(", ".join(filter(None, [f"{before}{number}{self.step}", what, self.left()])))

    def left(self) -> str:
        """Return how long the rest takes if it goes on as before; nothing before that can be said."""
        spent, rest = time.monotonic() - self.began, sum(self.steps.values()) - self.done
        if self.done <= 0 or rest <= 0 or spent < SECONDS_BEFORE:
            return ""
        seconds = spent * rest / self.done
        return f"about {seconds / 60:.0f} min left" if seconds >= 100 else f"about {max(1, round(seconds))} s left"

    def close(self) -> None:
        """Wipe the line."""
        self.text.close()


class _Part:
    """A bar as a percentage of its line."""

    def __init__(self, line: _Line | None, what: str, total: int, begun: int) -> None:
        self.line, self.what, self.total, self.n = line, what, total, begun

    def __enter__(self) -> "_Part":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, n: int = 1) -> None:
        """Count units that are done."""
        self.n += n
        if self.line is not None:
            self.line.draw(f"{self.what} {self.n / max(1, self.total):.0%}")

    def close(self) -> None:
        """Do nothing: the line goes on."""
