"""Examples of others: who gets whose values, words aligned by role."""

import numpy as np
import pytest
import torch

from conftest import make_pair
from made_up import made_up_pairs, noise_picture
from notice_lens.pairs import MinimalPairs, mini_world
from notice_lens.patching import Site, ablate, sweep
from notice_lens.patching.positions import Positions
from notice_lens.patching.reference_values import Resamples

QUIET = {"progress": False}
COLUMNS = ("task", "kind", "clean_image", "corrupt_image", "clean_prompt", "correct_answer", "incorrect_answer")


def resamples(model, pairs, reference=None, seed=0):
    return Resamples(model, pairs, Positions(model, pairs), ["text.hook_embed"], reference, seed)


def test_examples_are_a_seeded_derangement(mini):
    pairs = mini_world("scenes", 30, seed=0)
    tokens = Positions(mini, pairs).tokens
    found = resamples(mini, pairs).numbers
    known = [number for number in found if number is not None]
    assert len(set(known)) == len(known) > 20
    assert all(number != pair for pair, number in enumerate(found))
    assert all(tokens[number] == tokens[pair] for pair, number in enumerate(found) if number is not None)
    assert resamples(mini, pairs).numbers == found
    assert resamples(mini, pairs, seed=1).numbers != found
    alone = [tokens.count(length) == 1 for length in tokens]
    assert [number is None for number in found] == alone


def row(name, prompt, roles, seed):
    images = {"clean_image": noise_picture(seed), "corrupt_image": noise_picture(seed + 100)}
    answers = {"correct_answer": "red", "incorrect_answer": "green"}
    return {"id": name, "task": "t", "clean_prompt": prompt, "roles": roles, **images, **answers}


def test_words_are_aligned_by_role():
    model = make_pair("vqa", torch.float64).model
    one = row("one", "is the dog red on ground", {"noun": "dog", "correct": "red"}, 1)
    other = row("other", "red is on the dog water", {"noun": "dog", "correct": "red"}, 2)
    longer = row("longer", "is the old dog red water", {"noun": "old dog"}, 3)
    pairs = MinimalPairs.from_rows([one, other, longer], progress=False)
    examples = resamples(model, pairs)
    spans = pairs.token_spans(model)
    ours, theirs = spans[0], spans[1]
    assert examples.numbers[0] == 1
    order = examples.order(0).tolist()
    for role in ("noun", "correct", "[CLS]", "[SEP]"):
        assert order[ours[role][0]] == theirs[role][0], role
    assert sorted(order) == list(range(len(order)))
    left = [place for place in range(len(order)) if place not in {ours[role][0] for role in ours}]
    assert [order[place] for place in left] == sorted(order[place] for place in left)
    # Roles of other lengths are words like others.
    examples.numbers[2] = 0
    assert examples.order(2).tolist() == list(range(len(order)))
    # And so are the values: those of a pattern along both axes.
    values = torch.arange(8.0 * 8).view(1, 1, 8, 8).expand(1, 2, 8, 8)
    aligned = examples.reordered("text.blocks.0.attn.hook_pattern", values, [np.array(order)])
    np.testing.assert_array_equal(aligned[0, 1], values[0, 0][np.ix_(order, order)])
    aligned = examples.reordered("text.blocks.0.cross_attn.hook_pattern", values, [np.array(order)])
    np.testing.assert_array_equal(aligned[0, 1], values[0, 0][order])


def test_a_pair_without_an_example_is_nan():
    model = make_pair("vqa", torch.float64).model
    rows = [row(f"p{n}", "is the dog red" + " now" * (n == 2), {"noun": "dog"}, n) for n in range(3)]
    pairs = MinimalPairs.from_rows(rows, progress=False)
    found = ablate(model, pairs, "text.mlp_out", value="resample", **QUIET)
    assert found.resampled_from.values.tolist() == ["p1", "p0", ""]
    assert found.logit_diff_change[2].isnull().all()
    assert found.accuracy_ablated[2].isnull().all()
    assert found.logit_diff_change[:2].notnull().all()
    assert (found.n == 2).all()
    twins = MinimalPairs.from_rows([rows[0], {**rows[0], "id": "twin", "corrupt_image": noise_picture(77)}])
    with pytest.raises(ValueError, match=r"^value 'resample' needs another example .* none of 2 pairs has one"):
        ablate(model, twins, "text.mlp_out", value="resample", **QUIET)


def test_examples_under_answers_of_several_tokens():
    """The example's run says what the pair's run says, so that log-probabilities are of the same answer."""
    for kind in ("vqa", "caption", "match"):
        model = make_pair(kind, torch.float64).model
        several = made_up_pairs(kind, 2)
        rows = [
            {name: getattr(pair, name) for name in COLUMNS} | {"id": pair.id, "clean_prompt": several[0].clean_prompt}
            for pair in several
        ]
        pairs = MinimalPairs.from_rows(rows, progress=False)
        site = Site.of(model, "text.cross_attn" if kind != "caption" else "decoder.cross_attn", positions="all")
        found = ablate(model, pairs, site, value="resample", joint=True, **QUIET)
        # All cross-attention of another example is the answer that the same words get about that example's image.
        swapped = pairs.with_column("corrupt_image", [pairs[1].clean_image, pairs[0].clean_image])
        expected = sweep(model, swapped, site, controls=(), **QUIET)
        np.testing.assert_allclose(found.logit_diff_ablated[:, 0], expected.logit_diff_corrupt, atol=1e-9)
