"""Train the mini BLIP of the picture world from scratch: `python -m train_mini.picture_blip.train --out runs/blip`.

Every step sees fresh pictures. For the first steps the vision stack learns to name what is in each patch, in the
question encoder's embeddings; then the whole model answers several questions about each picture, while the patches go
on being named with less weight, and the question encoder tells, at the word that names a thing, what the thing is like.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from notice_lens.mini.questions import Question
from train_mini.blip.model import decoded, encode_images, read
from train_mini.measure import Answers
from train_mini.picture_blip.evaluate import ask
from train_mini.picture_blip.examples import Examples
from train_mini.picture_blip.model import new_model
from train_mini.picture_blip.schedule import PictureBlipConfig
from train_mini.picture_blip.vocabulary import ids, processor
from train_mini.picture_examples import Batch
from train_mini.picture_trainer import PICTURE_OPTIONS, PictureTrainer
from train_mini.pixels import normalised
from train_mini.run import training_command


class PictureBlipTrainer(PictureTrainer):
    """A run of the mini BLIP on the picture world; arguments as of `PictureTrainer`, with a `PictureBlipConfig`."""

    examples_of, naming_scale = Examples, 1.5

    @staticmethod
    def new_model(config: PictureBlipConfig) -> Any:
        """Return the untrained model."""
        return new_model(config.sizes, config.seed)

    @staticmethod
    def ids() -> Mapping[str, int]:
        """Return the token of each word."""
        return ids()

    @staticmethod
    def kind_of(name: str) -> str:
        """Return what a weight is of."""
        return "embedding" if "word_embeddings" in name else "seeing" if name.startswith("vision") else "language"

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the loss of the answers, their accuracy, the loss of naming patches, and its accuracy."""
        images = encode_images(self.model, normalised(torch.from_numpy(batch.pixels).to(self.device)))
        words = self.model.text_encoder.embeddings.word_embeddings.weight
        patches, patch_accuracy = self.naming(words, images[:, 1:], self.long(batch.patches))
        if self.warming:
            return patches.new_zeros(()), patches.new_zeros(()), patches, patch_accuracy
        if self.step < self.config.joint_from:
            images = images.detach()
        asked = slice(self.config.images)
        questions, right = self.long(batch.questions[asked]), self.long(batch.answers[asked])
        given = torch.stack([torch.full_like(right, ids()["[DEC]"]), right], dim=-1)
        wanted = torch.stack([right, torch.full_like(right, ids()["[SEP]"])], dim=-1)
        inside = read(self.model, images[asked], questions)
        logits = decoded(self.model, inside[-1], questions, given)
        loss = 2 * functional.cross_entropy(logits.flatten(0, 2), wanted.flatten())
        if self.step >= self.config.told_from:
            # `[CLS]` stands in front of the words.
            named = self.long(batch.nouns[asked]).flatten() + 1
            states = inside[self.config.middle - 1][torch.arange(len(named)), named]
            told = self.long(batch.told[asked])
            loss = loss + self.config.told_weight * self.naming.of_nouns(states.unflatten(0, told.shape[:2]), told)
        return loss, (logits[:, :, 0].argmax(-1) == right).float().mean(), patches, patch_accuracy

    def _train_on(self, batch: Any) -> Tensor:
        found = super()._train_on(batch)
        if self.step >= self.config.cut_from:
            cut_heads(self.model, self.config.kept)
        return found

    def ask(self, pixels: Sequence[NDArray[np.uint8]], questions: Sequence[Question]) -> Answers:
        """Ask the model one question about each picture."""
        return ask(self.model, pixels, questions)

    def processor(self) -> Any:
        """Return the processor that is saved with the model."""
        return processor()


@torch.no_grad()
def cut_heads(model: Any, kept: Sequence[tuple[int, int]]) -> None:
    """Let no other heads of the question encoder write what they read of the image than these layers and heads."""
    for number, layer in enumerate(model.text_encoder.encoder.layer):
        attention = layer.crossattention
        n_heads = attention.self.num_attention_heads
        by_head = attention.output.dense.weight.view(-1, n_heads, attention.self.attention_head_size)
        for head in range(n_heads):
            if (number, head) not in kept:
                by_head[:, head] = 0


main = training_command(PictureBlipTrainer, PictureBlipConfig, PICTURE_OPTIONS, test_every=200)

if __name__ == "__main__":
    main()
