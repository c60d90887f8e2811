"""How a training run on the picture world goes: its lengths, and the learning rate of every step."""

from dataclasses import dataclass

from train_mini.rates import fall, ramp


@dataclass(frozen=True)
class PictureConfig:
    """How a run goes.

    Attributes:
        seed: Of the first weights and of the examples.
        steps: In all.
        warm_steps: The first of them, in which tower and projector learn to name patches.
        joint_from: Step from which on the answers' loss reaches tower and projector too. Before, image tokens keep the
            meaning that the patches' names give them: what a language model that cannot read them yet asks of them
            is noise, and undid it within a hundred steps.
        warm_images: Pictures a step among those.
        images: Pictures a step, once questions are asked.
        seen_images: Pictures a step from `seen_from` on: questions are asked about `images` of them, of the others only
            the patches are named, which costs little.
        seen_from: See there.
        questions: About each picture.
        contested_from: Step from which on most questions offer what is in the picture.
        told_from: Step from which on the language model tells, at the word that names a thing, what the thing is like.
        told_weight: Of the loss for that.
        middle: Layers of the language model after which it is told.
        rate: Highest learning rate of AdamW, for embeddings, norms and so on.
        matrix_rate: Highest learning rate of Muon, for the matrices inside of the blocks.
        seeing_share: Factor on the rates of tower and projector, once questions are asked: steps have fewer pictures.
        embedding_share: Factor on the embeddings' rate, once questions are asked. At the full rate they are rewritten
            within fifty steps, and patches lose their names.
        language_share: Factor on the rates of everything else that reads words, once questions are asked.
        ramp: Steps in which the rate rises, at the start and again when the questions begin.
        decay: Weight decay of those matrices.
        fall: Share of the steps with questions at whose end the rate falls to a hundredth.
        patch_weight: Of the loss for naming patches, once questions are asked.
    """

    seed: int = 0
    steps: int = 3600
    warm_steps: int = 400
    joint_from: int = 1000
    warm_images: int = 48
    images: int = 12
    seen_images: int = 28
    seen_from: int = 600
    questions: int = 16
    contested_from: int = 800
    told_from: int = 600
    told_weight: float = 0.5
    middle: int = 3
    rate: float = 2e-3
    matrix_rate: float = 0.02
    seeing_share: float = 0.4
    embedding_share: float = 0.1
    language_share: float = 1.0
    ramp: int = 50
    decay: float = 0.02
    fall: float = 0.4
    patch_weight: float = 1.0

    def images_at(self, step: int) -> int:
        """Return the number of pictures of a step, with questions or without."""
        if step < self.warm_steps:
            return self.warm_images
        return self.images if step < self.seen_from else max(self.images, self.seen_images)

    def share_at(self, step: int) -> float:
        """Return the share of the highest rates at a step: ramps where something begins, a plateau, a straight fall."""
        since = step if step < self.warm_steps else step - self.warm_steps
        length = max(self.fall * (self.fallen_at - self.warm_steps), 1.0)
        return ramp(since, self.ramp) * fall(self.fallen_at - step, length)

    @property
    def fallen_at(self) -> int:
        """The step at which the rates have fallen."""
        return self.steps

    def rate_at(self, step: int) -> float:
        """Return AdamW's highest learning rate at a step."""
        return self.rate * self.share_at(step)

    def factor_of(self, kind: str, step: int) -> float:
        """Return the factor on the rates of a kind of weights (`seeing`, `embedding`, `language`) at a step."""
        factors = {
            "seeing": self.seeing_share,
            "embedding": self.embedding_share,
            "language": self.language_share,
        }
        return 1.0 if step < self.warm_steps else factors[kind]

    @property
    def last_steady_step(self) -> int:
        """The step at which the fall begins; up to it a run does not depend on `steps`."""
        return int(self.steps - self.fall * (self.steps - self.warm_steps))
