"""`patch_inputs` on a HookedBLIP: the wave between two inputs of one example, without pairs.

Site, groups of positions  ->  HookEdit for each cell  ->  Plan  ->  Wave  ->  logits  ->  metric
"""

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

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

if TYPE_CHECKING:
    from tqdm.auto import tqdm


class BetweenInputs(NamedTuple):
    """The parts of a patch between two inputs of BLIP.

    Attributes:
        model: The model.
        site: What is patched.
        run: The base run, with the other one as a source.
        length: Positions of the site's stack.
        token_ids: Of these positions, where they are words; None elsewhere.
        unpatched: The logits of the base run and of the other one.
    """

    model: HookedBLIP
    site: Site
    run: Run
    length: int
    token_ids: Tensor | None
    unpatched: tuple[Tensor, Tensor]

    @classmethod
    def of(
        cls, model: HookedBLIP, base_inputs: Any, other_inputs: Any, site: str | None, layers: Any, heads: Any
    ) -> "BetweenInputs":
        """Record both runs.

        Raises:
            ValueError: There is no such site, layer or head; or the inputs are not of one example, or differ in length.
            TypeError: They are not inputs of BLIP.
        """
        name = model.cfg.default_site if site is None else site
        checked = Site.of(model, name, layers=layers, heads=heads, positions="all")
        base, other = (_ready(model, inputs) for inputs in (base_inputs, other_inputs))
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
    def cells(self) -> list[tuple[int | None, int | None]]:
        """Layer and head of every cell."""
        return list(product(self.site.layers or (None,), self.site.heads or (None,)))

    def edits(self, groups: Sequence[tuple[int, ...]], source: str) -> list[list[HookEdit[Index]]]:
        """Return the edit of every cell at every group of positions."""
        has_keys = axes(self.model.cfg, self.site.stack, self.site.activation)[1] is not None
        return [
            [HookEdit(self.site.hook(layer), np.array(group), source, head, self._keys() if has_keys else None)]
            for layer, head in self.cells
            for group in groups
        ]

    def _keys(self) -> Index:
        stack = axes(self.model.cfg, self.site.stack, self.site.activation)[1]
        assert stack is not None, "asked of scores and patterns alone"
        return np.arange(self.run.base.states[stack].shape[1])

    @torch.no_grad()
    def values(
        self, edits: Sequence[list[HookEdit[Index]]], metric: LogitMetric, memory: int | None, bar: "tqdm[Any]"
    ) -> Float[Tensor, " row"]:
        """Return the metric of each row."""
        lengths = {stack: states.shape[1] for stack, states in self.run.base.states.items()}
        stacks = self.model.cfg.stacks
        passed = {stack: lengths[stack] for stack in stacks[stacks.index(self.site.stack) :]}
        size = rows_that_fit(self.model, memory, bytes_per_row(self.model, passed, self.model.cfg.d_read_out))
        found = []
        for start in range(0, len(edits), size):
            some = edits[start : start + size]
            wave = Wave(self.run, Plan(self.run.shapes, [0] * len(some), some, 1))
            found.append(self.measured(self.model.head(wave.read_out(wave.encode())[1:]), metric))
            bar.update(len(some))
        return torch.cat(found)

    @staticmethod
    def measured(logits: Tensor, metric: LogitMetric) -> Float[Tensor, " row"]:
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
