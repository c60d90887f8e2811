"""The runs of some pairs: clean, corrupted and mismatched, recorded once for all their variants."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from notice_lens.models.blip.answers import greedy
from notice_lens.models.blip.inputs import IGNORED, BLIPInputs
from notice_lens.models.blip.steps import EMBEDDING
from notice_lens.pairs.noise import Noise
from notice_lens.pairs.tokens import pieces
from notice_lens.patching.engine.metrics import (
    Custom,
    ReadOut,
    answer_log_prob,
    is_greedy,
    kl_from,
    own_metric,
    precise,
    read_entries,
)
from notice_lens.patching.engine.rows import Index
from notice_lens.patching.engine.runs import Run, Trace, attn_results, trace
from notice_lens.patching.engine.sources import computed

if TYPE_CHECKING:
    from notice_lens.models import HookedBLIP
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
        if isinstance(self.corruption, Noise):
            return not self.corruption.hook.startswith("vision")
        return self.corruption == "text"


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
    """Values that are no runs of their pair, such as means, for the pairs of a batch."""

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
        recording: What is recorded.
    """

    def __init__(
        self, model: "HookedBLIP", pairs: "MinimalPairs", foils: Sequence[str], setting: Setting, recording: Recording
    ) -> None:
        self.model, self.pairs, self.setting, self.recording = model, list(pairs), setting, recording
        column = "donor_prompt" if setting.by_text else "donor_digest"
        self.has_donor = np.array([pair.record[column] is not None for pair in self.pairs])
        self.donors = recording.donors and bool(self.has_donor.any())
        self.correct, self.foils = [pair.correct_answer for pair in self.pairs], list(foils)
        self.single = one_token(model, [*self.correct, *self.foils])
        self._pixels: dict[str, Tensor] = {}

    def runs(self, references: References | None = None) -> Iterator["Context"]:
        """Yield the recorded runs, once for each answer that is teacher-forced.

        Args:
            references: Values that are no runs of these pairs.
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
        if self.model.cfg.kind == "match" or (self.model.cfg.kind == "vqa" and self.single):
            return [None]
        return [self.correct, self.foils]

    def _inputs(self, which: str, answers: list[str] | None = None) -> BLIPInputs:
        """Return the inputs of the clean, corrupted or donor run; a pair without a donor has its clean run there."""
        if isinstance(self.setting.corruption, Noise) and which == "corrupt":
            which = "clean"  # the noise comes in at the embeddings
        image, prompt = ("clean", which) if self.setting.by_text else (which, "clean")
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
        """Return what is recorded of the base run alone: the streams that the wave grows from."""
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
        self.targets = (
            None if answers is None else without_end(run.base.inputs.target_ids, batch.model.cfg.sep_token_id)
        )

    def real_length(self, stack: str, pair: int) -> int:
        """Return how many positions of a stack a pair has, padding left out."""
        return self.layout.length(stack, pair)

    def read_out(self, states: Tensor, pairs: Index) -> ReadOut:
        """Return the metrics of rows, from the states behind the last stack.

        Args:
            states: [row, pos, d_model]; the first rows are the base rows.
            pairs: The pair of each row.
        """
        n_base, head = len(self.batch.pairs), self.batch.model.head
        base = self._first_token(head(states[:n_base]), pairs[:n_base])
        # Logits over the vocabulary are wide: those of a few hundred rows may take more than all states.
        chunks = [slice(start, start + ROWS_OF_LOGITS) for start in range(0, len(pairs), ROWS_OF_LOGITS)]
        return ReadOut.joined([self.read_logits(head(states[rows]), pairs[rows], base) for rows in chunks])

    def read_logits(self, logits: Tensor, pairs: Index, base: Tensor | None = None) -> ReadOut:
        """Return the metrics of rows, from their logits.

        Args:
            logits: [row, answer_pos, d_vocab], or [row, 2] of matches.
            pairs: The pair of each row.
            base: Log-probabilities of the base runs' first tokens [pair, d_vocab]; None leaves `kl` at 0.
        """
        batch, index = self.batch, torch.from_numpy(pairs).to(logits.device)
        custom = {name: own_metric(name, function, logits) for name, function in batch.setting.custom.items()}
        first = self._first_token(logits, pairs)
        kl = torch.zeros_like(first[:, 0]) if base is None else kl_from(base, first, pairs)
        if self.targets is not None:
            log_prob = answer_log_prob(logits, self.targets[index])
            return ReadOut(log_prob.exp(), log_prob, kl, custom, is_greedy(logits, self.targets[index]))
        correct, foils = self._entries(batch.correct).to(index.device), self._entries(batch.foils).to(index.device)
        at_answer = logits if logits.ndim == 2 else logits[:, -1]
        accuracy = is_greedy(at_answer[:, None], correct[index][:, None])
        return ReadOut(*read_entries(at_answer, first, correct[index], foils[index]), kl, custom, accuracy)

    def _first_token(self, logits: Tensor, pairs: Index) -> Tensor:
        """Return log-probabilities of the answer's first token [row, d_vocab]; of a match, of no match and match."""
        if logits.ndim == 2:
            return precise(logits).log_softmax(-1)
        if self.targets is None:
            return precise(logits[:, -1]).log_softmax(-1)
        start = (self.targets[torch.from_numpy(pairs).to(logits.device)] >= 0).int().argmax(-1)
        return precise(logits[torch.arange(len(start), device=start.device), start]).log_softmax(-1)

    def _entries(self, answers: Sequence[str]) -> Tensor:
        """Return the entry of the logits that stands for each answer."""
        if self.batch.model.cfg.kind == "match":
            return torch.tensor([int(answer == "match") for answer in answers])
        return torch.tensor([pieces(self.batch.model.tokenizer, answer)[0] for answer in answers])


def combined(read_outs: Sequence[ReadOut]) -> ReadOut:
    """Return one read-out of both answers: probability and accuracy of the correct one, and the logit difference."""
    if len(read_outs) == 1:
        return read_outs[0]
    correct, foil = read_outs
    return correct._replace(logit_diff=correct.logit_diff - foil.logit_diff)


def without_end(targets: Tensor | None, sep_token_id: int) -> Tensor:
    """Return targets without the closing `[SEP]`, so that answers of one token are as their logits have them."""
    assert targets is not None, "answers were given"
    return targets.masked_fill(targets == sep_token_id, IGNORED)


@torch.no_grad()
def foils_of(
    model: "HookedBLIP", pairs: "MinimalPairs", corruption: Any, contrast: str, batch_size: int = 32
) -> list[str]:
    """Return the foil of each pair: the answer that its correct one is compared with.

    For an image corruption, noise, and `contrast="incorrect"` it is the incorrect answer. For a text corruption it is
    `corrupt_answer`, since the corrupted run no longer gives the incorrect answer; a pair without one gets the model's
    own answer to its corrupted prompt.
    """
    if contrast == "incorrect" or corruption != "text" or model.cfg.kind == "match":
        return list(pairs["incorrect_answer"])
    foils = list(pairs["corrupt_answer"])
    unknown = [number for number, answer in enumerate(foils) if not answer]
    for start in range(0, len(unknown), batch_size):
        numbers = unknown[start : start + batch_size]
        part = pairs.select(numbers)
        own = part["incorrect_answer"]
        if model.cfg.kind == "vqa":
            own = greedy(model, part.prepare(model, prompt="corrupt"), max_new_tokens=20)
        for number, answer in zip(numbers, own, strict=True):
            foils[number] = answer or pairs["incorrect_answer"][number]
    return foils


def one_token(model: "HookedBLIP", words: Iterable[str]) -> bool:
    """Return whether all answers are single tokens."""
    return model.cfg.kind == "match" or all(len(pieces(model.tokenizer, answer)) == 1 for answer in set(words))
