"""The runs of some pairs: clean, corrupted and mismatched, recorded once for all their variants."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from notice_lens.models.blip import answers
from notice_lens.models.blip.inputs import IGNORED, BLIPInputs
from notice_lens.models.blip.steps import EMBEDDING
from notice_lens.pairs.noise import Noise
from notice_lens.pairs.tokens import pieces
from notice_lens.patching.engine.metrics import (
    Custom,
    Said,
    answer_log_prob,
    entries_said,
    kl_from,
    own_metric,
    precise,
    says,
)
from notice_lens.patching.engine.rows import Index
from notice_lens.patching.engine.runs import Run, Trace, attn_results, trace
from notice_lens.patching.engine.sources import Make, Zeros, parts

if TYPE_CHECKING:
    from notice_lens.models import HookedBLIP
    from notice_lens.pairs import MinimalPairs

ROWS_OF_LOGITS = 256
"""Variants whose logits over the vocabulary are in memory at a time."""


@dataclass(frozen=True)
class Setting:
    """What a sweep does, apart from where.

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
        """Whether the runs differ in their questions, and not in their images."""
        if isinstance(self.corruption, Noise):
            return not self.corruption.hook.startswith("vision")
        return self.corruption == "text"


class Batch:
    """Some pairs before a model.

    Args:
        model: The model.
        pairs: Some of them.
        contrast: The answer that each pair's correct one is compared with.
        setting: What is done.
        record: Hook points that edits take their values from.
        streams: Stacks whose base stream the wave grows from.
        also: Hook points that are recorded of the base run alone.
        donors: Whether mismatched runs are needed.
        of_others: Hook points that are recorded of every run but the base run.
    """

    def __init__(
        self,
        model: "HookedBLIP",
        pairs: "MinimalPairs",
        contrast: Sequence[str],
        setting: Setting,
        record: Iterable[str],
        streams: Iterable[str],
        also: Iterable[str],
        donors: bool,
        of_others: Iterable[str] = (),
    ) -> None:
        self.model, self.pairs, self.setting = model, list(pairs), setting
        self.record, self.streams = list(dict.fromkeys(record)), list(streams)
        self.also, self.of_others = list(also), list(of_others)
        column = "donor_prompt" if setting.by_text else "donor_digest"
        self.has_donor = np.array([pair.record[column] is not None for pair in self.pairs])
        self.donors = donors and bool(self.has_donor.any())
        self.correct, self.contrast = [pair.correct_answer for pair in self.pairs], list(contrast)
        self.single = one_token(model, [*self.correct, *self.contrast])
        self._preprocessed: dict[str, Tensor] = {}

    # Runs

    def _inputs(self, which: str, spoken: list[str] | None = None) -> BLIPInputs:
        """The inputs of the clean, corrupted or donor run; a pair without a donor has its clean run there."""
        noisy = isinstance(self.setting.corruption, Noise) and which == "corrupt"
        image, prompt = ("clean", which) if self.setting.by_text else (which, "clean")
        if noisy:
            image = prompt = "clean"
        prompts = [
            pair[f"{prompt}_prompt"] if pair[f"{prompt}_prompt"] is not None else pair.clean_prompt
            for pair in self.pairs
        ]
        return self.model.prepare({"pixel_values": self._pixels(image)}, prompts, spoken)

    def _pixels(self, image: str) -> Tensor:
        """The clean, corrupt or donor images, preprocessed once."""
        if image not in self._preprocessed:
            images = [getattr(pair, f"{image}_image") or pair.clean_image for pair in self.pairs]
            self._preprocessed[image] = self.model.prepare(images).pixel_values
        return self._preprocessed[image]

    def contexts(self) -> list[list[str] | None]:
        """What the decoder is made to say, one after the other: nothing, or the correct answers and the contrasts."""
        if self.model.cfg.kind == "match" or (self.model.cfg.kind == "vqa" and self.single):
            return [None]
        return [self.correct, self.contrast]

    def runs(self, made: Make | None = None) -> Iterator["Context"]:
        """The recorded runs, for each context.

        Args:
            made: Gives sources that are no runs of these pairs.
        """
        from_clean = self.setting.direction == "noise"
        before: dict[str, Trace] = {}
        for spoken in self.contexts():
            found: dict[str, Trace] = {}
            for which in ("clean", "corrupt", *(["donor"] if self.donors else [])):
                found[which] = self._traced(which, spoken, from_clean, before, found.get("clean"))
            before = before or found
            base, other = (found["clean"], found["corrupt"]) if from_clean else (found["corrupt"], found["clean"])
            sources: dict[str, Any] = {"other": other.activations, "zero": Zeros(base.activations)}
            if self.donors:
                sources["donor"] = found["donor"].activations
            sources |= parts(base.activations, other.activations)
            if made is not None:
                sources |= made(base.activations, spoken)
            yield Context(self, Run(self.model, base, sources), found, spoken)

    def _traced(
        self, which: str, spoken: list[str] | None, from_clean: bool, before: Mapping[str, Trace], clean: Trace | None
    ) -> Trace:
        """One run, recorded; stacks that an earlier run has been through with the same inputs are taken over.

        Args:
            which: `clean`, `corrupt` or `donor`.
            spoken: What the decoder is made to say.
            from_clean: Whether the clean run is the base run.
            before: The runs while the decoder said something else.
            clean: The clean run while it says this, if it is there already.
        """
        alone = self._base_names()
        if which != ("clean" if from_clean else "corrupt"):
            # Where only words differ, the images of the corrupted run are the clean run's.
            alone = [name for name in alone if self.setting.by_text and name.startswith("vision.")]
            alone += self.of_others
        upstream, start = before.get(which), None
        if upstream is None and self.setting.by_text and clean is not None:
            upstream, start = clean, self.model.cfg.stacks[1]
        names = [*self.record, *alone]
        with attn_results(self.model, names):
            return trace(self.model, self._inputs(which, spoken), names, self._noise_hooks(which), upstream, start)

    def _base_names(self) -> list[str]:
        """What is recorded of the base run alone."""
        layers = {stack: self.model.stack(stack).cfg.n_layers for stack in self.streams}
        embedded = [stack for stack in self.streams if any(name.startswith(f"{stack}.hook_") for name in self.record)]
        return [
            *(f"{stack}.blocks.{layer}.hook_resid_pre" for stack, n in layers.items() for layer in range(n)),
            *(f"{stack}.{hook}" for stack in embedded for hook in EMBEDDING),
            *self.also,
        ]

    def _noise_hooks(self, which: str) -> list[Any]:
        noise = self.setting.corruption
        if which != "corrupt" or not isinstance(noise, Noise):
            return []
        ids = [pair.id for pair in self.pairs]
        return noise.hooks(self.model, self._inputs("clean"), ids, self.setting.noise_std, self.setting.sample)


class Context:
    """The runs of a batch while the decoder says one thing.

    Args:
        batch: Of which pairs.
        run: The base run and the sources of edits.
        unpatched: The recorded runs: `clean`, `corrupt`, and `donor` where mismatched runs are needed.
        spoken: What the decoder is made to say.
    """

    def __init__(self, batch: Batch, run: Run, unpatched: Mapping[str, Trace], spoken: list[str] | None) -> None:
        self.batch, self.run, self.unpatched, self.spoken = batch, run, unpatched, spoken
        self.clean, self.corrupt = unpatched["clean"], unpatched["corrupt"]
        mask = run.base.inputs.attention_mask
        self._tokens = None if mask is None else mask.sum(-1).tolist()
        self.targets = None if spoken is None else without_end(run.base.inputs.target_ids, batch.model.cfg.sep_token_id)

    def real_length(self, axis: str, pair: int) -> int:
        """How many positions a pair has, padding left out: of its image, its tokens or its answer."""
        inputs = self.run.base.inputs
        if axis == "image":
            return self.run.base.states["vision"].shape[1]
        if axis == "token" and inputs.input_ids is not None:
            return inputs.input_ids.shape[1] if self._tokens is None else self._tokens[pair]
        return 1 if self.spoken is None else len(pieces(self.batch.model.tokenizer, self.spoken[pair])) + 1

    def say(self, states: Tensor, pairs: Index) -> Said:
        """What rows say, from the states behind the last stack.

        Args:
            states: [row, pos, d_model]; the first rows are the base rows.
            pairs: The pair of each row.
        """
        n_base = len(self.batch.pairs)
        base = self._first(self.batch.model.head(states[:n_base]), pairs[:n_base])
        parts = []
        for start in range(0, len(pairs), ROWS_OF_LOGITS):
            rows = slice(start, start + ROWS_OF_LOGITS)
            parts.append(self.say_logits(self.batch.model.head(states[rows]), pairs[rows], base))
        return Said.joined(parts)

    def say_logits(self, logits: Tensor, pairs: Index, base: Tensor | None = None) -> Said:
        """The same from logits.

        Args:
            logits: [row, answer_pos, d_vocab], or [row, 2] of matches.
            pairs: The pair of each row.
            base: Log-probabilities of the base runs' first tokens [pair, d_vocab]; None where they do not matter.
        """
        batch, index = self.batch, torch.from_numpy(pairs).to(logits.device)
        custom = {name: own_metric(name, function, logits) for name, function in batch.setting.custom.items()}
        first = self._first(logits, pairs)
        kl = torch.zeros_like(first[:, 0]) if base is None else kl_from(base, first, pairs)
        if self.targets is None:
            correct, contrast = (
                self._entries(said).to(index.device)[index] for said in (batch.correct, batch.contrast)
            )
            at_answer = logits if logits.ndim == 2 else logits[:, -1]
            accuracy = says(at_answer[:, None], correct[:, None])
            return Said(*entries_said(at_answer, first, correct, contrast), kl, custom, accuracy)
        log_prob = answer_log_prob(logits, self.targets[index])
        return Said(log_prob.exp(), log_prob, kl, custom, says(logits, self.targets[index]))

    def _first(self, logits: Tensor, pairs: Index) -> Tensor:
        """Log-probabilities of the answer's first token [row, d_vocab]; of a match, of no match and match."""
        if logits.ndim == 2:
            return precise(logits).log_softmax(-1)
        if self.targets is None:
            return precise(logits[:, -1]).log_softmax(-1)
        place = (self.targets[torch.from_numpy(pairs).to(logits.device)] >= 0).int().argmax(-1)
        return precise(logits[torch.arange(len(place), device=place.device), place]).log_softmax(-1)

    def _entries(self, spoken: Sequence[str]) -> Tensor:
        """The entry of the logits that stands for each answer."""
        if self.batch.model.cfg.kind == "match":
            return torch.tensor([int(answer == "match") for answer in spoken])
        return torch.tensor([pieces(self.batch.model.tokenizer, answer)[0] for answer in spoken])


def contrasted(said: Sequence[Said]) -> Said:
    """What rows say about both answers: the correct one's probability and accuracy, and the difference between both."""
    if len(said) == 1:
        return said[0]
    return said[0]._replace(logit_diff=said[0].logit_diff - said[1].logit_diff)


def without_end(targets: Tensor | None, sep_token_id: int) -> Tensor:
    """Targets without the closing `[SEP]`, so that answers of one token are as their logits have them."""
    assert targets is not None, "answers were given"
    return targets.masked_fill(targets == sep_token_id, IGNORED)


@torch.no_grad()
def contrasts(
    model: "HookedBLIP", pairs: "MinimalPairs", corruption: Any, contrast: str, batch_size: int = 32
) -> list[str]:
    """The answer that each pair's correct one is compared with.

    For an image corruption, noise, and `contrast="incorrect"` the incorrect answer. For a text corruption
    `corrupt_answer`, since the incorrect answer is no longer what the corrupted run says; a pair that has none gets the
    model's own answer to its corrupted prompt.
    """
    if contrast == "incorrect" or corruption != "text" or model.cfg.kind == "match":
        return list(pairs["incorrect_answer"])
    found = list(pairs["corrupt_answer"])
    unknown = [number for number, answer in enumerate(found) if not answer]
    for start in range(0, len(unknown), batch_size):
        numbers = unknown[start : start + batch_size]
        part = pairs.select(numbers)
        said = part["incorrect_answer"]
        if model.cfg.kind == "vqa":
            said = answers.greedy(model, part.prepare(model, prompt="corrupt"), max_new_tokens=20)
        for number, answer in zip(numbers, said, strict=True):
            found[number] = answer or pairs["incorrect_answer"][number]
    return found


def one_token(model: "HookedBLIP", spoken: Iterable[str]) -> bool:
    """Whether all answers are single tokens."""
    return model.cfg.kind == "match" or all(len(pieces(model.tokenizer, answer)) == 1 for answer in set(spoken))
