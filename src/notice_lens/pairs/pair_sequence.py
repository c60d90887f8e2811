"""A sequence of pairs with a manifest that records every selection, change and drop.

Rows are those of a `datasets.Dataset`, whose images are decoded on access. Nothing changes in place: each method gives
other pairs, with the same record of where they come from and one step more.
"""

import hashlib
import json
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

import numpy as np

from notice_lens.arguments import as_list
from notice_lens.errors import check_choice, one_of, whole_number
from notice_lens.pairs.io.assembly import why
from notice_lens.pairs.io.readers import resized
from notice_lens.pairs.io.records import DIGESTS, IMAGES, TEXTS, look, stored_image
from notice_lens.pairs.io.storage import read_folder, replace_column, to_dataset, write_folder
from notice_lens.pairs.io.values import as_text, shown, unstorable, unstorable_name
from notice_lens.pairs.manifest import Manifest
from notice_lens.pairs.minimal_pair import MinimalPair
from notice_lens.pairs.problems import Problem
from notice_lens.plain_text import printable
from notice_lens.stats.clusters import clusters_of, members

if TYPE_CHECKING:
    from datasets import Dataset

PAIRS_SHOWN = 3
"""Pairs of which a notebook shows the pictures."""
Own = TypeVar("Own", bound="PairSequence")
"""The type of `self`, which methods return. (Checks at run time do not know `typing.Self` outside of a class.)"""


class PairSequence:
    """Pairs by number, by slice and by column; see `MinimalPairs` for a pair's columns.

    Attributes:
        dataset: The `datasets.Dataset` underneath; its images are not decoded.
        manifest: Where the pairs come from and what became of the rest.
        dropped: The dropped rows: the same columns, and `reason` and `detail`.
    """

    def __init__(self, dataset: "Dataset", manifest: Manifest | None = None, dropped: "Dataset | None" = None) -> None:
        if manifest is None or dropped is None:
            raise TypeError(
                "pairs are made by from_rows, from_csv, from_jsonl, from_dataset, load or a builder, such as "
                "MinimalPairs.from_rows(rows)"
            )
        self.dataset = dataset
        self.manifest = manifest
        self.dropped = dropped

    def __len__(self) -> int:
        return len(self.dataset)

    @overload
    def __getitem__(self, index: int) -> MinimalPair: ...
    @overload
    def __getitem__(self: Own, index: slice | Sequence[int] | Sequence[bool] | np.ndarray) -> Own: ...
    @overload
    def __getitem__(self, index: str) -> list[Any]: ...
    def __getitem__(self, index: Any) -> Any:
        """Return a pair by number, pairs by slice, numbers or mask, or a column by name (images undecoded)."""
        if isinstance(index, str):
            if index not in self.dataset.column_names:
                raise KeyError(one_of("column", index, self.dataset.column_names))
            return list(self.dataset[index])
        if isinstance(index, slice):
            return self.select(range(*index.indices(len(self))))
        if isinstance(index, Iterable) and getattr(index, "ndim", 1):
            return self.select(index)
        return MinimalPair.of(self.dataset[self._number(_plain(index))])

    def __iter__(self) -> Iterator[MinimalPair]:
        return (self[number] for number in range(len(self)))

    def records(self) -> list[dict[str, Any]]:
        """The rows as they are stored, without their images."""
        return self.dataset.remove_columns(list(IMAGES)).to_list()

    def select(self: Own, numbers: Any) -> Own:
        """Return the pairs of these numbers, in this order, or those for which a mask is true.

        Args:
            numbers: Whole numbers, negative ones from the end, or a bool for each pair: a list, an array or a Series.

        Raises:
            IndexError: There is no pair of a number, or the mask has another length.
            TypeError: They are neither numbers nor a mask.
        """
        chosen = [_plain(number) for number in as_list("numbers of pairs", numbers)]
        if chosen and all(isinstance(number, bool) for number in chosen):
            if len(chosen) != len(self):
                raise IndexError(f"a mask of {len(chosen)} for {len(self)} pairs; expected True or False for each")
            chosen = np.flatnonzero(chosen).tolist()
        return self._chosen([self._number(number) for number in chosen], "select")

    def _number(self, index: Any) -> int:
        """Return the number of a pair, counted from the start. Raises as `select`."""
        try:
            number = operator.index(index)
        except TypeError:
            number = None
        if number is None or isinstance(index, bool):
            raise TypeError(
                f"pair {shown(index)} asked for; expected a whole number, several of them, a slice, a mask of True and "
                "False for all pairs, or a column's name"
            )
        if not -len(self) <= number < len(self):
            raise IndexError(f"pair {number} asked for; there are {len(self)}")
        return number % len(self)

    def filter(self: Own, keep: Callable[[MinimalPair], bool] | None = None, **columns: Any) -> Own:
        """The pairs for which `keep` is true and whose columns have the values given.

        Args:
            keep: Called with every pair.
            **columns: A value, or several, by column: `pairs.filter(task="states", group=["colour", "shape"])`.

        Raises:
            KeyError: There is no column of that name.
        """
        fits = np.ones(len(self), bool)
        for column, wanted in columns.items():
            several = isinstance(wanted, Iterable) and not isinstance(wanted, str | Mapping)
            allowed = list(wanted) if several else [wanted]
            fits &= np.array([value in allowed for value in self[column]], bool)
        chosen = [int(number) for number in np.flatnonzero(fits)]
        if keep is not None:
            chosen = [number for number in chosen if keep(self[number])]
        return self._chosen(chosen, "filter", columns)

    def shuffle(self: Own, seed: int = 0) -> Own:
        """Return the pairs in another order, the same for the same seed."""
        seed = whole_number("seed", seed)
        order = np.random.default_rng(seed).permutation(len(self))
        return self._chosen([int(number) for number in order], "shuffle", {"seed": seed})

    def train_test_split(self: Own, test_size: float = 0.2, seed: int = 0, *, together: str = "pair") -> dict[str, Own]:
        """Two parts, `train` and `test`; pairs that share images stay together.

        Args:
            test_size: The share of pairs in `test`, above 0 and below 1. With pairs that stay together it may end
                a little above.
            seed: Of the draw.
            together: `pair`: pairs of the same two images stay together. `image`: pairs that share any image do, and
                those that share one with these; of a data set whose images recur that may be all of it.

        Raises:
            ValueError: The share is out of range, the seed is invalid, or one of the parts would be empty.
        """
        seed = whole_number("seed", seed)
        if not isinstance(test_size, float | np.floating) or not 0 < test_size < 1:
            raise ValueError(f"test_size is a share of the pairs, above 0 and below 1; got {test_size!r}")
        check_choice("together", together, ("pair", "image"))
        clusters = members(clusters_of(self, "pair" if together == "pair" else "image"))
        test: list[int] = []
        for place in np.random.default_rng(seed).permutation(len(clusters)):
            if len(test) >= round(test_size * len(self)):
                break
            test += clusters[place].tolist()
        if not test or len(test) == len(self):
            raise ValueError(f"{len(self)} pairs in {len(clusters)} clusters leave no two parts at {test_size=}")
        train = sorted(set(range(len(self))) - set(test))
        settings = {"seed": seed, "test_size": test_size, "together": together}
        parts = {"train": train, "test": sorted(test)}
        return {name: self._chosen(numbers, f"{name} split", settings) for name, numbers in parts.items()}

    def _chosen(self: Own, numbers: Sequence[int], step: str, settings: Mapping[str, Any] | None = None) -> Own:
        manifest = self.manifest.after(step, len(numbers), settings=settings)
        return type(self)(self.dataset.select(numbers), manifest, self.dropped)

    def without(self: Own, found: Sequence[Problem], step: str, settings: Mapping[str, Any] | None = None) -> Own:
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
        return type(self)(self.dataset.select(kept), manifest, to_dataset(lost, dropped=True))

    def with_column(self: Own, name: str, values: Iterable[Any]) -> Own:
        """Return the pairs with a column replaced or added; images have to be readable, and text has to be text.

        Args:
            name: The column's.
            values: One for each pair: a list, an array or a Series.

        Raises:
            ValueError: The number of values differs, an image cannot be read, a value is not text, or a value or the
                column's name cannot be stored.
        """
        values = as_list("values", values)
        if len(values) != len(self):
            raise ValueError(f"{len(values)} values for the column {name!r} of {len(self)} pairs")
        if why := unstorable_name(name):
            raise ValueError(f"column {name!r}: {why}")
        dataset = self.dataset
        if name not in DIGESTS:
            values = [_cell(name, pair, value) for pair, value in zip(self["id"], values, strict=True)]
        if name in DIGESTS:
            values = [stored_image(image) for image in values]
            digests = [None if image is None else look(image).digest for image in values]
            dataset = replace_column(dataset, DIGESTS[name], digests)
        return type(self)(replace_column(dataset, name, values), self.manifest, self.dropped)

    @cached_property
    def fingerprint(self) -> str:
        """Return a hash of all rows in their order, images by their content."""
        found = hashlib.blake2b(digest_size=16)
        for record in self.records():
            found.update(json.dumps(record, sort_keys=True, default=str).encode())
        return found.hexdigest()

    # On disk

    def save(self, path: str | PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the pairs, their images, the dropped rows and the manifest into a folder, and return its path.

        Args:
            path: The folder; it is complete or not there.
            overwrite: Whether to replace pairs that were saved there before.

        Raises:
            FileExistsError: The path exists, and `overwrite` is off or it is not a folder of pairs.
        """
        return write_folder(Path(path), self.dataset, self.dropped, self.manifest, overwrite)

    @classmethod
    def load(cls: type[Own], path: str | PathLike[str]) -> Own:
        """Return the pairs of a folder that `save` wrote. Raises FileNotFoundError if there is no such folder."""
        return cls(*read_folder(Path(path)))

    def resize(self: Own, size: Any) -> Own:
        """The pairs with images of another size, stretched as BLIP stretches them, and regions that fit them.

        Args:
            size: (height, width) or side, in pixels. Of a region's pixels those count that it covers by half or more.
        """
        sides = tuple(size) if isinstance(size, Iterable) and not isinstance(size, str) else (size, size)
        try:
            sides = tuple(whole_number("side", side, 1) for side in sides)
        except ValueError:
            sides = ()
        if len(sides) != 2:
            raise ValueError(f"a size is (height, width) or a side, one pixel or more; got {size!r}")
        manifest = self.manifest.after("resize", len(self), settings={"size": list(sides)})
        return type(self)(resized(self.dataset, sides), manifest, self.dropped)

    def _repr_html_(self) -> str:
        """What a notebook shows: the summary, and the first pairs with their pictures."""
        from notice_lens.viz.pair_table import table_of_pairs

        first = self.select(range(min(len(self), PAIRS_SHOWN)))
        return table_of_pairs(repr(self), first, len(self) - len(first))

    def __repr__(self) -> str:
        manifest = self.manifest
        seed = "" if manifest.seed is None else f", seed {manifest.seed}"
        lines = [f"{type(self).__name__}: {len(self)} pairs ({manifest.builder}: {manifest.source}{seed})"]
        by_task: dict[str, Counter[str]] = {}
        for task, group in zip(self["task"], self["group"], strict=True):
            by_task.setdefault(task, Counter())[group] += 1
        for task, groups in by_task.items():
            lines.append(f"  {task}: " + ", ".join(f"{group} {count}" for group, count in groups.items()))
        columns = {"corrupt_prompt": "corrupt_prompt", "donor_image": "donor_digest", "roles": "roles"}
        has = {name: sum(bool(value) for value in self[column]) for name, column in columns.items()}
        has["regions"] = sum(bool(regions) for regions in self["clean_regions"])
        lines.append("  with " + ", ".join(f"{name} {count}" for name, count in has.items()))
        if skipped := manifest.options.get("skipped_files"):
            lines.append("  skipped files: " + ", ".join(f"{kind} {count}" for kind, count in skipped.items()))
        if manifest.dropped:
            lines.append("  dropped: " + ", ".join(f"{reason} {count}" for reason, count in manifest.dropped.items()))
        return printable("\n".join(lines))


def _plain(index: Any) -> Any:
    """Return a scalar of NumPy or PyTorch as Python's: a bool of PyTorch would pass as the number 1."""
    return index.item() if getattr(index, "ndim", None) == 0 else index


def _cell(column: str, pair: str, value: Any) -> Any:
    """Return the value of a new cell, as text where the column is one of text.

    Raises:
        ValueError: It is not text, or cannot be stored; the message names its column and pair.
    """
    if why := unstorable(value):
        raise ValueError(f"{column} of {pair}: {why}")
    try:
        return as_text(value) if column in TEXTS else value
    except ValueError as error:
        raise ValueError(f"{column} of {pair}: {error}") from error
