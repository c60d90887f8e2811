"""What the stream of a decoder says before its end: the logit lens, and what each part writes into the logits.

The stream is read as the model reads it after the last block: by the final norm and the unembedding (nostalgebraist,
2020). What one head or MLP adds to the logit difference at the read-out is linear once the final norm's scale is
given (direct logit attribution; Elhage et al., 2021), and the parts add up to the whole.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from notice_lens.models.vlm.points import matrix
from notice_lens.patching.engine.causal.decoder import Decoder
from notice_lens.patching.engine.causal.given import Given
from notice_lens.patching.engine.causal.readout import LOGITS_AT_ONCE
from notice_lens.patching.engine.causal.record import Record, record
from notice_lens.patching.engine.pair_batch import Setting

if TYPE_CHECKING:
    from notice_lens.models.vlm.hooked_vlm import HookedVLM
    from notice_lens.pairs.minimal_pair import MinimalPair

PARTS = ("hook_attn_out", "hook_resid_mid", "hook_mlp_out")
GATED = 0.02
"""How far from 1 a factor between what a part writes and what the stream gets has to be, to be a gate."""


@dataclass(frozen=True)
class StreamReading:
    """One run, read at some groups of positions.

    Attributes:
        logits: Of the answer and of the foil, before the first block and after each, mean over a group's positions;
            NaN for a group without a position; [blocks, group, 2].
        probs: Their probabilities, likewise.
        heads: What each head adds to the logit difference at the read-out, [layer, head].
        mlps: What each MLP adds, [layer].
        embed: What the stream before the first block adds.
        rest: All else: biases, and features that are added between blocks.
    """

    logits: Float[Tensor, "blocks group 2"]
    probs: Float[Tensor, "blocks group 2"]
    heads: Float[Tensor, "layer head"]
    mlps: Float[Tensor, " layer"]
    embed: float
    rest: float


ReadStream = Callable[..., StreamReading]
"""Reads the stream of one run of a pair; arguments as of `read_stream`, without the model."""


def stream_reader(model: "HookedVLM") -> ReadStream:
    """Return the logit lens of a model. That its final norm reads the stream is checked by `record` in every run.

    Raises:
        ValueError: The weights of its unembedding cannot be read.
    """
    try:
        matrix(Decoder.of(model).head)
    except ValueError as error:
        raise ValueError(f"logit_lens needs the weights of the unembedding: {error}") from None
    return partial(read_stream, model)


@torch.no_grad()
def read_stream(
    model: "HookedVLM",
    pair: "MinimalPair",
    setting: Setting,
    which: str,
    answers: tuple[int, int],
    groups: Sequence[Sequence[int]],
) -> StreamReading:
    """Return what the stream of one run of a pair says.

    Args:
        model: The model.
        pair: The pair.
        setting: The corruption.
        which: `clean` or `corrupt`.
        answers: The tokens of the answer and of the foil.
        groups: Positions of the language model's stream.
    """
    decoder, given = Decoder.of(model), Given.of(model, pair, setting, which, None)
    with given.running():
        run = record(decoder, given.inputs, PARTS)
    logits, probs = _through_the_lens(run, answers, groups)
    return StreamReading(logits, probs, *_direct(run, answers))


def _through_the_lens(run: Record, answers: tuple[int, int], groups: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    decoder, pair = run.decoder, list(answers)
    positions = sorted({position for group in groups for position in group})
    place = {position: number for number, position in enumerate(positions)}
    at_once = max(1, LOGITS_AT_ONCE // (decoder.head_width * 4))
    said = []
    for stream in (run.resid[0], *run.out):
        parts = []
        for some in stream[positions].split(at_once):
            logits = decoder.logits(some, run.capped)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            parts.append(torch.stack([logits[:, pair], logits.softmax(-1)[:, pair]]))
        said.append(torch.cat(parts, 1).cpu())
    each = torch.stack(said, 1)  # logits or probabilities, blocks, position, answer
    means = [
        each[:, :, [place[position] for position in group]].mean(2)
        if len(group)
        else torch.full_like(each[:, :, 0], torch.nan)
        for group in groups
    ]
    logits, probs = torch.stack(means, 2)
    return logits, probs


def _direct(run: Record, answers: tuple[int, int]) -> tuple[Tensor, Tensor, float, float]:
    """Return what heads, MLPs, the first stream and the rest add to the logit difference at the read-out."""
    decoder, at = run.decoder, run.readouts[0]
    wide = torch.promote_types(run.out[-1].dtype, torch.float32)
    head = matrix(decoder.head)[list(answers)].to(wide)
    direction = _through_norm(decoder.norm, run.out[-1][at], head[0] - head[1])
    heads, mlps = [], []
    for layer in range(len(decoder.layers)):
        streams = (run.resid[layer], run.values[layer, "hook_resid_mid"], run.out[layer])
        outputs = (run.values[layer, f"hook_{part}_out"] for part in ("attn", "mlp"))
        # Layers may lie on several devices.
        before, mid, after, written, by_mlp = (one[at].to(direction) for one in (*streams, *outputs))
        results, whole = (
            one.to(direction) for one in _results(decoder.blocks[layer].attn.o, run.attended[layer].z[at])
        )
        # A norm behind the output projection scales what all heads wrote together.
        scale = torch.where(whole == 0, torch.zeros_like(whole), written / whole)
        heads.append((results * scale) @ direction * _gate(written, mid - before))
        mlps.append(by_mlp @ direction * _gate(by_mlp, after - mid))
    embed = float(run.resid[0][at].to(direction) @ direction)
    each, of_mlps = torch.stack(heads).cpu(), torch.stack(mlps).cpu()
    uncapped = head_logits(decoder, run.out[-1][at], answers)
    return each, of_mlps, embed, uncapped - embed - float(each.sum() + of_mlps.sum())


def head_logits(decoder: Decoder, stream: Float[Tensor, " d_model"], answers: tuple[int, int]) -> float:
    """Return the logit difference that the stream gives, before any soft cap."""
    logits = decoder.logits(stream[None], False)[0]
    return float(logits[answers[0]].double() - logits[answers[1]].double())


def _through_norm(norm: nn.Module, stream: Tensor, direction: Tensor) -> Tensor:
    """Return the direction in the stream in front of a norm that is read as this one behind it, at its present scale.

    A norm is a factor for each dimension, once its scale is given; LayerNorm takes the mean off first.
    """
    normed, stream = norm(stream[None])[0].to(direction), stream.to(direction)
    if not isinstance(norm, nn.LayerNorm):
        return direction * torch.where(stream == 0, torch.zeros_like(stream), normed / stream)
    weight = torch.ones_like(stream) if norm.weight is None else norm.weight.to(direction)
    scaled = direction * weight / (stream.var(unbiased=False) + norm.eps).sqrt()
    return scaled - scaled.mean()


def _results(
    output: nn.Module, z: Float[Tensor, "head d_head"]
) -> tuple[Float[Tensor, "head d_model"], Float[Tensor, " d_model"]]:
    """Return what each head writes, and what all write together with the output projection's bias.

    By the module itself, since its weights may be quantised.
    """
    alone = torch.diag_embed(z.T).permute(1, 2, 0).flatten(1)  # a row for each head, with the others' z at zero
    written = output(torch.cat([alone, z.flatten()[None], torch.zeros_like(z.flatten())[None]]))
    wide = written.to(torch.promote_types(written.dtype, torch.float32))
    return wide[:-2] - wide[-1], wide[-2]


def _gate(written: Tensor, added: Tensor) -> float:
    """Return the factor with which the stream gets what a part writes: 1 but for gated cross-attention."""
    size = float(written.square().sum())
    gate = float((written * added).sum()) / size if size else 1.0
    return gate if abs(gate - 1) > GATED else 1.0
