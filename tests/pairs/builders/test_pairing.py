from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, milp

from notice_lens.pairs.builders.pairing import Labelled, Slot, couples, offered, plan
from notice_lens.pairs.image_folder import ReadablePicture

VALUES = "abcdef"
TWO = list(combinations(VALUES, 2))
COUNTS = st.fixed_dictionaries({value: st.integers(0, 7) for value in VALUES})
PLACES = [("colour", "car"), ("colour", "cat"), ("shape", "car")]
STOCKS = st.fixed_dictionaries(dict.fromkeys(PLACES, COUNTS))
EDGES = st.fixed_dictionaries({place: st.lists(st.sampled_from(TWO), unique=True).map(sorted) for place in PLACES})
SEEDS = st.integers(0, 3)


def most(stock, edges) -> int:
    """The largest number of pairs, by integer programming."""
    if not edges:
        return 0
    uses = np.array([[value in two for two in edges] for value in VALUES], float)
    limit = LinearConstraint(uses, -np.inf, [stock[value] for value in VALUES])
    return round(-milp(-np.ones(len(edges)), constraints=limit, integrality=np.ones(len(edges))).fun)


def used(planned: Counter[Slot]) -> Counter:
    """How many pictures of each value with each noun a plan takes."""
    found = Counter()
    for slot, times in planned.items():
        found.update({(slot.group, slot.noun, value): times for value in slot.values})
    return found


@given(STOCKS, EDGES, SEEDS)
def test_all_pairs_that_can_be_made_are_made(stock, edges, seed):
    planned = plan(stock, edges, None, seed)
    assert planned.total() == sum(most(stock[place], edges[place]) for place in PLACES)
    assert all(slot.values in edges[slot.group, slot.noun] for slot in planned)
    assert all(count <= stock[group, noun][value] for (group, noun, value), count in used(planned).items())


@given(STOCKS, EDGES, st.integers(1, 40), SEEDS)
def test_a_number_of_pairs_is_reached_where_it_can_be(stock, edges, n, seed):
    planned = plan(stock, edges, n, seed)
    assert planned.total() == min(n, plan(stock, edges, None, seed).total())
    assert all(slot.values in edges[slot.group, slot.noun] for slot in planned)
    assert all(count <= stock[group, noun][value] for (group, noun, value), count in used(planned).items())


@given(STOCKS, EDGES, st.integers(1, 40), SEEDS, st.randoms())
def test_plan_does_not_depend_on_the_order_of_its_input(stock, edges, n, seed, random):
    planned = plan(stock, edges, n, seed)
    places = PLACES.copy()
    random.shuffle(places)
    again = {place: random.sample(edges[place], len(edges[place])) for place in places}
    assert plan({place: stock[place] for place in places}, again, n, seed) == planned


@given(st.integers(1, 150), SEEDS)
def test_plenty_is_spread_evenly(n: int, seed: int):
    planned = plan({place: dict.fromkeys(VALUES, 99) for place in PLACES}, dict.fromkeys(PLACES, TWO), n, seed)
    groups = Counter({"colour": 0, "shape": 0})
    for slot, times in planned.items():
        groups[slot.group] += times
    assert abs(groups["colour"] - groups["shape"]) <= 1
    for group in groups:
        two = Counter(dict.fromkeys(TWO, 0))
        for slot, times in planned.items():
            two[slot.values] += times * (slot.group == group)
        assert max(two.values()) - min(two.values()) <= 1
    for values in TWO:
        nouns = [planned[Slot("colour", noun, *values)] for noun in ("car", "cat")]
        assert abs(nouns[0] - nouns[1]) <= 1


def test_pairs_that_are_left_out_for_a_number_are_left_out_evenly():
    # Spread first, x-y would use up what a and b need: only 8 of 10 pairs could be made.
    stock = {("g", "car"): {"a": 5, "b": 5, "x": 5, "y": 5}}
    edges = {("g", "car"): [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"), ("x", "y")]}
    assert plan(stock, edges, None, 0).total() == 10
    planned = plan(stock, edges, 9, 0)
    assert planned.total() == 9
    assert sorted(planned.values()) in ([2, 2, 2, 3], [1, 2, 2, 2, 2])


def labelled(name: str, value: str) -> Labelled:
    return Labelled(ReadablePicture(Path(name), name, 1, 1), name, "g", "car", value)


def test_pictures_near_each_other_are_taken_where_asked_for():
    pictures = [labelled(f"{value}{i}", value) for value in "ab" for i in range(6)]

    def same_number(first, second, times):
        both = {picture.name[1:]: picture for picture in second}
        return [(a, both[a.name[1:]]) for a in sorted(first, key=lambda a: a.name) if a.name[1:] in both][:times]

    found = couples(Counter({Slot("g", "car", "a", "b"): 4}), pictures, 0, same_number)
    assert len(found) == 4
    assert all(couple.clean.name[1:] == couple.corrupt.name[1:] for couple in found)
    assert {couple.clean.value for couple in found} == {"a", "b"}


def test_offer_is_what_is_needed_and_some_to_spare():
    pictures = [labelled(f"{value}{i}", value) for value in "abc" for i in range(20)]
    need = Counter({Slot("g", "car", "a", "b"): 4, Slot("g", "car", "a", "c"): 2})
    offer = offered(need, pictures, 0, 3)
    assert Counter(picture.value for picture in offer) == {"a": 9, "b": 7, "c": 5}
    assert couples(need, offer, 0) == couples(need, pictures, 0)
