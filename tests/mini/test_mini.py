"""The mini BLIP that ships: it sees, it loads quickly, and Hugging Face gives the answers that we measure."""

import subprocess
import sys
from functools import partial

import pytest
import torch
from transformers import BlipForQuestionAnswering, BlipProcessor

from notice_lens.mini import mini_folder, rows
from notice_lens.mini.generate import GROUPS, pairs
from notice_lens.mini.vocabulary import processor, word_pieces
from train_mini.blip.evaluate import ask
from train_mini.measure import measure

SUBSET = 150


@pytest.fixture(scope="module")
def model():
    return BlipForQuestionAnswering.from_pretrained(mini_folder(), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def figures(model):
    return {task: measure(partial(ask, model), task, SUBSET, seed=12345) for task in GROUPS}


@pytest.mark.parametrize("task", tuple(GROUPS))
def test_it_answers_held_out_pairs(figures, task):
    assert figures[task]["accuracy"] >= 0.93
    assert figures[task]["both_right"][0] >= 0.9


@pytest.mark.parametrize("task", tuple(GROUPS))
def test_its_answer_comes_through_the_picture(figures, task):
    assert figures[task]["flips"][0] >= 0.9
    # 150 pairs: three standard deviations of a fair coin are twelve points.
    assert abs(figures[task]["mean_image_option"][0] - 0.5) < 0.13


def test_hugging_face_generates_the_same_answers(model):
    reader = BlipProcessor.from_pretrained(mini_folder())
    for task in GROUPS:
        chosen = list(pairs(task, 6, seed=77))
        drawn = [pair.row() for pair in chosen]
        asked = ask(model, [_pixels(row.clean_image) for row in drawn], [pair.question for pair in chosen])
        for row, right in zip(drawn, asked.right, strict=True):
            inputs = reader(images=row.clean_image, text=row.clean_prompt, return_tensors="pt")
            answer = reader.decode(model.generate(**inputs, max_new_tokens=5)[0], skip_special_tokens=True)
            assert (answer == row.correct_answer) == right, row.id


def _pixels(image):
    import numpy as np

    return np.asarray(image)


def test_it_is_small_and_an_ordinary_checkpoint(model):
    size = sum(file.stat().st_size for file in mini_folder().iterdir())
    assert size < 10_000_000
    assert (mini_folder() / "model.safetensors").exists()
    assert not list(mini_folder().glob("*.bin"))
    text, vision = model.config.text_config, model.config.vision_config
    assert text.num_attention_heads >= 8
    assert text.num_hidden_layers >= 3
    assert (vision.image_size // vision.patch_size) ** 2 >= 64
    assert BlipForQuestionAnswering.from_pretrained(mini_folder(), dtype="auto").dtype == torch.bfloat16


def test_its_vocabulary_is_the_worlds(model):
    tokenizer = BlipProcessor.from_pretrained(mini_folder()).tokenizer
    assert tokenizer.get_vocab() == processor().tokenizer.get_vocab()
    assert model.config.text_config.vocab_size == len(word_pieces()) == len(tokenizer)
    assert model.config.text_config.bos_token_id == tokenizer.bos_token_id


def test_larger_pictures_get_the_same_answers(model):
    reader = BlipProcessor.from_pretrained(mini_folder())
    right = 0
    for row in rows("states", 20, seed=5, size=192):
        inputs = reader(images=row.clean_image, text=row.clean_prompt, return_tensors="pt")
        answer = reader.decode(model.generate(**inputs, max_new_tokens=5)[0], skip_special_tokens=True)
        right += answer == row.correct_answer
    assert right >= 17


def test_importing_the_world_is_quick_and_leaves_torch_alone():
    code = "import sys, notice_lens.mini; print('torch' in sys.modules, 'datasets' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["False", "False"]
