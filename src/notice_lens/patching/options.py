"""Options of a sweep: everything about it but what is patched. They are checked before anything is computed."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

import numpy as np
from torch import Tensor

from notice_lens.errors import one_of
from notice_lens.pairs.noise import Noise
from notice_lens.patching.engine.metrics import USUAL, Metric
from notice_lens.patching.results import DIRECTIONS
from notice_lens.patching.store.parts import check_part

if TYPE_CHECKING:
    from notice_lens.pairs import MinimalPairs

DTYPES = ("float16", "float32", "float64")
OF_SITES = ("layers", "heads", "positions", "keys")

Corruption = Literal["image", "text"] | Noise
Direction = Literal["denoise", "noise"]
Control = Literal["self", "mismatched"]
Controls = Control | Collection[Control]
Source = Literal["other", "zero", "mean", "resample"]
Foil = Literal["auto", "incorrect"]
CONTROLS: tuple[Control, ...] = get_args(Control)
SWEEP_SOURCES: tuple[Source, ...] = get_args(Source)
Metrics = Metric | Sequence[Metric] | Mapping[str, Callable[[Tensor], Tensor] | None]
DType = Literal["float16", "float32", "float64"] | np.dtype | type[np.floating]
StorePath = str | PathLike[str] | None
Numbers = int | Sequence[int] | range | np.ndarray | np.integer
Names = str | Sequence[str]
PositionSpec = Numbers | Names


class CommonOptions(TypedDict, total=False):
    """Options that every verb takes by name; see `SweepOptions`."""

    contrast: Foil
    min_gap: float
    memory: float | None
    dtype: DType | None


class MoreOptions(CommonOptions, total=False):
    """Options beside those that `sweep` writes out; see `SweepOptions`."""

    reference: "MinimalPairs | None"
    seed: int
    part: tuple[int, int] | None


class AblationOptions(CommonOptions, total=False):
    """Options of ablations, whose base run is the clean one; see `SweepOptions`."""

    corruption: Corruption
    metrics: Metrics
    controls: Controls
    store: StorePath
    part: tuple[int, int] | None
    progress: bool


class EstimateOptions(MoreOptions, total=False):
    """Options of an attribution within another verb; see `SweepOptions`."""

    corruption: Corruption
    direction: Direction
    progress: bool


class AttributionOptions(EstimateOptions, total=False):
    """Options of an attribution, which has one metric, no controls and one source; see `SweepOptions`."""

    store: StorePath


class SplitOptions(AttributionOptions, total=False):
    """Options of a sweep whose metrics and sources are decided; see `SweepOptions`."""

    controls: Controls


class VariantOptions(SplitOptions, total=False):
    """Options of a sweep whose edits say where their values come from; see `SweepOptions`."""

    metrics: Metrics


class JointOptions(CommonOptions, total=False):
    """Options of joint patches in both directions; see `SweepOptions`."""

    corruption: Corruption
    progress: bool


class SweepOptions(VariantOptions, total=False):
    """Options that every sweep takes, by name.

    Attributes:
        corruption: `image`, `text` or `Noise(...)`.
        direction: `denoise` (the corrupted run is patched with clean activations: sufficiency) or `noise` (the reverse:
            necessity).
        metrics: Names of built-in metrics, or a mapping of names to functions of logits [row, answer_pos, d_vocab],
            the built-in ones to None.
        contrast: The foil that the logit difference subtracts: `auto` or `incorrect`, see `engine.pair_batch.foils_of`.
        min_gap: In logits; below it a pair's `patching_effect` is NaN.
        source: Where edits take their values from: `other` (the other run of the pair), `zero`, `mean` (over all clean
            runs, by role) or `resample` (another pair's clean run).
        reference: The pairs that means and examples are taken from; None takes the pairs themselves.
        controls: Of `self` (patch each run into itself: the noise floor) and `mismatched` (patch from a donor).
        memory: Bytes that variants may take; None for a share of the free memory.
        dtype: Of the result; None takes float64 for a model in float64, float32 else.
        seed: Of the random draws.
        store: A folder to write to, and to resume from.
        part: `(k, n)`, part k of n from 0: patch its pairs alone, into a store of its own in the folder `store`, from
            which `patching.gather` joins all parts. None: all pairs.
        progress: Whether to show a bar.
    """

    source: Source


@dataclass(frozen=True)
class Options:
    """Options of a sweep, checked; `SweepOptions` says what each is. Build them by `Options.of`."""

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
    part: Any = None
    progress: Any = True

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Options":
        """Return options by name, in their plain forms: controls as a tuple, memory as a whole number.

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
        options = cls(**{**given, "controls": _controls(given.get("controls", CONTROLS))})
        options._check()
        return options

    def _check(self) -> None:
        if not isinstance(self.corruption, Noise) and not _among(self.corruption, ("image", "text")):
            raise ValueError(one_of("corruption", self.corruption, ("image", "text")) + ", or Noise(...)")
        for what, valid in {
            "direction": DIRECTIONS,
            "contrast": ("auto", "incorrect"),
            "source": SWEEP_SOURCES,
        }.items():
            if not _among(getattr(self, what), valid):
                raise ValueError(one_of(what, getattr(self, what), valid))
        if not isinstance(self.min_gap, Real) or not float(self.min_gap) >= 0:
            raise ValueError(f"min_gap={self.min_gap!r}: expected a logit difference, 0 or more")
        if self.memory is not None and (not isinstance(self.memory, Real) or not float(self.memory) >= 1):
            raise ValueError(f"memory={self.memory!r}: expected a number of bytes, 1 or more, or None")
        if not isinstance(self.seed, int):
            raise ValueError(f"seed={self.seed!r}: expected a whole number")
        if self.dtype is not None and _dtype_name(self.dtype) not in DTYPES:
            raise ValueError(one_of("dtype of a result", self.dtype, DTYPES))
        if self.reference is not None:
            _check_reference(self.reference)
        if not isinstance(self.store, str | PathLike | None):
            raise TypeError(f"store={self.store!r}: expected the path of a folder, or None")
        check_part(self.part, self.store)


def refuse_fixed(options: Mapping[str, Any], fixed: Mapping[str, str], what: str) -> None:
    """Raise TypeError if an option is given that the caller decides already.

    Args:
        options: Options by name.
        fixed: The reason, by the name of the option that is decided.
        what: The verb that decides it, for the message, with its article.
    """
    for name, why in fixed.items():
        if name in options:
            valid = ", ".join(field.name for field in fields(Options) if field.name not in fixed)
            raise TypeError(f"{name} is not an option of {what}: {why}; options: {valid}")


def refuse_mismatched(options: Mapping[str, Any], why: str) -> None:
    """Raise ValueError if the mismatched donor is among the controls."""
    controls = options.get("controls", "self")
    if "mismatched" in ([controls] if isinstance(controls, str) else controls):
        raise ValueError(why)


def _controls(given: Any) -> tuple[str, ...]:
    controls = given if isinstance(given, list | tuple | set | frozenset) else [given]
    for control in controls:
        if not _among(control, CONTROLS):
            raise ValueError(one_of("control", control, CONTROLS) + "; () for none")
    return tuple(control for control in CONTROLS if control in controls)


def _check_reference(reference: Any) -> None:
    """Raise where a reference set is something else than pairs, or empty."""
    from notice_lens.pairs import MinimalPairs

    if not isinstance(reference, MinimalPairs):
        given = type(reference).__name__
        raise TypeError(f"reference is of type {given}; expected MinimalPairs, or None for the pairs themselves")
    if not len(reference):
        raise ValueError("there are no pairs in the reference set; None takes the pairs themselves")


def _among(value: Any, valid: tuple[str, ...]) -> bool:
    return isinstance(value, str) and value in valid


def _dtype_name(dtype: Any) -> str:
    """Return NumPy's name of a type; empty where NumPy knows no such type."""
    try:
        return np.dtype(dtype).name
    except TypeError:
        return ""
