"""What the model says, against Hugging Face's generate and against its own logits."""

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import make_pair
from notice_lens.models.blip.answers import answer_log_probs
from notice_lens.models.blip.inputs import IGNORED

QUESTIONS = ["is this red?", "is this a red apple or a green apple?", "what color is the dog"]


def pictures(n: int) -> list[Image.Image]:
    rng = np.random.default_rng(1)
    return [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(n)]


def hugging_face_says(pair, image, text: str, n: int) -> str:
    read = pair.model.processor(images=image, text=text, return_tensors="pt")
    # Hugging Face's captioning writes on the caller's ids and drops their last column: it gets copies.
    ids = {name: value.clone() for name, value in read.items()}
    said = pair.hf.generate(**ids, max_new_tokens=n, do_sample=False)
    return pair.model.tokenizer.decode(said[0], skip_special_tokens=True).strip()


@pytest.mark.parametrize("kind", ["vqa", "caption"])
@pytest.mark.parametrize("seed", [0, 1])
def test_greedy_answers_are_hugging_faces(kind, seed):
    """Example by example, and the same in one batch of unequal questions."""
    pair = make_pair(kind)
    if seed:
        with torch.no_grad():
            # A second model, in which [SEP] is likely: some answers end early.
            pair.hf.text_decoder.cls.predictions.bias[pair.model.cfg.sep_token_id] += 2.0
            pair.model.head.unembed.bias[pair.model.cfg.sep_token_id] += 2.0
    images = pictures(len(QUESTIONS))
    expected = [hugging_face_says(pair, image, text, 6) for image, text in zip(images, QUESTIONS, strict=True)]
    alone = [
        pair.model.generate(image, text, max_new_tokens=6)[0] for image, text in zip(images, QUESTIONS, strict=True)
    ]
    assert alone == expected
    assert pair.model.generate(images, QUESTIONS, max_new_tokens=6) == expected
    if seed:
        assert len({len(answer.split()) for answer in expected}) > 1, "answers of several lengths"


@pytest.mark.parametrize("kind", ["vqa", "caption"])
def test_ranking_is_teacher_forcing(kind):
    """Log-probabilities of whole answers, [SEP] included, as the logits of each answer by itself say."""
    pair = make_pair(kind)
    images, candidates = pictures(3), ["red", "xyz", "green apple"]
    ranks = pair.model.rank_answers(images, QUESTIONS, candidates)
    assert ranks.shape == (3, 3)
    for column, candidate in enumerate(candidates):
        for row, (image, question) in enumerate(zip(images, QUESTIONS, strict=True)):
            inputs = pair.model.prepare(image, question, candidate)
            with torch.no_grad():
                log_probs = pair.model(inputs)[0].log_softmax(-1)
            targets = inputs.target_ids[0].tolist()
            expected = sum(log_probs[i, target] for i, target in enumerate(targets) if target != IGNORED)
            assert abs(ranks[row, column] - expected) < 1e-4


def test_ranking_in_pieces_changes_nothing(vqa, monkeypatch):
    images, candidates = pictures(2), ["red", "green", "blue", "xyz"]
    whole = vqa.model.rank_answers(images, QUESTIONS[:2], candidates)
    monkeypatch.setattr("notice_lens.models.blip.answers.ANSWER_ROWS_AT_ONCE", 2)
    assert torch.allclose(vqa.model.rank_answers(images, QUESTIONS[:2], candidates), whole, atol=1e-5)


def test_log_probabilities_are_in_float32(vqa):
    logits = torch.randn(2, 3, 50).to(torch.bfloat16)
    targets = torch.tensor([[4, 7, IGNORED], [1, IGNORED, IGNORED]])
    found = answer_log_probs(logits, targets)
    log_probs = logits.float().log_softmax(-1)
    expected = torch.stack([log_probs[0, [0, 1], [4, 7]].sum(), log_probs[1, 0, 1]])
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected)


def test_a_matching_model_says_nothing(match):
    with pytest.raises(ValueError, match="kind 'match' has no decoder and cannot answer"):
        match.model.generate(pictures(1), "a red apple")


def test_an_answer_without_end_stops_at_the_last_position():
    pair = make_pair("vqa")
    with torch.no_grad():
        pair.model.head.unembed.bias[pair.model.cfg.sep_token_id] -= 1e3
    lengths: list[int] = []
    with pair.model.hooks(fwd_hooks=[("decoder.hook_embed", lambda embed, hook: lengths.append(embed.shape[1]))]):
        pair.model.generate(pictures(1), "is this red?", max_new_tokens=1000)
    assert lengths == list(range(1, pair.model.decoder.cfg.n_ctx + 1))


def test_no_candidates(vqa):
    with pytest.raises(TypeError, match="no candidates given"):
        vqa.model.rank_answers(pictures(1), "is this red?", [])
