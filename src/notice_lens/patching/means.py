"""Mean activations over a reference set, as a source of edits: for tokens by role, elsewhere by position."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from notice_lens.models.names import HookName
from notice_lens.pairs.tokens import pieces
from notice_lens.patching.batch import attn_results
from notice_lens.patching.places import Places
from notice_lens.patching.runs import trace
from notice_lens.patching.sites import TABLES, axes

if TYPE_CHECKING:
    from notice_lens.models import HookedBLIP
    from notice_lens.pairs import MinimalPairs

Key = str | int


class Means:
    """Mean activations of the clean runs of some pairs.

    A token that plays a role gets the mean over pairs, and over the tokens of that role; any other token, image
    position or position of an answer the mean over pairs of what stands at the same position. Answers are the correct
    ones; captions have means for their prompts alone.

    Args:
        blip: The model.
        pairs: The reference set.
        places: Of these pairs.
        hooks: Hook points to average.
        batch_size: Pairs a forward.

    Raises:
        ValueError: A hook point is of scores or patterns, whose positions differ from pair to pair.
    """

    def __init__(
        self, blip: "HookedBLIP", pairs: "MinimalPairs", places: Places, hooks: Sequence[str], batch_size: int = 16
    ) -> None:
        for hook in hooks:
            if hook.endswith(TABLES):
                raise ValueError(f"source='mean' is not for scores and patterns ({hook}): pairs differ in their tokens")
        self.places = places
        self.axis = {hook: _axis(blip, hook) for hook in hooks}
        self.sums: dict[str, dict[Key, Tensor]] = {hook: {} for hook in hooks}
        self.counts: dict[str, dict[Key, int]] = {hook: {} for hook in hooks}
        spoken = None if blip.cfg.kind == "match" else "correct"
        self.answers = [
            1 if spoken is None else len(pieces(blip.tokenizer, said)) + 1 for said in pairs["correct_answer"]
        ]
        for start in range(0, len(pairs), batch_size):
            part = pairs[start : start + batch_size]
            with attn_results(blip, hooks):
                found = trace(blip, part.prepare(blip, answer=spoken), hooks).activations
            for hook, values in found.items():
                for number in range(len(part)):
                    self._add(hook, values[number], start + number)

    def _keys(self, hook: str, pair: int, length: int) -> list[Key]:
        """What each position of a pair is averaged under."""
        keys: list[Key] = list(range(length))
        if self.axis[hook] == "token":
            for role, places in self.places.roles[pair].items():
                for place in places.tolist():
                    keys[place] = role
        return keys

    def _add(self, hook: str, values: Tensor, pair: int) -> None:
        length = {"token": self.places.tokens, "answer": self.answers}.get(self.axis[hook], {pair: len(values)})[pair]
        for key, value in zip(self._keys(hook, pair, length), values.double(), strict=False):
            self.sums[hook][key] = self.sums[hook].get(key, 0) + value
            self.counts[hook][key] = self.counts[hook].get(key, 0) + 1

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
            for place, key in enumerate(self._keys(hook, pair, like.shape[1])):
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


def _axis(blip: "HookedBLIP", hook: str) -> str:
    name = HookName.parse(hook)
    assert name.stack is not None, "sites are checked"
    return axes(blip, name.stack, name.leaf)[0]
