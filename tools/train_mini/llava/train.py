"""Train the mini LLaVA from scratch: `PYTHONPATH=tools python -m train_mini.llava.train --out runs/llava`.

Every step sees fresh pictures. For the first steps tower and projector learn to name what is in each patch, in the
language model's embeddings; then the whole model answers several questions about each picture, while the patches go on
being named with less weight.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from notice_lens.mini.questions import Question
from train_mini.llava.evaluate import ask
from train_mini.llava.examples import Examples
from train_mini.llava.model import answer_logits, image_tokens, new_model
from train_mini.llava.schedule import LlavaConfig
from train_mini.llava.vocabulary import ids, processor
from train_mini.measure import Answers
from train_mini.picture_examples import Batch
from train_mini.picture_trainer import PICTURE_OPTIONS, PictureTrainer
from train_mini.pixels import normalised
from train_mini.run import training_command


class LlavaTrainer(PictureTrainer):
    """A run of the mini LLaVA; arguments as of `PictureTrainer`, with a `LlavaConfig`."""

    examples_of, naming_scale = Examples, 8.0

    @staticmethod
    def new_model(config: LlavaConfig) -> Any:
        """Return the untrained model."""
        return new_model(config.sizes, config.seed)

    @staticmethod
    def ids() -> Mapping[str, int]:
        """Return the token of each word."""
        return ids()

    @staticmethod
    def kind_of(name: str) -> str:
        """Return what a weight is of."""
        return "embedding" if "embed_tokens" in name else "language" if "language_model" in name else "seeing"

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the loss of the answers, their accuracy, the loss of naming patches, and its accuracy."""
        images = image_tokens(self.model, normalised(torch.from_numpy(batch.pixels).to(self.device)))
        patches, patch_accuracy = self.naming(
            self.model.get_input_embeddings().weight, images, self.long(batch.patches)
        )
        if self.warming:
            return patches.new_zeros(()), patches.new_zeros(()), patches, patch_accuracy
        if self.step < self.config.joint_from:
            images = images.detach()
        asked = slice(self.config.images)
        right, places = self.long(batch.answers[asked]), self.long(batch.places[asked])
        # At the answer itself the end is due.
        places = torch.stack([places, places + 1], dim=-1)
        wanted = torch.stack([right, torch.full_like(right, ids()["</s>"])], dim=-1)
        questions = self.long(batch.questions[asked])
        logits, inside = answer_logits(self.model, images[asked], questions, places, self.config.middle)
        loss = 2 * functional.cross_entropy(logits.flatten(0, 2), wanted.flatten())
        named = self.long(batch.nouns[asked])
        if self.step >= self.config.told_from:
            states = inside.gather(2, named[..., None, None].expand(-1, -1, 1, inside.shape[-1]))[:, :, 0]
            loss = loss + self.config.told_weight * self.naming.of_nouns(states, self.long(batch.told[asked]))
        return loss, (logits[:, :, 0].argmax(-1) == right).float().mean(), patches, patch_accuracy

    def ask(self, pixels: Sequence[NDArray[np.uint8]], questions: Sequence[Question]) -> Answers:
        """Ask the model one question about each picture."""
        return ask(self.model, pixels, questions)

    def processor(self) -> Any:
        """Return the processor that is saved with the model."""
        return processor()


main = training_command(LlavaTrainer, LlavaConfig, PICTURE_OPTIONS, test_every=200)

if __name__ == "__main__":
    main()
