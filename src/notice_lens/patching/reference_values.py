"""Values from a reference set, as sources of edits: mean activations, and those of another example.

Means: a token that plays a role gets the mean over pairs, and over the tokens of that role; any other token, image
position, newline or marker between these, or position of an answer the mean over pairs at the same position.

Another example: an activation that is replaced by one of another example is what the model is used to, which zeros are
not and means are in part; and it still says nothing about the pair at hand (Chan et al. 2022, Causal Scrubbing).

1. The examples of a task and a number of tokens stand in a circle, in an order that the seed draws. A pair takes the
   next one that differs from it in its image or its question. Within one set that is a derangement: every pair gives
   its values to one other, unless pairs repeat each other.
2. Words are aligned by role: a role of as many tokens in both gives its values to the same role, and the words that are
   left theirs to those that are left, in their order. Image positions and positions of answers stay what they are.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from notice_lens.models.hook_names import HookName
from notice_lens.models.protocol import TABLES, axes
from notice_lens.patching.engine.protocol import engine_of
from notice_lens.patching.engine.rows import Index
from notice_lens.patching.positions import Positions
from notice_lens.patching.prepare import Prepared

if TYPE_CHECKING:
    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs


class ReferenceValues:
    """Means over the reference set and values of its examples, for the pairs of a sweep.

    Args:
        prepared: The pairs.
        hooks: Hook points by source; `mean` and `resample` are looked at.
    """

    def __init__(self, prepared: Prepared, hooks: Mapping[str, Sequence[str]]) -> None:
        self.prepared, self.hooks = prepared, hooks

    @cached_property
    def means(self) -> "Means | None":
        """Means, if an edit asks for them."""
        if "mean" not in self.hooks:
            return None
        own = self.prepared
        return Means(own.model, own.pairs, own.positions, self.hooks["mean"], own.options.reference)

    @cached_property
    def resamples(self) -> "Resamples | None":
        """Other examples, if an edit asks for them."""
        if "resample" not in self.hooks:
            return None
        own, options = self.prepared, self.prepared.options
        return Resamples(own.model, own.pairs, own.positions, self.hooks["resample"], options.reference, options.seed)

    def of(self, pairs: Sequence[int]) -> "BatchReferences":
        """Return the values of some pairs, by their numbers."""
        return BatchReferences(self.means, self.resamples, pairs)


class BatchReferences:
    """The reference values of the pairs of a batch, computed once for each teacher-forced answer."""

    def __init__(self, means: "Means | None", resamples: "Resamples | None", pairs: Sequence[int]) -> None:
        self.means, self.resamples, self.pairs = means, resamples, pairs
        self.before: Any = None

    def sources(self, like: Mapping[str, Tensor], answers: list[str] | None) -> dict[str, Any]:
        """Return values [pair, ...] by source and hook point; `like` are the base run's activations."""
        sources: dict[str, Any] = {}
        if self.means is not None:
            sources["mean"] = BatchMeans(self.means, self.pairs, like)
        if self.resamples is not None:
            # Only the decoder runs anew for other answers.
            self.before = self.resamples.recorded(self.pairs, answers, self.before)
            sources["resample"] = self.resamples.aligned(self.pairs, self.before.activations)
        return sources


class Means:
    """Mean activations of the clean runs of the reference set.

    Answers are the correct ones; captions have means for their prompts alone.

    Args:
        model: The model.
        pairs: The pairs that get means in place of their values.
        positions: Of these pairs.
        hooks: Hook points to average.
        reference: The reference set; None takes the pairs themselves.

    Raises:
        ValueError: A hook point is of scores or patterns, whose positions differ from pair to pair, or the reference
            set has nothing where a pair has a word.
    """

    def __init__(
        self,
        model: "VisionLanguageModel",
        pairs: "MinimalPairs",
        positions: Positions,
        hooks: Sequence[str],
        reference: "MinimalPairs | None" = None,
    ) -> None:
        for hook in hooks:
            if hook.endswith(TABLES):
                raise ValueError(f"source='mean' is not for scores and patterns ({hook}): pairs differ in their tokens")
        there = positions
        if reference is not None:
            pairs = reference.validate(model)
            there = Positions(model, pairs)
        self.positions = positions
        self.axis = {hook: _axes(model, hook)[0] for hook in hooks}
        # A key is what values are averaged under: first roles, then positions. [pair, pos], for each kind of positions.
        self.with_roles = [stack for stack, kinds in model.cfg.streams.items() if "prompt" in kinds]
        by_role = there.roles if {*self.with_roles} & {*self.axis.values()} else []
        self.roles = list(dict.fromkeys(role for own in by_role for role in own))
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}
        # A caption's means are those of its prompt: what is teacher-forced after it in the same stack is left out.
        apart = [stack for stack, kinds in model.cfg.streams.items() if "answer" in kinds and "prompt" not in kinds]
        answers = "correct" if apart else None
        words = model.layout_of(pairs["clean_prompt"], pairs["correct_answer"]) if apart else there.layout
        layouts = {stack: there.layout if stack in self.with_roles else words for stack in there.layout.stacks}
        real = {stack: layout.mask(stack) for stack, layout in layouts.items()}
        engine = engine_of(model)
        size = engine.together()
        for start in range(0, len(pairs), size):
            part = pairs[start : start + size]
            run = engine.hooked_run(model, part.prepare(model, answer=answers), hooks)
            numbers = range(start, start + len(part))
            for hook, values in run.activations.items():
                keys = self._keys(there, hook, numbers, values.shape[1])
                own = np.full(keys.shape, self.axis[hook] not in real)
                if self.axis[hook] in real:
                    mask = real[self.axis[hook]][list(numbers)][:, : keys.shape[1]]
                    own[:, : mask.shape[1]] = mask
                self._add(hook, values[torch.from_numpy(own).to(values.device)], keys[own])
        if reference is not None:
            self._check_words()

    def _keys(self, positions: Positions, hook: str, pairs: Sequence[int], n: int) -> Index:
        """Return the key of each position of some pairs; -1 for a role that the reference set lacks. [pair, pos]."""
        keys = np.tile(len(self.roles) + np.arange(n), (len(pairs), 1))
        if self.axis[hook] in self.with_roles:
            number = {role: at for at, role in enumerate(self.roles)}
            for row, pair in zip(keys, pairs, strict=True):
                # The image's role has no mean of its own: image positions of the same stream are averaged one by one,
                # and so are the newlines and tile markers between them.
                image = positions.layout.positions(self.axis[hook], pair, "image")
                for role, own in positions.roles[pair].items():
                    if not np.isin(own, image).any():
                        row[own] = number.get(role, -1)
        return keys

    def _add(self, hook: str, values: Tensor, keys: Index) -> None:
        """Add values [line, ...] to the sums of their keys."""
        index = torch.from_numpy(keys).to(values.device)
        size = max(int(keys.max(initial=-1)) + 1, len(self.sums.get(hook, ())))
        sums, counts = values.new_zeros((size, *values.shape[1:]), dtype=torch.float64), index.new_zeros(size)
        if hook in self.sums:
            sums[: len(self.sums[hook])], counts[: len(self.counts[hook])] = self.sums[hook], self.counts[hook]
        self.sums[hook] = sums.index_add_(0, index, values.double())
        self.counts[hook] = counts.index_add_(0, index, torch.ones_like(index))

    def _check_words(self) -> None:
        """Raise where a word would keep its value, since the reference set has none of its role or at its position."""
        hook = next((hook for hook, axis in self.axis.items() if axis in self.with_roles), None)
        if hook is None:
            return
        known = self.counts[hook].cpu().numpy() > 0
        for pair, name in enumerate(self.positions.pairs["id"]):
            n = self.positions.tokens[pair]
            (keys,) = self._keys(self.positions, hook, [pair], n)
            lacking = np.flatnonzero((keys < 0) | (keys >= len(known)) | ~known[keys.clip(0, len(known) - 1)])
            if not len(lacking):
                continue
            roles = {int(at): role for role, own in self.positions.roles[pair].items() for at in own}
            unknown = [roles[at] for at in lacking.tolist() if at in roles]
            what = f"of the role {unknown[0]!r}" if unknown else f"without a role at position {lacking[0]}"
            raise ValueError(
                f"pair {name!r} has a word {what}, and the reference set has none, so that its mean is not "
                "known; take a reference set of the same task, or None for the pairs themselves"
            )

    def values(self, hook: str, pairs: Sequence[int], like: Tensor) -> Tensor:
        """Return means for recorded activations [pair, pos, ...]; where there is no mean, the recorded value."""
        sums, counts = self.sums[hook], self.counts[hook]
        keys = torch.from_numpy(self._keys(self.positions, hook, pairs, like.shape[1])).to(like.device)
        inside = (keys >= 0) & (keys < len(counts))
        keys = keys.where(inside, 0)
        known = inside & (counts[keys] > 0)
        means = (sums / counts.clamp(min=1).view(-1, *(1,) * (sums.ndim - 1))).to(like)
        # Chosen everywhere: an index by a mask would make the CPU wait for a GPU.
        return torch.where(known.view(*known.shape, *(1,) * (like.ndim - 2)), means[keys], like)


class BatchMeans(Mapping[str, Tensor]):
    """Means by hook point, for the pairs of a batch; computed on access."""

    def __init__(self, means: Means, pairs: Sequence[int], like: Mapping[str, Tensor]) -> None:
        self.means, self.pairs, self.like = means, pairs, like
        self.known: dict[str, Tensor] = {}

    def __getitem__(self, hook: str) -> Tensor:
        if hook not in self.known:
            self.known[hook] = self.means.values(hook, self.pairs, self.like[hook])
        return self.known[hook]

    def __iter__(self) -> Iterator[str]:
        return iter(self.means.sums)

    def __len__(self) -> int:
        return len(self.means.sums)


def _axes(model: "VisionLanguageModel", hook: str) -> tuple[str, str | None]:
    """Return the stacks whose positions a hook point and its keys have."""
    name = HookName.parse(hook)
    assert name.stack is not None, "sites are checked"
    return axes(model.cfg, name.stack, name.leaf)


class Resamples:
    """Another example for each pair, and its values.

    Args:
        model: The model.
        pairs: The pairs that get other pairs' values in place of their own.
        positions: Of these pairs.
        hooks: Hook points whose values are needed.
        reference: The set that examples come from; None takes the pairs themselves.
        seed: Of the draw.

    Attributes:
        numbers: The example of each pair, by its number in the reference set; None where there is no other.

    Raises:
        ValueError: There is no other example for any pair.
    """

    def __init__(
        self,
        model: "VisionLanguageModel",
        pairs: "MinimalPairs",
        positions: Positions,
        hooks: Sequence[str],
        reference: "MinimalPairs | None",
        seed: int,
    ) -> None:
        self.model, self.pairs, self.positions, self.hooks = model, pairs, positions, list(hooks)
        self.reference = pairs if reference is None else reference.validate(model)
        self.positions_there = positions if reference is None else Positions(model, self.reference)
        self.numbers = self._drawn(pairs, reference is None, seed)
        if all(number is None for number in self.numbers):
            raise ValueError(
                f"value 'resample' needs another example of the same task and number of tokens, and none of "
                f"{len(pairs)} pairs has one in the reference set; give another reference set, or take 'mean'"
            )

    @cached_property
    def names(self) -> list[str]:
        """The ids of the examples; empty without examples."""
        ids = self.reference["id"]
        return ["" if number is None else ids[number] for number in self.numbers]

    def _drawn(self, pairs: "MinimalPairs", own: bool, seed: int) -> list[int | None]:
        circles: dict[Any, list[int]] = defaultdict(list)
        at_place: dict[int, int] = {}
        tasks, tokens, inputs = self.reference["task"], self.positions_there.tokens, _inputs(self.reference)
        for number in np.random.default_rng(seed).permutation(len(self.reference)).tolist():
            circle = circles[tasks[number], tokens[number]]
            at_place[number] = len(circle)
            circle.append(number)
        turns: dict[Any, int] = defaultdict(int)
        drawn: list[int | None] = []
        kinds = zip(pairs["task"], self.positions.tokens, strict=True)
        for pair, (kind, seen) in enumerate(zip(kinds, _inputs(pairs), strict=True)):
            circle = circles.get(kind, [])
            start = at_place[pair] + 1 if own else turns[kind]
            turns[kind] += 1
            following = (circle[(start + step) % len(circle)] for step in range(len(circle)))
            drawn.append(next((number for number in following if inputs[number] != seen), None))
        return drawn

    def recorded(self, pairs: Sequence[int], answers: list[str] | None, before: Any) -> Any:
        """Return the runs of the examples of some pairs; a pair without one runs itself, which is never read.

        Args:
            pairs: Their numbers.
            answers: The teacher-forced answers.
            before: The same runs with other answers, if they are there already.
        """
        examples = [
            self.pairs[pair] if (number := self.numbers[pair]) is None else self.reference[number] for pair in pairs
        ]
        images, prompts = [one.clean_image for one in examples], [one.clean_prompt for one in examples]
        inputs = self.model.prepare(images, prompts, answers)
        return engine_of(self.model).hooked_run(self.model, inputs, self.hooks, before)

    def aligned(self, pairs: Sequence[int], activations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the examples' activations with each word where the pair has its own."""
        orders = [self.order(pair) for pair in pairs]
        return {hook: self.reordered(hook, values, orders) for hook, values in activations.items()}

    def order(self, pair: int) -> Index:
        """Return for each token of a pair the token of the example whose value it gets."""
        number = self.numbers[pair]
        if number is None:
            return np.arange(self.positions.tokens[pair])
        theirs, order = self.positions_there.roles[number], np.full(self.positions.tokens[pair], -1)
        for role, own in self.positions.roles[pair].items():
            there = theirs.get(role, order[:0])
            if len(there) == len(own) and (order[own] < 0).all() and not np.isin(there, order).any():
                order[own] = there
        order[order < 0] = np.setdiff1d(np.arange(len(order)), order)
        return order

    def reordered(self, hook: str, values: Tensor, orders: Sequence[Index]) -> Tensor:
        """Return values [pair, pos, ...] or [pair, head, query_pos, key_pos] with their words in other orders."""
        axis, key_axis = _axes(self.model, hook)
        dims = {1: axis} if key_axis is None else {2: axis, 3: key_axis}
        for dim in [dim for dim, stack in dims.items() if stack == self.model.cfg.prompt_stack]:
            index = np.tile(np.arange(values.shape[dim]), (len(orders), 1))
            for row, order in zip(index, orders, strict=True):
                row[: len(order)] = order
            shape = [len(orders) if own == 0 else -1 if own == dim else 1 for own in range(values.ndim)]
            at = torch.from_numpy(index).to(values.device).view(shape).expand(values.shape)
            values = values.gather(dim, at)
        return values


def _inputs(pairs: "MinimalPairs") -> list[tuple[str, str]]:
    """Return the image and the question of each clean run."""
    return list(zip(pairs["clean_digest"], pairs["clean_prompt"], strict=True))
