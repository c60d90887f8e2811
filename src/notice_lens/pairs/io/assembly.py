"""Records become a data set of pairs: those with problems are an error, or are dropped and counted."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from notice_lens.errors import one_of
from notice_lens.pairs.io.records import Stored
from notice_lens.pairs.io.storage import to_dataset
from notice_lens.pairs.manifest import Manifest
from notice_lens.pairs.problems import DUPLICATE, PairsError, Problem
from notice_lens.pairs.validation import check_meaning

if TYPE_CHECKING:
    from datasets import Dataset

    from notice_lens.pairs.minimal_pairs import MinimalPairs


@dataclass(frozen=True)
class Built:
    """Rows of pairs, not validated yet.

    Attributes:
        builder: The function that made them, such as `svo_probes`.
        source: Their origin, in words that hold on another machine, such as a file's name.
        checksum: SHA-256 of the source, hexadecimal.
        seed: Of the sampling.
        options: The builder's other settings, plain values.
        rows: One mapping a pair, by column.
        problems: Why candidates did not become pairs.
    """

    builder: str
    source: str
    checksum: str
    seed: int
    rows: Sequence[Mapping[str, Any]]
    problems: Sequence[Problem] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def pairs(self) -> "MinimalPairs":
        """Return the pairs, validated; rows that contradict themselves are dropped and counted."""
        from notice_lens.pairs.minimal_pairs import MinimalPairs

        return MinimalPairs.from_built(self)


ON_ERROR = ("raise", "drop")
HINT = "\non_error='drop' keeps the others"


def assemble(
    stored: Sequence[Stored],
    manifest: Manifest,
    on_error: str,
    before: Sequence[Problem] = (),
) -> tuple["Dataset", Manifest, "Dataset"]:
    """Return the pairs, their manifest, and the dropped rows.

    Args:
        stored: Candidates, each with its own problems.
        manifest: Where they come from; the counts of kept and dropped rows are filled in.
        on_error: `raise` or `drop`, see `check_on_error`.
        before: Why other candidates became no records.

    Raises:
        PairsError: Records have problems, and `on_error` is `raise`.
    """
    found: list[Problem] = []
    ids: set[str] = set()
    kept, lost = [], []
    for record, noted in stored:
        problems = [*noted, *check_meaning(record)]
        # Of several pairs of one id the first good one is kept: it is the others that are duplicates.
        if not problems and record["id"] in ids:
            problems = [Problem(record["id"], DUPLICATE, "there is another pair of this id")]
        if problems:
            lost.append({**record, **why(problems[0])})
            found += problems
        else:
            kept.append(record)
            ids.add(record["id"])
    if found and on_error == "raise":
        raise PairsError(found, len(stored), HINT)
    lost += [{"id": problem.id, **why(problem)} for problem in before]
    counts = Counter(row["reason"] for row in lost)
    manifest = replace(manifest, kept=len(kept), dropped=dict(counts.most_common()))
    return to_dataset(kept), manifest, to_dataset(lost, dropped=True)


def check_on_error(on_error: Any) -> None:
    """Raise ValueError for an unknown `on_error`."""
    if on_error not in ON_ERROR:
        raise ValueError(one_of("on_error", on_error, ON_ERROR))


def why(problem: Problem) -> dict[str, str]:
    """The columns that say why a pair was dropped."""
    return {"reason": problem.reason, "detail": problem.detail}
