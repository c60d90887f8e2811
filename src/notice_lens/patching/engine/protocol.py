"""The engine protocol: the interface between a runner and the engine that runs patched models.

A sweep is measured in three steps, whatever the model: the runs of some pairs are recorded, each variant becomes rows
of these pairs, and the rows are measured. How a row is computed is the engine's business:

| engine | models | a row is |
| --- | --- | --- |
| `engine.bidirectional` | stacks whose positions see each other both ways (BLIP) | positions that grow in number |
| `engine.causal` | decoders, in which what stands before a patch does not change | the suffix behind its patch |
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from notice_lens.patching.engine.metrics import ReadOut
from notice_lens.patching.engine.rows import Index

if TYPE_CHECKING:
    from notice_lens.patching.engine.measure import Measured, PairVariant
    from notice_lens.patching.engine.pair_batch import References, Setting
    from notice_lens.patching.engine.receivers import PathRules
    from notice_lens.patching.gradient.block_gradients import BlockGradients
    from notice_lens.patching.gradient.targets import Target
    from notice_lens.patching.grid import Grid
    from notice_lens.patching.prepare import Prepared


class Chunks(NamedTuple):
    """The chunks that a sweep is cut into. A store is resumed with its own: others would round otherwise.

    Attributes:
        rows: Rows at a time.
        pairs: Pairs at a time.
    """

    rows: int
    pairs: int


@dataclass
class HookedRun:
    """A run whose activations at some hook points were kept: [pair, pos, ...] by hook point."""

    activations: Mapping[str, Tensor]


@runtime_checkable
class Unpatched(Protocol):
    """One unpatched run."""

    @property
    def logits(self) -> Tensor:
        """The logits [pair, answer_pos, d_vocab], or [pair, 2] of matches."""
        ...


@runtime_checkable
class PairRuns(Protocol):
    """The recorded runs of some pairs, with one set of teacher-forced answers or none."""

    @property
    def has_donor(self) -> np.ndarray:
        """Boolean, [pair]: True where there is a mismatched run."""
        ...

    @property
    def unpatched(self) -> Mapping[str, Unpatched]:
        """The runs as they are: `clean`, `corrupt`, and `donor` where one is needed."""
        ...

    def real_length(self, stack: str, pair: int) -> int:
        """Return how many positions of a stack can be patched, padding left out."""
        ...

    def read_logits(self, logits: Tensor, pairs: Index, base: Tensor | None = None) -> ReadOut:
        """Return the metrics of rows from their logits; `pairs` says whose each is, see `read_out.AnswerReading`."""
        ...


@runtime_checkable
class GradientBatch(Protocol):
    """Some pairs whose logit differences are differentiated."""

    @property
    def runs(self) -> "Sequence[PairRuns]":
        """Their unpatched runs, once for each answer that is teacher-forced."""
        ...

    def by_block(self) -> "Iterator[tuple[Sequence[int], BlockGradients]]":
        """Yield the gradients of each block, and the numbers of the targets that they are for."""
        ...


@runtime_checkable
class GradientSource(Protocol):
    """The gradients of an attribution."""

    def pairs_at_once(self) -> int:
        """Return how many pairs are differentiated together, at most."""
        ...

    def batch(self, pairs: list[int], targets: "Sequence[Target]", setting: "Setting") -> GradientBatch:
        """Return some pairs, to differentiate with respect to some of the sites."""
        ...


@runtime_checkable
class Engine(Protocol):
    """Runs pairs and measures rows.

    Args:
        prepared: The pairs.
        grid: The grid of edits to measure.
        donors: Whether rows take values from mismatched donors.
    """

    def __init__(self, prepared: "Prepared", grid: "Grid", donors: bool) -> None: ...

    @staticmethod
    def together() -> int:
        """Return how many pairs are recorded in one forward pass, at most, where no memory plan says it."""
        ...

    @staticmethod
    def hooked_run(model: Any, inputs: Any, hooks: Sequence[str], before: Any = None) -> Any:
        """Return a run with its `activations` at some hook points; `before` is one of the same prompts, if any."""
        ...

    @staticmethod
    def paths(model: Any) -> "PathRules":
        """Return which parts of a model send and receive in path patching."""
        ...

    @staticmethod
    def gradients(prepared: "Prepared", targets: "Sequence[Target]", steps: int, path: str) -> GradientSource:
        """Return the gradients of an attribution.

        Args:
            prepared: The pairs.
            targets: The sites.
            steps: Of the way from the base run to the other; 0 for the gradient at the base run.
            path: The way: `site` or `inputs`.
        """
        ...

    @staticmethod
    def stream_reader(model: Any) -> Any:
        """Return the logit lens of a model (`causal.logit_lens.ReadStream`).

        Raises:
            ValueError: Its blocks do not add to one stream that a final norm reads; the message says why.
        """
        ...

    def plan(self) -> Chunks:
        """Return how many rows and how many pairs fit into the budget at a time."""
        ...

    def runs(self, pairs: list[int], setting: "Setting", references: "References | None") -> "Sequence[Any]":
        """Return the recorded runs of some pairs (`PairRuns`), once for each answer that is teacher-forced."""
        ...

    def measure(self, runs: "Sequence[Any]", rows: "Iterable[PairVariant]", fit: int) -> "Iterator[Measured]":
        """Measure rows, `fit` of them at a time at most."""
        ...


def engine_of(model: Any) -> type[Engine]:
    """Return the engine for a model."""
    if hasattr(model, "hf_model"):
        from notice_lens.patching.engine.causal.engine import CausalEngine

        return CausalEngine
    from notice_lens.patching.engine.bidirectional import BidirectionalEngine

    return BidirectionalEngine
