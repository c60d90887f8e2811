"""Gaussian noise: the right size, in the right places, the same for a pair whatever its batch."""

import numpy as np
import pytest
import torch

from notice_lens.pairs import Noise, mini_world


@pytest.fixture(scope="module")
def pairs():
    return mini_world("states", 10)


@pytest.mark.parametrize("hook", ["vision.hook_embed", "text.hook_embed"])
def test_the_standard_deviation_of_the_data_set(mini, pairs, hook):
    inputs = pairs.prepare(mini)
    _, cache = mini.run_with_cache(inputs, names_filter=hook)
    values = cache[hook][:, 1:] if "vision" in hook else cache[hook][:, 1:-1]  # all questions are of one length
    noise = Noise(hook)
    assert noise.std(mini, pairs, batch_size=3) == pytest.approx(values.double().std(correction=0).item(), rel=1e-6)


@pytest.mark.parametrize("hook", ["vision.hook_embed", "text.hook_embed"])
def test_noise_goes_where_it_should_and_is_as_large_as_it_says(mini, pairs, hook):
    noise = Noise(hook, scale=2.0)
    inputs = pairs.prepare(mini)
    with mini.hooks(noise.hooks(mini, inputs, pairs["id"], 0.5, 0)):
        _, noisy = mini.run_with_cache(inputs, names_filter=hook)
    _, clean = mini.run_with_cache(inputs, names_filter=hook)
    added = noisy[hook] - clean[hook]
    special = added[:, [0]] if "vision" in hook else added[:, [0, -1]]
    assert special.abs().max() == 0
    others = added[:, 1:] if "vision" in hook else added[:, 1:-1]
    assert others.std().item() == pytest.approx(1.0, rel=0.05)
    assert others.mean().item() == pytest.approx(0.0, abs=0.02)


def test_noise_depends_on_seed_pair_and_sample_alone(mini, pairs):
    noise = Noise(seed=1)
    std = 0.3

    def logits(numbers, sample, noise=noise):
        part = pairs.select(numbers)
        inputs = part.prepare(mini)
        return mini.run_with_hooks(inputs, fwd_hooks=noise.hooks(mini, inputs, part["id"], std, sample))

    with torch.no_grad():
        together, alone = logits([4, 2, 7], 0)[1:2], logits([2], 0)
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
        assert (logits([2], 1) - alone).abs().max() > 0.1
        assert (logits([2], 0, Noise(seed=2)) - alone).abs().max() > 0.1
    np.testing.assert_array_equal(noise.draw("a", 0, (9, 5))[:4], noise.draw("a", 0, (4, 5)))


def test_wrong_noise(mini, caption, pairs):
    with pytest.raises(ValueError, match="no hook for noise 'vision.embed'; did you mean 'vision.hook_embed'"):
        Noise("vision.embed")
    with pytest.raises(ValueError, match=r"scale=0.0: expected standard deviations, above 0"):
        Noise(scale=0.0)
    with pytest.raises(ValueError, match=r"samples=0: expected a whole number, 1 or more"):
        Noise(samples=0)
    with pytest.raises(ValueError, match="kind 'vqa' takes noise at vision.hook_embed or text.hook_embed, not decoder"):
        Noise("decoder.hook_embed").std(mini, pairs)
    for ids in (["one"], "tenletters"):
        with pytest.raises(ValueError, match="10 pairs in the batch, and ids"):
            Noise().hooks(mini, pairs.prepare(mini), ids, 1.0, 0)
    Noise("decoder.hook_embed").at(caption.model)
    with pytest.raises(ValueError, match="takes noise at vision.hook_embed or decoder.hook_embed, not text.hook_embed"):
        Noise("text.hook_embed").at(caption.model)
