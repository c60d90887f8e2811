"""The behaviour filter keeps what the model answers as the pair means it to."""

import datasets
import pytest

from notice_lens.pairs import MinimalPairs, behaviour_filter, mini_world
from notice_lens.pairs.behaviour import (
    CLEAN_FIRST_TOKEN_ONLY,
    CLEAN_WRONG,
    INCORRECT_FIRST_TOKEN_ONLY,
    NOT_INCORRECT,
    STILL_BEGINS,
    STILL_CORRECT,
    answers,
)
from notice_lens.pairs.io.storage import replace_column
from notice_lens.pairs.tokens import same_answer
from notice_lens.patching import sweep
from pair_rows import make_row
from planted import light_and_dark, planted


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


@pytest.fixture(scope="module")
def never_stops():
    """A planted model whose first token is always right, and that says it again and again: `red red red ...`."""
    return planted({(0, 1): 0}, {0: 1.0})


def with_answers(correct, incorrect):
    pairs = light_and_dark()
    for name, value in (
        ("correct_answer", correct),
        ("incorrect_answer", incorrect),
        ("clean_prompt", "what is on it?"),
    ):
        pairs = pairs.with_column(name, [value] * len(pairs))
    return pairs


def reasons(model, pairs, **options):
    kept = behaviour_filter(model, pairs, progress=False, **options)
    return len(kept), set(kept.manifest.dropped)


def test_a_model_whose_first_token_is_always_right_answers_rightly(never_stops):
    """What the metrics read is what the filter asks; all effects of these pairs are measured, and are right."""
    pairs = light_and_dark()
    assert {text.split()[0] for text in answers(never_stops, pairs)} == {"red"}
    assert len(answers(never_stops, pairs)[0].split()) > 1
    assert len(behaviour_filter(never_stops, pairs, progress=False)) == len(pairs)
    effects = sweep(never_stops, pairs, "text.cross_attn", metrics=["accuracy"], controls=(), progress=False)
    assert (effects.accuracy_clean == 1).all()
    assert reasons(never_stops, pairs, answer="first_token") == (len(pairs), set())
    assert reasons(never_stops, pairs, answer="whole") == (0, {CLEAN_FIRST_TOKEN_ONLY})


@pytest.mark.parametrize(
    ("correct", "incorrect", "by_default", "by_first_token"),
    [
        ("red red", "green green", None, None),
        ("red apple", "green", CLEAN_FIRST_TOKEN_ONLY, None),
        ("red", "green apple", INCORRECT_FIRST_TOKEN_ONLY, None),
        ("red", "blue", NOT_INCORRECT, NOT_INCORRECT),
        ("blue red", "green", CLEAN_WRONG, CLEAN_WRONG),
    ],
)
def test_answers_of_several_tokens_are_read_to_their_last_one(
    never_stops, correct, incorrect, by_default, by_first_token
):
    pairs = with_answers(correct, incorrect)
    for answer, reason in ((None, by_default), ("first_token", by_first_token)):
        expected = (0, {reason}) if reason else (len(pairs), set())
        assert reasons(never_stops, pairs, answer=answer) == expected
    assert (
        "red red"
        in behaviour_filter(never_stops, with_answers("red apple", "green"), progress=False).dropped[0]["detail"]
    )


def test_a_corrupted_run_that_begins_as_the_correct_answer_is_called_so(never_stops):
    pairs = light_and_dark()
    same = pairs.with_column("corrupt_image", [row["clean_image"] for row in pairs.dataset])
    assert reasons(never_stops, same, require="any") == (0, {STILL_BEGINS})


def test_the_models_own_answer_is_kept_as_far_as_it_is_read(never_stops):
    """The planted model says `red red ...` whatever it is asked, so the answer to the other question is kept as red."""
    pairs = light_and_dark().with_column("clean_prompt", ["what is on it?"] * 3)
    pairs = pairs.with_column("corrupt_prompt", ["what is at it?"] * 3)
    for answer, own in (("first_token", {"red"}), (None, {answers(never_stops, pairs)[0]})):
        dropped = behaviour_filter(never_stops, pairs, "text", answer=answer, progress=False)
        assert (set(dropped.dropped["corrupt_answer"]), dropped.manifest.dropped) == (own, {STILL_BEGINS: 3})
        assert dropped.manifest.steps[-1]["answer"] == answer


def test_captions_are_judged_by_the_likeliest_answer(caption):
    model, words = caption.model, ["a red apple", "a green apple", "a dog"]
    rows = [
        make_row(n, kind="caption", clean_prompt="a picture of", corrupt_prompt="a photo of", roles=None,
                 correct_answer=words[n % 3], incorrect_answer=words[(n + 1) % 3])
        for n in range(6)
    ]  # fmt: skip
    pairs = MinimalPairs.from_rows(rows)
    said = answers(model, pairs, "corrupt")
    for pair, answer in zip(pairs, said, strict=True):
        candidates = [pair.correct_answer, pair.incorrect_answer]
        scores = model.rank_answers(pair.corrupt_image, pair.clean_prompt, candidates)[0]
        assert answer == candidates[scores.argmax()]


def test_each_caption_is_judged_by_its_own_answers(caption):
    rows = [
        make_row(n, kind="caption", clean_prompt="a picture of", roles=None, correct_answer="a red apple",
                 corrupt_prompt=..., incorrect_answer="a dog", corrupt_answer=None if n == 0 else "a cat")
        for n in range(5)
    ]  # fmt: skip
    pairs = MinimalPairs.from_rows(rows)
    alone = [answers(caption.model, pairs[number : number + 1])[0] for number in range(5)]
    assert answers(caption.model, pairs) == alone


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
    logits = match.model(match.model.prepare([pair.clean_image for pair in pairs], "a red table"))
    assert answers(match.model, pairs, "clean", "corrupt") == [
        "match" if row[1] > row[0] else "no match" for row in logits.tolist()
    ]


def test_wrong_arguments(mini, unchecked):
    pairs = mini_world("states", 2)
    with pytest.raises(ValueError, match="no corruption 'images'; did you mean 'image'"):
        behaviour_filter(mini, pairs, "images")
    with pytest.raises(ValueError, match="no require 'others'; did you mean 'other'"):
        behaviour_filter(mini, pairs, require="others")
    with pytest.raises(ValueError, match="no answer 'first'; did you mean 'first_token'"):
        behaviour_filter(mini, pairs, answer="first")
    with pytest.raises(TypeError, match="takes a model and then pairs; got HookedBLIP for the pairs"):
        behaviour_filter(pairs, mini)
    with pytest.raises(ValueError, match="batch_size=0: expected 1 or more"):
        behaviour_filter(mini, pairs, batch_size=0)
    bare = pairs.with_column("corrupt_prompt", [None, None])
    with pytest.raises(ValueError, match="2 of 2 pairs have no corrupt_prompt"):
        behaviour_filter(mini, bare, "text")


@pytest.mark.parametrize("kind", ["caption", "match"])
def test_an_answer_that_is_not_greedy_has_no_part_to_choose(kind, request, unchecked):
    model = request.getfixturevalue(kind).model
    judged = {"caption": "the likeliest of a pair's answers", "match": "the larger logit"}[kind]
    with pytest.raises(ValueError, match=f"answer='whole' is for models .* greedy answer; this one is .* {judged}"):
        behaviour_filter(model, mini_world("states", 2), answer="whole")


def test_no_bar_of_a_library_is_shown_beside_ours(capfd):
    """Rows that were selected are written anew for another column, for which datasets has a bar of its own."""
    selected = mini_world("states", n=12).dataset.select([7, 2, 5])
    assert selected._indices is not None
    capfd.readouterr()
    replaced = replace_column(selected, "corrupt_answer", ["a", "b", "c"])
    assert replaced["corrupt_answer"][:] == ["a", "b", "c"]
    assert capfd.readouterr().err == ""
    assert not datasets.are_progress_bars_disabled(), "the caller's bars are as they were"
