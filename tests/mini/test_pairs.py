"""Pairs of the drawn world: one meaning changes and nothing else, and questions and answers fit the pictures."""

import numpy as np
import pytest

from notice_lens.mini.generate import GROUPS, pairs
from notice_lens.mini.questions import compose, either
from notice_lens.mini.scenes import OPPOSITE, random_scene
from notice_lens.mini.stream import RandomStream
from notice_lens.mini.vocabulary import processor, tokens

TASKS = tuple(GROUPS)
MANY = 150
TOKENIZER = processor().tokenizer


@pytest.fixture(scope="module")
def many():
    return {task: list(pairs(task, MANY, seed=5)) for task in TASKS}


@pytest.mark.parametrize("task", TASKS)
def test_only_the_named_thing_changes(many, task):
    for pair in many[task][:30]:
        clean, corrupt = pair.clean.drawn(), pair.corrupt.drawn()
        changed = (clean.pixels != corrupt.pixels).any(axis=2)
        # In scenes two things may exchange their shapes; all else is pinned.
        regions = {
            "scenes": ("subject", "object", "distractor"),
            "states": ("object",),
            "faces": ("eyes", "brows", "mouth"),
        }
        allowed = np.zeros(changed.shape, bool)
        for drawing, parts in ((clean, pair.clean_parts), (corrupt, pair.corrupt_parts or pair.clean_parts)):
            for region in regions[task]:
                for name in parts[region]:
                    allowed |= drawing.cover.get(name, np.zeros(changed.shape)) > 0
        assert changed.any(), pair.id
        assert not changed[~allowed].any(), pair.id
        assert pair.clean.background is pair.corrupt.background is pair.donor.background


def test_scenes_change_at_two_places_at_most(many):
    for pair in many["scenes"]:
        parts = zip(pair.clean.parts, pair.corrupt.parts, strict=True)
        changed = [before.name for before, after in parts if before.outline.shape != after.outline.shape]
        assert len(changed) <= 2
        assert all(
            before.fill == after.fill for before, after in zip(pair.clean.parts, pair.corrupt.parts, strict=True)
        )


def test_states_change_in_the_asked_attribute_alone(many):
    for pair in many["states"]:
        before, after = pair.clean.parts[0], pair.corrupt.parts[0]
        assert pair.clean.parts[1:] == pair.corrupt.parts[1:] or all(
            np.array_equal(one.outline, other.outline) and one.fill == other.fill
            for one, other in zip(pair.clean.parts[1:], pair.corrupt.parts[1:], strict=True)
        )
        same_outline = np.array_equal(before.outline, after.outline)
        assert same_outline == (pair.group != "shape")
        assert (before.fill.texture == after.fill.texture) == (pair.group != "texture")
        assert (before.fill.colour == after.fill.colour) == (pair.group != "colour")


@pytest.mark.parametrize("task", TASKS)
def test_answers_of_a_pair_fit_its_questions(many, task):
    for pair in many[task]:
        question = pair.question
        assert {question.answer, pair.incorrect} == set(question.options)
        assert pair.donor_question.answer not in question.options
        assert pair.corrupt_question.answer not in question.options
        assert not set(pair.corrupt_question.options) & set(question.options)
        if pair.control_question:
            assert pair.control_question.answer == pair.incorrect
            assert pair.control_question.options == question.options
            differs = [a != b for a, b in zip(pair.control_question.text.split(), question.text.split(), strict=True)]
            assert sum(differs) == 1


@pytest.mark.parametrize("task", TASKS)
def test_roles_are_the_words_they_name(many, task):
    for pair in many[task]:
        text, roles = pair.question.text, pair.question.roles
        words = {role: text[first:last] for role, (first, last) in roles.items()}
        assert words["correct"] == pair.question.answer
        assert words["incorrect"] == pair.incorrect
        assert all(text.count(word) >= 1 and " " not in word for word in words.values())
        expected = {
            "subject": {"verb", "object"},
            "verb": {"subject", "object"},
            "object": {"subject", "verb"},
        }.get(pair.group, {"noun"})
        assert set(words) == expected | {"correct", "incorrect"}


def test_distractors_often_carry_the_other_option(many):
    for task in ("scenes", "states"):
        share = np.mean([pair.control_question is not None for pair in many[task]])
        assert 0.6 < share < 0.9


@pytest.mark.parametrize("task", ["states", "scenes"])
def test_the_right_answers_place_does_not_depend_on_where_the_object_is(many, task):
    asked = [next(part for part in pair.clean.parts if part.name in pair.clean_parts["object"]) for pair in many[task]]
    x = np.array([part.outline[:, 0].mean() for part in asked])
    first = np.array([pair.question.options[0] == pair.question.answer for pair in many[task]])
    assert abs(np.corrcoef(x, first)[0, 1]) < 0.25


def test_scenes_relations_hold_with_a_clear_margin(many):
    for pair in many["scenes"]:
        if pair.group != "verb":
            continue
        middles = {
            region: np.mean([part.outline.mean(axis=0) for part in pair.clean.parts if part.name in names], axis=0)
            for region, names in pair.clean_parts.items()
            if region in ("subject", "object")
        }
        across, down = middles["subject"] - middles["object"]
        distance = {"left": -across, "right": across, "above": -down, "below": down}[pair.question.answer]
        assert distance > 10, pair.id


def test_random_scenes_have_no_doubtful_fact():
    for number in range(200):
        scene = random_scene(RandomStream("scene", number))
        shapes = [thing.shape for thing in scene.things]
        assert len(set(shapes)) == len(shapes)
        for one in scene.things:
            for other in scene.things:
                if one is other:
                    continue
                for relation, opposite in OPPOSITE.items():
                    assert not (scene.holds(relation, one, other) and scene.holds(opposite, one, other))
                    if relation not in ("inside", "outside"):
                        assert scene.holds(relation, one, other) == scene.holds(opposite, other, one)


def test_nested_things_lie_inside():
    for pair in pairs("scenes", 400):
        if "inside" not in pair.question.text:
            continue
        drawing = pair.clean.drawn()
        without = pair.clean.without(pair.clean_parts["subject"][0]).drawn()
        inner = drawing.mask(pair.clean_parts["subject"])
        # A corner of a square may graze the notch of a heart, by a pixel or two of two hundred.
        assert without.mask(pair.clean_parts["object"])[inner].mean() > 0.97, pair.id


@pytest.mark.parametrize("task", TASKS)
def test_the_quick_tokenizer_is_the_tokenizer(many, task):
    for pair in many[task][:50]:
        assert tokens(pair.question.text) == TOKENIZER(pair.question.text).input_ids


def test_compose_marks_the_right_option():
    question = compose("colour", "red", ["is", "this", ("noun", "star"), *either("red", "blue", swap=True), "?"])
    assert question.text == "is this star blue or red?"
    assert question.options == ("blue", "red")
    assert question.roles == {"noun": (8, 12), "incorrect": (13, 17), "correct": (21, 24)}
