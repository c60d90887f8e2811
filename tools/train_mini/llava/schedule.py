"""How a training run of the mini LLaVA goes: its lengths, its sizes, and the learning rate of every step."""

from dataclasses import dataclass, field

from train_mini.llava.model import LlavaSizes


@dataclass(frozen=True)
class LlavaConfig:
    """How a run goes.

    Attributes:
        seed: Of the first weights and of the examples.
        steps: In all.
        warm_steps: The first of them, in which tower and projector learn to name patches.
        warm_images: Pictures a step among those.
        images: Pictures a step, once questions are asked.
        questions: About each picture.
        rate: Highest learning rate of AdamW, for embeddings, norms and so on.
        matrix_rate: Highest learning rate of Muon, for the matrices inside of the blocks.
        ramp: Steps in which the rate rises, at the start and again when the questions begin.
        decay: Weight decay of those matrices.
        fall: Share of the steps with questions at whose end the rate falls to a hundredth.
        patch_weight: Of the loss for naming patches, once questions are asked.
        sizes: Sizes of the model.
    """

    seed: int = 0
    steps: int = 3000
    warm_steps: int = 1000
    warm_images: int = 48
    images: int = 24
    questions: int = 8
    rate: float = 2e-3
    matrix_rate: float = 0.02
    ramp: int = 50
    decay: float = 0.02
    fall: float = 0.4
    patch_weight: float = 0.3
    sizes: LlavaSizes = field(default_factory=LlavaSizes)

    def images_at(self, step: int) -> int:
        """Pictures of a step."""
        return self.warm_images if step < self.warm_steps else self.images

    def share_at(self, step: int) -> float:
        """Share of the highest rates at a step: a ramp where something begins, a plateau, and a straight fall."""
        since = step if step < self.warm_steps else step - self.warm_steps
        rise = min(1.0, (since + 1) / self.ramp) if self.ramp else 1.0
        falling = self.fall * (self.steps - self.warm_steps)
        return rise * min(1.0, max(0.01, (self.steps - step) / max(falling, 1.0)))

    @property
    def last_steady_step(self) -> int:
        """The step at which the fall begins; up to it a run does not depend on `steps`."""
        return int(self.steps - self.fall * (self.steps - self.warm_steps))
