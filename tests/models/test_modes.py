"""Torch modes that a notebook sets change no number, and leave no tensor on another device."""

from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch

from conftest import make_small_pair
from made_up import made_up_pairs
from notice_lens import HookedBLIP, patching
from notice_lens.circuits import attention_maps
from notice_lens.pairs import Noise
from notice_lens.pairs.distance import minimality


@contextmanager
def set_for_a_while(setter, value, back):
    setter(value)
    try:
        yield
    finally:
        setter(back)


MODES = {
    "autocast": partial(torch.autocast, "cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "default dtype float64": partial(set_for_a_while, torch.set_default_dtype, torch.float64, torch.float32),
    "default dtype bfloat16": partial(set_for_a_while, torch.set_default_dtype, torch.bfloat16, torch.float32),
    "default device": partial(set_for_a_while, torch.set_default_device, "meta", None),
    "device block": partial(torch.device, "meta"),
    "no gradients": torch.no_grad,
}


def numbers(hf, processor) -> dict[str, np.ndarray]:
    """A number of everything that computes, of a model that is loaded here."""
    model = HookedBLIP.from_hf(hf, processor)
    pairs = made_up_pairs("vqa", 2)
    image, question = pairs[0].clean_image, pairs[0].clean_prompt
    inputs = model.prepare(image, question)
    lens = model.lens("text.cross_attn", inputs)
    quiet = {"progress": False}
    tensors = {
        "logits": model(inputs),
        "cache": model.run_with_cache(inputs)[1]["text.blocks.0.attn.hook_pattern"],
        "lens": lens.run_with_cache(lens.tokens)[1]["pattern", 1],
        "direction": model.lens("vision.attn", inputs).tokens_to_residual_directions("red"),
        "ranks": model.rank_answers(image, question, ["red", "green dog"]),
    }
    effects = {
        "sweep": patching.sweep(model, pairs, "text.cross_attn", **quiet).logit_diff_change,
        "noise": patching.sweep(
            model, pairs, "text.cross_attn", corruption=Noise(samples=1), **quiet
        ).logit_diff_change,
        "attribute": patching.attribute(model, pairs, "vision.attn", **quiet)["vision.attn.z"].logit_diff_change,
        "ablate": patching.ablate(model, pairs, "text.cross_attn", **quiet).logit_diff_change,
        "maps": attention_maps(model, pairs, **quiet).weight,
        "minimality": minimality(model, pairs, **quiet).distance,
    }
    assert model.check(progress=False).passed
    said = model.generate(image, question, max_new_tokens=3)
    return (
        {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        | {name: np.asarray(effect.values) for name, effect in effects.items()}
        | {"generate": np.array(said)}
    )


@pytest.fixture(scope="module")
def pair():
    return make_small_pair(dtype=torch.float32)


@pytest.fixture(scope="module")
def expected(pair):
    return numbers(pair.hf, pair.model.processor)


LIKE_OTHERS = ("default dtype float64", "default device", "no gradients")


@pytest.mark.parametrize(
    "mode", [pytest.param(mode, marks=[pytest.mark.large] if mode in LIKE_OTHERS else []) for mode in MODES]
)
def test_a_mode_changes_no_number(pair, expected, mode):
    with MODES[mode]():
        found = numbers(pair.hf, pair.model.processor)
    for name, values in expected.items():
        assert found[name].dtype == values.dtype, name
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_a_model_loaded_in_inference_mode_can_be_differentiated(pair, expected):
    with torch.inference_mode():
        model = HookedBLIP.from_hf(pair.hf, pair.model.processor, dtype=torch.float64)
        model = HookedBLIP.from_hf(pair.hf, pair.model.processor)
    found = patching.attribute(model, made_up_pairs("vqa", 2), "vision.attn", progress=False)["vision.attn.z"]
    np.testing.assert_array_equal(found.logit_diff_change.values, expected["attribute"])


def test_the_callers_own_mode_holds_inside_a_hooks_block(pair):
    inputs = pair.inputs()
    with torch.autocast("cpu", torch.bfloat16), pair.model.hooks():
        assert pair.model(inputs).dtype == torch.float32
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_a_model_whose_numbers_run_over_is_said_before_the_work(pair):
    """Finite weights whose activations are not: found on the first unpatched run."""
    model = HookedBLIP.from_hf(pair.hf, pair.model.processor)
    with torch.no_grad():
        model.head.unembed.weight.mul_(1e38)
    for verb in (patching.sweep, patching.attribute, patching.ablate):
        with pytest.raises(ValueError, match="unpatched run gives logits that are NaN or infinite in torch.float32"):
            verb(model, made_up_pairs("vqa"), "text.cross_attn", progress=False)
    model.head.unembed.bias.data[3] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        patching.sweep(model, made_up_pairs("vqa"), "text.cross_attn", progress=False)
