"""What a sweep or an attribution computes, seen batch by batch. The one place where tests know its inner step."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from notice_lens.patching.attribution import Attribution
from notice_lens.patching.runner import SweepRunner


def before_each_batch(happens: Callable[[list[int]], Any], set_attribute: Callable[..., Any] = setattr) -> None:
    """Call `happens` with the numbers of the pairs before they are computed; what it raises ends the sweep."""
    for kind in (SweepRunner, Attribution):
        computed = kind.compute_batch

        def seen(own: Any, pairs: list[int], *others: Any, computed: Callable[..., Any] = computed) -> Any:
            happens(pairs)
            return computed(own, pairs, *others)

        set_attribute(kind, "compute_batch", seen)


class Batches:
    """Notes the batches that are computed, and stops before one of them as Ctrl-C would.

    Attributes:
        begun: The numbers of the pairs of each batch that was computed.
        stop: Says of a batch whether to stop before it.
    """

    def __init__(self) -> None:
        self.begun: list[list[int]] = []
        self.stop: Callable[[Sequence[int]], bool] = lambda pairs: False

    def stop_after(self, number: int) -> None:
        """Stop once so many batches in all were computed."""
        self.stop = lambda pairs: len(self.begun) == number

    def go_on(self) -> None:
        """Stop nowhere."""
        self.stop = lambda pairs: False

    def refuse(self, why: str = "everything is computed already") -> None:
        """Fail the test at the next batch."""
        self.stop = lambda pairs: pytest.fail(why)

    def happened(self, pairs: list[int]) -> None:
        """Note a batch, or stop before it."""
        if self.stop(pairs):
            raise KeyboardInterrupt
        self.begun.append(pairs)
