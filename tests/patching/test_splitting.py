"""A head taken apart: both parts are the patch of z, each part is what hooks on pattern and values give."""

import doctest

import numpy as np
import pytest
import torch
import xarray as xr

from conftest import make_pair
from made_up import made_up_pairs
from notice_lens import HookedBLIP
from notice_lens.pairs import MinimalPairs, mini_world
from notice_lens.patching import Site, aggregate, patch_heads, pattern_vs_values, split
from planted import light_and_dark, planted

QUIET = {"progress": False}
DIRECTIONS = pytest.mark.parametrize("direction", ["denoise", "noise"])


@pytest.fixture(scope="module")
def mini64() -> HookedBLIP:
    return HookedBLIP.mini(dtype=torch.float64)


@pytest.fixture(scope="module")
def states() -> MinimalPairs:
    return mini_world("states", 2, seed=1)


CASES = [
    ("text.cross_attn", "each", "image"), ("text.attn", "each", "text"), ("text.attn", "roles", "image"),
    ("vision.attn", "regions", "image"), ("decoder.cross_attn", "all", "text"), ("text.cross_attn", "all", "text"),
]  # fmt: skip


@DIRECTIONS
@pytest.mark.parametrize(("site", "positions", "corruption"), CASES, ids=lambda case: str(case))
def test_both_parts_are_the_patch_of_z(mini64, states, site, positions, corruption, direction):
    options = {"corruption": corruption, "direction": direction, "layers": [0, 2], "positions": positions, **QUIET}
    parts = split(mini64, states, site, **options)
    whole = patch_heads(mini64, states, site, **options)
    for name in ("logit_diff_change", "prob_change", "patching_effect"):
        np.testing.assert_allclose(parts[name].sel(part="both"), whole[name], atol=1e-9)
        found = parts[name]
        rest = found.sel(part="both") - found.sel(part="pattern") - found.sel(part="values")
        np.testing.assert_allclose(found.sel(part="interaction"), rest, atol=1e-12)
    assert parts.logit_diff_change.dims[:2] == ("pair", "part")
    assert parts["part"].values.tolist() == ["pattern", "values", "both", "interaction"]
    np.testing.assert_allclose(aggregate(parts).sel(part="both"), aggregate(whole), atol=1e-9)


def recorded(model, pair, hooks, image, prompt):
    inputs = model.prepare(getattr(pair, f"{image}_image"), getattr(pair, f"{prompt}_prompt"))
    return inputs, model.run_with_cache(inputs, names_filter=list(hooks))[1]


@torch.no_grad()
def by_hooks(model, pair, module, head, where, corruption):
    """Changes of the logit difference by hooks on the pattern and on the values; denoising.

    Args:
        where: The query position that looks elsewhere or reads something else; None for all.
    """
    pattern, v = f"{module}.hook_pattern", f"{module}.hook_v"
    corrupt = ("corrupt", "clean") if corruption == "image" else ("clean", "corrupt")
    _, clean = recorded(model, pair, (pattern, v), "clean", "clean")
    inputs, base = recorded(model, pair, (pattern, v), *corrupt)
    rows = slice(None) if where is None else slice(where, where + 1)

    def look(value, hook):
        value[0, head, rows] = clean[pattern][0, head, rows]
        return value

    def read(value, hook):
        """All of the values where all positions read them; z of one position from them otherwise."""
        if hook.name.endswith("hook_v"):
            value[0, :, head] = clean[v][0, :, head]
        else:
            value[0, where, head] = base[pattern][0, head, where] @ clean[v][0, :, head]
        return value

    correct, incorrect = model.tokenizer.convert_tokens_to_ids([pair.correct_answer, pair.incorrect_answer])

    def said(hooks):
        logits = model.run_with_hooks(inputs, fwd_hooks=hooks)[0, -1]
        return (logits[correct] - logits[incorrect]).item()

    reading = v if where is None else f"{module}.hook_z"
    return [said(hooks) - said([]) for hooks in ([(pattern, look)], [(reading, read)])]


@pytest.mark.parametrize("where", [None, 3], ids=["all positions", "one position"])
@pytest.mark.parametrize(
    ("site", "corruption"),
    [("text.cross_attn", "image"), ("text.attn", "image"), ("vision.attn", "image"), ("text.attn", "text")],
)
def test_each_part_is_what_hooks_give(mini64, states, site, corruption, where):
    positions = "all" if where is None else [where]
    found = split(
        mini64, states, site, layers=1, positions=positions, corruption=corruption, contrast="incorrect", **QUIET
    )
    change = found.logit_diff_change.squeeze(drop=True)
    stack, _, module = site.partition(".")
    largest = 0
    for number, pair in enumerate(states):
        for head in (0, 5):
            expected = by_hooks(mini64, pair, f"{stack}.blocks.1.{module}", head, where, corruption)
            ours = change.sel(head=head, part=["pattern", "values"])[number]
            np.testing.assert_allclose(ours, expected, atol=1e-9)
            largest = max(largest, np.abs(expected).min())
    assert largest > 1e-7


@pytest.mark.parametrize("kind", ["vqa", "caption", "match"])
def test_other_models_and_answers_of_several_tokens(kind):
    model, pairs = make_pair(kind, torch.float64).model, made_up_pairs(kind)
    for site in ("decoder.attn", "decoder.cross_attn") if kind != "match" else ("text.attn", "text.cross_attn"):
        options = {"positions": "all", "corruption": "text", "direction": "noise", **QUIET}
        parts, whole = split(model, pairs, site, **options), patch_heads(model, pairs, site, **options)
        np.testing.assert_allclose(parts.logit_diff_change.sel(part="both"), whole.logit_diff_change, atol=1e-9)
        size = abs(parts.logit_diff_change).max([dim for dim in parts.logit_diff_change.dims if dim != "part"])
        assert size.sel(part="both") > 1e-6
        # What the last stack reads of an image is the same, whatever the words are: all of the effect is in looking.
        of_image = site.endswith("cross_attn") and kind != "vqa"
        assert (size.sel(part="values") < 1e-12) == of_image
        assert (size.sel(part="interaction") < 1e-12) == of_image


@DIRECTIONS
def test_a_planted_head_reads_and_does_not_look(direction):
    """It looks at all of the image alike, light or dark: all of its effect is in what it reads there."""
    parts = split(planted({(0, 1): 0}, {0: 1.0}), light_and_dark(), positions="all", direction=direction, **QUIET)
    expected = np.zeros((3, 4, 2, 3))
    expected[:, [1, 2], 0, 1] = 1
    np.testing.assert_allclose(parts.patching_effect, expected, atol=1e-9)


def test_one_head_by_name_and_below_floor(mini, states):
    one = split(mini, states, "text.cross_attn.L1.H3", **QUIET)
    same = split(mini, states, "text.cross_attn", layers=1, heads=3, **QUIET)
    site = Site.of(mini, "text.cross_attn", layers=1, heads=3)
    xr.testing.assert_identical(one, same)
    xr.testing.assert_identical(one, split(mini, states, site, **QUIET))
    assert one.logit_diff_change.sizes["part"] == 4
    np.testing.assert_array_equal(one.below_floor, abs(one.logit_diff_change) <= one.noise_floor)
    assert "below_floor" not in split(mini, states, "text.cross_attn.L1.H3", controls=(), **QUIET)


def test_a_store_is_gone_on_with(mini, states, tmp_path, batches):
    options = {"layers": 1, "store": tmp_path / "s", **QUIET}
    first = split(mini, states, "text.attn", **options)
    batches.refuse()
    xr.testing.assert_identical(split(mini, states, "text.attn", **options), first)
    with pytest.raises(ValueError, match="direction"):
        split(mini, states, "text.attn", direction="noise", **options)


def test_the_example_runs():
    found = doctest.testmod(pattern_vs_values)
    assert found.failed == 0
    assert found.attempted > 5


MESSAGES = [
    ("text.mlp_out", {}, ValueError, "text.hook_mlp_out cannot be split: pattern times values is a head's z"),
    ("text.cross_attn.v", {}, ValueError, "text.cross_attn.hook_v cannot be split: pattern times values is a head's z"),
    ("text.mlp.L1", {}, ValueError, "'text.mlp.L1' is not a head; only heads have a pattern and values"),
    ("text.attn.L1.H3", {"layers": 1}, ValueError, "'text.attn.L1.H3' is one head already; layers and heads go with"),
    ("text.attn.L1.H8", {}, ValueError, "node 'text.attn.L1.H8': head 8 asked for; text.attn has heads 0 to 7"),
    ("text.atn", {}, ValueError, "site 'text.atn': no activation of `text` 'atn'; did you mean 'attn'?"),
    ("text.attn", {"source": "zero"}, TypeError, "source is not an option of a split: the parts of a head come from"),
    ("text.attn", {"metrics": "kl"}, TypeError, "metrics is not an option of a split: an interaction is a difference"),
    ("text.attn", {"controls": ("self", "mismatched")}, ValueError, "a split has the control 'self'"),
    ("text.attn", {"directoin": "noise"}, TypeError, "no option 'directoin'; did you mean 'direction'?"),
]


@pytest.mark.parametrize(("site", "options", "kind", "message"), MESSAGES, ids=[case[3][:40] for case in MESSAGES])
def test_messages(mini, states, site, options, kind, message, unchecked):
    with pytest.raises(kind) as caught:
        split(mini, states, site, **QUIET, **options)
    assert str(caught.value).startswith(message)
