import shutil
import tempfile
from collections import Counter
from itertools import combinations, product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notice_lens.pairs import MinimalPairs
from notice_lens.pairs.builders.mit_states import adjectives, build_mit_states, labelled_folder
from notice_lens.pairs.io.assembly import Built
from notice_lens.pairs.near_synonyms import NearSynonyms
from notice_lens.pairs.problems import DUPLICATE, FIRST_TOKEN, IMAGE, LABELS, NO_REPLACEMENT, UNKNOWN_WORD, PairsError
from picture_folders import check_rows, folders, pairs_of, picture, words

PUBLISHED = """
ancient barren bent blunt bright broken browned brushed burnt caramelized chipped clean clear closed cloudy cluttered
coiled cooked cored cracked creased crinkled crumpled crushed curved cut damp dark deflated dented diced dirty draped
dry dull empty engraved eroded fallen filled foggy folded frayed fresh frozen full grimy heavy huge inflated large
lightweight loose mashed melted modern moldy molten mossy muddy murky narrow new old open painted peeled pierced
pressed pureed raw ripe ripped rough ruffled runny rusty scratched sharp shattered shiny short sliced small smooth
spilled splintered squished standing steaming straight sunny tall thawed thick thin tight tiny toppled torn unpainted
unripe upright verdant viscous weathered wet whipped wide wilted windblown winding worn wrinkled young
""".split()

VALUES = ("bright", "dark", "large", "tiny", "bent", "smooth", "wet", "rusty", "wrinkled")


def build(folder: Path, tokenizer, **options) -> Built:
    return build_mit_states(folder, tokenizer, progress=False, **options)


def adjective(path: Path) -> str:
    return path.parent.name.split()[0]


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("mit_states") / "release_dataset" / "images"
    counts = {f"{value}_{noun}": 5 for value in VALUES for noun in ("car", "old_shoe", "cat")}
    folders(root, **counts, adj_car=2, dark_dog=0, ancient_car=3, large_house=4)
    return root


def test_rows(large: Path, bert):
    built = build(large, bert)
    check_rows(built.rows, bert, adjective)
    assert (built.builder, built.source, built.seed) == ("mit_states", "images", 0)
    near = NearSynonyms.load()
    for row in built.rows:
        assert (row["task"], row["kind"], row["corrupt_answer"]) == ("mit_states", "vqa", None)
        clean, corrupt = row["clean_image"].parent.name, row["corrupt_image"].parent.name
        noun = clean.split(maxsplit=1)[1]
        assert corrupt == f"{row['incorrect_answer']} {noun}"
        assert row["id"] == f"{clean}/{row['clean_image'].name}|{corrupt}/{row['corrupt_image'].name}"
        assert row["clean_prompt"][slice(*row["roles"]["noun"])] == noun
        assert row["clean_prompt"] == f"is this {noun} {' or '.join(words(row, 'clean_prompt'))}?"
        group = adjectives()[row["group"]]
        prompts = [words(row, column) for column in ("clean_prompt", "corrupt_prompt", "donor_prompt") if row[column]]
        assert all(word in group for two in prompts for word in two)
        assert not any(near.near(a, b) for two in prompts for a, b in combinations(two, 2))
        if row["donor_image"] is not None:
            assert row["donor_image"].parent.name.split(maxsplit=1)[1] == noun
            assert adjective(row["donor_image"]) in group
            assert not any(near.near(adjective(row["donor_image"]), option) for option in words(row, "clean_prompt"))


def test_manifest_options_count_what_was_left_out(large: Path, bert):
    built = build(large, bert)
    assert built.options["adjectives_in_no_group"] == {"ancient": 3}
    assert built.options["folders_without_adjective"] == {"car": 2}
    assert built.options["empty_folders"] == 1
    assert built.options["pictures"] == 139
    assert built.options["groups"] == ["colour", "shape", "texture"]
    for column in ("donor_image", "donor_prompt"):
        assert built.options[f"with_{column}"] == sum(row[column] is not None for row in built.rows) > 0


def test_all_that_can_be_made(large: Path, bert):
    # Of each noun: 5 bright with 5 dark; 15 of shape (7 pairs); 20 of texture (10 pairs).
    assert Counter(row["group"] for row in build(large, bert).rows) == {"colour": 15, "shape": 21, "texture": 30}


@pytest.mark.parametrize("n", [1, 12, 25])
def test_number_is_balanced(large: Path, bert, n: int):
    built = build(large, bert, n=n)
    check_rows(built.rows, bert, adjective)
    groups = Counter(row["group"] for row in built.rows)
    assert len(built.rows) == groups.total() == n == built.options["n"]
    assert max(groups.values()) - min(groups.values()) <= 1
    texture = pairs_of([row for row in built.rows if row["group"] == "texture"])
    assert max(texture.values(), default=0) <= -(-groups["texture"] // 6)


def test_more_than_there_are(large: Path, bert):
    assert len(build(large, bert, n=10**6).rows) == len(build(large, bert).rows)


def test_groups_asked_for(large: Path, bert):
    built = build(large, bert, groups=("shape", "colour"))
    assert {row["group"] for row in built.rows} == {"colour", "shape"}
    assert built.options["groups"] == ["colour", "shape"]
    assert {row["group"] for row in build(large, bert, groups="shape").rows} == {"shape"}


def test_seed_decides_and_the_place_on_disk_does_not(large: Path, bert, tmp_path: Path):
    def content(built: Built) -> list[dict]:
        rows = [dict(row) for row in built.rows]
        for row in rows:
            for column in ("clean_image", "corrupt_image", "donor_image"):
                row[column] = row[column] and row[column].name
        return rows

    one = build(large, bert, n=20, seed=1)
    shutil.copytree(large, tmp_path / "images")
    again = build(tmp_path, bert, n=20, seed=1)
    assert content(one) == content(again)
    assert one.checksum == again.checksum
    other = build(large, bert, n=20, seed=2)
    assert content(one) != content(other)
    assert one.checksum == other.checksum


@settings(max_examples=12, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([f"{a}_{n}" for a in VALUES for n in ("car", "cat")]), st.integers(0, 4), min_size=8
    ),
    st.one_of(st.none(), st.integers(1, 12)),
    st.integers(0, 9),
)
def test_any_folders(bert, counts: dict, n: int | None, seed: int):
    with tempfile.TemporaryDirectory() as place:
        try:
            built = build(folders(Path(place), **counts), bert, n=n, seed=seed)
        except PairsError as error:
            assert "No pair can be made" in str(error)  # noqa: PT017
            return
        check_rows(built.rows, bert, adjective)


def test_near_synonyms_are_never_offered_against_each_other(bert, tmp_path: Path):
    folders(tmp_path, large_car=4, huge_car=4, broken_car=2, shattered_car=2, wet_car=3, damp_car=3)
    rows = build(tmp_path, bert).rows
    whole, sizes = ("broken", "shattered"), ("huge", "large")
    assert len(rows) == 4
    assert set(pairs_of(rows)) <= {tuple(sorted(two)) for two in product(whole, sizes)}
    # Whatever else there is of the car is right for one of the options.
    assert all(row["donor_image"] is None for row in rows)


def test_files_that_cannot_be_used_are_counted(bert, tmp_path: Path):
    folders(tmp_path, bright_car=2, dark_car=3)
    (tmp_path / "dark car" / "0.png").write_bytes(b"")
    cut = tmp_path / "dark car" / "1.png"
    cut.write_bytes(cut.read_bytes()[:-60])
    (tmp_path / "bright car" / "folder.jpg").mkdir()
    built = build(tmp_path, bert)
    assert [(problem.id, problem.reason) for problem in built.problems] == [
        ("bright car/folder.jpg", IMAGE),
        ("dark car/0.png", IMAGE),
        ("dark car/1.png", IMAGE),
    ]
    assert len(built.rows) == 1


def test_same_picture_twice(bert, tmp_path: Path):
    folders(tmp_path, bright_car=2, dark_car=2, huge_car=0, large_car=0, tiny_car=1)
    for name in ("bright car/9", "large car/0", "huge car/0"):
        picture(tmp_path / f"{name}.png", "the same")
    for name in ("bright car/8", "dark car/8", "dark car/9"):
        picture(tmp_path / f"{name}.png", "contradictory")
    built = build(tmp_path, bert)
    by_reason = {reason: [p for p in built.problems if p.reason == reason] for reason in (DUPLICATE, LABELS)}
    # Bright and large is no contradiction, nor is large and huge: the picture is used once.
    assert [p.id for p in by_reason[DUPLICATE]] == ["huge car/0.png", "large car/0.png"]
    assert [p.id for p in by_reason[LABELS]] == ["bright car/8.png", "dark car/8.png", "dark car/9.png"]
    assert by_reason[LABELS][0].detail.startswith("one picture is labelled bright and dark: bright car/8.png, dark")
    check_rows(built.rows, bert, adjective)
    assert built.options["pictures"] == 6


def test_values_that_cannot_be_asked_for(bert, tmp_path: Path):
    # "unpainted" has four word pieces, as no other colour.
    folders(tmp_path, painted_wall=2, unpainted_wall=2, bright_wall=2)
    picture(tmp_path / "dark \u2603\u4e00\U0001f98a" / "0.png")
    built = build(tmp_path, bert)
    assert set(pairs_of(built.rows)) == {("bright", "painted")}
    found = {problem.id: problem for problem in built.problems}
    assert found["wall: bright or unpainted"].reason == NO_REPLACEMENT
    assert "replace 'bright' and 'unpainted'" in found["wall: bright or unpainted"].detail
    assert [problem.reason for problem in built.problems].count(UNKNOWN_WORD) == 1


def test_answers_with_the_same_first_piece(bert, tmp_path: Path):
    # By BERT's vocabulary: un ##pa ##int ##ed, un ##rip ##e.
    folders(tmp_path, unripe_car=2, unpainted_car=2, bright_car=2, dark_car=2)
    built = build(tmp_path, bert)
    found = [problem for problem in built.problems if problem.reason == FIRST_TOKEN]
    assert [problem.id for problem in found] == ["car: unpainted or unripe"]


def test_adjectives_of_the_package():
    found = adjectives()
    every = [word for words in found.values() for word in words]
    assert len(PUBLISHED) == len(set(PUBLISHED)) == 115
    assert list(found) == ["colour", "shape", "texture"]
    assert len(set(every)) == len(every)
    assert set(every) <= set(PUBLISHED)
    assert all(words == sorted(words) for words in found.values())


def test_group_that_is_none(large: Path, bert):
    with pytest.raises(ValueError, match="no group 'color' of adjectives: there are colour, .*; nearest: 'colour'"):
        build(large, bert, groups=("shape", "color"))
    with pytest.raises(ValueError, match="no groups asked for; expected some of colour, shape, texture"):
        build(large, bert, groups=())


def test_layouts(large: Path, tmp_path: Path):
    dataset = large.parent.parent
    assert [labelled_folder(dataset / inside) for inside in (".", "release_dataset", "release_dataset/images")] == [
        large
    ] * 3
    folders(tmp_path, car=1, shoes=1)
    (tmp_path / "read me.txt").touch()
    with pytest.raises(
        ValueError,
        match="is not MIT-States: expected folders named like 'large car' or 'large_car', in it or in its 'images' or "
        "'release_dataset/images'; it holds 'car/', 'read me.txt', 'shoes/'",
    ):
        labelled_folder(tmp_path)


def test_folder_that_is_none(bert, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no folder .*none'"):
        build(tmp_path / "none", bert)
    with pytest.raises(ValueError, match="it holds nothing"):
        build(tmp_path, bert)


def test_not_one_pair(bert, tmp_path: Path):
    folders(tmp_path, dark_car=2, bright_cat=2)
    with pytest.raises(PairsError, match="No pair can be made: expected pictures .*; found car is only dark, cat is"):
        build(tmp_path, bert)
    (tmp_path / "dark car" / "0.png").write_bytes(b"")
    with pytest.raises(PairsError, match=r"1 of 4 pairs have problems\n  image unreadable: 1"):
        build(tmp_path, bert)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n=0: expected a whole number, 1 or more"),
        ({"seed": "0"}, "seed='0': expected a whole number, 0 or more"),
        ({"match": "closest"}, "match='closest': expected None or \"nearest\""),
    ],
)
def test_options_that_are_none(bert, tmp_path: Path, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, bert, **options)


def test_nearest_needs_a_model(bert, tmp_path: Path):
    with pytest.raises(TypeError, match='match="nearest" .*: expected a HookedBLIP as `tokenizer`, got BertTokenizer'):
        build(tmp_path, bert, match="nearest")


def test_underscores_and_folders_below(bert, tmp_path: Path):
    """As unpacked by tools that write no spaces; the parent folder `release_dataset` does not name an adjective."""
    root = tmp_path / "release_dataset" / "images"
    for name in ("bright_car", "dark_car", "huge_dining_room", "tiny_dining_room", "Bent_Old_Shoe", "smooth car"):
        for number in range(2):
            picture(root / name / "part" / f"{number}.jpg")
    picture(root / "cars" / "0.jpg")
    picture(root / "0.jpg")
    for name in ("bright_car/a.heic", "b.HEIC", "adj_car/c.txt", "dark_car/d", ".hidden"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"no picture")
    build(tmp_path, bert).pairs().save(tmp_path / "saved")
    pairs = MinimalPairs.load(tmp_path / "saved")
    assert Counter(pair.clean_prompt[slice(*pair.roles["noun"])] for pair in pairs) == {"car": 2, "dining room": 2}
    assert all(pair.clean_prompt.startswith(("is this car ", "is this dining room ")) for pair in pairs)
    options = pairs.manifest.options
    assert options["folders_unnamed"]["cars"] == 1
    as_pictures = sum(name.lower().endswith(".heic") for name in pairs.dropped["id"])
    in_no_folder = options["folders_unnamed"].get(".", 0) - 1
    assert options["skipped_files"].pop(".heic", 0) + as_pictures + in_no_folder == 2
    assert options["skipped_files"] == {".txt": 1, "no ending": 1}


def test_links_in_a_circle_come_to_an_end(bert, tmp_path: Path):
    root = folders(tmp_path / "states", bright_car=2, dark_car=2)
    (root / "dark car" / "more").symlink_to(root)
    (root / "tiny car").symlink_to("tiny car")
    (root / "dark car" / "loop.jpg").symlink_to("loop.jpg")
    built = build(root, bert)
    assert len(built.rows) == 2
    assert [(problem.id, problem.reason) for problem in built.problems] == [("dark car/loop.jpg", IMAGE)]


def test_names_that_are_no_text(bert, tmp_path: Path):
    root = folders(tmp_path / "states", bright_car=2, dark_car=2)
    (root / "dark car" / "0.png").rename(root / "dark car" / "\udcff.png")
    (root / "dark car").rename(root / "dark \udcffcar")
    (root / "bright car").rename(root / "bright \udcffcar")
    folders(root, huge_car=2, tiny_car=2)
    pairs = build(root, bert).pairs()
    pairs.save(tmp_path / "saved")
    assert len(MinimalPairs.load(tmp_path / "saved")) == len(pairs) >= 2
