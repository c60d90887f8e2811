"""Edits inside attention, knockouts, and several edits at once, against attention written out in the tests."""

from typing import Any

import pytest
import torch
from torch import Tensor

from attention_oracle import changed_attention
from causal_families import Family, made
from forward_oracle import Patch, activations, decoder_of, logits
from notice_lens.models.vlm import families
from notice_lens.patching.engine.causal.check import check_patches, refuse_failures
from notice_lens.patching.engine.causal.decoder import Decoder
from notice_lens.patching.engine.causal.plan import DecoderEdit, DecoderVariant
from notice_lens.patching.engine.causal.record import record
from notice_lens.patching.engine.causal.replay import Replay
from notice_lens.patching.engine.causal.wave import CausalWave

NAMES = {"rot_q": "hook_rot_q", "rot_k": "hook_rot_k", "scores": "hook_attn_scores", "pattern": "hook_pattern"}


def by_wave(family: Family, variants: list[DecoderVariant]) -> Tensor:
    decoder = Decoder.of(family.model)
    leaves = {edit.leaf for variant in variants for edit in variant}
    base, other = (record(decoder, family.inputs(seed), leaves) for seed in (1, 2))
    readouts = CausalWave(base, variants, {"other": other}, 2**28).readouts()[:, -1]
    return decoder.logits(readouts, base.capped).detach()


def gap_of(family: Family) -> float:
    return float(
        (logits(family.model, family.inputs(1), [], 0.0) - logits(family.model, family.inputs(2), [], 0.0)).abs().max()
    )


def self_attending(family: Family) -> list[int]:
    return [number for number, block in enumerate(decoder_of(family.model).layers) if hasattr(block, "self_attn")]


@torch.no_grad()
def inner(family: Family, seed: int) -> dict[tuple[int, str], Tensor]:
    found: dict[tuple[int, str], Tensor] = {}

    def keep(layer: int, name: str, tensor: Tensor) -> Tensor:
        found[layer, name] = tensor.clone()
        return tensor

    with changed_attention(family.model, keep):
        family.model(**family.inputs(seed))
    return found


@pytest.mark.parametrize("name", list(NAMES))
def test_edits_inside_attention(family: Family, name: str) -> None:
    length = family.inputs(1)["input_ids"].shape[1]
    layers = self_attending(family)
    # The cut of a position that a sliding window or a causal mask hides would change nothing: one that is seen.
    cells = [(layers[1], 1, length - 1), (layers[0], 0, length - 4), (layers[-1], 1, length - 1)]
    if name == "rot_k":
        cells += [(layers[1], 0, 3)]
    found = by_wave(family, [(DecoderEdit(NAMES[name], layer, (position,), head),) for layer, head, position in cells])
    values = inner(family, 2)
    for (layer, head, position), row in zip(cells, found, strict=True):

        def change(of: int, stage: str, tensor: Tensor, cell: Any = (layer, head, position)) -> Tensor:
            if (of, stage) != (cell[0], name):
                return tensor
            new = tensor.clone()
            new[cell[1], cell[2]] = values[of, stage][cell[1], cell[2]]
            return new

        with changed_attention(family.model, change):
            expected = logits(family.model, family.inputs(1), [], 0.0)
        assert (row - expected).abs().max() < 1e-9 * gap_of(family), (layer, head, position)


def test_attention_knockout(family: Family) -> None:
    length = family.inputs(1)["input_ids"].shape[1]
    layers = self_attending(family)[-3:]
    image, question, last = tuple(range(2, length - 8)), tuple(range(length - 7, length - 1)), (length - 1,)
    flows = [(last, image, None), (last, question, 2), (question, image, None)]
    variants = [
        tuple(DecoderEdit("hook_attn_scores", layer, queries, head, "cut", keys) for layer in layers)
        for queries, keys, head in flows
    ]
    found = by_wave(family, variants)
    for (queries, keys, head), row in zip(flows, found, strict=True):

        def cut(layer: int, stage: str, tensor: Tensor, flow: Any = (queries, keys, head)) -> Tensor:
            if layer not in layers or stage != "scores":
                return tensor
            new = tensor.clone()
            heads = slice(None) if flow[2] is None else slice(flow[2], flow[2] + 1)
            for query in flow[0]:
                new[heads, query, list(flow[1])] = -torch.inf
            return new

        with changed_attention(family.model, cut):
            expected = logits(family.model, family.inputs(1), [], 0.0)
        base = logits(family.model, family.inputs(1), [], 0.0)
        assert (expected - base).abs().max() > 1e-4 * gap_of(family)
        assert (row - expected).abs().max() < 1e-9 * gap_of(family)


def test_several_edits_at_once(family: Family) -> None:
    length = family.inputs(1)["input_ids"].shape[1]
    first, second, *_, last = self_attending(family)
    joint = [
        [Patch("z", first, (length - 6,), 1), Patch("z", second, (3,), 2), Patch("z", last, (length - 1,), 0)],
        [Patch("mlp_out", first, (length - 3,)), Patch("resid_pre", last, (length - 5,)), Patch("k", second, (4,), 1)],
        [Patch("z", second, (length - 1,), 0), Patch("attn_out", second, (8,)), Patch("q", last, (length - 1,))],
    ]  # fmt: skip
    sites = {patch.site for patches in joint for patch in patches}
    values = {site: activations(family.model, family.inputs(2), site) for site in sites}
    leaf = {
        "z": "hook_z", "mlp_out": "hook_mlp_out", "resid_pre": "hook_resid_pre", "k": "hook_k", "q": "hook_q",
        "attn_out": "hook_attn_out",
    }  # fmt: skip
    variants = [
        tuple(DecoderEdit(leaf[one.site], one.layer, one.positions, one.head) for one in patches) for patches in joint
    ]
    found = by_wave(family, variants)
    for patches, row in zip(joint, found, strict=True):
        expected = logits(family.model, family.inputs(1), patches, values)
        assert (row - expected).abs().max() < 1e-9 * gap_of(family), patches


def test_the_self_check_passes(family: Family) -> None:
    decoder = Decoder.of(family.model)
    base, other = (record(decoder, family.inputs(seed)) for seed in (1, 2))
    checked = check_patches(family.inputs(1), base, other)
    assert max(one.apart for one in checked) < 1e-9
    refuse_failures(checked, decoder)


def test_the_self_check_names_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    family = made("llava")
    decoder = Decoder.of(family.model)
    base, other = (record(decoder, family.inputs(seed)) for seed in (1, 2))
    block = Replay.block

    def broken(self: Replay, *args: Any) -> list[Tensor]:
        return [out * 1.01 for out in block(self, *args)]

    monkeypatch.setattr(Replay, "block", broken)
    checked = check_patches(family.inputs(1), base, other)
    with pytest.raises(ValueError, match=r"'llava'.*did not pass.*layer \d, head \d, position \d+"):
        refuse_failures(checked, decoder)


def test_an_unknown_family_is_checked_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from notice_lens.patching import patch_inputs

    family = made("llava")
    monkeypatch.setattr(families, "FAMILIES", {})
    metric = lambda logits: logits[:, 7]  # noqa: E731
    patch_inputs(family.model, family.inputs(2), family.inputs(1), metric=metric, progress=False)
    block = Replay.block
    monkeypatch.setattr(Replay, "block", lambda *args: [out * 1.01 for out in block(*args)])
    with pytest.raises(ValueError, match="did not pass the self-check"):
        patch_inputs(family.model, family.inputs(2), family.inputs(1), metric=metric, progress=False)
