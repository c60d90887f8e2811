"""How a training run of the mini LLaVA goes."""

from dataclasses import dataclass, field

from train_mini.llava.model import LlavaSizes
from train_mini.picture_schedule import PictureConfig


@dataclass(frozen=True)
class LlavaConfig(PictureConfig):
    """How a run goes.

    Attributes:
        sizes: Sizes of the model.
    """

    sizes: LlavaSizes = field(default_factory=LlavaSizes)
