"""Accuracy: whether the model says the correct answer, however many tokens it has."""

import torch

from conftest import make_pair
from made_up import noise_picture
from notice_lens.pairs import MinimalPairs
from notice_lens.patching import Site, sweep
from notice_lens.patching.engine.metrics import is_greedy

QUIET = {"progress": False}


def row(name, prompt, roles, seed):
    images = {"clean_image": noise_picture(seed), "corrupt_image": noise_picture(seed + 100)}
    answers = {"correct_answer": "red", "incorrect_answer": "green"}
    return {"id": name, "task": "t", "clean_prompt": prompt, "roles": roles, **images, **answers}


def test_accuracy_is_what_greedy_decoding_begins_with():
    logits = torch.zeros(4, 3, 10)
    for place, token in enumerate([5, 6, 7]):
        logits[:, place, token] = 1.0
    targets = torch.tensor([[5, 6, 7], [5, 6, -100], [5, 7, -100], [-100, 6, 7]])
    assert is_greedy(logits, targets).tolist() == [1, 1, 0, 1]


def test_accuracy_does_not_depend_on_what_is_in_the_batch():
    """The model always says `dog`: right where that is all of the answer, whether others have more tokens or not."""
    model = make_pair("vqa", torch.float64).model
    with torch.no_grad():
        model.head.unembed.bias[model.tokenizer.convert_tokens_to_ids("dog")] += 1000
    rows = [row(f"p{n}", "what is in here?", None, n) for n in range(4)]
    for own, answer in zip(rows, ["dog", "dog food", "dog dog", "cat"], strict=True):
        own |= {"correct_answer": answer, "incorrect_answer": "red"}
    pairs = MinimalPairs.from_rows(rows, progress=False)
    site = Site.of(model, "text.mlp_out", layers=0)
    together = sweep(model, pairs, site, metrics="accuracy", **QUIET)
    alone = [sweep(model, pairs[n : n + 1], site, metrics=["accuracy"], **QUIET) for n in range(4)]
    for found in (together.accuracy_clean, together.accuracy_corrupt, together.accuracy[:, 0, 0]):
        assert found.values.tolist() == [1, 0, 1, 0]
    assert [found.accuracy.values.ravel()[0] for found in alone] == [1, 0, 1, 0]
    assert "accuracy" not in sweep(model, pairs[:1], site, **QUIET)
