import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notice_lens.images import to_rgb
from notice_lens.pairs.builders.facial_expressions import (
    NEGATIVE_EMOTIONS,
    POSITIVE_EMOTIONS,
    SPELLINGS,
    build_facial_expressions,
)
from notice_lens.pairs.io.assembly import Built
from notice_lens.pairs.problems import LABELS, PairsError
from picture_folders import check_rows, folders, pairs_of, picture, words

EMOTIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
EMOTION_OF = {spelling: emotion for emotion, spellings in SPELLINGS.items() for spelling in spellings}


def build(folder: Path, tokenizer, **options) -> Built:
    return build_facial_expressions(folder, tokenizer, progress=False, **options)


def emotion(path: Path) -> str:
    return EMOTION_OF[path.parent.name.lower()]


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("faces")
    for split, count in (("train", 6), ("test", 3)):
        folders(root / split, **dict.fromkeys(EMOTIONS, count))
    return root


def test_rows(faces: Path, bert):
    built = build(faces, bert)
    check_rows(built.rows, bert, emotion)
    assert len(built.rows) == 31
    assert built.builder == "facial_expressions"
    for row in built.rows:
        assert (row["task"], row["group"], row["kind"]) == ("facial_expressions", "emotion", "vqa")
        assert row["clean_prompt"] == f"is this person feeling {' or '.join(words(row, 'clean_prompt'))}?"
        assert row["clean_prompt"][slice(*row["roles"]["noun"])] == "person"
        paths = (row[column].relative_to(faces).as_posix() for column in ("clean_image", "corrupt_image"))
        assert row["id"] == "|".join(paths)
    assert {part.split("/")[0] for row in built.rows for part in row["id"].split("|")} == {"train", "test"}


def test_replacements_have_the_opposite_valence(faces: Path, bert):
    rows = build(faces, bert).rows
    assert set(pairs_of(rows)) == {(a, b) for a in EMOTIONS for b in EMOTIONS if a < b}
    for row in rows:
        for old, new in zip(words(row, "clean_prompt"), words(row, "corrupt_prompt"), strict=True):
            if old in POSITIVE_EMOTIONS:
                assert new in NEGATIVE_EMOTIONS
            elif old in NEGATIVE_EMOTIONS:
                assert new in POSITIVE_EMOTIONS
            else:
                assert old == "neutral" != new
        assert row["donor_image"] is not None
        assert row["donor_prompt"] is not None


@pytest.mark.parametrize("n", [1, 10, 21])
def test_number_is_balanced(faces: Path, bert, n: int):
    built = build(faces, bert, n=n)
    check_rows(built.rows, bert, emotion)
    assert len(built.rows) == n
    assert max(pairs_of(built.rows).values()) == 1


def test_draw_is_the_seed_s(faces: Path, bert):
    one, again, other = (build(faces, bert, n=12, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert [row["id"] for row in one.rows] != [row["id"] for row in other.rows]


@settings(max_examples=10, deadline=None)
@given(
    st.dictionaries(st.sampled_from(EMOTIONS), st.integers(0, 8), min_size=2),
    st.one_of(st.none(), st.integers(1, 12)),
    st.integers(0, 9),
)
def test_any_folders(bert, counts: dict, n: int | None, seed: int):
    with tempfile.TemporaryDirectory() as place:
        root = folders(Path(place), **counts)
        possible = min(sum(counts.values()) // 2, sum(counts.values()) - max(counts.values()))
        if not possible:
            with pytest.raises(PairsError, match="No pair can be made"):
                build(root, bert, n=n, seed=seed)
            return
        built = build(root, bert, n=n, seed=seed)
        check_rows(built.rows, bert, emotion)
        assert len(built.rows) == min(n or possible, possible)


def test_spellings_and_depths(bert, tmp_path: Path):
    folders(tmp_path / "images" / "train", Happiness=1, SADNESS=1)
    folders(tmp_path / "images" / "validation", anger=1, Surprised=1)
    folders(tmp_path / "images" / "train" / "__MACOSX", fear=3)
    built = build(tmp_path, bert)
    assert built.options["pictures"] == 4
    assert {answer for two in pairs_of(built.rows) for answer in two} == {"happy", "sad", "angry", "surprise"}


def test_folders_beside_emotions_are_named(bert, tmp_path: Path):
    folders(tmp_path / "train", happy=1, sad=1, contempt=2)
    folders(tmp_path / "notes", a=1)
    assert build(tmp_path, bert).options["folders_of_no_emotion"] == {"notes/a": 1, "train/contempt": 2}


def test_face_with_two_emotions_is_not_used(bert, tmp_path: Path):
    folders(tmp_path, happy=1, sad=1, fear=1)
    for name in ("happy", "fear"):
        picture(tmp_path / name / "9.png", "one face")
    built = build(tmp_path, bert)
    assert [(p.id, p.reason) for p in built.problems] == [("fear/9.png", LABELS), ("happy/9.png", LABELS)]
    assert built.options["pictures"] == 3


def test_layout_that_is_unknown(bert, tmp_path: Path):
    folders(tmp_path / "train", contempt=1)
    with pytest.raises(
        ValueError,
        match="holds no faces by emotion: expected folders named angry, disgust, .*, in it or in its 'train', 'test' "
        "or 'validation', .*; it holds 'train/'",
    ):
        build(tmp_path, bert)
    with pytest.raises(FileNotFoundError, match="no folder"):
        build(tmp_path / "none", bert)


def test_empty_folders(bert, tmp_path: Path):
    folders(tmp_path, happy=0, sad=0)
    with pytest.raises(PairsError, match="0 pairs, no problems\nNo pair can be made"):
        build(tmp_path, bert)


def test_nearest_pictures_are_paired(vqa, tmp_path: Path):
    # Each sad face is one of the happy ones with a single pixel changed.
    for i in range(6):
        happy = to_rgb(picture(tmp_path / "happy" / f"{i}.png", f"face {i}", (64, 64)))
        (tmp_path / "sad").mkdir(exist_ok=True)
        happy.putpixel((0, 0), (0, 0, 0))
        happy.save(tmp_path / "sad" / f"{9 - i}.png")
    built = build(tmp_path, vqa.model, match="nearest")
    assert len(built.rows) == 6
    assert all(int(row["clean_image"].stem) + int(row["corrupt_image"].stem) == 9 for row in built.rows)
    assert Counter(row["correct_answer"] for row in built.rows) == {"happy": 3, "sad": 3}
    few = build(tmp_path, vqa.model, match="nearest", n=2)
    assert all(int(row["clean_image"].stem) + int(row["corrupt_image"].stem) == 9 for row in few.rows)
