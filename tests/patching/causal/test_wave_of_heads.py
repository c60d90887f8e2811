"""Every head of every layer, against a forward pass a patch on the Hugging Face model, for every family."""

import inspect

import pytest
import torch
from torch import Tensor

from causal_families import N_HEADS, Family, made
from forward_oracle import Patch, activations, decoder_of, logits
from notice_lens.patching.engine.causal import plan
from notice_lens.patching.engine.causal.decoder import Decoder
from notice_lens.patching.engine.causal.plan import DecoderEdit
from notice_lens.patching.engine.causal.record import record
from notice_lens.patching.engine.causal.wave import CausalWave

GIB = 2**30
Cell = tuple[int, int, int]


def every_cell(model: torch.nn.Module, length: int) -> list[Cell]:
    """A text position in front of the image, image positions, a word, the last token but one, and the last."""
    positions = (1, 3, length - 9, length - 6, length - 2, length - 1)
    layers = range(len(decoder_of(model).layers))  # pyright: ignore
    return [(layer, head, position) for layer in layers for head in range(N_HEADS) for position in positions]


def by_wave(family: Family, cells: list[Cell], memory: int = GIB, seeds: tuple[int, int] = (1, 2)) -> Tensor:
    decoder = Decoder.of(family.model)
    base, other = (record(decoder, family.inputs(seed)) for seed in seeds)
    variants = [(DecoderEdit("hook_z", layer, (position,), head),) for layer, head, position in cells]
    readouts = CausalWave(base, variants, {"other": other}, memory).readouts()[:, -1]
    return difference(decoder.logits(readouts, base.capped).detach())


def by_forwards(family: Family, cells: list[Cell]) -> Tensor:
    values = {"z": activations(family.model, family.inputs(2), "z")}
    patches = ([Patch("z", layer, (position,), head)] for layer, head, position in cells)
    return difference(torch.stack([logits(family.model, family.inputs(1), patch, values) for patch in patches]))


def difference(logits: Tensor) -> Tensor:
    return logits[..., 7] - logits[..., 9]


def gap_of(family: Family) -> float:
    clean, corrupted = (logits(family.model, family.inputs(seed), [], 0.0) for seed in (2, 1))
    return abs(float(difference(clean - corrupted)))


def test_unedited_logits_are_hugging_faces(family: Family) -> None:
    base = record(Decoder.of(family.model), family.inputs(1))
    # Products of one row and of many round differently, so the rows are those of the recorded run.
    kept = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(family.model.forward).parameters else {}
    with torch.no_grad():
        expected = family.model(**family.inputs(1), **kept).logits[0, -1]
    softcapped = base.attended[0].softcap is not None  # SDPA has no soft cap: that attention is ours
    assert (base.logits[-1] - expected).abs().max() <= (1e-15 if softcapped else 0)


def test_every_head_equals_a_forward_pass_a_patch(family: Family) -> None:
    cells = every_cell(family.model, family.inputs(1)["input_ids"].shape[1])
    wave, forwards, gap = by_wave(family, cells), by_forwards(family, cells), gap_of(family)
    base = difference(logits(family.model, family.inputs(1), [], 0.0))
    assert (forwards - base).abs().max() > 0.02 * gap, "patches that move nothing prove nothing"
    assert (wave - forwards).abs().max() < 1e-9 * gap


@pytest.mark.parametrize("shift", [(1, 0, 0), (0, 1, 0), (0, 0, 1)], ids=["layer", "head", "position"])
def test_a_neighbouring_cell_would_be_found(family: Family, shift: Cell) -> None:
    cells = [(1, 1, family.inputs(1)["input_ids"].shape[1] - 2), (0, 2, 3)]
    neighbours = [tuple(one + by for one, by in zip(cell, shift, strict=True)) for cell in cells]
    difference_of_two = by_wave(family, neighbours) - by_forwards(family, cells)  # pyright: ignore[reportArgumentType]
    assert difference_of_two.abs().max() > 1e-6 * gap_of(family)


def test_a_suffix_one_too_short_would_be_found(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    length = family.inputs(1)["input_ids"].shape[1]
    layer = max(len(decoder_of(family.model).layers) - 4, 0)
    cells = [(layer, head, length - 6) for head in range(N_HEADS)]
    whole = plan.suffix

    def short(*args: object) -> Tensor:
        reached = whole(*args)  # pyright: ignore[reportArgumentType]
        reached[length - 5] = False
        return reached

    monkeypatch.setattr(plan, "suffix", short)
    assert (by_wave(family, cells) - by_forwards(family, cells)).abs().max() > 1e-6 * gap_of(family)


def test_how_variants_are_split_is_irrelevant(family: Family) -> None:
    cells = every_cell(family.model, family.inputs(1)["input_ids"].shape[1])[::5]
    assert (by_wave(family, cells) - by_wave(family, cells, memory=2**18)).abs().max() < 1e-12 * gap_of(family) + 1e-13


def test_a_self_patch_changes_nothing(family: Family) -> None:
    cells = every_cell(family.model, family.inputs(1)["input_ids"].shape[1])[::7]
    base = difference(logits(family.model, family.inputs(1), [], 0.0))
    assert (by_wave(family, cells, seeds=(1, 1)) - base).abs().max() < 1e-12 * gap_of(family) + 1e-13


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_stays_near_float64(dtype: torch.dtype) -> None:
    exact, lower = made("llava"), made("llava", dtype)
    cells = every_cell(exact.model, 14)[::3]
    apart = (by_wave(lower, cells).double() - by_wave(exact, cells)).abs().max()
    assert apart < (1e-4 if dtype == torch.float32 else 0.5) * gap_of(exact)
