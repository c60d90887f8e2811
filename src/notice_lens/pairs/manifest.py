"""The manifest: where pairs come from and what became of the rest. It travels with them, in memory and on disk."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

from notice_lens import __version__
from notice_lens.errors import reading


@dataclass(frozen=True)
class Manifest:
    """Where pairs come from.

    Attributes:
        builder: What made them, such as `svo_probes` or `from_csv`.
        source: What it made them from, in words that hold on another machine.
        checksum: SHA-256 of the source, hexadecimal; "" where there is nothing to sum.
        seed: Of the sampling, or None.
        version: Of notice-lens.
        options: The builder's other settings.
        kept: How many pairs there are.
        dropped: How many candidates were dropped, by reason, over all steps.
        steps: What was done since, such as `{"step": "filter", "task": "states", "kept": 40}`.
    """

    builder: str
    source: str
    checksum: str = ""
    seed: int | None = None
    version: str = __version__
    options: Mapping[str, Any] = field(default_factory=dict)
    kept: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    steps: tuple[Mapping[str, Any], ...] = ()

    def after(
        self,
        step: str,
        kept: int,
        dropped: Mapping[str, int] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> "Manifest":
        """The manifest after one more step.

        Args:
            step: What was done.
            kept: How many pairs are left.
            dropped: How many were dropped, by reason.
            settings: Of the step, plain values.
        """
        total = Counter(self.dropped)
        total.update(dropped or {})
        done = {**(settings or {}), "step": step, "kept": kept}
        return replace(self, kept=kept, dropped=dict(total), steps=(*self.steps, done))

    def write(self, path: Path) -> None:
        """Writes it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2, default=str) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Return the manifest of a file that `write` made.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is no manifest.
        """
        with reading(path):
            values = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError(f"expected a JSON object, got {type(values).__name__}")
            if unknown := [name for name in values if name not in _KINDS]:
                raise ValueError(f"it has an unknown {unknown[0]!r}, perhaps from another version of notice-lens")
            for name, (kind, expected) in _KINDS.items():
                if name not in values:
                    raise ValueError(f"it has no {name!r}")
                if not isinstance(values[name], kind) or isinstance(values[name], bool):
                    raise ValueError(f"{name!r} is {values[name]!r}; expected {expected}")
            if not all(isinstance(step, dict) for step in values["steps"]):
                raise ValueError("'steps' are not all JSON objects")
            if wrong := [reason for reason, count in values["dropped"].items() if not isinstance(count, int)]:
                raise ValueError(f"'dropped' has no whole number for {wrong[0]!r}")
            return cls(**{**values, "steps": tuple(values["steps"])})


_TEXT, _OBJECT = (str, "text"), (dict, "a JSON object")
_KINDS: dict[str, tuple[Any, str]] = {
    "builder": _TEXT, "source": _TEXT, "checksum": _TEXT, "version": _TEXT, "options": _OBJECT, "dropped": _OBJECT,
    "kept": (int, "a whole number"), "seed": (int | None, "a whole number or null"), "steps": (list, "a list"),
}  # fmt: skip
"""The kind of each value of a manifest's file, and its name for messages."""


def sha256(path: str | PathLike[str]) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
