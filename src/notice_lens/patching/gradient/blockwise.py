"""Gradients of pairs of `HookedBLIP`, block by block: the runs, the ways between them, and the memory plan."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from notice_lens.models.protocol import TABLES
from notice_lens.patching.engine.memory import budget, bytes_per_number, numbers_at
from notice_lens.patching.engine.pair_batch import Batch, Context, Recording, Setting
from notice_lens.patching.gradient.backward import Backward
from notice_lens.patching.gradient.block_gradients import BlockGradients
from notice_lens.patching.gradient.integrated import GradientStep, input_way, site_way, tangent
from notice_lens.patching.gradient.recompute import Blocks
from notice_lens.patching.gradient.targets import EMBEDDING_LAYER, Target, wanted

if TYPE_CHECKING:
    from notice_lens.models import HookedBLIP
    from notice_lens.patching.prepare import Prepared

PAIRS_DIFFERENTIATED_AT_ONCE = 64
"""Pairs that are differentiated together, at most."""


class BlockwiseGradients:
    """The gradients of an attribution; a `GradientSource`.

    Args:
        prepared: The pairs.
        targets: The sites.
        steps: Of the way from the base run to the other; 0 for the gradient at the base run.
        path: The way: `site` or `inputs`.
    """

    def __init__(self, prepared: "Prepared", targets: Sequence[Target], steps: int, path: str) -> None:
        self.prepared, self.targets, self.steps, self.path = prepared, list(targets), steps, path
        self.model = cast("HookedBLIP", prepared.model)
        self.kept: list[str] = []
        """Hook points that are kept of the other run, so that its blocks need not be run again."""

    def pairs_at_once(self) -> int:
        """Return how many pairs fit at a time: streams of the runs, and the activations and the graph of one block.

        Where there is room for one pair's activations of all blocks too, those of the other run are kept from its
        forward pass, and its blocks need not be run again.
        """
        size, limit = bytes_per_number(self.model), budget(self.model, self.prepared.options.memory)
        blockwise = size * self._numbers_blockwise()
        hooks = {
            f"{stack}.blocks.{layer}.{name}" if layer != EMBEDDING_LAYER else f"{stack}.{name}"
            for (stack, layer), names in wanted(self.targets).items()
            for name in names
            if not name.endswith(TABLES)
        }
        whole = blockwise + size * sum(numbers_at(self.model, self.prepared.lengths, hook) for hook in sorted(hooks))
        if whole <= limit:
            self.kept = sorted(hook for hook in hooks if ".blocks." in hook)
        return int(np.clip(limit // (whole if self.kept else blockwise), 1, PAIRS_DIFFERENTIATED_AT_ONCE))

    def _numbers_blockwise(self) -> int:
        """Return how many numbers one pair takes while blocks are run again one by one."""
        streams, widest, lengths = 0, 0, self.prepared.lengths
        for stack in self.model.cfg.stacks:
            cfg, pos, keys = self.model.stack(stack).cfg, lengths[stack], max(lengths.values())
            tables = sum(target.site.stack == stack and target.leaf in TABLES for target in self.targets)
            streams += (3 if self.steps else 2) * cfg.n_layers * pos * cfg.d_model
            widest = max(widest, pos * (24 * cfg.d_model + 6 * cfg.d_mlp) + 3 * tables * cfg.n_heads * pos * keys)
        return streams + widest

    def batch(self, pairs: list[int], targets: Sequence[Target], setting: Setting) -> "BlockwiseBatch":
        """Return the runs of some pairs, to differentiate with respect to some of the sites."""
        foils = [self.prepared.foils[number] for number in pairs]
        recording = Recording(Blocks(self.model).recorded, of_others=self.kept)
        runs = list(Batch(self.model, self.prepared.pairs.select(pairs), foils, setting, recording).runs())
        return BlockwiseBatch(self, runs, targets, setting.direction)


class BlockwiseBatch:
    """Some pairs; a `GradientBatch`.

    Args:
        of: Of the attribution.
        runs: The recorded runs.
        targets: The sites.
        direction: Of the patches.
    """

    def __init__(
        self, of: BlockwiseGradients, runs: Sequence[Context], targets: Sequence[Target], direction: str
    ) -> None:
        self.model, self.steps, self.path = of.model, of.steps, of.path
        self.runs, self.targets, self.direction = runs, targets, direction

    def by_block(self) -> Iterator[tuple[Sequence[int], BlockGradients]]:
        """Yield the gradients of each block, and the numbers of the targets that they are for."""
        for step in self._steps(self.targets, self.runs, self.direction):
            for found in Backward(self.model, self.runs, step.at, step.towards, step.wanted):
                yield step.targets, found

    def _steps(self, targets: Sequence[Target], contexts: Sequence[Context], direction: str) -> Iterator[GradientStep]:
        """Return the gradients to take."""
        base = [context.run.base for context in contexts]
        other = [context.clean if direction == "denoise" else context.corrupt for context in contexts]
        if not self.steps:
            return tangent(targets, base, other)
        way = site_way if self.path == "site" else input_way
        return way(Blocks(self.model), targets, base, other, self.steps)
