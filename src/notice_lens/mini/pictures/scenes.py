"""The task `scenes`: who does what, and near which thing? One or two actors, each with an object beside it.

An actor is a person, who walks, runs, cycles and so on, or an animal. Its object touches it nearly; the other actor
and its object stand well apart. Groups are `subject` ("is the dog or cat near the tree?", "is the man or woman
running?"), `verb` ("is the man running or walking?") and `object` ("is the man near the tree or house?").
In three of four pictures the other option is there too, so that another word has the other answer:

    subject   s near o, s' near o'    is s or s' near o?       control: is s or s' near o'?
    verb      s does v, s' does v'    is s doing v or v'?      control: is s' doing v or v'?
    object    s near o, s' near o'    is s near o or o'?       control: is s' near o or o'?
"""

from dataclasses import dataclass, replace

from notice_lens.mini.pair import Pair, Parts, without_answer
from notice_lens.mini.picture import Picture
from notice_lens.mini.pictures.emoji import Emoji, random_emoji
from notice_lens.mini.pictures.ground import Ground, ground
from notice_lens.mini.pictures.names import ANIMALS, OBJECTS, PEOPLE, VERBS
from notice_lens.mini.questions import Question, compose, either
from notice_lens.mini.stream import RandomStream

ACTOR_SIDE, OBJECT_SIDE, DISTANCE = 48.0, 38.0, 43.0
"""Widths of an actor and of an object, and the distance of their middles, in units."""


@dataclass(frozen=True)
class Duo:
    """An actor and the object near it."""

    actor: Emoji
    thing: Emoji


def things_of(scene: tuple[Duo, ...]) -> tuple[Emoji, ...]:
    """Return all things of a scene, each object before its actor."""
    return tuple(each for duo in scene for each in (duo.thing, duo.actor))


def duos(stream: RandomStream, actors: list[str], objects: list[str]) -> tuple[Duo, ...]:
    """Return one or two duos of these nouns, one above the other or side by side."""
    beside = stream.coin()
    rows = [32.0, 96.0] if len(actors) == 2 else [stream.uniform(32, 96)]
    made = []
    for number, (actor, other, row) in enumerate(zip(actors, objects, rows, strict=True)):
        row, first = row + stream.uniform(-2.5, 2.5), stream.coin()
        middle = stream.uniform(48, 80)
        along = (
            (middle - DISTANCE / 2, middle + DISTANCE / 2) if first else (middle + DISTANCE / 2, middle - DISTANCE / 2)
        )
        across = (row, row + stream.uniform(-1, 3))
        places = list(zip(along, across, strict=True)) if beside else list(zip(across, along, strict=True))
        made.append(
            Duo(
                random_emoji(
                    stream, f"actor{number}", actor, places[0], ACTOR_SIDE * stream.uniform(0.95, 1.08), tilt=0.08
                ),
                random_emoji(
                    stream, f"thing{number}", other, places[1], OBJECT_SIDE * stream.uniform(0.93, 1.07), tilt=0.1
                ),
            )
        )
    return tuple(made)


def random_nouns(stream: RandomStream, count: int) -> tuple[list[str], list[str]]:
    """Return `count` different actors and as many objects; three of five actors are people."""
    people, animals = stream.sample(PEOPLE, 2), stream.sample(ANIMALS, 2)
    actors = [people.pop() if stream.coin(0.6) else animals.pop() for _ in range(count)]
    return actors, stream.sample(OBJECTS, count)


def random_scene(stream: RandomStream, least: int = 1) -> tuple[Duo, ...]:
    """Return `least` to two duos at random; two people do different things."""
    scene = duos(stream, *random_nouns(stream, max(1 + stream.coin(0.75), least)))
    return _unlike(stream, scene)


def _unlike(stream: RandomStream, scene: tuple[Duo, ...]) -> tuple[Duo, ...]:
    """Return the scene with two people who do different things."""
    if len(scene) == 2 and scene[0].actor.look and scene[0].actor.look == scene[1].actor.look:
        verb = stream.choice([verb for verb in VERBS if verb != scene[0].actor.look])
        return scene[0], _doing(scene[1], verb)
    return scene


def _doing(duo: Duo, verb: str) -> Duo:
    return replace(duo, actor=duo.actor.having("verb", verb))


def _being(duo: Duo, noun: str) -> Duo:
    """Return the duo with another actor in the same place; a person keeps the verb if the new one is a person too."""
    actor = duo.actor
    look = actor.look if noun in PEOPLE else ""
    return replace(duo, actor=replace(actor, noun=noun, look=look))


def _with(duo: Duo, noun: str) -> Duo:
    return replace(duo, thing=replace(duo.thing, noun=noun))


def ask_subject(subject: str, other: str, verb: str, thing: str, swap: bool) -> Question:
    """Ask `is the <subject> or <other> <verb>?`, or, with a thing, `near the <thing>?`."""
    tail = [("verb", "near"), "the", ("object", thing)] if thing else [("verb", verb)]
    return compose("subject", subject, ["is", "the", *either(subject, other, swap), *tail, "?"])


def ask_verb(subject: str, verb: str, other: str, swap: bool) -> Question:
    """Ask `is the <subject> <verb> or <other>?`, as a question with roles."""
    return compose("verb", verb, ["is", "the", ("subject", subject), *either(verb, other, swap), "?"])


def ask_object(subject: str, thing: str, other: str, swap: bool) -> Question:
    """Ask `is the <subject> near the <thing> or <other>?`, as a question with roles."""
    pieces = ["is", "the", ("subject", subject), ("verb", "near"), "the", *either(thing, other, swap), "?"]
    return compose("object", thing, pieces)


def questions(scene: tuple[Duo, ...], stream: RandomStream, count: int, *, contested: bool = False) -> list[Question]:
    """Return random questions about a scene; mostly the other option is in the picture too.

    Args:
        scene: The scene.
        stream: Of random draws.
        count: How many questions.
        contested: Whether more are open, more ask for a subject, and the other option is nearly always in the picture.
    """
    asked = []
    for _ in range(count):
        duo = stream.choice(scene)
        others = [other for other in scene if other is not duo]
        groups = ("subject", "verb", "object") if duo.actor.look else ("subject", "object")
        group = stream.choice(("subject", *groups) if contested else groups)
        rival = others[0] if others and stream.coin(0.95 if contested else 0.75) else None
        asked.append(_ask(duo, rival, group, stream, 0.35 if contested else 0.2))
    return asked


def _ask(duo: Duo, rival: Duo | None, group: str, stream: RandomStream, share_open: float) -> Question:
    actor, near, swap, openly = duo.actor, duo.thing, stream.coin(), stream.coin(share_open)
    if group == "verb":
        if openly:
            return compose("verb", actor.look, ["what", "is", "the", ("subject", actor.noun), "doing", "?"])
        other = rival.actor.look if rival else ""
        return ask_verb(actor.noun, actor.look, other or _another(stream, VERBS, actor.look), swap)
    if group == "object":
        if openly:
            return compose("object", near.noun, ["what", "is", "the", ("subject", actor.noun), ("verb", "near"), "?"])
        return ask_object(
            actor.noun, near.noun, rival.thing.noun if rival else _another(stream, OBJECTS, near.noun), swap
        )
    verb = actor.look if actor.look and stream.coin(0.6) else ""
    if openly:
        tail = [("verb", verb)] if verb else [("verb", "near"), "the", ("object", near.noun)]
        return compose("subject", actor.noun, ["who", "is", *tail, "?"])
    other = rival.actor.noun if rival else _another(stream, (*PEOPLE, *PEOPLE, *ANIMALS), actor.noun)
    return ask_subject(actor.noun, other, verb, "" if verb else near.noun, swap)


def _another(stream: RandomStream, words: tuple[str, ...], word: str) -> str:
    return stream.choice([other for other in words if other != word])


def make_pair(stream: RandomStream, group: str, swap: bool) -> Pair:
    """Return a pair of a group (`subject`, `verb`, `object`); `swap` puts the right answer second in the question."""
    # In three of four pictures the other option is present.
    rival, behind = stream.coin(0.75), ground(stream)
    makers = {"subject": _subject_pair, "verb": _verb_pair, "object": _object_pair}
    return makers[group](stream, rival, swap, behind)


def _subject_pair(stream: RandomStream, rival: bool, swap: bool, behind: Ground) -> Pair:
    """Two actors exchange their places, or one becomes another; people go on doing what is done in the place."""
    by_verb = stream.coin(0.4)
    actors, objects = random_nouns(stream, 2)
    if by_verb:
        actors = stream.sample(PEOPLE, 2)
    scene = _unlike(stream, duos(stream, actors, objects))
    correct, incorrect = actors
    if rival:
        corrupt = _exchanged(stream, scene)
    else:
        scene = scene[:1]
        corrupt = (_becoming(stream, scene[0], incorrect),)
    verb, near = (scene[0].actor.look, "") if by_verb else ("", objects[0])
    donor_actor = stream.choice([animal for animal in ANIMALS if animal not in actors])
    unused = [animal for animal in ANIMALS if animal not in (*actors, donor_actor)]
    fifth, sixth = stream.sample(unused, 2)
    if by_verb:
        used = [duo.actor.look for duo in scene]
        verb_now = stream.choice([each for each in VERBS if each not in used])
        donor = (_doing(scene[0], verb_now), *scene[1:])
        donor_question = ask_subject(correct, fifth, verb_now, "", swap)
        control = ask_subject(incorrect, correct, scene[1].actor.look, "", not swap) if rival else None
    else:
        donor = (_becoming(stream, scene[0], donor_actor), *scene[1:])
        donor_question = ask_subject(donor_actor, fifth, "", near, swap)
        control = ask_subject(incorrect, correct, "", objects[1], not swap) if rival else None
    return _pair(
        "subject",
        behind,
        (scene, corrupt, donor),
        ask_subject(correct, incorrect, verb, near, swap),
        incorrect,
        without_answer(ask_subject(fifth, sixth, verb, near, swap)),
        donor_question,
        control,
    )


def _becoming(stream: RandomStream, duo: Duo, noun: str) -> Duo:
    """Return the duo with another actor; a person gets a verb at random if the old actor had none."""
    changed = _being(duo, noun)
    if noun in PEOPLE and not changed.actor.look:
        return replace(changed, actor=replace(changed.actor, look=stream.choice(VERBS)))
    return changed


def _exchanged(stream: RandomStream, scene: tuple[Duo, ...]) -> tuple[Duo, ...]:
    """Return the scene with its two actors in each other's places."""
    first, second = scene
    one, other = _being(first, second.actor.noun), _being(second, first.actor.noun)
    looks = [first.actor.look, second.actor.look]
    if bool(looks[0]) != bool(looks[1]):
        # One person: what they do goes with them.
        verb = looks[0] or looks[1]
        one, other = (
            replace(each, actor=replace(each.actor, look=verb if each.actor.noun in PEOPLE else ""))
            for each in (one, other)
        )
    return one, other


def _verb_pair(stream: RandomStream, rival: bool, swap: bool, behind: Ground) -> Pair:
    """Two people exchange what they do, or one does something else."""
    people, objects = stream.sample(PEOPLE, 2), stream.sample(OBJECTS, 2)
    scene = duos(stream, people, objects)
    correct, incorrect, third, fourth, fifth, sixth = stream.sample(VERBS, 6)
    scene = (_doing(scene[0], correct), _doing(scene[1], incorrect))[: 1 + rival]
    corrupt = (_doing(scene[0], incorrect), *(_doing(other, correct) for other in scene[1:]))
    donor = (_doing(scene[0], third), *scene[1:])
    control = ask_verb(people[1], incorrect, correct, not swap) if rival else None
    return _pair(
        "verb",
        behind,
        (scene, corrupt, donor),
        ask_verb(people[0], correct, incorrect, swap),
        incorrect,
        without_answer(ask_verb(people[0], fifth, sixth, swap)),
        ask_verb(people[0], third, fourth, swap),
        control,
    )


def _object_pair(stream: RandomStream, rival: bool, swap: bool, behind: Ground) -> Pair:
    """Two objects exchange their places, or one becomes another."""
    actors, _ = random_nouns(stream, 2)
    correct, incorrect, third, fourth, fifth, sixth = stream.sample(OBJECTS, 6)
    scene = _unlike(stream, duos(stream, actors, [correct, incorrect]))[: 1 + rival]
    corrupt = (_with(scene[0], incorrect), *(_with(other, correct) for other in scene[1:]))
    donor = (_with(scene[0], third), *scene[1:])
    control = ask_object(actors[1], incorrect, correct, not swap) if rival else None
    return _pair(
        "object",
        behind,
        (scene, corrupt, donor),
        ask_object(actors[0], correct, incorrect, swap),
        incorrect,
        without_answer(ask_object(actors[0], fifth, sixth, swap)),
        ask_object(actors[0], third, fourth, swap),
        control,
    )


def _pair(
    group: str,
    behind: Ground,
    scenes: tuple[tuple[Duo, ...], ...],
    question: Question,
    incorrect: str,
    corrupt_question: Question,
    donor_question: Question,
    control_question: Question | None,
) -> Pair:
    clean, corrupt, donor = (Picture(behind, things_of(scene)) for scene in scenes)
    parts: Parts = {
        "subject": ("actor0",),
        "object": ("thing0",),
        "distractor": ("actor1", "thing1") if len(scenes[0]) == 2 else (),
        "background": ("background",),
    }
    return Pair(
        task="scenes",
        group=group,
        clean=clean,
        corrupt=corrupt,
        donor=donor,
        question=question,
        incorrect=incorrect,
        corrupt_question=corrupt_question,
        donor_question=donor_question,
        control_question=control_question,
        clean_parts=parts,
    )
