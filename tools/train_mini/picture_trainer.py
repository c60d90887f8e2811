"""A training run on the picture world, whatever model it trains: its optimizers, its rates and its examples.

The blocks' matrices are trained by Muon, everything else by AdamW. What a weight is of (`kind_of`) decides its rate.
"""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from notice_lens.mini.generate import WorldName
from train_mini.optimizer import Muon
from train_mini.patch_words import PatchWords
from train_mini.picture_examples import PictureExamples
from train_mini.run import Trainer

PICTURE_OPTIONS = {
    "steps": "Steps in all.",
    "warm_steps": "Steps in which the model learns to see, and is asked nothing.",
    "joint_from": "Step from which on answers train seeing too.",
    "images": "Pictures a step with questions.",
    "warm_images": "Pictures a step before.",
    "questions": "Questions about each picture.",
    "rate": "Highest learning rate.",
    "matrix_rate": "Highest learning rate of the blocks' matrices.",
    "seed": "Seed of the first weights and the examples.",
}
"""The fields of a `PictureConfig` that are options of a training command, with their help."""


class PictureTrainer(Trainer):
    """A run on the picture world.

    Args:
        config: How the run goes: a `PictureConfig` with sizes.
        folder: Where its checkpoint and log are; a run that is there already is resumed.
        device: Such as `cpu` or `cuda`.
    """

    world: ClassVar[WorldName] = "pictures"
    patch_column = "noun_accuracy"
    log_every, save_every = 25, 100
    examples_of: ClassVar[type[PictureExamples]]
    naming_scale: ClassVar[float]
    """Factor on the products of image tokens and embeddings, see `PatchWords`."""

    def __init__(self, config: Any, folder: Path, device: str = "cpu"):
        model = self.new_model(config).to(device).train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed + 1)
            words = PatchWords(config.sizes.width, self.ids(), self.naming_scale).to(device)
        muon = Muon(self._groups(model, words, matrices=True), lr=config.matrix_rate, decay=config.decay)
        others = self._groups(model, words, matrices=False)
        adam = torch.optim.AdamW(others, lr=config.rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        super().__init__(config, folder, device, model, words, {"adam": adam, "muon": muon})

    @staticmethod
    @abstractmethod
    def new_model(config: Any) -> Any:
        """Return the untrained model."""

    @staticmethod
    @abstractmethod
    def ids() -> Mapping[str, int]:
        """Return the token of each word."""

    @staticmethod
    @abstractmethod
    def kind_of(name: str) -> str:
        """Return what a weight is of: `seeing`, `embedding` or `language`, as `PictureConfig.factor_of` takes it."""

    @classmethod
    def _groups(cls, model: nn.Module, words: PatchWords, *, matrices: bool) -> list[dict[str, Any]]:
        """Return the blocks' matrices, or all other parameters, by what they are of; fused ones by themselves."""
        groups: dict[tuple[str, int], list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if (parameter.ndim == 2 and (".layer." in name or ".layers." in name)) == matrices:
                parts = 3 if matrices and "qkv" in name else 1
                groups.setdefault((cls.kind_of(name), parts), []).append(parameter)
        if not matrices:
            groups.setdefault(("seeing", 1), []).extend(words.parameters())
        return [{"params": some, "kind": kind, "parts": parts} for (kind, parts), some in groups.items()]

    def examples(self) -> PictureExamples:
        """Return the stream of examples."""
        return self.examples_of(self.config.seed, self.config.questions, self.config.contested_from)

    def set_rates(self) -> None:
        """Set the learning rates of the next step."""
        highest = {"adam": self.config.rate, "muon": self.config.matrix_rate}
        for name, optimizer in self.optimizers.items():
            rate = highest[name] * self.config.share_at(self.step)
            for group in optimizer.param_groups:
                group["lr"] = rate * self.config.factor_of(group["kind"], self.step)
