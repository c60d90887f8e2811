"""Planted circuits (see `planted`) do what their construction says, in both directions."""

import numpy as np
import pytest
import torch

from conftest import make_small_pair
from notice_lens.patching import Edit, patch_heads, patch_modules, run_variants
from planted import READ, Gate, light_and_dark, planted

EXACT = 1e-9
DIRECTIONS = pytest.mark.parametrize("direction", ["denoise", "noise"])


def by_head(model, direction, pairs=None, **options):
    """The effect of each head at all positions, and the whole result."""
    pairs = light_and_dark() if pairs is None else pairs
    effects = patch_heads(model, pairs, positions="all", direction=direction, progress=False, **options)
    assert effects.attrs["pairs_below_min_gap"] == 0
    return effects.patching_effect, effects


def check(effect, expected):
    """These heads have these effects, in every pair; all others none."""
    everywhere = np.zeros(effect.shape[1:])
    for head, value in expected.items():
        everywhere[head] = value
    np.testing.assert_allclose(effect, np.broadcast_to(everywhere, effect.shape), atol=EXACT)


def head_edit(layer, head, **edit):
    return Edit("text.cross_attn.z", layer=layer, head=head, **edit)


# One live head


@DIRECTIONS
@pytest.mark.parametrize("live", [(0, 2), (1, 0)], ids=str)
def test_the_one_live_head_carries_everything_in_a_random_model(live, direction):
    """Weights are random, but one cross-attention head is the only one that writes: the answer's only way."""
    model = make_small_pair().model
    with torch.no_grad():
        for layer, block in enumerate(model.text.blocks):
            for head in range(block.cross_attn.n_heads):
                if (layer, head) != live:
                    block.cross_attn.output.weight[:, head * 32 : (head + 1) * 32] = 0
    effect, effects = by_head(model, direction)
    check(effect, {live: 1})
    dead = np.ones(effect.shape[1:], bool)
    dead[live] = False
    gap = abs(effects.logit_diff_clean - effects.logit_diff_corrupt).values
    assert (abs(effects.logit_diff_change.values[:, dead]) <= 1e-12 * gap[:, None]).all()
    assert (effects.noise_floor.values <= 1e-12 * gap).all()


@DIRECTIONS
def test_a_planted_head_carries_everything(direction):
    model = planted({(0, 1): 0}, {0: 1.0})
    effect, effects = by_head(model, direction)
    check(effect, {(0, 1): 1})
    np.testing.assert_allclose(effects.logit_diff_clean, -effects.logit_diff_corrupt, rtol=EXACT)
    assert (effects.logit_diff_clean > 1).all()
    check(by_head(model, direction, site="decoder.cross_attn")[0], {(0, 0): 1})
    check(by_head(model, direction, site="text.attn")[0], {})


@DIRECTIONS
def test_a_donor_restores_what_it_has_in_common(direction):
    """The head carries light and dark alone: a donor of the same kind does what the other run does."""
    model = planted({(0, 1): 0}, {0: 1.0})
    for light_donor in (True, False):
        _, effects = by_head(model, direction, light_and_dark(light_donor))
        same = light_donor == (direction == "denoise")
        check(effects.patching_effect_mismatched, {(0, 1): 1} if same else {})


@DIRECTIONS
def test_only_the_position_that_is_read_matters(direction):
    model = planted({(0, 1): 0}, {0: 1.0})
    pairs = light_and_dark()
    effects = patch_heads(model, pairs, positions="each", direction=direction, progress=False)
    effect = effects.patching_effect
    assert effect.isnull().any(), "questions of unequal length"
    expected = np.zeros(effect.shape[1:])
    expected[0, 1, READ] = 1
    expected = np.where(effect.isnull(), np.nan, expected)
    np.testing.assert_allclose(effect, expected, atol=EXACT)


# A distractor


@DIRECTIONS
def test_a_head_that_writes_where_nobody_reads_does_nothing(direction):
    """The distractor's activation changes as much as the live head's; its channel is read by no weight behind it."""
    distractor, live = (0, 0), (1, 2)
    model, pairs = planted({distractor: 1, live: 0}, {0: 1.0}), light_and_dark()
    effect, effects = by_head(model, direction, pairs)
    check(effect, {live: 1})
    gap = abs(effects.logit_diff_clean - effects.logit_diff_corrupt).values
    floor = np.maximum(effects.noise_floor.values, 1e-12 * gap)
    assert (abs(effects.logit_diff_change[:, *distractor].values) <= floor).all()
    clean, corrupt = (
        model.run_with_cache(pairs.prepare(model, image=image))[1]["text.blocks.0.cross_attn.hook_z"]
        for image in ("clean", "corrupt")
    )
    assert (clean - corrupt)[:, :, 0].abs().min() > 1
    # With the same weights it matters as soon as somebody reads it.
    read = planted({distractor: 1, live: 0}, {0: 1.0, 1: 1.0})
    check(by_head(read, direction, pairs)[0], {live: 0.5, distractor: 0.5})


# Pairs of heads


@DIRECTIONS
@pytest.mark.parametrize("either", [False, True], ids=["and", "or"])
@pytest.mark.parametrize("pair", [((1, 0), (1, 2)), ((0, 1), (1, 1))], ids=["one layer", "two layers"])
def test_an_and_pair_and_an_or_pair(pair, either, direction):
    """AND: each alone restores nothing and destroys all. OR: each alone restores all and destroys nothing."""
    one, two = pair
    model = planted({one: 0, two: 1}, {2: 1.0}, [Gate(2, (0, 1), either)])
    alone = float(either == (direction == "denoise"))
    effect, effects = by_head(model, direction)
    check(effect, {one: alone, two: alone})
    variants = {
        "one": head_edit(*one), "two": head_edit(*two), "both": [head_edit(*one), head_edit(*two)],
        "others": [head_edit(0, 0), head_edit(0, 2)],
    }  # fmt: skip
    joint = run_variants(model, light_and_dark(), variants, direction=direction, progress=False)
    np.testing.assert_allclose(joint.patching_effect, np.tile([alone, alone, 1.0, 0.0], (3, 1)), atol=EXACT)
    np.testing.assert_allclose(joint.logit_diff_clean, effects.logit_diff_clean)


@DIRECTIONS
def test_the_gate_itself_carries_everything(direction):
    model = planted({(1, 0): 0, (1, 2): 1}, {2: 1.0}, [Gate(2, (0, 1))])
    effects = patch_modules(model, light_and_dark(), positions="all", direction=direction, progress=False)
    expected = {"text.hook_mlp_out": [0, 1], "text.hook_cross_attn_out": [0, 1], "text.hook_attn_out": [0, 0]}
    expected["text.hook_normalized_resid_post"] = [0, 1]
    for site, by_layer in expected.items():
        found = effects.patching_effect.sel(site=site)
        np.testing.assert_allclose(found, np.tile(by_layer, (3, 1)), atol=EXACT, err_msg=site)


# A negative head


@DIRECTIONS
def test_a_negative_head_keeps_its_sign(direction):
    """The logit difference is 2 a - b with a = b = 1 clean and -1 corrupted: a alone moves 4 of the gap of 2, b -2."""
    model = planted({(0, 0): 0, (1, 1): 1}, {0: 2.0, 1: -1.0})
    effect, effects = by_head(model, direction)
    check(effect, {(0, 0): 2, (1, 1): -1})
    forward = 1 if direction == "denoise" else -1
    assert (forward * effects.logit_diff_change[:, 1, 1] < 0).all()
    both = run_variants(
        model, light_and_dark(), {"both": [head_edit(0, 0), head_edit(1, 1)]}, direction=direction, progress=False
    )
    np.testing.assert_allclose(both.patching_effect, 1.0, atol=EXACT)
    assert (forward * effects.prob_change[:, 1, 1] < 0).all()


# Ablation


def test_zeroing_a_planted_head_is_half_way():
    """Without the head the channel is 0, half way from +1 to -1; behind the read-out's GELU both answers are even."""
    model = planted({(0, 1): 0}, {0: 1.0})
    effects = patch_heads(model, light_and_dark(), positions="all", direction="noise", source="zero", progress=False)
    check(effects.patching_effect, {(0, 1): 0.5})
