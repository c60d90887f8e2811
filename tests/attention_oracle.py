"""Attention with edits inside it, written out and registered with transformers: nothing of notice-lens."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from forward_oracle import decoder_of

Change = Callable[[int, str, Tensor], Tensor]
"""Called with the layer, `rot_q`, `rot_k`, `scores` or `pattern`, and the tensor [head, pos, ...]."""
NAME = "attention_of_the_oracle"


@contextmanager
def changed_attention(model: Any, change: Change) -> Iterator[None]:
    """Let `change` edit the attention of the language model's layers for the length of a `with` block."""

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> Any:
        layer, group = module.layer_idx, query.shape[1] // key.shape[1]
        query = change(layer, "rot_q", query[0])
        key = change(layer, "rot_k", key[0]).repeat_interleave(group, 0)
        value = value[0].repeat_interleave(group, 0)
        scale = options.get("scaling")
        scores = torch.einsum("hqd,hkd->hqk", query, key) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if options.get("softcap"):
            scores = (scores / options["softcap"]).tanh() * options["softcap"]
        if mask is None:
            mask = torch.ones(scores.shape[1:], dtype=torch.bool).tril()
        hidden = ~mask if mask.dtype == torch.bool else mask < -1e4
        hidden = hidden.reshape(hidden.shape[-2:])
        scores = change(layer, "scores", scores.masked_fill(hidden, -torch.inf)).masked_fill(hidden, -torch.inf)
        pattern = change(layer, "pattern", scores.softmax(-1)).masked_fill(hidden, 0.0)
        return torch.einsum("hqk,hkd->qhd", pattern, value)[None], None

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    config = decoder_of(model).config
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
