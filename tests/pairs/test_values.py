"""What tables hold: text and whole numbers are read, what is missing is missing, and all else is refused by name."""

import datetime
import math
import re
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from hypothesis import given
from hypothesis import strategies as st

from notice_lens.pairs import MinimalPairs, PairsError
from notice_lens.pairs.problems import MISSING, NOT_TEXT
from pair_rows import make_row

OPEN = {"clean_prompt": "what is it?", "corrupt_prompt": ..., "roles": ...}
NOTHING = [
    None, float("nan"), np.float16("nan"), np.float32("nan"), np.float64("nan"), np.longdouble("nan"), pd.NA, pd.NaT,
    np.datetime64("NaT"), np.timedelta64("NaT"), Decimal("NaN"), np.ma.masked, np.ma.array([1], mask=[True])[0],
]  # fmt: skip
WHOLE = [
    (3, "3"), (-2, "-2"), (np.int8(7), "7"), (np.uint64(2**64 - 1), str(2**64 - 1)), (3.0, "3"), (np.float16(5), "5"),
    (np.float32(16), "16"), (-0.0, "0"), (Decimal("12.00"), "12"), (np.array(4), "4"), (10**30, "1" + "0" * 30),
]  # fmt: skip
NO_TEXT = [
    True, False, np.True_, ["red"], ("red",), {"red"}, {"word": "red"}, b"red", bytearray(b"red"), 0.5, np.float32(0.1),
    float("inf"), -np.inf, 2.0**53, np.float32(2**24), np.float16(2048), Decimal("0.1"), Decimal("Infinity"),
    Decimal("1E+1000000"), 1 + 0j, datetime.date(2024, 1, 1), pd.Timestamp("2024-01-01"), np.datetime64("2024-01-01"),
    pd.Timedelta(1), np.array(["red"]), np.array(["red", "green"]), object(), type,
]  # fmt: skip


def names(values: list) -> list[str]:
    return [f"{number} {type(value).__name__}" for number, value in enumerate(values)]


@pytest.mark.parametrize("value", NOTHING, ids=names(NOTHING))
def test_what_is_missing_is_missing(value):
    row = make_row(0, correct_answer=value, id=value, corrupt_answer=value, donor_image=value, group=value, note=value)
    with pytest.raises(PairsError) as caught:
        MinimalPairs.from_rows([row])
    assert {problem.detail for problem in caught.value.problems} == {"id is missing", "correct_answer is missing"}
    assert {problem.reason for problem in caught.value.problems} == {MISSING}
    row = make_row(0, corrupt_answer=value, group=value, donor_image=value, note=value, donor_prompt=value)
    other = make_row(1, note="a note")
    row["roles"] = {"noun": "apple", "verb": value}
    pair = MinimalPairs.from_rows([row, other])[0]
    assert (pair.corrupt_answer, pair.donor_prompt, pair.donor_image, pair["note"]) == (None, None, None, None)
    assert (pair.group, list(pair.roles)) == ("fruit", ["noun"])


@pytest.mark.parametrize(("value", "text"), WHOLE, ids=names([value for value, _ in WHOLE]))
def test_whole_numbers_are_text(value, text):
    pair = MinimalPairs.from_rows([make_row(0, id=value, task=value, correct_answer=value, **OPEN)])[0]
    assert (pair.id, pair.task, pair.correct_answer) == (text, text, text)


@pytest.mark.parametrize("value", NO_TEXT, ids=names(NO_TEXT))
def test_what_is_no_text_is_a_problem_of_its_row_and_column(value):
    rows = [make_row(0), make_row(1, id=value), make_row(2, **{**OPEN, "correct_answer": value}), make_row(3)]
    rows.append(make_row(4, group=value, kind=value, corrupt_prompt=value))
    with pytest.raises(PairsError) as caught:
        MinimalPairs.from_rows(rows)
    found = [(problem.id, problem.detail.partition(":")[0]) for problem in caught.value.problems]
    columns = [("pair-4", column) for column in ("group", "kind", "corrupt_prompt")]
    assert found == [("row 1", "id"), ("pair-2", "correct_answer"), *columns]
    kept = MinimalPairs.from_rows(rows, on_error="drop")
    assert kept["id"] == ["pair-0", "pair-3"]
    assert kept.manifest.dropped == {NOT_TEXT: 3}


def test_messages_say_what_arrived():
    for value, said in [
        (True, "correct_answer: expected text or a whole number, got True (bool); write the word that is meant"),
        (["red"], "correct_answer: expected text or a whole number, got ['red'] (list)"),
        (0.5, "got 0.5 (float)"),
        ("re\udcffd", r"correct_answer: half of a surrogate pair stands alone in 're\udcffd'"),
        (np.arange(1000), "got array([ 0, 1, 2"),
    ]:
        with pytest.raises(PairsError, match=re.escape(said)) as caught:
            MinimalPairs.from_rows([make_row(0, **{**OPEN, "correct_answer": value})])
        assert len(str(caught.value)) < 400


def test_numbers_that_are_one_are_one_id():
    with pytest.raises(PairsError, match="duplicate: 2"):
        MinimalPairs.from_rows([make_row(n, id=name) for n, name in enumerate([1, "1", 1.0])])


def labelled(values: list, feature) -> Dataset:
    rows = [make_row(n, **OPEN) for n in range(len(values))]
    columns = {name: [row[name] for row in rows] for name in rows[0]} | {"answer": values}
    texts = {name: Value("string") for name in columns}
    types = {**texts, "clean_image": Image(), "corrupt_image": Image(), "answer": feature}
    del columns["correct_answer"], types["correct_answer"]
    return Dataset.from_dict(columns, features=Features(types))


COLOURS = ClassLabel(names=["brown", "pink", "blue"])


@pytest.mark.parametrize("style", [None, "numpy", "pandas", "torch", "arrow"])
def test_class_labels_are_their_names_in_data_sets_of_every_format(style):
    dataset = labelled([2, 0, 1], COLOURS).with_format(style)
    for given_ in (dataset, DatasetDict(train=dataset), DatasetDict(train=dataset, test=dataset)["test"]):
        pairs = MinimalPairs.from_dataset(given_, columns={"correct_answer": "answer"})
        assert pairs["correct_answer"] == ["blue", "brown", "pink"]
        assert pairs[1].clean_image.tobytes() == make_row(1)["clean_image"].tobytes()


def test_class_labels_deep_inside_and_without_a_label():
    for value, feature, expected in [
        (1, COLOURS, "pink"),
        ([0, 2], List(COLOURS), ["brown", "blue"]),
        ([[0], []], List(List(COLOURS)), [["brown"], []]),
        ({"of": [1, 1], "n": 3}, {"of": List(COLOURS), "n": Value("int64")}, {"of": ["pink", "pink"], "n": 3}),
        ([{"of": 0}], List({"of": COLOURS}), [{"of": "brown"}]),
    ]:
        dataset = labelled([value, None], feature).add_column("correct_answer", ["red", "red"])
        assert MinimalPairs.from_dataset(dataset)["answer"] == [expected, None]
    columns = {"correct_answer": "answer"}
    with pytest.raises(PairsError, match="pair-1: correct_answer is missing"):
        MinimalPairs.from_dataset(labelled([2, -1], COLOURS), columns=columns)
    assert len(MinimalPairs.from_dataset(labelled([2, -1], COLOURS), columns=columns, on_error="drop")) == 1


def test_a_stream_is_read_to_its_end():
    columns = {"correct_answer": "answer"}
    stream = labelled([2, 0, 1], COLOURS).to_iterable_dataset()
    pairs = MinimalPairs.from_dataset(stream, columns=columns)
    assert pairs["correct_answer"] == ["blue", "brown", "pink"]
    assert pairs.manifest.source == "a data set of 3 rows"
    # A stream that was mapped no longer knows its features.
    mapped = stream.map(lambda row: {"answer": "grey"}).take(2)
    assert MinimalPairs.from_dataset(mapped, columns=columns)["correct_answer"] == ["grey", "grey"]


def test_what_is_no_data_set_is_named():
    dataset = labelled([0], COLOURS)
    both = DatasetDict(train=dataset, test=dataset)
    for wrong, said in [
        (both, "there are several splits, 'train', 'test'; take one, as dataset['train']"),
        ({"train": [1]}, "expected a datasets.Dataset, got a dict"),
        (pd.DataFrame([make_row()]), "got a DataFrame; from_rows reads rows and DataFrames"),
        ([make_row()], "got a list; from_rows"),
    ]:
        with pytest.raises(TypeError, match=re.escape(said)):
            MinimalPairs.from_dataset(wrong)
    with pytest.raises(ValueError, match=r"has a transform, .* dataset\.map\(\.\.\.\) changes them for good"):
        MinimalPairs.from_dataset(dataset.with_transform(lambda batch: batch))
    with pytest.raises(TypeError, match="got one Dataset; from_dataset reads data sets"):
        MinimalPairs.from_rows(dataset)


def test_a_data_frame_as_pandas_has_it():
    rows = [make_row(n, id=n, **OPEN) for n in range(3)]
    table = pd.DataFrame(rows).assign(corrupt_answer=["pink", None, "grey"], difficulty=[1, None, 3])
    table["id"] = [0.0, 1.0, 2.0]
    table["group"] = pd.Categorical(["shape", "shape", None])
    table["donor_prompt"] = pd.Series(["what is here?", pd.NA, pd.NA], dtype="string")
    pairs = MinimalPairs.from_rows(table)
    assert pairs["id"] == ["0", "1", "2"]
    assert pairs["corrupt_answer"] == ["pink", None, "grey"]
    assert pairs["group"] == ["shape", "shape", "fruit"]
    assert pairs["donor_prompt"] == ["what is here?", None, None]
    assert pairs["difficulty"] == [1, None, 3]
    with pytest.raises(ValueError, match="the DataFrame has the column 'id' more than once"):
        MinimalPairs.from_rows(pd.concat([table, table[["id"]]], axis=1))
    with pytest.raises(TypeError, match=re.escape("row 0 has a column of the name 7 (int)")):
        MinimalPairs.from_rows(table.rename(columns={"difficulty": 7}))


def test_new_columns_of_text_are_text():
    pairs = MinimalPairs.from_rows([make_row(n, **OPEN) for n in range(2)])
    assert pairs.with_column("corrupt_answer", pd.Series(["blue", np.nan]))["corrupt_answer"] == ["blue", None]
    assert pairs.with_column("corrupt_answer", np.array([3, 4]))["corrupt_answer"] == ["3", "4"]
    with pytest.raises(ValueError, match="corrupt_answer of pair-1: expected text or a whole number, got True"):
        pairs.with_column("corrupt_answer", [None, True])
    for column, value in (("corrupt_answer", "re\udcffd"), ("note", ["re\udcffd"])):
        with pytest.raises(ValueError, match=f"{column} of pair-1: half of a surrogate pair stands alone"):
            pairs.with_column(column, [None, value])
    with pytest.raises(TypeError, match="expected a list, an array or a Series of values, got a dict"):
        pairs.with_column("corrupt_answer", {"a": 1, "b": 2})


@pytest.mark.parametrize("name", ["g\0oup", "\0", "\0note", "note\0"])
def test_names_that_arrow_would_cut_are_counted_or_refused(name):
    """Arrow reads a name up to its first NUL, so that a column, or a key inside of a value, would get another one."""
    rows = [make_row(0, **OPEN), {**make_row(1, **OPEN), name: "x"}, {**make_row(2, **OPEN), "note": {name: 1}}]
    kept = MinimalPairs.from_rows(rows, on_error="drop")
    assert kept["id"] == ["pair-0"]
    assert kept.manifest.dropped == {"text that cannot be stored": 2}
    assert all("has a NUL in it" in detail for detail in kept.dropped["detail"])
    with pytest.raises(ValueError, match="has a NUL in it"):
        kept.with_column(name, ["x"])


@given(st.one_of(st.integers(), st.floats(width=32), st.floats(), st.floats(width=16), st.decimals(), st.text()))
def test_one_number_is_one_text(value):
    """A number is read where it is whole, and its text gives it back."""
    from notice_lens.pairs.io.values import as_text

    try:
        text = as_text(value)
    except ValueError:
        assert not isinstance(value, int)
        assert isinstance(value, str) or not -(2**53) < value < 2**53 or value != int(value)
        return
    if isinstance(value, str):
        assert text == value.strip()
    else:
        assert (text is None) == (value.is_nan() if isinstance(value, Decimal) else math.isnan(value))
        assert text is None or int(text) == value
