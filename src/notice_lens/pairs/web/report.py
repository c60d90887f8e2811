"""The report of a download: every requested image is either among the files or among the failures."""

import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from notice_lens.files import replacing
from notice_lens.pairs.problems import PROBLEMS_SHOWN
from notice_lens.plain_text import csv_cell, printable

if TYPE_CHECKING:
    import pandas as pd

FAILED_FILE = "failed.csv"
"""The file in the folder of the images that names what failed."""


@dataclass(frozen=True)
class Failure:
    """One image that is missing, in text that is safe to print.

    Attributes:
        id: The image's.
        url: Where it was looked for, without user and password.
        reason: The kind of failure, by which they are counted: a constant of `fetch` or `problems`, or HTTP 404.
        detail: The request, the response, and the limits.
    """

    id: str
    url: str
    reason: str
    detail: str

    def __post_init__(self) -> None:
        for name in ("url", "detail"):
            object.__setattr__(self, name, printable(getattr(self, name)))


@dataclass(frozen=True)
class DownloadReport:
    """The outcome of a download, for every requested image.

    Attributes:
        folder: Where the images lie.
        files: The file of each id that has one, new or from before, in the requested order.
        fetched: How many of them are new.
        failed: The missing ids with their reasons, in the requested order.
    """

    folder: Path
    files: dict[str, Path]
    fetched: int
    failed: tuple[Failure, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Return how many images failed for each reason, the most frequent first."""
        return dict(Counter(failure.reason for failure in self.failed).most_common())

    def __str__(self) -> str:
        asked, there = len(self.files) + len(self.failed), len(self.files)
        lines = [f"{there} of {asked} images in {self.folder}: {self.fetched} new, {there - self.fetched} from before"]
        if self.failed:
            lines.append(f"{len(self.failed)} missing; {FAILED_FILE} there names all")
        for reason, number in self.counts.items():
            lines.append(f"  {reason}: {number}")
            found = [failure for failure in self.failed if failure.reason == reason]
            lines += [f"    {failure.id}: {failure.detail}" for failure in found[:PROBLEMS_SHOWN]]
            if number > PROBLEMS_SHOWN:
                lines.append(f"    ... and {number - PROBLEMS_SHOWN} more")
        return "\n".join(lines)

    def to_pandas(self) -> "pd.DataFrame":
        """Return the failures: one row for each image, with id, url, reason and detail."""
        import pandas as pd

        return pd.DataFrame(map(astuple, self.failed), columns=pd.Index(_COLUMNS))

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write the failures into a file, in the format of the folder's `failed.csv`."""
        write_csv(self.failed, Path(path))


_COLUMNS = [field.name for field in fields(Failure)]


def write_csv(failed: Iterable[Failure], path: Path) -> None:
    """Write failures into a file, whole or not at all."""
    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        writer.writerows([*map(csv_cell, astuple(failure))] for failure in failed)
