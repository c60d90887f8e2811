"""From gradients to the entries of a result: the effect of each patch, to first order.

The effect of a patch is about the sum over the patched numbers of

    gradient at the base run · (the other run's activation - the base run's)

(attribution patching: Nanda 2023; Syed et al., arXiv 2310.10348), since the logit difference is followed along its
tangent to where the patch goes. Queries, keys and scores go through the softmax as they are, see
`notice_lens.patching.gradient.softmax`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from notice_lens.patching.engine.protocol import PairRuns
from notice_lens.patching.gradient.block_gradients import BlockGradients
from notice_lens.patching.gradient.softmax import (
    Tables,
    effect_of_each_key,
    effect_of_queries,
    effect_of_sets,
)
from notice_lens.patching.gradient.targets import KEYS, QUERIES, Target
from notice_lens.patching.positions import Positions

TABLE_ENTRIES = 2**24
"""Entries of a table of scores that are in memory at a time, at least those of one pair."""


@dataclass
class Members:
    """The positions that labels mean in a batch's pairs; looked up once for all blocks.

    Attributes:
        contexts: Of the batch.
        positions: Of all pairs.
        several: The number among all pairs of each pair of the batch.
    """

    contexts: Sequence[PairRuns]
    positions: Positions
    several: Sequence[int]
    _found: dict[Any, Tensor] = field(default_factory=dict)

    def of(
        self, context: int, axis: str, labels: Sequence[Any], rows: int, n: int, device: Any
    ) -> Bool[Tensor, "row label n"]:
        """Return whether a position belongs to a label.

        Args:
            context: Which of the teacher-forced answers.
            axis: What the positions are.
            labels: The labels.
            rows: How many rows there are: one for each pair, or several that follow each other.
            n: How many positions a row has, padding included.
            device: The device to use.
        """
        key = (context, axis, tuple(labels), rows, n, device)
        if key not in self._found:
            table = np.zeros((len(self.several), len(labels), rows // len(self.several) * n), dtype=bool)
            for pair, number in enumerate(self.several):
                length = self.contexts[context].real_length(axis, pair)
                for row, label in enumerate(labels):
                    table[pair, row, self.positions.of(number, label, axis, length)] = True
            by_row = torch.from_numpy(table).unflatten(-1, (-1, n)).transpose(1, 2).flatten(0, 1)
            self._found[key] = by_row.to(device)
        return self._found[key]

    def by_pair(self, by_row: Tensor) -> Tensor:
        """Return what rows hold with one axis of pairs and one of their rows in front."""
        return by_row.unflatten(0, (len(self.several), -1))


def effects(target: Target, found: BlockGradients, members: Members) -> Float[Tensor, "pair ..."]:
    """Return the effects of a target's patches in one block, [pair, head, label, key label, neuron]: those that exist.

    NaN where a pair lacks the label.
    """
    keys, lacking = _keys(target, found, members), []
    if target.corrected and target.moves == KEYS:
        total = _by_table(target, found, _given(keys))
    else:
        each = _by_position(target, found) if keys is None else _by_table(target, found, keys)
        own = members.of(found.context, target.axis, target.labels(), len(each), each.shape[2], each.device)
        total = torch.einsum("pln,phn...->phl...", own.to(each.dtype), each)
        has = members.by_pair(own).any(dim=1).any(-1)
        lacking.append(~has[:, None, :, *(None,) * (total.ndim - 3)])
    if keys is not None:
        has = members.by_pair(keys).any(dim=1).any(-1)
        lacking.append(~has[:, None, *(None,) * (total.ndim - 3)])
    total = members.by_pair(total).sum(1)
    for mask in lacking:
        total = total.masked_fill(mask, torch.nan)
    if target.with_heads:
        heads = target.coords.get("head")
        total = total.sum(1, keepdim=True) if heads is None else total[:, heads]
    return total.reshape(len(total), *(len(labels) for dim, labels in target.coords.items() if dim != "layer"))


def _keys(target: Target, found: BlockGradients, members: Members) -> Bool[Tensor, "row label key_pos"] | None:
    """The sets of keys that are patched at once; None for what has no keys, and for all keys of queries."""
    if target.key_axis is None and not (target.corrected and target.moves == KEYS):
        return None
    if target.module in found.attention:
        rows, _, _, n = found.attention[target.module].shape
    else:
        rows, _, _, n = found.values[target.activation].shape
    device = next(iter(found.values.values())).device
    axis, prefix = (target.axis, "") if target.key_axis is None else (target.key_axis, "key_")
    return members.of(found.context, axis, target.labels(prefix), rows, n, device)


def _by_position(target: Target, found: BlockGradients) -> Float[Tensor, "pair head pos ..."]:
    """Return the effect of each position of each head (one head if the module has no heads). Neurons come last."""
    if target.corrected:
        return _by_table(target, found, None)
    name = target.activation
    product = found.grads[name] * found.changes[name]
    if target.with_heads:
        return product.sum(-1).mT
    return product[:, None] if "neuron" in target.coords else product.sum(-1)[:, None]


def _by_table(target: Target, found: BlockGradients, keys: Tensor | None) -> Float[Tensor, "row head ..."]:
    """The effect of each query, with the label of its keys last; of patched keys, of each label of them.

    It goes some rows at a time: a table has an entry for each query and key.
    """
    name, parts = target.activation, []
    whole = found.attention[target.module].shape if target.corrected else tuple(found.values[name].shape)
    at_a_time = max(1, TABLE_ENTRIES // (whole[1] * whole[2] * whole[3]))
    for start in range(0, whole[0], at_a_time):
        some = slice(start, start + at_a_time)
        own = None if keys is None else keys[some]
        if target.corrected:
            parts.append(_through_softmax(target, found, some, own))
        else:
            product = found.grads[name][some] * found.changes[name][some]
            parts.append(torch.einsum("phqk,plk->phql", product, _given(own).to(product.dtype)))
    return torch.cat(parts)


def _through_softmax(
    target: Target, found: BlockGradients, some: slice, keys: Tensor | None
) -> Float[Tensor, "row head ..."]:
    """Return the effects of patched queries, keys or scores, with the softmax computed again."""
    attention = found.attention[target.module]
    before, grad = _unpatched(found, target.module, some)
    patched = attention.patched(some, target.moves != KEYS, target.moves != QUERIES)
    if keys is None:
        return effect_of_queries(grad, before.pattern, patched)
    of_keys = target.moves == KEYS
    if bool((keys.sum(-1) <= 1).all()):
        # Keys one at a time need no table each; of patched keys all queries count together.
        each = effect_of_each_key(grad, before, patched)
        each = each.sum(2, keepdim=True) if of_keys else each
        rows = torch.einsum("phqk,plk->phql", each, keys.to(each.dtype))
    else:
        rows = effect_of_sets(grad, before, patched, keys)
    # Query heads that share a key move with it.
    return rows.sum(2).unflatten(1, (attention.n_kv_heads, -1)).sum(2) if of_keys else rows


def _unpatched(found: BlockGradients, module: str, some: slice) -> tuple[Tables, Tensor]:
    """The tables of a module for some rows and the gradient at its pattern, kept for its next site."""
    key = (module, some.start)
    if key not in found.kept:
        found.kept.clear()
        found.kept[key] = found.attention[module].unpatched(some)
    return found.kept[key]


def _given(keys: Tensor | None) -> Tensor:
    assert keys is not None, "what has keys is patched by sets of them"
    return keys
