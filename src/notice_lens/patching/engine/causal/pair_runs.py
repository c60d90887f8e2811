"""The recorded runs of one pair of a hosted model, and the metrics of its rows: by the wave, by paths, by passes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from notice_lens.models.hook_names import HookName
from notice_lens.patching.engine.causal.given import Given
from notice_lens.patching.engine.causal.paths import DecoderPath, PathWalk, Received, edits_of
from notice_lens.patching.engine.causal.plan import DecoderVariant
from notice_lens.patching.engine.causal.reading import UnpatchedRun
from notice_lens.patching.engine.causal.readout import LOGITS_AT_ONCE
from notice_lens.patching.engine.causal.record import Record
from notice_lens.patching.engine.causal.site import leaf_of
from notice_lens.patching.engine.causal.tower_paths import (
    SentStream,
    by_sender,
    image_positions,
    sending,
    sent_streams,
)
from notice_lens.patching.engine.causal.upstream import (
    length_of,
    logits_of_rows,
    rows_at_once,
)
from notice_lens.patching.engine.causal.wave import CausalWave
from notice_lens.patching.engine.metrics import ReadOut
from notice_lens.patching.engine.plan import HookEdit
from notice_lens.patching.engine.read_out import AnswerReading
from notice_lens.patching.engine.receivers import Receiver
from notice_lens.patching.engine.rows import Index


class Activations(Mapping[str, Tensor]):
    """The activations of a recorded run by hook point, with a batch of one.

    Args:
        run: The run.
        hooks: The hook points that were recorded.
    """

    def __init__(self, run: Record, hooks: Sequence[str]) -> None:
        self.run, self.hooks = run, list(hooks)

    def __getitem__(self, hook: str) -> Tensor:
        return self.run.value(*place_of(hook))[None]

    def __iter__(self) -> Iterator[str]:
        return iter(self.hooks)

    def __len__(self) -> int:
        return len(self.hooks)


class FromHooks:
    """A source of new values by leaf and layer, from values by hook point.

    Args:
        values: Of one pair, [1, pos, ...].
    """

    def __init__(self, values: Mapping[str, Tensor], hooks: Sequence[str]) -> None:
        self.values = values
        self.names = {place_of(hook): hook for hook in hooks}

    def value(self, leaf: str, layer: int) -> Tensor:
        """Return an activation of a layer, [pos, ...]; [head, query_pos, key_pos] for scores and patterns."""
        return self.values[self.names[leaf, layer]][0]


def place_of(hook: str) -> tuple[str, int]:
    """Return the leaf of the wave, and the layer, of a hook point."""
    name = HookName.parse(hook)
    assert name.layer is not None, "sites are checked"
    return leaf_of(name.leaf), name.layer


class CausalRuns:
    """The recorded runs of one pair, with one of its answers teacher-forced or none; `PairRuns`.

    Attributes:
        unpatched: The runs by name.
        base: The run that is patched.
        sources: Where new values come from, by name.
        reading: Whose answer is read.
        upstream: The same before the language model's blocks.
        has_donor: Whether the pair has a mismatched run.
    """

    def __init__(
        self,
        unpatched: Mapping[str, Record],
        base: Record,
        sources: Mapping[str, Any],
        reading: AnswerReading,
        has_donor: bool,
        upstream: "Upstream",
    ) -> None:
        self.unpatched = {name: UnpatchedRun(run.logits[None]) for name, run in unpatched.items()}
        self.base, self.sources, self.reading = base, sources, reading
        self.has_donor, self.upstream = np.array([has_donor]), upstream

    def real_length(self, stack: str, pair: int) -> int:
        """Return how many positions can be patched: those of the prompt; of another stack, all of the image's."""
        if stack == "language":
            return self.base.readouts[0] + 1
        if any(self.base.decoder.is_cross) and stack == "projector":
            crossing = self.base.decoder.is_cross.index(True)
            return self.base.attended[crossing].keys.shape[1]
        return self.upstream.length(stack)

    def read_logits(self, logits: Tensor, pairs: Index, base: Tensor | None = None) -> ReadOut:
        """Return the metrics of rows from their logits; see `AnswerReading.metrics`."""
        return self.reading.metrics(logits, pairs, base)

    def read_out(self, variants: Sequence[DecoderVariant], memory: int) -> ReadOut:
        """Return the metrics of variants."""
        return self._read(CausalWave(self.base, variants, self.sources, memory).readouts())

    def read_paths(self, paths: Sequence[DecoderPath], memory: int) -> ReadOut:
        """Return the metrics of paths in the language model."""
        return self._read(self._path_states(paths, self.sources, memory))

    def read_tower_paths(
        self, rows: Sequence[Sequence[HookEdit[Index]]], ends: Sequence[Receiver], memory: int
    ) -> ReadOut:
        """Return the metrics of paths whose senders are before the language model's blocks.

        Args:
            rows: The edits of each path's sender.
            ends: The receiver of each.
            memory: Bytes that may be taken.
        """
        states = self.base.out[-1][list(self.base.readouts)].repeat(len(rows), 1, 1)
        image = image_positions(self.upstream.given)
        for freeze_mlp, senders in by_sender(rows, ends).items():
            for some, streams in self.upstream.streams([(own, rows[own[0]]) for own in senders], freeze_mlp, memory):
                sources = {f"sender {n}": SentStream(stream) for n, stream in enumerate(streams)}
                sent = {n: sending(image, f"sender {at}") for at, own in enumerate(some) for n in own}
                free = [number for number in sent if HookName.parse(ends[number].hook).layer is None]
                if free:
                    wave = CausalWave(self.base, [sent[number] for number in free], sources, memory)
                    states[free] = wave.readouts()
                walked = [number for number in sent if number not in free]
                if walked:
                    paths = [DecoderPath(sent[number], ends[number]) for number in walked]
                    states[walked] = self._path_states(paths, {**self.sources, **sources}, memory)
        return self._read(states)

    def _path_states(
        self, paths: Sequence[DecoderPath], given: Mapping[str, Any], memory: int
    ) -> Float[Tensor, "row answer_pos d_model"]:
        """Return what the last block writes at the read-outs in each path's fourth run."""
        states = self.base.out[-1][list(self.base.readouts)].repeat(len(paths), 1, 1)
        # Half of the memory is for what receivers took in, which the wave reads afterwards.
        walk = PathWalk(self.base, given, paths, memory // 2)
        for load in walk.loads():
            variants: dict[int, DecoderVariant] = {}
            sources = dict(given)
            for number, found in walk.received(load):
                if isinstance(found, Received):
                    source = f"path {number}"
                    sources[source], variants[number] = found, edits_of(paths[number], found, source)
                else:
                    states[number] = found
            if variants:
                read = CausalWave(self.base, list(variants.values()), sources, memory // 2).readouts()
                states[list(variants)] = read
        return states

    def _read(self, states: Float[Tensor, "row answer_pos d_model"]) -> ReadOut:
        """Return the metrics of rows from what the last block wrote at the read-outs."""
        run, decoder = self.base, self.base.decoder
        each = decoder.head_width * states.shape[1] * max(4, states.element_size())
        base = self.reading.first_token(run.logits[None], np.zeros(1, np.int64))
        parts = []
        for some in states.split(max(1, LOGITS_AT_ONCE // each)):
            logits = decoder.logits(some.flatten(0, 1), run.capped).unflatten(0, some.shape[:2])
            parts.append(self.reading.metrics(logits, np.zeros(len(some), np.int64), base))
        return ReadOut.joined(parts)

    def read_upstream(self, rows: Sequence[Sequence[HookEdit[Index]]], memory: int) -> ReadOut:
        """Return the metrics of rows that are edited before the language model's blocks, by forward passes."""
        base = self.reading.first_token(self.base.logits[None], np.zeros(1, np.int64))
        parts = []
        for logits in self.upstream.logits(rows, self.base.readouts, memory):
            parts.append(self.reading.metrics(logits, np.zeros(len(logits), np.int64), base))
        return ReadOut.joined(parts)

    def read_base(self) -> ReadOut:
        """Return the metrics of the base run."""
        logits = self.base.logits[None]
        nobody = np.zeros(1, np.int64)
        return self.reading.metrics(logits, nobody, self.reading.first_token(logits, nobody))


class Upstream:
    """Rows of one run that are edited before the language model's blocks.

    Args:
        given: The input of that run.
        sources: New values by source and hook point, [1, pos, ...].
    """

    def __init__(self, given: Given, sources: Mapping[str, Mapping[str, Tensor]]) -> None:
        self.given, self.sources = given, sources

    def length(self, stack: str) -> int:
        """Return how many positions of a stack can be patched, by the activations that were kept of it."""
        return length_of(self.given.model, stack, self.sources["self"])

    def logits(
        self, rows: Sequence[Sequence[HookEdit[Index]]], readouts: Sequence[int], memory: int
    ) -> Iterator[Tensor]:
        """Yield the logits at the read-outs of rows, [row, answer_pos, d_vocab], as many at a time as fit."""
        size = self._rows_at_once(memory)
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            yield logits_of_rows(self.given, some, self.sources, readouts)

    def streams(
        self, senders: Sequence[tuple[list[int], Sequence[HookEdit[Index]]]], freeze_mlp: bool, memory: int
    ) -> Iterator[tuple[list[list[int]], Tensor]]:
        """Yield the stream that each sender sends into the language model, as many at a time as fit.

        Args:
            senders: The numbers of each one's paths, and its edits.
            freeze_mlp: Whether MLPs of the tower keep what they write.
            memory: Bytes that may be taken.
        """
        size = self._rows_at_once(memory)
        for start in range(0, len(senders), size):
            some = senders[start : start + size]
            yield [own for own, _ in some], sent_streams(self.given, [row for _, row in some], self.sources, freeze_mlp)

    def _rows_at_once(self, memory: int) -> int:
        tower = max((values.shape[1] for values in self.sources["self"].values()), default=0)
        return rows_at_once(self.given.model, self.given.inputs, tower, memory)
