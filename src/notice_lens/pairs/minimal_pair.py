"""One minimal pair, as `pairs[i]` gives it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL.Image import Image

from notice_lens.errors import one_of
from notice_lens.models.layout import Span
from notice_lens.pairs.io.records import PAIR_COLUMNS, open_image
from notice_lens.pairs.regions import as_mask
from notice_lens.pairs.roles import as_mapping


@dataclass(frozen=True, eq=False)
class MinimalPair:
    """Two images that differ in one meaning, and two questions that differ in the words that carry it.

    Images and masks are decoded on first access. Other columns of the data set are `pair["name"]`.

    Attributes:
        id: Which pair.
        task: What data set it is of.
        group: What changes, such as `colour`.
        kind: `vqa`, `caption` or `match`.
        clean_prompt: The question about both images; of a caption its beginning; of a match the text.
        corrupt_prompt: The question with the telling words replaced, as many tokens long; or None.
        correct_answer: The right answer for the clean image.
        incorrect_answer: The right answer for the corrupted image.
        corrupt_answer: The answer to the corrupted prompt on the clean image, where known.
        donor_prompt: A mismatched question, as many tokens long, where there is one.
        clean_digest: What tells the clean image by its content: equal for equal pixels.
        corrupt_digest: The same of the corrupted image.
        roles: First character and the one after the last of the words of `clean_prompt`, by role.
    """

    id: str
    task: str
    group: str
    kind: str
    clean_prompt: str
    corrupt_prompt: str | None
    correct_answer: str
    incorrect_answer: str
    corrupt_answer: str | None
    donor_prompt: str | None
    clean_digest: str
    corrupt_digest: str
    roles: Mapping[str, Span]
    record: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "MinimalPair":
        """The pair of a record."""
        roles = as_mapping(record["roles"])
        texts = {name: record[name] for name in cls.__annotations__ if name not in ("roles", "record")}
        return cls(**texts, roles=roles, record=record)

    @cached_property
    def clean_image(self) -> Image:
        """The image for which `correct_answer` is right, in RGB."""
        return open_image(self.record["clean_image"])

    @cached_property
    def corrupt_image(self) -> Image:
        """The image for which `incorrect_answer` is right, in RGB."""
        return open_image(self.record["corrupt_image"])

    @cached_property
    def donor_image(self) -> Image | None:
        """An image for which neither option is right, in RGB, or None."""
        stored = self.record["donor_image"]
        return None if stored is None else open_image(stored)

    @cached_property
    def clean_regions(self) -> dict[str, Bool[np.ndarray, "height width"]]:
        """Masks of the clean image by region."""
        return self._masks("clean_regions")

    @cached_property
    def corrupt_regions(self) -> dict[str, Bool[np.ndarray, "height width"]]:
        """Masks of the corrupted image by region."""
        return self._masks("corrupt_regions")

    def _masks(self, column: str) -> dict[str, Bool[np.ndarray, "height width"]]:
        return {item["region"]: as_mask(item) for item in self.record[column]}

    def _repr_html_(self) -> str:
        """What a notebook shows: both pictures above their answers, and the questions."""
        from notice_lens.viz.pair_table import table_of_pairs

        return table_of_pairs(f"a minimal pair of {self.task}", [self])

    def __getitem__(self, column: str) -> Any:
        if column in PAIR_COLUMNS:
            return getattr(self, column)
        if column not in self.record:
            raise KeyError(one_of("column", column, self.record))
        return self.record[column]
