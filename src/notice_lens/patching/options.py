"""Everything about a sweep but its sites."""

from dataclasses import dataclass
from typing import Any

from notice_lens.models.names import one_of
from notice_lens.pairs.noise import Noise
from notice_lens.patching.grid import SOURCES
from notice_lens.patching.metrics import BUILT_IN

CONTROLS = ("self", "mismatched")


@dataclass(frozen=True)
class Options:
    """Everything about a sweep but its sites; `sweep` says what each is."""

    corruption: Any = "image"
    direction: str = "denoise"
    metrics: Any = BUILT_IN
    contrast: str = "auto"
    min_gap: float = 1e-3
    source: str = "other"
    controls: Any = CONTROLS
    memory: int | None = None
    dtype: Any = None
    seed: int = 0
    store: Any = None
    progress: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.corruption, Noise) and self.corruption not in ("image", "text"):
            raise ValueError(one_of("corruption", self.corruption, ("image", "text")) + ", or Noise(...)")
        choices = {"direction": ("denoise", "noise"), "contrast": ("auto", "incorrect"), "source": SOURCES[:3]}
        for what, valid in choices.items():
            if getattr(self, what) not in valid:
                raise ValueError(one_of(what, getattr(self, what), valid))
        for control in self.controls:
            if control not in CONTROLS:
                raise ValueError(one_of("control", control, CONTROLS))
        if not self.min_gap >= 0:
            raise ValueError(f"min_gap={self.min_gap}: expected a logit difference, 0 or more")
