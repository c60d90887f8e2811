"""Train the mini LLaVA from scratch: `PYTHONPATH=tools python -m train_mini.llava.train --out runs/llava`.

Every step sees fresh pictures. For the first steps tower and projector learn to name what is in each patch, in the
language model's embeddings; then the whole model answers several questions about each picture, while the patches go on
being named with less weight.

Nothing is random but the first weights, and the examples of a step follow from its number. So a run that is stopped
and started again ends with the same weights as one that was not, on the same machine with as many threads.
"""

import copy
import csv
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset

from train_mini.llava.evaluate import accuracies
from train_mini.llava.examples import Batch, Examples
from train_mini.llava.model import answer_logits, image_tokens, new_model, normalised
from train_mini.llava.optimizer import Muon
from train_mini.llava.patch_words import PatchWords
from train_mini.llava.schedule import LlavaConfig
from train_mini.llava.vocabulary import ids, processor

COLUMNS = ("step", "seconds", "loss", "answers", "accuracy", "patches", "noun_accuracy", "rate")


class _Stream(IterableDataset):
    """The batches of the steps from `first` on."""

    def __init__(self, config: LlavaConfig, first: int):
        self._config, self._first = config, first

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        examples = Examples(self._config.seed, self._config.questions, self._config.contested_from)
        for step in range(self._first, self._config.steps):
            yield examples.batch(step, self._config.images_at(step))


class Trainer:
    """A run that can stop and go on.

    Args:
        config: How the run goes.
        folder: Where its checkpoint and log lie; what is there already is gone on with.
        device: Such as `cpu` or `cuda`.
    """

    def __init__(self, config: LlavaConfig, folder: Path, device: str = "cpu"):
        self.config, self.folder, self.device = config, folder, torch.device(device)
        self.model = new_model(config.sizes, config.seed).to(self.device).train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed + 1)
            self.words = PatchWords(config.sizes.width).to(self.device)
        self.step = 0
        self._seconds = 0.0
        self._muon = Muon(self._groups(matrices=True), lr=config.matrix_rate, decay=config.decay)
        adam = self._groups(matrices=False)
        self._adam = torch.optim.AdamW(adam, lr=config.rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        if self._checkpoint.exists():
            self._load()

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def _settings(self) -> str:
        return str(replace(self.config, steps=0))

    def _groups(self, matrices: bool) -> list[dict[str, Any]]:
        """The matrices inside of the blocks, or all else, by what the factor on their rate depends on."""
        groups: dict[str, list[nn.Parameter]] = {"seeing": [], "embedding": [], "language": []}
        for name, parameter in self.model.named_parameters():
            if (parameter.ndim == 2 and ".layers." in name) == matrices:
                kind = "embedding" if "embed_tokens" in name else "language" if "language_model" in name else "seeing"
                groups[kind].append(parameter)
        if not matrices:
            groups["seeing"] += self.words.parameters()
        return [{"params": some, "kind": kind} for kind, some in groups.items() if some]

    def run(
        self, until: int | None = None, *, workers: int = 1, every: int = 25, save_every: int = 100, test_every: int = 0
    ) -> None:
        """Train up to a step (None: to the end), and save.

        Args:
            until: Step to stop before.
            workers: Processes that draw examples, 0 or 1; 0 draws them in this one.
            every: Steps between lines of the log.
            save_every: Steps between checkpoints.
            test_every: Steps between measurements on pairs of the split `validation`; 0 is never.
        """
        until = self.config.steps if until is None else min(until, self.config.steps)
        loader = DataLoader(_Stream(self.config, self.step), batch_size=None, num_workers=min(workers, 1))
        sums, count, began = torch.zeros(len(COLUMNS) - 3), 0, time.perf_counter()
        for batch in loader:
            if self.step >= until:
                break
            sums, count = sums + self._train_on(batch), count + 1
            self.step += 1
            if self.step % every == 0 or self.step == until:
                now = time.perf_counter()
                self._seconds, began = self._seconds + now - began, now
                self._log((sums / count).tolist())
                sums, count = torch.zeros_like(sums), 0
            if self.step % save_every == 0:
                self._save()
            if test_every and self.step % test_every == 0 and self.step > self.config.warm_steps:
                self._test()
        self._save()

    def _train_on(self, batch: Batch) -> Tensor:
        """Take one step. Returns loss, loss of the answers, their accuracy, loss of the patches and theirs."""
        for optimizer, rate in ((self._adam, self.config.rate), (self._muon, self.config.matrix_rate)):
            for group in optimizer.param_groups:
                group["lr"] = rate * self.config.share_at(self.step) * self.config.factor_of(group["kind"], self.step)
        answers, accuracy, patches, patch_accuracy = self._losses(batch)
        warming = self.step < self.config.warm_steps
        loss = patches if warming else answers + self.config.patch_weight * patches
        self._adam.zero_grad(set_to_none=True)
        self._muon.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([*self.model.parameters(), *self.words.parameters()], 1.0)
        self._adam.step()
        self._muon.step()
        return torch.stack([loss, answers, accuracy, patches, patch_accuracy]).detach().cpu()

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        images = image_tokens(self.model, normalised(torch.from_numpy(batch.pixels).to(self.device)))
        patches, accuracy = self.words(self.model, images, self._long(batch.patches))
        if self.step < self.config.warm_steps:
            return patches.new_zeros(()), patches.new_zeros(()), patches, accuracy
        if self.step < self.config.joint_from:
            images = images.detach()
        asked = slice(self.config.images)
        right, places = self._long(batch.answers[asked]), self._long(batch.places[asked])
        # At the answer itself the end is due.
        places = torch.stack([places, places + 1], dim=-1)
        wanted = torch.stack([right, torch.full_like(right, ids()["</s>"])], dim=-1)
        questions = self._long(batch.questions[asked])
        logits, inside = answer_logits(self.model, images[asked], questions, places, self.config.middle)
        loss = 2 * functional.cross_entropy(logits.flatten(0, 2), wanted.flatten())
        named = self._long(batch.nouns[asked])
        if self.step >= self.config.told_from:
            states = inside.gather(2, named[..., None, None].expand(-1, -1, 1, inside.shape[-1]))[:, :, 0]
            loss = loss + self.config.told_weight * self.words.of_nouns(states, self._long(batch.told[asked]))
        return loss, (logits[:, :, 0].argmax(-1) == right).float().mean(), patches, accuracy

    def _long(self, numbers: Any) -> Tensor:
        return torch.from_numpy(numbers).to(self.device).long()

    def _log(self, means: list[float]) -> None:
        rate = self.config.rate * self.config.share_at(self.step - 1)
        row = [self.step, round(self._seconds, 1), *(round(mean, 5) for mean in means), rate]
        self._write("log.csv", dict(zip(COLUMNS, row, strict=True)))

    def _test(self) -> None:
        self.model.eval()
        self._write("validation.csv", {"step": self.step, **accuracies(self.model, 60)})
        self.model.train()

    def _write(self, name: str, row: dict[str, Any]) -> None:
        log = self.folder / name
        fresh = not log.exists()
        with log.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(row)
            writer.writerow(row.values())
        click.echo("  ".join(f"{column} {value:.6g}" for column, value in row.items()))

    def _save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "config": str(self.config),
            "settings": self._settings,
            "steady": self.config.last_steady_step,
            "step": self.step,
            "seconds": self._seconds,
            "model": self.model.state_dict(),
            "words": self.words.state_dict(),
            "adam": self._adam.state_dict(),
            "muon": self._muon.state_dict(),
        }
        # Written aside and moved: a kill never leaves half a checkpoint.
        aside = self._checkpoint.with_suffix(".part")
        torch.save(state, aside)
        os.replace(aside, self._checkpoint)

    def _load(self) -> None:
        state = torch.load(self._checkpoint, map_location=self.device, weights_only=True)
        # Until the rate falls a run may be made longer or shorter: nothing before depends on its length.
        there = state["config"] if state["step"] > min(self.config.last_steady_step, state["steady"]) else "any"
        if there not in ("any", str(self.config)) or state["settings"] != self._settings:
            raise ValueError(
                f"{self._checkpoint} is of another run:\n  there {state['config']}\n  here  {self.config}\n"
                "take another folder, or the same settings"
            )
        self.model.load_state_dict(state["model"])
        self.words.load_state_dict(state["words"])
        self._adam.load_state_dict(state["adam"])
        self._muon.load_state_dict(state["muon"])
        self.step, self._seconds = state["step"], state["seconds"]


def export(model: Any, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write the model with its processor in Hugging Face's format."""
    copy.deepcopy(model).eval().to(dtype).save_pretrained(folder)
    processor().save_pretrained(folder)


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the run.")
@click.option("--steps", default=LlavaConfig.steps, show_default=True)
@click.option("--warm-steps", default=LlavaConfig.warm_steps, show_default=True, help="Tower and projector alone.")
@click.option("--joint-from", default=LlavaConfig.joint_from, show_default=True, help="Answers train the tower then.")
@click.option("--images", default=LlavaConfig.images, show_default=True, help="Pictures a step with questions.")
@click.option("--warm-images", default=LlavaConfig.warm_images, show_default=True, help="Pictures a step before.")
@click.option("--questions", default=LlavaConfig.questions, show_default=True, help="About each picture.")
@click.option("--rate", default=LlavaConfig.rate, show_default=True, help="Highest learning rate.")
@click.option("--matrix-rate", default=LlavaConfig.matrix_rate, show_default=True, help="Of the blocks' matrices.")
@click.option("--seed", default=LlavaConfig.seed, show_default=True)
@click.option("--until", type=int, help="Stop before this step; the same command goes on from there.")
@click.option("--test-every", default=200, show_default=True, help="Steps between measurements; 0 is never.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
def main(
    out: Path,
    steps: int,
    warm_steps: int,
    joint_from: int,
    images: int,
    warm_images: int,
    questions: int,
    rate: float,
    matrix_rate: float,
    seed: int,
    until: int | None,
    test_every: int,
    device: str,
) -> None:
    """Train the mini LLaVA; stopped at any time, the same command goes on."""
    config = LlavaConfig(
        seed=seed,
        steps=steps,
        warm_steps=warm_steps,
        joint_from=joint_from,
        images=images,
        warm_images=warm_images,
        questions=questions,
        rate=rate,
        matrix_rate=matrix_rate,
    )
    out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(config, out, device)
    trainer.run(until, test_every=test_every)
    export(trainer.model, out / "model")
    click.echo(f"saved {out / 'model'}")


if __name__ == "__main__":
    main()
