"""Examples of the picture world that a mini model learns from: fresh pictures, questions, and labels of their patches.

Every example has a number, and step and number alone decide it. So a run that is resumed at step 500 sees the same
examples as one that was never stopped, and no two steps see the same one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from notice_lens.mini.picture import Picture
from notice_lens.mini.pictures import faces, scenes, states
from notice_lens.mini.pictures.emoji import Emoji
from notice_lens.mini.pictures.ground import ground
from notice_lens.mini.pictures.names import ANIMALS, ATTRIBUTE_WORDS, LOOKS, OBJECTS, PEOPLE, SIZES
from notice_lens.mini.questions import Question
from notice_lens.mini.stream import RandomStream
from train_mini.patches import NOTHING, UNKNOWN, patch_labels

PATCH_WORDS: dict[str, tuple[str, ...]] = {
    "noun": (*LOOKS, NOTHING),
    "look": tuple(word for name, words in ATTRIBUTE_WORDS.items() if name != "size" for word in words),
    "size": tuple(SIZES),
    "near": (*PEOPLE, *ANIMALS, *OBJECTS),
}
"""What a patch is named by during training: what is there, what it looks like, how big it is, what it stands near."""

GRID = 8
"""Patches along a side of a picture."""

SCENES, STATES, CONTESTED_SCENES = 0.46, 0.38, 0.06
"""Shares of the examples; the rest are faces. Of contested ones the last share more are scenes."""

STATES_OF_PAIRS = 0.5
"""Share of contested pictures of states that are composed as a pair's are: another thing has the other option."""


@dataclass(frozen=True)
class Batch:
    """Examples.

    Attributes:
        pixels: uint8 [image, size, size, 3].
        patches: Numbers of words by kind of `PATCH_WORDS`, or `UNKNOWN`; int16 [image, kind, patch].
        questions: Token ids as a model's `written` gives them, padded with 0; int16 [image, question, pos].
        places: At which token the answer is given; int16 [image, question].
        answers: Token ids of the right answers; int16 [image, question].
        nouns: At which token of the question a thing of the picture is named, 0 where none is; int16 [image, question].
        told: What that thing is like, as `patches` but for its noun; int16 [image, question, kind].
    """

    pixels: NDArray[np.uint8]
    patches: NDArray[np.int16]
    questions: NDArray[np.int16]
    places: NDArray[np.int16]
    answers: NDArray[np.int16]
    nouns: NDArray[np.int16]
    told: NDArray[np.int16]


Written = tuple[NDArray[np.int16], NDArray[np.int16], NDArray[np.int16]]
"""Questions about each picture as token ids, the places of their answers, and the answers' ids."""


@dataclass(frozen=True)
class PictureExamples:
    """The endless stream of examples of one seed.

    Attributes:
        seed: Of the training run.
        questions: How many questions each picture is asked.
        contested_from: Step from which on three of four pictures have several things, and the questions about them
            offer what is there; None is never. Before, one option is often absent, and that is what the model goes by.
    """

    seed: int
    questions: int = 8
    contested_from: int | None = None

    def written(self, questions: list[list[Question]]) -> Written:
        """Return questions as the model's tokens."""
        raise NotImplementedError

    def batch(self, step: int, images: int) -> Batch:
        """Return the examples of one training step."""
        made = [self._example(step, number) for number in range(images)]
        pixels, patches = np.stack([one[0] for one in made]), np.stack([one[1] for one in made])
        nouns, told = np.stack([one[3][0] for one in made]), np.stack([one[3][1] for one in made])
        return Batch(pixels, patches, *self.written([one[2] for one in made]), nouns, told)

    def _example(self, step: int, number: int) -> tuple[Any, ...]:
        """Pixels, labels of patches, questions, and where and what is told of the things that they name."""
        stream = RandomStream("pictures", "train", "examples", self.seed, step, number)
        behind, share = ground(stream), stream.uniform()
        near: dict[str, str] = {}
        contested = self.contested_from is not None and step >= self.contested_from and number % 4 > 0
        share = max(share - CONTESTED_SCENES, 0.0) if contested else share
        if share < SCENES:
            scene = scenes.random_scene(stream, 1 + contested)
            seen = scenes.things_of(scene)
            near = {duo.actor.name: duo.thing.noun for duo in scene}
            near |= {duo.thing.name: duo.actor.noun for duo in scene}
            asked = scenes.questions(scene, stream, self.questions, contested=contested)
        elif share < SCENES + STATES:
            seen = _contested_states(stream) if contested else states.random_scene(stream)
            asked = states.questions(seen, stream, self.questions, contested=contested)
        else:
            face = faces.random_scene(stream)
            seen, asked = face.things(), faces.questions(face, stream, self.questions, contested=contested)
        drawing = Picture(behind, seen).drawn()
        words = {
            each.name: {"noun": each.noun, "look": each.look, "size": each.size, "near": near.get(each.name)}
            for each in seen
        }
        return drawing.pixels, patch_labels(PATCH_WORDS, drawing, words, GRID), asked, _told(asked, seen, words)


def _contested_states(stream: RandomStream) -> tuple[Emoji, ...]:
    """Return three things at random, or those of a pair."""
    if not stream.coin(STATES_OF_PAIRS):
        return states.random_scene(stream, 3)
    pair = states.make_pair(stream, stream.choice(states.STATE_ATTRIBUTES), stream.coin())
    return tuple(part for part in pair.clean.parts if isinstance(part, Emoji))


def _told(
    asked: list[Question], seen: tuple[Emoji, ...], words: dict[str, dict[str, str | None]]
) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Where each question names a thing, or what one does, and numbers of words for what that thing is like."""
    places, told = np.zeros(len(asked), np.int16), np.full((len(asked), len(PATCH_WORDS) - 1), UNKNOWN, np.int16)
    for number, question in enumerate(asked):
        role = next(role for role in ("noun", "subject", "object", "verb") if role in question.roles)
        first, last = question.roles[role]
        word = question.text[first:last]
        thing = next(thing for thing in seen if word == (thing.look if role == "verb" else thing.noun))
        places[number] = len(question.text[:first].split())
        # A verb tells who does it.
        described = {"near": thing.noun} if role == "verb" else words[thing.name]
        for kind, name in enumerate(list(PATCH_WORDS)[1:]):
            if described.get(name):
                told[number, kind] = PATCH_WORDS[name].index(described[name])
    return places, told
