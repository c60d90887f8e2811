"""The first step of every sweep: check the pairs for the model, and collect what all later steps need.

A verb checks its options and its sites, prepares the pairs, lays a grid of variants over them, and gives both to the
runner:

    prepare(model, pairs, options)  ->  grid  ->  SweepRunner  ->  engine  ->  metrics  ->  result

`Prepared` is handed down that line; nothing is handed up.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from notice_lens import __version__
from notice_lens.pairs.corruption import replaces_words
from notice_lens.pairs.noise import Noise
from notice_lens.patching.edits import check_model
from notice_lens.patching.engine.metrics import Custom, check_metrics
from notice_lens.patching.engine.pair_batch import Setting, foils_of
from notice_lens.patching.identity import fingerprint, installed_version
from notice_lens.patching.input_checks import check_runnable
from notice_lens.patching.options import Options
from notice_lens.patching.positions import Positions
from notice_lens.patching.store.parts import pairs_of_part

if TYPE_CHECKING:
    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs

SWEEP_COLUMNS = (
    "task", "group", "kind", "clean_prompt", "correct_answer", "incorrect_answer", "clean_digest", "corrupt_digest",
    "donor_digest", "donor_prompt",
)  # fmt: skip
"""Columns of the pairs that a result has as coordinates, beside their ids."""


@dataclass(frozen=True)
class Prepared:
    """Pairs that are ready to be patched. Built by `prepare`, which checks them.

    Attributes:
        model: The model.
        pairs: Validated for it.
        options: Everything about the sweep but what is patched.
        metrics: Names of the requested built-in metrics.
        custom: The caller's own metrics by name.
        positions: Of the pairs' roles and regions.
        foils: The answer that each pair's correct one is compared with.
    """

    model: "VisionLanguageModel"
    pairs: "MinimalPairs"
    options: Options
    metrics: tuple[str, ...]
    custom: Mapping[str, Custom]
    positions: Positions
    foils: list[str]

    @cached_property
    def lengths(self) -> dict[str, int]:
        """Positions of each stack for the longest pair, teacher-forced answers included."""
        prompts, answers = self.pairs["clean_prompt"], [self.pairs["correct_answer"], self.foils]
        layouts = [self.positions.layout]
        if self.model.teacher_forced([*prompts, *prompts], [*answers[0], *answers[1]]):
            sizes = self.pairs.image_sizes(self.model)
            layouts += [self.model.layout_of(prompts, own, sizes) for own in answers]
        return {stack: max(one.longest(stack) for one in layouts) for stack in self.positions.layout.stacks}

    def patchable(self, stack: str) -> int:
        """Return how many positions of a stack can be patched: without answers, where they follow a prompt."""
        if stack not in self.lengths:  # known once a picture went through
            return self.model.image_length(stack, self.pairs[0].clean_image)
        return (
            self.positions.layout.longest(stack) if "prompt" in self.model.cfg.streams[stack] else self.lengths[stack]
        )

    @cached_property
    def settings(self) -> list[Setting]:
        """The corruptions of the runs: one, or one for each draw of the noise."""
        noise, direction = self.options.corruption, self.options.direction
        if not isinstance(noise, Noise):
            return [Setting(noise, direction, self.custom)]
        std = noise.std(self.model, self.pairs)
        return [Setting(noise, direction, self.custom, sample, std) for sample in range(noise.samples)]

    @cached_property
    def columns(self) -> dict[str, list[Any]]:
        """Columns of the pairs that a result has as coordinates."""
        # One read for all of them: a data set takes milliseconds for each.
        columns = cast("dict[str, list[Any]]", self.pairs.dataset.select_columns(["id", *SWEEP_COLUMNS]).to_dict())
        # A column without any value is left out: readers of a store would make numbers of it.
        for name in ("donor_digest", "donor_prompt"):
            if all(value is None for value in columns[name]):
                del columns[name]
        return {**columns, "contrast_answer": self.foils}

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Everything needed to repeat the run except what is patched, in plain values."""
        model, pairs, options = self.model, self.pairs, self.options
        noise = options.corruption
        packages = ("torch", "transformers", "transformer-lens")
        return {
            "model": model.cfg.name_or_path or "",
            "model_fingerprint": fingerprint(model),
            "kind": ", ".join(model.cfg.pair_kinds),
            "model_dtype": str(model.dtype),
            "pairs": pairs.fingerprint,
            "pairs_source": f"{pairs.manifest.builder}: {pairs.manifest.source}",
            "corruption": repr(noise) if isinstance(noise, Noise) else noise,
            "direction": options.direction,
            "contrast": options.contrast,
            "source": options.source,
            **({} if options.reference is None else {"reference": options.reference.fingerprint}),
            "metrics": [*self.metrics, *self.custom],
            "controls": list(options.controls),
            "min_gap": options.min_gap,
            "seed": options.seed,
            "notice_lens": __version__,
            **{package.replace("-", "_"): installed_version(package) for package in packages},
        }

    @property
    def own(self) -> range:
        """The numbers of the pairs that are patched: those of the sweep's part, or all."""
        return pairs_of_part(len(self.pairs), self.options.part)

    @cached_property
    def has_donor(self) -> np.ndarray:
        """True for pairs with a mismatched donor. Boolean, [pair]."""
        column = self.columns.get("donor_prompt" if Setting(self.options.corruption).by_text else "donor_digest")
        return np.array([column is not None and column[number] is not None for number in range(len(self.pairs))])

    @property
    def dtype(self) -> np.dtype:
        """The type of a result's numbers."""
        return np.dtype(self.options.dtype or ("float64" if self.model.dtype == torch.float64 else "float32"))

    def batches(self, pairs_at_a_time: int) -> Iterator[list[int]]:
        """Yield pairs that are run together: so many at most, of one length of question, so that nothing is padded."""
        by_length, lengths = defaultdict[int, list[int]](list), self.positions.tokens
        for number in self.own:
            by_length[lengths[number]].append(number)
        for batch in by_length.values():
            for start in range(0, len(batch), pairs_at_a_time):
                yield batch[start : start + pairs_at_a_time]


def prepare(model: "VisionLanguageModel", pairs: "MinimalPairs", options: Options) -> Prepared:
    """Check the model, the metrics and the pairs, and find what each pair's answer is compared with.

    Raises:
        TypeError: The model or the pairs are something else.
        ValueError: The model is in training mode or has hooks on it, a metric is unknown, or pairs lack what the
            corruption needs.
        PairsError: The pairs do not hold for this model.
    """
    check_model(model)
    check_runnable(model)
    if isinstance(options.corruption, Noise):
        options = replace(options, corruption=options.corruption.at(model))
    metrics, custom = check_metrics(options.metrics)
    check_pairs(pairs, options)
    pairs = pairs.validate(model)
    pairs_of_part(len(pairs), options.part)
    foils = foils_of(model, pairs, options.corruption, options.contrast)
    return Prepared(model, pairs, options, metrics, custom, Positions(model, pairs), foils)


def check_pairs(pairs: Any, options: Options) -> None:
    """Raise where `pairs` are something else, empty, or lack what the corruption needs."""
    from notice_lens.pairs import MinimalPairs

    if not isinstance(pairs, MinimalPairs):
        raise TypeError(f"pairs are of type {type(pairs).__name__}; expected MinimalPairs, see MinimalPairs.from_rows")
    if not len(pairs):
        dropped = f" ({len(pairs.dropped)} were dropped, see pairs.dropped)" if len(pairs.dropped) else ""
        raise ValueError(f"there are no pairs to patch{dropped}")
    if replaces_words(options.corruption):
        lacking = [name for name, value in zip(pairs["id"], pairs["corrupt_prompt"], strict=True) if value is None]
        if lacking:
            raise ValueError(
                f"{len(lacking)} of {len(pairs)} pairs have no corrupt_prompt, such as {lacking[0]!r}; "
                "symmetric_replacement writes them, corruption='image' needs none"
            )
