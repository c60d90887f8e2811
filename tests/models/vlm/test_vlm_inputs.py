"""Pictures and prompts through the processor and its chat template, and what is said where they do not fit."""

from typing import Any

import pytest
import torch

import tiny_vlms
from hosted_vlms import LIBRARY_WARNINGS, QUESTION, Tiny, tiny_model
from notice_lens.models.vlm.hooked_vlm import HookedVLM
from notice_lens.models.vlm.inputs import with_answer

pytestmark = LIBRARY_WARNINGS


@pytest.fixture(params=list(tiny_vlms.FAMILIES))
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return tiny_model(request.param)


@pytest.fixture
def llava() -> Tiny:
    return tiny_model("llava")


def words_of(tiny: Tiny, inputs: dict) -> list[str]:
    return tiny.model.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())


def test_the_prompt_goes_through_the_chat_template(tiny: Tiny) -> None:
    """With one start token at most, though template and tokenizer may both add it."""
    words = words_of(tiny, tiny.clean)
    assert words.count("<s>") <= 1
    assert "▁apple" in words
    assert words.index("▁apple") > len(words) // 4  # behind the picture
    ends = {"paligemma": "?\n", "blip-2": "Answer:", "instructblip": "Short▁answer:"}
    if tiny.family in ends:
        assert "".join(words).endswith(ends[tiny.family])
        return
    assert any("ssistant" in word or "ASSISTANT" in word for word in words[-6:])


def test_a_rendered_prompt_is_taken_as_it_stands(llava: Tiny) -> None:
    rendered = f"USER: <image>\n{QUESTION} ASSISTANT:"
    assert torch.equal(llava.model.prepare(tiny_vlms.picture(1, 56), rendered)["input_ids"], llava.clean["input_ids"])


def test_answers_are_read_behind_the_prompt(llava: Tiny) -> None:
    """In context: behind the colon, the answer is a word with its space."""
    inputs = llava.model.prepare(tiny_vlms.picture(1, 56), QUESTION, " red")
    n = llava.clean["input_ids"].shape[1]
    assert torch.equal(inputs["input_ids"][:, :n], llava.clean["input_ids"])
    assert words_of(llava, inputs)[n:] == ["▁red"]


def test_one_goes_with_many(llava: Tiny) -> None:
    pictures = [tiny_vlms.picture(seed) for seed in range(3)]
    assert len(llava.model.prepare(pictures, QUESTION)["input_ids"]) == 3
    assert len(llava.model.prepare(pictures[0], [QUESTION] * 2)["input_ids"]) == 2
    with pytest.raises(ValueError, match="3 pictures, 2 prompts"):
        llava.model.prepare(pictures, [QUESTION] * 2)


def test_pictures_are_resized_before_the_processor() -> None:
    model = tiny_model("qwen2_vl").model
    pictures = [tiny_vlms.picture(1, 28), tiny_vlms.picture(2, 56)]
    message = "unequal numbers of image tokens: 4 for 28 x 28 pixels and 16 for 56 x 56 pixels.*image_size"
    with pytest.raises(ValueError, match=message):
        model.prepare(pictures, QUESTION)
    inputs = model.prepare(pictures, QUESTION, image_size=56)
    assert inputs["image_grid_thw"].tolist() == [[1, 8, 8]] * 2
    tall = model.prepare(pictures, QUESTION, image_size=(56, 28))
    assert tall["image_grid_thw"].tolist() == [[1, 8, 4]] * 2


def test_pictures_of_unequal_size_are_one_row_of_patches() -> None:
    """A packed tower has no axis for images, and theirs are of unequal length."""
    tiny = tiny_model("qwen2_5_vl")
    pictures = [tiny_vlms.picture(1, 28), tiny_vlms.picture(2, 56)]
    inputs = tiny.model.prepare(pictures, QUESTION, allow_unequal=True)
    logits, cache = tiny.model.run_with_cache(inputs)
    assert cache["vision.blocks.1.attn.hook_z"].shape == (1, 16 + 64, 2, 8)
    torch.testing.assert_close(logits, tiny.logits(inputs), atol=1e-12, rtol=0)
    pattern = cache["vision.blocks.1.attn.hook_pattern"][0, 0]
    assert not pattern[:16, 16:].any()
    assert not pattern[16:, :16].any()


@pytest.mark.parametrize(
    ("images", "prompts", "error", "message"),
    [
        ("https://example.org/cat.png", QUESTION, ValueError, r"is an address.*requests.get"),
        (None, QUESTION, ValueError, r"no picture.*model.tokenizer"),
        ([], QUESTION, ValueError, "no picture"),
        ("no-such-file.png", QUESTION, ValueError, "the picture cannot be read: no such file"),
        (tiny_vlms.picture(1), {"is": "it"}, TypeError, "expected prompts as text, got dict; pictures come first"),
        (tiny_vlms.picture(1), [], TypeError, "expected prompts"),
        ({"pixel_values": torch.zeros(1)}, QUESTION, TypeError, r"prepared already.*model\(inputs\)"),
    ],
)
def test_what_is_no_picture_or_no_prompt(llava: Tiny, images, prompts, error, message: str) -> None:
    with pytest.raises(error, match=message):
        llava.model.prepare(images, prompts)


def test_a_model_without_a_processor_says_so() -> None:
    model = HookedVLM.from_hf(tiny_vlms.make("llava")[0])
    for use in (lambda: model.prepare(tiny_vlms.picture(1), QUESTION), lambda: model.tokenizer, model.check):
        with pytest.raises(ValueError, match=r"needs a processor.*from_hf\(model, processor\)"):
            use()


def test_a_prompt_without_a_place_for_the_picture() -> None:
    hf, processor = tiny_vlms.make("llava")
    processor.chat_template = None
    model = HookedVLM.from_hf(hf, processor)
    with pytest.raises(ValueError, match=r"no image token.*no chat template.*<image>is this"):
        model.prepare(tiny_vlms.picture(1), QUESTION)
    assert model.prepare(tiny_vlms.picture(1), f"<image>{QUESTION}")


def test_what_is_no_mapping_is_no_input(llava: Tiny, unchecked: None) -> None:
    with pytest.raises(TypeError, match=r"expected the inputs of a processor.*got Tensor.*prepare"):
        llava.model(llava.clean["input_ids"])
    assert torch.equal(llava.model(**llava.clean), llava.model(llava.clean))


def test_an_answer_has_the_tokens_that_the_model_would_write() -> None:
    """Behind a colon the word with its space, behind the end of a line the word alone."""
    llava, qwen = tiny_model("llava").model, tiny_model("qwen2_vl").model
    assert llava.tokenizer.convert_ids_to_tokens(llava.answer_ids(QUESTION, "red")) == ["▁red"]
    assert llava.answer_ids(QUESTION, "red") == llava.answer_ids(QUESTION, " red")
    assert "".join(qwen.tokenizer.convert_ids_to_tokens(qwen.answer_ids(QUESTION, "red"))) == "red"
    assert qwen.answer_ids(QUESTION, "red") != qwen.answer_ids(QUESTION, " red")


def test_an_answer_that_is_merged_with_the_prompt_is_refused() -> None:
    class Merging:
        """A tokenizer of one token for all of a text."""

        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [len(text)]}

    with pytest.raises(ValueError, match="'red' merges with the text before it, 'ASSISTANT:'"):
        with_answer(Merging(), "ASSISTANT:", "red")


def test_families_with_tied_embeddings_are_among_the_tested_ones() -> None:
    """What is patched in the stream must not reach the unembedding by way of a table that both share."""
    tied = {name: _is_tied(tiny_model(name).hf) for name in ("gemma3", "paligemma", "internvl", "llava")}
    assert tied == {"gemma3": True, "paligemma": True, "internvl": True, "llava": False}


def _is_tied(hf: Any) -> bool:
    return hf.get_output_embeddings().weight is hf.get_input_embeddings().weight
