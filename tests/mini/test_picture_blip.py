"""The mini BLIP of the picture world: it sees, few of its heads read the image, and it is an ordinary checkpoint."""

from functools import partial

import numpy as np
import pytest
import torch
from transformers import BlipForQuestionAnswering, BlipProcessor

from notice_lens import HookedBLIP
from notice_lens.mini import mini_folder
from notice_lens.mini.generate import GROUPS, make_pair
from notice_lens.pairs import behaviour_filter, mini_world
from notice_lens.patching import aggregate, patch_heads
from short_runs import SHORT_PICTURE_BLIP, TINY_PICTURE_BLIP
from train_mini.measure import measure
from train_mini.picture_blip.evaluate import ask
from train_mini.picture_blip.examples import MAX_TOKENS, Examples
from train_mini.picture_blip.model import new_model
from train_mini.picture_blip.schedule import PictureBlipConfig
from train_mini.picture_blip.train import PictureBlipTrainer, cut_heads
from train_mini.picture_blip.vocabulary import IMAGE_SIZE, processor, tokens, word_pieces

FOLDER = mini_folder("pictures")
SUBSET, LEAST = 60, 0.93


@pytest.fixture(scope="module")
def hf():
    return BlipForQuestionAnswering.from_pretrained(FOLDER, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def model():
    return HookedBLIP.mini("pictures")


@pytest.mark.parametrize("task", tuple(GROUPS))
def test_it_answers_held_out_pairs_through_the_picture(hf, task):
    figures = measure(partial(ask, hf), task, SUBSET, seed=12345, world="pictures")
    assert figures["clean"][0] >= LEAST
    assert figures["corrupt"][0] >= LEAST
    assert figures["flips"][0] >= LEAST - 0.05
    # 60 pairs: three standard deviations of a fair coin are twenty points.
    assert abs(figures["mean_image_option"][0] - 0.5) < 0.2


def test_hugging_face_generates_the_same_answers(hf):
    reader = BlipProcessor.from_pretrained(FOLDER)
    for task in GROUPS:
        pairs = [make_pair(task, number, seed=77, world="pictures") for number in range(6)]
        drawn = [pair.row(IMAGE_SIZE) for pair in pairs]
        asked = ask(hf, [np.asarray(row.clean_image) for row in drawn], [pair.question for pair in pairs])
        for row, right in zip(drawn, asked.right, strict=True):
            ids = hf.generate(**reader(row.clean_image, row.clean_prompt, return_tensors="pt"), max_new_tokens=3)[0]
            assert (reader.tokenizer.decode(ids, skip_special_tokens=True) == row.correct_answer) == right, row.id


def test_it_is_small_and_an_ordinary_checkpoint(hf):
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 8_000_000
    assert BlipForQuestionAnswering.from_pretrained(FOLDER, dtype="auto").dtype == torch.bfloat16
    assert hf.config.text_config.num_attention_heads == 4
    tokenizer = BlipProcessor.from_pretrained(FOLDER).tokenizer
    assert tokenizer.get_vocab() == processor().tokenizer.get_vocab()
    assert hf.config.text_config.vocab_size == len(word_pieces()) == len(tokenizer)


def test_its_tokens_are_its_tokenizers():
    tokenizer = processor().tokenizer
    for task in GROUPS:
        for number in range(30):
            text = make_pair(task, number, world="pictures").question.text
            assert tokens(text) == tokenizer(text).input_ids
            assert len(tokens(text)) <= MAX_TOKENS


def test_hosted_it_agrees_with_hugging_face(model):
    assert model.cfg.name_or_path == "notice-lens mini BLIP"
    report = model.check(progress=False)
    assert report.passed, report


def test_only_the_heads_that_were_kept_do_anything(model):
    """What the others read of the image is not written: their patches change nothing."""
    pairs = behaviour_filter(model, mini_world("states", 16, seed=1, world="pictures"), progress=False)
    assert len(pairs) >= 12
    found = aggregate(patch_heads(model, pairs, positions="all", controls=(), progress=False)).values
    kept = np.zeros(found.shape, bool)
    kept[tuple(zip(*PictureBlipConfig().kept, strict=True))] = True
    assert abs(found[~kept]).max() < 1e-6
    assert found[kept].max() > 0.3, "one head carries much of the answer"


def test_cut_heads_write_nothing_and_others_are_as_they_were():
    tiny, whole = (new_model(TINY_PICTURE_BLIP, 0) for _ in range(2))
    cut_heads(tiny, ((0, 1),))
    for number, layer in enumerate(tiny.text_encoder.encoder.layer):
        output = layer.crossattention.output.dense.weight.view(32, 2, 16)
        before = whole.text_encoder.encoder.layer[number].crossattention.output.dense.weight.view(32, 2, 16)
        for head in range(2):
            if (number, head) == (0, 1):
                assert torch.equal(output[:, head], before[:, head])
            else:
                assert not output[:, head].any()


def test_from_the_cut_on_no_step_brings_a_head_back(tmp_path):
    run = PictureBlipTrainer(SHORT_PICTURE_BLIP, tmp_path)
    run.run(SHORT_PICTURE_BLIP.cut_from - 1, workers=0)
    layers = run.model.text_encoder.encoder.layer
    assert all(layer.crossattention.output.dense.weight.view(32, 2, 16).abs().sum((0, 2)).all() for layer in layers)
    run.run(workers=0)
    alive = [layer.crossattention.output.dense.weight.view(32, 2, 16).abs().sum((0, 2)) > 0 for layer in layers]
    assert torch.stack(alive).tolist() == [[False, True], [False, False]]


def test_where_things_are_named_is_where_their_words_are():
    batch = Examples(8, 4).batch(0, 30)
    pieces = word_pieces()
    named = [
        pieces[batch.questions[image, question, place + 1]]
        for (image, question), place in np.ndenumerate(batch.nouns)
        if batch.told[image, question].max() >= 0
    ]
    assert len(named) > 60
    assert not {"is", "the", "or", "?", "[CLS]", "[SEP]"} & set(named)
