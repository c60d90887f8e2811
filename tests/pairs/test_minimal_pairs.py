"""MinimalPairs: rows in, checked pairs out, with images, masks and columns as they were."""

import io
import re

import numpy as np
import pytest
import torch
from datasets import Dataset

from notice_lens.pairs import MinimalPairs, PairsError, mini_world
from pair_rows import make_row, picture, some

MASK = np.zeros((16, 24), bool)
MASK[:8, :12] = True


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


def test_images_of_every_sort():
    array = np.asarray(picture(0))
    buffer = io.BytesIO()
    picture(0).save(buffer, format="PNG")
    for image in (array, torch.from_numpy(array.copy()).movedim(-1, 0), buffer.getvalue(), picture(0)):
        pair = MinimalPairs.from_rows([make_row(0, clean_image=image, donor_image=image)])[0]
        assert pair.clean_image.tobytes() == pair.donor_image.tobytes() == picture(0).tobytes()


def test_columns_of_ones_own_may_have_any_name_and_mixed_values():
    rows = [
        {**make_row(n), "step": f"s{n % 2}", "kept": n, "conf": [1, "n/a", 2.5][n], "weird": {1, 2}} for n in range(3)
    ]
    pairs = MinimalPairs.from_rows(rows)
    assert pairs["conf"] == ["1", "n/a", "2.5"]
    assert pairs.filter(step="s0", kept=[0, 1])["id"] == ["pair-0"]
    assert pairs.filter(step="s0", kept=frozenset({0, 1})).manifest.steps[-1]["step"] == "filter"


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


def test_an_instruction_behind_the_question_offers_no_answers():
    """The "or" of "a word or phrase" is not part of the question; one before the question mark is."""
    told = "side is it? \nAnswer the question using a single word or phrase."
    answers = {"correct_answer": "left", "incorrect_answer": "right", "roles": None, "corrupt_prompt": None}
    assert len(MinimalPairs.from_rows([make_row(0, clean_prompt=f"on which {told}", **answers)])) == 1
    with pytest.raises(PairsError, match="offers a choice, and the answer 'right' is not in it"):
        MinimalPairs.from_rows([make_row(0, clean_prompt=f"is it left or the other {told}", **answers)])


def test_captions_and_matches():
    caption = make_row(0, kind="caption", clean_prompt="", correct_answer="a red apple", incorrect_answer="a pear",
                       roles=None, corrupt_prompt=...)  # fmt: skip
    match = make_row(1, kind="match", clean_prompt="a red apple", corrupt_prompt="a red table", correct_answer=...,
                     incorrect_answer=..., roles={"noun": "apple"})  # fmt: skip
    pairs = MinimalPairs.from_rows([caption, match])
    assert pairs["correct_answer"] == ["a red apple", "match"]
    assert pairs["incorrect_answer"] == ["a pear", "no match"]


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
