"""Roles, answers and replaced words on every kind of tokenizer, in the contexts in which models read them.

Ten thousand prompts of each kind: words of the data sets and of no language, in any script, capital, hyphenated, with
emoji; any spacing and punctuation, also at both ends; roles at any place. What is compared is text: what tokens decode
to, without white space and as the tokenizer normalises it.
"""

import random
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch

import published_tokenizers
import tiny_vlms
from notice_lens.models.blip.layout import BLIPReader
from notice_lens.models.layout import Layout, Span
from notice_lens.models.vlm.layout import layout_of_inputs
from notice_lens.models.vlm.reader import VLMReader
from notice_lens.pairs.roles import token_spans
from notice_lens.pairs.token_replacement import Pool, replace_roles

pytestmark = pytest.mark.usefixtures("unchecked", "one_thread")
SIZES = (1_000, pytest.param(10_000, marks=pytest.mark.large))
COMMON = (
    "girl boy dog horse teacher soldier elephant snowboarder firefighter sitting running jumping sleeping reading "
    "squatting snorkeling paddling beach grass street sofa bridge umbrella snowboard happy sad angry surprise fear "
    "neutral disgust person feeling large tiny bent straight smooth rusty wrinkled caramelized windblown box car shoe"
).split()
FUNCTION = "is this or the a of on what colour and not in".split()
STRANGE = "naïve café cafe\u0301 Straße ДОМ Привет 日本語 عربي मानव 🙂 👩‍👧 x² ½ don't t-shirt 3.5 1984 №7 ﬁne".split()
GAPS = (" ",) * 28 + ("  ", "   ", ", ", " , ", "\n", "\t", " (", ") ", ' "', '" ', " - ", "/", "\u00a0", ": ")
STARTS = ("",) * 8 + (" ", "  ", "(", '"', "\n")
ENDS = ("?", "?", " ?", "", ".", "?!", "...", " ", "  ", ")", "\n", "\u3000")


def word(rng: random.Random) -> str:
    """A word of a data set, of a question, of no language, or of any script."""
    made_up = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(1, 9)))
    found = rng.choice(rng.choices([COMMON, FUNCTION, [made_up], STRANGE], [6, 4, 2, 1])[0])
    return rng.choice([found] * 8 + [found.title(), found.upper()])


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer of one thread: single prompts are read, and threads would wait for each other."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")


@dataclass(frozen=True)
class Prompt:
    """A prompt and the characters of its roles, each a word or several in a row."""

    text: str
    roles: dict[str, Span]

    def words(self, role: str) -> str:
        return self.text[slice(*self.roles[role])]


def prompt(rng: random.Random) -> Prompt:
    text, words = rng.choice(STARTS), []
    for number in range(rng.randint(1, 6)):
        text += rng.choice(GAPS) if number else ""
        own = word(rng)
        words.append((len(text), len(text) + len(own)))
        text += own
    roles: dict[str, Span] = {}
    first = rng.randrange(3)
    while first < len(words) and len(roles) < 2:
        last = min(first + rng.choice([0, 0, 0, 1, 2]), len(words) - 1)
        roles[f"role {len(roles)}"] = words[first][0], words[last][1]
        first = last + 1 + rng.randrange(3)
    return Prompt(text + rng.choice(ENDS), roles)


@cache
def prompts(n: int) -> list[Prompt]:
    rng = random.Random(0)
    return [prompt(rng) for _ in range(n)]


def texts() -> list[str]:
    """What tokenizers are trained on: some of the words, so that others have many pieces."""
    return [" ".join([*FUNCTION, *COMMON[::2]]), " ".join(COMMON[1::3]), *(f"is this {one} or red?" for one in COMMON)]


class InBLIP:
    """Prompts as BLIP reads them: in `[CLS]` and `[SEP]`."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.reader = tokenizer, BLIPReader("vqa", tokenizer)

    def rows(self, given: list[str]) -> list[list[int]]:
        return self.tokenizer(given)["input_ids"]

    def layout(self, rows: list[list[int]], given: list[str]) -> Layout:
        return self.reader.layout_of(given)

    def answered(self, given: list[str], answers: list[str]) -> list[list[int]]:
        """The tokens of answers where nothing stands before them."""
        return self.tokenizer(answers, add_special_tokens=False)["input_ids"]


class InChat:
    """Prompts in a hosted model's chat, written out here by hand; four image tokens stand for the picture."""

    def __init__(self, tiny: tiny_vlms.Tiny, image: str, before: str, after: str) -> None:
        self.processor, self.config, self.image = tiny.processor, tiny.config, image
        self.before, self.after, self.tokenizer = before, after, tiny.processor.tokenizer
        self.reader = VLMReader(tiny.processor, tiny.config)

    def rows(self, given: list[str], answers: list[str] | None = None) -> list[list[int]]:
        said = [""] * len(given) if answers is None else answers
        space = "" if self.after.endswith("\n") else " "
        before = self.before.replace(self.image, self.image * 4)
        written = [
            before + text + self.after + (space + answer if answer else "")
            for text, answer in zip(given, said, strict=True)
        ]
        return self.tokenizer(written, add_special_tokens=False)["input_ids"]

    def layout(self, rows: list[list[int]], given: list[str]) -> Layout:
        longest = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        inputs = {
            "input_ids": torch.tensor([[pad] * (longest - len(row)) + row for row in rows]),
            "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]),
        }
        return layout_of_inputs(self.processor, self.config, inputs, given)

    def answered(self, given: list[str], answers: list[str]) -> list[list[int]]:
        """What comes to the row with the answer, where the model would write it."""
        pairs = zip(self.rows(given), self.rows(given, answers), strict=True)
        return [whole[len(row) :] if whole[: len(row)] == row else [] for row, whole in pairs]


def in_llava(tokenizer: Any) -> InChat:
    return InChat(tiny_vlms.llava(tokenizer), "<image>", "USER: <image>\n", " ASSISTANT:")


def in_qwen(tokenizer: Any) -> InChat:
    before = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"
    return InChat(tiny_vlms.qwen2_5_vl(tokenizer), "<|image_pad|>", before, "<|im_end|>\n<|im_start|>assistant\n")


KINDS = ("word pieces", "byte-level BPE", "SentencePiece BPE", "Unigram")


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, bert: Any) -> InBLIP | InChat:
    return {
        "word pieces": lambda: InBLIP(bert),
        "byte-level BPE": lambda: in_qwen(published_tokenizers.qwen(texts(), 500, tiny_vlms.QWEN_MARKS)),
        "SentencePiece BPE": lambda: in_llava(published_tokenizers.llama(texts(), 300, ["<image>"])),
        "Unigram": lambda: in_llava(published_tokenizers.unigram(texts(), 200, ["<image>"])),
    }[request.param]()


class Text:
    """Text as a tokenizer keeps it: normalised, and without white space."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.normalizer = tokenizer, tokenizer.backend_tokenizer.normalizer
        self.unknown = tokenizer.unk_token_id

    def of(self, text: str) -> str:
        text = self.normalizer.normalize_str(text) if self.normalizer else text
        return "".join(unicodedata.normalize("NFKC", text).replace("▁", "").split())

    def said(self, ids: list[int]) -> str:
        return self.of(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False).replace("##", ""))

    def cuts(self, ids: list[int], before: str) -> bool:
        """Return whether no token begins where a text ends."""
        return self.of(before) not in {self.said(ids[:number]) for number in range(len(ids) + 1)}


def spans(layout: Layout, number: int, roles: dict[str, Span]) -> Iterator[tuple[str, Span | None]]:
    """The positions of each role; None where it is refused."""
    for role, span in roles.items():
        try:
            yield role, token_spans(layout, number, {role: span})[role]
        except ValueError:
            yield role, None


@pytest.mark.parametrize("n", SIZES)
def test_tokens_of_a_role_decode_to_its_words(kind: InBLIP | InChat, n: int) -> None:
    """As do the tokens before and after it to the text before and after; refused are roles that cut through a token."""
    given = [one.text for one in prompts(n)]
    rows, text = kind.rows(given), Text(kind.tokenizer)
    layout = kind.layout(rows, given)
    compared = refused = 0
    for number, (one, row) in enumerate(zip(prompts(n), rows, strict=True)):
        padding = layout.length(layout.prompt_stack, number) - len(row)
        at = [int(place) - padding for place in layout.positions(layout.prompt_stack, number, "prompt")]
        own, known = slice(at[0], at[-1] + 1), text.unknown not in row[at[0] : at[-1] + 1]
        for role, span in spans(layout, number, one.roles):
            first, last = one.roles[role]
            if span is None:
                refused += 1
                edges = one.text[:first], one.text[:last]
                assert any(text.cuts(row[own], edge) for edge in edges), (one.text, one.words(role))
                continue
            begin, end = (place - padding for place in span)
            assert own.start <= begin < end <= own.stop
            if known:
                compared += 1
                parts = row[own.start : begin], row[begin:end], row[end : own.stop]
                words = one.text[:first], one.words(role), one.text[last:]
                assert [text.said(part) for part in parts] == [text.of(part) for part in words], one
    assert compared > 0.8 * n
    assert refused < 0.1 * compared


@pytest.mark.parametrize("n", SIZES)
def test_tokens_of_an_answer_are_those_after_the_prompt(kind: InBLIP | InChat, n: int) -> None:
    rng = random.Random(1)
    given = [one.text for one in prompts(n)]
    answers = [" ".join(word(rng) for _ in range(rng.choice([1, 1, 1, 2]))) for _ in given]
    text = Text(kind.tokenizer)
    for one, answer, expected in zip(given, answers, kind.answered(given, answers), strict=True):
        found = kind.reader.answer_ids(one, answer)
        assert found == expected, (one, answer)
        assert text.unknown in found or text.said(found) == text.of(answer), (one, answer)


@pytest.mark.parametrize("n", SIZES)
def test_replaced_words_leave_every_other_token_in_its_place(kind: InBLIP | InChat, n: int) -> None:
    rng, replaced = random.Random(2), []
    pool = Pool(kind.tokenizer, [*COMMON, *(word(rng) for _ in range(20))])
    for one in prompts(n):
        slots = sorted(one.roles)[: rng.choice([1, 1, 2])]
        new = replace_roles(one.text, one.roles, slots, dict.fromkeys(slots, pool), rng)
        if slots and new is not None:
            replaced.append((one, slots, Prompt(*new)))
    rows, others = (kind.rows([pair[which].text for pair in replaced]) for which in (0, 2))
    for row, other, pair in zip(rows, others, replaced, strict=True):
        assert len(row) == len(other), pair
    some = slice(None, None, 5)
    check_places(kind, replaced[some], rows[some], others[some])
    assert len(replaced) > 0.4 * n


def check_places(kind: InBLIP | InChat, replaced: list[Any], rows: list[list[int]], others: list[list[int]]) -> None:
    """Compare tokens of prompts with some roles' words replaced: those of the roles, and all others."""
    old, fresh = [one.text for one, _, _ in replaced], [new.text for _, _, new in replaced]
    layouts, text = (kind.layout(rows, old), kind.layout(others, fresh)), Text(kind.tokenizer)
    for number, (one, slots, new) in enumerate(replaced):
        row, other = rows[number], others[number]
        changed: set[int] = set()
        for slot in slots:
            before, after = (
                [
                    place - layout.length(layout.prompt_stack, number) + len(row)
                    for place in token_spans(layout, number, {slot: which.roles[slot]})[slot]
                ]
                for layout, which in zip(layouts, (one, new), strict=True)
            )
            assert before == after, (one.text, new.text)
            assert text.said(other[slice(*after)]) == text.of(new.words(slot)) != text.of(one.words(slot))
            changed |= set(range(*after))
        kept = [place for place in range(len(row)) if place not in changed]
        assert [row[place] for place in kept] == [other[place] for place in kept], (one.text, new.text)
