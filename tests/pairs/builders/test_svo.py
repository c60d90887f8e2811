"""SVO-Probes in its owners' layout: what becomes pairs, what does not, and why."""

import csv
import hashlib
import io
import random
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from notice_lens.pairs import problems as reasons
from notice_lens.pairs.builders import svo_csv
from notice_lens.pairs.builders.grammar import SLOTS, ing
from notice_lens.pairs.builders.svo import NO_IMAGE, SAME_PICTURE, build_svo, svo_probes
from notice_lens.pairs.builders.svo_words import NEAR as NEAR_OPTIONS
from notice_lens.pairs.near_synonyms import NearSynonyms
from notice_lens.pairs.tokens import pieces

HEADER = "sentence,pos_triplet,neg_triplet,pos_url,neg_url,pos_image_id,neg_image_id,subj_neg,verb_neg,obj_neg".split(
    ","
)
NEAR = NearSynonyms.load()
SUBJECTS = "girl boy dog horse teacher soldier elephant snowboarder firefighter".split()
VERBS = "sit run jump sleep read lie squat snorkel paddle".split()
OBJECTS = "beach grass street sofa bridge umbrella snowboard".split()


class Probes:
    """A folder in the layout of the download."""

    def __init__(self, folder):
        self.folder, self.rows = folder, []
        self.csv, self.images = folder / "svo_probes.csv", folder / "images"
        self.images.mkdir(parents=True)

    def image(self, name, colour=None, ending="jpg"):
        colour = colour or hashlib.sha256(str(name).encode()).digest()[:3]
        Image.new("RGB", (16, 16), tuple(colour)).save(self.images / f"{name}.{ending}", lossless=True, quality=95)

    def row(self, positive, negative, slot, ids, sentence="A girl is sitting on the beach.", listed=False, flags=None):
        flags = flags or ["True" if slot == name else "False" for name in SLOTS]
        triplets = [f"['{triplet}']" if listed else triplet for triplet in (positive, negative)]
        self.rows.append([sentence, *triplets, "http://a/1.jpg", "http://b/2.jpg", *map(str, ids), *flags])

    def write(self, header=HEADER, encoding="utf-8"):
        text = io.StringIO(newline="")
        csv.writer(text).writerows([header, *self.rows])
        self.csv.write_bytes(text.getvalue().encode(encoding))

    def build(self, bert, **options):
        self.write()
        return build_svo(self.csv, self.images, bert, progress=False, **options)


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


def counted(built):
    return Counter(problem.reason for problem in built.problems)


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


def good(probes):
    """Two rows whose words replace each other's."""
    for name in range(4):
        probes.image(name)
    probes.row("girl,sit,beach", "boy,sit,beach", "subject", (0, 1))
    probes.row("dog,sit,beach", "teacher,sit,beach", "subject", (2, 3))


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        (("['[]']", "boy,sit,beach", "subject", (0, 1)), svo_csv.EMPTY_TRIPLET, "pos_triplet is \"['[]']\"; expected"),
        (("girl,sit,beach", "[]", "subject", (0, 1)), svo_csv.EMPTY_TRIPLET, "neg_triplet is '[]'"),
        (("girl,sit,beach", " ", "subject", (0, 1)), svo_csv.EMPTY_TRIPLET, "neg_triplet is ' '"),
        (("a,b,c,d", "b,b,c,d", "subject", (0, 1)), svo_csv.PARTS, "pos_triplet is 'a,b,c,d', 4 parts; expected"),
        (("girl,sit", "boy,sit", "subject", (0, 1)), svo_csv.PARTS, "2 parts"),
        (("girl,,beach", "boy,,beach", "subject", (0, 1)), svo_csv.PARTS, "2 parts"),
        (("girl,sit,beach", "boy,run,beach", "subject", (0, 1)), svo_csv.SLOT, "differ in subject and verb"),
        (("girl,sit,beach", "girl,sit,beach", "subject", (0, 1)), svo_csv.SLOT, "differ in nothing"),
        (("girl,sit,beach", "girl,sit,grass", "verb", (0, 1)), svo_csv.SLOT, "the flag says verb, but girl,sit,beach"),
        (("girl,sit,beach", "boy,sit,beach", None, (0, 1)), svo_csv.FLAG, "subj_neg='False', verb_neg='False'"),
        (("girl,sit,beach", "boy,sit,beach", "subject", ("../0", 1)), svo_csv.UNSAFE_ID, "pos_image_id is '../0'"),
        (("girl,sit,beach", "boy,sit,beach", "subject", (0, "/etc/x")), svo_csv.UNSAFE_ID, "neg_image_id is '/etc/x'"),
        (("girl,sit,beach", "boy,sit,beach", "subject", (0, "1.jpg")), svo_csv.UNSAFE_ID, "neg_image_id is '1.jpg'"),
        (("girl,sit,beach", "boy,sit,beach", "subject", ("", 1)), reasons.MISSING, "pos_image_id is empty"),
        (("girl,sit,beach", "boy,sit,beach", "subject", (0, 77)), NO_IMAGE, "no image 77.* in images"),
        (("girl,sit,beach", "boy,sit,beach", "subject", (0, "broken")), reasons.IMAGE, "broken.jpg: "),
        (("girl,sit,beach", "boy,sit,beach", "subject", (0, "link")), NO_IMAGE, "link.jpg is a link that leads out of"),
        (("girl,sit,beach", "boy,sit,beach", "subject", (0, "copy")), SAME_PICTURE, "images 0 and copy hold the same"),
        (("girl,sit,beach", "boy,sit,beach", "subject", (0, 1)), reasons.DUPLICATE, "the same pictures and question"),
        (("boy,sit,beach", "girl,sit,beach", "subject", (1, 0)), reasons.DUPLICATE, "as line 2"),
        (("girl,sit,beach", "child,sit,beach", "subject", (0, 1)), NEAR_OPTIONS, "'girl' and 'child': both may"),
        (("girl,sit,beach", "girl,sits,beach", "verb", (0, 1)), NEAR_OPTIONS, "'sitting' and 'sitting'"),
        (("girl,sit,beach", "\U00012000,sit,beach", "subject", (0, 1)), reasons.UNKNOWN_WORD, "not know '\U00012000'"),
        (("girl,sit,\u200b", "boy,sit,\u200b", "subject", (0, 1)), reasons.UNKNOWN_WORD, r"not know '\u200b'"),
        (("skydiver,sit,beach", "skydive,sit,beach", "subject", (0, 1)), reasons.FIRST_TOKEN, "begin with the same"),
        (("girl,sit,beach", "girl,sit,grass", "object", (0, 1)), reasons.NO_REPLACEMENT, "no two other words of the"),
    ],
)  # fmt: skip
def test_what_is_dropped_and_why(probes, bert, tmp_path, row, reason, detail):
    good(probes)
    probes.image("copy")
    (probes.images / "copy.jpg").write_bytes((probes.images / "0.jpg").read_bytes())
    (probes.images / "broken.jpg").write_bytes(b"no picture")
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.jpg")
    (probes.images / "link.jpg").symlink_to(tmp_path / "outside.jpg")
    probes.row(*row)
    built = probes.build(bert)
    assert [(problem.id, problem.reason) for problem in built.problems] == [("line 4", reason)]
    assert detail in built.problems[0].detail
    assert [row["id"] for row in built.rows] == ["svo-2-pos", "svo-2-neg", "svo-3-pos", "svo-3-neg"]


def test_nothing_outside_the_folder_is_opened(probes, bert, tmp_path, monkeypatch):
    good(probes)
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.jpg")
    (probes.images / "link.jpg").symlink_to(tmp_path / "outside.jpg")
    for bad in ("../outside", "link", "..", str(tmp_path / "outside"), "outside\0"):
        probes.row("girl,sit,beach", "boy,sit,beach", "subject", (0, bad))
    opened = []
    monkeypatch.setattr("notice_lens.pairs.builders.svo.read_pictures", watch(opened))
    probes.build(bert)
    assert opened
    assert all(path.parent == probes.images and not path.is_symlink() for path in opened)


def watch(opened):
    from notice_lens.pairs.inventory import read_pictures

    def watched(paths, **options):
        opened.extend(paths)
        return read_pictures(opened, **options)

    return watched


@pytest.mark.parametrize(
    "flags", [("2", "False", "False"), ("True", "True", "False"), ("True", "maybe", "0"), ("", "", "")]
)
def test_flags_that_say_nothing(probes, bert, flags):
    good(probes)
    probes.row("girl,sit,beach", "boy,sit,beach", None, (0, 1), flags=flags)
    assert counted(probes.build(bert)) == {svo_csv.FLAG: 1}


@pytest.mark.parametrize("cell", ["girl,sit,beach", "['girl,sit,beach']", "[girl, sit, beach]", " Girl , SIT,beach ",
                                  '["girl,sit,beach"]', "['girl', 'sit', 'beach']"])  # fmt: skip
def test_spellings_of_a_triplet(cell):
    assert svo_csv.parse_triplet(cell) == ("girl", "sit", "beach")


def test_a_row_of_another_length(probes, bert):
    good(probes)
    probes.rows.append(["sentence", "girl", "sit", "beach"])
    built = probes.build(bert)
    assert str(built.problems[0]) == "line 4: 4 cells, the header has 10; are triplets in quotes?"


def test_lines_are_those_of_an_editor(probes, bert):
    good(probes)
    probes.rows[0][0] = "two\nlines\u2028 with \x0b others"
    assert [row["id"] for row in probes.build(bert).rows] == ["svo-2-pos", "svo-2-neg", "svo-4-pos", "svo-4-neg"]


def test_byte_order_mark_and_spaces_in_the_header(probes, bert):
    good(probes)
    probes.write([f" {column} " for column in HEADER], "utf-8-sig")
    assert len(build_svo(probes.csv, probes.images, bert, progress=False).rows) == 4


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "svo_probes.csv is empty; expected svo_probes.csv with the columns sentence, pos_triplet"),
        (b" \n\n", "svo_probes.csv is empty"),
        (",".join(HEADER).encode(), "svo_probes.csv has a header but no rows"),
        (b"sentence\nok\ncaf\xe9\n", "not in UTF-8: byte 0xe9 in line 3; save it as UTF-8, or convert it (iconv"),
        (b"\xef\xbb\xbfsentence\n\xff\n", "byte 0xff in line 2"),
        (",".join(HEADER).replace("pos_triplet", "Pos_Triplets").encode() + b"\na\n",
         "lacks the columns 'pos_triplet' (nearest: 'Pos_Triplets'); it has 'sentence', 'Pos_Triplets'"),
        (b"x\n1\n", "lacks the columns 'sentence', 'pos_triplet'"),
        (",".join([*HEADER, "sentence"]).encode() + b"\na\n", "has the column 'sentence' more than once"),
        (",".join(HEADER).encode() + b'\n"open,', "line 2: no CSV: unexpected end of data; is a quotation"),
    ],
)  # fmt: skip
def test_files_that_are_none(probes, bert, raw, message):
    good(probes)
    probes.csv.write_bytes(raw)
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is looked at
        build_svo(probes.csv, probes.images, bert, progress=False)
    assert message in str(error.value)


def test_folders_that_are_none(probes, bert, tmp_path):
    good(probes)
    probes.write()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        svo_probes(probes.csv, tmp_path / "empty", bert)
    with pytest.raises(FileNotFoundError, match="expected one that holds images"):
        svo_probes(probes.csv, tmp_path / "none", bert)
    with pytest.raises(FileNotFoundError):
        svo_probes(tmp_path / "none.csv", probes.images, bert)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n=0: expected a number of pairs"),
        ({"n": 1}, "n=1: both directions of a row go together; expected 2 or more, or None"),
        ({"groups": ("verbs",)}, r"no group 'verbs'; did you mean 'verb'\?"),
        ({"groups": ()}, "groups is empty; expected some of subject, verb, object"),
    ],
)
def test_settings_that_are_none(probes, bert, options, message):
    good(probes)
    with pytest.raises(ValueError, match=message):
        probes.build(bert, **options)


def test_no_pair_at_all(probes, bert):
    probes.image(0)
    probes.row("girl,sit,beach", "boy,sit,beach", "subject", (0, 1))
    built = probes.build(bert, n=10)
    assert built.rows == []
    assert counted(built) == {NO_IMAGE: 1}


def test_pictures_differ(large):
    """The folder of these tests is what it claims to be."""
    assert len({np.asarray(Image.open(path)).tobytes() for path in large.images.iterdir()}) > 100
