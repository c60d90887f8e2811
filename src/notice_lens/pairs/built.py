"""What a builder hands over: rows, what was dropped on the way, and what the manifest has to say of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from notice_lens.pairs.problems import Problem

if TYPE_CHECKING:
    from notice_lens.pairs.minimal_pairs import MinimalPairs


@dataclass(frozen=True)
class Built:
    """Rows of pairs, not validated yet.

    Attributes:
        builder: The function that made them, such as `svo_probes`.
        source: What they were made from, in words that hold on another machine, such as a file's name.
        checksum: SHA-256 of the source, hexadecimal.
        seed: Of the sampling.
        options: The builder's other settings, plain values.
        rows: One mapping a pair, by column.
        problems: Why candidates did not become pairs.
    """

    builder: str
    source: str
    checksum: str
    seed: int
    rows: Sequence[Mapping[str, Any]]
    problems: Sequence[Problem] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def pairs(self) -> "MinimalPairs":
        """The pairs, validated; rows that are not what they say are dropped and counted."""
        from notice_lens.pairs.minimal_pairs import MinimalPairs

        return MinimalPairs.from_built(self)
