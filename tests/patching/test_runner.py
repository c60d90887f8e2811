"""Memory: what a sweep plans for, and what it does when the plan was wrong."""

import logging

import numpy as np
import pytest
import torch

from notice_lens.pairs import mini_world
from notice_lens.patching import attribute, patch_heads
from notice_lens.patching.engine import pair_batch
from notice_lens.patching.engine.memory import bytes_per_pair, numbers_at
from notice_lens.patching.engine.runs import trace

QUIET = {"progress": False, "controls": ()}


@pytest.fixture(scope="module")
def pairs():
    return mini_world("states", 5, seed=3)


@pytest.fixture
def scarce(monkeypatch):
    """No more than two pairs can be recorded at a time."""
    recorded = pair_batch.Batch.runs

    def runs(batch, *others):
        if len(batch.pairs) > 2:
            raise torch.OutOfMemoryError("of the test")
        return recorded(batch, *others)

    monkeypatch.setattr(pair_batch.Batch, "runs", runs)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)


def test_recording_that_runs_out_of_memory_goes_on_with_half_the_pairs(mini, pairs, scarce, caplog):
    with caplog.at_level(logging.WARNING, "notice_lens.patching"):
        halved = patch_heads(mini, pairs, layers=2, **QUIET)
    assert "out of memory with 5 pairs at a time" in caplog.text
    alone = [patch_heads(mini, pairs[[number]], layers=2, **QUIET).logit_diff_change for number in range(len(pairs))]
    expected = np.concatenate([one.reindex(role=halved.role).values for one in alone])
    np.testing.assert_allclose(halved.logit_diff_change, expected, atol=2e-5)


def test_so_does_attribution(mini, pairs, scarce):
    halved = attribute(mini, pairs, "text.cross_attn", progress=False)["text.cross_attn"].logit_diff_change
    alone = [
        attribute(mini, pairs[[number]], "text.cross_attn", progress=False)["text.cross_attn"].logit_diff_change
        for number in range(len(pairs))
    ]
    expected = np.concatenate([one.reindex(role=halved.role).values for one in alone])
    np.testing.assert_allclose(halved, expected, atol=2e-5)


def test_one_pair_that_does_not_fit_is_an_error(mini, pairs, monkeypatch):
    def runs(*_):
        raise torch.OutOfMemoryError("of the test")

    monkeypatch.setattr(pair_batch.Batch, "runs", runs)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    with pytest.raises(torch.OutOfMemoryError, match="of the test"):
        patch_heads(mini, pairs, layers=2, **QUIET)


def test_the_plan_counts_recorded_runs(mini, pairs):
    one = patch_heads(mini, pairs, "vision.attn.result", positions="all", layers=0, heads=0, memory=10**9, **QUIET)
    lengths = {"vision": mini.vision.cfg.n_ctx, "text": 9, "decoder": 1}
    pair = bytes_per_pair(mini, lengths, ["vision.blocks.0.attn.hook_result"], 2)
    few = patch_heads(mini, pairs, "vision.attn.result", positions="all", layers=0, heads=0, memory=3.5 * pair, **QUIET)
    assert one.attrs["pairs_at_a_time"] > 3
    assert few.attrs["pairs_at_a_time"] <= 3
    np.testing.assert_allclose(few.logit_diff_change, one.logit_diff_change, atol=2e-5)


@pytest.mark.parametrize(
    "leaf", ["attn.hook_q", "cross_attn.hook_k", "hook_resid_pre", "mlp.hook_post", "cross_attn.hook_pattern"]
)
def test_numbers_of_a_hook_point_are_those_that_pass_it(mini, pairs, leaf):
    part = pairs[[0]]
    hook, lengths = f"text.blocks.1.{leaf}", mini.layout_of(part["clean_prompt"])
    with torch.no_grad():
        found = trace(mini, part.prepare(mini), [hook]).activations[hook]
    counted = numbers_at(mini, {stack: lengths.longest(stack) for stack in mini.cfg.stacks}, hook)
    assert counted == found.numel()
