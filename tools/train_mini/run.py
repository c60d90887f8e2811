"""A training run that can be stopped and resumed: its loop, its log, its checkpoint and its command.

Nothing is random but the first weights, and the examples of a step follow from its number. So a run that is stopped
and started again ends with the same weights as one that was not, on the same machine with as many threads.
"""

import copy
import csv
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from notice_lens.mini.generate import WorldName
from notice_lens.mini.questions import Question
from train_mini.measure import Answers, accuracies


class _Batches(IterableDataset):
    """The batches of the steps from `first` on."""

    def __init__(self, examples: Any, config: Any, first: int):
        self._examples, self._config, self._first = examples, config, first

    def __iter__(self) -> Iterator[Any]:
        for step in range(self._first, self._config.steps):
            yield self._examples.batch(step, self._config.images_at(step))


class Trainer(ABC):
    """A run that can be stopped and resumed.

    Args:
        config: How the run goes. Its class gives `rate_at(step)` and `images_at(step)` too.
        folder: Where its checkpoint and log are; a run that is there already is resumed.
        device: Such as `cpu` or `cuda`.
        model: The model to train.
        naming: The module that names patches; it is not part of what is saved in the end.
        optimizers: By name.
    """

    world: ClassVar[WorldName]
    patch_column: ClassVar[str]
    """Column of the log for the share of patches that are named right."""
    log_every: ClassVar[int]
    save_every: ClassVar[int]

    def __init__(
        self,
        config: Any,
        folder: Path,
        device: str,
        model: Any,
        naming: Any,
        optimizers: dict[str, torch.optim.Optimizer],
    ):
        self.config, self.folder, self.device = config, folder, torch.device(device)
        self.model, self.naming, self.optimizers = model, naming, optimizers
        self.step = 0
        self._seconds = 0.0
        if self._checkpoint.exists():
            self._load()

    @abstractmethod
    def examples(self) -> Any:
        """Return the stream of examples, whose `batch(step, images)` gives those of a step."""

    @abstractmethod
    def losses(self, batch: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the loss of the answers, their accuracy, the loss of naming patches, and its accuracy."""

    @abstractmethod
    def ask(self, pixels: Sequence[NDArray[np.uint8]], questions: Sequence[Question]) -> Answers:
        """Ask the model one question about each picture."""

    @abstractmethod
    def processor(self) -> Any:
        """Return the processor that is saved with the model."""

    def long(self, numbers: NDArray[np.integer]) -> Tensor:
        """Return numbers as a tensor of indices on the device."""
        return torch.from_numpy(numbers).to(self.device).long()

    def set_rates(self) -> None:
        """Set the learning rates of the next step."""
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = self.config.rate_at(self.step)

    @property
    def warming(self) -> bool:
        """Whether the next step only names patches."""
        return self.step < self.config.warm_steps

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the log."""
        return ("step", "seconds", "loss", "answers", "accuracy", "patches", self.patch_column, "rate")

    def run(
        self,
        until: int | None = None,
        *,
        workers: int = 1,
        every: int | None = None,
        save_every: int | None = None,
        test_every: int = 0,
    ) -> None:
        """Train up to a step (None: to the end), and save.

        Args:
            until: Step to stop before.
            workers: Processes that draw examples, 0 or 1; 0 draws them in this one.
            every: Steps between lines of the log; None for `log_every`.
            save_every: Steps between checkpoints; None for that of the class.
            test_every: Steps between measurements on pairs of the split `validation`; 0 for no measurements.
        """
        end = self.config.steps if until is None else min(until, self.config.steps)
        every, save_every = every or self.log_every, save_every or self.save_every
        # At most one worker: several would each yield the same steps.
        batches = _Batches(self.examples(), self.config, self.step)
        loader = DataLoader(batches, batch_size=None, num_workers=min(workers, 1))
        sums, count, began = torch.zeros(5), 0, time.perf_counter()
        for batch in loader:
            if self.step >= end:
                break
            sums, count = sums + self._train_on(batch), count + 1
            self.step += 1
            if self.step % every == 0 or self.step == end:
                now = time.perf_counter()
                self._seconds, began = self._seconds + now - began, now
                self._log((sums / count).tolist())
                sums, count = torch.zeros_like(sums), 0
            if self.step % save_every == 0:
                self._save()
            if test_every and self.step % test_every == 0 and not self.warming:
                self._test()
        self._save()

    def _train_on(self, batch: Any) -> Tensor:
        """Take one step. Returns its loss and the four numbers of `losses`."""
        self.set_rates()
        answers, accuracy, patches, patch_accuracy = self.losses(batch)
        loss = patches if self.warming else answers + self.config.patch_weight * patches
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([*self.model.parameters(), *self.naming.parameters()], 1.0)
        for optimizer in self.optimizers.values():
            optimizer.step()
        return torch.stack([loss, answers, accuracy, patches, patch_accuracy]).detach().cpu()

    def _log(self, means: list[float]) -> None:
        rate = self.config.rate_at(self.step - 1)
        row = [self.step, round(self._seconds, 1), *(round(mean, 5) for mean in means), rate]
        self._write("log.csv", dict(zip(self.columns, row, strict=True)))

    def _test(self) -> None:
        self.model.eval()
        self._write("validation.csv", {"step": self.step, **accuracies(self.ask, self.world, 60)})
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

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def _settings(self) -> str:
        return str(replace(self.config, steps=0))

    def _save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "config": str(self.config),
            "settings": self._settings,
            "steady": self.config.last_steady_step,
            "step": self.step,
            "seconds": self._seconds,
            "model": self.model.state_dict(),
            "naming": self.naming.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
        }
        # Written to another file and moved: a kill never leaves half a checkpoint.
        part = self._checkpoint.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, self._checkpoint)

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
        self.naming.load_state_dict(state["naming"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.step, self._seconds = state["step"], state["seconds"]

    def export(self, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
        """Write the model with its processor in Hugging Face's format."""
        copy.deepcopy(self.model).eval().to(dtype).save_pretrained(folder)
        self.processor().save_pretrained(folder)


def training_command(
    trainer: type[Any], config: type[Any], options: dict[str, str], *, test_every: int = 0
) -> click.Command:
    """Return the command that trains; stopped at any time, the same command goes on.

    Args:
        trainer: The class of the run, made from a config, a folder and a device.
        config: The class of its config.
        options: The fields of the config that are options, with their help.
        test_every: Default of the option of this name.
    """

    def train(out: Path, until: int | None, test_every: int, device: str, **settings: Any) -> None:
        out.mkdir(parents=True, exist_ok=True)
        run = trainer(config(**settings), out, device)
        run.run(until, test_every=test_every)
        run.export(out / "model")
        click.echo(f"saved {out / 'model'}")

    def option(name: str, text: str, default: Any) -> click.Option:
        flag = f"--{name.replace('_', '-')}"
        flag = f"{flag}/--no{flag[1:]}" if isinstance(default, bool) else flag
        return click.Option([flag], default=default, show_default=True, help=text)

    out = click.Path(file_okay=False, path_type=Path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    params: list[click.Parameter] = [
        click.Option(["--out"], type=out, required=True, help="Folder of the run."),
        *(option(name, text, getattr(config, name)) for name, text in options.items()),
        click.Option(["--until"], type=int, help="Stop before this step; the same command goes on from there."),
        option("test_every", "Steps between measurements; 0 for no measurements.", test_every),
        option("device", "Device to train on.", device),
    ]
    text = "Train the mini model; stopped at any time, the same command goes on."
    return click.Command("train", callback=train, params=params, help=text)
