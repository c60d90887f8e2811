"""The examples that the mini BLIP learns from: fresh pictures, questions about them, and labels of their patches.

Every example has a number, and the number alone decides it. So a run that is resumed at step 500 sees the same
examples as one that was never stopped, and no two steps see the same one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from notice_lens.mini import faces, scenes, states
from notice_lens.mini.picture import Drawing
from notice_lens.mini.questions import Question
from notice_lens.mini.stream import RandomStream
from notice_lens.mini.things import ATTRIBUTE_VALUES, Thing, background
from notice_lens.mini.vocabulary import tokens
from train_mini.patches import NOTHING, UNKNOWN, patch_labels, patch_shares

FACE = "face"

PATCH_CLASSES: dict[str, tuple[str, ...]] = {
    "shape": (*ATTRIBUTE_VALUES["shape"], NOTHING, FACE),
    "colour": ATTRIBUTE_VALUES["colour"],
    "texture": ATTRIBUTE_VALUES["texture"],
    "form": ATTRIBUTE_VALUES["form"],
    "emotion": faces.EMOTIONS,
}
"""What the vision stack names in each patch during training."""


@dataclass(frozen=True)
class Mix:
    """The topics of examples.

    Attributes:
        scenes: Share of them that are scenes.
        states: Share of them that are states; the rest are faces.
        groups: Groups of the questions about scenes, as `scenes.questions` takes them.
        contested: Likewise.
    """

    scenes: float
    states: float
    groups: tuple[str, ...]
    contested: bool = False


EASY = Mix(0.52, 0.38, scenes.SCENE_GROUPS)
RELATIONS = Mix(0.68, 0.26, ("subject", "object", "verb", "verb", "centre", "centre"))
"""Naming how two places relate is learnt last: as soon as the rest goes well, most questions are about that. The easier
case, one place and the centre of the picture, leads there; without it `verb` stayed at chance for a thousand steps."""

CHOICES = Mix(0.68, 0.26, ("subject", "subject", "object", "object", "sides", "sides", "verb"), contested=True)
"""In the end most questions are about which of two things of the picture stands where. Before, one option is often
absent, and that is what the model goes by. Again an easier case leads there: which of two is left of the centre?"""

MAX_TOKENS = 10


@dataclass(frozen=True)
class Batch:
    """Examples.

    Attributes:
        pixels: uint8 [image, size, size, 3].
        patches: Class numbers by kind of `PATCH_CLASSES`, or `UNKNOWN`; int16 [image, kind, patch].
        questions: Token ids, padded with 0; int16 [image, question, pos].
        answers: Token ids of the right answers; int16 [image, question].
    """

    pixels: NDArray[np.uint8]
    patches: NDArray[np.int16]
    questions: NDArray[np.int16]
    answers: NDArray[np.int16]


@dataclass(frozen=True)
class Examples:
    """The endless stream of examples of one seed.

    Attributes:
        seed: Of the training run.
        questions: How many questions each picture is asked.
        relations_from: Step from which on the mix is `RELATIONS`; None is never.
        choices_from: Step from which on it is `CHOICES`.
        grid: Patches along a side of a picture.
    """

    seed: int
    questions: int = 8
    relations_from: int | None = None
    choices_from: int | None = None
    grid: int = 8

    def batch(self, step: int, images: int) -> Batch:
        """Return the examples of one training step."""
        mix = self._mix(step)
        made = [self._example(step * images + place, mix) for place in range(images)]
        padded = np.zeros((images, self.questions, MAX_TOKENS), np.int16)
        answers = np.zeros((images, self.questions), np.int16)
        for image, (_, _, asked) in enumerate(made):
            for place, question in enumerate(asked):
                text = tokens(question.text)
                padded[image, place, : len(text)] = text
                answers[image, place] = tokens(question.answer)[1]
        pixels = np.stack([example[0] for example in made])
        patches = np.stack([example[1] for example in made])
        return Batch(pixels, patches, padded, answers)

    def _mix(self, step: int) -> Mix:
        if self.choices_from is not None and step >= self.choices_from:
            return CHOICES
        return EASY if self.relations_from is None or step < self.relations_from else RELATIONS

    def _example(self, number: int, mix: Mix) -> tuple[NDArray[np.uint8], NDArray[np.int16], list[Question]]:
        stream = RandomStream("train", "examples", self.seed, number)
        behind, share = background(stream), stream.uniform()
        seen: tuple[Thing, ...] | faces.Face
        if share < mix.scenes:
            scene = scenes.random_scene(stream)
            picture, seen = scene.picture(behind), scene.things
            asked = scenes.questions(scene, stream, self.questions, mix.groups, contested=mix.contested)
        elif share < mix.scenes + mix.states:
            seen = states.random_scene(stream)
            picture, asked = states.picture(seen, behind), states.questions(seen, stream, self.questions)
        else:
            seen = faces.face(stream)
            picture, asked = seen.picture(behind), faces.questions(seen, stream, self.questions)
        drawing = picture.drawn()
        return drawing.pixels, self._labels(drawing, seen), asked

    def _labels(self, drawing: Drawing, seen: tuple[Thing, ...] | faces.Face) -> NDArray[np.int16]:
        """Return class numbers of what is seen in each patch, int16 [kind, patch]."""
        if isinstance(seen, faces.Face):
            return face_labels(drawing, seen, self.grid)
        words = {thing.name: {kind: getattr(thing, kind, None) for kind in PATCH_CLASSES} for thing in seen}
        return patch_labels(PATCH_CLASSES, drawing, words, self.grid)


def face_labels(drawing: Drawing, face: faces.Face, grid: int) -> NDArray[np.int16]:
    """Return class numbers, int16 [kind, patch], for the patches that a face fills by half: `face`, its emotion."""
    kinds, shapes = list(PATCH_CLASSES), PATCH_CLASSES["shape"]
    labels = np.full((len(kinds), grid * grid), UNKNOWN, np.int16)
    filled = patch_shares(drawing, faces.FACE_PARTS, grid).sum(axis=0)
    labels[0, filled < 0.05] = shapes.index(NOTHING)
    labels[0, filled >= 0.5] = shapes.index(FACE)
    labels[kinds.index("emotion"), filled >= 0.5] = faces.EMOTIONS.index(face.emotion)
    return labels
