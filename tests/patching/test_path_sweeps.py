"""`patch_paths`: the shape of its result, its controls, its store, and what it refuses."""

import re

import numpy as np
import pytest
import torch
import xarray as xr

from notice_lens import HookedBLIP
from notice_lens.pairs import MinimalPairs, mini_world
from notice_lens.patching import Site, patch_heads, patch_paths, run_variants
from notice_lens.patching.grid import Edit
from notice_lens.patching.store.format import read
from pair_rows import make_row, picture

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def model() -> HookedBLIP:
    return HookedBLIP.mini(dtype=torch.float64)


@pytest.fixture(scope="module")
def pairs() -> MinimalPairs:
    return mini_world("states", 3)


def test_the_last_heads_reach_the_output_by_the_mlp_alone(model, pairs):
    """With nothing between but a live MLP, the path from a head of the last layer is the whole of its effect."""
    last = model.text.cfg.n_layers - 1
    found = patch_paths(model, pairs, sender_layers=last, freeze_mlp=False, **QUIET)
    whole = patch_heads(model, pairs, layers=last, **QUIET)
    assert found.logit_diff_change.dims == ("pair", "sender_layer", "sender_head", "role")
    renamed = whole.rename(layer="sender_layer", head="sender_head")
    for name in ("logit_diff_change", "logit_diff_change_mismatched", "patching_effect", "kl", "answer_prob"):
        xr.testing.assert_allclose(found[name], renamed[name], rtol=0, atol=1e-9)
    assert found.noise_floor.max() < 1e-12
    assert abs(found.logit_diff_change).max() > 1e-3
    frozen = patch_paths(model, pairs, sender_layers=last, **QUIET)
    assert abs(frozen.logit_diff_change - found.logit_diff_change).max() > 1e-4


def test_embedding_alone_is_the_whole_path_of_a_text_corruption(model, pairs):
    """All senders into the output hand on the other run's states: the answer of the other run."""
    senders = ["text.embed", "text.attn", "text.cross_attn", "text.mlp_out"]
    found = patch_paths(model, pairs, senders, joint=True, positions="all", corruption="text", **QUIET)
    assert found.logit_diff_change.dims == ("pair",)
    np.testing.assert_allclose(found.patching_effect, 1, atol=1e-9)


def test_a_path_ends_at_what_comes_later_and_elsewhere_there_is_none(model, pairs):
    found = patch_paths(
        model, pairs, "text.cross_attn", "text.attn.k", sender_heads=[0, 1], receiver_heads=[2], **QUIET
    )
    assert found.logit_diff_change.dims == (
        "pair", "sender_layer", "sender_head", "role", "receiver_layer", "receiver_head",
    )  # fmt: skip
    there = found.logit_diff_change.sel(role="[CLS]").notnull().all(["pair", "sender_head", "receiver_head"])
    layers = np.arange(model.text.cfg.n_layers)
    assert (there.values == (layers[:, None] < layers[None, :])).all()


def test_roles_that_a_pair_lacks_and_donors_it_lacks_are_missing(model):
    lacking = make_row(0, donor_image=None, roles={})
    rows = [lacking, *(make_row(number, donor_image=picture(90 + number)) for number in (1, 2))]
    found = patch_paths(model, MinimalPairs.from_rows(rows), sender_layers=0, sender_heads=[0], **QUIET)
    first = found.isel(pair=0, sender_layer=0, sender_head=0)
    assert first.logit_diff_change.sel(role="correct").isnull()
    assert first.logit_diff_change.sel(role="?").notnull()
    assert first.logit_diff_change_mismatched.isnull().all()
    assert found.attrs["pairs_without_donor"] == 1


def test_vision_heads_reach_keys_across_the_stacks(model, pairs):
    """The last vision heads, jointly with what is frozen: the key's path is the edit of that key by hand."""
    found = patch_paths(
        model, pairs, "vision.attn", "text.cross_attn.v", sender_layers=0, sender_heads=[0], receiver_layers=[0, 2],
        **QUIET,
    )  # fmt: skip
    assert dict(found.sizes) == {
        "pair": 3,
        "sender_layer": 1,
        "sender_head": 1,
        "receiver_layer": 2,
        "receiver_head": 8,
    }
    assert (abs(found.logit_diff_change) > found.noise_floor).any("receiver_head").all()
    everything = patch_paths(
        model, pairs, ["vision.embed", "vision.attn", "vision.mlp_out"], "text.cross_attn.v", joint=True,
        receiver_layers=1, receiver_heads=[3], **QUIET,
    )  # fmt: skip
    by_hand = run_variants(model, pairs, {"v": Edit("text.cross_attn.v", 1, 3)}, **QUIET)
    np.testing.assert_allclose(
        everything.logit_diff_change.values.ravel(), by_hand.logit_diff_change.values.ravel(), atol=1e-10
    )


def test_logits_are_what_the_senders_stack_hands_on(model, pairs):
    for sender in ("text.mlp_out", "vision.mlp_out"):
        last = model.stack(sender.partition(".")[0]).cfg.n_layers - 1
        some = {"sender_layers": [last], **QUIET}
        one, other = (patch_paths(model, pairs, sender, end, **some) for end in ("logits", sender[:-7] + "output"))
        xr.testing.assert_identical(one.logit_diff_change, other.logit_diff_change)
        assert abs(one.logit_diff_change).max() > 1e-4


def test_chunks_and_stores_change_nothing(model, pairs, tmp_path):
    asked = {"sender_layers": [0, 1], "sender_heads": [0, 3], **QUIET}
    once = patch_paths(model, pairs, **asked)
    chunked = patch_paths(model, pairs, memory=1, store=tmp_path / "paths", **asked)
    xr.testing.assert_allclose(once.drop_attrs(), chunked.drop_attrs(), rtol=0, atol=1e-12)
    again = patch_paths(model, pairs, memory=1, store=tmp_path / "paths", **asked)
    xr.testing.assert_identical(again, chunked)
    xr.testing.assert_identical(read(tmp_path / "paths").logit_diff_change, chunked.logit_diff_change)
    with pytest.raises(ValueError, match="freeze_mlp"):
        patch_paths(model, pairs, memory=1, store=tmp_path / "paths", freeze_mlp=False, **asked)


REFUSED = [
    ({"sender": "text.cross_atn"}, "no activation of `text` 'cross_atn'; did you mean 'cross_attn'"),
    ({"sender": "text.attn.q"}, "no sender 'text.attn.hook_q'; did you mean 'text.attn.z'"),
    ({"sender": ["text.attn", "vision.attn"]}, "senders of one call are in one stack; got text, vision"),
    ({"receiver": "text.outptu"}, "receiver 'text.outptu': site 'text.outptu': no activation of `text` 'outptu'"),
    ({"receiver": "text.attn.z"}, "no receiver 'text.attn.hook_z'; did you mean 'text.attn."),
    ({"receiver": "text.output", "receiver_layers": 3}, "text.output has no layers and heads to choose"),
    ({"receiver": "vision.output"}, "no path from text to vision.output: `vision` comes before `text`"),
    ({"receiver": "text.cross_attn.k"}, "no path from text to text.cross_attn.hook_k: these read `vision` alone"),
    (
        {"sender": "vision.attn", "receiver": "text.output"},
        "no path from vision to text.output: it would go through the cross-attention of `text`, which is frozen or "
        "not named; receivers of `vision` are vision.output and the keys and values of text.cross_attn",
    ),
    ({"sender": "vision.attn", "receiver": "decoder.cross_attn.k"}, "no path from vision to decoder.cross_attn.hook_k"),
    (
        {"sender_layers": 2, "receiver": "text.attn.q", "receiver_layers": 1},
        "no path from text.blocks.2.cross_attn.hook_z to text.blocks.1.attn.hook_q: a receiver comes after its sender",
    ),
    (
        {"sender_layers": 2, "receiver": "text.cross_attn.q", "receiver_layers": 2},
        "and in another module; the order in a block is self-attention, cross-attention, MLP",
    ),
    ({"sender": "text.embed", "sender_layers": 0}, "layers 0 asked for; text.hook_embed is before the first layer"),
    ({"source": "zero"}, "source='zero': senders take their values from the other run, source='other'"),
]


@pytest.mark.parametrize(("asked", "says"), REFUSED)
def test_what_it_refuses(model, pairs, asked, says, unchecked):
    with pytest.raises(ValueError, match=re.escape(says)):
        patch_paths(model, pairs, **asked, **QUIET)


def test_senders_that_go_together_are_at_the_same_positions(model, pairs):
    senders = [Site.of(model, "text.attn", positions="all"), Site.of(model, "text.mlp_out", positions="roles")]
    with pytest.raises(ValueError, match="senders that are patched together must have the same positions"):
        patch_paths(model, pairs, senders, joint=True, **QUIET)
