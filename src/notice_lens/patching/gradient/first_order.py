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

from notice_lens.patching.engine.attention import scores_of
from notice_lens.patching.engine.pair_batch import Context
from notice_lens.patching.gradient.backward import Found
from notice_lens.patching.gradient.softmax import (
    Tables,
    effect_of_each_key,
    effect_of_queries,
    effect_of_sets,
    pattern_gradient,
)
from notice_lens.patching.gradient.targets import HEAD_HOOKS, Target
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

    contexts: Sequence[Context]
    positions: Positions
    several: Sequence[int]
    _found: dict[Any, Tensor] = field(default_factory=dict)

    def of(self, context: int, axis: str, labels: Sequence[Any], like: Tensor, n: int) -> Bool[Tensor, "pair label n"]:
        """Return whether a position belongs to a label.

        Args:
            context: Which of the teacher-forced answers.
            axis: What the positions are.
            labels: The labels.
            like: On the device to use.
            n: How many positions there are, padding included.
        """
        key = (context, axis, tuple(labels), n)
        if key not in self._found:
            table = np.zeros((len(self.several), len(labels), n), dtype=bool)
            for pair, number in enumerate(self.several):
                length = self.contexts[context].real_length(axis, pair)
                for row, label in enumerate(labels):
                    table[pair, row, self.positions.of(number, label, axis, length)] = True
            self._found[key] = torch.from_numpy(table).to(like.device)
        return self._found[key]


def effects(target: Target, found: Found, members: Members) -> Float[Tensor, "pair ..."]:
    """Return the effects of a target's patches in one block, [pair, head, label, key label, neuron]: those that exist.

    NaN where a pair lacks the label.
    """
    keys = _keys(target, found, members)
    if target.corrected and target.leaf == "hook_k":
        total = _by_table(target, found, _given(keys))
    else:
        each = _by_position(target, found) if keys is None else _by_table(target, found, keys)
        own = members.of(found.context, target.axis, target.labels(), each, each.shape[2])
        total = torch.einsum("pln,phn...->phl...", own.to(each.dtype), each)
        lacking = ~own.any(-1)
        total = total.masked_fill(lacking[:, None, :, *(None,) * (total.ndim - 3)], torch.nan)
    if keys is not None:
        total = total.masked_fill(~keys.any(-1)[:, None, *(None,) * (total.ndim - 3)], torch.nan)
    if target.with_heads:
        heads = target.coords.get("head")
        total = total.sum(1, keepdim=True) if heads is None else total[:, heads]
    return total.reshape(len(total), *(len(labels) for dim, labels in target.coords.items() if dim != "layer"))


def _keys(target: Target, found: Found, members: Members) -> Bool[Tensor, "pair label key_pos"] | None:
    """The sets of keys that are patched at once; None for what has no keys, and for all keys of queries."""
    if target.key_axis is None and not (target.corrected and target.leaf == "hook_k"):
        return None
    k = found.values[f"{target.module}.hook_k"]
    axis, prefix = (target.axis, "") if target.key_axis is None else (target.key_axis, "key_")
    return members.of(found.context, axis, target.labels(prefix), k, k.shape[1])


def _by_position(target: Target, found: Found) -> Float[Tensor, "pair head pos ..."]:
    """Return the effect of each position of each head (one head if the module has no heads). Neurons come last."""
    if target.corrected:
        return _by_table(target, found, None)
    name = target.activation
    product = found.grads[name] * found.changes[name]
    if target.with_heads:
        return product.sum(-1).mT
    return product[:, None] if "neuron" in target.coords else product.sum(-1)[:, None]


def _by_table(target: Target, found: Found, keys: Tensor | None) -> Float[Tensor, "pair head ..."]:
    """The effect of each query, with the label of its keys last; of patched keys, of each label of them.

    It goes some pairs at a time: a table has an entry for each query and key.
    """
    q, k = (found.values[f"{target.module}.{name}"] for name in ("hook_q", "hook_k"))
    at_a_time = max(1, TABLE_ENTRIES // (q.shape[1] * k.shape[1] * k.shape[2]))
    name, parts = target.activation, []
    for start in range(0, len(q), at_a_time):
        some = slice(start, start + at_a_time)
        own = None if keys is None else keys[some]
        if target.corrected:
            parts.append(_through_softmax(target, found, some, own))
        else:
            product = found.grads[name][some] * found.changes[name][some]
            parts.append(torch.einsum("phqk,plk->phql", product, _given(own).to(product.dtype)))
    return torch.cat(parts)


def _through_softmax(target: Target, found: Found, some: slice, keys: Tensor | None) -> Float[Tensor, "pair head ..."]:
    """Return the effects of patched queries, keys or scores, with the softmax computed again."""
    module = target.module
    before, grad, mask = _unpatched(found, module, some)
    q, k = (found.values[f"{module}.{name}"][some] for name in HEAD_HOOKS[:2])
    if target.leaf != "hook_k":
        q = q + found.changes[f"{module}.hook_q"][some]
    if target.leaf != "hook_q":
        k = k + found.changes[f"{module}.hook_k"][some]
    patched = scores_of(q, k, mask)
    if keys is None:
        return effect_of_queries(grad, before.pattern, patched)
    of_keys = target.leaf == "hook_k"
    if bool((keys.sum(-1) <= 1).all()):
        # Keys one at a time need no table each; of patched keys all queries count together.
        each = effect_of_each_key(grad, before, patched)
        each = each.sum(2, keepdim=True) if of_keys else each
        rows = torch.einsum("phqk,plk->phql", each, keys.to(each.dtype))
    else:
        rows = effect_of_sets(grad, before, patched, keys)
    return rows.sum(2) if of_keys else rows


def _unpatched(found: Found, module: str, some: slice) -> tuple[Tables, Tensor, Tensor | None]:
    """The scores of a module for some pairs, the gradient at its pattern and the mask, kept for its next site."""
    key = (module, some.start)
    if key not in found.kept:
        found.kept.clear()
        q, k, v = (found.values[f"{module}.{name}"][some] for name in HEAD_HOOKS[:3])
        mask = found.masks[module]
        mask = mask[some] if mask is not None and len(mask) > 1 else mask
        grad = pattern_gradient(found.grads[f"{module}.hook_z"][some], v)
        found.kept[key] = Tables.of(q, k, mask), grad, mask
    return found.kept[key]


def _given(keys: Tensor | None) -> Tensor:
    assert keys is not None, "what has keys is patched by sets of them"
    return keys
