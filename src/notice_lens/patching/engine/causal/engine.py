"""The causal engine for pairs: their runs recorded one by one, and the rows of each sent through the causal wave."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from notice_lens.patching.engine.causal.check import check_patches, is_tested, refuse_failures
from notice_lens.patching.engine.causal.decoder import Decoder
from notice_lens.patching.engine.causal.given import Given
from notice_lens.patching.engine.causal.logit_lens import ReadStream, stream_reader
from notice_lens.patching.engine.causal.memory import memory_for
from notice_lens.patching.engine.causal.pair_runs import Activations, CausalRuns, FromHooks, Upstream, place_of
from notice_lens.patching.engine.causal.paths import DecoderPath, DecoderPaths
from notice_lens.patching.engine.causal.plan import DecoderEdit
from notice_lens.patching.engine.causal.reading import answer_reading, forced_answers
from notice_lens.patching.engine.causal.record import Record, record
from notice_lens.patching.engine.causal.tower_paths import frozen_by
from notice_lens.patching.engine.causal.upstream import (
    is_upstream,
    upstream_activations,
)
from notice_lens.patching.engine.measure import Measured, PairVariant
from notice_lens.patching.engine.metrics import ReadOut
from notice_lens.patching.engine.pair_batch import References, Setting
from notice_lens.patching.engine.plan import HookEdit
from notice_lens.patching.engine.protocol import Chunks, GradientSource, HookedRun
from notice_lens.patching.engine.read_out import combined
from notice_lens.patching.engine.rows import Index
from notice_lens.patching.engine.sources import computed

if TYPE_CHECKING:
    from notice_lens.models.vlm.hooked_vlm import HookedVLM
    from notice_lens.pairs.minimal_pair import MinimalPair
    from notice_lens.patching.gradient.targets import Target
    from notice_lens.patching.grid import Grid
    from notice_lens.patching.prepare import Prepared

KEPT_OF_A_ROW = 3
"""What goes into a block, what comes out and both put together, while a row passes."""


class CausalEngine:
    """Runs pairs of a hosted model and measures rows; an `Engine`.

    Pairs are recorded one at a time, without padding: their rows share the run of their own pair alone.

    Args:
        prepared: The pairs.
        grid: The grid of edits to measure.
        donors: Whether rows take values from mismatched donors.

    Raises:
        ValueError: The model has blocks that the wave cannot replay.
    """

    def __init__(self, prepared: "Prepared", grid: "Grid", donors: bool) -> None:
        self.prepared, self.grid = prepared, grid
        self.model: HookedVLM = prepared.model  # pyright: ignore[reportAttributeAccessIssue] -- see `engine_of`
        self.decoder = Decoder.of(self.model)
        self.donors = donors or "donor" in grid.hooks
        self.checked = is_tested(self.decoder)

    @cached_property
    def recorded(self) -> list[str]:
        """Hook points whose values are read; attention that is cut needs no values."""
        cut = set(self.grid.hooks.get("cut", ())) - {
            hook for source, hooks in self.grid.hooks.items() if source != "cut" for hook in hooks
        }
        return [hook for hook in self.grid.recorded if hook not in cut]

    @cached_property
    def upstream_hooks(self) -> list[str]:
        """Hook points of rows that are edited before the language model's blocks, which may be edited elsewhere too."""
        rows = [[edit.hook for edit in variant.edits] for variant in self.grid.variants]
        hooks = {hook for own in rows if any(map(is_upstream, own)) for hook in own}
        made_of = [hook for hook in self.recorded if is_upstream(hook)]
        return list(dict.fromkeys([*(hook for hook in self.recorded if hook in hooks), *made_of]))

    @cached_property
    def bytes_of_row(self) -> int:
        """Bytes of the stream that a row keeps, at most: that of the longest pair."""
        length, size = self.prepared.lengths["language"], torch.finfo(self.model.dtype).bits // 8
        return KEPT_OF_A_ROW * length * self.model.cfg.language.d_model * size

    @staticmethod
    def together() -> int:
        """Return 1: each pair is recorded separately, since padding would move positions."""
        return 1

    @staticmethod
    def hooked_run(model: Any, inputs: Any, hooks: Sequence[str], before: HookedRun | None = None) -> HookedRun:
        """Return a run whose activations at some hook points are kept."""
        return HookedRun(upstream_activations(model, inputs, hooks))

    @staticmethod
    def paths(model: Any) -> DecoderPaths:
        """Return which parts of a model send and receive."""
        return DecoderPaths(model)

    @staticmethod
    def gradients(prepared: "Prepared", targets: "Sequence[Target]", steps: int, path: str) -> GradientSource:
        """Return the gradients of an attribution."""
        from notice_lens.patching.gradient.hosted import HostedGradients

        return HostedGradients(prepared, targets, steps, path)

    @staticmethod
    def stream_reader(model: Any) -> ReadStream:
        """Return the logit lens of a model. Raises ValueError if its unembedding's weights cannot be read."""
        return stream_reader(model)

    def plan(self) -> Chunks:
        """Return how many rows fit into the budget at a time; pairs go one by one."""
        memory = self.prepared.options.memory
        limit = memory_for(self.model.hf_model, None if memory is None else int(memory))
        return Chunks(max(1, limit // self.bytes_of_row), 1)

    def runs(self, pairs: list[int], setting: Setting, references: References | None) -> list[CausalRuns]:
        """Return the recorded runs of one pair: once for each teacher-forced answer, or just once."""
        (number,) = pairs
        pair, foil = self.prepared.pairs[number], self.prepared.foils[number]
        answers = forced_answers(self.model, pair, foil)
        return [self._runs(pair, setting, answer, foil, references) for answer in answers]

    def _runs(
        self,
        pair: "MinimalPair",
        setting: Setting,
        answer: str | None,
        foil: str,
        references: References | None,
    ) -> CausalRuns:
        has_donor = pair.record["donor_prompt" if setting.by_text else "donor_digest"] is not None
        hooks = [hook for hook in self.recorded if not is_upstream(hook)]
        given = {
            which: Given.of(self.model, pair, setting, which, answer)
            for which in ("clean", "corrupt", *(["donor"] if self.donors and has_donor else []))
        }
        unpatched = {which: self._recorded(own, answer) for which, own in given.items()}
        names = ("clean", "corrupt") if setting.direction == "noise" else ("corrupt", "clean")
        base, other = (unpatched[name] for name in names)
        if not self.checked:
            with given[names[0]].running():
                refuse_failures(check_patches(given[names[0]].inputs, base, other), self.decoder)
            self.checked = True
        sources: dict[str, Any] = {"other": other, "self": base}
        if "donor" in unpatched:
            sources["donor"] = unpatched["donor"]
        activations = [Activations(run, hooks) for run in (base, other)]
        more = dict(computed(*activations)) | (
            {} if references is None else dict(references.sources(activations[0], None if answer is None else [answer]))
        )
        sources |= {name: FromHooks(values, hooks) for name, values in more.items()}
        upstream = self._upstream(given, names, answer, references)
        reading = answer_reading(self.model, pair, foil, answer, setting)
        return CausalRuns(unpatched, base, sources, reading, has_donor, upstream)

    def _upstream(
        self,
        given: Mapping[str, Given],
        names: tuple[str, str],
        answer: str | None,
        references: References | None,
    ) -> Upstream:
        """Return the data for rows that are edited before the language model's blocks."""
        hooks = self.upstream_hooks
        if not hooks:
            return Upstream(given[names[0]], {})
        # What paths freeze in the tower is asked of the base run alone.
        kept = dict.fromkeys(given, hooks)
        kept[names[0]] = list(dict.fromkeys([*hooks, *frozen_by(self.model, self.grid)]))
        found = {
            which: upstream_activations(self.model, own.inputs, kept[which], own.noise())
            for which, own in given.items()
        }
        base, other = (found[name] for name in names)
        sources: dict[str, Mapping[str, Tensor]] = {"self": base, "other": other, **computed(base, other)}
        if "donor" in found:
            sources["donor"] = found["donor"]
        if references is not None:
            sources |= references.sources(base, None if answer is None else [answer])
        return Upstream(given[names[0]], sources)

    def _recorded(self, given: Given, answer: str | None) -> Record:
        """Return a recorded run."""
        first = self.model.layout(given.inputs, [given.prompt]).read_out[0]
        n_answer = 1 if answer is None else len(self.model.answer_ids(given.prompt, answer))
        leaves = dict.fromkeys(place_of(hook)[0] for hook in self.recorded if not is_upstream(hook))
        if any(receiver.freeze_mlp for receiver in self.grid.receivers):
            leaves["hook_mlp_out"] = None
        with given.running():
            return record(self.decoder, given.inputs, tuple(leaves), range(first, first + n_answer))

    def measure(self, runs: Sequence[CausalRuns], rows: Iterable[PairVariant], fit: int) -> Iterator[Measured]:
        """Measure rows, `fit` of them in memory at a time."""
        memory = fit * self.bytes_of_row
        base = combined([one.read_base() for one in runs])
        by_kind: dict[str, list[PairVariant]] = {}
        for row in rows:
            by_kind.setdefault(_kind(row), []).append(row)
        for kind, own in by_kind.items():
            read_outs = [self._read_out(one, number, kind, own, memory) for number, one in enumerate(runs)]
            yield Measured(own, combined(read_outs), base.take(torch.zeros(len(own), dtype=torch.long)))

    @staticmethod
    def _read_out(one: CausalRuns, number: int, kind: str, rows: Sequence[PairVariant], memory: int) -> ReadOut:
        """Return the metrics of rows of one kind in one of the runs."""
        edits = [row.edits[number] for row in rows]
        ends = [row.variant.receiver for row in rows if row.variant.receiver is not None]
        if kind == "upstream":
            return one.read_upstream(edits, memory)
        if kind == "tower path":
            return one.read_tower_paths(edits, ends, memory)
        variants = [_variant(own) for own in edits]
        if kind == "wave":
            return one.read_out(variants, memory)
        return one.read_paths([DecoderPath(own, end) for own, end in zip(variants, ends, strict=True)], memory)


def _kind(row: PairVariant) -> str:
    """Return how a row is computed: as a path, by whole forward passes (`upstream`), or by the `wave`."""
    before = any(is_upstream(edit.hook) for edit in row.edits[0])
    if row.variant.receiver is not None:
        return "tower path" if before else "path"
    return "upstream" if before else "wave"


def _variant(edits: Sequence[HookEdit[Index]]) -> tuple[DecoderEdit, ...]:
    """Return a row's edits as the wave takes them."""
    found = []
    for edit in edits:
        leaf, layer = place_of(edit.hook)
        keys = None if edit.keys is None else tuple(edit.keys.tolist())
        found.append(DecoderEdit(leaf, layer, tuple(edit.positions.tolist()), edit.head, edit.source, keys))
    return tuple(found)
