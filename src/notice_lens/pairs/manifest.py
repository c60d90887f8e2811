"""The manifest: where pairs come from and why others were dropped. It is kept with them in memory and on disk."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from notice_lens import __version__
from notice_lens.errors import reading
from notice_lens.files import SEAL, check_kinds, check_seal, read_json, sealed


@dataclass(frozen=True)
class Manifest:
    """Origin of a set of pairs: builder, source, options, and every step since.

    Attributes:
        builder: What made them, such as `svo_probes` or `from_csv`.
        source: Their origin, in words that hold on another machine.
        checksum: SHA-256 of the source, hexadecimal; "" where there is nothing to sum.
        seed: Of the sampling, or None.
        version: Of notice-lens.
        options: The builder's other settings.
        kept: How many pairs there are.
        dropped: How many candidates were dropped, by reason, over all steps.
        steps: The steps since, such as `{"step": "filter", "task": "states", "kept": 40}`.
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
            step: The name of the step.
            kept: How many pairs are left.
            dropped: How many were dropped, by reason.
            settings: Of the step, plain values.
        """
        total = Counter(self.dropped)
        total.update(dropped or {})
        done = {**(settings or {}), "step": step, "kept": kept}
        return replace(self, kept=kept, dropped=dict(total), steps=(*self.steps, done))

    def write(self, path: Path, files: Mapping[str, str]) -> None:
        """Write it as JSON, with the SHA-256 of the files beside it by their names, and of all of this."""
        record = json.loads(json.dumps({**asdict(self), "files": files}, default=str))
        path.write_text(json.dumps(sealed(record), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "tuple[Manifest, Mapping[str, str]]":
        """Return the manifest of a file that `write` made, and the SHA-256 of the files beside it by their names.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is damaged, or not a manifest. One of version 0.1 has no digests and is accepted as it is.
        """
        record = read_json(path)
        with reading(path):
            check_kinds(record, _KINDS)
            if unknown := [name for name in record if name not in _KINDS and name not in ("files", SEAL)]:
                raise ValueError(f"it has an unknown {unknown[0]!r}, perhaps from another version of notice-lens")
            if not all(isinstance(step, dict) for step in record["steps"]):
                raise ValueError("'steps' are not all JSON objects")
            if wrong := [reason for reason, count in record["dropped"].items() if not isinstance(count, int)]:
                raise ValueError(f"'dropped' has no whole number for {wrong[0]!r}")
            files = record.get("files", {})
            if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
                raise ValueError("'files' are not digests by names")
        if SEAL in record:
            check_seal(record, path)
        own = {name: record[name] for name in _KINDS}
        return cls(**{**own, "steps": tuple(own["steps"])}), files


_TEXT_FIELD, _OBJECT_FIELD = (str, "text"), (dict, "a JSON object")
_KINDS: dict[str, tuple[Any, str]] = {
    "builder": _TEXT_FIELD, "source": _TEXT_FIELD, "checksum": _TEXT_FIELD, "version": _TEXT_FIELD,
    "options": _OBJECT_FIELD, "dropped": _OBJECT_FIELD,
    "kept": (int, "a whole number"), "seed": (int | None, "a whole number or null"), "steps": (list, "a list"),
}  # fmt: skip
"""The kind of each value of a manifest's file, and its name for messages."""
