"""What is said where a verb does not run on a hosted model yet, or the pairs do not fit it."""

from typing import Any

import pytest

from hosted_pairs import made_pairs, single_tokens
from hosted_vlms import tiny_model
from notice_lens import HookedVLM, patching
from notice_lens.models.vlm import families
from notice_lens.patching.engine.causal.replay import Replay


def test_a_model_without_processor_says_how_to_give_one() -> None:
    model = HookedVLM.from_hf(tiny_model("llava").hf)
    pairs = made_pairs()
    with pytest.raises(ValueError, match=r"needs a processor.*from_hf\(model, processor\) takes one"):
        patching.patch_heads(model, pairs)


def test_a_model_of_transformers_says_what_hosts_it() -> None:
    hf = tiny_model("llava").hf
    with pytest.raises(TypeError, match=r"HookedVLM\.from_hf\(model, processor\) makes one"):
        patching.patch_heads(hf, made_pairs())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"site": "text.cross_attn"}, "no stack 'text'; valid: 'vision', 'projector', 'language'"),
        ({"site": "language.attn", "heads": 4}, "head 4 asked for; `language` has heads 0 to 3"),
        ({"positions": ["objekt"]}, "no role 'objekt'; did you mean 'object'"),
        ({"site": "language.mlp_out"}, "has no heads; patch_modules is for"),
    ],
)
def test_sites_heads_and_roles_that_are_not_there(asked: dict[str, Any], message: str) -> None:
    model = tiny_model("llava").model
    with pytest.raises(ValueError, match=message):
        patching.patch_heads(model, made_pairs(single_tokens(model)), progress=False, **asked)


def test_self_attention_and_cross_attention_have_their_own_layers() -> None:
    model = tiny_model("mllama").model
    pairs = made_pairs(single_tokens(model))
    cross = patching.patch_heads(model, pairs, "language.cross_attn", progress=False)
    own = patching.patch_heads(model, pairs, progress=False)
    assert sorted([*cross.layer.values, *own.layer.values]) == list(range(model.cfg.n_layers))
    layer = int(cross.layer[0])
    with pytest.raises(ValueError, match=f"layer {layer} asked for; `language` has layers "):
        patching.patch_heads(model, pairs, layers=layer, progress=False)


def test_a_family_that_is_not_tested_is_checked_before_the_first_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check passes for a model that is right; a wave that is wrong by one percent is refused, and named."""
    model = tiny_model("llava").model
    pairs = made_pairs(single_tokens(model))
    monkeypatch.setattr(families, "FAMILIES", {})
    patching.patch_heads(model, pairs, progress=False)
    block = Replay.block
    monkeypatch.setattr(Replay, "block", lambda *args: [out * 1.01 for out in block(*args)])
    with pytest.raises(ValueError, match=r"did not pass the self-check: \d of 4 patches differ from a full forward"):
        patching.patch_heads(model, pairs, progress=False)
