"""The mini LLaVA in training: its numbers are Hugging Face's, and its examples are what its patches are told."""

import csv
from functools import partial

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from notice_lens.mini.generate import make_pair
from short_runs import SHORT_LLAVA, TINY_LLAVA
from train_mini.llava.evaluate import ask
from train_mini.llava.examples import MAX_TOKENS, Examples, written
from train_mini.llava.model import LlavaSizes, answer_logits, image_tokens, new_model, question_mask
from train_mini.llava.schedule import LlavaConfig
from train_mini.llava.train import LlavaTrainer, main
from train_mini.llava.vocabulary import IMAGE_SIZE, ids, processor
from train_mini.measure import accuracies, measure
from train_mini.optimizer import Muon, orthogonal
from train_mini.patches import NOTHING, UNKNOWN
from train_mini.picture_examples import PATCH_WORDS
from train_mini.pixels import normalised


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    trainer = LlavaTrainer(SHORT_LLAVA, tmp_path_factory.mktemp("unbroken"))
    trainer.run(workers=0, every=2)
    return trainer


@pytest.fixture(scope="module")
def exported(unbroken, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    unbroken.export(folder)
    return folder


def test_training_changes_every_weight_and_writes_its_log(unbroken):
    fresh = new_model(TINY_LLAVA, SHORT_LLAVA.seed).state_dict()
    same = [name for name, value in unbroken.model.state_dict().items() if torch.equal(value, fresh[name])]
    # The class token's own outputs are not read, and a constant added to every key changes no softmax.
    left = [name for name in same if not name.endswith(("post_layernorm.weight", "post_layernorm.bias", "k_proj.bias"))]
    assert not left
    with (unbroken.folder / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [2, 4, 6]
    assert all(np.isfinite(float(row["loss"])) for row in rows)


def test_the_packed_forward_gives_the_numbers_of_hugging_face(unbroken):
    model, reader = unbroken.model.eval(), processor()
    pairs = [make_pair(task, 1, seed=3, world="pictures") for task in ("states", "scenes", "faces")]
    drawn = [pair.clean.drawn(IMAGE_SIZE).pixels for pair in pairs]
    questions = [[pair.question, pair.corrupt_question] for pair in pairs]
    rows, places, _ = written(questions)
    with torch.no_grad():
        images = image_tokens(model, normalised(torch.from_numpy(np.stack(drawn))))
        logits, _ = answer_logits(
            model, images, torch.from_numpy(rows).long(), torch.from_numpy(places).long()[..., None]
        )
        for image, pixels in enumerate(drawn):
            for number, question in enumerate(questions[image]):
                content = [{"type": "image"}, {"type": "text", "text": question.text}]
                prompt = reader.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
                inputs = reader(images=Image.fromarray(pixels), text=prompt, return_tensors="pt")
                expected = model(**inputs).logits[0, -1]
                torch.testing.assert_close(logits[image, number, 0], expected, atol=2e-5, rtol=1e-5)


def test_a_question_sees_the_image_and_itself_alone():
    mask = question_mask(3, 2, 2)
    assert mask[:3, :3].equal(torch.ones(3, 3).tril().bool())
    assert mask[3:].int().tolist() == [
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0, 1, 0],
        [1, 1, 1, 0, 0, 1, 1],
    ]


def test_an_exported_model_is_hugging_faces(exported):
    model = AutoModelForImageTextToText.from_pretrained(exported)
    reader = AutoProcessor.from_pretrained(exported)
    assert (type(model).__name__, model.dtype) == ("LlavaForConditionalGeneration", torch.bfloat16)
    content = [{"type": "image"}, {"type": "text", "text": "is the apple red or green?"}]
    prompt = reader.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert prompt == "USER: <image>\nis the apple red or green? ASSISTANT:"
    inputs = reader(images=Image.new("RGB", (200, 200)), text=prompt, return_tensors="pt")
    assert inputs.input_ids.shape == (1, 3 + 64 + 9)
    assert (inputs.input_ids == ids()["<image>"]).sum() == 64
    assert inputs.pixel_values.shape == (1, 3, IMAGE_SIZE, IMAGE_SIZE)
    given = model.float().generate(**inputs, max_new_tokens=2, do_sample=False)
    assert given.shape[1] > inputs.input_ids.shape[1]


def test_heads_of_the_tower_look_at_neighbours_at_first():
    tower = new_model(LlavaSizes(), 0).model.vision_tower
    parts = tower if hasattr(tower, "embeddings") else tower.vision_model
    with torch.no_grad():
        # Of an even picture: what is in the patches draws heads aside.
        pixels = torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE)
        layer = parts.encoder.layers[0]
        states = layer.layer_norm1(parts.pre_layrnorm(parts.embeddings(pixels)))
        query, key = (
            project(states).unflatten(-1, (8, 16)).transpose(1, 2)
            for project in (layer.self_attn.q_proj, layer.self_attn.k_proj)
        )
        pattern = (query @ key.mT / 4).softmax(-1)[:, :, 1 + 3 * 8 + 4, 1:].mean(0)
    expected = [(3 + down) * 8 + 4 + right for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0)]
    assert pattern.argmax(-1).tolist() == expected
    assert pattern.max(-1).values.min() > 0.5


def test_examples_fit_and_patches_say_what_is_there():
    batch = Examples(8, 4).batch(0, 30)
    assert batch.questions.shape == (30, 4, MAX_TOKENS)
    answers = np.take_along_axis(batch.questions, batch.places[..., None].astype(int) + 1, axis=2)[..., 0]
    assert np.array_equal(answers, batch.answers)
    assert (batch.answers != ids()["<unk>"]).all()
    colon = np.take_along_axis(batch.questions, batch.places[..., None].astype(int), axis=2)
    assert (colon == ids()[":"]).all()
    noun = batch.patches[:, 0]
    nothing = noun == PATCH_WORDS["noun"].index(NOTHING)
    assert 0.2 < nothing.mean() < 0.9
    assert (batch.patches[:, 1:][nothing[:, None].repeat(3, axis=1)] == UNKNOWN).all()
    assert ((noun != UNKNOWN) & ~nothing).any(axis=1).all()


def test_orthogonal_steps():
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 8, 5), (2, 5, 8)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=generator)))
        assert 0.6 < values.min() < values.max() < 1.3
    parameter = torch.nn.Parameter(torch.zeros(6, 3))
    optimizer = Muon([parameter], lr=0.1)
    parameter.grad = torch.randn(6, 3, generator=generator)
    optimizer.step()
    assert 0.6 < torch.linalg.svdvals(parameter.detach()).min() / (0.1 * 2**0.5) < 1.3


def test_the_rate_rises_stays_and_falls():
    config = LlavaConfig(steps=1000, warm_steps=200, ramp=10, fall=0.5)
    rates = [config.share_at(step) for step in range(1000)]
    assert rates[0] == rates[200] == pytest.approx(0.1)
    assert rates[150] == rates[400] == 1
    assert 1 > rates[700] > rates[999] > 0
    assert config.last_steady_step == 600


def test_untrained_models_answer_at_chance_or_below(unbroken):
    asking = partial(ask, unbroken.model.eval())
    found = accuracies(asking, "pictures", 6)
    assert set(found) == {name + end for name in ("scenes", "states", "faces") for end in ("", "_both")}
    assert all(value < 0.6 for value in found.values())
    figures = measure(asking, "states", 12, world="pictures")
    assert figures["pairs"] == 12
    assert len(figures["both_right"]) == 3
    pair = make_pair("states", 0, world="pictures")
    answers = asking([pair.clean.drawn().pixels], [pair.question])
    assert answers.right.shape == (1,)


def test_the_command_trains_and_says_where(tmp_path, monkeypatch):
    options = ["--steps", "2", "--warm-steps", "1", "--images", "2", "--warm-images", "2", "--questions", "1"]
    found = CliRunner().invoke(main, ["--out", str(tmp_path), *options, "--test-every", "0", "--device", "cpu"])
    assert found.exit_code == 0, found.output
    assert "step 2" in found.output
    assert (tmp_path / "model" / "model.safetensors").exists()
