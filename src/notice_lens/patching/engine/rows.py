"""The bookkeeping of the wave: which line of its tensors is which position of which row.

A *line* is one position of one row. Rows join the wave one block after the other, with as many positions as their edits
touch, so that its tensors are ragged: [line, ...] instead of [row, pos, ...]. Lines stand in this order:

    complete rows, all positions each, in the order in which they joined    | row 0 | row 1 | row 4 | ...
    then the positions of rows that joined since the last self-attention    | row 2: 5 | row 7: 5, 6 | ...

`RaggedRows` keeps two tables of that: `where` [row, pos] says in which line a position is (-1 where a row does not have
its own: then it is its base row's), and `row` [line] whose position a line is. All of it is NumPy on the CPU; only
ready index tensors go to the device, so that a GPU never waits for an answer.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Index = NDArray[np.int64]


class Completion(NamedTuple):
    """The lines that complete the rows: the first `kept` lines stay, those of `copied` follow."""

    kept: int
    copied: Tensor

    def __call__(self, value: Tensor) -> Tensor:
        """Return the lines of all positions of all active rows."""
        if not len(self.copied):
            return value
        return torch.cat([value[: self.kept], value[self.copied]])


class ByPair(NamedTuple):
    """Lines sorted by their pair: in a `table` [pair, column], filled up to the longest pair's; and where each is.

    Column `columns` of the flattened table belongs to `lines`.
    """

    table: Tensor
    lines: Tensor
    columns: Tensor


class RaggedRows:
    """The active rows, and the lines of their positions.

    Args:
        pair_of: The pair of every row; the first rows are the base rows, one a pair, and are active.
        n_base: The number of base rows.
        pos: Positions of a complete row.
        device: Of indices.
    """

    def __init__(self, pair_of: Index, n_base: int, pos: int, device: torch.device) -> None:
        self.pair_of, self.pos, self.device = pair_of, pos, device
        self.where = np.full((len(pair_of), pos), -1)
        self.where[:n_base] = np.arange(n_base * pos).reshape(n_base, pos)
        self.active: Index = np.arange(n_base)
        self.row = np.repeat(self.active, pos)
        self.n_complete = n_base

    def join(self, rows: Index, positions: Index) -> Tensor:
        """Add positions of new rows. Return the lines of their base rows, of which they are copies.

        Args:
            rows: The row of each new line; a row's lines stand together.
            positions: Its position.
        """
        self.where[rows, positions] = len(self.row) + np.arange(len(rows))
        self.row = np.concatenate([self.row, rows])
        self.activate(rows)
        return self.index(self.where[self.pair_of[rows], positions])

    def activate(self, rows: Index) -> None:
        """Make rows active, without positions yet."""
        # np.unique sorts; rows are to stay in the order in which they join, in which their lines stand.
        distinct = rows[np.sort(np.unique(rows, return_index=True)[1])]
        self.active = np.concatenate([self.active, distinct])

    def complete(self) -> Completion:
        """Give all active rows all their positions; those that a row has not changed are copies of its base row's."""
        new = self.active[self.n_complete :]
        own = self.where[new]
        base = self.where[self.pair_of[new]]
        copied = np.where(own < 0, base, own).ravel()
        kept = self.n_complete * self.pos
        self.n_complete = len(self.active)
        self.where[self.active] = np.arange(self.n_complete * self.pos).reshape(-1, self.pos)
        self.row = np.repeat(self.active, self.pos)
        return Completion(kept, self.index(copied))

    def by_pair(self, chosen: NDArray[np.bool_], n_pairs: int) -> ByPair:
        """Return the chosen lines, pair by pair."""
        lines = np.flatnonzero(chosen)
        pairs = self.pair_of[self.row[lines]]
        counts = np.bincount(pairs, minlength=n_pairs)
        order = np.argsort(pairs, kind="stable")
        filled = np.arange(counts.max(initial=0)) < counts[:, None]
        # Pairs have unequal numbers of lines: spare columns get line 0, and their results are never read.
        table = np.zeros(filled.shape, dtype=np.int64)
        table[filled] = lines[order]
        return ByPair(self.index(table), self.index(lines[order]), self.index(np.flatnonzero(filled)))

    def slots(self, rows: Index) -> Tensor:
        """Return where rows stand among the complete ones; a row that never joined is its base row."""
        first = self.where[:, 0] // self.pos
        return self.index(np.where(self.where[rows, 0] < 0, first[self.pair_of[rows]], first[rows]))

    def of(self, rows: Index, positions: Index) -> Index:
        """Return the lines of positions of active rows."""
        lines = self.where[rows, positions]
        assert (lines >= 0).all(), "an edit of a position that its row did not join with"
        return lines

    def index(self, numbers: Index) -> Tensor:
        """Return numbers as an index on the wave's device."""
        return torch.from_numpy(np.ascontiguousarray(numbers)).to(self.device, non_blocking=True)

    def lines(self, lines: Index, heads: Index | None) -> tuple[Tensor, ...]:
        """Return an index of lines, or of their heads."""
        return tuple(map(self.index, (lines,) if heads is None else (lines, heads)))
