"""Pairs of the paper's three data sets, from raw downloads to effects, on checkpoints as four families publish them.

Each checkpoint has its family's kind of tokenizer and its chat format. The oracle is Hugging Face's model and
processor, which read chats that are written out here by hand.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import made_downloads
import published_tokenizers
import tiny_vlms
from forward_oracle import Patch, activations, attention, decoder_of, hook, places, put
from notice_lens import HookedVLM, patching
from notice_lens.pairs import (
    MinimalPairs,
    behaviour_filter,
    facial_expressions,
    mit_states,
    svo_probes,
    symmetric_replacement,
)
from notice_lens.pairs.builders.grammar import ing
from notice_lens.pairs.builders.mit_states import adjectives
from notice_lens.pairs.roles import OPTIONS

TEXTS = [
    "is girl on the beach? is this box or this person feeling",
    *(f"is girl {ing(verb)} or {ing(verb)}?" for verb in made_downloads.VERBS),
    *(f"is this box {state.split()[0]} or red?" for state in made_downloads.STATES),
    *(f"is this person feeling {emotion} or {emotion}?" for emotion in made_downloads.EMOTIONS),
    *(["red", "green", "large", "tiny", "happy", "sad"] * 3),
]
WORDS = [word for words in adjectives().values() for word in words] + [ing(verb) for verb in made_downloads.VERBS]
"""Most adjectives, which are in no text that the tokenizers are trained on, have several pieces."""


def chat(image: str, before: str, after: str, answer: str, first: str = "", text: str = "item.text") -> str:
    """Return the chat template of a user's one message: its image, then its words."""
    return (
        f"{first}{{% for message in messages %}}{before}"
        f"{{% for item in message.content if item.type == 'image' %}}{image}{{% endfor %}}"
        f"{{% for item in message.content if item.type == 'text' %}}{{{{ {text} }}}}{{% endfor %}}"
        f"{after}{{% endfor %}}{{% if add_generation_prompt %}}{answer}{{% endif %}}"
    )


@dataclass(frozen=True)
class Published:
    """A family as it is published.

    Attributes:
        make: The tiny model of a tokenizer and a chat template.
        words: The tokenizer.
        template: In Jinja.
        written: The same for one prompt, by hand, with what stands before an answer.
    """

    make: Callable[[Any, str], tiny_vlms.Tiny]
    words: Callable[[], Any]
    template: str
    written: str


QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
LLAMA_ASSISTANT = "<|start_header_id|>assistant<|end_header_id|>\n\n"
LLAMA_USER = "<|start_header_id|>user<|end_header_id|>\n\n"
FAMILIES = {
    "llava": Published(
        tiny_vlms.llava,
        lambda: published_tokenizers.llama(TEXTS, 260, ["<image>"]),
        chat("<image>\n", "USER: ", " ", "ASSISTANT:"),
        "USER: <image>\n{} ASSISTANT: ",
    ),
    "qwen2_5_vl": Published(
        tiny_vlms.qwen2_5_vl,
        lambda: published_tokenizers.qwen(TEXTS, 480, tiny_vlms.QWEN_MARKS),
        chat(QWEN_IMAGE, "<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n", QWEN_SYSTEM),
        f"{QWEN_SYSTEM}<|im_start|>user\n{QWEN_IMAGE}{{}}<|im_end|>\n<|im_start|>assistant\n",
    ),
    "gemma3": Published(
        tiny_vlms.gemma3,
        lambda: published_tokenizers.gemma(
            TEXTS, 260, tiny_vlms.GEMMA_MARKS, extra_special_tokens=tiny_vlms.GEMMA_IMAGE
        ),
        chat(
            "<start_of_image>",
            "<start_of_turn>user\n",
            "<end_of_turn>\n",
            "<start_of_turn>model\n",
            "{{ bos_token }}",
            "item.text | trim",
        ),
        "<bos><start_of_turn>user\n<start_of_image>{}<end_of_turn>\n<start_of_turn>model\n",
    ),
    "mllama": Published(
        tiny_vlms.mllama,
        lambda: published_tokenizers.llama3(TEXTS, 480, tiny_vlms.LLAMA_MARKS),
        chat("<|image|>", LLAMA_USER, "<|eot_id|>", LLAMA_ASSISTANT, "{{ bos_token }}"),
        f"<|begin_of_text|>{LLAMA_USER}<|image|>{{}}<|eot_id|>{LLAMA_ASSISTANT}",
    ),
}


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that was saved and loaded, and how its chats are written."""

    model: HookedVLM
    written: str

    def inputs(self, picture: Any, prompt: str, answer: str = "") -> Any:
        """Hugging Face's inputs of a chat that is written by hand; the space before an answer is part of it."""
        text = self.written.format(prompt)
        text = text + answer if answer else text.rstrip(" ")
        words, processor = self.model.tokenizer, self.model.processor
        begun = bool(words.bos_token) and text.startswith(words.bos_token)
        inputs = processor(text=[text], images=[[picture]], return_tensors="pt", add_special_tokens=not begun)
        return {name: own.double() if own.is_floating_point() else own for name, own in inputs.items()}

    def ids(self, picture: Any, prompt: str, answer: str = "") -> list[int]:
        return self.inputs(picture, prompt, answer)["input_ids"][0].tolist()

    @torch.no_grad()
    def logits(self, inputs: Any, patch: Patch | None = None, values: list[Tensor] | None = None) -> Tensor:
        """The logits of all positions; the output of one head at one position may be another run's."""
        hf = self.model.hf_model
        with ExitStack() as hooks:
            if patch is not None and values is not None:
                block = decoder_of(hf).layers[patch.layer]
                change = partial(put, new=values[patch.layer], patch=patch, d_head=attention(block).head_dim)
                hooks.callback(hook(*places(block)["z"], change).remove)
            return hf(**inputs).logits[0]

    def greedy(self, picture: Any, prompt: str) -> tuple[str, list[int]]:
        """What the model answers, word by word the likeliest."""
        inputs = self.inputs(picture, prompt)
        whole = self.model.hf_model.generate(**inputs, max_new_tokens=20, do_sample=False)
        ids = whole[0, inputs["input_ids"].shape[1] :].tolist()
        return self.model.tokenizer.decode(ids, skip_special_tokens=True).strip(), ids

    def difference(self, pair: Any, run: tuple[Any, str], at: tuple[int, int] | None = None) -> float:
        """The correct answer's log probability above the incorrect one's in a run.

        Args:
            pair: The pair.
            run: The run's picture and prompt.
            at: Layer and head that come from the clean run, at the prompt's last token.
        """
        said, start = [], len(self.ids(*run))
        for answer in (pair.correct_answer, pair.incorrect_answer):
            inputs, patch, values = self.inputs(*run, answer), None, None
            if at is not None:
                patch = Patch("z", at[0], (start - 1,), at[1])
                clean = self.inputs(pair.clean_image, pair.clean_prompt, answer)
                values = activations(self.model.hf_model, clean, "z")
            ids = inputs["input_ids"][0, start:].tolist()
            log_probs = self.logits(inputs, patch, values)[start - 1 : -1].log_softmax(-1)
            said.append(float(log_probs[range(len(ids)), ids].sum()))
        return said[0] - said[1]


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("downloads")
    made_downloads.make(root)
    return root


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    published = FAMILIES[request.param]
    tiny = published.make(published.words(), published.template)
    folder = tiny_vlms.write(tiny, tmp_path_factory.mktemp(request.param))
    return Loaded(HookedVLM.from_pretrained(folder, dtype=torch.float64), published.written)


def built(name: str, downloads: Path, model: HookedVLM) -> MinimalPairs:
    """Pairs of a data set, made of its raw download for a model."""
    if name == "svo_probes":
        return svo_probes(downloads / "svo_probes.csv", downloads / "images", model, n=4, progress=False)
    if name == "mit_states":
        return mit_states(downloads, model, n=4, progress=False)
    return facial_expressions(downloads / "expressions", model, n=4, progress=False)


@pytest.fixture(params=["svo_probes", "mit_states", "facial_expressions"])
def pairs(request: pytest.FixtureRequest, downloads: Path, loaded: Loaded) -> MinimalPairs:
    return built(request.param, downloads, loaded.model)


def test_roles_and_read_out_are_those_of_the_row(loaded: Loaded, pairs: MinimalPairs) -> None:
    assert len(pairs) == 4
    assert pairs.validate(loaded.model) is pairs
    layout = loaded.model.layout_of(pairs["clean_prompt"], sizes=pairs.image_sizes(loaded.model))
    words = loaded.model.tokenizer
    for number, (pair, spans) in enumerate(zip(pairs, pairs.token_spans(loaded.model), strict=True)):
        row = loaded.ids(pair.clean_image, pair.clean_prompt)
        assert layout.read_out[number] == len(row) - 1
        assert spans["last"] == (len(row) - 1, len(row))
        for role, span in pair.roles.items():
            assert words.decode(row[slice(*spans[role])]).strip() == pair.clean_prompt[slice(*span)]
        for answer in (pair.correct_answer, pair.incorrect_answer):
            whole = loaded.ids(pair.clean_image, pair.clean_prompt, answer)
            assert whole == row + loaded.model.answer_ids(pair.clean_prompt, answer)
        assert changed(loaded, pair) <= {place for role in OPTIONS for place in range(*spans[role])}


def changed(loaded: Loaded, pair: Any) -> set[int]:
    """The positions at which the two prompts of a pair have other tokens."""
    row, other = (loaded.ids(pair.clean_image, prompt) for prompt in (pair.clean_prompt, pair.corrupt_prompt))
    return {place for place, (a, b) in enumerate(zip(row, other, strict=True)) if a != b}


def test_words_are_replaced_in_their_places(loaded: Loaded, pairs: MinimalPairs) -> None:
    replaced = symmetric_replacement(pairs, loaded.model, WORDS, seed=1)
    assert len(replaced) == len(pairs)
    assert replaced.validate(loaded.model) is replaced
    assert replaced["corrupt_prompt"] != pairs["corrupt_prompt"]
    for pair, spans in zip(replaced, replaced.token_spans(loaded.model), strict=True):
        assert changed(loaded, pair) <= {place for role in OPTIONS for place in range(*spans[role])}


def test_words_have_one_piece_and_several(loaded: Loaded) -> None:
    counts = {len(loaded.model.answer_ids("is this box red?", word)) for word in ("red", *WORDS)}
    assert counts > {1, 2, 3}


@pytest.mark.parametrize("corruption", ["image", "text"])
def test_a_head_s_effect_is_a_forward_pass_s(loaded: Loaded, pairs: MinimalPairs, corruption: Any) -> None:
    options: dict[str, Any] = {"corruption": corruption, "contrast": "incorrect", "controls": (), "progress": False}
    effects = patching.patch_heads(loaded.model, pairs, **options)
    number = len(pairs) - 1
    pair, own = pairs[number], effects.isel(pair=number)
    clean = pair.clean_image, pair.clean_prompt
    corrupt = pair.corrupt_image, pair.clean_prompt
    if corruption == "text":
        corrupt = pair.clean_image, pair.corrupt_prompt
    before, after = (loaded.difference(pair, run) for run in (corrupt, clean))
    gap = abs(after - before)
    assert float(own.logit_diff_clean) == pytest.approx(after, abs=1e-9 * gap)
    assert float(own.logit_diff_corrupt) == pytest.approx(before, abs=1e-9 * gap)
    found = own.logit_diff_change.sel(role="last")
    place = np.nanargmax(abs(found.transpose("layer", "head").values))
    layer, head = int(found.layer[place // found.sizes["head"]]), int(place % found.sizes["head"])
    expected = loaded.difference(pair, corrupt, (layer, head)) - before
    assert abs(expected) > 0.01 * gap
    assert float(found.sel(layer=layer, head=head)) == pytest.approx(expected, abs=1e-9 * gap)


def test_the_behaviour_filter_reads_greedy_answers(loaded: Loaded, pairs: MinimalPairs) -> None:
    """Random weights answer at random: what they say is in the reason for which a pair is dropped."""
    kept = behaviour_filter(loaded.model, pairs, answer="first_token", progress=False)
    said = {problem["id"]: problem["detail"] for problem in kept.dropped if problem["id"] in pairs["id"]}
    assert len(kept) + len(said) == len(pairs)
    assert said
    for pair in pairs:
        text, ids = loaded.greedy(pair.clean_image, pair.clean_prompt)
        right = ids[0] == loaded.model.answer_ids(pair.clean_prompt, pair.correct_answer)[0]
        assert right or said[pair.id].startswith(f"clean run: {text!r} ({pair.correct_answer!r} is correct)")
