"""A block is a list of steps: a step that is added to the list is there everywhere, with nothing else changed."""

import numpy as np
import pytest
import torch

from conftest import make_small_pair
from made_up import made_up_pairs
from notice_lens import HookedBLIP, patching
from notice_lens.models.blip import steps
from notice_lens.models.blip.steps import Apply, Stream

ADDED = (Apply("ln_gate"), Stream("hook_gate"))
"""A LayerNorm in the middle of a block, and a hook point behind it."""


@pytest.fixture
def widened(monkeypatch) -> HookedBLIP:
    """A model whose text blocks have one more step, between cross-attention and MLP."""
    plain = make_small_pair().model
    at = steps.POST_NORM.index(Apply("ln2")) + 1
    monkeypatch.setitem(steps.STEPS_BY_NORMALIZATION, "post", (*steps.POST_NORM[:at], *ADDED, *steps.POST_NORM[at:]))
    model = HookedBLIP(plain.cfg, plain.processor).to(torch.float64)
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert {name.rpartition("blocks.")[2][2:] for name in missing} == {"ln_gate.weight", "ln_gate.bias"}
    generator = torch.Generator().manual_seed(0)
    for name in missing:
        weight = model.get_parameter(name)
        weight.data = 1 + torch.randn(weight.shape, generator=generator, dtype=weight.dtype) / 3
    return model


def full_run(model: HookedBLIP, pair, hook: str, position: int, width: slice) -> float:
    """The change of the logit difference that one patch makes, by two runs of the whole model with hooks."""
    words = [pair.correct_answer, pair.incorrect_answer]
    right, wrong = (model.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words)
    clean, corrupt = (model.prepare(image, pair.clean_prompt) for image in (pair.clean_image, pair.corrupt_image))

    def patch(value, hook):
        value[:, position, width] = cache[hook.name][:, position, width]
        return value

    with torch.no_grad():
        _, cache = model.run_with_cache(clean)
        base = model(corrupt)[0, 0]
        patched = model.run_with_hooks(corrupt, fwd_hooks=[(hook, patch)])[0, 0]
    return float((patched - base)[right] - (patched - base)[wrong])


def test_a_step_that_is_added_is_in_the_table_of_hook_points(widened):
    table = widened.hooks_table().frame
    assert "text.blocks.L.hook_gate" in table.to_string()


def test_a_step_that_is_added_is_computed_hooked_swept_and_walked(widened):
    pairs = made_up_pairs("vqa", 1)
    pair = pairs[0]
    for site, width in (("text.gate", slice(None)), ("text.cross_attn_out", slice(None)), ("text.cross_attn", 1)):
        effects = patching.sweep(widened, pairs, patching.Site.of(widened, site, positions="each"), progress=False)
        change = effects["logit_diff_change"].values[0]
        for layer in range(2):
            hook = patching.Site.of(widened, site).hook(layer)
            for position in (0, 2):
                own = change[layer, 1, position] if width == 1 else change[layer, position]
                expected = full_run(widened, pair, hook, position, width)
                assert abs(expected) > 1e-9
                assert own == pytest.approx(expected, rel=1e-8)


def test_all_senders_of_a_path_give_the_other_runs_input_through_the_added_step(widened):
    pairs = made_up_pairs("vqa", 1)
    senders = ["text.embed", "text.pos_embed", "text.attn_out", "text.cross_attn_out", "text.mlp_out"]
    whole = patching.patch_paths(
        widened, pairs, senders, "text.output", positions="all", joint=True, progress=False, dtype="float64"
    )
    gap = whole["logit_diff_clean"] - whole["logit_diff_corrupt"]
    assert np.allclose(whole["logit_diff_change"].squeeze(), gap.squeeze(), rtol=1e-8)


def test_what_is_derived_from_the_steps_has_the_added_hook(widened):
    assert "hook_gate" in steps.order(widened.text.steps)
    assert {name for name in widened.hook_dict if name.endswith("hook_gate")} == {
        f"{stack}.blocks.{layer}.hook_gate" for stack in ("text", "decoder") for layer in range(2)
    }
    names = list(widened.hook_dict)
    at = names.index("text.blocks.0.hook_gate")
    assert names[at - 1] == "text.blocks.0.ln_gate.hook_normalized"


def test_every_hook_point_of_a_block_that_can_be_edited_is_in_its_order():
    model = make_small_pair().model
    for stack in model.cfg.stacks:
        points = [point for point in steps.order(model.stack(stack).steps) if not point.endswith((".inside", "output"))]
        hooks = {name.partition("blocks.0.")[2] for name in model.hook_dict if name.startswith(f"{stack}.blocks.0.")}
        computed = {hook for hook in hooks if not hook.endswith(("_input", "hook_scale", "hook_normalized"))}
        assert computed == set(points) - set(steps.EMBEDDING)
