"""Paths that start before the language model's blocks: at a part of the vision tower, or at the projector's output.

The third run of such a path (see `engine.path_walk`) has two halves. The first is a forward pass up to the language
model: the sender has its value of the other run, every attention of the tower has the base run's z, and where MLPs are
frozen each of them writes what it wrote in the base run. The projector is recomputed, as norms are. What comes out is
the stream before the language model's first block, which differs from the base run's at the image's positions.

The second half is the walk of `paths.py`, with that stream for a sender. A path to the output of the tower or the
projector has no second half: everything behind is free, so its stream is a row of the wave.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from notice_lens.models.hook_names import IMAGE_STACK, HookName
from notice_lens.patching.engine.causal.given import Given
from notice_lens.patching.engine.causal.plan import DecoderEdit, DecoderVariant
from notice_lens.patching.engine.causal.upstream import WAVE_STACK, by_example, edit_hooks
from notice_lens.patching.engine.plan import HookEdit
from notice_lens.patching.engine.receivers import Receiver
from notice_lens.patching.engine.rows import Index

if TYPE_CHECKING:
    from notice_lens.models.vlm.hooked_vlm import HookedVLM
    from notice_lens.patching.grid import Grid

STREAM_HOOK = f"{WAVE_STACK}.blocks.0.hook_resid_pre"
"""The stream that the language model's first block is given."""
FROZEN_HEADS, FROZEN_MLPS = "attn.hook_z", "hook_mlp_out"
"""What is frozen in the tower: what each head gives, and what each MLP writes."""


class SentStream:
    """The stream before the first block as one sender makes it; a `ValueSource`.

    Args:
        stream: [pos, d_model].
    """

    def __init__(self, stream: Float[Tensor, "pos d_model"]) -> None:
        self.stream = stream

    def value(self, leaf: str, layer: int) -> Tensor:
        """Return the stream, whatever is asked: its edit is the only one."""
        return self.stream


class _Reached(Exception):
    """Leaves the model once the stream before the language model's first block is known."""

    def __init__(self, stream: Tensor) -> None:
        super().__init__(STREAM_HOOK)
        self.stream = stream


def frozen_hooks(model: "HookedVLM", freeze_mlp: bool) -> list[str]:
    """Return the hook points of the tower that paths keep at the base run."""
    leaves = (FROZEN_HEADS, FROZEN_MLPS) if freeze_mlp else (FROZEN_HEADS,)
    names = {hook: HookName.parse(hook) for hook in model.hook_dict}
    return [hook for hook, name in names.items() if name.stack == IMAGE_STACK and name.leaf in leaves]


def frozen_by(model: "HookedVLM", grid: "Grid") -> list[str]:
    """Return the hook points of the tower that the paths of a grid keep at the base run; none without such paths."""
    ends = [
        one.receiver
        for one in grid.variants
        if one.receiver is not None and any(_is_in_tower(edit.hook) for edit in one.edits)
    ]
    return frozen_hooks(model, any(end.freeze_mlp for end in ends)) if ends else []


def _is_in_tower(hook: str) -> bool:
    return HookName.parse(hook).stack == IMAGE_STACK


@torch.no_grad()
def sent_streams(
    given: Given,
    rows: Sequence[Sequence[HookEdit[Index]]],
    sources: Mapping[str, Mapping[str, Tensor]],
    freeze_mlp: bool,
) -> Float[Tensor, "row pos d_model"]:
    """Return the stream before the language model's first block as each sender makes it.

    Args:
        given: The input of the run that is patched.
        rows: The edits of each sender.
        sources: Values by source and hook point, [1, pos, ...]; `self` has all that is frozen.
        freeze_mlp: Whether MLPs of the tower keep what they write.
    """

    def freeze(value: Tensor, hook: Any) -> Tensor:
        base = sources["self"][hook.name].to(value)
        return base.expand_as(by_example(value, len(rows), hook.name)).reshape(value.shape)

    def leave(value: Tensor, hook: Any) -> None:
        raise _Reached(value.clone())

    frozen = []
    if any(_is_in_tower(edit.hook) for edits in rows for edit in edits):
        frozen = [(hook, freeze) for hook in frozen_hooks(given.model, freeze_mlp)]
    # What is sent comes after what is frozen: where both are at one hook point, it takes its place.
    hooks = [*given.noise(len(rows)), *frozen, *edit_hooks(rows, sources), (STREAM_HOOK, leave)]
    try:
        with given.model.hooks(hooks):
            given.model(given.repeated(len(rows)))
    except _Reached as reached:
        return reached.stream
    raise AssertionError("the language model ran without its first block")


def image_positions(given: Given) -> tuple[int, ...]:
    """Return the positions of the language model's stream from the image's first to its last."""
    start, stop = given.model.layout(given.inputs, [given.prompt]).roles[0]["image"]
    return tuple(range(start, stop))


def sending(positions: tuple[int, ...], source: str) -> DecoderVariant:
    """Return the edit by which a stream is sent.

    Args:
        positions: Where it may differ from the base run's: those of the image.
        source: The name of the stream.
    """
    return (DecoderEdit("hook_resid_pre", 0, positions, source=source),)


def by_sender(rows: Sequence[Sequence[HookEdit[Index]]], ends: Sequence[Receiver]) -> dict[bool, list[list[int]]]:
    """Return the numbers of paths that share a sender, by whether MLPs are frozen.

    Args:
        rows: The edits of each path's sender.
        ends: The receiver of each.
    """
    found: dict[bool, dict[Any, list[int]]] = {}
    for number, (edits, end) in enumerate(zip(rows, ends, strict=True)):
        sender = tuple((edit.hook, edit.source, edit.head, edit.positions.tobytes()) for edit in edits)
        found.setdefault(end.freeze_mlp, {}).setdefault(sender, []).append(number)
    return {freeze_mlp: list(groups.values()) for freeze_mlp, groups in found.items()}
