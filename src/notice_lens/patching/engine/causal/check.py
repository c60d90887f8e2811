"""The self-check: a few random patches by the causal wave, each against a full forward pass with one hook.

The wave replays blocks with recorded arguments. A family whose blocks need more than that (a state kept between calls,
experts with a capacity, keys taken from another layer) would give other numbers without a word; this says so instead.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from notice_lens.models.vlm.families import family_of
from notice_lens.patching.engine.causal.decoder import Decoder
from notice_lens.patching.engine.causal.plan import DecoderEdit
from notice_lens.patching.engine.causal.record import Record
from notice_lens.patching.engine.causal.wave import CausalWave

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.05}
"""How far apart logits may be, as a share of the largest difference between the two runs' logits."""


class Checked(NamedTuple):
    """One patch that was checked.

    Attributes:
        layer, head, position: Which z was patched.
        apart: The largest difference of a logit, as a share of the largest difference between the two runs.
    """

    layer: int
    head: int
    position: int
    apart: float


def is_tested(decoder: Decoder) -> bool:
    """Return whether a model's family is marked as tested; any other is checked before its first result."""
    return family_of(decoder.hf.config).tested


@torch.no_grad()
def check_patches(inputs: Mapping[str, Any], base: Record, other: Record, n: int = 4, seed: int = 0) -> list[Checked]:
    """Patch random heads at random positions by the wave and by forward passes, and return how far apart they are.

    Args:
        inputs: Those of the base run.
        base: The run that is patched.
        other: The run that z comes from.
        n: How many patches.
        seed: Of the random patches.
    """
    decoder = base.decoder
    generator = torch.Generator().manual_seed(seed)

    def draw(below: int) -> int:
        return int(torch.randint(below, (), generator=generator))

    # One at the read-out itself; the others at positions from which it can be reached in several blocks.
    last = base.readouts[-1]
    positions = [last] + [draw(last + 1) for _ in range(n - 1)]
    cells = [(draw(len(decoder.blocks)), draw(decoder.blocks[0].attn.n_heads), position) for position in positions]
    variants = [(DecoderEdit("hook_z", layer, (position,), head),) for layer, head, position in cells]
    readouts = CausalWave(base, variants, {"other": other}, 2**28).readouts()
    by_wave = decoder.logits(readouts[:, -1], base.capped)
    scale = float((base.logits - other.logits).abs().max()) or 1.0
    found = []
    for cell, logits in zip(cells, by_wave, strict=True):
        expected = _hooked_forward(decoder, inputs, last, other, cell)
        found.append(Checked(*cell, float((logits - expected).abs().max()) / scale))
    return found


def refuse_failures(checked: list[Checked], decoder: Decoder) -> None:
    """Raise ValueError if a patch by the wave is not what a forward pass gives, naming the patch."""
    dtype = next(one.dtype for one in decoder.hf.parameters() if one.is_floating_point())
    failed = [one for one in checked if not one.apart <= TOLERANCE[dtype]]
    if failed:
        worst = max(failed, key=lambda one: one.apart)
        raise ValueError(
            f"{type(decoder.hf).__name__} (model type {decoder.hf.config.model_type!r}) did not pass the self-check: "
            f"{len(failed)} of {len(checked)} patches differ from a full forward pass. The worst is z of layer "
            f"{worst.layer}, head {worst.head}, position {worst.position}: its logits are {worst.apart:.2g} of the "
            f"difference between the two runs apart, where {TOLERANCE[dtype]:g} is allowed. Effects of this model "
            "would be wrong"
        )


def _hooked_forward(
    decoder: Decoder, inputs: Mapping[str, Any], readout: int, other: Record, cell: tuple[int, int, int]
) -> Tensor:
    """Return the read-out's logits of a full forward pass in which one head is patched at one position."""
    layer, head, position = cell
    attention = decoder.blocks[layer].attn
    own = slice(head * attention.d_head, (head + 1) * attention.d_head)

    def patch(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        z = args[0].clone()
        z[:, position, own] = other.value("hook_z", layer)[position, head]
        return (z, *args[1:])

    handle = attention.o.register_forward_pre_hook(patch)
    try:
        return decoder.hf(**inputs, use_cache=False).logits[0, readout]
    finally:
        handle.remove()
