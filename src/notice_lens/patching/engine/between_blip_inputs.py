"""Patches between two inputs of BLIP, without pairs, for `patch_inputs`: its wave on one example."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from notice_lens.models.blip.hooked_blip import HookedBLIP
from notice_lens.models.blip.inputs import BLIPInputs
from notice_lens.models.blip.steps import EMBEDDING
from notice_lens.models.protocol import axes
from notice_lens.patching.edits import Site
from notice_lens.patching.engine.causal.readout import LogitMetric, checked_values
from notice_lens.patching.engine.memory import bytes_per_row, rows_that_fit
from notice_lens.patching.engine.metrics import precise
from notice_lens.patching.engine.plan import HookEdit, Plan
from notice_lens.patching.engine.rows import Index
from notice_lens.patching.engine.runs import Run, Trace, attn_results, trace
from notice_lens.patching.engine.sources import computed
from notice_lens.patching.engine.wave import Wave
from notice_lens.patching.input_checks import check_runnable


class BetweenBLIPInputs(NamedTuple):
    """The runs of two inputs of BLIP, as `between_inputs.BetweenInputs`.

    Attributes:
        model: The model.
        site: The patched site.
        run: The base run, with the other one as a source.
        length: Positions of the site's stack.
        token_ids: Of these positions, where they are words; None elsewhere.
        logits: Of the base run and of the other one.
    """

    model: HookedBLIP
    site: Site
    run: Run
    length: int
    token_ids: Tensor | None
    logits: tuple[Tensor, Tensor]

    @classmethod
    def of(
        cls, model: HookedBLIP, clean: Any, corrupted: Any, from_clean: bool, site: str | None, layers: Any, heads: Any
    ) -> "BetweenBLIPInputs":
        """Record both runs; see `between`."""
        check_runnable(model)
        name = model.cfg.default_site if site is None else site
        checked = Site.of(model, name, layers=layers, heads=heads, positions="all")
        ends = (corrupted, clean) if from_clean else (clean, corrupted)
        base, other = (_ready(model, inputs) for inputs in ends)
        hooks = [checked.hook(layer) for layer in checked.layers or (None,)]
        stacks = model.cfg.stacks[model.cfg.stacks.index(checked.stack) :]
        streams = [
            f"{stack}.blocks.{layer}.hook_resid_pre" for stack in stacks for layer in range(model.cfg.n_layers[stack])
        ]
        embeddings = [] if checked.layers else [f"{checked.stack}.{hook}" for hook in EMBEDDING]
        with attn_results(model, hooks):
            runs = [trace(model, base, [*hooks, *streams, *embeddings]), trace(model, other, hooks)]
        _check_lengths(*runs)
        sources = {"other": runs[1].activations, **computed(*(run.activations for run in runs))}
        run = Run(model, runs[0], sources)
        axis = axes(model.cfg, checked.stack, checked.activation)[0]
        ids = {"text": base.input_ids, "decoder": base.answer_ids if model.cfg.kind == "vqa" else base.input_ids}
        words = ids.get(axis)
        length = runs[0].states[axis].shape[1]
        logits = (runs[0].logits, runs[1].logits)
        return cls(model, checked, run, length, None if words is None else words[0], logits)

    @property
    def model_name(self) -> str:
        """Return the checkpoint's name, or the model's class."""
        return self.model.cfg.name_or_path or type(self.model).__name__

    @property
    def dtype(self) -> torch.dtype:
        """Return the model's dtype."""
        return self.model.dtype

    def edits(self, groups: Sequence[tuple[int, ...]], source: str) -> list[list[HookEdit[Index]]]:
        """Return the edit of every cell at every group of positions; see `BetweenInputs`."""
        has_keys = axes(self.model.cfg, self.site.stack, self.site.activation)[1] is not None
        return [
            [HookEdit(self.site.hook(layer), np.array(group), source, head, self._keys() if has_keys else None)]
            for layer, head in product(self.site.layers or (None,), self.site.heads or (None,))
            for group in groups
        ]

    def of_itself(self, edit: list[HookEdit[Index]]) -> list[HookEdit[Index]]:
        """Return an edit with the base run as the source of its values."""
        return [one.by("self") for one in edit]

    def unpatched(self, metric: LogitMetric) -> tuple[float, float]:
        """Return the metric of the base run and of the other one."""
        base, other = (_measured(logits, metric).item() for logits in self.logits)
        return base, other

    def _keys(self) -> Index:
        stack = axes(self.model.cfg, self.site.stack, self.site.activation)[1]
        assert stack is not None, "asked of scores and patterns alone"
        return np.arange(self.run.base.states[stack].shape[1])

    @torch.no_grad()
    def values(
        self,
        edits: Sequence[list[HookEdit[Index]]],
        metric: LogitMetric,
        memory: int | None,
        done: Callable[[int], Any],
    ) -> Float[Tensor, " edit"]:
        """Return the metric of each edit's run; see `BetweenInputs`."""
        lengths = {stack: states.shape[1] for stack, states in self.run.base.states.items()}
        stacks = self.model.cfg.stacks
        passed = {stack: lengths[stack] for stack in stacks[stacks.index(self.site.stack) :]}
        size = rows_that_fit(self.model, memory, bytes_per_row(self.model, passed, self.model.cfg.d_read_out))
        found = []
        for start in range(0, len(edits), size):
            some = edits[start : start + size]
            wave = Wave(self.run, Plan(self.run.shapes, [0] * len(some), some, 1))
            found.append(_measured(self.model.head(wave.read_out(wave.encode())[1:]), metric))
            done(len(some))
        return torch.cat(found)


def _measured(logits: Tensor, metric: LogitMetric) -> Float[Tensor, " row"]:
    """Return the metric of logits [row, answer_pos, d_vocab], read at the last position; of matches [row, 2]."""
    return checked_values(precise(logits if logits.ndim == 2 else logits[:, -1]), metric)


def _ready(model: HookedBLIP, inputs: Any) -> BLIPInputs:
    ready = BLIPInputs.of(inputs).to(model.device).check(model.cfg)
    if len(ready) != 1:
        raise ValueError(f"inputs of {len(ready)} examples; expected those of one: loop over examples")
    return ready


def _check_lengths(base: Trace, other: Trace) -> None:
    """Raise ValueError if positions of two runs do not correspond."""
    for stack, states in base.states.items():
        n, m = states.shape[1], other.states[stack].shape[1]
        if n != m:
            raise ValueError(
                f"the two inputs have {n} and {m} positions in `{stack}`, so they do not correspond: "
                + ("resize both pictures to one size" if stack == "vision" else "replace words by as many tokens")
            )
