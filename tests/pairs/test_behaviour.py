"""The behaviour filter keeps what the model answers as the pair means it to."""

import pytest

from notice_lens.pairs import MinimalPairs, behaviour_filter, mini_world
from notice_lens.pairs.behaviour import CLEAN_WRONG, NOT_INCORRECT, STILL_CORRECT, answers
from notice_lens.pairs.tokens import same_answer
from pair_rows import make_row


def by_hand(mini, pair, image, prompt):
    return mini.generate(getattr(pair, f"{image}_image"), getattr(pair, f"{prompt}_prompt"))[0]


def test_pairs_are_kept_by_what_the_model_says(mini):
    pairs = mini_world("scenes", 24, seed=3)
    # Some pairs made wrong: another answer is called right.
    wrong = ["wrong" if n % 5 == 0 else answer for n, answer in enumerate(pairs["correct_answer"])]
    pairs = pairs.with_column("correct_answer", wrong).with_column("corrupt_answer", [None] * 24)
    pairs = MinimalPairs(pairs.dataset, pairs.manifest, pairs.dropped)
    kept = behaviour_filter(mini, pairs.with_column("clean_prompt", pairs["clean_prompt"]), "text", batch_size=7)
    said = {pair.id: (by_hand(mini, pair, "clean", "clean"), by_hand(mini, pair, "clean", "corrupt")) for pair in pairs}
    expected = [p.id for p in pairs if said[p.id][0] == p.correct_answer and said[p.id][1] != p.correct_answer]
    assert kept["id"] == expected
    assert 0 < len(expected) < 20
    # What the model said to the corrupted prompt becomes its answer.
    assert kept["corrupt_answer"] == [said[name][1] for name in expected]
    reasons = {row["id"]: row["reason"] for row in kept.dropped.to_list()}
    for pair in pairs:
        if pair.id not in expected:
            wrong = said[pair.id][0] != pair.correct_answer
            assert reasons[pair.id] == (CLEAN_WRONG if wrong else STILL_CORRECT)
    assert kept.manifest.dropped == {reason: list(reasons.values()).count(reason) for reason in set(reasons.values())}
    assert kept.manifest.steps[-1]["corruption"] == "text"


def test_an_answer_that_was_known_stays(mini):
    pairs = mini_world("states", 6)
    assert behaviour_filter(mini, pairs, "text")["corrupt_answer"] == pairs["corrupt_answer"]


def test_an_image_corruption_has_to_give_the_other_answer(mini):
    pairs = mini_world("states", 12).filter(group="colour")
    # A third colour: the corrupted run answers what neither option says.
    pairs = pairs.with_column("corrupt_image", [row["donor_image"] for row in pairs.dataset])
    assert len(behaviour_filter(mini, pairs)) == 0
    assert set(behaviour_filter(mini, pairs).manifest.dropped) == {NOT_INCORRECT}
    assert len(behaviour_filter(mini, pairs, require="any")) == len(pairs)
    same = pairs.with_column("corrupt_image", [row["clean_image"] for row in pairs.dataset])
    assert set(behaviour_filter(mini, same, require="any").manifest.dropped) == {STILL_CORRECT}


def test_captions_are_judged_by_the_likeliest_answer(caption):
    blip, words = caption.blip, ["a red apple", "a green apple", "a dog"]
    rows = [
        make_row(n, kind="caption", clean_prompt="a picture of", corrupt_prompt="a photo of", roles=None,
                 correct_answer=words[n % 3], incorrect_answer=words[(n + 1) % 3])
        for n in range(6)
    ]  # fmt: skip
    pairs = MinimalPairs.from_rows(rows)
    said = answers(blip, pairs, "corrupt")
    for pair, answer in zip(pairs, said, strict=True):
        candidates = [pair.correct_answer, pair.incorrect_answer]
        scores = blip.rank_answers(pair.corrupt_image, pair.clean_prompt, candidates)[0]
        assert answer == candidates[scores.argmax()]


def test_each_caption_is_judged_by_its_own_answers(caption):
    rows = [
        make_row(n, kind="caption", clean_prompt="a picture of", roles=None, correct_answer="a red apple",
                 corrupt_prompt=..., incorrect_answer="a dog", corrupt_answer=None if n == 0 else "a cat")
        for n in range(5)
    ]  # fmt: skip
    pairs = MinimalPairs.from_rows(rows)
    alone = [answers(caption.blip, pairs[number : number + 1])[0] for number in range(5)]
    assert answers(caption.blip, pairs) == alone


def test_answers_are_compared_by_their_pieces(bert):
    for answer in ("t-shirt", "3.5", "café", "o'clock", "10:30"):
        said = bert.decode(bert(answer, add_special_tokens=False)["input_ids"])
        assert same_answer(bert, said, answer)
    assert not same_answer(bert, "shirt", "t-shirt")
    assert not same_answer(bert, "", "t-shirt")


def test_matches_are_judged_by_their_logits(match):
    rows = [make_row(n, kind="match", clean_prompt="a red apple", correct_answer=..., incorrect_answer=..., roles=None,
                     corrupt_prompt="a red table") for n in range(4)]  # fmt: skip
    pairs = MinimalPairs.from_rows(rows)
    logits = match.blip(match.blip.prepare([pair.clean_image for pair in pairs], "a red table"))
    assert answers(match.blip, pairs, "clean", "corrupt") == [
        "match" if row[1] > row[0] else "no match" for row in logits.tolist()
    ]


def test_wrong_arguments(mini):
    pairs = mini_world("states", 2)
    with pytest.raises(ValueError, match="no corruption 'images'; did you mean 'image'"):
        behaviour_filter(mini, pairs, "images")
    with pytest.raises(ValueError, match="no require 'others'; did you mean 'other'"):
        behaviour_filter(mini, pairs, require="others")
    with pytest.raises(TypeError, match="takes a model and then pairs; got HookedBLIP for the pairs"):
        behaviour_filter(pairs, mini)
    with pytest.raises(ValueError, match="batch_size=0: expected 1 or more"):
        behaviour_filter(mini, pairs, batch_size=0)
    bare = pairs.with_column("corrupt_prompt", [None, None])
    with pytest.raises(ValueError, match="2 of 2 pairs have no corrupt_prompt"):
        behaviour_filter(mini, bare, "text")
