"""Seeded, balanced selection without replacement.

Chance here is a hash of the seed and a candidate's id: what is drawn depends on neither the order in which candidates
come from a disk, nor on the version of a random number generator, and one more candidate does not reshuffle the others.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from notice_lens.errors import whole_number

T = TypeVar("T")


@runtime_checkable
class Candidate(Protocol):
    """An item to draw: anything with a unique name and a group."""

    @property
    def id(self) -> str:
        """The name, which no other candidate has."""
        ...

    @property
    def group(self) -> str:
        """Return the group that draws are balanced over."""
        ...


C = TypeVar("C", bound=Candidate)


def check_draw(n: Any, seed: Any) -> None:
    """Check the arguments of a draw. Raises ValueError if `n` or `seed` is invalid."""
    if n is not None:
        whole_number("n", n, 1)
    whole_number("seed", seed)


def chance(seed: int, name: str) -> bytes:
    """Sixteen bytes that depend on a name and a seed; sorting by them shuffles."""
    return hashlib.blake2b(f"{seed}\0{name}".encode("utf-8", "surrogateescape"), digest_size=16).digest()


def shuffled(items: Iterable[T], seed: int, name: Callable[[T], str] = str) -> list[T]:
    """The items in an order that depends on the seed and on their names alone."""
    return sorted(items, key=lambda item: chance(seed, name(item)))


def quotas(supply: Mapping[str, int], n: int, seed: int = 0) -> dict[str, int]:
    """Return how many of `n` each group gives: as equal as the supply allows.

    Args:
        supply: How many each group has.
        n: How many are wanted; with fewer in all, every group gives all that it has.
        seed: Decides which groups give one more where `n` is not a multiple.
    """
    left, quota = n, {}
    by_supply = sorted(shuffled(supply, seed), key=lambda group: supply[group])
    for i, group in enumerate(by_supply):
        # Small groups come first, so that what they lack is shared equally by all after them; of equals, the later
        # ones get the remainder.
        quota[group] = min(supply[group], left // (len(by_supply) - i))
        left -= quota[group]
    return {group: quota[group] for group in supply}


def balanced(candidates: Iterable[C], n: int | None = None, seed: int = 0) -> list[C]:
    """`n` of the candidates, as equally many of each group as there are; sorted by id.

    Args:
        candidates: Each with a unique `id` and a `group`.
        n: How many; None, or more than there are, takes all.
        seed: Of the draw.

    Raises:
        ValueError: `n` or `seed` is invalid, or two candidates have one id.
    """
    check_draw(n, seed)
    drawn = shuffled(candidates, seed, lambda candidate: candidate.id)
    _check_ids(drawn)
    quota = quotas(Counter(candidate.group for candidate in drawn), len(drawn) if n is None else n, seed)
    kept: list[C] = []
    for candidate in drawn:
        if quota[candidate.group]:
            quota[candidate.group] -= 1
            kept.append(candidate)
    return sorted(kept, key=lambda candidate: candidate.id)


def option_orders(
    candidates: Sequence[C], seed: int = 0, strata: Callable[[C], tuple[str, ...]] = lambda candidate: ()
) -> list[bool]:
    """Decide for each candidate if the right answer is the first option: half of the time, balanced as in `halves`."""
    return halves(candidates, seed, "option order", strata)


def halves(
    candidates: Sequence[C], seed: int, what: str, strata: Callable[[C], tuple[str, ...]] = lambda candidate: ()
) -> list[bool]:
    """Yes or no for each candidate: equally often, up to one.

    The balance holds within each group and, nested in it, within everything that `strata` names; for instance within
    each pair of words, and there within each right answer.

    Args:
        candidates: Each with a unique `id` and a `group`.
        seed: Decides where in each group the alternation starts, and who gets which.
        what: The name of the decision; under another name the same seed decides anew.
        strata: From the coarsest to the finest, what else is to be balanced over.

    Returns:
        In the order of the candidates.

    Raises:
        ValueError: `seed` is invalid, or two candidates have one id.
    """
    check_draw(None, seed)
    _check_ids(candidates)
    # Strata are runs of this order, nested ones too; an alternation is balanced to one in any run.
    order = sorted(
        range(len(candidates)),
        key=lambda i: (candidates[i].group, strata(candidates[i]), chance(seed, f"{what}\0{candidates[i].id}")),
    )
    following: dict[str, bool] = {}
    chosen = [False] * len(candidates)
    for i in order:
        group = candidates[i].group
        chosen[i] = following.setdefault(group, bool(chance(seed, f"{what}\0\0{group}")[0] & 1))
        following[group] = not chosen[i]
    return chosen


def _check_ids(candidates: Sequence[Candidate]) -> None:
    """Refuse ids that two candidates share: draws would depend on the candidates' order."""
    twice = [name for name, times in Counter(candidate.id for candidate in candidates).items() if times > 1]
    if twice:
        raise ValueError(f"{len(twice)} ids are shared by several candidates, such as {twice[0]!r}; each needs its own")
