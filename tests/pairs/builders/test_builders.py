"""Raw downloads become MinimalPairs without a hand's touch, and the manifest says what was kept."""

import csv
from copy import copy

import pytest
from PIL import Image

from notice_lens.pairs import MinimalPairs, facial_expressions, mit_states, svo_probes
from pair_rows import picture


def write_pictures(folder, count, start):
    folder.mkdir(parents=True)
    for number in range(start, start + count):
        picture(number).save(folder / f"{number}.jpg", quality=95)


@pytest.fixture
def mit(tmp_path):
    for place, name in enumerate(["large box", "tiny box", "bent box", "straight box", "adj box", "rusty car"]):
        write_pictures(tmp_path / "images" / name, 5, 10 * place)
    (tmp_path / "images" / "smooth car").mkdir()
    (tmp_path / "images" / "large box" / "0.jpg").write_bytes(b"")
    return tmp_path


@pytest.fixture
def svo(tmp_path):
    header = "sentence,pos_triplet,neg_triplet,pos_url,neg_url,pos_image_id,neg_image_id,subj_neg,verb_neg,obj_neg"
    verbs = ["sit", "stand", "run", "walk", "sleep", "jump"]
    rows, images = [], tmp_path / "images"
    write_pictures(images, 40, 0)
    for number, (verb, other) in enumerate(zip(verbs, verbs[1:] + verbs[:1], strict=True)):
        sentence = f"A girl is {verb}ing on the beach."
        pos, neg = f"girl,{verb},beach", f"['girl,{other},beach']"
        rows.append([sentence, pos, neg, "", "", 2 * number, 2 * number + 1, "False", "True", "False"])
    rows.append(["", "['[]']", "girl,sit,beach", "", "", 20, 21, 0, 1, 0])
    rows.append(["", "girl,sit,on,beach", "girl,run,beach", "", "", 22, 23, 0, 1, 0])
    rows.append(["A girl sits.", "girl,sit,beach", "girl,run,beach", "", "", 24, 999, 0, 1, 0])
    with open(tmp_path / "svo_probes.csv", "w", newline="") as opened:
        csv.writer(opened).writerows([header.split(","), *rows])
    return tmp_path / "svo_probes.csv", images


def check(pairs, bert, tmp_path):
    """What holds for pairs of any builder."""
    assert len(pairs) > 0
    assert pairs.validate(bert) is pairs
    assert pairs.manifest.kept == len(pairs)
    assert sum(pairs.manifest.dropped.values()) == len(pairs.dropped)
    assert len(pairs.manifest.checksum) == 64
    assert len(set(pairs["id"])) == len(pairs)
    first = [
        pair.clean_prompt.index(pair.correct_answer) < pair.clean_prompt.index(pair.incorrect_answer) for pair in pairs
    ]
    assert abs(2 * sum(first) - len(first)) <= 1
    for pair, spans in zip(pairs, pairs.token_spans(bert), strict=True):
        ids = bert(pair.clean_prompt)["input_ids"]
        assert bert.decode(ids[slice(*spans["correct"])]) == pair.correct_answer
        assert pair.clean_image.size == (24, 16)
    again = MinimalPairs.load(pairs.save(tmp_path / "saved"))
    assert again.manifest == pairs.manifest
    assert repr(again) == repr(pairs)


def test_mit_states(mit, bert, tmp_path):
    pairs = mit_states(mit, bert, progress=False)
    check(pairs, bert, tmp_path)
    assert pairs.manifest.builder == "mit_states"
    assert set(pairs["group"]) == {"shape"}
    assert pairs.manifest.dropped["image unreadable"] == 1
    assert pairs[0].corrupt_prompt.startswith("is this box ")


def test_facial_expressions(tmp_path, bert):
    for place, name in enumerate(["angry", "happy", "sad", "surprise", "fear", "neutral", "disgust"]):
        write_pictures(tmp_path / "faces" / "train" / name, 4, 10 * place)
    pairs = facial_expressions(tmp_path / "faces", bert, n=10, progress=False)
    check(pairs, bert, tmp_path)
    assert len(pairs) == 10
    assert pairs[0].clean_prompt.startswith("is this person feeling ")


def test_svo_probes(svo, bert, tmp_path):
    pairs = svo_probes(*svo, bert, progress=False)
    check(pairs, bert, tmp_path)
    assert sum(pairs.manifest.dropped.values()) >= 3
    assert {"empty triplet", "triplet of other than three parts"} <= set(pairs.manifest.dropped)
    assert "is girl sitting or standing on beach?" in pairs["clean_prompt"] or (
        "is girl standing or sitting on beach?" in pairs["clean_prompt"]
    )


def test_the_nearest_picture(mit, mini, bert, tmp_path):
    """Each happy picture has a twin among the sad ones, which the model's vision stack finds."""
    folder = tmp_path / "twins"
    for place in range(6):
        Image.new("RGB", (32, 32), (40 * place, 255 - 40 * place, 20 * place)).save(
            _made(folder / "happy") / f"{place}.png"
        )
        twin = Image.new("RGB", (32, 32), (40 * place + 3, 255 - 40 * place, 20 * place + 2))
        twin.save(_made(folder / "sad") / f"{place}.png")
    pairs = facial_expressions(folder, _with_words_of(mini, bert), match="nearest", progress=False)
    assert len(pairs) == 6
    for pair in pairs:
        names = [pair.record[f"{run}_image"]["path"].rpartition("/")[2] for run in ("clean", "corrupt")]
        assert names[0] == names[1]


def _with_words_of(model, tokenizer):
    """The mini model's eyes, with a vocabulary that has all emotions."""
    processor = copy(model.processor)
    processor.tokenizer = tokenizer
    seeing = copy(model)
    seeing.processor = processor
    return seeing


def _made(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder
