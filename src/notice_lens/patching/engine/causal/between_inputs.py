"""Patches between two inputs of a decoder model, without pairs, for `patch_inputs`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from notice_lens.patching.engine.causal.check import check_patches, is_tested, refuse_failures
from notice_lens.patching.engine.causal.decoder import Decoder
from notice_lens.patching.engine.causal.memory import memory_for
from notice_lens.patching.engine.causal.plan import DecoderVariant
from notice_lens.patching.engine.causal.readout import LogitMetric, metric_of_readouts
from notice_lens.patching.engine.causal.record import Record, record
from notice_lens.patching.engine.causal.site import DecoderSite
from notice_lens.patching.engine.causal.wave import CausalWave
from notice_lens.patching.input_checks import check_inputs, check_runnable, ready_for


class BetweenDecoderInputs(NamedTuple):
    """The runs of two inputs of a decoder model, as `engine.between_inputs.BetweenInputs`.

    Attributes:
        decoder: The decoder.
        site: The patched site.
        base: The run that is patched.
        other: The run that values come from.
        token_ids: Of the prompt.
    """

    decoder: Decoder
    site: DecoderSite
    base: Record
    other: Record
    token_ids: Tensor

    @classmethod
    def of(
        cls, model: Any, clean: Any, corrupted: Any, from_clean: bool, site: str | None, layers: Any, heads: Any
    ) -> "BetweenDecoderInputs":
        """Record both runs; a model of a family that is not tested is checked first, and refused if it fails."""
        decoder = Decoder.of(model)
        check_runnable(model)
        of_site = DecoderSite.of(decoder, "language.attn" if site is None else site, layers, heads)
        clean, corrupted = (ready_for(decoder.hf, inputs) for inputs in (clean, corrupted))
        check_inputs(decoder.hf, clean, corrupted)
        given, made = (corrupted, clean) if from_clean else (clean, corrupted)
        base, other = (record(decoder, inputs, (of_site.leaf,)) for inputs in (given, made))
        if not is_tested(decoder):
            refuse_failures(check_patches(given, base, other), decoder)
        return cls(decoder, of_site, base, other, clean["input_ids"][0])

    @property
    def length(self) -> int:
        """Return how many positions the prompt has."""
        return len(self.token_ids)

    @property
    def model_name(self) -> str:
        """Return the checkpoint's name, or the model's class."""
        return str(getattr(self.decoder.hf.config, "name_or_path", "") or type(self.decoder.hf).__name__)

    @property
    def dtype(self) -> torch.dtype:
        """Return the model's dtype."""
        return next(self.decoder.hf.parameters()).dtype

    def edits(self, groups: Sequence[tuple[int, ...]], source: str) -> list[DecoderVariant]:
        """Return the edit of every cell; see `BetweenInputs`."""
        return [(self.site.edit(cell, groups, source),) for cell in self.site.cells(len(groups))]

    def of_itself(self, edit: DecoderVariant) -> DecoderVariant:
        """Return an edit with the base run as the source of its values."""
        return tuple(replace(one, source="self") for one in edit)

    def values(
        self, edits: Sequence[DecoderVariant], metric: LogitMetric, memory: int | None, done: Callable[[int], Any]
    ) -> Float[Tensor, " edit"]:
        """Return the metric of each edit's run; see `BetweenInputs`."""
        sources = {"other": self.other, "self": self.base}
        wave = CausalWave(self.base, list(edits), sources, memory_for(self.decoder.hf, memory))
        return metric_of_readouts(self.decoder, wave.readouts(done)[:, -1], self.base.capped, metric)

    def unpatched(self, metric: LogitMetric) -> tuple[float, float]:
        """Return the metric of the base run and of the other one."""
        ends = torch.stack([run.out[-1][run.readouts[-1]] for run in (self.base, self.other)])
        base, other = metric_of_readouts(self.decoder, ends, self.base.capped, metric).tolist()
        return base, other
