"""The task `faces`: how does this face feel? Seven emotions, a coloured cap, two sizes, and things to be ignored.

In a pair the face's emotion changes. The corrupted question asks for the face's size or its cap's colour, and so has a
right answer too. In three of five pictures there is a kitten with an emotion of its own; where it feels what the other
option says, the same question about the kitten has the other answer.
"""

from dataclasses import dataclass, replace

from notice_lens.mini.faces import EMOTIONS
from notice_lens.mini.pair import Pair
from notice_lens.mini.picture import Picture
from notice_lens.mini.pictures.emoji import Emoji, other_words, random_emoji
from notice_lens.mini.pictures.ground import ground
from notice_lens.mini.pictures.names import COLOURED, LOOKS, OBJECTS, EmojiAttribute
from notice_lens.mini.pictures.states import ask
from notice_lens.mini.questions import Question, compose
from notice_lens.mini.stream import RandomStream

FACE_SIDES = {"big": 1.2, "small": 1.36}
"""Factor on the width of each size: a small face is large enough too to show its emotion."""


@dataclass(frozen=True)
class FaceScene:
    """A face, its cap, and possibly others: a kitten, a thing, or both."""

    face: Emoji
    cap: Emoji
    others: tuple[Emoji, ...]

    def things(self) -> tuple[Emoji, ...]:
        """Return all of them, the cap foremost."""
        return (*self.others, self.face, self.cap)

    def feeling(self, emotion: str) -> "FaceScene":
        """Return the scene with another emotion of the face."""
        return replace(self, face=self.face.having("emotion", emotion))

    @property
    def kitten(self) -> Emoji | None:
        """The kitten, if there is one."""
        return next((other for other in self.others if other.noun == "kitten"), None)


def random_scene(stream: RandomStream) -> FaceScene:
    """Return a face with everything drawn at random."""
    left, top = stream.coin(), stream.coin()
    place = (
        (42 if left else 86) + stream.uniform(-5, 5),
        (52 if top else 86) + stream.uniform(-4, 4),
    )
    size = stream.choice(("big", "small"))
    face = random_emoji(stream, "face", "face", place, FACE_SIDES[size] * stream.uniform(0.96, 1.04), tilt=0.1)
    face = face.having("size", size)
    return FaceScene(face, _cap(stream, face), _others(stream, left, top))


def _cap(stream: RandomStream, face: Emoji) -> Emoji:
    place = (face.x + stream.uniform(-1, 1), face.y - face.width * 0.47)
    cap = random_emoji(stream, "cap", "cap", place, face.width * 0.46, tilt=0.1)
    return replace(cap, shadow=False)


def _others(stream: RandomStream, left: bool, top: bool) -> tuple[Emoji, ...]:
    """Return a kitten and a thing, at most one of each, in the two corners that are farthest from the face."""
    x, y = (103.0 if left else 25.0), (103.0 if top else 25.0)
    corners = [(x, y), (x, 128 - y)]
    made = []
    if stream.coin(0.6):
        made.append(
            random_emoji(stream, "kitten", "kitten", corners.pop(stream.below(2)), 41 * stream.uniform(0.95, 1.05))
        )
    if stream.coin(0.5):
        nouns = [noun for noun in (*COLOURED, *OBJECTS) if noun != "cap"]
        place = corners.pop(stream.below(len(corners)))
        made.append(random_emoji(stream, "distractor", stream.choice(nouns), place, 32 * stream.uniform(0.9, 1.1)))
    return tuple(made)


def questions(scene: FaceScene, stream: RandomStream, count: int, *, contested: bool = False) -> list[Question]:
    """Return random questions about a scene, a few of them open.

    Args:
        scene: The scene.
        stream: Of random draws.
        count: How many questions.
        contested: Whether the other option is nearly always another thing's word, if one has another word.
    """
    return [_ask(scene, stream, 0.95 if contested else 0.5) for _ in range(count)]


def _ask(scene: FaceScene, stream: RandomStream, share_near: float) -> Question:
    # The face's emotion is asked for most often, then the kitten's.
    topics: list[tuple[Emoji, EmojiAttribute]] = [(scene.face, "emotion") for _ in range(4)]
    topics.extend([(scene.face, "size"), (scene.cap, "colour")])
    if scene.kitten:
        topics.extend([(scene.kitten, "emotion"), (scene.kitten, "emotion")])
    one, attribute = stream.choice(topics)
    if attribute == "emotion" and stream.coin(0.25):
        pieces = ["how", "does", "the", ("noun", one.noun), "feel", "?"]
        return compose("emotion", one.look, pieces)
    own = one.word(attribute)
    near = [word for other in scene.things() if (word := other.word(attribute)) and word != own]
    words = near if near and stream.coin(share_near) else other_words(attribute, own)
    return ask(one, attribute, stream.choice(words), stream.coin())


def make_pair(stream: RandomStream, group: str, swap: bool) -> Pair:
    """Return a pair (the only group is `emotion`); `swap` puts the right answer second in the question."""
    correct, incorrect, third, fourth = stream.sample(EMOTIONS, 4)
    behind, scene = ground(stream), random_scene(stream)
    kitten = scene.kitten
    shares = kitten is not None and incorrect in LOOKS["kitten"]
    if kitten and shares:
        others = tuple(other.having("emotion", incorrect) if other is kitten else other for other in scene.others)
        scene = replace(scene, others=others)
        kitten = scene.kitten
    clean, corrupt, donor = (scene.feeling(emotion) for emotion in (correct, incorrect, third))
    if stream.coin():
        other = "small" if scene.face.size == "big" else "big"
        corrupt_question = ask(clean.face, "size", other, swap)
    else:
        corrupt_question = ask(clean.cap, "colour", stream.choice(_wrong_colours(clean.cap)), swap)
    names = ("distractor", "kitten")
    parts = {
        "object": ("face",),
        "cap": ("cap",),
        "distractor": tuple(name for name in names if name in [other.name for other in scene.others]),
        "background": ("background",),
    }
    return Pair(
        task="faces",
        group=group,
        clean=Picture(behind, clean.things()),
        corrupt=Picture(behind, corrupt.things()),
        donor=Picture(behind, donor.things()),
        question=ask(clean.face, "emotion", incorrect, swap),
        incorrect=incorrect,
        corrupt_question=corrupt_question,
        donor_question=ask(donor.face, "emotion", fourth, swap),
        control_question=ask(kitten, "emotion", correct, not swap) if kitten and shares else None,
        clean_parts=parts,
    )


def _wrong_colours(cap: Emoji) -> list[str]:
    return [look for look in LOOKS["cap"] if look != cap.look]
