"""Train the mini BLIP from scratch: `PYTHONPATH=tools python -m train_mini.train --out runs/mini`.

Every step sees fresh pictures. For the first steps the vision stack alone learns to name what is in each patch
(shape, colour, texture, form, emotion); then the whole model answers several questions about each picture, while the
patches go on being named with less weight. The patch heads are thrown away at the end: what is saved is an ordinary
`BlipForQuestionAnswering`.

Nothing is random but the first weights, and the examples of a step follow from its number. So a run that is stopped
and started again ends with the same weights as one that was not, on the same machine with as many threads.
"""

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

from notice_lens.mini.vocabulary import processor
from train_mini.examples import Batch, Examples
from train_mini.model import answer_logits, encode_images, new_model
from train_mini.patch_heads import PatchHeads
from train_mini.pixels import normalised
from train_mini.places import place_loss
from train_mini.schedule import TrainConfig

COLUMNS = ("step", "seconds", "loss", "answers", "accuracy", "patches", "shape_accuracy", "rate")


class _Stream(IterableDataset):
    """The batches of the steps from `first` on."""

    def __init__(self, config: TrainConfig, first: int):
        self._config, self._first = config, first

    def __iter__(self) -> Iterator[Batch]:
        examples = Examples(
            self._config.seed, self._config.questions, self._config.relations_from, self._config.choices_from
        )
        for step in range(self._first, self._config.steps):
            yield examples.batch(step, self._config.images)


class Trainer:
    """A run that can stop and go on.

    Args:
        config: How the run goes.
        folder: Where its checkpoint and log lie; what is there already is gone on with.
        device: Such as `cpu` or `cuda`.
        bfloat16: Whether matrices are multiplied in bfloat16 (weights stay in float32).
    """

    def __init__(self, config: TrainConfig, folder: Path, device: str = "cpu", bfloat16: bool = True):
        self.config, self.folder, self.device, self.bfloat16 = config, folder, torch.device(device), bfloat16
        self.model = new_model(config.model, config.seed).to(self.device).train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed + 1)
            self.heads = PatchHeads(config.model.width).to(self.device)
        self.step = 0
        self._seconds = 0.0
        self._optimizer = torch.optim.AdamW(self._groups(), lr=config.rate, betas=(0.9, 0.98), fused=True)
        self._start = processor().tokenizer.bos_token_id
        self._end = processor().tokenizer.sep_token_id
        if self._checkpoint.exists():
            self._load()

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def _settings(self) -> str:
        return str(replace(self.config, steps=0))

    def _groups(self) -> list[dict[str, Any]]:
        parameters = [*self.model.parameters(), *self.heads.parameters()]
        matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
        vectors = [parameter for parameter in parameters if parameter.ndim < 2]
        return [{"params": matrices, "weight_decay": self.config.decay}, {"params": vectors, "weight_decay": 0.0}]

    def run(self, until: int | None = None, *, workers: int = 1, every: int = 50, save_every: int = 250) -> None:
        """Train up to a step (None: to the end), and saves.

        Args:
            until: Step to stop before.
            workers: Processes that draw examples; 0 draws them in this one.
            every: Steps between lines of the log.
            save_every: Steps between checkpoints.
        """
        until = self.config.steps if until is None else min(until, self.config.steps)
        # One worker: several would hand out the same steps.
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
        self._save()

    def _train_on(self, batch: Batch) -> Tensor:
        """One step. Returns loss, loss of the answers, their accuracy, loss of the patches and theirs."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.rate_at(self.step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            answers, accuracy, patches, patch_accuracy = self._losses(batch)
        warming = self.step < self.config.warm_steps
        loss = patches if warming else answers + self.config.patch_weight * patches
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([*self.model.parameters(), *self.heads.parameters()], 1.0)
        self._optimizer.step()
        return torch.stack([loss, answers, accuracy, patches, patch_accuracy]).detach().cpu()

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        pixels = normalised(torch.from_numpy(batch.pixels).to(self.device))
        states = encode_images(self.model, pixels)
        patches, patch_accuracy = self.heads(states, torch.from_numpy(batch.patches).to(self.device).long())
        if self.step < self.config.warm_steps:
            return patches.new_zeros(()), patches.new_zeros(()), patches, patch_accuracy
        asked = torch.from_numpy(batch.questions).to(self.device).long()
        right = torch.from_numpy(batch.answers).to(self.device).long()
        given = torch.stack([torch.full_like(right, self._start), right], dim=-1)
        wanted = torch.stack([right, torch.full_like(right, self._end)], dim=-1)
        if self.step >= self.config.relations_from:
            patches = patches + place_loss(states)
        logits = answer_logits(self.model, states, asked, given).float()
        loss = functional.cross_entropy(logits.flatten(0, 2), wanted.flatten())
        return 2 * loss, (logits[:, :, 0].argmax(-1) == right).float().mean(), patches, patch_accuracy

    def _log(self, means: list[float]) -> None:
        row = [
            self.step,
            round(self._seconds, 1),
            *(round(mean, 5) for mean in means),
            self.config.rate_at(self.step - 1),
        ]
        log = self.folder / "log.csv"
        fresh = not log.exists()
        with log.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(COLUMNS)
            writer.writerow(row)
        click.echo("  ".join(f"{name} {value:.6g}" for name, value in zip(COLUMNS, row, strict=True)))

    def _save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "config": str(self.config),
            "settings": self._settings,
            "steady": self.config.last_steady_step,
            "step": self.step,
            "seconds": self._seconds,
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": self._optimizer.state_dict(),
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
        self.heads.load_state_dict(state["heads"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step, self._seconds = state["step"], state["seconds"]


def export(model: Any, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Writes the model with its processor in Hugging Face's format."""
    import copy

    copy.deepcopy(model).eval().to(dtype).save_pretrained(folder)
    processor(model.config.vision_config.image_size).save_pretrained(folder)


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the run.")
@click.option("--steps", default=TrainConfig.steps, show_default=True)
@click.option("--warm-steps", default=TrainConfig.warm_steps, show_default=True, help="Vision stack by itself.")
@click.option("--relations-from", default=TrainConfig.relations_from, show_default=True, help="Most questions then.")
@click.option("--choices-from", default=TrainConfig.choices_from, show_default=True, help="Both options present then.")
@click.option("--images", default=TrainConfig.images, show_default=True, help="Pictures a step.")
@click.option("--questions", default=TrainConfig.questions, show_default=True, help="About each picture.")
@click.option("--rate", default=TrainConfig.rate, show_default=True, help="Highest learning rate.")
@click.option("--seed", default=TrainConfig.seed, show_default=True)
@click.option("--until", type=int, help="Stop before this step; the same command goes on from there.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--bfloat16/--float32", default=True, show_default=True)
def main(
    out: Path,
    steps: int,
    warm_steps: int,
    relations_from: int,
    choices_from: int,
    images: int,
    questions: int,
    rate: float,
    seed: int,
    until: int | None,
    device: str,
    bfloat16: bool,
) -> None:
    """Train the mini model; stopped at any time, the same command goes on."""
    config = TrainConfig(
        seed=seed,
        steps=steps,
        warm_steps=warm_steps,
        relations_from=relations_from,
        choices_from=choices_from,
        images=images,
        questions=questions,
        rate=rate,
    )
    out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(config, out, device, bfloat16)
    trainer.run(until)
    export(trainer.model, out / "model")
    click.echo(f"saved {out / 'model'}")


if __name__ == "__main__":
    main()
