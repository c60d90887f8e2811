"""svo_probes: rows, files, folders and settings that are none, and what is said of them."""

import pytest
from PIL import Image

from made_svo import HEADER, Probes, counted
from notice_lens.pairs import problems as reasons
from notice_lens.pairs.builders import svo_csv
from notice_lens.pairs.builders.svo import NO_IMAGE, SAME_PICTURE, build_svo, svo_probes
from notice_lens.pairs.builders.svo_words import NEAR as NEAR_OPTIONS
from notice_lens.pairs.problems import PairsError


@pytest.fixture
def probes(tmp_path):
    return Probes(tmp_path)


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
        (("a,b,c,d", "b,b,c,d", "subject", (0, 1)), svo_csv.NOT_THREE_PARTS, "'a,b,c,d', 4 parts; expected"),
        (("girl,sit", "boy,sit", "subject", (0, 1)), svo_csv.NOT_THREE_PARTS, "2 parts"),
        (("girl,,beach", "boy,,beach", "subject", (0, 1)), svo_csv.NOT_THREE_PARTS, "2 parts"),
        (("girl,sit,beach", "boy,run,beach", "subject", (0, 1)), svo_csv.SLOT, "differ in subject and verb"),
        (("girl,sit,beach", "girl,sit,beach", "subject", (0, 1)), svo_csv.SLOT, "differ in nothing"),
        (("girl,sit,beach", "girl,sit,grass", "verb", (0, 1)), svo_csv.SLOT, "the flag says verb, but girl,sit,beach"),
        (("girl,sit,beach", "boy,sit,beach", None, (0, 1)), svo_csv.FLAG, "subj_neg='False', verb_neg='False'"),
        (("girl,sit,beach", "boy,sit,beach", "subject", ("../0", 1)), NO_IMAGE, "no image ../0.* in images"),
        (("girl,sit,beach", "boy,sit,beach", "subject", (0, "/etc/x")), NO_IMAGE, "no image /etc/x.* in"),
        (("girl,sit,beach", "boy,sit,beach", "subject", (0, "1.jpg")), NO_IMAGE, "no image 1.jpg.* in images"),
        (("girl,sit,beach", "boy,sit,beach", "subject", (0, "1" * 5000)), NO_IMAGE, f"no image {'1' * 80}.* in images"),
        (("girl,sit,beach", "boy,sit,beach", "subject", ("", 1)), reasons.MISSING, "pos_image_id is empty"),
        (("girl,sit,beach", "boy,sit,beach", "subject", (0, 77)), NO_IMAGE, "no image 77.* in images"),
        (("girl,sit,beach", "boy,sit,beach", "subject", (0, "broken")), reasons.IMAGE, "broken.jpg: "),
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
def test_what_is_dropped_and_why(probes, bert, row, reason, detail):
    good(probes)
    probes.image("copy")
    (probes.images / "copy.jpg").write_bytes((probes.images / "0.jpg").read_bytes())
    (probes.images / "broken.jpg").write_bytes(b"no picture")
    probes.row(*row)
    built = probes.build(bert)
    assert [(problem.id, problem.reason) for problem in built.problems] == [("line 4", reason)]
    assert detail in built.problems[0].detail
    assert [row["id"] for row in built.rows] == ["svo-2-pos", "svo-2-neg", "svo-3-pos", "svo-3-neg"]


def test_links_are_followed_unless_confined(probes, bert, tmp_path):
    """A folder of links is how hubs cache, and how people keep pictures on another disk."""
    good(probes)
    (tmp_path / "disk").mkdir()
    for name in ("2", "3"):
        (probes.images / f"{name}.jpg").rename(tmp_path / "disk" / name)
        (probes.images / f"{name}.jpg").symlink_to(tmp_path / "disk" / name)
    (probes.images / "loop.jpg").symlink_to("loop.jpg")
    (probes.images / "loop").symlink_to("loop")
    probes.row("girl,sit,beach", "boy,sit,beach", "subject", (0, "loop"))
    built = probes.build(bert)
    assert [row["id"] for row in built.rows] == ["svo-2-pos", "svo-2-neg", "svo-3-pos", "svo-3-neg"]
    assert [(problem.id, problem.reason) for problem in built.problems] == [("line 4", reasons.IMAGE)]
    probes.row("horse,sit,beach", "boy,sit,beach", "subject", (0, 1))
    confined = probes.build(bert, confine=True)
    assert {row["id"] for row in confined.rows}.isdisjoint({"svo-3-pos", "svo-3-neg"})
    said = {problem.id: problem.detail for problem in confined.problems}["line 3"]
    assert said == "2.jpg: '2.jpg' is a link that leads out of 'images', and confine=True follows none"


def test_nothing_outside_the_folder_is_opened(probes, bert, tmp_path, monkeypatch):
    good(probes)
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.jpg")
    for bad in ("../outside", "..", str(tmp_path / "outside"), "outside\0"):
        probes.row("girl,sit,beach", "boy,sit,beach", "subject", (0, bad))
    opened = []
    monkeypatch.setattr("notice_lens.pairs.builders.svo.read_pictures", watch(opened))
    probes.build(bert)
    assert opened
    assert all(path.parent == probes.images and not path.is_symlink() for path in opened)


def watch(opened):
    from notice_lens.pairs.image_folder import read_pictures

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
        ({"n": 0}, "n=0: expected a whole number, 1 or more"),
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
    with pytest.raises(PairsError, match=r"image missing: 1\n    line 2: no image 1.* in images\nNo pair can be made"):
        probes.build(bert, n=10)
