"""Choosing among pairs: by number, slice, mask, column and chance."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

from notice_lens.pairs import MinimalPairs, Noise, mini_world, symmetric_replacement
from pair_rows import make_row, picture, some


def test_a_sequence_of_pairs():
    pairs = some(5)
    assert len(pairs) == 5
    assert pairs[-1].id == "pair-4"
    assert [pair.id for pair in pairs] == pairs["id"]
    assert pairs[1:3]["id"] == ["pair-1", "pair-2"]
    assert pairs.select([3, 0])["id"] == ["pair-3", "pair-0"]
    assert pairs.filter(lambda pair: pair.id != "pair-2", group=["colour", "shape"])["id"] == [
        "pair-0", "pair-1", "pair-3", "pair-4",
    ]  # fmt: skip
    assert len(pairs.filter(task="vegetables")) == 0
    shuffled = pairs.shuffle(seed=3)
    assert sorted(shuffled["id"]) == pairs["id"] != shuffled["id"] == pairs.shuffle(seed=3)["id"]
    with pytest.raises(IndexError, match="pair 5 asked for; there are 5"):
        pairs[5]
    with pytest.raises(IndexError, match="pair 7 asked for; there are 5"):
        pairs.select([0, 7])
    with pytest.raises(KeyError, match="no column 'promt'"):
        pairs["promt"]
    with pytest.raises(KeyError, match="no column 'gruop'; did you mean 'group'"):
        pairs.filter(gruop="colour")


NUMBERS = [
    [0, 2], (0, 2), np.array([0, 2]), np.array([0, 2], dtype=np.uint8), pd.Series([0, 2]), torch.tensor([0, 2]),
    range(0, 3, 2),
    pd.Index([0, 2]), [np.int64(0), -2], [torch.tensor(0), 2], (n for n in (0, 2)), pd.Series([0, 2], dtype="Int64"),
]  # fmt: skip


MASK_OF_TWO = [True, False, True, False]


MASKS = [
    MASK_OF_TWO, np.array(MASK_OF_TWO), pd.Series(MASK_OF_TWO, index=[9, 8, 7, 6]), torch.tensor(MASK_OF_TWO),
    list(np.array(MASK_OF_TWO)), pd.Series(MASK_OF_TWO, dtype="boolean"), np.array(MASK_OF_TWO, dtype=object),
]  # fmt: skip


@pytest.mark.parametrize("chosen", [*NUMBERS, *MASKS], ids=lambda chosen: type(chosen).__name__)
def test_several_pairs_by_number_and_by_mask(chosen):
    pairs = some(4)
    if iter(chosen) is not chosen:
        assert pairs[chosen]["id"] == ["pair-0", "pair-2"]
    assert pairs.select(chosen)["id"] == ["pair-0", "pair-2"]


@pytest.mark.parametrize(
    "chosen",
    [
        [0.7], [1.0], np.array([0.5, 1.5]), ["0"], [None], [True, 2], [True, None, False, True], [[0, 1]], [pd.NA],
        np.array([[0, 1]]), pd.Series([True, pd.NA, True, False], dtype="boolean"), [float("nan")], ["id", "task"],
    ],
    ids=str,
)  # fmt: skip
def test_what_chooses_no_pairs_is_refused(chosen):
    for choose in (some(4).select, some(4).__getitem__):
        with pytest.raises(TypeError, match="pair .* asked for; expected a whole number, several of them"):
            choose(chosen)


def test_one_pair_by_what_is_no_number_or_outside(unchecked):
    pairs = some(4)
    assert pairs[np.int64(-1)].id == pairs[torch.tensor(3)].id == pairs[np.array(3)].id == "pair-3"
    for index in (0.7, 1.0, None, True, np.True_, float("nan"), torch.tensor(True), torch.tensor(0.0)):
        with pytest.raises(TypeError, match="pair .* asked for; expected a whole number"):
            pairs[index]
    for wrong in ("01", 1, {0: 1}, {0, 1}, b"01", pd.DataFrame({"n": [0]})):
        with pytest.raises(TypeError, match="expected a list, an array or a Series of numbers of pairs, got a"):
            pairs.select(wrong)
    for mask in ([True], [False] * 5, np.ones(3, bool)):
        with pytest.raises(IndexError, match=f"a mask of {len(mask)} for 4 pairs; expected True or False for each"):
            pairs[mask]
    assert len(pairs.select([])) == len(pairs[np.array([])]) == len(pairs[np.zeros(4, bool)]) == 0


def test_a_column_may_have_one_of_the_values_of_an_array():
    pairs = some(4)
    for wanted in (np.array(["pair-1", "pair-3"]), pd.Series(["pair-3", "pair-1"]), {"pair-1", "pair-3"}):
        assert pairs.filter(id=wanted)["id"] == ["pair-1", "pair-3"]


@pytest.mark.parametrize("seed", [-1, 0.5, 1.0, None, "0", True, float("nan"), np.float64(1), [0]], ids=str)
def test_seeds_are_refused_before_the_work(seed, unchecked):
    pairs = some(3)
    for draw in (
        lambda: pairs.shuffle(seed),
        lambda: pairs.train_test_split(seed=seed),
        lambda: symmetric_replacement(pairs, "no such tokenizer", seed=seed),
        lambda: Noise(seed=seed),
        lambda: mini_world("states", 2, seed),
    ):
        with pytest.raises(ValueError, match=re.escape(f"seed={seed!r}: expected a whole number, 0 or more")):
            draw()


@pytest.mark.parametrize("n", [0, -1, 1.5, 2.0, None, "3", True, np.float64(2)], ids=str)
def test_numbers_are_refused_before_the_work(n, unchecked):
    with pytest.raises(ValueError, match=re.escape(f"n={n!r}: expected a whole number, 1 or more")):
        mini_world("states", n)
    with pytest.raises(ValueError, match="samples=.*: expected a whole number, 1 or more"):
        Noise(samples=n)
    with pytest.raises(ValueError, match="a size is .*; got"):
        some(1).resize(n if n is not None else (8, None))


def test_numbers_of_numpy_are_numbers(unchecked):
    pairs = mini_world("states", np.int64(3), np.uint8(2), size=np.int32(32))
    assert pairs.fingerprint == mini_world("states", 3, 2, size=32).fingerprint
    assert (type(pairs.manifest.seed), type(pairs.manifest.options["n"])) == (int, int)
    assert pairs.shuffle(np.int64(3))["id"] == pairs.shuffle(3)["id"]
    assert pairs.resize(np.int64(16))[0].clean_image.size == (16, 16)


def test_pairs_that_share_their_images_are_not_split(unchecked):
    rows = [make_row(number) for number in range(20)]
    rows += [
        {**row, "id": f"back-{row['id']}", "clean_image": row["corrupt_image"], "corrupt_image": row["clean_image"],
         "correct_answer": "green", "incorrect_answer": "red", "roles": None}
        for row in rows
    ]  # fmt: skip
    parts = MinimalPairs.from_rows(rows).train_test_split(test_size=0.3, seed=1)
    assert len(parts["test"]) == 12
    assert len(parts["train"]) == 28
    assert {digest for column in ("clean_digest", "corrupt_digest") for digest in parts["train"][column]}.isdisjoint(
        parts["test"]["clean_digest"]
    )
    crossed = [
        make_row(4 * a + b, clean_image=picture(a), corrupt_image=picture(10 + b)) for a in range(4) for b in range(4)
    ]
    with pytest.raises(ValueError, match="16 pairs in 1 clusters"):
        MinimalPairs.from_rows(crossed).train_test_split(together="image")
    with pytest.raises(ValueError, match="test_size is a share of the pairs, above 0 and below 1; got 3.0"):
        parts["train"].train_test_split(test_size=3.0)
    for share in ("x", None, float("nan"), 1, True):
        with pytest.raises(ValueError, match=f"above 0 and below 1; got {share!r}"):
            parts["train"].train_test_split(test_size=share)
    with pytest.raises(ValueError, match="1 pairs in 1 clusters leave no two parts"):
        some(1).train_test_split()
