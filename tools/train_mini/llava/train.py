"""Train the mini LLaVA from scratch: `PYTHONPATH=tools python -m train_mini.llava.train --out runs/llava`.

Every step sees fresh pictures. For the first steps tower and projector learn to name what is in each patch, in the
language model's embeddings; then the whole model answers several questions about each picture, while the patches go on
being named with less weight.
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
from train_mini.llava.evaluate import ask
from train_mini.llava.examples import Examples
from train_mini.llava.model import answer_logits, image_tokens, new_model
from train_mini.llava.schedule import LlavaConfig
from train_mini.llava.vocabulary import ids, processor
from train_mini.measure import Answers
from train_mini.optimizer import Muon
from train_mini.patch_words import PatchWords
from train_mini.picture_examples import Batch
from train_mini.pixels import normalised
from train_mini.run import Trainer, training_command


class LlavaTrainer(Trainer):
    """A run of the mini LLaVA.

    Args:
        config: How the run goes.
        folder: Where its checkpoint and log are; a run that is there already is resumed.
        device: Such as `cpu` or `cuda`.
    """

    world: ClassVar[WorldName] = "pictures"
    patch_column = "noun_accuracy"
    log_every, save_every = 25, 100

    def __init__(self, config: LlavaConfig, folder: Path, device: str = "cpu"):
        model = new_model(config.sizes, config.seed).to(device).train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed + 1)
            words = PatchWords(config.sizes.width, ids(), scale=8.0).to(device)
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


def parameter_groups(model: nn.Module, words: PatchWords, *, matrices: bool) -> list[dict[str, Any]]:
    """Return the blocks' matrices, or all other parameters, by the kinds that `LlavaConfig.factor_of` tells apart."""
    groups: dict[str, list[nn.Parameter]] = {"seeing": [], "embedding": [], "language": []}
    for name, parameter in model.named_parameters():
        if (parameter.ndim == 2 and ".layers." in name) == matrices:
            kind = "embedding" if "embed_tokens" in name else "language" if "language_model" in name else "seeing"
            groups[kind].append(parameter)
    if not matrices:
        groups["seeing"] += words.parameters()
    return [{"params": some, "kind": kind} for kind, some in groups.items() if some]


OPTIONS = {
    "steps": "Steps in all.",
    "warm_steps": "Steps in which tower and projector learn alone.",
    "joint_from": "Step from which on answers train the tower too.",
    "images": "Pictures a step with questions.",
    "warm_images": "Pictures a step before.",
    "questions": "Questions about each picture.",
    "rate": "Highest learning rate.",
    "matrix_rate": "Highest learning rate of the blocks' matrices.",
    "seed": "Seed of the first weights and the examples.",
}

main = training_command(LlavaTrainer, LlavaConfig, OPTIONS, test_every=200)

if __name__ == "__main__":
    main()
