"""Pairs from tables: CSV and JSON lines, with paths that stay in their folder."""

import csv
import json
import re

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from notice_lens.pairs import MinimalPairs, PairsError
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
    (tmp_path / "pairs.jsonl").write_text('{"id": "a"}\nno\n')
    with pytest.raises(ValueError, match="pairs.jsonl, line 2 is no JSON: "):
        MinimalPairs.from_jsonl(tmp_path / "pairs.jsonl")
    (tmp_path / "pairs.jsonl").write_text("[1]")
    with pytest.raises(ValueError, match="pairs.jsonl, line 1, item 0 is no JSON object but a int"):
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
