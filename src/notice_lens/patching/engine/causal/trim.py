"""Edits without the positions at which they change nothing.

Both runs of a pair are the same to the last bit in front of the first token that differs: with the image first and
other words behind it, at every image token. There a new value is the old one, so a patch "at all positions" is one at
the few that differ, and its suffix is as short.

A value that is the base run's is still needed where an earlier edit of the same variant can reach: there it undoes what
that edit did. So edits go in the order of the forward pass, and a position is dropped only where no earlier edit
reaches it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from notice_lens.patching.engine.causal.plan import LEAVES, DecoderEdit, DecoderVariant
from notice_lens.patching.engine.causal.reach import suffix
from notice_lens.patching.engine.causal.record import Record

if TYPE_CHECKING:
    from notice_lens.patching.engine.causal.replay import ValueSource

ORDER = {leaf: number for number, leaf in enumerate(LEAVES)}


class Trim:
    """Drops positions at which the values of another run are the base run's.

    Args:
        base: The run that is patched.
        sources: Where new values come from. Those that are no runs are taken to differ everywhere, and so is the base
            run itself: its patches measure the noise floor, and have to be carried out for that.
    """

    def __init__(self, base: Record, sources: Mapping[str, "ValueSource"]) -> None:
        self.base, self.sources = base, sources
        self._differ: dict[tuple[str, str, int], np.ndarray | None] = {}
        self._reached: dict[bytes, np.ndarray] = {}
        self._index: dict[tuple[int, ...], np.ndarray] = {}

    def variant(self, variant: DecoderVariant) -> DecoderVariant:
        """Return a variant without such positions; with its first edit at no position where nothing is left."""
        if len(variant) == 1 and len(variant[0].positions) == 1:
            return variant
        kept: list[DecoderEdit] = []
        changed = np.zeros(self.base.length, bool)
        for edit in sorted(variant, key=lambda one: (one.layer, ORDER[one.leaf])):
            differ = self._differs(edit)
            index = self._index.setdefault(edit.positions, np.array(edit.positions, int))
            if differ is not None:
                wanted = (differ | self._reach(changed))[index]
                if not wanted.all():
                    index = index[wanted]
                    edit = replace(edit, positions=tuple(index.tolist()))
            changed[index] = True
            if len(index):
                kept.append(edit)
        return tuple(kept) or (replace(variant[0], positions=()),)

    def _differs(self, edit: DecoderEdit) -> Bool[np.ndarray, " pos"] | None:
        """Return where an edit's new values are not the base run's; None where that is not asked."""
        source = self.sources.get(edit.source)
        if not isinstance(source, Record) or source is self.base or LEAVES[edit.leaf].keys:
            return None
        place = edit.source, edit.leaf, edit.layer
        if place not in self._differ:
            old, new = (run.value(edit.leaf, edit.layer) for run in (self.base, source))
            self._differ[place] = _unlike(old, new) if old.shape == new.shape else None  # donors' prompts may be longer
        differ = self._differ[place]
        if differ is None:
            return None
        return np.asarray(differ.any(-1)) if edit.head is None else differ[:, edit.head]

    def _reach(self, changed: Bool[np.ndarray, " pos"]) -> Bool[np.ndarray, " pos"]:
        """Return the positions that a change at some positions can reach."""
        key = changed.tobytes()
        if key not in self._reached:
            positions = np.flatnonzero(changed).tolist()
            found = suffix(self.base.seen, positions, self.base.length).numpy() if positions else changed.copy()
            self._reached[key] = found
        return self._reached[key]


def _unlike(old: Tensor, new: Tensor) -> Bool[np.ndarray, "pos head"]:
    """Return where two runs' values [pos, head, width] differ; of activations without heads, [pos, 1]."""
    heads = old.shape[1] if old.ndim == 3 else 1
    return (old != new).reshape(len(old), heads, -1).any(-1).cpu().numpy()


def trimmed(
    base: Record, variants: Sequence[DecoderVariant], sources: Mapping[str, "ValueSource"]
) -> list[DecoderVariant]:
    """Return variants without positions at which they change nothing."""
    trim = Trim(base, sources)
    return [trim.variant(variant) for variant in variants]
