"""Tables as people's programs write them: separators, encodings, JSON of every shape, the same text through each."""

import codecs
import csv
import io
import json
import re

import pandas as pd
import pytest
from datasets import Dataset
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from notice_lens.pairs import MinimalPairs, PairsError
from pair_rows import make_row, picture

WORD = "naïve 'café', \"half;full\"\tor\r\nbar|one 红 🍎"


def row(number=0, **changes):
    """A row of an open question, with its images in files."""
    opened = {"clean_image": "0.png", "corrupt_image": "1.png", "clean_prompt": "what is it?", "corrupt_prompt": ""}
    return make_row(number, **{**opened, "roles": ..., **changes})


def as_csv(rows, separator=",", quoting=csv.QUOTE_MINIMAL, end="\r\n"):
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), delimiter=separator, quoting=quoting, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_table_of_any_separator_and_encoding(folder, separator, encoding):
    rows = [row(n, note=WORD, answers_seen="a,b,c;d") for n in range(2)]
    (folder / "pairs.txt").write_bytes(as_csv(rows, separator).encode(encoding))
    pairs = MinimalPairs.from_csv(folder / "pairs.txt")
    assert pairs["note"] == [WORD] * 2
    assert pairs["answers_seen"] == ["a,b,c;d"] * 2


def test_utf_16_of_the_other_byte_order_and_cut_off(folder):
    raw = codecs.BOM_UTF16_BE + as_csv([row()]).encode("utf-16-be")
    (folder / "pairs.csv").write_bytes(raw)
    assert MinimalPairs.from_csv(folder / "pairs.csv")["correct_answer"] == ["red"]
    (folder / "pairs.csv").write_bytes(raw[:-1])
    with pytest.raises(ValueError, match="pairs.csv is not in UTF-16: byte 0x.. in line 2; save it as UTF-8"):
        MinimalPairs.from_csv(folder / "pairs.csv")


@pytest.mark.parametrize("raw", [b"", b"\r\n \n", codecs.BOM_UTF8, codecs.BOM_UTF16_LE, "\n \n".encode("utf-16")])
def test_files_with_nothing_in_them(tmp_path, raw):
    (tmp_path / "pairs.csv").write_bytes(raw)
    for read in (MinimalPairs.from_csv, MinimalPairs.from_jsonl):
        with pytest.raises(ValueError, match="pairs.csv is empty; expected"):
            read(tmp_path / "pairs.csv")


def test_what_r_and_pandas_write_for_missing(folder):
    """As R's write.csv has it: text in quotes, and NA, which no quotes are around, for what is missing."""
    header = (
        "id,task,clean_image,corrupt_image,clean_prompt,correct_answer,incorrect_answer,corrupt_answer,donor_prompt\n"
    )
    start = '"fruit","0.png","1.png","what is it?"'
    (folder / "pairs.csv").write_text(
        header
        + f'"a",{start},"NA","nan","",NA\n'
        + f'"b",{start},"None","null",NA,"say ""NA"", or\nNA,NA"\n'
        + f"c,{start},n/a,na,NaN,<NA>\r\n"
        + f'd,{start},5" NA,NA 5,nan,NA'
    )
    pairs = MinimalPairs.from_csv(folder / "pairs.csv")
    assert pairs["correct_answer"] == ["NA", "None", "n/a", '5" NA']
    assert pairs["incorrect_answer"] == ["nan", "null", "na", "NA 5"]
    assert pairs["corrupt_answer"] == [None] * 4
    assert pairs["donor_prompt"] == [None, 'say "NA", or\nNA,NA', None, None]
    (folder / "pairs.csv").write_text(header + f'"a",{start},NA,"red","",NA\nNA,{start},"blue","red","",NaT\n')
    with pytest.raises(PairsError) as caught:
        MinimalPairs.from_csv(folder / "pairs.csv")
    assert [str(problem) for problem in caught.value.problems] == [
        "a: correct_answer is missing",
        "row 1: id is missing",
    ]


def test_a_quotation_mark_left_open_is_found_quickly(tmp_path):
    (tmp_path / "pairs.csv").write_text('id,task\n"1,states\n' + ',"a"b\n' * 200_000)
    with pytest.raises(ValueError, match="no CSV: .*; is a quotation mark left open"):
        MinimalPairs.from_csv(tmp_path / "pairs.csv")


ROWS = [row(n, note=WORD, count=n) for n in range(3)]
JSON = {
    "lines": "\n".join(json.dumps(one) for one in ROWS),
    "lines with blank ones": "\n\n \n".join(json.dumps(one, ensure_ascii=False) for one in ROWS) + "\n\n",
    "an array": json.dumps(ROWS),
    "an array over lines": json.dumps(ROWS, indent=2, ensure_ascii=False),
    "objects over lines": "\n".join(json.dumps(one, indent=2) for one in ROWS),
    "arrays in lines": f"{json.dumps(ROWS[:2])}\n{json.dumps(ROWS[2:])}",
}


@pytest.mark.parametrize("case", JSON)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_json_of_any_shape(folder, case, encoding):
    (folder / "pairs.json").write_bytes(JSON[case].encode(encoding))
    pairs = MinimalPairs.from_jsonl(folder / "pairs.json")
    assert (pairs["note"], pairs["count"]) == ([WORD] * 3, [0, 1, 2])


ROW_TEXT = json.dumps(ROWS[0])
NUMBER = '{"id": ' + "1" * 5000 + "}"


@pytest.mark.parametrize(
    ("text", "kept", "said"),
    [
        (f'[{ROW_TEXT},\n{{"id" 2}}]', 1, ["line 2: no JSON: Expecting ':' delimiter: line 2 column 7"]),
        (f'{ROW_TEXT}\n\n{{"id": 2', 1, ["line 3: no JSON: Expecting"]),
        (f"[{ROW_TEXT}, [2]]", 1, ["line 1, item 1: no JSON object but a list"]),
        (f'{ROW_TEXT}\n"red"', 1, ["line 2: no JSON object but a str"]),
        ("\n" + "[" * 100_000, 0, ["line 2: no JSON: maximum recursion depth"]),
        (f"{ROW_TEXT}\n{NUMBER}", 1, ["line 2: no JSON: Exceeds the limit"]),
        ("id,task\n1,2", 0, ["line 1: no JSON: Expecting value: line 1 column 1"]),
        ("[]\n[]", 0, []),
        (f'[\n{ROW_TEXT},\n{{"id" 2}},\n{{"id": }},\n', 1, ["line 3: no JSON", "line 4: no JSON"]),
        (f"[{ROW_TEXT},\n{{'id': 2}},\n{json.dumps(ROWS[1])},\n{json.dumps(ROWS[2])}]", 3, ["line 2: no JSON"]),
        (f"[{ROW_TEXT}, {json.dumps(ROWS[1])},\n{json.dumps(ROWS[2])[:20]}", 2, ["line 2: no JSON"]),
    ],
    ids=range(11),
)
def test_where_json_is_wrong(folder, text, kept, said):
    """Each is one problem, with its line, and costs no row beside it; also within an array."""
    (folder / "pairs.json").write_text(text)
    pairs = MinimalPairs.from_jsonl(folder / "pairs.json", on_error="drop")
    assert pairs["id"] == [row["id"] for row in ROWS[:kept]]
    found = [f"{name}: {detail}" for name, detail in zip(pairs.dropped["id"], pairs.dropped["detail"], strict=True)]
    assert len(found) == len(said)
    assert all(text.startswith(f"pairs.json, {start}") for text, start in zip(found, said, strict=True))
    if said:
        with pytest.raises(PairsError, match=re.escape(f"pairs.json, {said[0]}")):
            MinimalPairs.from_jsonl(folder / "pairs.json")


def test_values_of_json_are_read_as_those_of_any_row(folder):
    rows = [
        row(0, corrupt_answer=float("nan")),
        row(1, correct_answer=True),
        row(2, id=2.0),
        row(3, incorrect_answer=["a"]),
    ]
    (folder / "pairs.json").write_text(json.dumps(rows))
    pairs = MinimalPairs.from_jsonl(folder / "pairs.json", on_error="drop")
    assert pairs["id"] == ["pair-0", "2"]
    details = [dropped["detail"] for dropped in pairs.dropped]
    assert [detail.partition(":")[0] for detail in details] == ["correct_answer", "incorrect_answer"]


MISSING = ("<NA>", "NA", "NaN", "NaT", "nan")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text.strip())
WORDS = st.sampled_from(
    [*MISSING, "None", "null", "yes", "007", "1.0", "1e5", '"', "'", "a,b;c\td|e", "\ufeffx", "\x00"]
)


def through(path, rows, way):
    """The rows, written and read in one of the ways that texts take."""
    if way == "data set":
        return MinimalPairs.from_dataset(Dataset.from_list(rows))
    if way == "parquet":
        Dataset.from_list(rows).to_parquet(path)
        return MinimalPairs.from_dataset(Dataset.from_list(pd.read_parquet(path).to_dict("records")))
    if way == "pandas":
        return MinimalPairs.from_rows(pd.DataFrame(rows))
    if way == "pandas' csv":
        pd.DataFrame(rows).to_csv(path, index=False, quoting=csv.QUOTE_NONNUMERIC)
        return MinimalPairs.from_csv(path)
    if way in ("json", "json lines"):
        text = json.dumps(rows) if way == "json" else "\n".join(json.dumps(one, ensure_ascii=False) for one in rows)
        path.write_text(text, encoding="utf-8", newline="")
        return MinimalPairs.from_jsonl(path)
    separator, encoding, quoting = {
        "csv": (",", "utf-8", csv.QUOTE_MINIMAL),
        "tsv": ("\t", "utf-8-sig", csv.QUOTE_ALL),
        "excel": ("\t", "utf-16", csv.QUOTE_MINIMAL),
        "german": (";", "utf-8", csv.QUOTE_ALL),
    }[way]
    path.write_bytes(as_csv(rows, separator, quoting).encode(encoding))
    return MinimalPairs.from_csv(path)


@pytest.mark.parametrize(
    "way", ["csv", "tsv", "excel", "german", "pandas' csv", "json", "json lines", "data set", "parquet", "pandas"]
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.one_of(TEXT, WORDS), min_size=1, max_size=3))
def test_what_is_written_is_read(texts, way, tmp_path):
    for number in range(2):
        picture(number).save(tmp_path / f"{number}.png")
    # Where nothing is in quotes that need not be, the words for missing values are missing values.
    texts = [text for text in texts if way not in ("csv", "excel") or text not in MISSING]
    assume(texts)
    images = {"clean_image": str(tmp_path / "0.png"), "corrupt_image": str(tmp_path / "1.png")}
    rows = [row(n, correct_answer=text, group=f"{text} group", **images) for n, text in enumerate(texts)]
    pairs = through(tmp_path / "pairs", rows, way)
    assert pairs["correct_answer"] == [text.strip() for text in texts]
    assert pairs["group"] == [f"{text} group".strip() for text in texts]
