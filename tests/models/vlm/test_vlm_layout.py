"""Layouts of hosted models: positions by hand, from the tokens themselves."""

import pytest

import tiny_vlms
from hosted_vlms import LIBRARY_WARNINGS, QUESTION, Tiny, tiny_model
from notice_lens.models.vlm.hooked_vlm import HookedVLM

pytestmark = LIBRARY_WARNINGS
GRIDS = {
    "llava": (4, 4), "vipllava": (4, 4), "qwen2_vl": (4, 4), "qwen2_5_vl": (4, 4), "gemma3": (2, 2),
    "paligemma": (4, 4),
}  # fmt: skip

LINES = ("llava_next", "llava_onevision")
"""Families whose pictures have a position for each line's end, which is no part of the picture."""


@pytest.fixture(params=[name for name in tiny_vlms.FAMILIES if name != "mllama"])
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return tiny_model(request.param)


def test_words_and_image_are_where_their_tokens_are(tiny: Tiny) -> None:
    layout = tiny.model.layout(tiny.clean, [QUESTION])
    tokens = tiny.model.tokenizer.convert_ids_to_tokens(tiny.clean["input_ids"][0].tolist())
    first = QUESTION.index("apple")
    start, stop = layout.span(0, first, first + len("apple"))
    assert tokens[start:stop] == ["▁apple"]
    assert layout.read_out == (len(tokens) - 1,)
    token = tiny.clean["input_ids"][0, layout.positions("language", 0, "image")]
    assert len(token.unique()) == 1
    ends = 8 if tiny.family in LINES else 0
    assert len(token) + ends == sum(found == tokens[layout.roles[0]["image"][0]] for found in tokens)
    if tiny.family in GRIDS:
        assert layout.grid("language") == GRIDS[tiny.family]


def test_what_is_teacher_forced_is_the_answer() -> None:
    tiny = tiny_model("llava")
    inputs = tiny.model.prepare(tiny_vlms.picture(1, 56), [QUESTION, "what colour is the book ?"], " red")
    layout = tiny.model.layout(inputs, [QUESTION, "what colour is the book ?"])
    n = inputs["input_ids"].shape[1]
    assert layout.read_out == (n - 2, n - 2)
    assert layout.positions("language", 0, "answer").tolist() == [n - 1]
    assert tiny.model.answer_ids(QUESTION, " red") == inputs["input_ids"][0, -1:].tolist()
    with pytest.raises(ValueError, match="is not the prompt of these inputs"):
        tiny.model.layout(inputs, ["a man runs", QUESTION])


@pytest.mark.parametrize("prompt", ["s", "assistant", "user", " s ", "\n is it ?  "])
def test_words_of_the_template_are_not_taken_for_the_prompt(prompt: str) -> None:
    """Nor is the space around a prompt missed where the template drops it."""
    for chat_template in (tiny_vlms.GEMMA_TEMPLATE, tiny_vlms.GEMMA_TEMPLATE.replace("['text']", "['text'] | trim")):
        model = HookedVLM.from_hf(*tiny_vlms.make(tiny_vlms.gemma3(chat_template=chat_template)))
        inputs = model.prepare(tiny_vlms.picture(1), prompt)
        layout = model.layout(inputs, [prompt])
        end_of_image = model.tokenizer.convert_tokens_to_ids("<end_of_image>")
        start, stop = layout.span(0, len(prompt) - len(prompt.lstrip()), len(prompt.rstrip()))
        row = inputs["input_ids"][0].tolist()
        assert (
            row.index(end_of_image) < start < stop <= row.index(model.tokenizer.convert_tokens_to_ids("<end_of_turn>"))
        )
        assert model.tokenizer.decode(row[start:stop]).split() == prompt.split()


def test_a_template_that_changes_the_prompt_is_named() -> None:
    template = tiny_vlms.LLAVA_TEMPLATE.replace("item['text']", "item['text'] | upper")
    model = HookedVLM.from_hf(*tiny_vlms.make(tiny_vlms.llava(chat_template=template)))
    with pytest.raises(ValueError, match="the chat template changes the prompt 'is it red"):
        model.layout_of(["is it red ?"])
