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
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from notice_lens.models.names import HookName
from notice_lens.patching.cells import Index
from notice_lens.patching.places import Places
from notice_lens.patching.runs import Trace, attn_results, trace
from notice_lens.patching.sites import axes

if TYPE_CHECKING:
    from notice_lens.models import HookedBLIP
    from notice_lens.pairs import MinimalPairs


class Resamples:
    """Another example for each pair, and its values.

    Args:
        blip: The model.
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
        blip: "HookedBLIP",
        pairs: "MinimalPairs",
        places: Places,
        hooks: Sequence[str],
        reference: "MinimalPairs | None",
        seed: int,
    ) -> None:
        self.blip, self.pairs, self.places, self.hooks = blip, pairs, places, list(hooks)
        self.reference = pairs if reference is None else reference.validate(blip)
        self.places_there = places if reference is None else Places(blip, self.reference)
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
            inputs = self.blip.prepare(list(images), list(prompts), spoken)
            with attn_results(self.blip, self.hooks):
                found = trace(self.blip, inputs, self.hooks, upstream=before[0] if before else None)
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
        axis, key_axis = axes(self.blip, name.stack, name.leaf)
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
