"""Pairing of labelled pictures: the same noun, another value of the same group, each picture at most once.

1. `plan` decides how many pairs each two values get with each noun. With a number of pairs it spreads them: the group
   with the fewest pairs so far is next, and in it the two values with the fewest. Where that cannot reach the number,
   or all pairs are wanted, pictures are used up instead: values that have no more pictures to be paired with than they
   have themselves go first, or some would be left without a partner.
2. `couples` takes the pictures and decides which one of the two is clean.
"""

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from notice_lens.pairs.image_folder import ReadablePicture
from notice_lens.pairs.sampling import chance, halves, quotas, shuffled

GroupAndNoun = tuple[str, str]
"""A group and a noun: pictures of one place can be paired with each other."""
ValuePair = tuple[str, str]
"""Two values, in alphabetical order."""


@dataclass(frozen=True)
class Labelled:
    """A picture and what its folder says about it.

    Attributes:
        picture: The picture.
        name: Its file, relative to the given folder.
        group: The attribute that the value belongs to, such as `colour`.
        noun: The noun for the thing in the picture.
        value: How it is.
    """

    picture: ReadablePicture
    name: str
    group: str
    noun: str
    value: str

    @property
    def place(self) -> GroupAndNoun:
        """The group and noun, within which it can be paired."""
        return self.group, self.noun


@dataclass(frozen=True)
class Couple:
    """Two pictures that make a pair."""

    clean: Labelled
    corrupt: Labelled

    @property
    def id(self) -> str:
        """The id, made of the names of the files."""
        return f"{self.clean.name}|{self.corrupt.name}"

    @property
    def group(self) -> str:
        """Return the value that differs between the two pictures."""
        return self.clean.group

    @property
    def values(self) -> ValuePair:
        """Both values, in alphabetical order."""
        first, second = sorted((self.clean.value, self.corrupt.value))
        return first, second

    def swapped(self) -> "Couple":
        """Return the pair with its two pictures exchanged."""
        return Couple(self.corrupt, self.clean)


class Slot(NamedTuple):
    """Two values with a noun; a plan says how many pairs each slot gets."""

    group: str
    noun: str
    first: str
    second: str

    @property
    def values(self) -> ValuePair:
        """Both values."""
        return self.first, self.second


Stock = Mapping[GroupAndNoun, Mapping[str, int]]
Edges = Mapping[GroupAndNoun, Sequence[ValuePair]]
Nearest = Callable[[Sequence[Labelled], Sequence[Labelled], int], Iterable[tuple[Labelled, Labelled]]]


def plan(stock: Stock, edges: Edges, n: int | None, seed: int) -> Counter[Slot]:
    """Return the number of pairs of each slot, `n` in all or as many as there can be.

    Args:
        stock: How many pictures each value has, by place.
        edges: Which values may be offered against each other, by place.
        n: How many pairs; None for all.
        seed: Decides between equals.
    """
    if n is not None:
        spread = _spread(stock, edges, n, seed)
        if spread.total() == n:
            return spread
    all_ = _use_up(stock, edges, seed)
    return all_ if n is None else _cut(all_, n, seed)


def _spread(stock: Stock, edges: Edges, n: int, seed: int) -> Counter[Slot]:
    """Plan pairs as evenly as possible, up to `n` or until the next one would need a picture that has been used."""
    left = {place: Counter(supply) for place, supply in stock.items()}
    places: dict[str, dict[ValuePair, deque[GroupAndNoun]]] = defaultdict(lambda: defaultdict(deque))
    for place in shuffled(edges, seed, "\0".join):
        for values in edges[place]:
            places[place[0]][values].append(place)
    rare = {group: [(0, chance(seed, "\0".join(two)), two) for two in values] for group, values in places.items()}
    for heap in rare.values():
        heapq.heapify(heap)
    done: Counter[Slot] = Counter()
    made: Counter[str] = Counter()
    while rare and made.total() < n:
        group = min(rare, key=lambda group: (made[group], chance(seed, group)))
        times, tie, values = heapq.heappop(rare[group])
        nouns = places[group][values]
        while nouns and not all(left[nouns[0]][value] for value in values):
            nouns.popleft()
        if nouns:
            left[nouns[0]].subtract(values)
            done[Slot(*nouns[0], *values)] += 1
            made[group] += 1
            nouns.rotate(-1)
            heapq.heappush(rare[group], (times + 1, tie, values))
        elif not rare[group]:
            del rare[group]
    return done


def _use_up(stock: Stock, edges: Edges, seed: int) -> Counter[Slot]:
    """Plan nearly as many pairs as possible; two values with the fewest pairs so far go first."""
    done: Counter[Slot] = Counter()
    made: Counter[tuple[str, ValuePair]] = Counter()
    for place in shuffled(edges, seed, "\0".join):
        left = Counter(stock[place])
        open_ = shuffled(edges[place], seed, "\0".join)
        while open_ := [values for values in open_ if all(left[value] for value in values)]:
            rivals = _Rivals(open_)
            # Who the rivals are changes only when a value has run out.
            while all(left[value] for value in rivals.values):
                values = min(rivals.harmless(left), key=lambda values: made[place[0], values])
                left.subtract(values)
                made[place[0], values] += 1
                done[Slot(*place, *values)] += 1
    return done


class _Rivals:
    """Return the pairs that leave as few pictures without a partner as possible.

    Values that may not be offered against each other are rivals for the partners of them all: where they have more
    pictures than these partners, the surplus stays alone. The largest surplus of any set of rivals, a value by itself
    included, must not grow.

    Args:
        edges: Which values may be offered against each other.
    """

    def __init__(self, edges: Sequence[ValuePair]) -> None:
        self.edges = edges
        partners: dict[str, set[str]] = defaultdict(set)
        for first, second in edges:
            partners[first].add(second)
            partners[second].add(first)
        self.values = sorted(partners)
        sets: list[set[str]] = []
        for value in self.values:
            sets += [{value}, *({value, *rivals} for rivals in sets if not partners[value] & rivals)]
        around = [set().union(*(partners[value] for value in rivals)) for rivals in sets]
        rows = zip(sets, around, strict=True)
        self.sign = np.array([[(value in some) - (value in other) for value in self.values] for some, other in rows])
        at = {value: i for i, value in enumerate(self.values)}
        first, second = ([at[values[i]] for values in edges] for i in (0, 1))
        self.change = self.sign[:, first] + self.sign[:, second]

    def harmless(self, left: Mapping[str, int]) -> list[ValuePair]:
        """The pairs after which the largest surplus is as small as it can be."""
        surplus = self.sign @ np.array([left[value] for value in self.values])
        after = np.maximum((surplus[:, None] - self.change).max(0), 0)
        return [values for values, worst in zip(self.edges, after, strict=True) if worst == after.min()]


def _cut(plan: Counter[Slot], n: int, seed: int) -> Counter[Slot]:
    """Cut a plan to at most `n` pairs, balanced over groups, then over values, then over nouns."""
    levels: list[Callable[[Slot], str]] = [
        lambda slot: slot.group,
        lambda slot: "\0".join(slot.values),
        lambda slot: slot.noun,
    ]
    parts: list[tuple[Counter[Slot], int]] = [(plan, n)]
    for level in levels:
        finer: list[tuple[Counter[Slot], int]] = []
        for part, most in parts:
            inside: dict[str, Counter[Slot]] = defaultdict(Counter)
            for slot in sorted(part):
                inside[level(slot)][slot] = part[slot]
            quota = quotas({name: slots.total() for name, slots in inside.items()}, most, seed)
            finer += [(slots, quota[name]) for name, slots in inside.items() if quota[name]]
        parts = finer
    return Counter({slot: most for part, most in parts for slot in part})


def offered(plan: Counter[Slot], pictures: Iterable[Labelled], seed: int, spare: int) -> list[Labelled]:
    """The pictures that `couples` may take: of each value what the plan needs, and some to choose from.

    Args:
        plan: How many pairs each slot gets.
        pictures: All that there are.
        seed: Decides which ones.
        spare: How many more of each value.
    """
    need: Counter[tuple[GroupAndNoun, str]] = Counter()
    for slot, times in plan.items():
        for value in slot.values:
            need[(slot.group, slot.noun), value] += times
    room = Counter({key: times + spare for key, times in need.items()})
    found: list[Labelled] = []
    for picture in shuffled(pictures, seed, lambda picture: picture.name):
        key = (picture.place, picture.value)
        if room[key]:
            room[key] -= 1
            found.append(picture)
    return found


def couples(
    plan: Counter[Slot], pictures: Iterable[Labelled], seed: int, nearest: Nearest | None = None
) -> list[Couple]:
    """The pairs of a plan, by id; each picture is in one at most, and both values are equally often the clean one.

    Args:
        plan: How many of each slot.
        pictures: At least as many of each value as the plan needs.
        seed: Decides which pictures are taken, and who is clean.
        nearest: Which pictures of two lists go together, and how many; None takes them as they come.
    """
    unused: dict[tuple[GroupAndNoun, str], list[Labelled]] = defaultdict(list)
    for picture in shuffled(pictures, seed, lambda picture: picture.name):
        unused[picture.place, picture.value].append(picture)
    found: list[Couple] = []
    for slot, times in sorted(plan.items()):
        keys = [((slot.group, slot.noun), value) for value in slot.values]
        first, second = (unused[key] for key in keys)
        matched = zip(first[:times], second[:times], strict=True) if nearest is None else nearest(first, second, times)
        new = [Couple(a, b) for a, b in matched]
        taken = {picture.name for couple in new for picture in (couple.clean, couple.corrupt)}
        for key in keys:
            unused[key] = [picture for picture in unused[key] if picture.name not in taken]
        found += new
    sides = halves(found, seed, "clean side", lambda couple: couple.values)
    found = [couple.swapped() if swap else couple for couple, swap in zip(found, sides, strict=True)]
    return sorted(found, key=lambda couple: couple.id)
