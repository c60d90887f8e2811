"""The picture world: exact masks, and pairs in which one meaning changes."""

from collections import Counter

import numpy as np
import pytest

from notice_lens.mini.generate import WORLDS, make_pair, pairs
from notice_lens.mini.picture import Picture
from notice_lens.mini.pictures.emoji import Emoji
from notice_lens.mini.pictures.ground import GROUND_PATTERNS, PICTURE_UNITS, ground
from notice_lens.mini.pictures.names import ATTRIBUTE_WORDS, COLOURED, EMOJI_CODES, LOOKS, OPENED, attribute_of
from notice_lens.mini.pictures.sprites import sprite
from notice_lens.mini.pictures.states import things
from notice_lens.mini.stream import RandomStream
from notice_lens.pairs import mini_world

GROUPS = WORLDS["pictures"].groups
TASKS = tuple(GROUPS)
MANY = 120


@pytest.fixture(scope="module")
def many():
    return {task: list(pairs(task, MANY, seed=5, world="pictures")) for task in TASKS}


def placed(name="one", noun="heart", look="red", **options):
    return Emoji(name, noun, look, **({"x": 60.0, "y": 70.0, "side": 50.0} | options))


def scene(*things, number=0):
    return Picture(ground(RandomStream("test", number)), things)


# Drawing


def test_a_mask_is_where_the_thing_is_opaque():
    drawing = scene(placed(side=96.0, x=64.0, y=64.0)).drawn()
    alpha = np.asarray(sprite("heart", "red"))[:, :, 3] / 255
    expected = np.zeros((PICTURE_UNITS, PICTURE_UNITS))
    expected[16:112, 16:112] = alpha
    np.testing.assert_allclose(drawing.cover["one"], expected, atol=1e-6)
    assert np.array_equal(drawing.mask(["one"]), expected >= 0.5)


@pytest.mark.parametrize("size", [64, 128, 333])
def test_covers_add_up_to_all_of_the_picture(size):
    drawing = scene(placed(), placed("two", "lock", "open", x=75.0, tilt=0.1), placed("far", x=300.0)).drawn(size)
    assert drawing.pixels.shape == (size, size, 3)
    np.testing.assert_allclose(sum(drawing.cover.values()), np.ones((size, size)), atol=1e-5)
    assert "far" not in drawing.cover


def test_a_thing_in_front_hides_one_behind():
    behind, front = placed("behind", "square", "blue"), placed("front", "square", "red", x=64.0)
    drawing = scene(behind, front).drawn()
    alone = scene(front).drawn()
    assert np.array_equal(drawing.cover["front"], alone.cover["front"])
    assert not (drawing.mask(["front"]) & drawing.mask(["behind"])).any()
    middle = drawing.pixels[70, 64].astype(int)
    assert middle[0] > middle[2] + 60


def test_masks_grow_with_the_picture():
    thing = placed(tilt=0.1)
    small, large = (scene(thing).drawn(size).mask(["one"]).mean() for size in (128, 512))
    assert small == pytest.approx(large, rel=0.02)


def test_a_shadow_falls_on_the_ground_alone():
    lit, unlit = (scene(placed("two", x=30.0), placed(shadow=shadow)).drawn() for shadow in (True, False))
    changed = (lit.pixels != unlit.pixels).any(axis=2)
    assert changed.any()
    assert (lit.cover["background"][changed] > 0).all()
    assert (lit.pixels[changed].astype(int) <= unlit.pixels[changed]).all()


def test_mirrored_and_plain_things_mirror_each_other():
    side = {"x": 64.0, "y": 64.0, "side": 96.0, "shadow": False}
    plain, mirrored = (scene(placed("a", "horse", "", mirrored=m, **side)).drawn().mask(["a"]) for m in (False, True))
    assert np.array_equal(plain, mirrored[:, ::-1])


def test_every_noun_has_every_look_and_colours_look_alike():
    for noun, looks in LOOKS.items():
        for look in looks:
            emoji = sprite(noun, look)
            assert emoji.size == (96, 96)
            assert (np.asarray(emoji)[:, :, 3] > 127).mean() > 0.1, (noun, look)
    # Recoloured emoji have the colour's hue over most of their saturated pixels.
    for noun, look in (("car", "green"), ("cap", "red"), ("shirt", "blue"), ("apple", "yellow")):
        rgb = np.asarray(sprite(noun, look)).astype(float)
        opaque = rgb[:, :, 3] > 200
        red, green, blue = rgb[opaque][:, :3].mean(axis=0)
        assert {
            "green": green > red,
            "red": red > blue + 20,
            "blue": blue > red,
            "yellow": min(red, green) > blue + 40,
        }[look], (noun, look)


def test_unknown_emoji_and_sizes_are_refused():
    with pytest.raises(ValueError, match="an? lock can be open, closed"):
        sprite("lock", "red")
    with pytest.raises(ValueError, match="emoji of 'zebra'.*there are heart"):
        sprite("zebra", "")
    with pytest.raises(ValueError, match="32 pixels or more, got 31"):
        scene(placed()).drawn(31)
    (lock,) = things(RandomStream("lock"), ["lock"])
    with pytest.raises(ValueError, match="colour 'red' asked for; a lock can be open, closed"):
        lock.having("colour", "red")


@pytest.mark.parametrize("pattern", sorted(set(GROUND_PATTERNS)))
def test_grounds_are_muted_and_of_any_size(pattern):
    for number in range(40):
        some = ground(RandomStream("ground", number))
        if some.pattern == pattern:
            pixels = some.draw(97)
            assert pixels.shape == (97, 97, 3)
            assert 40 < pixels.mean() < 235
            assert pixels.mean(axis=(0, 1)).std() < 45


# Pairs


@pytest.mark.parametrize("task", TASKS)
def test_only_the_changed_thing_and_its_shadow_differ(many, task):
    names = {"states": ["object"], "faces": ["face"], "scenes": ["subject", "object", "distractor"]}[task]
    for pair in many[task][:24]:
        clean, corrupt = pair.clean.drawn(), pair.corrupt.drawn()
        changed = (clean.pixels != corrupt.pixels).any(axis=2)
        allowed = np.zeros(changed.shape, bool)
        for drawing, parts in ((clean, pair.clean_parts), (corrupt, pair.clean_parts)):
            for region in names:
                for name in parts.get(region, (region,)):
                    allowed |= drawing.cover.get(name, np.zeros(changed.shape)) > 0
        assert changed.any(), pair.id
        # A shadow reaches a seventh of the thing's side beyond it.
        reach = _grown(allowed, 12)
        assert not changed[~reach].any(), pair.id
        assert pair.clean.background is pair.corrupt.background is pair.donor.background


def _grown(mask, by):
    grown = mask.copy()
    for down in range(-by, by + 1):
        for right in range(-by, by + 1):
            grown |= np.roll(mask, (down, right), axis=(0, 1))
    return grown


@pytest.mark.parametrize("task", TASKS)
def test_one_meaning_changes(many, task):
    for pair in many[task]:
        before, after = pair.clean.parts, pair.corrupt.parts
        changed = [(one, other) for one, other in zip(before, after, strict=True) if one != other]
        if task == "scenes":
            assert 1 <= len(changed) <= 2
            words = [{(thing.noun, thing.look) for thing in each} for each in (before, after)]
            if len(before) == 4 and pair.group != "verb":
                assert Counter(thing.noun for thing in before) == Counter(thing.noun for thing in after)
            assert words[0] != words[1] or len(before) == 4
        else:
            ((one, other),) = changed
            assert (one.noun, one.x, one.y, one.tilt, one.mirrored, one.variant) == (
                *(other.noun, other.x, other.y, other.tilt, other.mirrored, other.variant),
            )
            assert (one.look == other.look) == (pair.group == "size")
            assert (one.width == other.width) == (pair.group != "size")


@pytest.mark.parametrize("task", TASKS)
def test_things_lie_within_the_picture_and_hardly_hide_each_other(many, task):
    for pair in many[task][:40]:
        drawing = pair.clean.drawn()
        for thing in pair.clean.parts:
            alone = Picture(pair.clean.background, (thing,)).drawn().mask([thing.name])
            hidden = 1 - drawing.mask([thing.name]).sum() / alone.sum()
            assert hidden < (0.16 if task == "faces" else 0.08), (pair.id, thing)
            assert alone[1:-1, 1:-1].sum() >= 0.97 * alone.sum(), (pair.id, thing)


def test_what_is_near_is_nearer_than_all_else(many):
    for pair in many["scenes"]:
        if len(pair.clean.parts) != 4:
            continue
        middles = {thing.name: np.array([thing.x, thing.y]) for thing in pair.clean.parts}
        for number in (0, 1):
            own = np.linalg.norm(middles[f"actor{number}"] - middles[f"thing{number}"])
            other = np.linalg.norm(middles[f"actor{number}"] - middles[f"thing{1 - number}"])
            assert own < 45 < own + 10 < other, pair.id


@pytest.mark.parametrize("task", TASKS)
def test_answers_fit_what_is_there(many, task):
    for pair in many[task]:
        question = pair.question
        assert {question.answer, pair.incorrect} == set(question.options)
        assert pair.donor_question.answer not in question.options or pair.group == "subject"
        assert not set(pair.corrupt_question.options) & set(question.options)
        if pair.control_question:
            assert pair.control_question.answer == pair.incorrect
            assert pair.control_question.options == question.options
            differs = [a != b for a, b in zip(pair.control_question.text.split(), question.text.split(), strict=True)]
            assert sum(differs) == 1
    if task != "scenes":
        for pair in many[task]:
            assert pair.corrupt_question.answer in pair.corrupt_question.options


def _looks(pair, which):
    return {thing.noun: thing.look for thing in getattr(pair, which).parts}


@pytest.mark.parametrize("task", ["states", "faces"])
def test_states_and_faces_look_as_the_answers_say(many, task):
    for pair in many[task]:
        first, last = pair.question.roles["noun"]
        noun = pair.question.text[first:last]
        if pair.group != "size":
            assert _looks(pair, "clean")[noun] == pair.question.answer
            assert _looks(pair, "corrupt")[noun] == pair.incorrect
            assert _looks(pair, "donor").get(noun) not in pair.question.options
            assert _looks(pair, "clean")[noun] in ATTRIBUTE_WORDS[attribute_of(noun)]
        else:
            sides = [next(t.width for t in each.parts if t.noun == noun) for each in (pair.clean, pair.corrupt)]
            assert (sides[0] > sides[1]) == (pair.question.answer == "big")
            assert noun not in _looks(pair, "donor")


def test_scenes_show_what_the_answers_say(many):
    for pair in many["scenes"]:
        text, roles = pair.question.text, pair.question.roles
        for which, answer in (("clean", pair.question.answer), ("corrupt", pair.incorrect)):
            there = {thing.name: thing for thing in getattr(pair, which).parts}
            actor, near = there["actor0"], there["thing0"]
            words = {role: text[first:last] for role, (first, last) in roles.items()}
            told = {"subject": actor.noun, "verb": actor.look, "object": near.noun}
            assert told[pair.group] == answer, pair.id
            for role in ("subject", "object"):
                assert words.get(role, told[role]) == told[role], pair.id
            assert words.get("verb", "near") in ("near", actor.look), pair.id


@pytest.mark.parametrize("task", TASKS)
def test_roles_are_the_words_they_name(many, task):
    for pair in many[task]:
        text, roles = pair.question.text, pair.question.roles
        words = {role: text[first:last] for role, (first, last) in roles.items()}
        assert words["correct"] == pair.question.answer
        assert words["incorrect"] == pair.incorrect
        assert all(" " not in word for word in words.values())
        expected = {"subject": {"verb"}, "verb": {"subject"}, "object": {"subject", "verb"}}.get(pair.group, {"noun"})
        assert expected | {"correct", "incorrect"} <= set(words) <= expected | {"correct", "incorrect", "object"}


def test_controls_are_frequent(many):
    for task, least in (("scenes", 0.65), ("states", 0.75), ("faces", 0.2)):
        assert np.mean([pair.control_question is not None for pair in many[task]]) > least


def test_no_emoji_ships_in_vain():
    assert {noun for noun, _ in EMOJI_CODES} == set(LOOKS) >= {*COLOURED, *OPENED}


# As minimal pairs


@pytest.mark.parametrize("task", TASKS)
def test_they_are_minimal_pairs(task):
    some = mini_world(task, 4, seed=3, world="pictures")
    assert some[0].clean_image.size == (128, 128)
    assert some.manifest.options["world"] == "pictures"
    assert mini_world(task, 2, world="pictures", size=200)[0].corrupt_image.size == (200, 200)
    expected = make_pair(task, 0, seed=3, world="pictures").row(PICTURE_UNITS)
    assert some[0].clean_prompt == expected.clean_prompt
    assert np.array_equal(np.asarray(some[0].clean_image), np.asarray(expected.clean_image))


def test_controls_of_pictures_and_other_worlds():
    some = mini_world("states", 6, world="pictures", slots="control")
    assert all(pair.corrupt_answer == pair.incorrect_answer for pair in some)
    with pytest.raises(ValueError, match="pictures"):
        mini_world("states", 2, world="picture")
    assert mini_world("states", 2)[0].clean_image.size == (64, 64)
    assert "world" not in mini_world("states", 2).manifest.options


def test_a_picture_without_a_thing_lacks_it():
    made = Picture(ground(RandomStream("g")), things(RandomStream("two"), ["heart", "car"]))
    assert [thing.noun for thing in made.without("object").parts] == ["car"]
