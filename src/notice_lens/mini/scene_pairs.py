"""Pairs of the task `scenes`: two shapes exchange their places, or one shape becomes another.

Where the other option is in the picture too (three of four), things stand in a row so that the opposite relation, or
the other neighbour, has the other answer:

    subject   s  o  s'    is s or s' above o?     control: is s or s' below o?
    verb      o' s  o     is s above or below o?  control: is s above or below o'?
    object    o' s  o     is s above o or o'?     control: is s below o or o'?
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from notice_lens.mini import scenes
from notice_lens.mini.pair import Pair, Parts, without_answer
from notice_lens.mini.picture import Background
from notice_lens.mini.questions import Question
from notice_lens.mini.scenes import CONTAINERS, GRID, OPPOSITE, Scene
from notice_lens.mini.shapes import SHAPES
from notice_lens.mini.stream import RandomStream
from notice_lens.mini.things import background


@dataclass(frozen=True)
class _Layout:
    """A scene, the relation asked about, and the places of what is asked about."""

    scene: Scene
    relation: str
    subject: int
    thing: int
    third: int

    def shape(self, place: int) -> str:
        return self.scene.things[place].shape

    def absent(self) -> list[str]:
        return [shape for shape in SHAPES if shape not in [thing.shape for thing in self.scene.things]]


def make_pair(stream: RandomStream, group: str, swap: bool) -> Pair:
    """Return a pair of a group (`subject`, `verb`, `object`); `swap` puts the right answer second in the question."""
    # In three of four pictures the other option is present.
    rival = stream.coin(0.75)
    makers: dict[str, Callable[[RandomStream, bool, bool, Background], Pair]] = {
        "subject": _subject_pair,
        "verb": _verb_pair,
        "object": _object_pair,
    }
    return makers[group](stream, rival, swap, background(stream))


def _row(stream: RandomStream, *, subject_in_middle: bool) -> _Layout:
    """Three things in a row: the subject, the thing it relates to, and a third on the other side of the middle one."""
    axis, first = stream.below(2), stream.coin()
    scene = scenes.row_of_three(stream, axis, stream.sample(SHAPES, 3))
    ends = (0, 2) if first else (2, 0)
    relation = (("left", "above") if first else ("right", "below"))[axis]
    if subject_in_middle:
        return _Layout(scene, relation, subject=1, thing=ends[1], third=ends[0])
    return _Layout(scene, relation, subject=ends[0], thing=1, third=ends[1])


def _nest(stream: RandomStream) -> _Layout:
    container = stream.choice(CONTAINERS)
    inner, outer = stream.sample([shape for shape in SHAPES if shape != container], 2)
    scene = scenes.nest(stream, inner, container, [outer])
    if stream.coin():
        return _Layout(scene, "inside", subject=1, thing=0, third=2)
    return _Layout(scene, "outside", subject=2, thing=0, third=1)


def _changed(layout: _Layout, place: int, shape: str) -> Scene:
    """Return the scene with another shape at a place."""
    things = list(layout.scene.things)
    things[place] = things[place].having("shape", shape)
    return replace(layout.scene, things=tuple(things))


def _subject_pair(stream: RandomStream, rival: bool, swap: bool, behind: Background) -> Pair:
    layout = _nest(stream) if stream.coin(0.25) else _row(stream, subject_in_middle=False)
    return _end_pair(stream, rival, swap, behind, layout, "subject")


def _object_pair(stream: RandomStream, rival: bool, swap: bool, behind: Background) -> Pair:
    return _end_pair(stream, rival, swap, behind, _row(stream, subject_in_middle=True), "object")


def _end_pair(stream: RandomStream, rival: bool, swap: bool, behind: Background, layout: _Layout, group: str) -> Pair:
    """Return a pair about one end of a relation, its subject or its object."""
    ends = (layout.subject, layout.thing) if group == "subject" else (layout.thing, layout.subject)
    correct, other_end = layout.shape(ends[0]), layout.shape(ends[1])

    def ask(first: str, second: str, relation: str, swap: bool) -> Question:
        if group == "subject":
            return scenes.ask_subject(first, second, relation, other_end, swap)
        return scenes.ask_object(other_end, relation, first, second, swap)

    third, *others = stream.sample(layout.absent(), 4)
    incorrect = layout.shape(layout.third) if rival else others.pop()
    corrupt = layout.scene.exchanged(ends[0], layout.third) if rival else _changed(layout, ends[0], incorrect)
    return _pair(
        layout,
        behind,
        group=group,
        corrupt=corrupt,
        donor=_changed(layout, ends[0], third),
        question=ask(correct, incorrect, layout.relation, swap),
        incorrect=incorrect,
        corrupt_question=without_answer(ask(others[0], others[1], layout.relation, swap)),
        donor_question=ask(third, others[0], layout.relation, swap),
        control_question=ask(incorrect, correct, OPPOSITE[layout.relation], not swap) if rival else None,
    )


def _verb_pair(stream: RandomStream, rival: bool, swap: bool, behind: Background) -> Pair:
    layout = _row(stream, subject_in_middle=True)
    if not rival:
        # Without the third thing the control has nothing to ask about.
        kept = [place for place in range(3) if place != layout.third]
        scene = Scene(tuple(layout.scene.things[place] for place in kept))
        layout = _Layout(scene, layout.relation, kept.index(layout.subject), kept.index(layout.thing), third=-1)
    relation, subject, thing = layout.relation, layout.shape(layout.subject), layout.shape(layout.thing)
    corrupt = layout.scene.exchanged(layout.subject, layout.thing)
    of = relation in ("left", "right")
    other_thing = layout.shape(layout.third) if rival else stream.choice(layout.absent())
    control = scenes.ask_verb(subject, OPPOSITE[relation], relation, other_thing, not swap) if rival else None
    return _pair(
        layout,
        behind,
        group="verb",
        corrupt=corrupt,
        donor=_beside(stream, layout, horizontal=of),
        question=scenes.ask_verb(subject, relation, OPPOSITE[relation], thing, swap),
        incorrect=OPPOSITE[relation],
        corrupt_question=scenes.ask_verb(subject, "outside", "inside", thing, swap, of),
        donor_question=scenes.ask_verb(thing, "outside", "inside", subject, swap, of),
        control_question=control,
        moved=True,
    )


def _beside(stream: RandomStream, layout: _Layout, horizontal: bool) -> Scene:
    """Return the scene with the subject level with the thing, so that neither of two opposite relations holds."""
    things = list(layout.scene.things)
    subject, thing = things[layout.subject], things[layout.thing]
    # The thing has its row (or column) of the grid to itself: two other cells of it are free.
    across = thing.y if horizontal else thing.x
    free = stream.choice([place for place in GRID if abs(place - across) > 10])
    things[layout.subject] = replace(subject, x=thing.x, y=free) if horizontal else replace(subject, x=free, y=thing.y)
    return replace(layout.scene, things=tuple(things))


def _pair(
    layout: _Layout,
    behind: Background,
    *,
    group: str,
    corrupt: Scene,
    donor: Scene,
    question: Question,
    incorrect: str,
    corrupt_question: Question,
    donor_question: Question,
    control_question: Question | None,
    moved: bool = False,
) -> Pair:
    """Return the pair; `moved` says that subject and object have changed places in the corrupted picture."""

    def parts(subject: int, thing: int) -> Parts:
        names = [each.name for each in layout.scene.things]
        third = (names[layout.third],) if layout.third >= 0 else ()
        return {
            "subject": (names[subject],),
            "object": (names[thing],),
            "distractor": third,
            "background": ("background",),
        }

    clean_parts = parts(layout.subject, layout.thing)
    return Pair(
        task="scenes",
        group=group,
        clean=layout.scene.picture(behind),
        corrupt=corrupt.picture(behind),
        donor=donor.picture(behind),
        question=question,
        incorrect=incorrect,
        corrupt_question=corrupt_question,
        donor_question=donor_question,
        control_question=control_question,
        clean_parts=clean_parts,
        corrupt_parts=parts(layout.thing, layout.subject) if moved else clean_parts,
    )
