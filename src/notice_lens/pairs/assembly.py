"""Records become a data set of pairs: those with problems are an error, or are dropped and counted."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from notice_lens.models.names import one_of
from notice_lens.pairs.manifest import Manifest
from notice_lens.pairs.problems import DUPLICATE, PairsError, Problem
from notice_lens.pairs.storage import to_dataset

if TYPE_CHECKING:
    from datasets import Dataset

ON_ERROR = ("raise", "drop")
HINT = "\non_error='drop' keeps the others"


def assemble(
    records: Sequence[dict[str, Any]],
    found: Sequence[Problem],
    manifest: Manifest,
    on_error: str,
    before: Sequence[Problem] = (),
) -> tuple["Dataset", Manifest, "Dataset"]:
    """The pairs, their manifest, and what was dropped.

    Args:
        records: Candidates.
        found: What is wrong with some of them, by their ids.
        manifest: Where they come from; what was kept and dropped is filled in.
        on_error: `raise` or `drop`.
        before: Why other candidates became no records.

    Raises:
        PairsError: Records have problems, and `on_error` is `raise`.
    """
    if on_error not in ON_ERROR:
        raise ValueError(one_of("on_error", on_error, ON_ERROR))
    if found and on_error == "raise":
        raise PairsError(list(found), len(records), HINT)
    first = {problem.id: problem for problem in reversed(found)}
    seen: set[str] = set()
    kept, lost = [], []
    for record in records:
        problem = first.get(record["id"])
        # Of several pairs of one id the first is kept: it is the others that are duplicates.
        if problem is None or (problem.reason == DUPLICATE and record["id"] not in seen):
            kept.append(record)
        else:
            lost.append({**record, **why(problem)})
        seen.add(record["id"])
    lost += [{"id": problem.id, **why(problem)} for problem in before]
    counts = Counter(row["reason"] for row in lost)
    manifest = replace(manifest, kept=len(kept), dropped=dict(counts.most_common()))
    return to_dataset(kept), manifest, to_dataset(lost, dropped=True)


def why(problem: Problem) -> dict[str, str]:
    """The columns that say why a pair was dropped."""
    return {"reason": problem.reason, "detail": problem.detail}
