"""Everything about a sweep but its sites."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Real
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from notice_lens.errors import one_of
from notice_lens.pairs.noise import Noise
from notice_lens.patching.engine.metrics import USUAL
from notice_lens.patching.grid import SOURCES
from notice_lens.patching.results import DIRECTIONS

if TYPE_CHECKING:
    from notice_lens.models import HookedBLIP


def refuse_hooks(model: "HookedBLIP") -> None:
    """A sweep runs a forward pass of its own: hooks of the caller would be passed by, so they are refused."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    watched = [
        name or "the model itself"
        for name, module in model.named_modules()
        if any(getattr(module, own) for own in kinds)
    ]
    if watched:
        raise ValueError(
            f"there are hooks on the model, at {', '.join(watched[:3])}: a sweep runs its own forward pass, which "
            "would pass them by; remove them first (model.reset_hooks() removes those of hook points)"
        )


def refuse_fixed(options: Mapping[str, Any], fixed: Mapping[str, str], what: str) -> None:
    """Raises TypeError where an option is given that is decided already.

    Args:
        options: What was given.
        fixed: Why, by the name of what is decided.
        what: Whose options they are, with its article.
    """
    for name, why in fixed.items():
        if name in options:
            raise TypeError(f"{name} is no option of {what}: {why}")


def refuse_mismatched(options: Mapping[str, Any], why: str) -> None:
    """Raises ValueError where the mismatched donor is among the controls asked for."""
    controls = options.get("controls", "self")
    if "mismatched" in ([controls] if isinstance(controls, str) else controls):
        raise ValueError(why)


def check_pairs(pairs: Any, options: "Options") -> None:
    """Raises where pairs are none, or lack what the corruption needs."""
    from notice_lens.pairs import MinimalPairs

    if not isinstance(pairs, MinimalPairs):
        raise TypeError(f"pairs are of type {type(pairs).__name__}; expected MinimalPairs, see MinimalPairs.from_rows")
    if not len(pairs):
        dropped = f" ({len(pairs.dropped)} were dropped, see pairs.dropped)" if len(pairs.dropped) else ""
        raise ValueError(f"there are no pairs to patch{dropped}")
    if options.corruption == "text":
        lacking = [name for name, value in zip(pairs["id"], pairs["corrupt_prompt"], strict=True) if value is None]
        if lacking:
            raise ValueError(
                f"{len(lacking)} of {len(pairs)} pairs have no corrupt_prompt, such as {lacking[0]!r}; "
                "symmetric_replacement writes them, corruption='image' needs none"
            )


CONTROLS = ("self", "mismatched")
DTYPES = ("float16", "float32", "float64")
OF_SITES = ("layers", "heads", "positions", "keys")


@dataclass(frozen=True)
class Options:
    """Everything about a sweep but its sites; `sweep` says what each is."""

    corruption: Any = "image"
    direction: Any = "denoise"
    metrics: Any = USUAL
    contrast: Any = "auto"
    min_gap: Any = 1e-3
    source: Any = "other"
    reference: Any = None
    controls: Any = CONTROLS
    memory: Any = None
    dtype: Any = None
    seed: Any = 0
    store: Any = None
    progress: Any = True

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Options":
        """Options by name.

        Raises:
            TypeError: There is no option of that name.
            ValueError: An option is out of range.
        """
        names = [field.name for field in fields(cls)]
        for name in given:
            if name in OF_SITES:
                raise TypeError(f"{name} belong to a site: Site.of(model, name, {name}=...)")
            if name in ("role", "roles"):
                raise TypeError(
                    f"{name}: there is no such option; positions='roles' takes each, positions=['correct'] one, "
                    "positions='all' all words at once"
                )
            if name not in names:
                raise TypeError(one_of("option", name, names))
        return cls(**given)

    def __post_init__(self) -> None:
        if not isinstance(self.corruption, Noise) and not _among(self.corruption, ("image", "text")):
            raise ValueError(one_of("corruption", self.corruption, ("image", "text")) + ", or Noise(...)")
        choices = {"direction": DIRECTIONS, "contrast": ("auto", "incorrect"), "source": SOURCES[:4]}
        for what, valid in choices.items():
            if not _among(getattr(self, what), valid):
                raise ValueError(one_of(what, getattr(self, what), valid))
        controls = self.controls if isinstance(self.controls, list | tuple | set | frozenset) else [self.controls]
        for control in controls:
            if not _among(control, CONTROLS):
                raise ValueError(one_of("control", control, CONTROLS) + "; () for none")
        object.__setattr__(self, "controls", tuple(control for control in CONTROLS if control in controls))
        self._check_numbers()
        if self.reference is not None:
            check_reference(self.reference)
        if not isinstance(self.store, str | PathLike | None):
            raise TypeError(f"store={self.store!r}: expected the path of a folder, or None")

    def _check_numbers(self) -> None:
        if not isinstance(self.min_gap, Real) or not float(self.min_gap) >= 0:
            raise ValueError(f"min_gap={self.min_gap!r}: expected a logit difference, 0 or more")
        if self.memory is not None and (not isinstance(self.memory, Real) or not float(self.memory) >= 1):
            raise ValueError(f"memory={self.memory!r}: expected a number of bytes, 1 or more, or None")
        if self.memory is not None:
            object.__setattr__(self, "memory", int(float(self.memory)))
        if not isinstance(self.seed, int):
            raise ValueError(f"seed={self.seed!r}: expected a whole number")
        if self.dtype is not None and _name(self.dtype) not in DTYPES:
            raise ValueError(one_of("dtype of a result", self.dtype, DTYPES))


def check_reference(reference: Any) -> None:
    """Raises where a reference set is no pairs, or has none."""
    from notice_lens.pairs import MinimalPairs

    if not isinstance(reference, MinimalPairs):
        given = type(reference).__name__
        raise TypeError(f"reference is of type {given}; expected MinimalPairs, or None for the pairs themselves")
    if not len(reference):
        raise ValueError("there are no pairs in the reference set; None takes the pairs themselves")


def _among(asked: Any, valid: tuple[str, ...]) -> bool:
    return isinstance(asked, str) and asked in valid


def _name(dtype: Any) -> str:
    """NumPy's name of a type; empty for what is none."""
    try:
        return np.dtype(dtype).name
    except TypeError:
        return ""
