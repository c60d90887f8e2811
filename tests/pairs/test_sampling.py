from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notice_lens.pairs.sampling import balanced, check_draw, option_orders, quotas, shuffled

SEEDS = st.integers(0, 10)


@dataclass(frozen=True)
class Thing:
    id: str
    group: str
    word: str = ""


GROUPS = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("xyz")), max_size=40)


def things(groups: list[tuple[str, str]]) -> list[Thing]:
    return [Thing(f"{i}", group, word) for i, (group, word) in enumerate(groups)]


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 9)), st.integers(1, 50), SEEDS)
def test_quotas_are_as_equal_as_the_supply_allows(supply: dict[str, int], n: int, seed: int):
    given_ = quotas(supply, n, seed)
    assert list(given_) == list(supply)
    assert sum(given_.values()) == min(n, sum(supply.values()))
    assert all(0 <= given_[group] <= supply[group] for group in supply)
    most = max(given_.values(), default=0)
    assert all(given_[group] >= most - 1 for group in supply if given_[group] < supply[group])


def test_seed_decides_who_gets_the_remainder():
    assert len({tuple(quotas({"a": 9, "b": 9, "c": 9}, 10, seed).items()) for seed in range(20)}) == 3


@given(GROUPS, st.integers(1, 50), SEEDS, st.randoms())
def test_draw_is_balanced_without_replacement_and_blind_to_the_input_order(groups, n, seed, random):
    candidates = things(groups)
    drawn = balanced(candidates, n, seed)
    assert len(set(drawn)) == len(drawn)
    supply = Counter(thing.group for thing in candidates)
    assert Counter(thing.group for thing in drawn) == +Counter(quotas(supply, n, seed))
    random.shuffle(candidates)
    assert balanced(candidates, n, seed) == drawn


def test_draws_of_seeds_differ():
    candidates = things([("a", "x")] * 30)
    assert len({tuple(balanced(candidates, 10, seed)) for seed in range(5)}) == 5


def test_everything_is_drawn_without_a_number():
    candidates = things([("a", "x"), ("b", "x"), ("b", "y")])
    assert balanced(candidates) == balanced(candidates, 99) == candidates


@given(GROUPS, SEEDS, st.randoms())
def test_orders_are_balanced_to_one_in_groups_and_in_strata(groups, seed, random):
    candidates = things(groups)
    orders = option_orders(candidates, seed, lambda thing: (thing.word,))
    signs = [2 * order - 1 for order in orders]
    for of in (lambda thing: thing.group, lambda thing: (thing.group, thing.word)):
        surplus = Counter()
        for thing, sign in zip(candidates, signs, strict=True):
            surplus[of(thing)] += sign
        assert all(-1 <= value <= 1 for value in surplus.values())
    by_id = dict(zip(candidates, orders, strict=True))
    random.shuffle(candidates)
    assert dict(zip(candidates, option_orders(candidates, seed, lambda thing: (thing.word,)), strict=True)) == by_id


def test_neither_order_is_favoured_in_groups_of_odd_size():
    first = Counter(option_orders([Thing("0", "a")], seed)[0] for seed in range(40))
    assert min(first[True], first[False]) > 8


def test_one_more_item_reshuffles_none_of_the_others():
    some = shuffled("abcdefgh", 3)
    assert [item for item in shuffled("abcdefghi", 3) if item != "i"] == some != list("abcdefgh")


@pytest.mark.parametrize("n", [0, -1, True, 1.5, "10"])
def test_number_that_is_none(n):
    with pytest.raises(ValueError, match=r"n=.*: expected a whole number, 1 or more"):
        check_draw(n, 0)


@pytest.mark.parametrize("seed", [None, 1.0, True, "0", -1, float("nan")])
def test_seed_that_is_none(seed):
    with pytest.raises(ValueError, match=r"seed=.*: expected a whole number, 0 or more"):
        check_draw(5, seed)


def test_shared_ids():
    with pytest.raises(ValueError, match="1 ids are shared by several candidates, such as '7'; each needs its own"):
        balanced([Thing("7", "a"), Thing("7", "b")])
