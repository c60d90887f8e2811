"""The data of a report: collected, kept in a folder, and read back as they were."""

import json
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

import made_results as made
from notice_lens import viz
from notice_lens.files import sealed
from notice_lens.pairs import mini_world
from notice_lens.report.data import ReportData
from notice_lens.report.maps import maps_of_runs
from notice_lens.report.page_data import label_places
from notice_lens.report.plain import as_plain, from_plain


@pytest.fixture(scope="module")
def data(mini) -> ReportData:
    states, scenes = mini_world("states", 6), mini_world("scenes", 4)
    pairs = {"states, image": states, "states, text": states[2:], "scenes, image": scenes}
    effects = {
        name: made.swept(one, name.split(", ")[1], seed=number) for number, (name, one) in enumerate(pairs.items())
    }
    important = {"states, image": made.important()}
    return ReportData.collect(
        mini,
        pairs,
        effects,
        important=important,
        profiles={"scenes, image": made.profile()},
        universal=made.universal({"a": made.important(), "b": made.important(seed=1)}),
        functions=made.functions(),
        labels=made.labels(),
        notes=["nothing to test"],
        settings={"alpha": 0.05},
        max_pairs=3,
        progress=False,
    )


def test_conditions_know_their_role_and_their_pairs(data):
    assert [condition.name for condition in data.conditions] == ["states, image", "states, text", "scenes, image"]
    assert {condition.role for condition in data.conditions} == {"correct"}
    assert [condition.runs for condition in data.conditions] == [
        ("clean", "image"),
        ("clean", "text"),
        ("clean", "image"),
    ]
    assert [condition.facts["pairs"] for condition in data.conditions] == [6, 4, 4]
    assert data.settings["model"] == "somewhere/mini"
    assert data.settings["alpha"] == 0.05
    assert xr.testing.assert_identical(data.conditions[0].heads, made.important()) is None


def test_labels_and_functions_of_one_result_are_their_tasks():
    pairs = mini_world("scenes", 4, seed=1)
    conditions, effects = {"scenes, image": pairs}, {"scenes, image": made.swept(pairs, "image")}
    kind = ("candidate", "kind")
    labels = xr.Dataset(
        {"verdict": (kind, np.array([["given"]], object))},
        {"layer": ("candidate", [1]), "head": ("candidate", [2]), "kind": ["implicit segmentation"]},
        {"task": "states"},
    )
    of_states = made.functions().assign_attrs(task="states")
    data = ReportData.collect(None, conditions, effects, functions=of_states, labels=labels, progress=False)
    assert list(data.functions) == ["states"]
    assert [row["task"] for row in data.labels] == ["states"]
    assert label_places(data) == [[]]


def test_pairs_of_several_conditions_are_kept_once_and_come_first(data):
    states = mini_world("states", 6)
    shown = [[data.pairs[number].id for number in condition.shown] for condition in data.conditions]
    assert shown[0] == shown[1] == states["id"][2:5], "those that both conditions have"
    assert len(data.pairs) == 6
    effects = made.swept(states[2:], "text", seed=1)
    expected = effects.patching_effect.sel(pair=shown[1], role="correct")
    assert np.allclose(data.conditions[1].by_pair, expected)


def test_a_condition_without_statistics_has_plain_means(data):
    heads = data.conditions[1].heads
    effects = made.swept(mini_world("states", 6)[2:], "text", seed=1).sel(role="correct")
    gap = (effects.logit_diff_clean - effects.logit_diff_corrupt).sum()
    matched, mismatched = (effects[f"logit_diff_change{end}"].sum("pair") / gap for end in ("", "_mismatched"))
    assert np.allclose(heads.effect_matched, matched)
    assert np.allclose(heads.effect, matched - mismatched)
    assert heads.attrs["ranked_by"] == "matched minus mismatched"


def test_attention_is_that_of_the_model(data, mini):
    maps = data.maps()
    assert maps["run"].values.tolist() == ["clean", "image", "text"]
    number = data.conditions[0].shown[1]
    one = mini_world("states", 6)[3:4]
    expected = maps_of_runs(mini, one, runs=("image",), progress=False)
    found = maps.isel(pair=number).sel(run="image", role="noun")
    largest = expected.max("patch")
    wanted = expected.sel(role="noun").isel(pair=0, run=0)
    assert (abs(found - wanted).max() <= largest.max() / 500).item()
    scene = data.conditions[2].shown[0]
    assert maps.isel(pair=scene).sel(role="noun").isnull().all(), "scenes have no noun"
    assert maps.isel(pair=scene).sel(run="clean", role="correct").notnull().all()


def test_a_folder_gives_everything_back(data, tmp_path):
    folder = data.save(tmp_path / "new" / "report")
    back = ReportData.load(folder)
    for ours, theirs in zip(data.conditions, back.conditions, strict=True):
        xr.testing.assert_identical(ours.heads, theirs.heads)
        assert np.array_equal(ours.by_pair, theirs.by_pair)
        assert (ours.facts, ours.shown, ours.role) == (theirs.facts, theirs.shown, theirs.role)
    for ours, theirs in zip(data.pairs, back.pairs, strict=True):
        assert ours.pictures["clean"].content == theirs.pictures["clean"].content
        assert (ours.id, ours.prompts, ours.answers, ours.spans) == (
            theirs.id,
            theirs.prompts,
            theirs.answers,
            theirs.spans,
        )
        for side, found in ours.regions.items():
            assert found.keys() == theirs.regions[side].keys()
            assert all(np.array_equal(mask, theirs.regions[side][name]) for name, mask in found.items())
    assert data.attention is not None
    assert back.attention is not None
    for name in data.attention.data_vars:
        assert np.array_equal(data.attention[name], back.attention[name], equal_nan=name != "attention")
    assert (back.title, back.notes, back.labels, back.settings) == (data.title, data.notes, data.labels, data.settings)
    assert viz.report(folder, tmp_path / "a.html").read_bytes() == viz.report(data, tmp_path / "b.html").read_bytes()


def test_saving_again_replaces_and_nothing_else_is_replaced(data, tmp_path):
    folder = data.save(tmp_path / "report")
    before = (folder / "report.json").read_bytes()
    replace(data, title="anew").save(folder)
    assert (folder / "report.json").read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds something that is not known to be a report's data"):
        data.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_folders_that_are_none(data, tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder; ReportData.save writes one"):
        ReportData.load(tmp_path / "nowhere")
    folder = data.save(tmp_path / "report")
    index = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    (folder / "report.json").write_text(json.dumps(index | {"format": 99}))
    with pytest.raises(ValueError, match="has the format 99; notice-lens .* reads 4"):
        ReportData.load(folder)
    index["pairs"][0]["pictures"] = {"../../secret": "png"}
    del index["sha256"]
    (folder / "report.json").write_text(json.dumps(sealed(index)))
    with pytest.raises(ValueError, match="no picture of a pair"):
        ReportData.load(folder)


def as_bytes(value: object) -> bytes:
    return json.dumps(value).encode()


FOREIGN = {
    "another program's": as_bytes({"format": 1, "title": "Q3", "conditions": []}),
    "of version 0.1": as_bytes(
        {"format": 1, "title": "", "conditions": [], "pairs": [], "universal": None, "functions": {}}
    ),
    "of its format": as_bytes({"format": 4, "notice_lens": "0.2.0", "files": {}}),
    "a list": b"[]",
    "no JSON": b"{",
    "binary": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_folder_with_some_report_json_is_left_alone(data, tmp_path, content):
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "report.json").write_bytes(content)
    (folder / "thesis.txt").write_text("years of work")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(FileExistsError, match="not replaced.*; move it away, or choose another folder"):
        data.save(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


@pytest.mark.parametrize("name", ["notes.txt", "pictures/0099-clean.png", ".git/HEAD", "report.json.bak"])
def test_a_report_with_a_file_of_somebody_elses_is_left_alone(data, tmp_path, name):
    folder = data.save(tmp_path / "report")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("mine")
    with pytest.raises(FileExistsError, match=f"holds {name}, which no report wrote"):
        data.save(folder)
    assert (folder / name).read_text() == "mine"
    ReportData.load(folder)


def test_a_damaged_report_is_named(data, tmp_path):
    folder = data.save(tmp_path / "report")
    whole = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert len(whole) > 2
    for path, content in whole.items():
        middle = len(content) // 2
        for damaged in (
            content[:middle],
            content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            None,
        ):
            if damaged is None:
                path.unlink()
            else:
                path.write_bytes(damaged)
            with pytest.raises((ValueError, FileNotFoundError), match=path.name):
                ReportData.load(folder)
        path.write_bytes(content)
    ReportData.load(folder)


def test_messages(mini):
    pairs = mini_world("states", 3)
    effects = made.swept(pairs)
    with pytest.raises(ValueError, match="no effects: a report needs the result of at least one sweep"):
        ReportData.collect(mini, {}, {})
    with pytest.raises(ValueError, match="come without pairs: no pairs 'state'; did you mean 'states'"):
        ReportData.collect(mini, {"states": pairs}, {"state": effects})
    with pytest.raises(
        ValueError, match="important are given for a condition that has no effects: no condition 'stats'"
    ):
        ReportData.collect(mini, {"states": pairs}, {"states": effects}, important={"stats": made.important()})
    with pytest.raises(ValueError, match="of other pairs: 1 of 3 are not among its 2 pairs, such as 'test-states-0-2'"):
        ReportData.collect(mini, {"states": pairs[:2]}, {"states": effects})
    with pytest.raises(ValueError, match="no attention maps were kept"):
        ReportData.collect(None, {"states": pairs}, {"states": effects}).maps()


def test_heads_that_do_not_look_at_the_image_have_no_maps(mini):
    pairs = mini_world("states", 2)
    effects = made.swept(pairs)
    effects.attrs["sites"] = '[{"stack": "text", "activation": "attn.hook_z"}]'
    assert ReportData.collect(mini, {"one": pairs}, {"one": effects}, progress=False).attention is None


def test_plain_values_come_back_with_their_types():
    dataset = xr.Dataset(
        {
            "real": (("a", "b"), np.array([[1.5, np.nan], [np.inf, -np.inf]], np.float32)),
            "flag": ("a", [True, False]),
            "name": ("a", np.array(["x", None], object)),
            "none": (("a", "empty"), np.zeros((2, 0))),
        },
        {"a": [3, 4], "one": 7},
        {"rule": "words", "alpha": np.float64(0.05), "sizes": (1, 2)},
    )
    stored = json.loads(json.dumps(as_plain(dataset), allow_nan=False))
    back = from_plain(stored)
    xr.testing.assert_equal(back, dataset)
    assert {name: values.dtype for name, values in back.variables.items()} == {
        name: values.dtype for name, values in dataset.variables.items()
    }
    assert back.attrs == {"rule": "words", "alpha": 0.05, "sizes": [1, 2]}
    with pytest.raises(ValueError, match="'when' has the type datetime64"):
        as_plain(xr.Dataset({"when": np.datetime64("2026-01-01", "ns")}))
