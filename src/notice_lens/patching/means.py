"""Mean activations over a reference set, as a source of edits: for tokens by role, elsewhere by position."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from notice_lens.models.names import HookName
from notice_lens.pairs.tokens import pieces
from notice_lens.patching.places import Places
from notice_lens.patching.runs import attn_results, trace
from notice_lens.patching.sites import TABLES, axes

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
        blip: The model.
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
        blip: "HookedBLIP",
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
        self.axis = {hook: _axis(blip, hook) for hook in hooks}
        if reference is not None:
            places, pairs = Places(blip, reference.validate(blip)), reference
        self.sums: dict[str, dict[Key, Tensor]] = {hook: {} for hook in hooks}
        self.counts: dict[str, dict[Key, int]] = {hook: {} for hook in hooks}
        spoken = None if blip.cfg.kind == "match" else "correct"
        answers = [1 if spoken is None else len(pieces(blip.tokenizer, said)) + 1 for said in pairs["correct_answer"]]
        for start in range(0, len(pairs), batch_size):
            part = pairs[start : start + batch_size]
            with attn_results(blip, hooks):
                found = trace(blip, part.prepare(blip, answer=spoken), hooks).activations
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


def _axis(blip: "HookedBLIP", hook: str) -> str:
    name = HookName.parse(hook)
    assert name.stack is not None, "sites are checked"
    return axes(blip, name.stack, name.leaf)[0]
