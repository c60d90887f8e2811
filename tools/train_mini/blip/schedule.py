"""How a training run of the mini BLIP goes: its lengths, its sizes, and the learning rate of every step."""

from dataclasses import dataclass, field

from train_mini.blip.model import MiniConfig
from train_mini.rates import fall, ramp


@dataclass(frozen=True)
class TrainConfig:
    """How a run goes.

    Attributes:
        seed: Of the first weights and of the examples.
        steps: In all.
        warm_steps: The first of them, in which the vision stack learns by itself.
        relations_from: Step from which on most questions are about relations, and patches tell their places.
        choices_from: Step from which on most questions have two things of the picture for options, and the rate's
            second plateau begins.
        images: Pictures a step.
        questions: About each picture.
        rate: Learning rate of the first plateau.
        second_rate: Learning rate of the second.
        ramp: Steps in which the rate rises, at the start and again when the questions begin.
        decay: Weight decay.
        fall: Share of the steps before and after `choices_from` at whose end the rate falls to a hundredth.
        patch_weight: Of the loss for naming patches, once questions are asked.
        bfloat16: Whether matrices are multiplied in bfloat16 (weights stay in float32).
        model: Sizes of the model.
    """

    seed: int = 0
    steps: int = 5300
    warm_steps: int = 1500
    relations_from: int = 2250
    choices_from: int = 4300
    images: int = 64
    questions: int = 4
    rate: float = 1e-3
    second_rate: float = 5e-4
    ramp: int = 200
    decay: float = 0.05
    fall: float = 0.35
    patch_weight: float = 1.0
    bfloat16: bool = True
    model: MiniConfig = field(default_factory=MiniConfig)

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step: twice a plateau and a straight fall, ramps where something begins."""
        first, last = (0, self.choices_from) if step < self.choices_from else (self.choices_from, self.steps)
        since = step - max(begin for begin in (0, self.warm_steps, first) if begin <= step)
        plateau = self.rate if step < self.choices_from else self.second_rate
        return plateau * ramp(since, self.ramp) * fall(last - step, self.fall * (last - first))

    def images_at(self, step: int) -> int:
        """Return the number of pictures of a step: always the same."""
        return self.images

    @property
    def last_steady_step(self) -> int:
        """The step at which the last fall begins; up to it a run does not depend on `steps`."""
        return int(self.choices_from + (1 - self.fall) * (self.steps - self.choices_from))
