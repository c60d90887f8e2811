"""Attention of patched rows: their own suffix, and the base run's keys and values for everything else.

Rows of one segment differ from the base run at the same positions, `own`. Keys and values of all other positions are
the base run's: they are *shared*, never copied for a row. The queries of all rows are folded into one product against
them, and one softmax joins its scores with those of the row's own positions:

    scores[row, query, :] = [ query · shared keys | query · the row's own keys ]

Where a row has many own positions, folding saves little, and the row's keys are put together for SDPA.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from notice_lens.patching.engine.causal.record import Attended

MANY_QUERIES = 64
"""Queries of a row from which on SDPA is quicker than the folded product."""
TensorIndex = slice | Tensor


class Geometry(NamedTuple):
    """The mask of a segment: which query sees which key.

    Attributes:
        queries: Positions of the queries.
        own: Positions of the row's own keys.
        shared: Positions of shared keys that any query sees, as a slice where they are one stretch.
        columns: Positions of the score columns: shared, then own.
        seen: Which query sees which column; None where every one is seen.
        sees_all_shared: Whether every query sees every shared key, as in a causal mask.
    """

    queries: Tensor
    own: Tensor
    shared: TensorIndex
    columns: Tensor
    seen: Tensor | None
    sees_all_shared: bool


class TableEdit(NamedTuple):
    """New scores or probabilities of one query of one head.

    Attributes:
        leaf: `hook_attn_scores` or `hook_pattern`.
        row: In the segment.
        query: Its number among the segment's queries.
        heads: A number, or all heads.
        keys: Positions of the keys; None for all.
        value: For every head, or the one, and every key of the stream; minus infinity cuts.
    """

    leaf: str
    row: int
    query: int
    heads: int | slice
    keys: tuple[int, ...] | None
    value: Tensor | float


def geometry(
    seen: Bool[Tensor, "pos key_pos"],
    queries: Int[Tensor, "query_pos"],
    own: Int[Tensor, "own_pos"],
    crossing: bool,
    device: torch.device,
) -> Geometry:
    """Return the part of a layer's recorded mask between some positions.

    Args:
        seen: The mask, on the CPU: reading it on a GPU would wait for the device in every block.
        queries: Positions of the queries, on the CPU.
        own: Positions of the row's own keys, likewise.
        crossing: Whether the keys are the image's, so that none is the row's own.
        device: Of the result.
    """
    seen = seen[queries]
    is_shared = seen.any(0)
    if crossing:
        own = own[:0]
    else:
        is_shared[own] = False
    shared = is_shared.nonzero()[:, 0]
    columns = torch.cat([shared, own])
    seen = seen[:, columns]
    stretch = len(shared) > 0 and int(shared[-1] - shared[0]) + 1 == len(shared)
    index = slice(int(shared[0]), int(shared[-1]) + 1) if stretch else shared.to(device, non_blocking=True)
    everywhere = bool(seen[:, : len(shared)].all())
    kept = None if bool(seen.all()) else seen.to(device, non_blocking=True)
    queries, own, columns = (places.to(device, non_blocking=True) for places in (queries, own, columns))
    return Geometry(queries, own, index, columns, kept, everywhere)


def attend(
    query: Float[Tensor, "head token d_head"],
    keys: Float[Tensor, "kv_head own_token d_head"],
    values: Float[Tensor, "kv_head own_token d_value"],
    base: Attended,
    where: Geometry,
    edits: list[TableEdit],
) -> Float[Tensor, "token head d_value"]:
    """Return z of the rows of a segment.

    Args:
        query: Of all rows one after the other: row by row, in each the positions of `where.queries`.
        keys: The same for the positions of `where.own`.
        values: As `keys`.
        base: The layer's attention in the base run.
        where: Who sees whom.
        edits: Of scores and patterns.
    """
    n_queries, n_own = len(where.queries), len(where.own)
    n_rows = query.shape[1] // n_queries
    if n_queries > MANY_QUERIES and not edits and base.softcap is None and base.bias is None:
        return _put_together(query, keys, values, base, where, n_rows)
    n_kv = base.keys.shape[0]
    # Scaling queries is quicker than scaling scores; in half precision it would round once more.
    early = query.element_size() >= 4
    grouped = (query * base.scaling if early else query).reshape(n_kv, -1, n_rows, n_queries, query.shape[-1])
    shared = grouped.flatten(1, 3) @ base.keys[:, where.shared].transpose(1, 2)
    scores = shared.view(*grouped.shape[:-1], -1)  # [kv_head, group, row, query_pos, shared key]
    seen = where.seen
    if n_own:
        by_row = grouped.transpose(1, 2).flatten(2, 3)  # [kv_head, row, group * query_pos, d_head]
        own = (by_row @ keys.view(n_kv, n_rows, n_own, -1).transpose(2, 3)).unflatten(2, (-1, n_queries))
        if seen is not None and where.sees_all_shared and base.softcap is None and base.bias is None:
            own.masked_fill_(~seen[:, -n_own:], float("-inf"))
            seen = None
        scores = torch.cat([scores, own.transpose(1, 2)], -1)
    scores = scores if early else scores * base.scaling
    if base.softcap is not None:
        scores = torch.tanh(scores / base.softcap) * base.softcap
    if base.bias is not None:
        scores = scores + base.bias[where.queries][:, where.columns]
    if seen is not None:
        scores = scores.masked_fill(~seen, float("-inf"))
    scores = _edited("hook_attn_scores", scores, where, edits)
    pattern = scores.softmax(-1, dtype=torch.promote_types(torch.float32, scores.dtype)).to(query.dtype)
    if edits:  # a query whose keys are all cut reads nothing
        pattern = pattern.masked_fill(scores.isneginf(), 0.0)
    pattern = _edited("hook_pattern", pattern, where, edits)
    n_shared = pattern.shape[-1] - n_own
    z = (pattern[..., :n_shared].flatten(1, 3) @ base.values[:, where.shared]).view(*grouped.shape[:-1], -1)
    if n_own:
        weights = pattern[..., n_shared:].transpose(1, 2).flatten(2, 3)
        own_z = weights @ values.view(n_kv, n_rows, n_own, -1)
        z = z + own_z.view(n_kv, n_rows, -1, n_queries, z.shape[-1]).transpose(1, 2)
    return z.flatten(0, 1).permute(1, 2, 0, 3).flatten(0, 1)


def _put_together(
    query: Tensor, keys: Tensor, values: Tensor, base: Attended, where: Geometry, n_rows: int
) -> Float[Tensor, "token head d_value"]:
    """Return z by SDPA, with all keys and values of each row put together."""
    n_kv, n_own = base.keys.shape[0], len(where.own)

    def whole(shared: Tensor, own: Tensor) -> Tensor:
        parts = [shared[:, where.shared][None].expand(n_rows, -1, -1, -1)]
        if n_own:
            parts.append(own.view(n_kv, n_rows, n_own, -1).transpose(0, 1))
        return torch.cat(parts, 2)  # [row, kv_head, key_pos, d_head]

    z = scaled_dot_product_attention(
        query.unflatten(1, (n_rows, -1)).transpose(0, 1),
        whole(base.keys, keys),
        whole(base.values, values),
        attn_mask=where.seen,
        scale=base.scaling,
        enable_gqa=query.shape[0] != n_kv,
    )
    return z.transpose(1, 2).flatten(0, 1)


def _edited(leaf: str, table: Tensor, where: Geometry, edits: list[TableEdit]) -> Tensor:
    """Return scores or a pattern [kv_head, group, row, query_pos, column] with edits made; nothing masked opens."""
    edits = [edit for edit in edits if edit.leaf == leaf]
    if not edits:
        return table
    by_head = table.flatten(0, 1).clone()
    closed = float("-inf") if leaf == "hook_attn_scores" else 0.0
    for edit in edits:
        wanted = torch.ones_like(where.columns, dtype=torch.bool)
        if edit.keys is not None:
            wanted = torch.isin(where.columns, torch.tensor(edit.keys, device=wanted.device))
        value = edit.value[..., where.columns] if isinstance(edit.value, Tensor) else edit.value
        new = torch.where(wanted, value, by_head[edit.heads, edit.row, edit.query])
        if where.seen is not None:
            new = new.masked_fill(~where.seen[edit.query], closed)
        by_head[edit.heads, edit.row, edit.query] = new.to(by_head.dtype)
    return by_head.view_as(table)
