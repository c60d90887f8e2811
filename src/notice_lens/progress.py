"""Progress bars, and the name of the step that a longer piece of work is at.

A sweep shows one bar, "patching". A study is many sweeps: it names its step, and each bar carries that name and is
wiped when it is full, so that a terminal shows one line at a time: `3 of 14: states, text`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_STEP: ContextVar[str | None] = ContextVar("step", default=None)


@contextmanager
def step(name: str) -> Iterator[None]:
    """Name the step for the bars of a `with` block."""
    token = _STEP.set(name)
    try:
        yield
    finally:
        _STEP.reset(token)


def bar(shown: bool, what: str, *, total: int, unit: str) -> Any:
    """Return a progress bar of tqdm, with the name of the step in front where there is one.

    Args:
        shown: Whether there is a bar.
        what: What is done, in a word or two.
        total: How many units there are.
        unit: Their name, in the plural.
    """
    from tqdm.auto import tqdm

    name = _STEP.get()
    description = what if name is None else f"{name}, {what}"
    return tqdm(total=total, desc=description, unit=f" {unit}", disable=not shown, leave=name is None)
