"""Attention knockouts by the public verb, against attention written out and against hooks on BLIP."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from attention_oracle import changed_attention
from causal.test_pairs import Oracle, made_pairs, single_tokens
from hosted_pairs import FAMILIES
from hosted_vlms import LIBRARY_WARNINGS, tiny_model
from notice_lens import HookedBLIP, patching
from notice_lens.pairs import mini_world

pytestmark = LIBRARY_WARNINGS
IN_ONE_ROW = [family for family in FAMILIES if family != "mllama"]
"""Families whose image and words stand in one row; Llama-3.2-Vision's words look at the image by cross-attention."""


@pytest.mark.parametrize(
    ("family", "window"),
    [*product(IN_ONE_ROW, [2]), *product(["llava", "qwen2_5_vl", "gemma3", "paligemma", "internvl"], [1, 9])],
)
def test_every_flow_equals_attention_written_out(family: str, window: int) -> None:
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))
    lost = patching.knockout(model, pairs, window=window, progress=False)
    n_layers, moved = model.cfg.n_layers, 0.0
    for number, pair in enumerate(pairs):
        oracle = Oracle(model, pair, "image")
        layout = model.layout(oracle.inputs["clean"], [pair.clean_prompt])
        last = layout.read_out[0]
        config, tokens = model.hf_model.config, oracle.inputs["clean"]["input_ids"][0]
        image_token = getattr(config, "image_token_id", None) or config.image_token_index
        ends = (tokens == image_token).nonzero()[[0, -1], 0].tolist()
        # Ends of lines and markers of tiles in between belong to it: what the image says goes on through them.
        groups = {"image": list(range(ends[0], ends[1] + 1)), "last": [last]}
        groups["question"] = layout.positions("language", 0, "prompt").tolist()
        before = oracle.logit_diff("clean", [], 0.0)
        for flow in ("image -> question", "image -> last", "question -> last", "last -> last"):
            looked_at, looks = (groups[name] for name in flow.split(" -> "))
            for middle in range(n_layers):
                cut = range(max(0, middle - window // 2), min(n_layers, middle + (window - 1) // 2 + 1))

                def change(layer: int, stage: str, tensor: Tensor, at: Any = (cut, looks, looked_at)) -> Tensor:
                    if layer in at[0] and stage == "scores":
                        tensor = tensor.clone()
                        tensor[:, torch.tensor(at[1])[:, None], torch.tensor(at[2])] = -torch.inf
                    return tensor

                with changed_attention(model.hf_model, change):
                    expected = oracle.logit_diff("clean", [], 0.0) - before
                found = float(lost.logit_diff_change.isel(pair=number).sel(flow=flow, layer=middle))
                assert found == pytest.approx(expected, abs=1e-9)
                moved = max(moved, abs(expected))
    assert moved > 1e-4, "cuts that move nothing prove nothing"


def test_words_that_read_the_image_by_cross_attention_are_cut_off_from_each_other() -> None:
    model = tiny_model("mllama").model
    pairs = made_pairs(single_tokens(model))[:1]
    lost = patching.knockout(model, pairs, "question -> last", site="language.attn", window=1, progress=False)
    oracle, moved = Oracle(model, pairs[0], "image"), 0.0
    words = model.layout(oracle.inputs["clean"], [pairs[0].clean_prompt]).positions("language", 0, "prompt").tolist()
    before = oracle.logit_diff("clean", [], 0.0)
    assert lost.layer.values.tolist() == tiny_model("mllama").layers()
    for layer in lost.layer.values.tolist():

        def change(at: int, stage: str, tensor: Tensor, asked: int = layer) -> Tensor:
            if at == asked and stage == "scores":
                tensor = tensor.clone()
                tensor[:, -1, words] = -torch.inf
            return tensor

        with changed_attention(model.hf_model, change):
            expected = oracle.logit_diff("clean", [], 0.0) - before
        assert lost.logit_diff_change.sel(layer=layer).item() == pytest.approx(expected, abs=1e-9)
        moved = max(moved, abs(expected))
    assert moved > 1e-4


def test_single_heads_are_cut_by_themselves() -> None:
    model = tiny_model("llava").model
    pairs = made_pairs(single_tokens(model))[:1]
    lost = patching.knockout(model, pairs, "image -> last", window=1, heads="each", progress=False)
    assert lost.logit_diff_change.dims == ("pair", "flow", "layer", "head")
    oracle = Oracle(model, pairs[0], "image")
    image = model.layout(oracle.inputs["clean"]).positions("language", 0, "image").tolist()
    before = oracle.logit_diff("clean", [], 0.0)
    for layer, head in ((0, 1), (1, 3), (2, 0)):

        def change(at: int, stage: str, tensor: Tensor, asked: tuple[int, int] = (layer, head)) -> Tensor:
            if at == asked[0] and stage == "scores":
                tensor = tensor.clone()
                tensor[asked[1], -1, image] = -torch.inf
            return tensor

        with changed_attention(model.hf_model, change):
            expected = oracle.logit_diff("clean", [], 0.0) - before
        assert lost.logit_diff_change.sel(layer=layer, head=head).item() == pytest.approx(expected, abs=1e-9)


def test_blip_loses_what_its_words_may_not_read() -> None:
    """Cut between words, from the patches (the class token is left), and from all, so that no head reads anything."""
    model, pairs = HookedBLIP.mini(dtype=torch.float64), mini_world("states", n=3, seed=0)
    words = patching.knockout(model, pairs, "question -> correct", site="text.attn", window=2, progress=False)
    image = patching.knockout(model, pairs, window=1, progress=False)
    assert image.flow.values.tolist() == ["image -> question"]
    everything = patching.knockout(model, pairs, "all -> question", window=1, progress=False)
    for number, pair in enumerate(pairs):
        inputs = model.prepare(pair.clean_image, pair.clean_prompt)
        start, stop = pairs.token_spans(model)[number]["correct"]
        question = model.layout(inputs, [pair.clean_prompt]).positions("text", 0, "prompt").tolist()
        answers = (pair.correct_answer, pair.incorrect_answer)
        correct, foil = (model.answer_ids(pair.clean_prompt, one)[0] for one in answers)

        def logit_diff(hooks: Any, inputs: Any = inputs, correct: int = correct, foil: int = foil) -> float:
            with torch.no_grad():
                logits = model.run_with_hooks(inputs, fwd_hooks=hooks)[0, -1]
            return float(logits[correct] - logits[foil])

        before = logit_diff([])
        for middle in range(model.cfg.n_layers["text"]):

            def cut(scores: Tensor, hook: Any, at: Any = (start, stop, question)) -> Tensor:
                scores[:, :, at[0] : at[1], at[2]] = -torch.inf
                return scores

            def class_token(scores: Tensor, hook: Any, at: list[int] = question) -> Tensor:
                scores[:, :, at, 1:] = -torch.inf
                return scores

            def nothing(z: Tensor, hook: Any, at: list[int] = question) -> Tensor:
                z[:, at] = 0.0
                return z

            layers = range(max(0, middle - 1), middle + 1)
            hooks = [(f"text.blocks.{layer}.attn.hook_attn_scores", cut) for layer in layers]
            found = float(words.logit_diff_change.isel(pair=number, flow=0).sel(layer=middle))
            assert found == pytest.approx(logit_diff(hooks) - before, abs=1e-9)
            for lost, leaf, hook in ((image, "hook_attn_scores", class_token), (everything, "hook_z", nothing)):
                found = float(lost.logit_diff_change.isel(pair=number, flow=0).sel(layer=middle))
                blind = logit_diff([(f"text.blocks.{middle}.cross_attn.{leaf}", hook)]) - before
                assert found == pytest.approx(blind, abs=1e-9)
    assert float(abs(image.logit_diff_change).max()) > 0.1


def test_flows_are_labelled_as_asked_for() -> None:
    model = tiny_model("llava").model
    pairs = made_pairs(single_tokens(model))[:1]
    lost = patching.knockout(model, pairs, {"the way": ("image", "object")}, layers=[1], progress=False)
    assert lost.flow.values.tolist() == ["the way"]
    assert lost.layer.values.tolist() == [1]
    several = patching.knockout(model, pairs, [("image", "last"), "object \N{RIGHTWARDS ARROW} last"], progress=False)
    assert several.flow.values.tolist() == ["image -> last", "object \N{RIGHTWARDS ARROW} last"]


def test_a_flow_that_causal_attention_does_not_have_is_named() -> None:
    """Words come after the image, whose positions cannot look at them; image positions may look at each other."""
    model = tiny_model("gemma3").model
    pairs = made_pairs(single_tokens(model))
    with pytest.warns(UserWarning, match="'object' comes after 'image' in every pair, and `language` looks only back"):
        found = patching.knockout(model, pairs, "object -> image", progress=False)
    assert float(abs(found.logit_diff_change).max()) < 1e-12
    patching.knockout(model, pairs, "image -> image", layers=0, progress=False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"flows": "image -> lst"}, "flow 'image -> lst': no group of positions 'lst'; did you mean 'last'"),
        ({"flows": "image"}, "flow 'image': expected what is looked at, an arrow, and what looks"),
        ({"flows": 3}, "flows of type int: expected text such as"),
        ({"flows": []}, "no flows given"),
        ({"flows": {"a": "image -> last", "b": 1}}, "flow 1: expected text such as"),
        ({"window": 0}, "window=0: expected a number of layers, 1 or more"),
        ({"run": "corupt"}, "no run 'corupt'; did you mean 'corrupt'"),
        ({"site": "language.mlp"}, "no activation of `language`"),
        ({"site": "vision.attn", "flows": "image -> image"}, "positions of `vision` have no groups here"),
        ({"layers": 7}, "layer 7 asked for; `language` has layers 0 to 2"),
        ({"heads": [9]}, "head 9 asked for; `language` has heads 0 to 3"),
        ({"colour": 1}, "no option 'colour'"),
    ],
)
def test_what_cannot_be_cut_is_named(asked: dict[str, Any], message: str) -> None:
    model = tiny_model("llava").model
    with pytest.raises((ValueError, TypeError), match=message):
        patching.knockout(model, made_pairs(single_tokens(model)), progress=False, **asked)
