"""Answers: greedy ones and captions, and log-probabilities of given ones."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from notice_lens.models.blip.inputs import IGNORED, BLIPInputs, pad
from notice_lens.models.in_use import one_thread_at_a_time

if TYPE_CHECKING:
    from notice_lens.models.blip.hooked_blip import HookedBLIP

ANSWER_ROWS_AT_ONCE = 256
"""Rows of the decoder that are ranked in one call; each needs a row of logits over the vocabulary."""


def targets_of(inputs: BLIPInputs) -> Int[Tensor, "batch answer_pos"]:
    """Return the token that each logit has to predict. Raises ValueError if the inputs have no answers."""
    if inputs.target_ids is None:
        raise ValueError("these inputs have no answers; model.prepare(images, questions, answers) takes them")
    return inputs.target_ids


def answer_log_probs(
    logits: Float[Tensor, "batch answer_pos d_vocab"], target_ids: Int[Tensor, "batch answer_pos"]
) -> Float[Tensor, " batch"]:
    """Log-probability of each answer, its closing `[SEP]` included, in nats: the sum over its tokens, in float32."""
    asked = target_ids != IGNORED
    log_probs = logits.float().log_softmax(-1).gather(-1, target_ids.clamp(min=0)[..., None])[..., 0]
    return (log_probs * asked).sum(-1)


@one_thread_at_a_time
@torch.no_grad()
def greedy(model: "HookedBLIP", inputs: BLIPInputs, max_new_tokens: int) -> list[str]:
    """Return the most likely token at each step, up to `[SEP]`, as text; a caption begins with its prompt."""
    said = greedy_ids(model, inputs, max_new_tokens)
    return [text.strip() for text in model.tokenizer.batch_decode(said, skip_special_tokens=True)]


@one_thread_at_a_time
@torch.no_grad()
def greedy_ids(model: "HookedBLIP", inputs: BLIPInputs, max_new_tokens: int) -> list[list[int]]:
    """Return the same as token ids, without `[DEC]` and `[SEP]`."""
    cfg = model.cfg
    ids, lengths, decode = _decoding(model, inputs)
    rows = torch.arange(len(ids), device=ids.device)
    open_rows = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
    for _ in range(min(max_new_tokens, model.decoder.cfg.n_ctx + 1 - ids.shape[1])):
        states = decode(ids)[rows, lengths - 1]
        following = model.head(states[:, None])[:, -1].argmax(-1)
        open_rows = open_rows & (following != cfg.sep_token_id)
        if not bool(open_rows.any()):
            break
        # Rows of unequal length grow in place: each writes after its own last token.
        ids = torch.cat([ids, torch.full_like(ids[:, :1], cfg.pad_token_id)], 1)
        ids[rows[open_rows], lengths[open_rows]] = following[open_rows]
        lengths = lengths + open_rows
    return [row[1:length].tolist() for row, length in zip(ids, lengths.tolist(), strict=True)]


@one_thread_at_a_time
@torch.no_grad()
def rank(model: "HookedBLIP", inputs: BLIPInputs, candidates: Sequence[str]) -> Float[Tensor, "batch candidate"]:
    """Log-probability of every candidate for every input; image and question are encoded once for all."""
    ids, lengths, decode = _decoding(model, inputs)
    pieces = model.tokenizer(list(candidates), add_special_tokens=False)["input_ids"]
    at_once = max(1, ANSWER_ROWS_AT_ONCE // len(ids))
    scores = []
    for start in range(0, len(pieces), at_once):
        rows, targets = [], []
        for row, length in zip(ids.tolist(), lengths.tolist(), strict=True):
            for piece in pieces[start : start + at_once]:
                rows.append(row[:length] + piece)
                targets.append([IGNORED] * (length - 1) + piece + [model.cfg.sep_token_id])
        logits = model.head(decode(pad(rows, model.cfg.pad_token_id).to(ids.device)))
        scores.append(answer_log_probs(logits, pad(targets, IGNORED).to(ids.device)).view(len(ids), -1))
    return torch.cat(scores, 1)


class _Decoding(NamedTuple):
    """A decoder between two tokens: what it has read, how much of each row is not padding, and how to continue."""

    ids: Int[Tensor, "batch pos"]
    lengths: Int[Tensor, " batch"]
    decode: Callable[[Tensor], Tensor]


def _decoding(model: "HookedBLIP", inputs: BLIPInputs) -> _Decoding:
    """Run everything before the decoder once, and project its source once."""
    cfg = model.cfg
    if cfg.decoder is None:
        raise ValueError("a model of kind 'match' has no decoder and cannot answer; call it for its match logits")
    inputs = replace(inputs, answer_ids=None, target_ids=None)
    ids = model.decoder_ids(inputs)
    mask = inputs.attention_mask
    lengths = torch.full((len(ids),), ids.shape[1], device=ids.device)
    if cfg.kind == "caption" and mask is not None:
        lengths = mask.sum(-1)
    states = model.source_of("decoder", inputs)
    assert states is not None, "a decoder follows another stack"
    source = model.decoder.share_source(states)
    source_mask = model.source_mask("decoder", inputs)

    def decode(ids: Tensor) -> Tensor:
        return model.decoder(model.decoder.embed(ids), source=source, source_mask=source_mask)

    return _Decoding(ids, lengths, decode)
