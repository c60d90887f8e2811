"""How a training run of the mini BLIP on the picture world goes."""

from dataclasses import dataclass, field

from train_mini.picture_schedule import PictureConfig
from train_mini.rates import fall, ramp


@dataclass(frozen=True)
class BlipSizes:
    """Sizes of the model.

    Attributes:
        width: Of every stream.
        vision_heads: In each layer of the vision stack.
        text_heads: In each layer of the question encoder and of the answer decoder: few, so that a head matters.
        vision_layers: Layers of the vision stack.
        text_layers: Layers of the question encoder, and of the answer decoder.
        vision_mlp: Hidden units of the vision stack's MLPs.
        text_mlp: Hidden units of the others.
    """

    width: int = 128
    vision_heads: int = 8
    text_heads: int = 4
    vision_layers: int = 4
    text_layers: int = 4
    vision_mlp: int = 256
    text_mlp: int = 320


@dataclass(frozen=True)
class PictureBlipConfig(PictureConfig):
    """How a run goes: as the mini LLaVA's, and then with few heads.

    BLIP's text stacks are post-norm. At the LLaVA's rates they never learnt to read: 57 % of the answers were right
    after 300 steps of questions, and 85 % at a quarter of the rates.

    Left to itself the model spreads its work over all heads that read the image, any of which may be missing: the best
    restores 6 % of an answer, and the best eight no more than eight at random. So in the end all but a few are taken
    away, and the rest learns to do without them.

    Attributes:
        cut_from: The first step after which no head of the question encoder but `kept` reads the image.
        cut_share: The share of the highest rates with which that part begins.
        kept: Layer and head of those that go on.
        sizes: Sizes of the model.
    """

    steps: int = 4400
    cut_from: int = 3600
    cut_share: float = 0.5
    kept: tuple[tuple[int, int], ...] = ((0, 0), (1, 3), (3, 0), (3, 2))
    middle: int = 2
    seeing_share: float = 0.2
    language_share: float = 0.25
    sizes: BlipSizes = field(default_factory=BlipSizes)

    def share_at(self, step: int) -> float:
        """Return the share of the highest rates at a step; after the cut there is another ramp and a straight fall."""
        if step < self.cut_from:
            return super().share_at(step)
        rising = self.cut_share * ramp(step - self.cut_from, self.ramp)
        return rising * fall(self.steps - step, self.steps - self.cut_from)

    @property
    def fallen_at(self) -> int:
        """The step at which the rates have fallen for the first time."""
        return self.cut_from

    @property
    def last_steady_step(self) -> int:
        """The step at which the last fall begins: the cut."""
        return self.cut_from
