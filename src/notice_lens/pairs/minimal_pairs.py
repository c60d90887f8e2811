"""MinimalPairs: a data set of minimal pairs, checked, and with its manifest.

Rows of any origin take one way: `records.store` makes them plain values, `validation.check_meaning` says what is wrong
with them, and what is left becomes a `datasets.Dataset` whose images are decoded when they are asked for.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from notice_lens.models.names import one_of
from notice_lens.pairs import problems as reasons
from notice_lens.pairs.assembly import assemble, check_on_error, why
from notice_lens.pairs.built import Built
from notice_lens.pairs.clusters import clustered
from notice_lens.pairs.manifest import Manifest
from notice_lens.pairs.minimal_pair import MinimalPair
from notice_lens.pairs.problems import Problem
from notice_lens.pairs.records import DIGESTS, IMAGES, look, stored_image
from notice_lens.pairs.regions import resample
from notice_lens.pairs.roles import as_mapping, token_spans
from notice_lens.pairs.sources import read_file, resized, rows_of_dataset, store_all, store_built
from notice_lens.pairs.storage import read_folder, replace_column, to_dataset, write_folder
from notice_lens.pairs.tokens import Span, as_tokenizer
from notice_lens.pairs.validation import check_tokens

if TYPE_CHECKING:
    from datasets import Dataset
    from pandas import DataFrame

    from notice_lens.models import BLIPInputs, HookedBLIP


class MinimalPairs:
    """Minimal pairs: images that differ in one meaning (SMP), questions that differ in the telling words (STR).

    `pairs[3]` is a `MinimalPair`, `pairs["clean_prompt"]` a column, `pairs[:10]` pairs again. Columns of a row:

    - `id, task, clean_image, corrupt_image, clean_prompt, correct_answer, incorrect_answer` are obligatory.
    - `kind` is `vqa` (the default), `caption` or `match`; `group` says what changes.
    - `corrupt_prompt` is the question with its telling words replaced, with as many tokens; `corrupt_answer` the answer
      to it on the clean image, where known.
    - `donor_image, donor_prompt`: a mismatched donor, to which neither option is the answer.
    - `roles`: by name, a string that occurs in the clean prompt exactly once, or a span of characters.
    - `clean_regions, corrupt_regions`: by name, a mask, an image file of one, COCO run lengths or a box.
    - Any other column is kept.

    Images are what `HookedBLIP.prepare` takes: PIL images, paths, bytes, arrays.

    Attributes:
        dataset: The `datasets.Dataset` underneath; its images are not decoded.
        manifest: Where the pairs come from and what became of the rest.
        dropped: What was dropped: the same columns, and `reason` and `detail`.
    """

    def __init__(self, dataset: "Dataset", manifest: Manifest, dropped: "Dataset") -> None:
        self.dataset = dataset
        self.manifest = manifest
        self.dropped = dropped

    # Where they come from

    @classmethod
    def from_rows(
        cls,
        rows: Iterable[Any],
        *,
        on_error: str = "raise",
        manifest: Manifest | None = None,
        before: Sequence[Problem] = (),
        progress: bool = True,
    ) -> "MinimalPairs":
        """Pairs from mappings by column.

        Args:
            rows: One mapping a pair.
            on_error: `raise`, or `drop` rows that are not what they say; they are counted and kept in `dropped`.
            manifest: Where they come from.
            before: Why other candidates became no rows; they are counted with those that are dropped here.
            progress: Whether to show a progress bar while images are read.

        Raises:
            PairsError: Rows have problems; all are in the message. A ValueError.
        """
        check_on_error(on_error)
        manifest = manifest or Manifest("from_rows", "rows in memory")
        return cls(*assemble(store_all(rows, progress), manifest, on_error, before))

    @classmethod
    def from_built(cls, built: Built) -> "MinimalPairs":
        """Pairs from what a builder hands over; it has read the images, so they are not read again."""
        manifest = Manifest(built.builder, built.source, built.checksum, built.seed, options=built.options)
        return cls(*assemble(store_built(built), manifest, "drop", built.problems))

    @classmethod
    def from_csv(
        cls,
        path: str | PathLike[str],
        *,
        images: str | PathLike[str] | None = None,
        columns: Mapping[str, str] | None = None,
        on_error: str = "raise",
        progress: bool = True,
    ) -> "MinimalPairs":
        """Pairs from a CSV file, in UTF-8; `roles` and regions are JSON in their cells.

        Args:
            path: The file.
            images: The folder that paths of images start from and stay in; None for the file's own.
            columns: What the file calls our columns, such as `{"clean_image": "img_pos"}`.
            on_error: As `from_rows`.
            progress: As `from_rows`.

        Raises:
            ValueError: The file is empty, not in UTF-8, or lacks columns; the message says where or which.
            PairsError: As `from_rows`.
        """
        from notice_lens.pairs.tables import read_csv

        rows, manifest = read_file("from_csv", read_csv, path, images, columns)
        return cls.from_rows(rows, on_error=on_error, manifest=manifest, progress=progress)

    @classmethod
    def from_jsonl(
        cls,
        path: str | PathLike[str],
        *,
        images: str | PathLike[str] | None = None,
        columns: Mapping[str, str] | None = None,
        on_error: str = "raise",
        progress: bool = True,
    ) -> "MinimalPairs":
        """Pairs from a file with one JSON object a line; arguments and errors as of `from_csv`."""
        from notice_lens.pairs.tables import read_jsonl

        rows, manifest = read_file("from_jsonl", read_jsonl, path, images, columns)
        return cls.from_rows(rows, on_error=on_error, manifest=manifest, progress=progress)

    @classmethod
    def from_dataset(
        cls,
        dataset: "Dataset",
        *,
        columns: Mapping[str, str] | None = None,
        on_error: str = "raise",
        progress: bool = True,
    ) -> "MinimalPairs":
        """Pairs from a `datasets.Dataset`.

        Args:
            dataset: With our columns, or others that `columns` names.
            columns: What the data set calls our columns, such as `{"clean_image": "img_pos"}`.
            on_error: As `from_rows`.
            progress: As `from_rows`.

        Raises:
            ValueError: Columns are missing.
            PairsError: As `from_rows`.
        """
        source = f"a data set of {len(dataset)} rows"
        manifest = Manifest("from_dataset", source, str(getattr(dataset, "_fingerprint", "")))
        return cls.from_rows(
            rows_of_dataset(dataset, columns or {}), on_error=on_error, manifest=manifest, progress=progress
        )

    # A sequence of pairs

    def __len__(self) -> int:
        return len(self.dataset)

    @overload
    def __getitem__(self, index: int) -> MinimalPair: ...
    @overload
    def __getitem__(self, index: slice) -> "MinimalPairs": ...
    @overload
    def __getitem__(self, index: str) -> list[Any]: ...
    def __getitem__(self, index: Any) -> Any:
        """A pair by number, pairs by slice, or a column by name (not its images, which pairs decode)."""
        if isinstance(index, str):
            if index not in self.dataset.column_names:
                raise KeyError(one_of("column", index, self.dataset.column_names))
            return list(self.dataset[index])
        if isinstance(index, slice):
            return self.select(range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"pair {index} asked for; there are {len(self)}")
        return MinimalPair.of(self.dataset[int(index) % len(self)])

    def __iter__(self) -> Iterator[MinimalPair]:
        return (self[number] for number in range(len(self)))

    def records(self) -> list[dict[str, Any]]:
        """The rows as they are stored, without their images."""
        return self.dataset.remove_columns(list(IMAGES)).to_list()

    def select(self, numbers: Any) -> "MinimalPairs":
        """The pairs of these numbers, in this order. Raises IndexError for a number that no pair has."""
        asked = np.asarray(list(numbers))
        if asked.dtype == bool:
            raise TypeError("select takes numbers of pairs, not a mask; numpy.flatnonzero(mask) gives them")
        chosen = [int(number) for number in asked]
        wrong = [number for number in chosen if not -len(self) <= number < len(self)]
        if wrong:
            raise IndexError(f"pair {wrong[0]} asked for; there are {len(self)}")
        return self._chosen([number % len(self) for number in chosen], "select")

    def filter(self, keep: Callable[[MinimalPair], bool] | None = None, **columns: Any) -> "MinimalPairs":
        """The pairs for which `keep` is true and whose columns have the values given.

        Args:
            keep: Called with every pair.
            **columns: A value, or several, by column: `pairs.filter(task="states", group=["colour", "shape"])`.

        Raises:
            KeyError: There is no column of that name.
        """
        fits = np.ones(len(self), bool)
        for column, wanted in columns.items():
            allowed = wanted if isinstance(wanted, list | tuple | set | frozenset | np.ndarray) else [wanted]
            fits &= np.array([value in allowed for value in self[column]], bool)
        chosen = [int(number) for number in np.flatnonzero(fits)]
        if keep is not None:
            chosen = [number for number in chosen if keep(self[number])]
        return self._chosen(chosen, "filter", columns)

    def shuffle(self, seed: int = 0) -> "MinimalPairs":
        """The pairs in another order, the same for the same seed."""
        order = np.random.default_rng(seed).permutation(len(self))
        return self._chosen([int(number) for number in order], "shuffle", {"seed": seed})

    def train_test_split(
        self, test_size: float = 0.2, seed: int = 0, *, together: str = "pair"
    ) -> dict[str, "MinimalPairs"]:
        """Two parts, `train` and `test`; pairs that share images stay together.

        Args:
            test_size: The share of pairs in `test`, above 0 and below 1. With pairs that stay together it may end
                a little above.
            seed: Of the draw.
            together: `pair`: pairs of the same two images stay together. `image`: pairs that share any image do, and
                those that share one with these; of a data set whose images recur that may be all of it.

        Raises:
            ValueError: The share is out of range, or one of the parts would be empty.
        """
        if not 0 < test_size < 1:
            raise ValueError(f"test_size is a share of the pairs, above 0 and below 1; got {test_size}")
        _check_choice("together", together, ("pair", "image"))
        clusters = clustered(list(zip(self["clean_digest"], self["corrupt_digest"], strict=True)), together)
        test: list[int] = []
        for place in np.random.default_rng(seed).permutation(len(clusters)):
            if len(test) >= round(test_size * len(self)):
                break
            test += clusters[place]
        if not test or len(test) == len(self):
            raise ValueError(f"{len(self)} pairs in {len(clusters)} clusters leave no two parts at {test_size=}")
        train = sorted(set(range(len(self))) - set(test))
        settings = {"seed": seed, "test_size": test_size, "together": together}
        parts = {"train": train, "test": sorted(test)}
        return {name: self._chosen(numbers, f"{name} split", settings) for name, numbers in parts.items()}

    def _chosen(self, numbers: Sequence[int], step: str, settings: Mapping[str, Any] | None = None) -> "MinimalPairs":
        manifest = self.manifest.after(step, len(numbers), settings=settings)
        return MinimalPairs(self.dataset.select(numbers), manifest, self.dropped)

    def without(self, found: Sequence[Problem], step: str, settings: Mapping[str, Any] | None = None) -> "MinimalPairs":
        """The pairs that have no problem; the others go to `dropped` and are counted by their first reason.

        Args:
            found: Problems of pairs of these ids.
            step: What found them, for the manifest.
            settings: Of the step.
        """
        first = {problem.id: problem for problem in reversed(found)}
        ids = self["id"]
        kept = [number for number, name in enumerate(ids) if name not in first]
        lost: list[Mapping[str, Any]] = list(cast("Iterable[Mapping[str, Any]]", self.dropped))
        lost += [{**self.dataset[number], **why(first[name])} for number, name in enumerate(ids) if name in first]
        counts = Counter(first[name].reason for name in ids if name in first)
        manifest = self.manifest.after(step, len(kept), counts, settings)
        return MinimalPairs(self.dataset.select(kept), manifest, to_dataset(lost, dropped=True))

    def with_column(self, name: str, values: Sequence[Any]) -> "MinimalPairs":
        """The pairs with a column replaced or added; nothing is checked but images, which have to be readable.

        Raises:
            ValueError: The number of values differs, or an image cannot be read.
        """
        if len(values) != len(self):
            raise ValueError(f"{len(values)} values for the column {name!r} of {len(self)} pairs")
        dataset = self.dataset
        if name in DIGESTS:
            values = [stored_image(image) for image in values]
            digests = [None if image is None else look(image).digest for image in values]
            dataset = replace_column(dataset, DIGESTS[name], digests)
        return MinimalPairs(replace_column(dataset, name, values), self.manifest, self.dropped)

    @property
    def fingerprint(self) -> str:
        """What tells these pairs from others: a hash of all rows in their order, images by their content."""
        found = hashlib.blake2b(digest_size=16)
        for record in self.records():
            found.update(json.dumps(record, sort_keys=True, default=str).encode())
        return found.hexdigest()

    # On disk

    def save(self, path: str | PathLike[str], *, overwrite: bool = False) -> Path:
        """Writes the pairs, their images, what was dropped, and the manifest into a folder. Returns its path.

        Args:
            path: The folder; it is complete or not there.
            overwrite: Whether to replace pairs that were saved there before.

        Raises:
            FileExistsError: There is something, and `overwrite` is off or it is no folder of pairs.
        """
        return write_folder(Path(path), self.dataset, self.dropped, self.manifest, overwrite)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "MinimalPairs":
        """Pairs from a folder that `save` wrote. Raises FileNotFoundError where there is none."""
        return cls(*read_folder(Path(path)))

    def resize(self, size: Any) -> "MinimalPairs":
        """The pairs with images of another size, stretched as BLIP stretches them, and regions that fit them.

        Args:
            size: (height, width) or side, in pixels. Of a region's pixels those count that it covers by half or more.
        """
        sides = (size, size) if isinstance(size, int) else tuple(size)
        if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
            raise ValueError(f"a size is (height, width) or a side, one pixel or more; got {size!r}")
        manifest = self.manifest.after("resize", len(self), settings={"size": list(sides)})
        return MinimalPairs(resized(self.dataset, sides), manifest, self.dropped)

    # To a model

    def validate(self, model: Any, *, on_error: str = "raise") -> "MinimalPairs":
        """The pairs that hold for this model's tokenizer.

        Checked are: prompts of equal token length, answers that differ in their first token, words that the tokenizer
        knows, roles that begin and end with tokens, and with a model that it is of the pairs' kind.

        Args:
            model: A HookedBLIP, a tokenizer, or a hub id or folder.
            on_error: `raise`, or `drop` the pairs that do not hold.

        Raises:
            PairsError: Pairs do not hold; all problems are in the message.
        """
        check_on_error(on_error)
        found = []
        kind = getattr(getattr(model, "cfg", None), "kind", None)
        records = self.records()
        for record in records if kind else ():
            if record["kind"] != kind:
                found.append(
                    Problem(record["id"], reasons.KIND, f"the pair is of kind {record['kind']!r}, the model {kind!r}")
                )
        found += check_tokens(records, as_tokenizer(model))
        if not found:
            return self
        if on_error == "raise":
            raise reasons.PairsError(found, len(self), "\non_error='drop' keeps the others")
        return self.without(found, "validate")

    def token_spans(self, model: Any) -> list[dict[str, Span]]:
        """For each pair, first token and the one after the last by role; `[CLS]` is token 0.

        The corrupted prompt is as many tokens long and differs slot by slot, so spans hold for both. `[CLS]`, `[SEP]`
        and `?` are roles too.

        Args:
            model: A HookedBLIP, a tokenizer, or a hub id or folder.

        Raises:
            ValueError: A role does not begin and end with tokens.
        """
        tokenizer = as_tokenizer(model)
        columns = (self[column] for column in ("clean_prompt", "roles", "kind"))
        return [
            token_spans(tokenizer, prompt, as_mapping(roles), kind)
            for prompt, roles, kind in zip(*columns, strict=True)
        ]

    def patch_masks(self, blip: "HookedBLIP", of: str = "clean") -> list[dict[str, Bool[Tensor, " patch"]]]:
        """For each pair, which image positions belong to each region: those that it covers by half or more.

        Args:
            blip: Its patch grid counts.
            of: Which image's regions.

        Returns:
            Masks [patch] by region; position 0 is the class token, which belongs to none.
        """
        _check_choice("of", of, ("clean", "corrupt"))
        cells = blip.cfg.image_size // blip.cfg.patch_size
        class_token = np.zeros(1, bool)
        return [
            {
                region: torch.from_numpy(np.concatenate([class_token, resample(mask, (cells, cells)).ravel()]))
                for region, mask in getattr(pair, f"{of}_regions").items()
            }
            for pair in self
        ]

    def prepare(
        self, blip: "HookedBLIP", image: str = "clean", prompt: str = "clean", answer: str | None = None
    ) -> "BLIPInputs":
        """The inputs of one run over all pairs.

        Args:
            blip: The model.
            image: `clean`, `corrupt` or `donor`.
            prompt: `clean`, `corrupt` or `donor`.
            answer: What the decoder reads: `correct`, `incorrect` or `corrupt`; None leaves it to the model.

        Raises:
            ValueError: A pair has no such image, prompt or answer.
        """
        columns = {"image": image, "prompt": prompt, "answer": answer}
        _check_choice("image", image, ("clean", "corrupt", "donor"))
        _check_choice("prompt", prompt, ("clean", "corrupt", "donor"))
        _check_choice("answer", answer, ("correct", "incorrect", "corrupt", None))
        read = {}
        for what, which in columns.items():
            if which is None:
                continue
            read[what] = [getattr(pair, f"{which}_{what}") for pair in self]
            lacking = [name for name, value in zip(self["id"], read[what], strict=True) if value is None]
            if lacking:
                raise ValueError(f"{len(lacking)} of {len(self)} pairs have no {which}_{what}, such as {lacking[0]!r}")
        return blip.prepare(read["image"], read["prompt"], read.get("answer"))

    def minimality(self, blip: "HookedBLIP", *, batch_size: int = 16, progress: bool = True) -> "DataFrame":
        """How far each pair's images are apart for a model, beside random pairs; see `distance.minimality`."""
        from notice_lens.pairs.distance import minimality

        return minimality(blip, self, batch_size, progress)

    def __repr__(self) -> str:
        manifest = self.manifest
        seed = "" if manifest.seed is None else f", seed {manifest.seed}"
        lines = [f"MinimalPairs: {len(self)} pairs ({manifest.builder}: {manifest.source}{seed})"]
        by_task: dict[str, Counter[str]] = {}
        for task, group in zip(self["task"], self["group"], strict=True):
            by_task.setdefault(task, Counter())[group] += 1
        for task, groups in by_task.items():
            lines.append(f"  {task}: " + ", ".join(f"{group} {count}" for group, count in groups.items()))
        columns = {"corrupt_prompt": "corrupt_prompt", "donor_image": "donor_digest", "roles": "roles"}
        has = {name: sum(bool(value) for value in self[column]) for name, column in columns.items()}
        has["regions"] = sum(bool(regions) for regions in self["clean_regions"])
        lines.append("  with " + ", ".join(f"{name} {count}" for name, count in has.items()))
        if manifest.dropped:
            lines.append("  dropped: " + ", ".join(f"{reason} {count}" for reason, count in manifest.dropped.items()))
        return "\n".join(lines)


def _check_choice(what: str, value: Any, valid: tuple[Any, ...]) -> None:
    if value not in valid:
        raise ValueError(one_of(what, value, [str(choice) for choice in valid]))
