"""MinimalPairs: rows in, checked pairs out, nothing lost on the way."""

import io
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from notice_lens.pairs import MinimalPairs, Noise, PairsError, mini_world, symmetric_replacement
from notice_lens.pairs.problems import IMAGE
from pair_rows import make_row, picture

MASK = np.zeros((16, 24), bool)
MASK[:8, :12] = True


def some(n=4, **changes):
    return MinimalPairs.from_rows([make_row(number, **changes) for number in range(n)])


def test_a_pair_has_what_its_row_had():
    row = make_row(
        donor_image=picture(9), donor_prompt="is this apple pink or brown?", corrupt_answer="blue", note="a note",
        clean_regions={"object": MASK, "background": ~MASK}, corrupt_regions={"object": [0, 0, 12, 8]},
    )  # fmt: skip
    pair = MinimalPairs.from_rows([row])[0]
    for column in ("clean_image", "corrupt_image", "donor_image"):
        assert getattr(pair, column).tobytes() == row[column].tobytes()
    for column in ("id", "task", "group", "clean_prompt", "corrupt_prompt", "donor_prompt", "corrupt_answer"):
        assert getattr(pair, column) == row[column] == pair[column]
    assert pair.kind == "vqa"
    assert pair.roles == {"noun": (8, 13), "correct": (14, 17), "incorrect": (21, 26)}
    np.testing.assert_array_equal(pair.clean_regions["background"], ~MASK)
    np.testing.assert_array_equal(pair.corrupt_regions["object"], MASK)
    assert pair["note"] == "a note"
    with pytest.raises(KeyError, match="no column 'nothe'; did you mean 'note'"):
        pair["nothe"]


def test_images_are_decoded_when_they_are_asked_for(folder):
    paths = {"clean_image": folder / "0.png", "corrupt_image": str(folder / "1.png")}
    pairs = MinimalPairs.from_rows([make_row(0, **paths)])
    (folder / "0.png").unlink()
    pair = pairs[0]
    assert pair.corrupt_image.size == (24, 16)
    with pytest.raises(ValueError, match="0.png: no such file"):
        pair.clean_image  # noqa: B018


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


def changed(**changes):
    return changes


BAD = {
    "no id": (changed(id=None), "row 1: id is missing"),
    "no answer": (changed(correct_answer=""), "pair-1: correct_answer is missing"),
    "not a number": (changed(incorrect_answer=float("nan")), "incorrect_answer is missing"),
    "equal answers": (
        changed(incorrect_answer="Red ", roles=None, clean_prompt="what color is it?"),
        "correct_answer and incorrect_answer are both 'red'",
    ),
    "equal corrupt answer": (changed(corrupt_answer="red"), "correct_answer and corrupt_answer are both 'red'"),
    "unreadable": (changed(clean_image=b"no image"), "clean_image: an image: the bytes are not an image"),
    "no such file": (changed(corrupt_image="nowhere.png"), "nowhere.png: no such file"),
    "no image at all": (changed(clean_image=object()), "clean_image: object: an array of shape []"),
    "role elsewhere": (changed(roles={"noun": "pear"}), "role 'noun' is 'pear', which occurs 0 times"),
    "roles of no shape": (changed(roles=7), "roles are a mapping by name; got int"),
    "roles in no JSON": (changed(roles="{noun"), "roles are written as JSON"),
    "role of another word": (
        changed(roles={"correct": "apple"}), "role 'correct' points at 'apple'; the answer is 'red'",
    ),
    "empty question": (changed(clean_prompt="", roles=None, corrupt_prompt=...), "clean_prompt is missing"),
    "role of no name": (changed(roles={7: "apple"}), "the name of a role is text; got 7 (int)"),
    "role without an end": (changed(roles={"noun": {"start": 8}}), "role 'noun' is (8, None); expected a string"),
    "roles in deep JSON": (changed(roles="[" * 100_000), "roles are written as JSON"),
    "a number in JSON too long": (changed(roles='{"noun": ' + "1" * 5000 + "}"), "roles are written as JSON"),
    "lacks an option": (
        changed(incorrect_answer="blue", roles=None),
        "'is this apple red or green?' offers a choice, and the answer 'blue' is not in it",
    ),
    "unknown kind": (changed(kind="vqaa"), "no kind of pair 'vqaa'; did you mean 'vqa'?"),
    "region of another size": (
        changed(clean_regions={"object": np.ones((3, 3), bool)}),
        "clean_regions: it is 3 x 3 pixels, its picture 16 x 24",
    ),
    "same id": (changed(id="pair-0"), "pair-0: there is another pair of this id"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_or_dropped(case):
    changes, message = BAD[case]
    rows = [make_row(0), make_row(1, **changes), make_row(2)]
    with pytest.raises(PairsError, match=re.escape(message)):
        MinimalPairs.from_rows(rows)
    pairs = MinimalPairs.from_rows(rows, on_error="drop")
    assert pairs["id"] == ["pair-0", "pair-2"]
    assert len(pairs.dropped) == sum(pairs.manifest.dropped.values()) == 1
    assert pairs.manifest.kept == 2
    assert (
        message.removeprefix("pair-1: ").removeprefix("row 1: ").removeprefix("pair-0: ") in pairs.dropped[0]["detail"]
    )
    # Nothing is lost: what could be read of the row is there.
    assert pairs.dropped[0]["clean_prompt"] == rows[1]["clean_prompt"]


def test_a_bad_row_costs_no_good_one_of_its_id():
    good, bad = make_row(0), make_row(0, clean_image=b"no image", note="bad")
    for rows in ([good, bad], [bad, good]):
        pairs = MinimalPairs.from_rows(rows, on_error="drop")
        assert pairs["id"] == ["pair-0"]
        assert pairs[0].clean_image.size == (24, 16)
        assert pairs.dropped["note"] == ["bad"]
        assert pairs.manifest.dropped == {IMAGE: 1}


def test_images_of_every_sort():
    array = np.asarray(picture(0))
    buffer = io.BytesIO()
    picture(0).save(buffer, format="PNG")
    for image in (array, torch.from_numpy(array.copy()).movedim(-1, 0), buffer.getvalue(), picture(0)):
        pair = MinimalPairs.from_rows([make_row(0, clean_image=image, donor_image=image)])[0]
        assert pair.clean_image.tobytes() == pair.donor_image.tobytes() == picture(0).tobytes()


def test_a_pair_has_to_differ_in_something():
    same = picture(0)
    with pytest.raises(PairsError, match="nothing differs: 1\n.*clean_image and corrupt_image are the same picture"):
        MinimalPairs.from_rows([make_row(0, clean_image=same, corrupt_image=same, corrupt_prompt=...)])
    with pytest.raises(PairsError, match="clean_prompt and corrupt_prompt are both"):
        MinimalPairs.from_rows([make_row(0, corrupt_prompt="is this apple red or green?")])
    # Another question about one image is a pair for text corruptions.
    assert len(MinimalPairs.from_rows([make_row(0, clean_image=same, corrupt_image=same)])) == 1


def test_what_is_derived_of_a_saved_folder_leaves_it_alone(tmp_path):
    folder = mini_world("states", 6).save(tmp_path / "saved")
    before = sorted(path.name for path in folder.iterdir())
    loaded = MinimalPairs.load(folder)
    small = loaded.resize(32)
    changed = loaded.shuffle(1).with_column("corrupt_answer", list("abcdef"))
    assert small[3].clean_image.size == (32, 32)
    assert changed["corrupt_answer"] == list("abcdef")
    assert sorted(changed["id"]) == sorted(loaded["id"])
    assert sorted(path.name for path in folder.iterdir()) == before
    assert loaded.save(folder, overwrite=True) == folder
    assert len(MinimalPairs.load(folder)) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_columns_of_ones_own_may_have_any_name_and_mixed_values():
    rows = [
        {**make_row(n), "step": f"s{n % 2}", "kept": n, "conf": [1, "n/a", 2.5][n], "weird": {1, 2}} for n in range(3)
    ]
    pairs = MinimalPairs.from_rows(rows)
    assert pairs["conf"] == ["1", "n/a", "2.5"]
    assert pairs.filter(step="s0", kept=[0, 1])["id"] == ["pair-0"]
    assert pairs.filter(step="s0", kept=frozenset({0, 1})).manifest.steps[-1]["step"] == "filter"


def test_all_problems_are_in_one_report():
    rows = [make_row(0), *(make_row(n, roles={"noun": "pear"}, correct_answer="") for n in range(1, 8))]
    with pytest.raises(PairsError) as caught:
        MinimalPairs.from_rows(rows)
    report = str(caught.value)
    assert report.startswith("7 of 8 pairs have problems")
    assert "role not in the prompt: 7" in report
    assert "missing value: 7" in report
    assert "... and 2 more" in report
    assert report.endswith("on_error='drop' keeps the others")
    assert len(caught.value.problems) == 14


def test_open_questions_and_yes_and_no_are_good():
    rows = [
        make_row(0, clean_prompt="what color is the dog?", correct_answer="brown", incorrect_answer="black", roles=None,
                 corrupt_prompt="what color is the cat?"),
        make_row(1, clean_prompt="is this a dog or a cat?", correct_answer="yes", incorrect_answer="no", roles=None),
        make_row(2, clean_prompt="what is for sale?", correct_answer="fruit", incorrect_answer="meat", roles=None),
        make_row(3, clean_prompt="how many cats or dogs are there?", correct_answer="2", incorrect_answer="3",
                 roles=None),
    ]  # fmt: skip
    assert len(MinimalPairs.from_rows(rows)) == 4
    with pytest.raises(PairsError, match="a match is answered 'match' or 'no match', not 'yes'"):
        MinimalPairs.from_rows([make_row(0, kind="match", correct_answer="yes", incorrect_answer="no", roles=None)])


def test_captions_and_matches():
    caption = make_row(0, kind="caption", clean_prompt="", correct_answer="a red apple", incorrect_answer="a pear",
                       roles=None, corrupt_prompt=...)  # fmt: skip
    match = make_row(1, kind="match", clean_prompt="a red apple", corrupt_prompt="a red table", correct_answer=...,
                     incorrect_answer=..., roles={"noun": "apple"})  # fmt: skip
    pairs = MinimalPairs.from_rows([caption, match])
    assert pairs["correct_answer"] == ["a red apple", "match"]
    assert pairs["incorrect_answer"] == ["a pear", "no match"]


def test_columns_that_are_missing_altogether():
    rows = [make_row(n, clean_image=..., correct_answer=..., img_clean=picture(n)) for n in range(3)]
    with pytest.raises(ValueError, match="columns are missing: clean_image, correct_answer; there are .*img_clean"):
        MinimalPairs.from_rows(rows)
    with pytest.raises(TypeError, match="a row is a mapping by column; row 0 is a str"):
        MinimalPairs.from_rows(["pair"])
    with pytest.raises(TypeError, match="rows are an iterable of mappings, one a pair; got one dict"):
        MinimalPairs.from_rows(make_row())
    with pytest.raises(ValueError, match="no on_error 'warn'"):
        MinimalPairs.from_rows([make_row()], on_error="warn")


@settings(max_examples=20, deadline=None)
@given(task=st.sampled_from(["scenes", "states", "faces"]), seed=st.integers(0, 9), size=st.sampled_from([32, 64]))
def test_saved_and_loaded_pairs_are_the_same(task, seed, size, tmp_path_factory):
    pairs = mini_world(task, 3, seed=seed, size=size)
    pairs = pairs.without([pairs_problem(pairs["id"][1])], "test")
    place = tmp_path_factory.mktemp("pairs") / "saved"
    assert pairs.save(place) == place
    loaded = MinimalPairs.load(place)
    assert loaded.dataset.features == pairs.dataset.features
    assert loaded.manifest == pairs.manifest
    assert loaded.dropped.to_list() == pairs.dropped.to_list()
    for ours, theirs in zip(pairs, loaded, strict=True):
        assert ours.record == theirs.record
        assert ours.clean_image.tobytes() == theirs.clean_image.tobytes()
        assert ours.donor_image.tobytes() == theirs.donor_image.tobytes()
        for region, mask in ours.corrupt_regions.items():
            np.testing.assert_array_equal(mask, theirs.corrupt_regions[region])


def pairs_problem(name):
    from notice_lens.pairs.problems import Problem

    return Problem(name, IMAGE, "a detail")


def test_a_saved_folder_needs_nothing_beside_it(folder, tmp_path_factory):
    rows = [make_row(0, clean_image=folder / "0.png", corrupt_image=folder / "1.png", donor_image=folder / "2.png")]
    rows.append(make_row(1, clean_image=folder / "nowhere.png"))
    place = tmp_path_factory.mktemp("elsewhere") / "saved"
    MinimalPairs.from_rows(rows, on_error="drop").save(place)
    for path in folder.iterdir():
        path.unlink()
    loaded = MinimalPairs.load(place)
    assert loaded[0].clean_image.tobytes() == picture(0).tobytes()
    assert loaded[0].record["clean_image"]["path"] == "0.png"
    assert loaded.dropped[0]["reason"] == IMAGE
    assert str(folder) not in (place / "manifest.json").read_text()


def test_saving_never_replaces_what_it_should_not(tmp_path):
    pairs = some(2)
    pairs.save(tmp_path / "saved")
    with pytest.raises(FileExistsError, match=r"is there already; overwrite=True \(--overwrite\) replaces it"):
        pairs.save(tmp_path / "saved")
    pairs[:1].save(tmp_path / "saved", overwrite=True)
    assert len(MinimalPairs.load(tmp_path / "saved")) == 1
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="it is no folder of pairs alone, so it is never replaced"):
        pairs.save(tmp_path / "thesis", overwrite=True)
    with pytest.raises(FileNotFoundError, match="no pairs in .*thesis: expected a folder that MinimalPairs.save wrote"):
        MinimalPairs.load(tmp_path / "thesis")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved", "thesis"]


@pytest.mark.parametrize("name", ["manifest.json", "pairs.arrow", "dropped.arrow"])
def test_damaged_pairs_are_named(tmp_path, name):
    folder = some(2).save(tmp_path / "saved")
    content = (folder / name).read_bytes()
    middle = len(content) // 2
    for damaged in (content[:middle], content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :], b""):
        (folder / name).write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{name} (is damaged|cannot be read)"):
            MinimalPairs.load(folder)
    (folder / name).unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=f"{name} is missing|no pairs in"):
        MinimalPairs.load(folder)


def test_pairs_of_version_0_1_are_read_and_their_damage_is_named(tmp_path):
    pairs = some(2)
    folder = pairs.save(tmp_path / "saved")
    manifest = json.loads((folder / "manifest.json").read_text())
    old = {name: value for name, value in manifest.items() if name not in ("files", "sha256")}
    (folder / "manifest.json").write_text(json.dumps(old))
    assert MinimalPairs.load(folder).fingerprint == pairs.fingerprint
    (folder / "pairs.arrow").write_bytes((folder / "pairs.arrow").read_bytes()[:100])
    with pytest.raises(ValueError, match="pairs.arrow cannot be read"):
        MinimalPairs.load(folder)
    for wrong, said in [
        ({}, "it has no 'builder'"),
        ([], "expected a JSON object, got list"),
        ({**old, "steps": None}, "'steps' is None; expected a list"),
        ({name: value for name, value in old.items() if name != "kept"}, "it has no 'kept'"),
        ({**old, "files": ["pairs.arrow"]}, "'files' are not digests by names"),
        ({**old, "files": {"pairs.arrow": 1}}, "'files' are not digests by names"),
    ]:
        (folder / "manifest.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=f"manifest.json cannot be read: {said}"):
            MinimalPairs.load(folder)


@pytest.mark.parametrize("name", ["notes.txt", "pairs.arrow.bak"])
def test_a_folder_with_more_than_pairs_is_never_replaced(tmp_path, name):
    pairs = some(2)
    folder = pairs.save(tmp_path / "saved")
    (folder / name).write_text("mine")
    with pytest.raises(FileExistsError, match="it is no folder of pairs alone, so it is never replaced"):
        pairs.save(folder, overwrite=True)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "manifest.json").write_text('{"name": "an app", "version": "0.1.0"}')
    (tmp_path / "theirs" / "pairs.arrow").write_text("somebody else's")
    with pytest.raises(FileExistsError, match="never replaced"):
        pairs.save(tmp_path / "theirs", overwrite=True)
    assert (folder / name).read_text() == "mine"


def test_resizing_takes_regions_along():
    pairs = some(1, clean_regions={"object": MASK}, donor_image=picture(9)).resize((8, 6))
    pair = pairs[0]
    assert pair.clean_image.size == pair.donor_image.size == (6, 8)
    np.testing.assert_array_equal(np.flatnonzero(pair.clean_regions["object"].any(0)), [0, 1, 2])
    np.testing.assert_array_equal(np.flatnonzero(pair.clean_regions["object"].any(1)), [0, 1, 2, 3])
    assert pair.clean_digest != some(1)[0].clean_digest
    assert some(1).resize(5)[0].clean_image.size == (5, 5)
    for size in (0, "64", (8, 0), (8, 8, 8)):
        with pytest.raises(ValueError, match=re.escape(f"one pixel or more; got {size!r}")):
            some(1).resize(size)


def test_a_fingerprint_tells_pairs_apart(tmp_path):
    pairs = mini_world("states", 4)
    assert pairs.fingerprint == mini_world("states", 4).fingerprint
    assert MinimalPairs.load(pairs.save(tmp_path / "saved")).fingerprint == pairs.fingerprint
    others = [
        pairs[:3],
        pairs.select([1, 0, 2, 3]),
        mini_world("states", 4, seed=1),
        pairs.with_column("corrupt_answer", [None] * 4),
        pairs.with_column("donor_image", [row["clean_image"] for row in pairs.dataset]),
        pairs.resize(32),
    ]
    assert len({other.fingerprint for other in [pairs, *others]}) == 7


def test_the_manifest_tells_what_was_done():
    pairs = mini_world("states", 6, seed=2).filter(group="colour").shuffle(1)
    manifest = pairs.manifest
    assert (manifest.builder, manifest.seed, manifest.kept) == ("mini_world", 2, 2)
    assert [step["step"] for step in manifest.steps] == ["filter", "shuffle"]
    assert manifest.steps[0] == {"step": "filter", "group": "colour", "kept": 2}


def test_what_pairs_look_like():
    pairs = MinimalPairs.from_rows(
        [*(make_row(n) for n in range(3)), make_row(4, roles={"noun": "pear"})], on_error="drop"
    )
    assert repr(pairs) == (
        "MinimalPairs: 3 pairs (from_rows: rows in memory)\n"
        "  fruit: colour 3\n"
        "  with corrupt_prompt 3, donor_image 0, roles 3, regions 0\n"
        "  dropped: role not in the prompt 1"
    )


def test_a_data_set_of_images(folder):
    rows = [make_row(number) for number in range(3)]
    renamed = [{("positive" if k == "clean_image" else k): v for k, v in row.items() if k != "roles"} for row in rows]
    pairs = MinimalPairs.from_dataset(Dataset.from_list(renamed), columns={"clean_image": "positive"})
    assert pairs[2].clean_image.tobytes() == rows[2]["clean_image"].tobytes()
    again = MinimalPairs.from_dataset(pairs.dataset)
    assert again.dataset.to_list() == pairs.dataset.to_list()
    paths = [make_row(n, clean_image=str(folder / f"{n}.png")) for n in range(2)]
    on_disk = MinimalPairs.from_dataset(MinimalPairs.from_rows(paths).dataset)
    assert on_disk[1].clean_image.tobytes() == picture(1).tobytes()
    with pytest.raises(ValueError, match="the data set has no column 'photo'; it has clean_digest, clean_image"):
        MinimalPairs.from_dataset(pairs.dataset, columns={"clean_image": "photo"})
    with pytest.raises(ValueError, match="columns are missing: clean_prompt"):
        MinimalPairs.from_dataset(pairs.dataset.remove_columns("clean_prompt"))


def test_new_columns():
    pairs = some(2).with_column("corrupt_answer", ["blue", None]).with_column("difficulty", [1, 2])
    assert pairs["corrupt_answer"] == ["blue", None]
    assert pairs[1]["difficulty"] == 2
    with pytest.raises(ValueError, match="3 values for the column 'difficulty' of 2 pairs"):
        pairs.with_column("difficulty", [1, 2, 3])


def test_rows_are_no_pairs_yet() -> None:
    with pytest.raises(TypeError, match=r"pairs are made by from_rows, .* such as MinimalPairs\.from_rows\(rows\)"):
        MinimalPairs([{}])
