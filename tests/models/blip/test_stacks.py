"""A stack by itself: from a given stream, between given layers, with a given source."""

import pytest
import torch

from conftest import relative_error


@pytest.fixture
def text(vqa):
    return vqa.model.text


@pytest.fixture
def flow(vqa):
    """The embedded question and the image states of an example."""
    inputs = vqa.inputs(batch=2)
    with torch.no_grad():
        return vqa.model.text.embed(inputs.input_ids), vqa.model.run_stack("vision", inputs)


@pytest.mark.parametrize("layer", [0, 1, 3, 4, -1])
def test_stopping_and_starting_again_changes_nothing(text, flow, layer):
    resid, image = flow
    with torch.no_grad():
        whole = text(resid, source=image)
        half = text(resid, source=image, stop_at_layer=layer)
        rest = text(half, source=image, start_at_layer=layer)
    assert torch.equal(rest, whole)


def test_the_vision_stack_stops_before_its_last_layer_norm(vqa):
    inputs = vqa.inputs()
    _, cache = vqa.model.run_with_cache(inputs)
    with torch.no_grad():
        stopped = vqa.model.vision(vqa.model.vision.embed(inputs.pixel_values), stop_at_layer=3)
        assert torch.equal(vqa.model.vision.ln_final(stopped), vqa.model.run_stack("vision", inputs))
    assert relative_error(stopped, cache["vision.blocks.2.hook_resid_post"]) < 1e-5


def test_many_questions_share_one_image(text, flow, vqa):
    """Four questions for each of two images: as if every question had its own copy of the image."""
    _, image = flow
    ids = vqa.inputs(batch=8, seed=3).input_ids
    with torch.no_grad():
        resid = text.embed(ids)
        shared = text(resid, source=text.project_source(image))
        copies = text(resid, source=image.repeat_interleave(4, 0))
    assert relative_error(shared, copies) < 1e-5


@pytest.mark.parametrize(("start", "stop"), [(5, None), (0, 5), (3, 2), (-5, None)])
def test_layers_that_are_not_there(text, flow, start, stop):
    resid, image = flow
    with pytest.raises(IndexError, match="asked for; `text` has layers 0 to 3"):
        text(resid, source=image, start_at_layer=start, stop_at_layer=stop)


def test_sources_that_do_not_fit(vqa, text, flow):
    resid, image = flow
    with pytest.raises(ValueError, match="`text` has cross-attention: give it a source"):
        text(resid)
    with pytest.raises(ValueError, match="`vision` reads no source"):
        vqa.model.vision(image, source=image)
    with pytest.raises(ValueError, match="2 rows of `text` cannot share 3 rows of its source"):
        text(resid, source=image[:1].repeat(3, 1, 1))
    with pytest.raises(ValueError, match="a source projected for 3 layers; `text` has 4"):
        text(resid, source=text.project_source(image)[:3])
    with pytest.raises(ValueError, match="`vision` has no cross-attention"):
        vqa.model.vision.project_source(image)


def test_more_tokens_than_positions(text):
    with pytest.raises(ValueError, match="65 tokens given; `text` has positions for 64"):
        text.embed(torch.ones(1, 65, dtype=torch.long))


def test_heads_and_layers_are_checked(vqa):
    cfg = vqa.model.cfg.text
    assert (cfg.check_layer(-1), cfg.check_head(5)) == (3, 5)
    with pytest.raises(IndexError, match="layer 4 asked for; `text` has layers 0 to 3"):
        cfg.check_layer(4)
    with pytest.raises(IndexError, match="head 6 asked for; `text` has heads 0 to 5"):
        cfg.check_head(6)
