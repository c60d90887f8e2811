"""Preparing pairs: what is refused, and what is known afterwards."""

import pytest
import torch

from notice_lens.pairs import mini_world
from notice_lens.patching.input_checks import check_runnable
from notice_lens.patching.options import Options
from notice_lens.patching.prepare import prepare


def test_a_model_that_accelerate_dispatched_is_not_refused(mini):
    """accelerate keeps its hook beside the module and wraps `forward`; hooks of the caller are in torch's tables."""
    module = mini.text.blocks[0]
    try:
        module._hf_hook = object()
        check_runnable(mini)
        handle = module.register_forward_pre_hook(lambda *_: None)
        try:
            with pytest.raises(ValueError, match="there are hooks on the model, at text.blocks.0: "):
                check_runnable(mini)
        finally:
            handle.remove()
    finally:
        del module._hf_hook
    check_runnable(mini)


def test_lengths_are_those_of_the_longest_pair(mini):
    pairs = mini_world("states", 4, seed=1)
    prepared = prepare(mini, pairs, Options.of({}))
    inputs = pairs.prepare(mini)
    assert prepared.lengths == {"vision": mini.vision.cfg.n_ctx, "text": inputs.input_ids.shape[1], "decoder": 1}
    assert {stack: prepared.patchable(stack) for stack in prepared.lengths} == prepared.lengths
    assert [len(prepared.columns[name]) for name in prepared.columns] == [4] * len(prepared.columns)
    assert prepared.dtype == {torch.float32: "float32", torch.float64: "float64"}[mini.dtype]


def test_batches_are_of_one_length(mini):
    pairs = mini_world("scenes", 7, seed=1)
    prepared = prepare(mini, pairs, Options.of({}))
    batches = list(prepared.batches(2))
    assert sorted(number for batch in batches for number in batch) == list(range(7))
    assert all(len({prepared.positions.tokens[number] for number in batch}) == 1 for batch in batches)
    assert max(map(len, batches)) <= 2
