"""Train the mini BLIP of the picture world from scratch: `python -m train_mini.picture_blip.train --out runs/blip`.

Every step sees fresh pictures. For the first steps the vision stack learns to name what is in each patch, in the
question encoder's embeddings; then the whole model answers several questions about each picture, while the patches go
on being named with less weight, and the question encoder tells, at the word that names a thing, what the thing is like.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from notice_lens.mini.generate import WorldName
from notice_lens.mini.questions import Question
from train_mini.blip.model import decoded, encode_images, read
from train_mini.measure import Answers
from train_mini.optimizer import Muon
from train_mini.patch_words import PatchWords
from train_mini.picture_blip.evaluate import ask
from train_mini.picture_blip.examples import Examples
from train_mini.picture_blip.model import new_model
from train_mini.picture_blip.schedule import PictureBlipConfig
from train_mini.picture_blip.vocabulary import ids, processor
from train_mini.picture_examples import Batch
from train_mini.pixels import normalised
from train_mini.run import Trainer, training_command

SCALE = 1.5


class PictureBlipTrainer(Trainer):
    """A run of the mini BLIP on the picture world.

    Args:
        config: How the run goes.
        folder: Where its checkpoint and log are; a run that is there already is resumed.
        device: Such as `cpu` or `cuda`.
    """

    world: ClassVar[WorldName] = "pictures"
    patch_column = "noun_accuracy"
    log_every, save_every = 25, 100

    def __init__(self, config: PictureBlipConfig, folder: Path, device: str = "cpu"):
        model = new_model(config.sizes, config.seed).to(device).train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed + 1)
            words = PatchWords(config.sizes.width, ids(), SCALE).to(device)
        muon = Muon(parameter_groups(model, words, matrices=True), lr=config.matrix_rate, decay=config.decay)
        others = parameter_groups(model, words, matrices=False)
        adam = torch.optim.AdamW(others, lr=config.rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        super().__init__(config, folder, device, model, words, {"adam": adam, "muon": muon})

    def examples(self) -> Examples:
        """Return the stream of examples."""
        return Examples(self.config.seed, self.config.questions, self.config.contested_from)

    def set_rates(self) -> None:
        """Set the learning rates of the next step."""
        highest = {"adam": self.config.rate, "muon": self.config.matrix_rate}
        for name, optimizer in self.optimizers.items():
            rate = highest[name] * self.config.share_at(self.step)
            for group in optimizer.param_groups:
                group["lr"] = rate * self.config.factor_of(group["kind"], self.step)

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
        if self.step + 1 >= self.config.cut_from:
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


def parameter_groups(model: nn.Module, words: PatchWords, *, matrices: bool) -> list[dict[str, Any]]:
    """Return the blocks' matrices, or all other parameters, by the kinds that the config's `factor_of` tells apart."""
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if (parameter.ndim == 2 and (".layer." in name or ".layers." in name)) == matrices:
            kind = "embedding" if "word_embeddings" in name else "seeing" if name.startswith("vision") else "language"
            groups.setdefault("fused" if "qkv" in name else kind, []).append(parameter)
    if not matrices:
        groups.setdefault("seeing", []).extend(words.parameters())
    fused = {"kind": "seeing", "parts": 3} if matrices else {"kind": "seeing"}
    return [{"params": some, **(fused if kind == "fused" else {"kind": kind})} for kind, some in groups.items()]


OPTIONS = {
    "steps": "Steps in all.",
    "warm_steps": "Steps in which the vision stack learns alone.",
    "joint_from": "Step from which on answers train the vision stack too.",
    "images": "Pictures a step with questions.",
    "warm_images": "Pictures a step before.",
    "questions": "Questions about each picture.",
    "rate": "Highest learning rate.",
    "matrix_rate": "Highest learning rate of the blocks' matrices.",
    "seed": "Seed of the first weights and the examples.",
}

main = training_command(PictureBlipTrainer, PictureBlipConfig, OPTIONS, test_every=200)

if __name__ == "__main__":
    main()
