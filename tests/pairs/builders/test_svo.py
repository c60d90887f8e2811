"""SVO-Probes in its owners' layout: what becomes pairs, what does not, and why."""

import hashlib
import random
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from made_svo import NEAR, OBJECTS, SUBJECTS, VERBS, Probes, counted
from notice_lens.pairs import MinimalPairs
from notice_lens.pairs import problems as reasons
from notice_lens.pairs.builders.grammar import SLOTS, ing
from notice_lens.pairs.builders.svo import build_svo, svo_probes
from notice_lens.pairs.builders.svo_csv import as_id
from notice_lens.pairs.builders.svo_words import NEAR as NEAR_OPTIONS
from notice_lens.pairs.tokens import pieces
from notice_lens.stats.clusters import cluster_numbers


@pytest.fixture
def probes(tmp_path):
    return Probes(tmp_path)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """150 rows of all groups over some 150 pictures, with triplets as text and as lists, flags in all spellings."""
    probes, rng = Probes(tmp_path_factory.mktemp("svo")), random.Random(0)
    words = SUBJECTS, VERBS, OBJECTS
    shown = [tuple(rng.choice(slot) for slot in words) for _ in range(40)]
    for name in range(80):
        probes.image(name, ending=rng.choice(["jpg", "JPEG", "png", "webp"]))
    for line in range(150):
        name = rng.randrange(40)
        positive, place = shown[name], rng.choices(range(3), [5, 3, 1])[0]
        other = rng.choice([word for word in words[place] if word != positive[place]])
        negative = (*positive[:place], other, *positive[place + 1 :])
        known = [other for other, triplet in enumerate(shown) if triplet == negative]
        there = known[0] if known else len(shown)
        if not known:
            shown.append(negative)
        if there >= 80:
            probes.image(there)
        yes, no = [("True", "False"), ("1", "0"), ("TRUE", "FALSE"), ("1.0", "")][line % 4]
        flags = [yes if index == place else no for index in range(3)]
        sentence = f"A {positive[0]} is {ing(positive[1])} on the {positive[2]}." if line % 3 else ""
        probes.row(",".join(positive), ",".join(negative), None, (name, there), sentence, line % 2 == 1, flags)
    probes.write()
    return probes


@pytest.fixture(scope="module")
def everything(large, bert):
    return large.build(bert)


def test_both_directions_of_a_row(probes, bert):
    for name in range(5):
        probes.image(name)
    probes.row("girl,sit,beach", "boy,sit,beach", "subject", (0, 1))
    probes.row("dog,sit,beach", "teacher,sit,beach", "subject", (2, 3))
    probes.row("baker,sit,beach", "pilot,sit,beach", "subject", (4, 3))
    built = probes.build(bert)
    first, second = built.rows[:2]
    assert (first["id"], second["id"]) == ("svo-2-pos", "svo-2-neg")
    assert first["clean_image"].name == second["corrupt_image"].name == "0.jpg"
    assert second["clean_image"].name == first["corrupt_image"].name == "1.jpg"
    assert first["clean_digest"] == second["corrupt_digest"] != first["corrupt_digest"]
    assert first["clean_prompt"] == second["clean_prompt"]
    assert first["clean_prompt"] in {"is girl or boy sitting on beach?", "is boy or girl sitting on beach?"}
    assert (first["correct_answer"], first["incorrect_answer"]) == ("girl", "boy")
    assert (second["correct_answer"], second["incorrect_answer"]) == ("boy", "girl")
    assert (first["clean_triplet"], first["corrupt_triplet"]) == ("girl,sit,beach", "boy,sit,beach")
    assert (first["task"], first["kind"], first["group"], first["corrupt_answer"]) == ("svo", "vqa", "subject", None)


def test_the_manifest(large, everything):
    assert (everything.builder, everything.source) == ("svo_probes", "svo_probes.csv")
    assert everything.checksum == hashlib.sha256(large.csv.read_bytes()).hexdigest()
    assert everything.options["groups"] == list(SLOTS)
    assert everything.options["rows_used"] * 2 == len(everything.rows)
    assert everything.options["pairs_by_group"] == Counter(row["group"] for row in everything.rows)
    donors = sum(row["donor_image"] is not None for row in everything.rows)
    assert everything.options["with_donor_image"] == donors > len(everything.rows) / 2
    assert everything.options["with_donor_prompt"] == sum(r["donor_prompt"] is not None for r in everything.rows) > 50


def test_every_row_is_a_pair_or_a_problem(large, everything):
    lines = {problem.id for problem in everything.problems}
    assert len(lines) == len(everything.problems)
    assert len(everything.rows) / 2 + len(lines) == len(large.rows)
    assert set(counted(everything)) <= {reasons.DUPLICATE, reasons.FIRST_TOKEN, NEAR_OPTIONS, reasons.NO_REPLACEMENT}


def test_roles_and_answers_are_the_words_of_the_prompt(everything):
    for row in everything.rows:
        prompt, triplet = row["clean_prompt"], row["clean_triplet"].split(",")
        words = {role: prompt[slice(*span)] for role, span in row["roles"].items()}
        shown = dict(zip(SLOTS, (triplet[0], ing(triplet[1]), triplet[2]), strict=True))
        asked = shown.pop(row["group"])
        assert words == {"correct": asked, "incorrect": row["incorrect_answer"], **shown}
        assert row["correct_answer"] == asked
        spans = sorted(row["roles"].values())
        assert all(a[1] < b[0] for a, b in pairwise(spans))


def test_replaced_prompts_have_equal_token_counts_and_none_of_the_old_meaning(everything, bert):
    for row in everything.rows:
        options = row["correct_answer"], row["incorrect_answer"]
        prompts = [
            row[column].rstrip("?").split()
            for column in ("clean_prompt", "corrupt_prompt", "donor_prompt")
            if row[column]
        ]
        for prompt in prompts[1:]:
            assert len(prompt) == len(prompts[0])
            new = [word for word, old in zip(prompt, prompts[0], strict=True) if word != old]
            assert len(new) == 2
            assert [len(pieces(bert, a)) for a in prompt] == [len(pieces(bert, a)) for a in prompts[0]]
            assert not any(NEAR.near(a, b) for a in new for b in prompts[0])
            assert not NEAR.near(*new)
        if len(prompts) == 3:
            assert not set(prompts[1]) & set(prompts[2]) - (set(prompts[0]) - set(options))


def test_answers_begin_differently(everything, bert):
    for row in everything.rows:
        correct, incorrect = (pieces(bert, row[column]) for column in ("correct_answer", "incorrect_answer"))
        assert correct[0] != incorrect[0]


def test_no_question_twice_about_two_pictures(everything):
    asked = Counter(
        (frozenset((row["clean_digest"], row["corrupt_digest"])), row["clean_digest"], row["clean_prompt"])
        for row in everything.rows
    )
    assert set(asked.values()) == {1}
    assert all(row["clean_digest"] != row["corrupt_digest"] for row in everything.rows)


def test_donors_show_a_third_word_in_the_slot(everything, large):
    shows = defaultdict(set)
    for row in large.rows:
        for triplet, image in ((row[1], row[5]), (row[2], row[6])):
            shows[image].add(tuple(triplet.strip("[]'").split(",")))
    close = 0
    for row in everything.rows:
        if row["donor_image"] is None:
            continue
        place, own = SLOTS.index(row["group"]), row["clean_triplet"].split(",")
        for triplet in shows[row["donor_image"].stem]:
            for option in (own[place], row["corrupt_triplet"].split(",")[place]):
                assert not NEAR.near(triplet[place], option)
        others = [{i for i in range(3) if i != place and t[i] == own[i]} for t in shows[row["donor_image"].stem]]
        assert any(others)
        close += any(len(shared) == 2 for shared in others)
        assert row["donor_image"] not in (row["clean_image"], row["corrupt_image"])
    assert close


def test_donors_link_rows_no_more_than_they_must(probes, bert):
    """Five rows of one question, three of them drawn: the pictures of the others are enough for a donor each."""
    subjects = [("boy", "girl"), ("dog", "horse"), ("teacher", "soldier"), ("elephant", "firefighter"), ("cat", "cow")]
    for number, options in enumerate(subjects):
        ids = (2 * number, 2 * number + 1)
        for name in ids:
            probes.image(name)
        probes.row(*(f"{subject},sit,beach" for subject in options), "subject", ids)
    for seed in range(8):
        rows = probes.build(bert, n=6, seed=seed).rows
        assert all(row["donor_digest"] for row in rows)
        shared = [(row["clean_digest"], row["corrupt_digest"], row["donor_digest"]) for row in rows]
        assert len(set(cluster_numbers(shared).tolist())) == 3


def test_a_picture_that_is_known_to_show_an_option_is_no_donor(probes, bert):
    for name in range(5):
        probes.image(name)
    probes.row("girl,sit,beach", "boy,sit,beach", "subject", (0, 1))
    probes.row("dog,sit,beach", "horse,sit,beach", "subject", (2, 3))
    # Picture 2 has a boy on it too, picture 3 somebody who may be one.
    probes.row("boy,sit,sofa", "teacher,sit,sofa", "subject", (2, 4))
    probes.row("child,read,sofa", "dog,read,sofa", "subject", (3, 4))
    for seed in range(10):
        first = probes.build(bert, seed=seed).rows[0]
        assert first["id"] == "svo-2-pos"
        assert first["donor_image"] is None or first["donor_image"].name == "4.jpg"


def test_other_words_of_the_question_stay_out_of_its_replacements(probes, bert):
    for name in range(6):
        probes.image(name)
    probes.row("boy,feed,dog", "girl,feed,dog", "subject", (0, 1))
    probes.row("dog,feed,horse", "teacher,feed,horse", "subject", (2, 3))
    probes.row("puppy,feed,horse", "baker,feed,horse", "subject", (4, 5))
    for seed in range(10):
        words = probes.build(bert, seed=seed).rows[0]["corrupt_prompt"].rstrip("?").split()
        assert {words[1], words[3]} == {"teacher", "baker"}
        assert words[4:] == ["feeding", "dog"]


def test_pairs_stand_in_the_order_of_the_file(large, bert, everything):
    for built in (everything, large.build(bert, n=40)):
        lines = [int(row["id"].split("-")[1]) for row in built.rows]
        assert lines == sorted(lines)
        assert max(lines) > 99


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [None, 2, 12, 31])
def test_balance(large, bert, n, seed):
    built = large.build(bert, n=n, seed=seed)
    assert n is None or len(built.rows) == n // 2 * 2
    by_group = Counter(row["group"] for row in built.rows)
    if n == 12:
        assert by_group == dict.fromkeys(SLOTS, 4)
    rows = defaultdict(list)
    for row in built.rows:
        rows[row["id"].rsplit("-", 1)[0]].append(row)
    assert all([row["id"][-3:] for row in both] == ["pos", "neg"] for both in rows.values())
    for group in by_group:
        of_group = [row for row in built.rows if row["group"] == group]
        first = [row["roles"]["correct"] < row["roles"]["incorrect"] for row in of_group]
        assert first.count(True) * 2 == len(first)
        positive = [f for f, row in zip(first, of_group, strict=True) if row["id"].endswith("pos")]
        assert abs(positive.count(True) * 2 - len(positive)) <= 1


def test_the_seed_decides_alone(large, bert, everything, tmp_path):
    some = large.build(bert, n=20, seed=1).rows
    assert some == large.build(bert, n=20, seed=1).rows
    assert {row["id"] for row in some} != {row["id"] for row in large.build(bert, n=20, seed=2).rows}
    assert large.build(bert, seed=0).rows == everything.rows
    other = large.build(bert, seed=1).rows
    assert [row["corrupt_prompt"] for row in other] != [row["corrupt_prompt"] for row in everything.rows]
    moved = tmp_path / "images"
    moved.mkdir()
    for path in sorted(large.images.iterdir(), reverse=True):
        (moved / path.name).write_bytes(path.read_bytes())
    again = build_svo(large.csv, moved, bert, n=20, seed=1, progress=False).rows
    assert [{k: v for k, v in row.items() if "image" not in k} for row in again] == [
        {k: v for k, v in row.items() if "image" not in k} for row in some
    ]
    assert [row["donor_image"] and row["donor_image"].name for row in again] == [
        row["donor_image"] and row["donor_image"].name for row in some
    ]


def test_groups(large, bert):
    built = large.build(bert, groups=("object", "subject"))
    assert {row["group"] for row in built.rows} == {"subject", "object"}
    assert built.options["groups"] == ["subject", "object"]


def test_pictures_differ(large):
    """The folder of these tests is what it claims to be."""
    assert len({np.asarray(Image.open(path)).tobytes() for path in large.images.iterdir()}) > 100


def test_ids_as_floats_and_files_without_endings(probes, bert, tmp_path):
    """As pandas writes a column of ids with a gap, and as pictures lie that were fetched by id."""
    for name, ending in ((0, "jpg"), ("1.0", "png")):
        probes.image(name, ending=ending)
    for name, shown in (("2", 2), ("3.0", 3)):
        probes.image(shown, ending="webp")
        (probes.images / f"{shown}.webp").rename(probes.images / name)
    (probes.images / "notes").write_text("no picture")
    (probes.images / "photo.raw").touch()
    probes.row("girl,sit,beach", "boy,sit,beach", "subject", ("0.0", "1.0"))
    probes.row("dog,sit,beach", "teacher,sit,beach", "subject", ("2.00", 3))
    probes.write()
    svo_probes(probes.csv, probes.images, bert, progress=False).save(tmp_path / "saved")
    pairs = MinimalPairs.load(tmp_path / "saved")
    assert pairs["id"] == ["svo-2-pos", "svo-2-neg", "svo-3-pos", "svo-3-neg"]
    assert pairs[2].clean_image.getpixel((0, 0)) == tuple(hashlib.sha256(b"2").digest()[:3])
    assert pairs.manifest.options["skipped_files"] == {"no ending": 1, ".raw": 1}
    assert "skipped files: no ending 1, .raw 1" in repr(pairs)


@pytest.mark.parametrize(
    ("text", "read"),
    [("12.0", "12"), (" 12.000 ", "12"), ("12", "12"), ("007", "007"), ("12.5", "12.5"), ("a.0", "a.0"), ("1e5", "1e5"),
     ("-3.0", "-3.0"), ("", "")],
)  # fmt: skip
def test_ids(text, read):
    assert as_id(text) == read


def test_two_folders_of_links_to_one_cache(probes, bert, tmp_path):
    """As in a hub's cache: names in one folder, contents under hashes in another."""
    (tmp_path / "blobs").mkdir()
    for name in range(2):
        probes.image(name)
        blob = tmp_path / "blobs" / hashlib.sha256(bytes([name])).hexdigest()
        (probes.images / f"{name}.jpg").rename(blob)
        (probes.images / f"{name}.jpg").symlink_to(f"../blobs/{blob.name}")
    probes.row("girl,sit,beach", "boy,sit,beach", "subject", (0, 1))
    probes.row("dog,sit,beach", "teacher,sit,beach", "subject", (0, 1))
    assert len(probes.build(bert).rows) == 4
