"""prepare: any kind of picture, any number of questions, and errors that name what is wrong."""

import re
from dataclasses import replace
from inspect import unwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import BlipProcessor
from transformers.models.bert.tokenization_bert import BertTokenizer

from conftest import make_pair, relative_error
from notice_lens import HookedBLIP
from notice_lens.arguments import as_strings
from notice_lens.models import BLIPInputs
from notice_lens.models.blip.inputs import IGNORED
from notice_lens.models.blip.random_blip import tiny_vocabulary


@pytest.fixture
def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_every_kind_of_picture_gives_the_same_pixels(vqa, picture, tmp_path):
    picture.save(tmp_path / "picture.png")
    array = np.asarray(picture)
    kinds = {
        "PIL": picture,
        "path": tmp_path / "picture.png",
        "string": str(tmp_path / "picture.png"),
        "array": array,
        "floats": array.astype(np.float64) / 255,
        "tensor": torch.from_numpy(array.copy()).permute(2, 0, 1),
    }
    expected = vqa.model.processor(images=picture, return_tensors="pt")["pixel_values"]
    for kind, image in kinds.items():
        assert torch.equal(vqa.model.prepare(image, "is this red?").pixel_values, expected), kind
        several = vqa.model.prepare([image, image], "is this red?").pixel_values
        assert torch.equal(several, expected.expand(2, -1, -1, -1)), kind
    batch = np.stack([array, array])
    assert torch.equal(vqa.model.prepare(batch, "is this red?").pixel_values[1:], expected)
    read = vqa.model.processor.image_processor(images=picture, return_tensors="pt")
    assert torch.equal(vqa.model.prepare(read, "is this red?").pixel_values, expected)
    assert torch.equal(vqa.model.prepare(expected, "is this red?").pixel_values, expected), "preprocessed already"
    assert torch.equal(vqa.model.prepare([expected[0]], "is this red?").pixel_values, expected)
    assert torch.equal(vqa.model.prepare(expected[0], "is this red?").pixel_values, expected)


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "CMYK"])
def test_other_colour_modes(vqa, picture, mode):
    other = picture.convert(mode)
    found, expected = (vqa.model.prepare(each, "is this red?").pixel_values for each in (other, other.convert("RGB")))
    assert torch.equal(found, expected)
    assert found.std() > 0.1


def test_sixteen_bits_are_scaled_and_not_cut_off(vqa):
    deep = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    shallow = np.rint(deep / 257).astype(np.uint8)
    expected = vqa.model.prepare(shallow, "is this red?").pixel_values
    for image in (deep, Image.fromarray(deep), deep[..., None]):
        assert torch.allclose(vqa.model.prepare(image, "is this red?").pixel_values, expected, atol=0.02)


def test_published_tokenizers_have_no_dec_and_no_enc(picture):
    """Theirs is BERT's own, while the model's vocabulary goes on with [DEC] and [ENC]."""
    pair = make_pair("vqa")
    tokenizer = BertTokenizer(vocab={piece: index for index, piece in enumerate(tiny_vocabulary())})
    processor = BlipProcessor(pair.model.processor.image_processor, tokenizer)
    model = HookedBLIP.from_hf(pair.hf, processor, enc_token=True)
    expected = pair.model.prepare(picture, "is this red?", "red")
    inputs = model.prepare(picture, "is this red?", "red")
    assert torch.equal(inputs.answer_ids, expected.answer_ids)
    assert torch.equal(inputs.input_ids[:, 1:], expected.input_ids[:, 1:])
    assert model.lens("text.attn", inputs).to_str_tokens() == ["[ENC]", "is", "this", "red", "?", "[SEP]"]
    assert model.lens("decoder.attn", inputs).to_str_tokens() == ["[DEC]", "red"]
    assert isinstance(model.generate(picture, "is this red?", max_new_tokens=3)[0], str)


def test_questions_of_unequal_length(vqa, picture):
    inputs = vqa.model.prepare(picture, ["is this red?", "is this a red apple or a green apple?"])
    tokenizer = vqa.model.tokenizer
    assert len(inputs) == 2
    assert inputs.attention_mask.sum(1).tolist() == [6, 12]
    assert tokenizer.convert_ids_to_tokens(inputs.input_ids[0].tolist()) == [
        *("[CLS]", "is", "this", "red", "?", "[SEP]"),
        *["[PAD]"] * 6,
    ]
    assert inputs.answer_ids is None


def test_answers_and_what_each_logit_predicts(vqa, picture):
    inputs = vqa.model.prepare(picture, "is this red?", ["red", "xyz"])
    words = vqa.model.tokenizer.convert_ids_to_tokens
    assert words(inputs.answer_ids[0].tolist()) == ["[DEC]", "red", "[PAD]", "[PAD]"]
    assert words(inputs.answer_ids[1].tolist()) == ["[DEC]", "x", "##y", "##z"]
    assert words(inputs.target_ids[0, :2].tolist()) == ["red", "[SEP]"]
    assert inputs.target_ids[0, 2:].tolist() == [IGNORED] * 2
    assert words(inputs.target_ids[1].tolist()) == ["x", "##y", "##z", "[SEP]"]
    assert vqa.model(inputs).shape == (2, 4, vqa.model.cfg.decoder.d_vocab)
    assert vqa.model(vqa.model.prepare(picture, "is this red?")).shape[1] == 1


def test_captions_are_read_in_one_row(caption, picture):
    inputs = caption.model.prepare(picture, ["a picture of", ""], ["a cat", "dog"])
    words = caption.model.tokenizer.convert_ids_to_tokens
    assert words(inputs.input_ids[0].tolist()) == ["[DEC]", "a", "picture", "of", "a", "cat"]
    assert words(inputs.input_ids[1].tolist()) == ["[DEC]", "dog", *["[PAD]"] * 4]
    assert inputs.target_ids[0, :3].tolist() == [IGNORED] * 3
    assert words(inputs.target_ids[0, 3:].tolist()) == ["a", "cat", "[SEP]"]
    assert words(inputs.target_ids[1, :2].tolist()) == ["dog", "[SEP]"]
    assert caption.model(inputs).shape[:2] == inputs.target_ids.shape


def test_enc_token_replaces_cls(picture):
    pair = make_pair("vqa")
    plain = pair.model.prepare(picture, "is this red?")
    pair.model.enc_token = True
    with_enc = pair.model.prepare(picture, "is this red?")
    assert pair.model.tokenizer.convert_ids_to_tokens(int(with_enc.input_ids[0, 0])) == "[ENC]"
    assert torch.equal(with_enc.input_ids[:, 1:], plain.input_ids[:, 1:])
    assert not torch.equal(pair.model(with_enc), pair.model(plain))


def test_another_image_size_interpolates(vqa, picture):
    inputs = vqa.model.prepare(picture, "is this red?", image_size=(96, 64))
    assert inputs.pixel_values.shape[-2:] == (96, 64)
    assert vqa.model(inputs).shape[0] == 1
    assert vqa.model.lens("vision.attn", inputs).tokens.shape == (1, 6 * 4 + 1)


def test_what_a_hugging_face_processor_gives_runs_as_it_is(vqa, picture):
    read = vqa.model.processor(images=picture, text="is this red?", return_tensors="pt")
    assert torch.equal(vqa.model(read), vqa.model(vqa.model.prepare(picture, "is this red?")))


def test_the_callers_tensors_are_never_changed(pair, picture):
    inputs = pair.inputs(batch=2)
    copies = [inputs.pixel_values.clone(), inputs.input_ids.clone()]
    pair.model(inputs)
    pair.model.run_with_cache(inputs)
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)
    before = pixels.clone()
    if pair.kind != "match":
        pair.model.generate(pixels, "is this red?", max_new_tokens=3)
        pair.model.rank_answers(pixels, "is this red?", ["red", "green"])
    assert torch.equal(pixels, before)
    assert torch.equal(inputs.pixel_values, copies[0])
    assert torch.equal(inputs.input_ids, copies[1])


@pytest.mark.parametrize(
    ("images", "questions", "message"),
    [
        (["nowhere.png"], "is this red?", "image 0 (nowhere.png) cannot be read"),
        (np.full((4, 4, 3), 2.0), "is this red?", "floats have to lie between 0 and 1, not 2 and 2"),
        ([], "is this red?", "no images given"),
        (np.zeros((3, 8, 8, 3), np.uint8), ["a?", "b?"], "numbers differ: 3 images, 2 questions"),
        ([object()], "is this red?", "image 0 (object) cannot be read: an array of shape []"),
        (None, "is this red?", "no images given"),
        (np.zeros((3, 8, 8), np.uint8), "is this red?", "an array of shape [3, 8, 8]; expected height x width x 3"),
        ([torch.zeros(3, 64, 64), np.zeros((8, 8, 3), np.uint8)], "a?", "go neither with pictures nor with image_size"),
        ([torch.zeros(3, 64, 64), torch.zeros(3, 32, 32)], "a?", "of one size; got [(3, 32, 32), (3, 64, 64)]"),
        (torch.zeros(64, 64), "a?", "3 x height x width, all of one size; got [(64, 64)]"),
    ],
)
def test_bad_images(vqa, images, questions, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        vqa.model.prepare(images, questions)


def test_bad_texts(vqa, match, picture):
    with pytest.raises(TypeError, match="questions have to be one or more strings, got 3"):
        as_strings("questions", ["is this red?", 3])
    with pytest.raises(TypeError, match="no questions given"):
        vqa.model.prepare(picture, [])
    with pytest.raises(ValueError, match="a model of kind 'match' has no decoder, so no answers"):
        match.model.prepare(picture, "a red apple", "yes")


@pytest.mark.parametrize(
    "container",
    [tuple, np.array, pd.Series, lambda texts: pd.Series(texts, dtype="string"), lambda texts: np.array(texts, object),
     lambda texts: pd.Series(texts, index=[7, 7]), lambda texts: Dataset.from_dict({"q": texts})["q"], iter, pd.Index],
)  # fmt: skip
def test_texts_and_images_in_containers_of_every_kind(vqa, picture, container):
    model, texts = vqa.model, ["is this red?", "what color is it?"]
    images = [picture, picture.rotate(90)]
    expected = model.prepare(images, texts, texts)
    found = model.prepare(images, container(texts), container(texts))
    for name in ("pixel_values", "input_ids", "answer_ids"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert model.generate(images, container(texts)) == model.generate(images, texts)
    assert torch.equal(
        model.rank_answers(images, container(texts), container(["red", "green"])),
        model.rank_answers(images, texts, ["red", "green"]),
    )


def test_images_in_tables(vqa, picture, tmp_path):
    picture.save(tmp_path / "a.png")
    paths = [str(tmp_path / "a.png")] * 2
    expected = vqa.model.prepare(paths, "is this red?").pixel_values
    objects = np.empty(2, object)
    objects[:] = [picture, picture]
    for images in (pd.Series(paths), np.array(paths), pd.Series([picture, picture], index=[5, 3]), objects):
        assert torch.equal(vqa.model.prepare(images, "is this red?").pixel_values, expected)


@pytest.mark.parametrize(
    "wrong",
    [
        {"what is it?": 1}, {"what is it?", "red?"}, frozenset({"a?"}), b"what is it?", 7, np.array("what is it?"),
        pd.DataFrame({"what is it?": ["is this red?"]}), pd.DataFrame([["a?", "b?"]]), 0.5, True,
    ],
    ids=lambda wrong: type(wrong).__name__,
)  # fmt: skip
def test_what_is_no_list_is_not_taken_for_one(wrong):
    """A table would be read as its columns' names, a mapping as its keys, and a set in an order of its own."""
    said = f"expected a list, an array or a Series of questions, got a {type(wrong).__name__}"
    with pytest.raises(TypeError, match=re.escape(said)):
        as_strings("questions", wrong)


def test_a_missing_question_is_named(vqa, picture):
    for missing in (None, float("nan"), pd.NA):
        with pytest.raises(TypeError, match=re.escape(f"questions have to be one or more strings, got {missing!r}")):
            as_strings("questions", pd.Series(["is this red?", missing], dtype=object))
    for nothing in (np.array([]), pd.Series([], dtype=str), (), None):
        with pytest.raises(TypeError, match="no questions given"):
            as_strings("questions", nothing)


@pytest.mark.parametrize("question", [Image.new("RGB", (8, 8)), Path("picture.png"), 3, object()])
def test_questions_that_are_no_text_and_swapped_arguments(vqa, question):
    kind = type(question).__name__
    said = rf"expected questions as text, got {kind}; images come first: model\.prepare\("
    with pytest.raises(TypeError, match=said):
        unwrap(HookedBLIP.prepare)(vqa.model, "is it red?", question)


def test_prepared_inputs_are_not_prepared_again(vqa, picture):
    """Nor by `generate` and `rank_answers`, which prepare."""
    with pytest.raises(TypeError, match=r"got BLIPInputs, which are prepared already: run model\(inputs\)"):
        unwrap(HookedBLIP.prepare)(vqa.model, vqa.model.prepare(picture, "is it red?"))


def test_preprocessed_images_are_not_resized(vqa):
    with pytest.raises(ValueError, match="go neither with pictures nor with image_size"):
        vqa.model.prepare(torch.zeros(3, 64, 64), "is this red?", image_size=96)
    with pytest.raises(ValueError, match="pixel_values alone and no image_size; got the keys pixel_values"):
        vqa.model.prepare({"pixel_values": torch.zeros(1, 3, 64, 64)}, "is this red?", image_size=96)
    with pytest.raises(ValueError, match="got the keys pixel_values, input_ids"):
        vqa.model.prepare({"pixel_values": torch.zeros(1, 3, 64, 64), "input_ids": torch.ones(1, 3)}, "is this red?")


UNIT = torch.linspace(0, 1, 3 * 64 * 64).view(3, 64, 64)


@pytest.mark.parametrize(
    "tensor",
    [
        UNIT,
        UNIT * 255,
        UNIT * 2 - 1,
        UNIT.half(),
        UNIT[None].expand(2, -1, -1, -1),
        UNIT * 0.2 - 0.1,
        UNIT * 4 - 3,
        UNIT * 3.5 - 0.5,
        torch.full((3, 64, 64), torch.nan),
        torch.zeros(3, 64, 64),
        (UNIT * 3.5 - 1.7)[:, :32],
    ],
    ids=["0..1", "0..255", "-1..1", "half", "batch", "dim", "too dark", "too bright", "nan", "black", "other size"],
)
def test_floating_tensors_that_may_be_pictures_are_not_taken_for_preprocessed(vqa, tensor):
    images = tensor if tensor.ndim == 4 else [tensor]
    for ask in (
        vqa.model.prepare,
        vqa.model.generate,
        lambda images, text: vqa.model.rank_answers(images, text, ["red"]),
    ):
        with pytest.raises(
            ValueError, match=r"image 0 is a floating tensor .*\n?.*a picture, or preprocessed"
        ) as caught:
            ask(images, "is this red?")
        assert "uint8" in str(caught.value)
        assert '{"pixel_values": images}' in str(caught.value)
    if tensor.ndim == 3 and tensor.shape[-2:] == (64, 64):
        named = {"pixel_values": tensor[None]}
        assert torch.equal(vqa.model.prepare(named, "is this red?").pixel_values, tensor[None]) or tensor.isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_normalised_tensors_are_taken_as_they_are(vqa, dtype):
    """Black and white, the ends of the range, in every precision."""
    corners = np.zeros((64, 64, 3), np.uint8)
    corners[:32] = 255
    expected = vqa.model.prepare(corners, "is this red?").pixel_values.to(dtype)
    assert torch.equal(vqa.model.prepare(expected, "is this red?").pixel_values, expected)


def left(length: int, padding: int) -> list[int]:
    return [0] * padding + [1] * (length - padding)


PADDED = {"left": left(9, 4), "a hole": [1, 1, 0, 0, 1, 1, 1, 0, 0], "both": [0, 1, 1, 0, 1, 0, 1, 1, 1]}


@pytest.mark.parametrize("mask", PADDED.values(), ids=PADDED)
def test_padding_anywhere_gives_what_the_row_gives_alone(pair, mask):
    """Questions and texts: rows are moved. Captions: their logits belong to positions, so they are refused."""
    alone = pair.inputs(length=sum(mask), answer_length=3 if pair.kind == "vqa" else None)
    padded = torch.full((1, len(mask)), pair.model.cfg.pad_token_id)
    mask = torch.tensor([mask])
    padded[mask.bool()] = alone.input_ids[0]
    inputs = BLIPInputs(alone.pixel_values, padded, mask, alone.answer_ids)
    as_mapping = {name: value for name, value in vars(inputs).items() if value is not None}
    if pair.kind == "caption":
        for ask in (pair.model, pair.model.run_with_cache, lambda inputs: pair.model.lens("decoder.attn", inputs)):
            with pytest.raises(
                ValueError, match=r"padding before or between the tokens of a caption.*pad on the right"
            ):
                ask(inputs)
        return
    expected, states = pair.model.run_with_cache(alone)
    logits, cache = pair.model.run_with_cache(as_mapping)
    assert relative_error(logits, expected) < 1e-5
    assert relative_error(pair.model(inputs), expected) < 1e-5
    layer = "text.blocks.0.hook_resid_post"
    assert relative_error(cache[layer][:, : int(mask.sum())], states[layer]) < 1e-5
    lens = pair.model.lens("text.attn", inputs)
    assert lens.tokens[0, : int(mask.sum())].tolist() == alone.input_ids[0].tolist()
    assert inputs.input_ids.equal(padded), "the caller's rows stay"


def test_rows_of_a_batch_are_moved_one_by_one(vqa):
    rows = [vqa.inputs(length=length, seed=length) for length in (3, 6, 5)]
    padded, mask = torch.zeros(3, 6, dtype=torch.long), torch.zeros(3, 6, dtype=torch.long)
    for row, alone in enumerate(rows):
        length = alone.input_ids.shape[1]
        start = 6 - length if row != 2 else 0
        padded[row, start : start + length], mask[row, start : start + length] = alone.input_ids[0], 1
    pixels = torch.cat([alone.pixel_values for alone in rows])
    expected = torch.cat([vqa.model(alone) for alone in rows])
    assert relative_error(vqa.model(BLIPInputs(pixels, padded, mask)), expected) < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_mask": [0, 1, 1, 1]}, r"hides a token that is not padding.*\(row 0, position 0\)"),
        ({"attention_mask": [1, 1, 0, 1]}, r"hides a token that is not padding.*\(row 0, position 2\)"),
        ({"attention_mask": [0, 0, -10000, -10000]}, r"1 at tokens and 0 at padding; got values \[-10000, 0\]"),
        ({"attention_mask": [2, 2, 2, 0]}, r"1 at tokens and 0 at padding; got values \[0, 2\]"),
        ({"input_ids": [0, 0, 7, 8]}, "input_ids hold padding, and attention_mask is missing"),
        ({"input_ids": [7, 8, 0, 0]}, "input_ids hold padding, and attention_mask is missing"),
        ({"answer_ids": [0, 5, 7, 8]}, "answer_ids have padding before or between tokens"),
        ({"answer_ids": [5, 0, 0, 8]}, "answer_ids have padding before or between tokens"),
    ],
)
def test_masks_and_rows_that_say_different_things(vqa, change, message):
    inputs = replace(vqa.inputs(length=4), **{name: torch.tensor([value]) for name, value in change.items()})
    with pytest.raises(ValueError, match=message):
        vqa.model(inputs)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("pixel_values", None, "pixel_values has to be a tensor, got NoneType"),
        (
            "pixel_values",
            torch.zeros(1, 1, 64, 64),
            "pixel_values are floats, [batch, 3, height, width]; got torch.float",
        ),
        (
            "input_ids",
            torch.zeros(1, 4),
            "input_ids are integers, [batch, pos], with a position or more; got torch.float",
        ),
        ("input_ids", torch.zeros(1, 0, dtype=torch.long), "with a position or more; got torch.int64 [1, 0]"),
        ("answer_ids", [[1, 2]], "answer_ids has to be a tensor, got list"),
    ],
)
def test_fields_that_are_no_such_tensors(vqa, name, value, message):
    inputs = vqa.inputs()
    # Past the run-time check of shapes that only the tests have.
    object.__setattr__(inputs, name, value)
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        inputs.check(vqa.model.cfg)


def test_bad_inputs(vqa, caption):
    good = vqa.inputs()
    with pytest.raises(TypeError, match="a mapping with pixel_values and any of .*; got the keys pixels"):
        vqa.model({"pixels": good.pixel_values})
    with pytest.raises(TypeError, match=r"model.prepare\(images, questions\)"):
        BLIPInputs.of([good.pixel_values])
    with pytest.raises(ValueError, match="kind 'vqa' reads a text as well: input_ids are missing"):
        vqa.model(BLIPInputs(pixel_values=good.pixel_values))
    with pytest.raises(ValueError, match="answer_ids are for question answering"):
        caption.model({"pixel_values": good.pixel_values, "answer_ids": good.input_ids})
    unequal = vqa.inputs()
    # Past the run-time check of shapes that only the tests have.
    object.__setattr__(unequal, "input_ids", good.input_ids.repeat(2, 1))
    with pytest.raises(ValueError, match="unequal batch size: {'pixel_values': 1, 'input_ids': 2}"):
        unequal.check(vqa.model.cfg)
    with pytest.raises(ValueError, match="a row without a single real token"):
        vqa.model(BLIPInputs(good.pixel_values, good.input_ids, attention_mask=torch.zeros_like(good.input_ids)))
    object.__setattr__(good, "attention_mask", torch.ones(1, 4, dtype=torch.long))
    with pytest.raises(ValueError, match=re.escape("attention_mask is [1, 4], input_ids are [1, 9]")):
        good.check(vqa.model.cfg)


def test_without_a_processor(vqa, picture):
    bare = HookedBLIP.from_hf(vqa.hf)
    with pytest.raises(ValueError, match="prepare is needed, and this model has no processor"):
        bare.prepare(picture, "is this red?")
    assert torch.equal(bare(vqa.inputs()), vqa.model(vqa.inputs()))
