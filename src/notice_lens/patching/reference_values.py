"""Values of another example, as a source of edits: what the same place has in the clean run of another pair.

An activation that is replaced by one of another example is what the model is used to, which zeros are not and means are
in part; and it still says nothing about the pair at hand (Chan et al. 2022, Causal Scrubbing).

1. The examples of a task and a number of tokens stand in a circle, in an order that the seed draws. A pair takes the
   next one that differs from it in its image or its question. Within one set that is a derangement: every pair gives
   its values to one other, unless pairs repeat each other.
2. Words are aligned by role: a role of as many tokens in both gives its values to the same role, and the words that are
   left theirs to those that are left, in their order. Image positions and positions of answers stay what they are.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from notice_lens.models.hook_names import HookName
from notice_lens.pairs.tokens import pieces
from notice_lens.patching.edits import TABLES, axes
from notice_lens.patching.engine.rows import Index
from notice_lens.patching.engine.runs import Trace, attn_results, trace
from notice_lens.patching.engine.sources import Make
from notice_lens.patching.options import Options
from notice_lens.patching.positions import Places

if TYPE_CHECKING:
    from notice_lens.models import HookedBLIP
    from notice_lens.pairs import MinimalPairs


Key = str | int


class Means:
    """Mean activations of the clean runs of some pairs, the reference set.

    A token that plays a role gets the mean over pairs, and over the tokens of that role; any other token, image
    position or position of an answer the mean over pairs of what stands at the same position. Answers are the correct
    ones; captions have means for their prompts alone.

    Args:
        model: The model.
        pairs: What gets means in its place.
        places: Of these pairs.
        hooks: Hook points to average.
        reference: The reference set; None takes the pairs themselves.
        batch_size: Pairs a forward.

    Raises:
        ValueError: A hook point is of scores or patterns, whose positions differ from pair to pair, or the reference
            set has nothing where a pair has a word.
    """

    def __init__(
        self,
        model: "HookedBLIP",
        pairs: "MinimalPairs",
        places: Places,
        hooks: Sequence[str],
        reference: "MinimalPairs | None" = None,
        batch_size: int = 16,
    ) -> None:
        for hook in hooks:
            if hook.endswith(TABLES):
                raise ValueError(f"source='mean' is not for scores and patterns ({hook}): pairs differ in their tokens")
        self.places = places
        self.axis = {hook: _axis(model, hook) for hook in hooks}
        if reference is not None:
            places, pairs = Places(model, reference.validate(model)), reference
        self.sums: dict[str, dict[Key, Tensor]] = {hook: {} for hook in hooks}
        self.counts: dict[str, dict[Key, int]] = {hook: {} for hook in hooks}
        spoken = None if model.cfg.kind == "match" else "correct"
        answers = [1 if spoken is None else len(pieces(model.tokenizer, said)) + 1 for said in pairs["correct_answer"]]
        for start in range(0, len(pairs), batch_size):
            part = pairs[start : start + batch_size]
            with attn_results(model, hooks):
                found = trace(model, part.prepare(model, answer=spoken), hooks).activations
            for hook, values in found.items():
                axis = self.axis[hook]
                for number, value in enumerate(values, start):
                    length = {"token": places.tokens, "answer": answers}.get(axis, {number: len(value)})[number]
                    self._add(hook, value, self._keys(places, hook, number, length))
        if reference is not None:
            self._check_words()

    def _keys(self, places: Places, hook: str, pair: int, length: int) -> list[Key]:
        """What each position of a pair is averaged under."""
        keys: list[Key] = list(range(length))
        if self.axis[hook] == "token":
            for role, found in places.roles[pair].items():
                for place in found.tolist():
                    keys[place] = role
        return keys

    def _add(self, hook: str, values: Tensor, keys: Sequence[Key]) -> None:
        for key, value in zip(keys, values.double(), strict=False):
            self.sums[hook][key] = self.sums[hook].get(key, 0) + value
            self.counts[hook][key] = self.counts[hook].get(key, 0) + 1

    def _check_words(self) -> None:
        """Raises where a word would keep what it has, since the reference set has none of its role or in its place."""
        for hook in [hook for hook, axis in self.axis.items() if axis == "token"][:1]:
            for pair, name in enumerate(self.places.pairs["id"]):
                keys = self._keys(self.places, hook, pair, self.places.tokens[pair])
                for key in sorted(keys, key=lambda key: isinstance(key, int)):
                    if key not in self.sums[hook]:
                        what = f"of the role {key!r}" if isinstance(key, str) else f"without a role at position {key}"
                        raise ValueError(
                            f"pair {name!r} has a word {what}, and the reference set has none, so that its mean is not "
                            "known; take a reference set of the same task, or None for the pairs themselves"
                        )

    def of(self, numbers: Sequence[int], like: Mapping[str, Tensor]) -> "MeansOf":
        """The means as a source of edits for some of the pairs.

        Args:
            numbers: Which pairs.
            like: Their recorded activations, for shapes.
        """
        return MeansOf(self, numbers, like)

    def values(self, hook: str, numbers: Sequence[int], like: Tensor) -> Tensor:
        """Means in the place of recorded activations [pair, pos, ...]; where there is none, what was recorded."""
        filled = like.clone()
        for row, pair in enumerate(numbers):
            for place, key in enumerate(self._keys(self.places, hook, pair, like.shape[1])):
                if key in self.sums[hook]:
                    filled[row, place] = (self.sums[hook][key] / self.counts[hook][key]).to(like)
        return filled


class MeansOf(Mapping[str, Tensor]):
    """Means by hook point, for the pairs of a batch; made when they are asked for."""

    def __init__(self, means: Means, numbers: Sequence[int], like: Mapping[str, Tensor]) -> None:
        self.means, self.numbers, self.like = means, list(numbers), like
        self.made: dict[str, Tensor] = {}

    def __getitem__(self, hook: str) -> Tensor:
        if hook not in self.made:
            self.made[hook] = self.means.values(hook, self.numbers, self.like[hook])
        return self.made[hook]

    def __iter__(self) -> Iterator[str]:
        return iter(self.means.sums)

    def __len__(self) -> int:
        return len(self.means.sums)


def _axis(model: "HookedBLIP", hook: str) -> str:
    name = HookName.parse(hook)
    assert name.stack is not None, "sites are checked"
    return axes(model, name.stack, name.leaf)[0]


class Resamples:
    """Another example for each pair, and its values.

    Args:
        model: The model.
        pairs: What gets values of others in its place.
        places: Of these pairs.
        hooks: Hook points whose values are asked for.
        reference: Where examples come from; None takes the pairs themselves.
        seed: Of the draw.

    Attributes:
        numbers: The example of each pair, by its number in the reference set; None where there is no other.

    Raises:
        ValueError: There is no other example for any pair.
    """

    def __init__(
        self,
        model: "HookedBLIP",
        pairs: "MinimalPairs",
        places: Places,
        hooks: Sequence[str],
        reference: "MinimalPairs | None",
        seed: int,
    ) -> None:
        self.model, self.pairs, self.places, self.hooks = model, pairs, places, list(hooks)
        self.reference = pairs if reference is None else reference.validate(model)
        self.places_there = places if reference is None else Places(model, self.reference)
        self.numbers = self._drawn(pairs, reference is None, seed)
        if all(number is None for number in self.numbers):
            raise ValueError(
                f"value 'resample' needs another example of the same task and number of tokens, and none of "
                f"{len(pairs)} pairs has one in the reference set; give another reference set, or take 'mean'"
            )

    @property
    def names(self) -> list[str]:
        """The ids of the examples; empty where there is none."""
        ids = self.reference["id"]
        return ["" if number is None else ids[number] for number in self.numbers]

    def _drawn(self, pairs: "MinimalPairs", own: bool, seed: int) -> list[int | None]:
        circles: dict[Any, list[int]] = defaultdict(list)
        tokens = self.places_there.tokens
        tasks, seen = self.reference["task"], _seen(self.reference)
        for number in np.random.default_rng(seed).permutation(len(self.reference)).tolist():
            circles[tasks[number], tokens[number]].append(number)
        turns: dict[Any, int] = defaultdict(int)
        found: list[int | None] = []
        kinds = zip(pairs["task"], self.places.tokens, strict=True)
        for pair, (kind, looked_at) in enumerate(zip(kinds, _seen(pairs), strict=True)):
            circle = circles.get(kind, [])
            start = circle.index(pair) + 1 if own else turns[kind]
            turns[kind] += 1
            following = (circle[(start + step) % len(circle)] for step in range(len(circle)))
            found.append(next((number for number in following if seen[number] != looked_at), None))
        return found

    def of(self, several: Sequence[int]) -> Callable[[list[str] | None], Mapping[str, Tensor]]:
        """What gives values to some of the pairs, from what the decoder is made to say.

        A pair without another example gets its own; nobody reads them.

        Args:
            several: Which pairs.
        """
        numbers = [self.numbers[pair] for pair in several]
        examples = [
            self.pairs[pair] if number is None else self.reference[number]
            for pair, number in zip(several, numbers, strict=True)
        ]
        orders = [
            np.arange(self.places.tokens[pair]) if number is None else self._order(pair, number)
            for pair, number in zip(several, numbers, strict=True)
        ]
        before: list[Trace] = []

        def values(spoken: list[str] | None) -> dict[str, Tensor]:
            images, prompts = zip(*((example.clean_image, example.clean_prompt) for example in examples), strict=True)
            inputs = self.model.prepare(list(images), list(prompts), spoken)
            with attn_results(self.model, self.hooks):
                found = trace(self.model, inputs, self.hooks, upstream=before[0] if before else None)
            before.append(found)
            return {hook: self._aligned(hook, value, orders) for hook, value in found.activations.items()}

        return values

    def _order(self, pair: int, number: int) -> Index:
        """For each token of a pair, the token of the example whose value it gets."""
        ours, theirs = self.places.roles[pair], self.places_there.roles[number]
        order = np.full(self.places.tokens[pair], -1)
        for role, places in ours.items():
            there = theirs.get(role, order[:0])
            if len(there) == len(places) and (order[places] < 0).all() and not np.isin(there, order).any():
                order[places] = there
        order[order < 0] = np.setdiff1d(np.arange(len(order)), order)
        return order

    def _aligned(self, hook: str, values: Tensor, orders: Sequence[Index]) -> Tensor:
        """Recorded values [pair, pos, ...] or [pair, head, query_pos, key_pos], words where the pairs have theirs."""
        name = HookName.parse(hook)
        assert name.stack is not None, "sites are checked"
        axis, key_axis = axes(self.model, name.stack, name.leaf)
        dims = {1: axis} if key_axis is None else {2: axis, 3: key_axis}
        for dim in [dim for dim, own in dims.items() if own == "token"]:
            index = np.tile(np.arange(values.shape[dim]), (len(orders), 1))
            for row, order in zip(index, orders, strict=True):
                row[: len(order)] = order
            at = torch.from_numpy(index).to(values.device)
            shape = [len(orders) if own == 0 else -1 if own == dim else 1 for own in range(values.ndim)]
            sizes = [size if own != dim else index.shape[1] for own, size in enumerate(values.shape)]
            values = values.gather(dim, at.view(shape).expand(sizes))
        return values


def _seen(pairs: "MinimalPairs") -> list[tuple[str, str]]:
    """What each clean run looks at: image and question."""
    return list(zip(pairs["clean_digest"], pairs["clean_prompt"], strict=True))


class Made:
    """Means over the reference set and values of its examples, where edits ask for them.

    Args:
        model: The model.
        pairs: The pairs of the sweep.
        places: Of these.
        hooks: Hook points by source, `mean` and `resample`.
        options: Of the sweep: its reference set and its seed.
    """

    def __init__(
        self,
        model: "HookedBLIP",
        pairs: "MinimalPairs",
        places: Places,
        hooks: Mapping[str, Sequence[str]],
        options: Options,
    ) -> None:
        self.model, self.pairs, self.places, self.hooks, self.options = model, pairs, places, hooks, options

    @cached_property
    def _means(self) -> Means:
        return Means(self.model, self.pairs, self.places, self.hooks["mean"], self.options.reference)

    @cached_property
    def _resamples(self) -> Resamples:
        reference, seed = self.options.reference, self.options.seed
        return Resamples(self.model, self.pairs, self.places, self.hooks["resample"], reference, seed)

    @property
    def partners(self) -> list[str]:
        """The id of the example that each pair's values come from; empty where there is none."""
        return self._resamples.names

    def has_partner(self, pair: int) -> bool:
        """Whether there is another example for a pair."""
        return self._resamples.numbers[pair] is not None

    def of(self, several: Sequence[int]) -> Make:
        """What makes the sources of some pairs."""
        resampled = self._resamples.of(several) if self.hooks["resample"] else None

        def make(like: Mapping[str, Tensor], spoken: list[str] | None) -> dict[str, Any]:
            found: dict[str, Any] = {}
            if self.hooks["mean"]:
                found["mean"] = self._means.of(several, like)
            if resampled is not None:
                found["resample"] = resampled(spoken)
            return found

        return make
