"""The mini LLaVA that ships: it sees, it is an ordinary checkpoint, and hosted it can be patched."""

from functools import partial

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from notice_lens.mini import llava_folder
from notice_lens.mini.generate import GROUPS, make_pair
from notice_lens.models import HookedVLM
from notice_lens.pairs import behaviour_filter, mini_world
from notice_lens.patching import patch_heads
from train_mini.llava.evaluate import ask
from train_mini.llava.vocabulary import processor, word_pieces
from train_mini.measure import measure

SUBSET = 60
LEAST = {"states": 0.85, "scenes": 0.92, "faces": 0.93}
"""Share of right answers of each task, below what the model card has."""


@pytest.fixture(scope="module")
def model():
    return AutoModelForImageTextToText.from_pretrained(llava_folder(), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def hooked():
    return HookedVLM.mini()


@pytest.fixture(scope="module")
def figures(model):
    return {task: measure(partial(ask, model), task, SUBSET, seed=12345, world="pictures") for task in GROUPS}


@pytest.mark.parametrize("task", tuple(GROUPS))
def test_it_answers_held_out_pairs(figures, task):
    assert figures[task]["clean"][0] >= LEAST[task]
    assert figures[task]["corrupt"][0] >= LEAST[task]


@pytest.mark.parametrize("task", tuple(GROUPS))
def test_its_answer_comes_through_the_picture(figures, task):
    assert figures[task]["flips"][0] >= LEAST[task] - 0.1
    # 60 pairs: three standard deviations of a fair coin are twenty points.
    assert abs(figures[task]["mean_image_option"][0] - 0.5) < 0.2


def test_hugging_face_generates_the_same_answers(model):
    reader = AutoProcessor.from_pretrained(llava_folder())
    for task in GROUPS:
        pairs = [make_pair(task, number, seed=77, world="pictures") for number in range(6)]
        drawn = [pair.row(128) for pair in pairs]
        asked = ask(model, [np.asarray(row.clean_image) for row in drawn], [pair.question for pair in pairs])
        for row, right in zip(drawn, asked.right, strict=True):
            content = [{"type": "image"}, {"type": "text", "text": row.clean_prompt}]
            prompt = reader.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
            inputs = reader(images=row.clean_image, text=prompt, return_tensors="pt")
            ids = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs.input_ids.shape[1] :]
            answer = reader.tokenizer.decode(ids, skip_special_tokens=True)
            assert (answer == row.correct_answer) == right, row.id


def test_it_is_small_and_an_ordinary_checkpoint(model):
    assert sum(file.stat().st_size for file in llava_folder().iterdir()) < 12_000_000
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    text, vision = model.config.text_config, model.config.vision_config
    assert text.num_hidden_layers >= 6
    assert text.num_attention_heads >= 4
    assert (vision.image_size // vision.patch_size) ** 2 == 64
    assert AutoModelForImageTextToText.from_pretrained(llava_folder(), dtype="auto").dtype == torch.bfloat16


def test_its_vocabulary_is_the_worlds(model):
    tokenizer = AutoProcessor.from_pretrained(llava_folder()).tokenizer
    assert tokenizer.get_vocab() == processor().tokenizer.get_vocab()
    assert model.config.text_config.vocab_size == len(word_pieces()) == len(tokenizer)


def test_larger_pictures_get_the_same_answers(hooked):
    pairs = mini_world("states", 12, seed=5, world="pictures", size=400)
    said = hooked.generate([pair.clean_image for pair in pairs], pairs["clean_prompt"])
    assert np.mean([answer == pair.correct_answer for answer, pair in zip(said, pairs, strict=True)]) >= 0.75


def test_it_is_hosted_and_agrees_with_hugging_face(hooked):
    assert hooked.cfg.name_or_path == "notice-lens mini LLaVA"
    assert hooked.dtype == torch.float32
    report = hooked.check(progress=False)
    assert report.passed, report


@pytest.mark.parametrize("task", tuple(GROUPS))
def test_most_pairs_are_kept_and_heads_can_be_patched(hooked, task):
    pairs = mini_world(task, 12, seed=1, world="pictures")
    kept = behaviour_filter(hooked, pairs, progress=False)
    assert len(kept) >= 0.6 * len(pairs), kept.manifest.dropped
    result = patch_heads(hooked, kept[:3], progress=False)
    assert result.sizes["layer"] == 6
    assert all(bool(result[name].notnull().any()) for name in result.data_vars)
