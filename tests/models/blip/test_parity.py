"""The port gives Hugging Face's numbers at every stage."""

from dataclasses import replace

import pytest
import torch

from conftest import KINDS, Pair, as_tuple, make_pair, relative_error
from oracle import SITES

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def every_site(pair: Pair) -> list[str]:
    cfg = pair.model.cfg
    return [
        f"{stack}.blocks.{layer}.{leaf}"
        for stack in cfg.stacks
        for layer in range(cfg.n_layers[stack])
        for leaf in SITES[stack]
    ]


def check_parity(pair: Pair, tolerance: float) -> dict[str, float]:
    """Errors of everything that can be compared, all within the tolerance."""
    inputs = pair.inputs(answer_length=3 if pair.kind == "vqa" else None)
    names = every_site(pair)
    with torch.no_grad():
        expected, activations = pair.oracle.record(as_tuple(inputs), names)
        logits = pair.model(inputs)
        seen, cache = pair.model.run_with_cache(inputs)
        embedded = pair.hf.vision_model.embeddings(inputs.pixel_values)
    errors = {"logits": relative_error(logits, expected), "logits while looked at": relative_error(seen, expected)}
    errors["embedded image"] = relative_error(cache["vision.blocks.0.hook_resid_pre"], embedded)
    errors |= {name: relative_error(cache[name], activations[name]) for name in names}
    assert max(errors.values()) <= tolerance, max(errors.items(), key=lambda item: item[1])
    return errors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_every_stage_of_tiny_checkpoints(kind, dtype):
    check_parity(make_pair(kind, dtype), TOLERANCE[dtype])


@pytest.mark.large
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_stage_of_the_full_architecture(dtype, record_property):
    errors = check_parity(make_pair("vqa", dtype, "base"), TOLERANCE[dtype])
    record_property("largest relative error", max(errors.values()))


def test_head_count_and_eps_come_from_the_config():
    pair = make_pair("vqa", text={"num_attention_heads": 4, "layer_norm_eps": 1e-3})
    assert pair.model.cfg.text.n_heads == 4
    assert pair.model.cfg.vision.n_heads == 6
    check_parity(pair, 1e-5)
    assert pair.model.cfg.text.eps == 1e-3
    assert pair.model.cfg.vision.eps == 1e-5


def test_the_test_model_is_no_degenerate_one(vqa):
    """Image, word order and every layer reach the answer by far more than the tolerances."""
    inputs = vqa.inputs()
    with torch.no_grad():
        logits = vqa.model(inputs)
        other_image = vqa.model(replace(inputs, pixel_values=vqa.inputs(seed=1).pixel_values))
        reordered = vqa.model(replace(inputs, input_ids=inputs.input_ids[:, [0, 2, 1, *range(3, 9)]]))
    assert relative_error(other_image, logits) > 0.01
    assert relative_error(reordered, logits) > 0.01


@pytest.mark.parametrize("kind", ["caption", "match"])
def test_text_and_image_of_different_widths(kind):
    pair = make_pair(kind, text={"hidden_size": 48, "intermediate_size": 96})
    assert (pair.model.cfg.vision.d_model, pair.model.stack(pair.model.cfg.stacks[1]).cfg.d_model) == (96, 48)
    check_parity(pair, 1e-5)


def test_padding_behind_captions_is_masked(caption):
    inputs = caption.inputs(length=6)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    with torch.no_grad():
        image = caption.hf.vision_model(pixel_values=inputs.pixel_values).last_hidden_state
        theirs = caption.hf.text_decoder(
            input_ids=inputs.input_ids, attention_mask=mask, encoder_hidden_states=image
        ).logits
        ours = caption.model(replace(inputs, attention_mask=mask))
        looked_at, _ = caption.model.run_with_cache(replace(inputs, attention_mask=mask))
    real = mask.bool()
    assert relative_error(ours[real], theirs[real]) < 1e-5
    assert relative_error(looked_at[real], theirs[real]) < 1e-5
    assert ours.isfinite().all()


def test_position_interpolation_is_hugging_faces():
    pair = make_pair("caption")
    inputs = pair.inputs()
    larger = torch.randn(1, 3, 96, 80, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = pair.hf(pixel_values=larger, input_ids=inputs.input_ids, interpolate_pos_encoding=True).logits
        ours = pair.model({"pixel_values": larger, "input_ids": inputs.input_ids, "interpolate_pos_encoding": True})
    assert relative_error(ours, expected) <= 1e-5
    with pytest.raises(ValueError, match="96 x 80 pixels; this model expects 64 x 64.*interpolate_pos_encoding=True"):
        pair.model({"pixel_values": larger, "input_ids": inputs.input_ids})


def test_a_padded_batch_gives_each_question_its_own_logits():
    """Lengths 5 to 20 in one batch. Hugging Face lets the decoder look at padding, and is off (shown, not fixed)."""
    pair = make_pair("vqa")
    singles = [pair.inputs(length=length, seed=length) for length in range(5, 21)]
    ids = torch.zeros(len(singles), 20, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, single in enumerate(singles):
        ids[row, : single.input_ids.shape[1]] = single.input_ids[0]
        mask[row, : single.input_ids.shape[1]] = 1
    pixels = torch.cat([single.pixel_values for single in singles])
    with torch.no_grad():
        alone = torch.cat([pair.oracle.logits(*as_tuple(single)) for single in singles])
        ours = pair.model({"pixel_values": pixels, "input_ids": ids, "attention_mask": mask})
        looked_at, _ = pair.model.run_with_cache({"pixel_values": pixels, "input_ids": ids, "attention_mask": mask})
        image = pair.hf.vision_model(pixel_values=pixels).last_hidden_state
        states = pair.hf.text_encoder(input_ids=ids, attention_mask=mask, encoder_hidden_states=image).last_hidden_state
        start = torch.full((len(ids), 1), pair.hf.config.text_config.bos_token_id)
        theirs = pair.hf.text_decoder(input_ids=start, encoder_hidden_states=states, encoder_attention_mask=mask).logits
    assert relative_error(ours, alone) <= 1e-5
    assert relative_error(looked_at, alone) <= 1e-5
    assert relative_error(theirs, alone) > 1e-3


def test_a_padded_batch_of_texts_to_match():
    pair = make_pair("match")
    long, short = pair.inputs(length=12), pair.inputs(length=6, seed=1)
    ids, mask = torch.zeros(2, 12, dtype=torch.long), torch.ones(2, 12, dtype=torch.long)
    ids[0], ids[1, :6], mask[1, 6:] = long.input_ids[0], short.input_ids[0], 0
    pixels = torch.cat([long.pixel_values, short.pixel_values])
    with torch.no_grad():
        ours = pair.model({"pixel_values": pixels, "input_ids": ids, "attention_mask": mask})
        alone = torch.cat([pair.oracle.logits(*as_tuple(single)) for single in (long, short)])
    assert relative_error(ours, alone) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close(dtype, vqa):
    inputs = vqa.inputs()
    model = make_pair("vqa").model.to(dtype=dtype)
    with torch.no_grad():
        expected = vqa.model(inputs)
        logits = model(inputs)
        looked_at, _ = model.run_with_cache(inputs)
    assert logits.dtype == dtype
    assert relative_error(logits.float(), expected) < 0.05
    assert relative_error(looked_at.float(), expected) < 0.05
