"""Effects of a patch of a query, a key or a score through the softmax, exact.

A gradient takes a saturated softmax for flat: a head that looks at one key with all its weight is told that moving its
query changes nothing. AtP* (Kramár et al., arXiv 2403.00745, section 3.1.1) keeps the softmax out of the linear part:
the pattern is computed again with the patched query or key, and only what the pattern does is first order,

    effect = sum over keys of  dl/dpattern[key] · (pattern after the patch - pattern before)        for each query.

A query has its own row of the pattern, so one other table does for all queries. A key changes one column of the scores
in every row. With s the scores, s' the patched ones, and L_j the log of the sum of e^s over all keys but j:

    p'_j = sigmoid(s'_j - L_j)          p_j = sigmoid(s_j - L_j)
    effect_j = (p'_j - p_j) · (g_j - m_j)

where g is the gradient at the pattern and m_j its mean over the other keys, weighted by how much is looked at them: the
weight that moves to key j, times what it is worth more there, which is (g_j - mean of all) / (1 - p_j). That needs no
table for each key. For the key that is looked at most, L_j and m_j are summed anew; taking it away from the total would
leave rounding.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from notice_lens.models.blip.attention import Attention, causal_mask
from notice_lens.models.blip.stacks import attention_mask
from notice_lens.patching.engine.attention import scores_of


class Tables(NamedTuple):
    """Scores and pattern of one attention module."""

    scores: Float[Tensor, "pair head query_pos key_pos"]
    pattern: Float[Tensor, "pair head query_pos key_pos"]

    @classmethod
    def of(cls, q: Tensor, k: Tensor, mask: Tensor | None) -> "Tables":
        """From queries and keys [pair, pos, head, d_head]."""
        scores = scores_of(q, k, mask)
        return cls(scores, scores.softmax(-1))


@runtime_checkable
class AttentionAtBase(Protocol):
    """The attention of one block in the run that is differentiated, and with the other run's queries or keys."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Rows, query heads, queries, keys."""
        ...

    @property
    def n_kv_heads(self) -> int:
        """Heads of keys and values."""
        ...

    def unpatched(self, some: slice) -> tuple[Tables, Tensor]:
        """Return the tables of some rows, and the gradient at their pattern."""
        ...

    def patched(self, some: slice, queries: bool, keys: bool) -> Tensor:
        """Return the scores of some rows with the other run's queries, keys or both."""
        ...


@dataclass
class PlainAttention:
    """`AttentionAtBase` of modules that do nothing but softmax(q · k / sqrt(d_head)) under a mask.

    Attributes:
        q: Queries of the run that is differentiated, [row, query_pos, head, d_head].
        k: Its keys.
        v: Its values.
        grad_z: The gradient at its z.
        change_q: By how much queries change toward the other run; None where it is not asked for.
        change_k: Likewise of keys.
        mask: Which keys each query may look at; None for all.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    grad_z: Tensor
    change_q: Tensor | None
    change_k: Tensor | None
    mask: Tensor | None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Rows, query heads, queries, keys."""
        return self.q.shape[0], self.q.shape[2], self.q.shape[1], self.k.shape[1]

    @property
    def n_kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.k.shape[2]

    def _mask(self, some: slice) -> Tensor | None:
        return self.mask[some] if self.mask is not None and len(self.mask) > 1 else self.mask

    def unpatched(self, some: slice) -> tuple[Tables, Tensor]:
        """Return the tables of some rows, and the gradient at their pattern."""
        grad = pattern_gradient(self.grad_z[some], self.v[some])
        return Tables.of(self.q[some], self.k[some], self._mask(some)), grad

    def patched(self, some: slice, queries: bool, keys: bool) -> Tensor:
        """Return the scores of some rows with the other run's queries, keys or both."""
        q, k = self.q[some], self.k[some]
        if queries:
            assert self.change_q is not None, "what is patched is recorded"
            q = q + self.change_q[some]
        if keys:
            assert self.change_k is not None, "what is patched is recorded"
            k = k + self.change_k[some]
        return scores_of(q, k, self._mask(some))


def table_mask(attn: Attention, mask: Bool[Tensor, "pair key_pos"] | None, n_keys: int) -> Tensor | None:
    """Return the keys that each query may look at, [pair or 1, 1, query_pos or 1, key_pos]; None for all."""
    seen = attention_mask(mask)
    return causal_mask(seen, n_keys, attn.query.weight.device) if attn.causal else seen


def pattern_gradient(
    grad_z: Float[Tensor, "pair query_pos head d_head"], v: Float[Tensor, "pair key_pos head d_head"]
) -> Float[Tensor, "pair head query_pos key_pos"]:
    """The gradient at the pattern, from the one at z = sum of pattern times values."""
    return torch.einsum("pqhd,pkhd->phqk", grad_z, v)


def score_gradient(pattern: Tensor, grad: Tensor) -> Float[Tensor, "pair head query_pos key_pos"]:
    """The gradient at the scores, from the one at the pattern."""
    return pattern * (grad - (pattern * grad).sum(-1, keepdim=True))


def effect_of_queries(grad: Tensor, before: Tensor, patched: Tensor) -> Float[Tensor, "pair head query_pos"]:
    """Return the effect of each query's row, patched as a whole.

    Args:
        grad: The gradient at the pattern.
        before: The pattern.
        patched: The patched scores.
    """
    return (grad * (patched.softmax(-1) - before)).sum(-1)


def effect_of_sets(
    grad: Tensor, before: Tables, patched: Tensor, keys: Bool[Tensor, "pair label key_pos"]
) -> Float[Tensor, "pair head query_pos label"]:
    """Return the effect of each query's row when the scores of a set of keys are patched at once.

    Args:
        grad: The gradient at the pattern [pair, head, query_pos, key_pos].
        before: The base run's scores and pattern.
        patched: The patched scores, of all keys.
        keys: The sets.
    """
    rows = []
    for label in range(keys.shape[1]):
        own = keys[:, None, None, label]
        scores = patched if bool(own.all()) else torch.where(own, patched, before.scores)
        rows.append(effect_of_queries(grad, before.pattern, scores))
    return torch.stack(rows, -1)


def effect_of_each_key(grad: Tensor, before: Tables, patched: Tensor) -> Float[Tensor, "pair head query_pos key_pos"]:
    """Return the effect of each query's row when the score of one key is patched, for every key separately."""
    # Tables are large, and each step reads or writes all of one: what can be is done in place.
    scores, pattern = before
    most = pattern.argmax(-1, keepdim=True)
    rest = 1 - pattern
    others = rest.log().add_(scores.logsumexp(-1, keepdim=True))
    weight = (patched - others).sigmoid_().sub_(pattern)
    worth = (grad - (grad * pattern).sum(-1, keepdim=True)).div_(rest)
    # The key that is looked at most, whose `rest` is rounding.
    without = scores.scatter(-1, most, torch.finfo(scores.dtype).min)
    others = without.logsumexp(-1, keepdim=True)
    mean = (without.sub_(others).exp_() * grad).sum(-1, keepdim=True)
    own = [(table.gather(-1, most) - others).sigmoid() for table in (patched, scores)]
    return weight.mul_(worth).scatter_(-1, most, (own[0] - own[1]) * (grad.gather(-1, most) - mean))
