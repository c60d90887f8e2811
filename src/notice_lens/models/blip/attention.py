"""Multi-head attention with hook points: self-attention and cross-attention of every stack.

    stream [batch, pos, d_model] ── query ── hook_q ┐
    source [batch, key_pos, ...] ── key ──── hook_k ├─ scores ─ softmax ─ pattern ─ z ── output ── [batch, pos, d_model]
                                 └─ value ── hook_v ┘

Three things are done here and nowhere else:

1. *Attention looks only when someone is looking.* Scores and pattern are [batch, head, query_pos, key_pos]; they are
   built only while a hook sits on one of them. Otherwise PyTorch's fused kernel gives the same z.
2. *Shared keys and values.* A source can be given as `KeyValues`, projected once. If it has fewer rows than the
   stream, each row of it serves as many consecutive rows of the stream (variants): they are folded into the query
   axis, so that keys and values are read once for all of them.
3. *Split inputs.* With `use_split_qkv_input`, every head gets its own copy of its input, before the LayerNorm in front.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from notice_lens.models.hooks import CopyingHookPoint


class KeyValues(NamedTuple):
    """Keys and values of one attention module, projected from its source."""

    k: Float[Tensor, "batch key_pos head d_head"]
    v: Float[Tensor, "batch key_pos head d_head"]


class Attention(nn.Module):
    """One attention module.

    Args:
        d_model: Width of the stream that asks and is written to.
        n_heads: Heads; `d_model` is a multiple of it.
        d_source: Width of the states that are looked at; that of the stream for self-attention.
        causal: Whether a position sees earlier ones only.
    """

    def __init__(self, d_model: int, n_heads: int, d_source: int | None = None, causal: bool = False):
        super().__init__()
        d_source = d_model if d_source is None else d_source
        self.n_heads = n_heads
        self.d_head = d_model // n_heads
        self.causal = causal
        self.use_attn_result = False
        self.use_split_qkv_input = False
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_source, d_model)
        self.value = nn.Linear(d_source, d_model)
        self.output = nn.Linear(d_model, d_model)
        self.hook_q_input = CopyingHookPoint("batch pos head d_model")
        self.hook_k_input = CopyingHookPoint("batch key_pos head d_source")
        self.hook_v_input = CopyingHookPoint("batch key_pos head d_source")
        self.hook_q = CopyingHookPoint("batch pos head d_head")
        self.hook_k = CopyingHookPoint("batch key_pos head d_head")
        self.hook_v = CopyingHookPoint("batch key_pos head d_head")
        self.hook_attn_scores = CopyingHookPoint("batch head query_pos key_pos")
        self.hook_pattern = CopyingHookPoint("batch head query_pos key_pos")
        self.hook_z = CopyingHookPoint("batch pos head d_head")
        self.hook_result = CopyingHookPoint("batch pos head d_model")

    def project_source(self, source: Float[Tensor, "batch key_pos d_source"]) -> KeyValues:
        """Keys and values of the source, to be used for any number of queries."""
        return KeyValues(self._heads(self.key(source)), self._heads(self.value(source)))

    def forward(
        self,
        stream: Float[Tensor, "batch pos d_model"],
        source: Float[Tensor, "source_batch key_pos d_source"] | KeyValues | None = None,
        mask: Bool[Tensor, "source_batch 1 1 key_pos"] | None = None,
        norm: nn.Module | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """Return the heads' output to the stream.

        Args:
            stream: Where the queries come from.
            source: Where keys and values come from, or keys and values; None for self-attention.
            mask: Which positions of the source may be looked at; None for all.
            norm: A LayerNorm before self-attention (pre-LayerNorm blocks).
        """
        if self.use_split_qkv_input:
            q, k, v = self._project_split(stream, source, norm)
        else:
            stream = stream if norm is None else norm(stream)
            q = self._heads(self.query(stream))
            k, v = (
                source if isinstance(source, KeyValues) else self.project_source(stream if source is None else source)
            )
        q, k, v = self.hook_q(q), self.hook_k(k), self.hook_v(v)
        if self.causal and mask is not None:
            mask = causal_mask(mask, mask.shape[-1], mask.device)
        looked_at = self.hook_attn_scores.watched or self.hook_pattern.watched
        z = self.hook_z((self._mix_looked_at if looked_at else self._mix)(q, k, v, mask))
        return self._write(z)

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Float[Tensor, "batch pos head d_head"]:
        """The values, mixed by attention, in one fused call."""
        z = F.scaled_dot_product_attention(
            rearrange(q, "(source variant) pos head d_head -> source head (variant pos) d_head", source=len(k)),
            rearrange(k, "source key_pos head d_head -> source head key_pos d_head"),
            rearrange(v, "source key_pos head d_head -> source head key_pos d_head"),
            attn_mask=mask,
            is_causal=self.causal and mask is None,
        )
        return rearrange(z, "source head (variant pos) d_head -> (source variant) pos head d_head", pos=q.shape[1])

    def _mix_looked_at(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> Float[Tensor, "batch pos head d_head"]:
        """Attend step by step, with hook points for scores and pattern."""
        q = rearrange(q, "(source variant) pos head d_head -> source variant pos head d_head", source=len(k))
        scores = einsum(
            q,
            k,
            "source variant query_pos head d_head, source key_pos head d_head -> source variant head query_pos key_pos",
        )
        scores = scores / self.d_head**0.5
        # The lowest number and not -inf: scores of two runs can be subtracted.
        lowest = torch.finfo(scores.dtype).min
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], lowest)
        if self.causal:
            future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(future, lowest)
        scores = self.hook_attn_scores(rearrange(scores, "source variant ... -> (source variant) ..."))
        pattern = self.hook_pattern(scores.softmax(-1))
        pattern = rearrange(pattern, "(source variant) ... -> source variant ...", source=len(k))
        z = einsum(
            pattern,
            v,
            "source variant head query_pos key_pos, source key_pos head d_head -> source variant query_pos head d_head",
        )
        return rearrange(z, "source variant ... -> (source variant) ...")

    def _write(self, z: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos d_model"]:
        """Sum over heads of what each writes, plus the bias; head by head with `use_attn_result`."""
        if not self.use_attn_result:
            return self.output(rearrange(z, "batch pos head d_head -> batch pos (head d_head)"))
        result = einsum(z, self.W_O, "batch pos head d_head, head d_head d_model -> batch pos head d_model")
        return self.hook_result(result).sum(-2) + self.b_O

    def _project_split(
        self, stream: Tensor, source: Tensor | KeyValues | None, norm: nn.Module | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values from a copy of the input for each head."""
        if isinstance(source, KeyValues):
            raise ValueError(
                "with use_split_qkv_input, keys and values are projected head by head from the source's states, and "
                "these were projected already: give the states, or switch use_split_qkv_input off"
            )

        def project(states: Tensor, hook: CopyingHookPoint, weight: Tensor, bias: Tensor) -> Tensor:
            copies = hook(repeat(states, "batch pos d -> batch pos head d", head=self.n_heads))
            copies = copies if norm is None else norm(copies)
            return einsum(copies, weight, "batch pos head d, head d d_head -> batch pos head d_head") + bias

        source = stream if source is None else source
        return (
            project(stream, self.hook_q_input, self.W_Q, self.b_Q),
            project(source, self.hook_k_input, self.W_K, self.b_K),
            project(source, self.hook_v_input, self.W_V, self.b_V),
        )

    def _heads(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos head d_head"]:
        return rearrange(x, "batch pos (head d_head) -> batch pos head d_head", head=self.n_heads)

    def _head_weight(self, linear: nn.Linear) -> Float[Tensor, "head d_in d_head"]:
        return rearrange(linear.weight, "(head d_head) d_in -> head d_in d_head", head=self.n_heads)

    def _head_bias(self, linear: nn.Linear) -> Float[Tensor, "head d_head"]:
        return rearrange(linear.bias, "(head d_head) -> head d_head", head=self.n_heads)

    # TransformerLens's names for the weights; all of them are views.
    @property
    def W_Q(self) -> Float[Tensor, "head d_model d_head"]:
        """Query weights."""
        return self._head_weight(self.query)

    @property
    def W_K(self) -> Float[Tensor, "head d_source d_head"]:
        """Key weights."""
        return self._head_weight(self.key)

    @property
    def W_V(self) -> Float[Tensor, "head d_source d_head"]:
        """Value weights."""
        return self._head_weight(self.value)

    @property
    def W_O(self) -> Float[Tensor, "head d_head d_model"]:
        """Output weights: what head h writes is `z[..., h, :] @ W_O[h]`."""
        return rearrange(self.output.weight, "d_model (head d_head) -> head d_head d_model", head=self.n_heads)

    @property
    def b_Q(self) -> Float[Tensor, "head d_head"]:
        """Query biases."""
        return self._head_bias(self.query)

    @property
    def b_K(self) -> Float[Tensor, "head d_head"]:
        """Key biases."""
        return self._head_bias(self.key)

    @property
    def b_V(self) -> Float[Tensor, "head d_head"]:
        """Value biases."""
        return self._head_bias(self.value)

    @property
    def b_O(self) -> Float[Tensor, " d_model"]:
        """Output bias, which belongs to no head."""
        return self.output.bias


def causal_mask(
    mask: Bool[Tensor, "batch 1 1 pos"] | None, pos: int, device: torch.device
) -> Bool[Tensor, "batch_or_1 1 pos pos"]:
    """The mask, causal: no position sees a later one. Padding sees itself, so that no row is empty and becomes NaN."""
    earlier = torch.ones(pos, pos, dtype=torch.bool, device=device).tril()
    if mask is None:
        return earlier[None, None]
    return earlier & (mask | torch.eye(pos, dtype=torch.bool, device=device))
