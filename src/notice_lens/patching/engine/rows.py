"""The bookkeeping of the wave: which line of its tensors is which position of which row."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Index = NDArray[np.int64]


class Spread(NamedTuple):
    """How rows get all their positions: the first `kept` lines stay, the lines of `copied` follow."""

    kept: int
    copied: Tensor

    def __call__(self, value: Tensor) -> Tensor:
        """The lines of all positions of all rows that are aboard."""
        if not len(self.copied):
            return value
        return torch.cat([value[: self.kept], value[self.copied]])


class ByPair(NamedTuple):
    """Cells sorted by their pair: in a `table` [pair, line], filled up to the longest pair's; and where each is.

    What is at `lines` of the flattened table belongs to `cells`.
    """

    table: Tensor
    cells: Tensor
    lines: Tensor


class Cells:
    """Which rows are aboard, and where their positions are.

    A *cell* is one position of one row: one line of the wave's tensors. Rows with all their positions come first, in
    the order in which they came aboard; behind them the positions of those that came aboard since the last
    self-attention.

    Args:
        pair_of: The pair of every row; the first rows are the base rows, one a pair, and are aboard.
        n_base: How many they are.
        pos: Positions of a row.
        device: Of indices.
    """

    def __init__(self, pair_of: Index, n_base: int, pos: int, device: torch.device) -> None:
        self.pair_of, self.pos, self.device = pair_of, pos, device
        self.where = np.full((len(pair_of), pos), -1)
        self.where[:n_base] = np.arange(n_base * pos).reshape(n_base, pos)
        self.aboard: Index = np.arange(n_base)
        self.row = np.repeat(self.aboard, pos)
        self.complete = n_base

    def join(self, rows: Index, positions: Index) -> Tensor:
        """Brings positions of new rows aboard. Returns the cells of their base rows, of which they are copies.

        Args:
            rows: The row of each new cell; a row's cells stand together.
            positions: Its position.
        """
        self.where[rows, positions] = len(self.row) + np.arange(len(rows))
        self.row = np.concatenate([self.row, rows])
        self.board(rows)
        return self.index(self.where[self.pair_of[rows], positions])

    def board(self, rows: Index) -> None:
        """Brings rows aboard, without positions yet."""
        distinct = rows[np.sort(np.unique(rows, return_index=True)[1])]
        self.aboard = np.concatenate([self.aboard, distinct])

    def spread(self) -> Spread:
        """Gives all rows that are aboard all their positions; those that a row has not changed are its base row's."""
        new = self.aboard[self.complete :]
        own = self.where[new]
        base = self.where[self.pair_of[new]]
        copied = np.where(own < 0, base, own).ravel()
        kept = self.complete * self.pos
        self.complete = len(self.aboard)
        self.where[self.aboard] = np.arange(self.complete * self.pos).reshape(-1, self.pos)
        self.row = np.repeat(self.aboard, self.pos)
        return Spread(kept, self.index(copied))

    def by_pair(self, chosen: NDArray[np.bool_], n_pairs: int) -> ByPair:
        """The chosen cells, pair by pair."""
        cells = np.flatnonzero(chosen)
        pairs = self.pair_of[self.row[cells]]
        counts = np.bincount(pairs, minlength=n_pairs)
        order = np.argsort(pairs, kind="stable")
        filled = np.arange(counts.max(initial=0)) < counts[:, None]
        table = np.zeros(filled.shape, dtype=np.int64)
        table[filled] = cells[order]
        return ByPair(self.index(table), self.index(cells[order]), self.index(np.flatnonzero(filled)))

    def slots(self, rows: Index) -> Tensor:
        """Where rows stand among those with all positions; one that never came aboard is its base row."""
        first = self.where[:, 0] // self.pos
        return self.index(np.where(self.where[rows, 0] < 0, first[self.pair_of[rows]], first[rows]))

    def of(self, rows: Index, positions: Index) -> Index:
        """The cells of positions of rows that are aboard."""
        found = self.where[rows, positions]
        assert (found >= 0).all(), "an edit of a position that its row has not brought aboard"
        return found

    def index(self, numbers: Index) -> Tensor:
        """Numbers as an index on the wave's device."""
        return torch.from_numpy(np.ascontiguousarray(numbers)).to(self.device, non_blocking=True)

    def lines(self, cells: Index, heads: Index | None) -> tuple[Tensor, ...]:
        """An index of cells, or of their heads."""
        return tuple(map(self.index, (cells,) if heads is None else (cells, heads)))
