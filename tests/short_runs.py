"""Short runs of both trainers, on models so small that a step takes a moment."""

from typing import Any

from train_mini.blip.model import MiniConfig
from train_mini.blip.schedule import TrainConfig
from train_mini.llava.model import LlavaSizes
from train_mini.llava.schedule import LlavaConfig
from train_mini.picture_blip.schedule import BlipSizes, PictureBlipConfig

TINY_BLIP = MiniConfig(width=64, heads=8, vision_layers=2, text_layers=1, mlp=64)
TINY_LLAVA = LlavaSizes(width=32, heads=2, vision_layers=2, language_layers=2, vision_mlp=32, language_mlp=32)
SHORT_BLIP = TrainConfig(
    steps=8,
    warm_steps=2,
    relations_from=4,
    choices_from=6,
    images=6,
    questions=2,
    ramp=2,
    fall=0.5,
    model=TINY_BLIP,
)
TINY_PICTURE_BLIP = BlipSizes(
    width=32, vision_heads=2, text_heads=2, vision_layers=2, text_layers=2, vision_mlp=32, text_mlp=32
)
SHORT_OF_PICTURES: dict[str, Any] = {
    "warm_steps": 2,
    "joint_from": 4,
    "contested_from": 3,
    "told_from": 3,
    "middle": 1,
    "warm_images": 4,
    "images": 3,
    "questions": 2,
    "ramp": 2,
    "fall": 0.5,
}
SHORT_LLAVA = LlavaConfig(steps=6, sizes=TINY_LLAVA, **SHORT_OF_PICTURES)
SHORT_PICTURE_BLIP = PictureBlipConfig(
    steps=7, cut_from=5, kept=((0, 1),), sizes=TINY_PICTURE_BLIP, **SHORT_OF_PICTURES
)
