"""A hosted model out of a TransformerBridge: the same weights, and nothing of the bridge in it."""

from typing import Any

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from notice_lens import HookedVLM, patching
from notice_lens.mini import llava_folder
from notice_lens.models.bridge import without_bridges
from notice_lens.pairs import MinimalPairs, mini_world

WATCHED = "language.blocks.2.attn.hook_pattern"


@pytest.fixture
def bridge() -> Any:
    return TransformerBridge.boot_transformers(str(llava_folder()), device="cpu")


@pytest.fixture(scope="module")
def llava() -> HookedVLM:
    return HookedVLM.mini()


@pytest.fixture(scope="module")
def two_pairs() -> MinimalPairs:
    return mini_world("states", 2, seed=0, world="pictures")


def logits_of(bridge: Any, inputs: Any) -> torch.Tensor:
    rest = {name: value for name, value in inputs.items() if name != "input_ids"}
    with torch.no_grad():
        return bridge(inputs["input_ids"], **rest)


@pytest.mark.parametrize("runs_first", ["bridge", "model"])
def test_it_has_the_bridges_weights_and_both_go_on_working(
    bridge: Any, llava: HookedVLM, two_pairs: MinimalPairs, runs_first: str
) -> None:
    """Transformers attaches hooks to modules when they first run; neither may get those of the other."""
    inputs = two_pairs.prepare(llava)
    if runs_first == "bridge":
        logits_of(bridge, inputs)
    model = HookedVLM.from_hf(bridge.original_model, bridge.processor)
    with torch.no_grad():
        expected, pattern = llava.run_with_cache(inputs, names_filter=lambda name: name == WATCHED)
        got, seen = model.run_with_cache(inputs, names_filter=lambda name: name == WATCHED)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(seen[WATCHED], pattern[WATCHED], rtol=0, atol=1e-5)
    torch.testing.assert_close(logits_of(bridge, inputs), expected, rtol=0, atol=1e-4)
    assert "bridge" not in str({type(module).__name__.lower() for module in model.hf_model.modules()})
    stored = {weight.data_ptr() for weight in bridge.original_model.parameters()}
    assert {weight.data_ptr() for weight in model.hf_model.parameters()} <= stored


def test_it_is_patched_as_ever(bridge: Any, llava: HookedVLM, two_pairs: MinimalPairs) -> None:
    model = HookedVLM.from_hf(bridge.original_model, bridge.processor)
    results = [
        patching.patch_heads(one, two_pairs, layers=[2, 4], controls=(), metrics="logit_diff_change", progress=False)
        for one in (model, llava)
    ]
    assert abs(results[0].logit_diff_change - results[1].logit_diff_change).max() < 1e-4


def test_a_verb_names_hooked_vlm(bridge: Any, two_pairs: MinimalPairs) -> None:
    with pytest.raises(TypeError, match=r"write HookedVLM.from_hf\(bridge.original_model, bridge.processor\)"):
        two_pairs.validate(bridge)


def test_a_model_without_a_bridge_is_the_very_same(llava: HookedVLM) -> None:
    assert without_bridges(llava.hf_model) is llava.hf_model
