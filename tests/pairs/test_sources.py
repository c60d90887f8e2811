"""Pairs from tables: CSV and JSON lines, with paths that stay in their folder."""

import ast
import csv
import json
import re

import numpy as np
import pytest
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from notice_lens.pairs import MinimalPairs, PairsError
from notice_lens.pairs.problems import IMAGE, REGION, ROLE, ROW, TEXT
from pair_rows import make_row, picture

COMMENT = 'é, "quoted",\nof two\u2028or three lines'


def table_row(number, **changes):
    paths = {"clean_image": f"{2 * number}.png", "corrupt_image": f"{2 * number + 1}.png"}
    row = make_row(number, **{**paths, **changes})
    return {k: json.dumps(v) if isinstance(v, dict) else v for k, v in row.items()}


def write_csv(path, rows, encoding="utf-8"):
    with open(path, "w", newline="", encoding=encoding) as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_csv_file(folder, encoding):
    Image.fromarray(np.eye(16, 24, dtype=bool)).save(folder / "mask.png")
    rows = [table_row(n, corrupt_answer="", clean_regions={"object": "mask.png"}, comment=COMMENT) for n in range(3)]
    pairs = MinimalPairs.from_csv(write_csv(folder / "pairs.csv", rows, encoding))
    assert pairs[2].clean_image.tobytes() == picture(4).tobytes()
    assert pairs[1].roles == {"noun": (8, 13), "correct": (14, 17), "incorrect": (21, 26)}
    assert pairs["corrupt_answer"] == [None] * 3
    assert pairs["comment"] == [COMMENT] * 3
    np.testing.assert_array_equal(pairs[0].clean_regions["object"], np.eye(16, 24, dtype=bool))
    assert (pairs.manifest.builder, pairs.manifest.source) == ("from_csv", "pairs.csv")
    assert len(pairs.manifest.checksum) == 64


def test_json_lines(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    rows = [{**table_row(n), "roles": {"noun": "apple"}, "clean_image": f"{n}.png"} for n in range(2)]
    (elsewhere / "pairs.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows))
    pairs = MinimalPairs.from_jsonl(elsewhere / "pairs.jsonl", images=folder)
    assert pairs[1].clean_image.tobytes() == picture(1).tobytes()
    assert pairs[1].roles == {"noun": (8, 13)}


def test_columns_of_other_names(folder):
    rows = [{("img" if k == "clean_image" else k): v for k, v in table_row(n).items()} for n in range(2)]
    path = write_csv(folder / "pairs.csv", rows)
    assert len(MinimalPairs.from_csv(path, columns={"clean_image": "img"})) == 2
    with pytest.raises(ValueError, match=r"pairs.csv has no column 'imgg'; it has clean_prompt, correct_answer"):
        MinimalPairs.from_csv(path, columns={"clean_image": "imgg"})
    rows = [{k.replace("clean_image", "clean_img"): v for k, v in row.items()} for row in [table_row(0)]]
    with pytest.raises(ValueError, match=r"missing: clean_image; .*; perhaps columns=\{'clean_image': 'clean_img'\}"):
        MinimalPairs.from_csv(write_csv(folder / "other.csv", rows))
    renamed = {"correct_answer": "answer", "incorrect_answer": "other_answer"}
    rows = [{renamed.get(k, k): v for k, v in table_row(0).items()}]
    with pytest.raises(ValueError, match="missing: correct_answer, incorrect_answer") as caught:
        MinimalPairs.from_csv(write_csv(folder / "answers.csv", rows))
    guesses = ast.literal_eval(str(caught.value).partition("columns=")[2])
    assert guesses == renamed, "no column is guessed for two of ours"


def test_messages_name_files_from_the_working_folder_on(folder, monkeypatch):
    """A report is passed on: where somebody keeps their folders is nobody else's business."""
    (folder / "mask.png").write_bytes(b"no image")
    monkeypatch.chdir(folder)
    wrong = table_row(0, clean_image="none.png", corrupt_regions={"object": "mask.png"})
    messages = []
    for read in (lambda: MinimalPairs.from_rows([wrong]), lambda: MinimalPairs.from_csv(write_csv("a.csv", [wrong]))):
        with pytest.raises(PairsError, match="clean_image: none.png: no such file") as caught:
            read()
        messages.append(str(caught.value))
    pairs = MinimalPairs.from_rows([table_row(1)])
    (folder / table_row(1)["clean_image"]).unlink()
    with pytest.raises(ValueError, match="no such file") as caught:
        pairs[0].clean_image  # noqa: B018
    messages.append(str(caught.value))
    assert all("corrupt_regions: mask.png cannot be read" in message for message in messages[:2])
    assert not any(str(folder) in message for message in messages), messages


@pytest.mark.parametrize("path", ["../secret.png", "/etc/hostname", "sub/../../secret.png"])
def test_paths_stay_in_their_folder(folder, path):
    inside = folder / "inside"
    inside.mkdir()
    picture(0).save(folder / "secret.png")
    for number in range(2, 4):
        picture(number).save(inside / f"{number}.png")
    rows = [table_row(0, clean_image=path, corrupt_image="2.png"), table_row(1)]
    table = write_csv(inside / "pairs.csv", rows)
    with pytest.raises(PairsError, match=re.escape(f"clean_image: the path {path!r} leads out of")):
        MinimalPairs.from_csv(table)
    pairs = MinimalPairs.from_csv(table, on_error="drop")
    assert pairs["id"] == ["pair-1"]
    rows = [table_row(1, clean_regions={"object": path})]
    with pytest.raises(PairsError, match=re.escape(f"clean_regions: the path {path!r} leads out of")):
        MinimalPairs.from_csv(write_csv(inside / "pairs.csv", rows))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "pairs.csv is empty; expected a header and one row for each pair"),
        (b"id,task\n1,caf\xe9\n", "pairs.csv is not in UTF-8: byte 0xe9 in line 2; save it as UTF-8"),
        (b"id,task\n1,states\n", "columns are missing: clean_image, corrupt_image, clean_prompt, correct_answer"),
        (b"id,task\n1,states,7\n", "pairs.csv, line 2: 3 cells, but the header has 2 columns: id, task"),
        (b"id,task,id\n1,a,2\n", "pairs.csv has the column 'id' more than once; expected each once"),
        (b"id,task\n1\n", "pairs.csv, line 2: 1 cells, but the header has 2"),
        (b'id,task\n"1,states\n', "pairs.csv, line 2: no CSV: unexpected end"),
    ],
)
def test_what_is_no_table_of_pairs(tmp_path, raw, message):
    (tmp_path / "pairs.csv").write_bytes(raw)
    with pytest.raises(ValueError, match=re.escape(message)):
        MinimalPairs.from_csv(tmp_path / "pairs.csv")


def test_what_is_no_json(tmp_path):
    (tmp_path / "pairs.jsonl").write_text("\nno\n")
    with pytest.raises(ValueError, match="pairs.jsonl, line 2: no JSON: "):
        MinimalPairs.from_jsonl(tmp_path / "pairs.jsonl")
    (tmp_path / "pairs.jsonl").write_text("[1]")
    with pytest.raises(ValueError, match="pairs.jsonl, line 1, item 0: no JSON object but a int"):
        MinimalPairs.from_jsonl(tmp_path / "pairs.jsonl")


def test_broken_files_are_problems_of_their_rows(folder):
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:200])
    (folder / "2.png").write_bytes(b"")
    (folder / "4.png").unlink()
    (folder / "4.png").mkdir()
    table = write_csv(folder / "pairs.csv", [table_row(n) for n in range(3)])
    with pytest.raises(PairsError) as caught:
        MinimalPairs.from_csv(table)
    report = str(caught.value)
    for what in ("0.png: ", "2.png: the file is empty (0 bytes)", "4.png: it is a folder, not an image file"):
        assert what in report
    assert len(MinimalPairs.from_csv(table, on_error="drop").dropped) == 3


def test_long_cells_and_columns_that_stand_for_two(folder):
    mask = {"size": [16, 24], "counts": [1, 383]}
    long = {"object": mask, **{f"r{n}": mask for n in range(4000)}}
    rows = [table_row(0, clean_regions=long, task=..., group=..., category="colour")]
    path = write_csv(folder / "pairs.csv", rows)
    pairs = MinimalPairs.from_csv(path, columns={"task": "category", "group": "category"})
    assert (pairs[0].task, pairs[0].group) == ("colour", "colour")
    assert len(pairs[0].clean_regions) == 4001
    with pytest.raises(ValueError, match="gives our names first: no column 'category'"):
        MinimalPairs.from_csv(path, columns={"category": "task"})
    with pytest.raises(FileNotFoundError, match="images='nowhere': there is no such folder"):
        MinimalPairs.from_csv(path, images="nowhere")


def test_images_may_be_mappings(folder):
    row = {**make_row(0), "clean_image": {"path": "0.png"}, "corrupt_image": {"path": "../1.png", "bytes": None}}
    (folder / "pairs.jsonl").write_text(json.dumps(row))
    with pytest.raises(PairsError, match=re.escape("the path '../1.png' leads out of")):
        MinimalPairs.from_jsonl(folder / "pairs.jsonl")


VOC = np.zeros((16, 24), np.uint8)
VOC[2:9, 3:15] = 255
VOC[4:7, 5:13] = 15


def ways_in(folder, rows, **options):
    """The same rows through every constructor that reads regions."""
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    flat = [{k: json.dumps(v) if isinstance(v, dict) else v for k, v in row.items()} for row in rows]
    absolute = [
        {**row, **{column: str(folder / row[column]) for column in ("clean_image", "corrupt_image")}} for row in flat
    ]
    yield lambda: MinimalPairs.from_csv(write_csv(folder / "pairs.csv", flat), **options)
    yield lambda: MinimalPairs.from_jsonl(folder / "pairs.jsonl", **options)
    if "mask.png" not in str(rows):
        yield lambda: MinimalPairs.from_rows(absolute, **options)
        yield lambda: MinimalPairs.from_dataset(Dataset.from_list(absolute), **options)


def test_a_label_reaches_masks_from_every_table(folder):
    Image.fromarray(VOC).save(folder / "mask.png")
    plain = [table_row(n, clean_regions={"object": "mask.png"}) for n in range(2)]
    beside = [table_row(n, clean_regions={"object": {"mask": "mask.png", "label": 15}}) for n in range(2)]
    for make in ways_in(folder, plain):
        with pytest.raises(PairsError, match=r"region unreadable: 2\n.*values 0, 15, 255: indices, as in VOC"):
            make()
    for make in [*ways_in(folder, plain, label=15), *ways_in(folder, beside)]:
        pairs = make()
        np.testing.assert_array_equal(pairs[1].clean_regions["object"], VOC == 15)
    assert next(ways_in(folder, plain, label=15))().manifest.options == {"label": 15}


def test_the_format_of_boxes_reaches_them_from_every_table(folder):
    expected = np.zeros((16, 24), bool)
    expected[2:9, 3:15] = True
    corners = [3, 2, 15, 9]
    plain = [table_row(n, clean_regions={"object": corners}) for n in range(2)]
    beside = [table_row(n, clean_regions={"object": {"box": corners, "box_format": "xyxy"}}) for n in range(2)]
    for make in ways_in(folder, plain):
        with pytest.raises(PairsError, match=r"region unreadable: 2\n.*may be two corners as well.*box_format="):
            make()
    for make in [*ways_in(folder, plain, box_format="xyxy"), *ways_in(folder, beside)]:
        np.testing.assert_array_equal(make()[1].clean_regions["object"], expected)
    pairs = next(ways_in(folder, plain, box_format="xyxy"))()
    assert pairs.manifest.options == {"box_format": "xyxy"}
    again = MinimalPairs.load(pairs.save(folder / "saved"))
    np.testing.assert_array_equal(again[0].clean_regions["object"], expected)


def test_polygons_and_hostile_run_lengths_in_cells(folder):
    polygon = [[3, 2, 15, 2, 15, 9, 3, 9]]
    for make in ways_in(folder, [table_row(0, clean_regions={"object": polygon})]):
        assert make()[0].clean_regions["object"].sum() == 7 * 12
    wraps = {"size": [16, 24], "counts": [2**63 - 1, 2**63 - 1, 16 * 24 + 2]}
    for make in ways_in(folder, [table_row(0, clean_regions={"object": wraps})]):
        with pytest.raises(PairsError, match="counts of run lengths are whole numbers from 0 to 384"):
            make()


def test_a_mask_beside_its_label_stays_in_the_folder(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "mask.png"
    Image.fromarray(VOC).save(outside)
    row = table_row(0, clean_regions={"object": {"mask": str(outside), "label": 15}})
    with pytest.raises(PairsError, match="leads out of"):
        MinimalPairs.from_csv(write_csv(folder / "pairs.csv", [row]))


def twice(value):
    """JSON of JSON, as pandas writes a column that holds JSON."""
    return json.dumps(json.dumps(value))


@pytest.mark.parametrize(
    "changes",
    [
        {"clean_regions": twice({"object": "SECRET"})},
        {"corrupt_regions": twice({"object": "SECRET"})},
        {"clean_regions": json.dumps(twice({"object": "SECRET"}))},
        {"donor_image": {"path": "0.png", "bytes": "SECRET"}},
        {"clean_image": {"bytes": "SECRET"}},
        {"corrupt_image": {"path": None, "bytes": "SECRET"}},
        {"corrupt_image": {"path": "../secret.png"}},
        {"clean_image": {"path": ["../secret.png"]}},
    ],
)
def test_no_spelling_of_a_path_leads_out(folder, changes):
    """Each of these opened the file, or would open another one."""
    inside = folder / "inside"
    inside.mkdir()
    picture(0).save(folder / "secret.png")
    for number in range(4):
        picture(number).save(inside / f"{number}.png")
    changes = json.loads(json.dumps(changes).replace("SECRET", str(folder / "secret.png")))
    rows = [{**table_row(0), **changes}, table_row(1)]
    (inside / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pairs = MinimalPairs.from_jsonl(inside / "pairs.jsonl", on_error="drop")
    assert pairs["id"] == ["pair-1"]
    assert pairs.dropped["reason"][0] in (IMAGE, REGION)


def test_regions_that_were_encoded_twice(folder):
    Image.fromarray(np.eye(16, 24, dtype=bool)).save(folder / "mask.png")
    row = {**table_row(0), "clean_regions": twice({"object": "mask.png"}), "roles": twice({"noun": "apple"})}
    pair = MinimalPairs.from_csv(write_csv(folder / "pairs.csv", [row]))[0]
    assert pair.clean_regions["object"].sum() == 16
    assert pair.roles == {"noun": (8, 13)}


def test_linked_pictures_are_the_owner_s_business(folder, tmp_path_factory):
    disk = tmp_path_factory.mktemp("disk")
    for number in range(2):
        (folder / f"{number}.png").rename(disk / f"blob{number}")
        (folder / f"{number}.png").symlink_to(disk / f"blob{number}")
    Image.fromarray(np.eye(16, 24, dtype=bool)).save(disk / "mask", format="PNG")
    (folder / "mask.png").symlink_to(disk / "mask")
    rows = [table_row(0), table_row(1), table_row(1, id="masked", clean_regions={"object": "mask.png"})]
    table = write_csv(folder / "pairs.csv", [{"clean_regions": "", **row} for row in rows])
    assert len(MinimalPairs.from_csv(table)) == 3
    confined = MinimalPairs.from_csv(table, confine=True, on_error="drop")
    assert confined["id"] == ["pair-1"]
    assert all("is a link that leads out of" in detail for detail in confined.dropped["detail"])


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"clean_image": "a\0b.png"}, IMAGE),
        ({"clean_image": "loop.png"}, IMAGE),
        ({"donor_image": "loop/x/y.png"}, IMAGE),
        ({"clean_image": "x" * 300 + ".png"}, IMAGE),
        ({"corrupt_image": "x/" * 4000}, IMAGE),
        ({"clean_image": "\ud800.png"}, IMAGE),
        ({"clean_regions": {"object": "a\0b.png"}}, REGION),
        ({"clean_regions": '{"object": "loop.png"}'}, REGION),
        ({"clean_regions": DEEP}, REGION),
        ({"roles": '{"noun": ' + DEEP + "}"}, ROLE),
        ({"clean_prompt": "is this \udc80 red or green?", "roles": {}}, TEXT),
        ({"id": "half \ud83d of an emoji"}, TEXT),
        ({"correct_answer": "re\udcffd", "roles": {}}, TEXT),
        ({"roles": {"\ud83d": "apple"}}, TEXT),
        ({"note": "\udfff"}, TEXT),
        ({"note": {"deep": [{"er": "\udfff"}]}}, TEXT),
        ({"not\udfffe": "x"}, TEXT),
        ({"id": "x" * 100_000}, TEXT),
        ({"task": "x" * 1000}, TEXT),
        ({"note": json.loads("[" * 500 + "]" * 500)}, TEXT),
    ],
)  # fmt: skip
def test_one_bad_row_costs_no_other(folder, tmp_path, changes, reason):
    """Whatever is in a row, it is counted as its problem, kept, saved and loaded, and the others are read."""
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "loop").symlink_to(folder / "loop")
    rows = [table_row(0), {**table_row(1), "note": None, **changes}, table_row(2)]
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    pairs = MinimalPairs.from_jsonl(folder / "pairs.jsonl", on_error="drop")
    assert pairs["id"] == ["pair-0", "pair-2"]
    assert pairs.manifest.dropped == {reason: 1}
    pairs.save(tmp_path / "saved")
    loaded = MinimalPairs.load(tmp_path / "saved")
    assert loaded[1].clean_image.tobytes() == pairs[1].clean_image.tobytes()
    assert loaded.dropped["reason"] == [reason]
    with pytest.raises(PairsError) as caught:
        MinimalPairs.from_jsonl(folder / "pairs.jsonl")
    str(caught.value).encode()


@pytest.mark.parametrize("line", [DEEP, '{"id": "cut', "7", '{"id": ' + "9" * 5000 + "}"])
def test_one_line_that_is_no_row_costs_no_other(folder, line):
    lines = [json.dumps(table_row(0)), line, json.dumps(table_row(2))]
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    pairs = MinimalPairs.from_jsonl(folder / "pairs.jsonl", on_error="drop")
    assert pairs["id"] == ["pair-0", "pair-2"]
    assert pairs.dropped["id"] == ["pairs.jsonl, line 2"]
    assert pairs.manifest.dropped == {ROW: 1}


def test_one_csv_row_of_another_length_costs_no_other(folder):
    path = write_csv(folder / "pairs.csv", [table_row(0), table_row(1)])
    path.write_text(path.read_text() + "one,two\n")
    pairs = MinimalPairs.from_csv(path, on_error="drop")
    assert pairs["id"] == ["pair-0", "pair-1"]
    assert str(pairs.dropped["detail"][0]).startswith("2 cells, but the header has")


def test_names_that_are_no_text_hold_pictures(folder, tmp_path):
    """Names in an old encoding: Arrow cannot hold them, so it holds the picture."""
    (folder / "0.png").rename(folder / "\udce9t\udce9.png")
    (folder / "pairs.jsonl").write_text(json.dumps(table_row(0, clean_image="\udce9t\udce9.png")))
    for pairs in (
        MinimalPairs.from_jsonl(folder / "pairs.jsonl"),
        MinimalPairs.from_rows([make_row(0, clean_image=folder / "\udce9t\udce9.png")]),
    ):
        pairs.save(tmp_path / "saved", overwrite=True)
        assert MinimalPairs.load(tmp_path / "saved")[0].clean_image.tobytes() == picture(0).tobytes()


WINOGROUND = {"clean_image": "image_0", "corrupt_image": "image_1", "clean_prompt": "caption_0"}


def winoground(number):
    captions = {"caption_0": "an old person kisses a young person", "caption_1": "a young person kisses an old person"}
    return {"id": number, "image_0": picture(2 * number), "image_1": picture(2 * number + 1), "tag": "Noun", **captions}


def test_winoground_s_features(tmp_path, unchecked):
    """It has two pictures, two captions and a tag, and one task and kind for all."""
    rows = [winoground(number) for number in range(3)]
    pictures = {"image_0": ImageFeature(), "image_1": ImageFeature()}
    values = {"id": Value("int32"), "tag": Value("string"), "caption_0": Value("string"), "caption_1": Value("string")}
    columns = {column: [row[column] for row in rows] for column in rows[0]}
    dataset = Dataset.from_dict(columns, features=Features({**values, **pictures}))
    matches = {**WINOGROUND, "corrupt_prompt": "caption_1", "group": "tag"}
    pairs = MinimalPairs.from_dataset(dataset, columns=matches, task="winoground", kind="match")
    pairs.save(tmp_path / "winoground")
    pair = MinimalPairs.load(tmp_path / "winoground")[2]
    assert (pair.id, pair.task, pair.kind, pair.group) == ("2", "winoground", "match", "Noun")
    assert (pair.correct_answer, pair.incorrect_answer) == ("match", "no match")
    assert pair.corrupt_image.tobytes() == picture(5).tobytes()
    captions = {"clean_image": "image_0", "corrupt_image": "image_1", "correct_answer": "caption_0"}
    captions |= {"incorrect_answer": "caption_1"}
    pair = MinimalPairs.from_dataset(dataset, columns=captions, task="winoground", kind="caption")[0]
    assert (pair.kind, pair.clean_prompt) == ("caption", "")
    with pytest.raises(ValueError, match="no kind 'mach'; did you mean 'match'"):
        MinimalPairs.from_dataset(dataset, columns=captions, task="winoground", kind="mach")
    with pytest.raises(ValueError, match="columns are missing: correct_answer"):
        MinimalPairs.from_dataset(dataset, columns=matches)


def test_task_and_kind_given_once_for_a_table(folder):
    rows = [table_row(n, task=... if n else "own", group=...) for n in (1, 2)]
    pairs = MinimalPairs.from_csv(write_csv(folder / "pairs.csv", rows), task="fruit", kind="vqa")
    assert pairs["task"] == pairs["group"] == ["fruit", "fruit"]
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(table_row(n, task=n and "own")) for n in (0, 1, 2)))
    assert MinimalPairs.from_jsonl(folder / "pairs.jsonl", task="fruit", on_error="drop")["task"][1:] == ["own", "own"]
