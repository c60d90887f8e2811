"""Train the mini BLIP from scratch: `PYTHONPATH=tools python -m train_mini.blip.train --out runs/mini`.

Every step sees fresh pictures. For the first steps the vision stack alone learns to name what is in each patch
(shape, colour, texture, form, emotion); then the whole model answers several questions about each picture, while the
patches go on being named with less weight. The patch heads are thrown away at the end: what is saved is an ordinary
`BlipForQuestionAnswering`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from notice_lens.mini.generate import WorldName
from notice_lens.mini.questions import Question
from notice_lens.mini.vocabulary import processor
from train_mini.blip.evaluate import ask
from train_mini.blip.examples import Batch, Examples
from train_mini.blip.model import answer_logits, encode_images, new_model
from train_mini.blip.patch_heads import PatchHeads
from train_mini.blip.places import place_loss
from train_mini.blip.schedule import TrainConfig
from train_mini.measure import Answers
from train_mini.pixels import normalised
from train_mini.run import Trainer, training_command


class BlipTrainer(Trainer):
    """A run of the mini BLIP.

    Args:
        config: How the run goes.
        folder: Where its checkpoint and log are; a run that is there already is resumed.
        device: Such as `cpu` or `cuda`.
    """

    world: ClassVar[WorldName] = "drawn"
    patch_column = "shape_accuracy"
    log_every, save_every = 50, 250

    def __init__(self, config: TrainConfig, folder: Path, device: str = "cpu"):
        model = new_model(config.model, config.seed).to(device).train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed + 1)
            heads = PatchHeads(config.model.width).to(device)
        parameters = [*model.parameters(), *heads.parameters()]
        groups = [
            {"params": [each for each in parameters if each.ndim >= 2], "weight_decay": config.decay},
            {"params": [each for each in parameters if each.ndim < 2], "weight_decay": 0.0},
        ]
        adam = torch.optim.AdamW(groups, lr=config.rate, betas=(0.9, 0.98), fused=True)
        tokenizer = processor().tokenizer
        self._start, self._end = tokenizer.bos_token_id, tokenizer.sep_token_id
        super().__init__(config, folder, device, model, heads, {"adam": adam})

    def examples(self) -> Examples:
        """Return the stream of examples."""
        config = self.config
        return Examples(config.seed, config.questions, config.relations_from, config.choices_from)

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the loss of the answers, their accuracy, the loss of naming patches, and its accuracy."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bfloat16):
            states = encode_images(self.model, normalised(torch.from_numpy(batch.pixels).to(self.device)))
            patches, patch_accuracy = self.naming(states, self.long(batch.patches))
            if self.warming:
                return patches.new_zeros(()), patches.new_zeros(()), patches, patch_accuracy
            right = self.long(batch.answers)
            given = torch.stack([torch.full_like(right, self._start), right], dim=-1)
            wanted = torch.stack([right, torch.full_like(right, self._end)], dim=-1)
            if self.step >= self.config.relations_from:
                patches = patches + place_loss(states)
            logits = answer_logits(self.model, states, self.long(batch.questions), given).float()
            loss = functional.cross_entropy(logits.flatten(0, 2), wanted.flatten())
            return 2 * loss, (logits[:, :, 0].argmax(-1) == right).float().mean(), patches, patch_accuracy

    def ask(self, pixels: Sequence[NDArray[np.uint8]], questions: Sequence[Question]) -> Answers:
        """Ask the model one question about each picture."""
        return ask(self.model, pixels, questions)

    def processor(self) -> Any:
        """Return the processor that is saved with the model."""
        return processor(self.model.config.vision_config.image_size)


OPTIONS = {
    "steps": "Steps in all.",
    "warm_steps": "Steps in which the vision stack learns by itself.",
    "relations_from": "Step from which on most questions are about relations.",
    "choices_from": "Step from which on most questions offer two things of the picture.",
    "images": "Pictures a step.",
    "questions": "Questions about each picture.",
    "rate": "Highest learning rate.",
    "seed": "Seed of the first weights and the examples.",
    "bfloat16": "Multiply matrices in bfloat16; the weights stay in float32.",
}

main = training_command(BlipTrainer, TrainConfig, OPTIONS)

if __name__ == "__main__":
    main()
