"""Replaced words have the same token count and never bring the old meaning back."""

import random
import re
from functools import cache
from importlib.resources import files
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from notice_lens.pairs.near_synonyms import NearSynonyms
from notice_lens.pairs.token_replacement import Pool, replace_roles, replace_words
from notice_lens.pairs.tokens import pieces

NOUNS = (
    "man guy woman lady boy kid girl child person dog puppy cat horse pony sheep teacher chef baker pilot nurse "
    "snowboarder firefighter skateboarder skydiver sea ocean beach couch sofa bike bicycle motorcycle tree flower"
).split()
VERBS = "sitting standing walking strolling running jumping leaping squatting paddling snorkeling reading".split()
DENSE = "sea ocean dog puppy cat couch sofa tree".split()
hypothesis = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
NEAR = NearSynonyms.load()


@pytest.fixture(scope="module")
def nouns(bert):
    return Pool(bert, NOUNS)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("man", "guy"), ("boy", "kid"), ("kid", "child"), ("woman", "lady"), ("girl", "child"), ("ocean", "sea"),
        ("bike", "bicycle"), ("couch", "sofa"), ("person", "people"), ("person", "man"), ("people", "woman"),
        ("walk", "stroll"), ("strolled", "walking"), ("jump", "leap"), ("look", "watch"), ("watch", "see"),
        ("looks at", "watching"), ("large", "huge"), ("huge", "big"), ("tiny", "small"), ("broken", "shattered"),
        ("shattered", "cracked"), ("wet", "damp"), ("burnt", "browned"), ("MAN", "Guys"), ("men", "man"),
        ("sit", "sitting"), ("animal", "dog"), ("same", "same"), ("unheardof", "unheardof"),
    ],
)  # fmt: skip
def test_near_in_both_orders(a, b):
    assert NEAR.near(a, b)
    assert NEAR.near(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("man", "woman"), ("boy", "girl"), ("dog", "cat"), ("animal", "man"), ("sit", "stand"), ("sit", "lie"),
        ("walk", "run"), ("open", "closed"), ("wet", "dry"), ("red", "orange"), ("red", "pink"), ("father", "mother"),
        ("sea", "beach"), ("happy", "sad"), ("happy", "surprise"), ("angry", "disgust"), ("large", "small"),
        ("guy", "lady"), ("car", "bus"), ("thing", "the"), ("apple", "banana"),
    ],
)  # fmt: skip
def test_apart(a, b):
    assert not NEAR.near(a, b)
    assert not NEAR.near(b, a)


def test_special_words_of_a_general_one_are_apart():
    near = NearSynonyms(["# comment", "", "pet, animal: dog, cat  # two of them"])
    assert near.near("dog", "pets")
    assert near.near("animal", "pet")
    assert not near.near("dog", "cat")


@pytest.mark.parametrize("line", ["alone", ":", "a: b: c", " , ", ": a, b"])
def test_a_line_that_is_no_group(line):
    with pytest.raises(ValueError, match=r"line 2: .* is not a group of near-synonyms; expected `word, word, ...`"):
        NearSynonyms(["a, b", line])


@given(st.sampled_from(NOUNS + VERBS), st.sampled_from(NOUNS + VERBS))
def test_near_is_symmetric(a, b):
    assert NEAR.near(a, b) == NEAR.near(b, a)


def test_the_list_is_tidy():
    text = files("notice_lens.pairs").joinpath("data", "near_synonyms.txt").read_text(encoding="utf-8")
    total = 0
    for line in text.splitlines():
        words = [word.strip() for word in line.partition("#")[0].replace(":", ",").split(",")]
        assert words == [""] or all(word == " ".join(word.lower().split()) != "" for word in words), line
        assert len(set(words)) == len(words), line
        total += len(words)
    assert total > 1000


def test_a_pool_is_tidy(bert):
    pool = Pool(bert, ["Dog", " cat", "dog", "", "  ", "pick  up", "snowboarder", "\U00012000"])
    assert pool.words == ("cat", "dog", "pick up", "snowboarder")
    assert len(pool) == 4
    assert "dog" in pool
    assert "bird" not in pool
    assert pool.of_length(1) == ("cat", "dog")
    assert "pick up" in pool.of_length(2)
    assert pool.of_length(99) == ()


@hypothesis
@given(
    words=st.lists(st.sampled_from(NOUNS), min_size=1, max_size=3),
    offered=st.lists(st.lists(st.sampled_from(DENSE), max_size=3), min_size=3, max_size=3),
    avoid=st.lists(st.sampled_from(NOUNS), max_size=2),
    seed=st.integers(0, 5),
)
def test_finds_a_replacement_whenever_brute_force_does(bert, words, offered, avoid, seed):
    pools = [Pool(bert, some) for some in offered[: len(words)]]
    found = replace_words(words, pools, random.Random(seed), avoid=avoid)
    allowed = {new for new in product(*(pool.words for pool in pools)) if fits(bert, words, new, avoid)}
    assert (found is None) == (not allowed)
    assert found is None or found in allowed


def fits(bert, old, new, avoid):
    """The rules once more, in plain words."""
    lengths = [len(pieces(bert, word)) for word in new] == [len(pieces(bert, word)) for word in old]
    stale = any(NEAR.near(word, other) for word in new for other in [*old, *avoid])
    first = [pieces(bert, word)[0] for word in new]
    clash = any(NEAR.near(a, b) for i, a in enumerate(new) for b in new[:i]) or len(set(first)) < len(first)
    return lengths and not stale and not clash


def test_a_greedy_first_choice_is_undone(bert):
    """Slot 1 may take either word, slot 2 one of them only."""
    first, second = Pool(bert, ["sea", "dog"]), Pool(bert, ["ocean"])
    for seed in range(20):
        assert replace_words(["tree", "man"], [first, second], random.Random(seed)) == ("dog", "ocean")


def test_no_two_new_words_share_a_first_piece(bert):
    pool = Pool(bert, ["skydiver", "skydive"])
    assert pieces(bert, "skydiver")[0] == pieces(bert, "skydive")[0]
    other = next(word for word in NOUNS if len(pieces(bert, word)) == len(pieces(bert, "skydiver")))
    assert replace_words([other, other], [pool, pool], random.Random(0)) is None


def test_the_same_seed_gives_the_same_words(bert):
    shuffled = random.Random(1).sample(NOUNS, len(NOUNS))
    pools = Pool(bert, NOUNS), Pool(bert, shuffled)
    runs = [[replace_words(["dog", "tree"], [p, p], random.Random(seed)) for seed in range(30)] for p in pools]
    assert runs[0] == runs[1]
    assert len(set(runs[0])) > 15


def test_every_slot_needs_a_pool(bert, nouns):
    with pytest.raises(ValueError, match="2 words to replace, but 1 pools; expected one pool for each word"):
        replace_words(["dog", "cat"], [nouns], random.Random(0))


@pytest.mark.parametrize("n", [1_000, pytest.param(10_000, marks=pytest.mark.large)])
def test_replaced_prompts_have_equal_token_counts(bert, n):
    rng = random.Random(0)
    subjects, verbs = Pool(bert, NOUNS), Pool(bert, VERBS)
    pools = {"subject": subjects, "correct": subjects, "incorrect": subjects, "verb": verbs, "object": subjects}
    count = cache(lambda word: len(pieces(bert, word)))
    kept = 0
    for _ in range(n):
        prompt, roles = question(rng)
        slots = rng.sample(sorted(roles), rng.randint(1, 3))
        answer = replace_roles(prompt, roles, slots, pools, rng)
        if answer is None:
            continue
        kept += 1
        new, spans = answer
        assert len(pieces(bert, new)) == len(pieces(bert, prompt))
        assert list(spans) == list(roles)
        for role in roles:
            was, is_now = prompt[slice(*roles[role])], new[slice(*spans[role])]
            assert count(was) == count(is_now)
            assert (was == is_now) == (role not in slots)
            assert role not in slots or not any(NEAR.near(is_now, prompt[slice(*span)]) for span in roles.values())
    assert kept > 0.5 * n


def question(rng):
    a, b, c = rng.sample(NOUNS, 3)
    parts = [("", "is"), ("correct", a), ("", "or"), ("incorrect", b), ("verb", rng.choice(VERBS)), ("object", c)]
    text, roles = "", {}
    for role, word in parts:
        text += " " * bool(text)
        if role:
            roles[role] = (len(text), len(text) + len(word))
        text += word
    return text + "?", roles


PROMPT = "is dog or cat sitting?"
ROLES = {"correct": (3, 6), "incorrect": (10, 13), "verb": (14, 21)}


def test_all_roles_are_found_again(bert):
    pools = {"correct": Pool(bert, ["teacher"]), "incorrect": Pool(bert, ["tree"])}
    new, spans = replace_roles(PROMPT, ROLES, ["incorrect", "correct"], pools, random.Random(0))
    assert new == "is teacher or tree sitting?"
    assert {role: new[slice(*span)] for role, span in spans.items()} == {
        "correct": "teacher",
        "incorrect": "tree",
        "verb": "sitting",
    }


def test_nothing_to_replace(bert, nouns):
    assert replace_roles(PROMPT, ROLES, [], {"verb": nouns}, random.Random(0)) == (PROMPT, ROLES)


def test_words_of_the_prompt_and_those_to_avoid_stay_out(bert):
    pool = {"correct": Pool(bert, ["cat", "or", "Is", "tree", "sitting"])}
    assert replace_roles(PROMPT, ROLES, ["correct"], pool, random.Random(0))[0] == "is tree or cat sitting?"
    assert replace_roles(PROMPT, ROLES, ["correct"], pool, random.Random(0), avoid=["tree"]) is None


@pytest.mark.parametrize(
    ("roles", "slots", "message"),
    [
        (
            ROLES,
            ["corect"],
            "no role of this prompt 'corect'; did you mean 'correct'? valid: 'correct', 'incorrect', 'verb'",
        ),
        (ROLES, ["verb"], "no role with a pool 'verb'; valid: 'correct', 'subject'"),
        ({**ROLES, "subject": (4, 8)}, ["correct"], 'roles "correct" and "subject" overlap in "is dog or cat'),
        ({"correct": (15, 99)}, ["correct"], 'role "correct" spans characters 15 to 99 of a prompt of 22: "is dog'),
        ({"correct": (4, 4)}, ["correct"], "spans characters 4 to 4"),
        ({"correct": (-4, 2)}, ["correct"], "spans characters -4 to 2"),
    ],
)
def test_roles_that_do_not_fit(nouns, roles, slots, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        replace_roles(PROMPT, roles, slots, {"correct": nouns, "subject": nouns}, random.Random(0))
