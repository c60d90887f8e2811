"""The mini BLIP in training: its numbers are Hugging Face's, and its examples are what its patches are told."""

import csv

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from notice_lens.mini.scenes import questions, random_scene
from notice_lens.mini.stream import RandomStream
from notice_lens.mini.vocabulary import tokens, word_pieces
from train_mini.blip.examples import MAX_TOKENS, PATCH_CLASSES, Examples
from train_mini.blip.model import MiniConfig, answer_logits, encode_images, new_model
from train_mini.blip.places import place_loss
from train_mini.blip.start import look_at_neighbours
from train_mini.blip.train import BlipTrainer, TrainConfig, main
from train_mini.patches import NOTHING, UNKNOWN
from train_mini.pixels import normalised

TINY = MiniConfig(width=64, heads=8, vision_layers=2, text_layers=1, mlp=64)
SHORT = TrainConfig(
    steps=8, warm_steps=2, relations_from=4, choices_from=6, images=6, questions=2, ramp=2, fall=0.5, model=TINY
)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    trainer = BlipTrainer(SHORT, tmp_path_factory.mktemp("unbroken"))
    trainer.run(workers=0, every=2)
    return trainer


def test_training_changes_every_weight_and_writes_its_log(unbroken):
    fresh = new_model(TINY, SHORT.seed).state_dict()
    same = [name for name, value in unbroken.model.state_dict().items() if torch.equal(value, fresh[name])]
    # A constant added to every key changes no softmax: those biases have no gradient.
    assert all(name.endswith("self.key.bias") for name in same), same
    with (unbroken.folder / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [2, 4, 6, 8]
    assert all(np.isfinite(float(row["loss"])) for row in rows)


def test_the_quick_forward_gives_the_numbers_of_hugging_face(unbroken):
    model = unbroken.model.eval()
    batch = Examples(5, 3).batch(0, 4)
    pixels = normalised(torch.from_numpy(batch.pixels))
    asked = torch.from_numpy(batch.questions).long()
    answers = torch.tensor([[model.config.text_config.bos_token_id, 20]])
    with torch.no_grad():
        images = encode_images(model, pixels)
        torch.testing.assert_close(images, model.vision_model(pixels).last_hidden_state, atol=2e-6, rtol=1e-5)
        logits = answer_logits(model, images, asked, answers.expand(4, 3, 2))
        for image in range(4):
            for question in range(3):
                # Unpadded, one by one: Hugging Face does not mask the padding of a question in the decoder.
                ids = asked[image, question][asked[image, question] > 0][None]
                states = model.text_encoder(input_ids=ids, encoder_hidden_states=images[image][None])[0]
                expected = model.text_decoder(input_ids=answers, encoder_hidden_states=states).logits
                torch.testing.assert_close(logits[image, question], expected[0], atol=1e-5, rtol=1e-5)


def test_an_exported_model_is_hugging_faces(unbroken, tmp_path):
    from transformers import BlipForQuestionAnswering, BlipProcessor

    unbroken.export(tmp_path)
    model = BlipForQuestionAnswering.from_pretrained(tmp_path)
    reader = BlipProcessor.from_pretrained(tmp_path)
    assert model.dtype == torch.bfloat16
    assert model.config.text_config.num_attention_heads == 8
    inputs = reader(images=np.zeros((64, 64, 3), np.uint8), text="is this circle red or green?", return_tensors="pt")
    given = model.float().generate(**inputs, max_new_tokens=3)
    assert given[0, 0] == word_pieces().index("[DEC]")


def test_heads_look_at_neighbours_at_first():
    model = new_model(MiniConfig(), 0)
    batch = Examples(7, 1).batch(0, 8)
    with torch.no_grad():
        stream = model.vision_model.embeddings(normalised(torch.from_numpy(batch.pixels)))
        layer = model.vision_model.encoder.layers[0]
        pattern = layer.self_attn(layer.layer_norm1(stream))[1]
    middle = 1 + 3 * 8 + 4
    looked_at = pattern[:, :, middle, 1:].mean(0).argmax(-1).tolist()
    expected = [(3 + down) * 8 + 4 + right for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0)]
    assert looked_at == expected
    assert pattern[:, :, middle, 1:].mean(0).max(-1).values.min() > 0.5
    with pytest.raises(ValueError, match="multiple of 4"):
        look_at_neighbours(new_model(TINY, 0).vision_model.__class__(_odd()), torch.Generator())


def _odd():
    config = new_model(TINY, 0).config.vision_config
    config.hidden_size, config.num_attention_heads = 48, 8
    return config


def test_examples_fit_and_patches_say_what_is_there():
    batch = Examples(8, 4).batch(0, 40)
    assert batch.questions.shape == (40, 4, MAX_TOKENS)
    assert (batch.answers > 0).all()
    shape = batch.patches[:, 0]
    classes = PATCH_CLASSES["shape"]
    nothing = shape == classes.index(NOTHING)
    assert 0.2 < nothing.mean() < 0.9
    # Where a thing is, its colour and texture are known; where nothing is, neither.
    things = (shape != UNKNOWN) & (shape < classes.index(NOTHING))
    assert (batch.patches[:, 1][things] != UNKNOWN).all()
    assert (batch.patches[:, 1:][nothing[:, None].repeat(4, axis=1)] == UNKNOWN).all()


def test_the_rate_rises_stays_and_falls_twice():
    config = TrainConfig(steps=1500, warm_steps=100, choices_from=1000, ramp=10, fall=0.4)
    rates = [config.rate_at(step) for step in range(1500)]
    assert rates[0] == rates[100] == 2 * rates[1000] == pytest.approx(1e-4)
    assert rates[99] == rates[300] == config.rate == 2 * rates[1100]
    assert config.rate > rates[700] > rates[999] > 0
    assert config.second_rate > rates[1400] > rates[1499] > 0
    assert config.last_steady_step == 1300


def test_the_mix_of_examples_changes_at_its_steps():
    examples = Examples(9, 4, relations_from=2, choices_from=3)
    text = [set(map(tuple, examples.batch(step, 60).questions.reshape(-1, MAX_TOKENS).tolist())) for step in range(4)]
    centre = tokens("center")[1]
    assert [any(centre in row for row in rows) for rows in text] == [False, False, True, True]


def test_contested_questions_offer_two_things_of_the_picture():
    offered = []
    for number in range(150):
        stream = RandomStream("contested", number)
        scene = random_scene(stream)
        present = {thing.shape for thing in scene.things}
        asked = questions(scene, stream, 4, ("subject", "object"), contested=True)
        if len(present) == 3:
            offered += [set(question.options) <= present for question in asked if question.options]
    assert np.mean(offered) > 0.6


def test_states_that_tell_their_places_have_no_place_loss():
    states = torch.zeros(2, 65, 64)
    assert place_loss(states) > 1
    steps = 8 * torch.linspace(-1, 1, 8)
    number = torch.arange(64)
    down, right = (number % 2 * 2 - 1) / 8, (number // 2 % 2 * 2 - 1) / 8
    told = steps[:, None, None] * down + steps[None, :, None] * right
    states[:, 1:] = told.flatten(0, 1)
    torch.testing.assert_close(place_loss(states), torch.tensor(0.0), atol=1e-8, rtol=0)


def test_the_command_trains_and_says_where(tmp_path):
    steps = ["--steps", "3", "--warm-steps", "1", "--relations-from", "1", "--choices-from", "2"]
    options = [*steps, "--images", "2", "--questions", "1", "--device", "cpu"]
    found = CliRunner().invoke(main, ["--out", str(tmp_path), *options])
    assert found.exit_code == 0, found.output
    assert "step 3" in found.output
    assert (tmp_path / "model" / "model.safetensors").exists()
