"""From roles, regions and numbers to the positions of each pair, in every stack of a model."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from notice_lens.errors import one_of
from notice_lens.models.layout import Layout, SegmentKind
from notice_lens.models.protocol import image_stream
from notice_lens.pairs.regions import LostRegions
from notice_lens.pairs.roles import ALL, IN_IMAGE, missing_role
from notice_lens.patching.engine.rows import Index

if TYPE_CHECKING:
    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs

POSITION_DIMS = {"roles": "role", "regions": "region", "each": "position"}
"""The name of a result's dimension, by kind of positions."""


class Positions:
    """Positions of roles and regions of some pairs.

    Args:
        model: The model.
        pairs: The pairs, validated for it.
    """

    def __init__(self, model: "VisionLanguageModel", pairs: "MinimalPairs") -> None:
        self.model, self.pairs = model, pairs
        self._named: dict[str, list[dict[str, Index]]] = {}
        self._names: dict[str, list[str]] = {}
        self._warned_of: set[str] = set()

    @cached_property
    def roles(self) -> list[dict[str, Index]]:
        """Token positions of each pair by role."""
        spans = self.pairs.token_spans(self.model)
        return [{role: np.arange(*span) for role, span in found.items()} for found in spans]

    @cached_property
    def words(self) -> list[dict[str, Index]]:
        """Token positions of each pair by role, and those of all its words under `all`, unless a role is named so.

        In a stream that holds the image too, words are those of the question.
        """
        stack = self.model.cfg.prompt_stack
        shared = "image" in self.model.cfg.streams[stack]
        every = [
            self.layout.positions(stack, pair, "prompt") if shared else np.arange(n)
            for pair, n in enumerate(self.tokens)
        ]
        return [{ALL: own, **roles} for own, roles in zip(every, self.roles, strict=True)]

    @cached_property
    def regions(self) -> list[dict[str, Index]]:
        """Image positions of each pair by region of its clean image; regions without a patch are left out."""
        masks, _ = self._covered
        regions = [{name: np.flatnonzero(mask.numpy()) for name, mask in one.items()} for one in masks]
        return [{name: own for name, own in one.items() if len(own)} for one in regions]

    @cached_property
    def _covered(self) -> tuple[list[dict[str, Any]], LostRegions]:
        return self.pairs.covered_positions(self.model)

    @cached_property
    def on_grid(self) -> bool:
        """Whether the image positions that words look at lie on a grid, so that regions of pixels are some of them."""
        stream, layout = image_stream(self.model.cfg), self.layout
        if stream not in layout.stacks:
            return False
        segments = [one for pair in range(len(self.pairs)) for one in layout.image_segments(stream, pair)]
        return bool(segments) and all(segment.grid is not None for segment in segments)

    def _warn_of_small(self, names: Iterable[Any]) -> None:
        """Warn once of each region that covers no patch, where it is asked for: nobody else needs to know."""
        if not self.on_grid:
            return
        new = {name for name in names if isinstance(name, str)} - self._warned_of
        if new:
            self._warned_of |= new
            self._covered[1].named(new).warn(stacklevel=3)

    @cached_property
    def layout(self) -> Layout:
        """The layout of the clean prompts, with nothing teacher-forced after them."""
        return self.pairs.layout(self.model)

    @cached_property
    def tokens(self) -> list[int]:
        """The number of tokens of each clean prompt, with those that the model puts around it."""
        return [self.layout.length(self.model.cfg.prompt_stack, pair) for pair in range(len(self.pairs))]

    def groups(self, stack: str, pair: int) -> dict[str, Index]:
        """Return the positions of a pair that every pair has by kind: the `image`, and the words of the `question`."""
        layout = self.layout if stack in self.layout.stacks else None
        if layout is None:  # keys that are all of the image
            return {}
        kinds: tuple[tuple[str, SegmentKind], ...] = (("image", "image"), ("question", "prompt"))
        return {name: own for name, kind in kinds if len(own := layout.positions(stack, pair, kind))}

    def check_group(self, name: str, stack: str) -> None:
        """Raise ValueError if no pair has positions of that name in a stack: a group, role or region, or `all`."""
        if stack not in self.layout.stacks and name == "image":
            return
        pairs = range(len(self.pairs))
        known = {**{group: None for pair in pairs for group in self.groups(stack, pair)}}
        known |= dict.fromkeys(self.names(stack))
        if name not in (*known, ALL):
            raise ValueError(one_of("group of positions", name, [*known, ALL]))

    def named(self, stack: str) -> list[dict[str, Index]]:
        """Return for each pair the positions of a stack that have names: regions of the image, roles of the prompt."""
        if stack not in self._named:
            self._named[stack] = self._names_of(stack)
        return self._named[stack]

    def names(self, stack: str) -> list[str]:
        """Return the names that positions of a stack have in any pair, in the order in which they first occur."""
        if stack not in self._names:
            self._names[stack] = _names(self.named(stack))
        return self._names[stack]

    def _names_of(self, stack: str) -> list[dict[str, Index]]:
        if stack not in self.layout.stacks:
            return [{}] * len(self.pairs)
        kinds = self.model.cfg.streams[stack]
        nothing: list[dict[str, Index]] = [{}] * len(self.pairs)
        roles = self.roles if "prompt" in kinds else nothing
        taken = set(_names(roles))
        return [
            {IN_IMAGE + name if name in taken else name: own for name, own in regions.items()} | words
            for regions, words in zip(
                self.regions if "image" in kinds and self.on_grid else nothing, roles, strict=True
            )
        ]

    def labels(self, spec: Any, stack: str, what: str, longest: int) -> tuple[str | None, list[Any]]:
        """Return a result's dimension for a specification of positions, and its labels; no dimension for `all`.

        Args:
            spec: As of a `Site`.
            stack: The stack whose positions they are.
            what: Whose positions, for messages.
            longest: Positions of the longest pair.

        Raises:
            ValueError: No pair has a role or region of that name, or a position.
        """
        if spec == "all":
            return None, [None]
        if spec == "each":
            return "position", list(range(longest))
        if spec == "regions" and (stack not in self.layout.stacks or not self.on_grid):
            raise ValueError(f"{what}: positions of `{stack}` lie on no grid here; take 'all', 'each' or numbers")
        if isinstance(spec, str) and spec in POSITION_DIMS:
            known = _names(self.roles if spec == "roles" else self.regions)
            if spec == "regions":
                self._warn_of_small(_names(self._covered[0]))
            if not known:
                raise ValueError(f"{what}: these pairs have no {spec}; positions='all' or 'each' needs none")
            return POSITION_DIMS[spec], known
        if all(isinstance(one, str) for one in spec):
            known, of_words = self.names(stack), "prompt" in self.model.cfg.streams[stack]
            if "image" in self.model.cfg.streams[stack]:
                of_words_too = _names(self.roles) if of_words else []
                self._warn_of_small(name.removeprefix(IN_IMAGE) for name in spec if name not in of_words_too)
            for name in spec:
                in_image = name.startswith(IN_IMAGE) and self.on_grid
                region = in_image and name.removeprefix(IN_IMAGE) in _names(self.regions)
                if name not in (*known, ALL) and not region:
                    missing = missing_role(name, known) if of_words else one_of("region", name, [*known, ALL])
                    raise ValueError(f"{what}: {missing}")
            return "role" if of_words else "region", list(spec)
        numbers = [int(one) for one in spec]
        if max(numbers) >= longest:
            raise ValueError(f"{what}: position {max(numbers)} asked for; there are 0 to {longest - 1}")
        return "position", numbers

    def of(self, pair: int, label: Any, stack: str, length: int) -> Index:
        """Return the positions that a label means in a pair, possibly none.

        Args:
            pair: Which pair.
            label: A role; a region, by `IN_IMAGE` and its name whatever roles there are; `all` (unless a role or region
                has that name); a number; or None for all positions.
            stack: The stack whose positions they are.
            length: How many positions there are, padding left out.
        """
        if label is None:
            return np.arange(length)
        if isinstance(label, str):
            named = self.named(stack)
            if label == ALL and not any(ALL in one for one in named):
                return np.arange(length)
            if label in named[pair]:
                return named[pair][label]
            if label.startswith(IN_IMAGE) and "image" in self.model.cfg.streams.get(stack, ()):
                return self.regions[pair].get(label.removeprefix(IN_IMAGE), np.arange(0))
            if stack not in self.layout.stacks and label == "image":
                return np.arange(length)
            return self.groups(stack, pair).get(label, np.arange(0))
        return np.arange(label, label + 1) if label < length else np.arange(0)


def _names(named: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for one in named for name in one))
