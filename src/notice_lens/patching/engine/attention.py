"""Attention, three ways, and MLPs in parts.

| function | used for | cost |
| --- | --- | --- |
| `fused_attention` | rows without edits inside of attention | PyTorch's kernel; no scores are kept |
| `edited_attention` | heads whose keys, values, scores or patterns are edited | scores of these heads |
| `folded_attention` | a few queries that attend to their own states | no keys and values are computed |

All give the same numbers up to rounding. `attend` takes the cheaper one of the first and the last.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from notice_lens.models.blip.attention import Attention
from notice_lens.models.blip.blocks import MLP

LINES_AT_A_TIME = 1024
"""Lines whose neurons are computed together, on a CPU."""


def fused_attention(
    q: Float[Tensor, "row query_pos head d_head"],
    k: Float[Tensor, "row key_pos head d_head"],
    v: Float[Tensor, "row key_pos head d_head"],
    mask: Bool[Tensor, "row_or_1 1 query_or_1 key_pos"] | None = None,
) -> Float[Tensor, "row query_pos head d_head"]:
    """Return z by PyTorch's fused kernel."""
    q, k, v = (rearrange(x, "row pos head d_head -> row head pos d_head") for x in (q, k, v))
    z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return rearrange(z, "row head pos d_head -> row pos head d_head")


def scores_of(
    q: Float[Tensor, "row query_pos head d_head"],
    k: Float[Tensor, "row key_pos head d_head"],
    mask: Bool[Tensor, "row_or_1 1 query_or_1 key_pos"] | None = None,
) -> Float[Tensor, "row head query_pos key_pos"]:
    """Return the scores as `hook_attn_scores` has them: scaled, and lowest where masked."""
    scores = einsum(q, k, "row query_pos head d, row key_pos head d -> row head query_pos key_pos") / q.shape[-1] ** 0.5
    return scores if mask is None else scores.masked_fill(~mask, torch.finfo(scores.dtype).min)


def mixed(
    pattern: Float[Tensor, "row head query_pos key_pos"], v: Float[Tensor, "row key_pos kv_head d_head"]
) -> Float[Tensor, "row query_pos head d_head"]:
    """Return the values mixed by a pattern: z. Heads that share values follow each other."""
    v = v.repeat_interleave(pattern.shape[1] // v.shape[2], 2)
    return einsum(pattern, v, "row head query_pos key_pos, row key_pos head d -> row query_pos head d")


def edited_attention(
    q: Float[Tensor, "head query_pos d_head"],
    k: Float[Tensor, "head key_pos d_head"],
    v: Float[Tensor, "head key_pos d_head"],
    mask: Bool[Tensor, "head_or_1 query_or_1 key_pos"] | None,
    edit: Callable[[str, Tensor], Tensor],
) -> Float[Tensor, "head query_pos d_head"]:
    """Compute z of some heads step by step, with edits of their keys, values, scores and patterns.

    Args:
        q: Queries; a line is a head of any row.
        k: Keys, to be edited in place.
        v: Values, likewise.
        mask: Where each may look; edits open nothing.
        edit: Makes the edits of `hook_k`, `hook_v`, `hook_attn_scores` or `hook_pattern`.
    """
    k, v = edit("hook_k", k), edit("hook_v", v)
    scores = q @ k.mT / q.shape[-1] ** 0.5
    lowest = torch.finfo(scores.dtype).min
    scores = edit("hook_attn_scores", scores if mask is None else scores.masked_fill(~mask, lowest))
    # A key that is cut has no score; a query whose keys are all cut reads nothing.
    cut = scores.isneginf()
    # A source may hold any number at masked positions: 0, or a mean over questions of unequal length.
    scores = scores if mask is None else scores.masked_fill(~mask, lowest)
    pattern = edit("hook_pattern", scores.softmax(-1).masked_fill(cut, 0.0))
    return (pattern if mask is None else pattern.masked_fill(~mask, 0.0)) @ v


def folded_attention(
    attn: Attention,
    q: Float[Tensor, "row query_pos head d_head"],
    states: Float[Tensor, "row key_pos d_source"],
    mask: Bool[Tensor, "row 1 1 key_pos"] | None = None,
) -> Float[Tensor, "row query_pos head d_head"]:
    """Return z of cross-attention to states whose keys and values are never computed.

    A score is q (W_K s + b_K) = (q W_K) s + q b_K: fold the key weights into the query and score against the states
    themselves; the last term is the same for all keys of a query, so that the softmax does not see it. The mixed values
    are sum_s p_s (W_V s + b_V) = W_V (sum_s p_s s) + b_V, since a pattern sums to one. With fewer queries than keys
    that is less work, and the same numbers up to rounding.
    """
    n_queries = q.shape[1]
    asked = einsum(q, attn.W_K, "row query_pos head d_head, head d_source d_head -> row head query_pos d_source")
    scores = rearrange(asked, "row head query_pos d_source -> row (head query_pos) d_source") @ states.mT
    scores = scores / attn.d_head**0.5
    if mask is not None:
        scores = scores.masked_fill(~mask[:, 0], torch.finfo(scores.dtype).min)
    read = rearrange(scores.softmax(-1) @ states, "row (head query_pos) d -> row query_pos head d", query_pos=n_queries)
    return (
        einsum(read, attn.W_V, "row query_pos head d_source, head d_source d_head -> row query_pos head d_head")
        + attn.b_V
    )


def attend(
    attn: Attention,
    q: Float[Tensor, "row query_pos head d_head"],
    states: Float[Tensor, "row key_pos d_source"],
    mask: Bool[Tensor, "row 1 1 key_pos"] | None = None,
) -> Float[Tensor, "row query_pos head d_head"]:
    """Return z of rows that each attend to their own states, computed the cheaper way."""
    if folding_pays(attn, q.shape[1], states.shape[1]):
        return folded_attention(attn, q, states, mask)
    return fused_attention(q, *attn.project_source(states), mask)


def folding_pays(attn: Attention, n_queries: int, n_keys: int) -> bool:
    """Return whether `folded_attention` takes fewer multiplications than projecting each row's states."""
    d_model, d_source = attn.query.in_features, attn.key.in_features
    projected = 2 * n_keys * d_source * d_model + 2 * n_queries * n_keys * d_model
    folded = 2 * n_queries * d_source * d_model + 2 * attn.n_heads * n_queries * n_keys * d_source
    return folded < projected


def neurons_in_parts(mlp: MLP, x: Float[Tensor, "line d_model"]) -> Float[Tensor, "line d_model"]:
    """Return the output of an MLP, some lines at a time.

    On a CPU its neurons then stay in the cache between the two products, and their memory is used again: fresh pages
    for every layer took a sixth of a sweep's time.
    """
    parts = x.split(LINES_AT_A_TIME) if x.device.type == "cpu" else (x,)
    written = [mlp.output(mlp.act_fn(mlp.input(part))) for part in parts]
    return written[0] if len(written) == 1 else torch.cat(written)
