"""From roles, regions and numbers to the positions of each pair, for every axis of a model."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from notice_lens.errors import one_of
from notice_lens.pairs.roles import ALL, missing_role
from notice_lens.patching.engine.rows import Index

if TYPE_CHECKING:
    from notice_lens.models import HookedBLIP
    from notice_lens.pairs import MinimalPairs

DIMS = {"roles": "role", "regions": "region", "each": "position"}
"""The name of a result's dimension, by kind of positions."""


class Positions:
    """Positions of roles and regions of some pairs.

    Args:
        model: The model.
        pairs: The pairs, validated for it.
    """

    def __init__(self, model: "HookedBLIP", pairs: "MinimalPairs") -> None:
        self.model, self.pairs = model, pairs

    @cached_property
    def roles(self) -> list[dict[str, Index]]:
        """Token positions of each pair by role."""
        spans = self.pairs.token_spans(self.model)
        return [{role: np.arange(*span) for role, span in found.items()} for found in spans]

    @cached_property
    def words(self) -> list[dict[str, Index]]:
        """Token positions of each pair by role, and those of all its words under `all`, unless a role is named so."""
        return [{ALL: np.arange(n), **roles} for n, roles in zip(self.tokens, self.roles, strict=True)]

    @cached_property
    def regions(self) -> list[dict[str, Index]]:
        """Image positions of each pair by region of its clean image; regions without a patch are left out."""
        masks = self.pairs.patch_masks(self.model)
        regions = [{name: np.flatnonzero(mask.numpy()) for name, mask in one.items()} for one in masks]
        return [{name: own for name, own in one.items() if len(own)} for one in regions]

    @cached_property
    def tokens(self) -> list[int]:
        """The number of tokens of each clean prompt, with those that the model puts around it."""
        around = 1 if self.model.cfg.kind == "caption" else 2
        ids = self.model.tokenizer(self.pairs["clean_prompt"], add_special_tokens=False)["input_ids"]
        return [len(row) + around for row in ids]

    @property
    def patches(self) -> int:
        """Positions of an image, the class token's included."""
        return (self.model.cfg.image_size // self.model.cfg.patch_size) ** 2 + 1

    def labels(self, spec: Any, axis: str, what: str, answer_length: int = 1) -> tuple[str | None, list[Any]]:
        """Return a result's dimension for a specification of positions, and its labels; no dimension for `all`.

        Args:
            spec: As of a `Site`.
            axis: `image`, `token` or `answer`.
            what: Whose positions, for messages.
            answer_length: Positions of the longest answer.

        Raises:
            ValueError: No pair has a role or region of that name, or a position.
        """
        if spec == "all":
            return None, [None]
        longest = {"image": self.patches, "token": max(self.tokens, default=0), "answer": answer_length}[axis]
        if spec == "each":
            return "position", list(range(longest))
        named = self.roles if axis == "token" else self.regions if axis == "image" else []
        known = list(dict.fromkeys(name for found in named for name in found))
        if isinstance(spec, str):
            if not known:
                raise ValueError(f"{what}: these pairs have no {spec}; positions='all' or 'each' needs none")
            return DIMS[spec], known
        if all(isinstance(one, str) for one in spec):
            for name in spec:
                if name not in (*known, ALL):
                    missing = missing_role(name, known) if axis == "token" else one_of("region", name, [*known, ALL])
                    raise ValueError(f"{what}: {missing}")
            return "role" if axis == "token" else "region", list(spec)
        if max(spec) >= longest:
            raise ValueError(f"{what}: position {max(spec)} asked for; there are 0 to {longest - 1}")
        return "position", list(spec)

    def of(self, pair: int, label: Any, axis: str, length: int) -> Index:
        """Return the positions that a label means in a pair; empty where it has none.

        Args:
            pair: Which pair.
            label: A role, a region, `all` (unless a role or region has that name), a number, or None for all positions.
            axis: `image`, `token` or `answer`.
            length: How many positions there are, padding left out.
        """
        if label is None:
            return np.arange(length)
        if isinstance(label, str):
            named = self.roles if axis == "token" else self.regions
            if label == ALL and not any(ALL in found for found in named):
                return np.arange(length)
            return named[pair].get(label, np.arange(0))
        return np.arange(label, label + 1) if label < length else np.arange(0)
