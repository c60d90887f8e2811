"""The runs of some pairs: clean, corrupted and mismatched, recorded once for all their variants."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from notice_lens.models.blip.inputs import BLIPInputs
from notice_lens.models.blip.steps import EMBEDDING
from notice_lens.pairs.corruption import changes_words
from notice_lens.pairs.noise import Noise
from notice_lens.patching.engine.metrics import Custom, ReadOut
from notice_lens.patching.engine.read_out import AnswerReading
from notice_lens.patching.engine.rows import Index
from notice_lens.patching.engine.runs import Run, Trace, attn_results, trace
from notice_lens.patching.engine.sources import computed

if TYPE_CHECKING:
    from notice_lens.models import HookedBLIP
    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs

ROWS_OF_LOGITS = 256
"""Variants whose logits over the vocabulary are in memory at a time."""


@dataclass(frozen=True)
class Setting:
    """The corruption of a sweep's runs, and the direction of its patches.

    Attributes:
        corruption: `image`, `text`, or noise.
        direction: `denoise` or `noise`.
        custom: The caller's own metrics.
        sample: Which draw of the noise.
        noise_std: Of the data set, for noise.
    """

    corruption: str | Noise
    direction: str = "denoise"
    custom: Mapping[str, Custom] = field(default_factory=dict)
    sample: int = 0
    noise_std: float = 0.0

    @property
    def by_text(self) -> bool:
        """Return whether the runs differ in their questions, and not in their images."""
        return changes_words(self.corruption)

    def is_noisy(self, which: str) -> bool:
        """Return whether noise is added to the embeddings of a run."""
        return which == "corrupt" and isinstance(self.corruption, Noise)

    def inputs_of(self, which: str) -> tuple[str, str]:
        """Return whose image and whose prompt a run has: `clean`, `corrupt` or `donor` each."""
        source = "clean" if self.is_noisy(which) else which  # the noise comes in at the embeddings
        return ("clean", source) if self.by_text else (source, "clean")


@dataclass(frozen=True)
class Recording:
    """The hook points that are recorded, of which runs.

    Attributes:
        hooks: Of every run: those that edits take their values from.
        sources: Where edits take their values from; see `HookEdit`.
        streams: Stacks whose base stream the wave grows from.
        of_base: Of the base run alone.
        of_others: Of every run but the base run.
        donors: Whether the mismatched runs are needed.
    """

    hooks: Sequence[str]
    sources: Collection[str] = ("other",)
    streams: Sequence[str] = ()
    of_base: Sequence[str] = ()
    of_others: Sequence[str] = ()
    donors: bool = False


@runtime_checkable
class References(Protocol):
    """Values that do not come from a run of their pair, such as means, for the pairs of a batch."""

    def sources(self, like: Mapping[str, Tensor], answers: list[str] | None) -> Mapping[str, Any]:
        """Return the values [pair, ...] by source and hook point.

        Args:
            like: The base run's activations, for shapes.
            answers: The teacher-forced answers.
        """
        ...


class Batch:
    """Some pairs before a model.

    Args:
        model: The model.
        pairs: Some of them.
        foils: The answer that each pair's correct one is compared with.
        setting: How the runs are corrupted.
        recording: The activations to record.
    """

    def __init__(
        self, model: "HookedBLIP", pairs: "MinimalPairs", foils: Sequence[str], setting: Setting, recording: Recording
    ) -> None:
        self.model, self.pairs, self.setting, self.recording = model, list(pairs), setting, recording
        column = "donor_prompt" if setting.by_text else "donor_digest"
        self.has_donor = np.array([pair.record[column] is not None for pair in self.pairs])
        self.donors = recording.donors and bool(self.has_donor.any())
        self.correct, self.foils = [pair.correct_answer for pair in self.pairs], list(foils)
        self._pixels: dict[str, Tensor] = {}

    def runs(self, references: References | None = None) -> Iterator["Context"]:
        """Yield the recorded runs, once for each answer that is teacher-forced.

        Args:
            references: Values that do not come from runs of these pairs.
        """
        from_clean = self.setting.direction == "noise"
        earlier: dict[str, Trace] = {}
        for answers in self._answers():
            runs: dict[str, Trace] = {}
            for which in ("clean", "corrupt", *(["donor"] if self.donors else [])):
                runs[which] = self._recorded(which, answers, from_clean, earlier, runs.get("clean"))
            earlier = earlier or runs
            base, other = (runs["clean"], runs["corrupt"]) if from_clean else (runs["corrupt"], runs["clean"])
            sources: dict[str, Any] = {"other": other.activations}
            if self.donors:
                sources["donor"] = runs["donor"].activations
            if set(self.recording.sources) != {"other"}:
                sources |= computed(base.activations, other.activations)
            if references is not None:
                sources |= references.sources(base.activations, answers)
            yield Context(self, Run(self.model, base, sources), runs, answers)

    def _answers(self) -> list[list[str] | None]:
        """Return the answers to teacher-force: `[None]` for single tokens, else the correct answers and the foils."""
        prompts = [pair.clean_prompt for pair in self.pairs]
        forced = self.model.teacher_forced([*prompts, *prompts], [*self.correct, *self.foils])
        return [self.correct, self.foils] if forced else [None]

    def _inputs(self, which: str, answers: list[str] | None = None) -> BLIPInputs:
        """Return the inputs of the clean, corrupted or donor run; a pair without a donor has its clean run there."""
        image, prompt = self.setting.inputs_of(which)
        prompts = [
            pair.clean_prompt if pair[f"{prompt}_prompt"] is None else pair[f"{prompt}_prompt"] for pair in self.pairs
        ]
        if image not in self._pixels:
            images = [getattr(pair, f"{image}_image") or pair.clean_image for pair in self.pairs]
            self._pixels[image] = self.model.prepare(images).pixel_values
        return self.model.prepare({"pixel_values": self._pixels[image]}, prompts, answers)

    def _recorded(
        self,
        which: str,
        answers: list[str] | None,
        from_clean: bool,
        earlier: Mapping[str, Trace],
        clean: Trace | None,
    ) -> Trace:
        """Return one recorded run; stacks that an earlier run has been through with the same inputs are taken over.

        Args:
            which: `clean`, `corrupt` or `donor`.
            answers: The teacher-forced answers.
            from_clean: Whether the clean run is the base run.
            earlier: The runs with the other answers.
            clean: The clean run with these answers, if it is there already.
        """
        hooks = self._base_hooks()
        if which != ("clean" if from_clean else "corrupt"):
            # Where only words differ, the corrupted run takes its images over from the clean run, streams included.
            hooks = [name for name in hooks if self.setting.by_text and name.startswith("vision.")]
            hooks += self.recording.of_others
        upstream, start = earlier.get(which), None
        if upstream is None and self.setting.by_text and clean is not None:
            upstream, start = clean, self.model.cfg.stacks[1]
        names = [*self.recording.hooks, *hooks]
        with attn_results(self.model, names):
            return trace(self.model, self._inputs(which, answers), names, self._noise_hooks(which), upstream, start)

    def _base_hooks(self) -> list[str]:
        """Return the hook points recorded of the base run alone: the streams that the wave grows from."""
        streams, edited = self.recording.streams, self.recording.hooks
        hooks = [
            f"{name}.blocks.{layer}.hook_resid_pre"
            for name in streams
            for layer in range(self.model.stack(name).cfg.n_layers)
        ]
        for name in streams:
            if any(hook.startswith(f"{name}.hook_") for hook in edited):
                hooks += [f"{name}.{hook}" for hook in EMBEDDING]
        return [*hooks, *self.recording.of_base]

    def _noise_hooks(self, which: str) -> list[Any]:
        noise = self.setting.corruption
        if which != "corrupt" or not isinstance(noise, Noise):
            return []
        ids = [pair.id for pair in self.pairs]
        return noise.hooks(self.model, self._inputs("clean"), ids, self.setting.noise_std, self.setting.sample)


class Context:
    """The runs of a batch with one set of answers.

    Args:
        batch: The pairs.
        run: The base run and the sources of edits.
        unpatched: The recorded runs: `clean`, `corrupt`, and `donor` where mismatched runs are needed.
        answers: The teacher-forced answers; None where the answer's logits are read at once.
    """

    def __init__(self, batch: Batch, run: Run, unpatched: Mapping[str, Trace], answers: list[str] | None) -> None:
        self.batch, self.run, self.unpatched, self.answers = batch, run, unpatched, answers
        self.clean, self.corrupt = unpatched["clean"], unpatched["corrupt"]
        self.layout = batch.model.layout(run.base.inputs)
        targets = None if answers is None else batch.model.answer_targets(run.base.inputs)
        self.reading = AnswerReading(self._entries, targets, batch.setting.custom)

    @property
    def has_donor(self) -> np.ndarray:
        """Boolean, [pair]: True where there is a mismatched run."""
        return self.batch.has_donor

    def real_length(self, stack: str, pair: int) -> int:
        """Return how many positions of a stack a pair has, padding left out."""
        return self.layout.length(stack, pair)

    def read_out(self, states: Tensor, pairs: Index) -> ReadOut:
        """Return the metrics of rows, from the states after the last stack.

        Args:
            states: [row, pos, d_model]; the first rows are the base rows.
            pairs: The pair of each row.
        """
        n_base, head = len(self.batch.pairs), self.batch.model.head
        base = self.reading.first_token(head(states[:n_base]), pairs[:n_base])
        # Logits over the vocabulary are wide: those of a few hundred rows may take more than all states.
        chunks = [slice(start, start + ROWS_OF_LOGITS) for start in range(0, len(pairs), ROWS_OF_LOGITS)]
        return ReadOut.joined([self.read_logits(head(states[rows]), pairs[rows], base) for rows in chunks])

    def read_logits(self, logits: Tensor, pairs: Index, base: Tensor | None = None) -> ReadOut:
        """Return the metrics of rows from their logits; see `AnswerReading.metrics`."""
        return self.reading.metrics(logits, pairs, base)

    def _entries(self) -> tuple[Tensor, Tensor]:
        """Return the entries of the logits that stand for each pair's answers."""
        batch = self.batch
        prompts = [pair.clean_prompt for pair in batch.pairs]
        correct, foils = (batch.model.answer_entries(prompts, answers) for answers in (batch.correct, batch.foils))
        return correct, foils


@torch.no_grad()
def foils_of(
    model: "VisionLanguageModel", pairs: "MinimalPairs", corruption: Any, contrast: str, batch_size: int = 32
) -> list[str]:
    """Return the foil of each pair: the answer that its correct one is compared with.

    For an image corruption, noise, and `contrast="incorrect"` it is the incorrect answer. For a text corruption it is
    `corrupt_answer`, since the corrupted run no longer gives the incorrect answer; a pair without one gets the model's
    own answer to its corrupted prompt.
    """
    if contrast == "incorrect" or corruption != "text" or model.cfg.behaviour == "choice":
        return list(pairs["incorrect_answer"])
    foils = list(pairs["corrupt_answer"])
    unknown = [number for number, answer in enumerate(foils) if not answer]
    for start in range(0, len(unknown), batch_size):
        numbers = unknown[start : start + batch_size]
        part = pairs.select(numbers)
        own = part["incorrect_answer"]
        if model.cfg.behaviour == "greedy":
            said = model.greedy_ids(part.prepare(model, prompt="corrupt"), 20)
            own = [text.strip() for text in model.tokenizer.batch_decode(said, skip_special_tokens=True)]
        for number, answer in zip(numbers, own, strict=True):
            foils[number] = answer or pairs["incorrect_answer"][number]
    return foils
