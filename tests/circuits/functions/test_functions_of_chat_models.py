"""What heads of a chat model do: scores, knock-outs and labels by the verbs of BLIP."""

import numpy as np
import pytest
import torch

from notice_lens import HookedVLM, circuits
from notice_lens.circuits.functions.knockout import Knockout, Knockouts
from notice_lens.circuits.functions.scores import region_masks
from notice_lens.pairs import mini_world

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def model():
    return HookedVLM.mini()


@pytest.fixture(scope="module")
def pairs():
    return mini_world("faces", n=16, seed=5, world="pictures").select(range(16))


@pytest.fixture(scope="module")
def functions(model, pairs):
    return circuits.head_functions(model, pairs, roles=["last"], maps="attention", regions=["object"], **QUIET)


def test_knocked_out_attention_is_what_a_hook_takes_away(model, pairs, functions):
    """Attention of one head from the last token, inside a region and outside of it, set to zero by a hook."""
    knockouts = Knockouts(model, pairs, functions, "zero", **QUIET)
    asked = Knockout(3, "last", "object")
    found = knockouts.changes([asked])[asked]
    inside = region_masks(model, pairs, ["object"])["object"]
    layout, head = pairs.layout(model), 2
    image = layout.positions("language", 0, "image")
    for number in range(3):
        pair = pairs[number]
        inputs = model.prepare(pair.clean_image, pair.clean_prompt)
        correct, foil = (
            model.answer_ids(pair.clean_prompt, answer)[0] for answer in (pair.correct_answer, pair.incorrect_answer)
        )

        def difference(hooks=(), inputs=inputs, correct=correct, foil=foil) -> float:
            with torch.no_grad():
                at_last = model.run_with_hooks(inputs, fwd_hooks=list(hooks))[0, -1]
            return float(at_last[correct] - at_last[foil])

        for side, mask in ((found.inside, inside[number]), (found.outside, ~inside[number])):

            def cut(pattern, hook, keys=image[mask]):
                pattern[:, head, -1, keys] = 0
                return pattern

            expected = difference([("language.blocks.3.attn.hook_pattern", cut)]) - difference()
            assert side[number, head] == pytest.approx(expected, abs=2e-4)

        def ablate(z, hook):
            z[:, -1, head] = 0
            return z

        expected = difference([("language.blocks.3.attn.hook_z", ablate)]) - difference()
        assert found.ablated[number, head] == pytest.approx(expected, abs=2e-4)


def test_labels_are_decided_for_every_candidate(model, pairs, functions):
    heads = [(layer, head) for layer in (2, 3, 4) for head in range(8)]
    labels = circuits.label_heads(model, pairs, functions, heads, ablation="zero", n_flips=1999, **QUIET)
    assert labels.sizes["candidate"] == len(heads)
    assert labels.attrs["task"] == "faces"
    assert all(str(verdict) for verdict in labels.verdict.values.ravel())
    segmenting = np.flatnonzero(labels.label.values == "implicit segmentation")
    for number in segmenting:
        assert float(labels.attention_ratio.isel(candidate=number).max()) >= 1.5
