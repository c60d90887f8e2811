"""Runs of both trainers: a killed run ends as an unbroken one, and every step sees other pictures."""

import csv
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from notice_lens.mini import vocabulary as blip_vocabulary
from short_runs import SHORT_BLIP, SHORT_LLAVA, SHORT_PICTURE_BLIP, TINY_BLIP, TINY_LLAVA, TINY_PICTURE_BLIP
from train_mini.blip import examples as blip_examples
from train_mini.blip import model as blip_model
from train_mini.blip.schedule import TrainConfig
from train_mini.blip.train import BlipTrainer
from train_mini.llava import examples as llava_examples
from train_mini.llava import model as llava_model
from train_mini.llava import vocabulary as llava_vocabulary
from train_mini.llava.schedule import LlavaConfig
from train_mini.llava.train import LlavaTrainer
from train_mini.measure import share
from train_mini.picture_blip import examples as picture_blip_examples
from train_mini.picture_blip import model as picture_blip_model
from train_mini.picture_blip import vocabulary as picture_blip_vocabulary
from train_mini.picture_blip.schedule import PictureBlipConfig
from train_mini.picture_blip.train import PictureBlipTrainer
from train_mini.pixels import normalised


@dataclass
class Trained:
    """A trainer with a short run: stops to resume it at, the last step before the rate falls, and its modules."""

    trainer: type
    config: TrainConfig | LlavaConfig | PictureBlipConfig
    stops: tuple[int, int]
    steady: int
    sizes: object
    model: ModuleType
    examples: ModuleType
    vocabulary: ModuleType


TRAINED = {
    "blip": Trained(BlipTrainer, SHORT_BLIP, (2, 5), 7, TINY_BLIP, blip_model, blip_examples, blip_vocabulary),
    "llava": Trained(
        LlavaTrainer, SHORT_LLAVA, (1, 4), 4, TINY_LLAVA, llava_model, llava_examples, llava_vocabulary
    ),
    "picture_blip": Trained(
        PictureBlipTrainer, SHORT_PICTURE_BLIP, (1, 6), 5, TINY_PICTURE_BLIP, picture_blip_model,
        picture_blip_examples, picture_blip_vocabulary,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=tuple(TRAINED))
def trained(request):
    return TRAINED[request.param]


@pytest.fixture(scope="module")
def unbroken(trained, tmp_path_factory):
    run = trained.trainer(trained.config, tmp_path_factory.mktemp("unbroken"))
    run.run(workers=0, every=2)
    return run


def same_weights(one, other):
    states = one.model.state_dict(), other.model.state_dict()
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_run_that_is_stopped_ends_with_the_same_weights(trained, unbroken, tmp_path):
    for until in (*trained.stops, None):
        # Each one starts from the checkpoint alone, as after a kill.
        resumed = trained.trainer(trained.config, tmp_path)
        resumed.run(until, workers=0, every=1)
    assert resumed.step == unbroken.step == trained.config.steps
    assert same_weights(unbroken, resumed)


def test_a_run_may_be_made_longer_before_its_rate_falls_for_good(trained, tmp_path):
    trained.trainer(trained.config, tmp_path).run(trained.steady, workers=0)
    longer = replace(trained.config, steps=20)
    assert trained.trainer(longer, tmp_path).step == trained.steady
    trained.trainer(trained.config, tmp_path).run(trained.steady + 1, workers=0)
    with pytest.raises(ValueError, match="of another run"):
        trained.trainer(longer, tmp_path)


def test_a_run_with_other_settings_is_refused(trained, tmp_path):
    trained.trainer(trained.config, tmp_path).run(1, workers=0)
    with pytest.raises(ValueError, match="take another folder, or the same settings"):
        trained.trainer(replace(trained.config, warm_steps=3), tmp_path)


def test_another_worker_draws_the_same_examples(trained, unbroken, tmp_path):
    run = trained.trainer(trained.config, tmp_path)
    run.run(workers=1, test_every=3)
    assert same_weights(unbroken, run)
    with (tmp_path / "validation.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["3", "6"]


def test_pixels_are_the_processors(trained):
    pixels = trained.examples.Examples(6, 1).batch(0, 2).pixels
    images = [Image.fromarray(each) for each in pixels]
    expected = trained.vocabulary.processor().image_processor(images, return_tensors="pt").pixel_values
    torch.testing.assert_close(normalised(torch.from_numpy(pixels)), expected, atol=1e-5, rtol=1e-5)


def test_first_weights_follow_from_the_seed_and_leave_the_global_state(trained):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, same, other = (trained.model.new_model(trained.sizes, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(one[name], same[name]) for name in one)
    words = next(name for name in one if name.endswith(("word_embeddings.weight", "embed_tokens.weight")))
    assert not torch.equal(one[words], other[words])


def test_every_step_and_every_seed_sees_other_pictures(trained):
    steps = ((1, 0), (1, 1), (2, 0), (1, 0))
    batches = [trained.examples.Examples(seed, 1).batch(step, 3) for seed, step in steps]
    drawn = [{pixels.tobytes() for pixels in batch.pixels} for batch in batches]
    assert len(drawn[0] | drawn[1] | drawn[2]) == 9
    assert drawn[0] == drawn[3]


def test_intervals_are_wilsons():
    assert share(np.array([True] * 95 + [False] * 5)) == pytest.approx([0.95, 0.8882, 0.9785], abs=2e-4)
