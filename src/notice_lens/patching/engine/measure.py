"""From the variants of a grid to numbers: the rows of each pair, and the metrics of each row.

A *variant* is the edits of one patched run, its positions given by label. For each pair it becomes a *row* (none where
the pair lacks the label):

1. once with the values of the other run (`matched`),
2. once with those of the mismatched donor, where that control is on (`mismatched`),
3. once for each set of hook points with the base run's own values (`self`): whatever that changes is floating-point
   noise.

An engine computes the rows; see `protocol.py`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from notice_lens.models.hook_names import HookName
from notice_lens.patching.engine.memory import Arrays
from notice_lens.patching.engine.metrics import ReadOut
from notice_lens.patching.engine.plan import END, HookEdit, LabelledPositions
from notice_lens.patching.engine.protocol import PairRuns
from notice_lens.patching.engine.read_out import combined
from notice_lens.patching.engine.receivers import Receiver
from notice_lens.patching.engine.rows import Index
from notice_lens.patching.positions import Positions

MATCHED, MISMATCHED, SELF = "matched", "mismatched", "self"


class Variant(NamedTuple):
    """The edits of one patched run, for any pair.

    Attributes:
        at: The index of its numbers in the result, the pair left out.
        edits: The edits; of a path, those of its sender.
        receiver: The end of a path; None where the edits themselves are the patch.
    """

    at: tuple[int, ...]
    edits: tuple[HookEdit[LabelledPositions], ...]
    receiver: Receiver | None = None


@dataclass(frozen=True)
class PairVariant:
    """A variant of one pair.

    Attributes:
        pair: Its number in the batch.
        variant: The variant.
        role: `matched`, `mismatched` or `self`.
        edits: The edits at the pair's own positions, for each context.
        start: The stack and layer in which it joins the wave, as numbers to sort by.
    """

    pair: int
    variant: Variant
    role: str
    edits: tuple[list[HookEdit[Index]], ...]
    start: tuple[int, int]

    def control(self, role: str) -> "PairVariant":
        """Return the same row with the sources of a control."""
        sources = {"other": "donor"} if role == MISMATCHED else {}
        edits = tuple(
            [edit.by(SELF if role == SELF else sources.get(edit.source, edit.source)) for edit in own]
            for own in self.edits
        )
        return PairVariant(self.pair, self.variant, role, edits, self.start)


def rows_of(
    runs: Sequence[PairRuns],
    stacks: Sequence[str],
    positions: Positions,
    pairs: Sequence[int],
    variants: Sequence[Variant],
    controls: Collection[str],
    available: Mapping[str, Bool[np.ndarray, " pair"]],
) -> Iterator[PairVariant]:
    """Yield every row of a batch: each variant of each pair that has its labels, with its controls.

    Args:
        runs: The runs of the batch.
        stacks: Of the model, in their order.
        positions: Of all pairs.
        pairs: The numbers of the batch's pairs.
        variants: What to measure.
        controls: Of `self` and `mismatched`.
        available: For sources that some pairs lack, which of all pairs have them.
    """
    # What is the same for all pairs is worked out once: a sweep has a thousand rows for each pair.
    prepared = [
        (
            one,
            {edit.source for edit in one.edits},
            (*(edit.hook for edit in one.edits), one.receiver),
            _start(one, stacks),
        )
        for one in variants
    ]
    for pair, number in enumerate(pairs):
        lookups = [_Lookup(one, positions, pair, number) for one in runs]
        without = {source for source, having in available.items() if not having[number]}
        tested: set[Any] = set()
        for variant, sources, hooks, start in prepared:
            if not without.isdisjoint(sources):
                continue
            edits = tuple([lookup.placed(edit) for edit in variant.edits] for lookup in lookups)
            if any(None in own for own in edits):
                continue
            row = PairVariant(pair, variant, MATCHED, edits, start)  # pyright: ignore[reportArgumentType]
            yield row
            if MISMATCHED in controls and "donor" not in without and "other" in sources:
                yield row.control(MISMATCHED)
            if SELF in controls and hooks not in tested:
                tested.add(hooks)
                yield row.control(SELF)


class _Lookup:
    """The positions that labels mean in one pair; each is looked up once, whatever the layer and head."""

    def __init__(self, runs: PairRuns, positions: Positions, pair: int, number: int) -> None:
        self.runs, self.positions, self.pair, self.number = runs, positions, pair, number
        self.known: dict[LabelledPositions, Index] = {}

    def placed(self, edit: HookEdit[LabelledPositions]) -> HookEdit[Index] | None:
        """Return an edit at the pair's own positions; None where the pair lacks a label."""
        positions = self._at(edit.positions)
        keys = None if edit.keys is None else self._at(edit.keys)
        if not len(positions) or (keys is not None and not len(keys)):
            return None
        return HookEdit(edit.hook, positions, edit.source, edit.head, keys)

    def _at(self, label: LabelledPositions) -> Index:
        if label not in self.known:
            length = self.runs.real_length(label.axis, self.pair)
            self.known[label] = self.positions.of(self.number, label.name, label.axis, length)
        return self.known[label]


def _start(variant: Variant, stacks: Sequence[str]) -> tuple[int, int]:
    """Return the stack and layer in which a variant joins the wave."""
    receiver = variant.receiver
    names = [
        HookName.parse(hook)
        for hook in ([edit.hook for edit in variant.edits] if receiver is None else [receiver.hook])
    ]
    outside = END if receiver is not None else -1
    return min((stacks.index(name.stack or stacks[0]), outside if name.layer is None else name.layer) for name in names)


class Measured(NamedTuple):
    """The read-outs of rows, and of the base row of each in the same call.

    Attributes:
        rows: The rows.
        patched: Of the rows.
        base: Of their base rows.
    """

    rows: list[PairVariant]
    patched: ReadOut
    base: ReadOut

    def numbers(self) -> Arrays:
        """Return the metrics of each row, by name. [row]."""
        patched, base = self.patched, self.base
        values = {
            "answer_prob": patched.answer_prob,
            "prob_change": patched.answer_prob - base.answer_prob,
            "logit_diff_change": patched.logit_diff - base.logit_diff,
            "kl": patched.kl,
            "accuracy": patched.accuracy,
            **patched.custom,
        }
        return {name: value.cpu().numpy() for name, value in values.items()}


def baselines(runs: Sequence[PairRuns]) -> Arrays:
    """Return the metrics of a batch's unpatched runs, `logit_diff_clean` and so on. [pair]; NaN without a donor."""
    has_donor = runs[0].has_donor
    everyone = np.arange(len(has_donor))
    arrays = {}
    for which in runs[0].unpatched:
        read_out = combined([one.read_logits(one.unpatched[which].logits, everyone) for one in runs])
        for name in ("logit_diff", "answer_prob", "accuracy"):
            values = getattr(read_out, name).cpu().numpy()
            arrays[f"{name}_{which}"] = np.where(has_donor, values, np.nan) if which == "donor" else values
    return arrays
