"""Validation of pairs in two steps: by themselves, and for a model's tokenizer."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from notice_lens.models.layout import Layout
from notice_lens.pairs.io.records import MATCH_ANSWERS
from notice_lens.pairs.problems import (
    EQUAL_ANSWERS,
    FIRST_TOKEN,
    NO_TOKENS,
    NOTHING_DIFFERS,
    OPTION,
    ROLE,
    TOO_LONG,
    UNEQUAL_LENGTH,
    UNKNOWN_WORD,
    Problem,
)
from notice_lens.pairs.roles import as_mapping, token_spans
from notice_lens.pairs.tokens import as_reader, pieces

if TYPE_CHECKING:
    from notice_lens.models.protocol import TextReader, VisionLanguageModel

YES_NO = {"yes", "no"}
OPENINGS = ("what", "which", "who", "where", "when", "why", "how")
PROMPTS = ("clean_prompt", "corrupt_prompt", "donor_prompt")
PairRecord = Mapping[str, Any]


def check_meaning(record: PairRecord) -> list[Problem]:
    """Return the problems of a pair itself, without a tokenizer and apart from those that `records.store` notes."""
    return [Problem(record["id"], reason, detail) for reason, detail in (*_answers(record), *_differences(record))]


def _differences(record: PairRecord) -> Iterable[tuple[str, str]]:
    """Yield a problem if nothing differs."""
    prompt, corrupt = record["clean_prompt"], record["corrupt_prompt"]
    if corrupt is not None and prompt is not None and _same(prompt, corrupt):
        yield NOTHING_DIFFERS, f"clean_prompt and corrupt_prompt are both {prompt!r}"
    elif corrupt is None and record["clean_digest"] and record["clean_digest"] == record["corrupt_digest"]:
        yield NOTHING_DIFFERS, "clean_image and corrupt_image are the same picture, and there is no corrupt_prompt"


def _answers(record: PairRecord) -> Iterable[tuple[str, str]]:
    """Answers, options and option roles of one pair."""
    prompt, correct, incorrect = (record[column] for column in ("clean_prompt", "correct_answer", "incorrect_answer"))
    if not correct or not incorrect or prompt is None:
        return
    if _same(correct, incorrect):
        yield EQUAL_ANSWERS, f"correct_answer and incorrect_answer are both {correct!r}"
    if record["corrupt_answer"] is not None and _same(correct, record["corrupt_answer"]):
        yield EQUAL_ANSWERS, f"correct_answer and corrupt_answer are both {correct!r}"
    if record["kind"] == "match":
        for answer in (correct, incorrect):
            if answer not in MATCH_ANSWERS.values():
                yield OPTION, f"a match is answered {' or '.join(map(repr, MATCH_ANSWERS.values()))}, not {answer!r}"
    if record["kind"] != "vqa":
        return
    answers = {"correct": correct, "incorrect": incorrect}
    # What follows the question, such as "answer with a word or phrase", offers no answers.
    asked = prompt.partition("?")[0]
    if _stands_in("or", asked) and not {correct.lower(), incorrect.lower()} <= YES_NO:
        absent = [answer for answer in answers.values() if not _stands_in(answer, prompt)]
        # "how many cats or dogs are there?" is open: its "or" offers no answers.
        is_open = len(absent) == 2 and prompt.lower().startswith(OPENINGS)
        for answer in absent:
            if not is_open:
                yield OPTION, f"{prompt!r} offers a choice, and the answer {answer!r} is not in it"
    for span in record["roles"]:
        words = prompt[span["start"] : span["end"]]
        if span["role"] in answers and not _same(words, answers[span["role"]]):
            yield ROLE, f"role {span['role']!r} points at {words!r}; the answer is {answers[span['role']]!r}"


def _same(first: str, second: str) -> bool:
    return first.strip().lower() == second.strip().lower()


def _stands_in(words: str, prompt: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", prompt, re.IGNORECASE) is not None


def check_tokens(
    records: Iterable[PairRecord], model: Any, sizes: Sequence[tuple[int, int]] | None = None
) -> list[Problem]:
    """Return the problems of pairs for a model: lengths, answers without tokens, unknown words, roles.

    Args:
        records: The pairs.
        model: A model, which also says how many positions it has, or a tokenizer alone.
        sizes: Of each pair's image, where the model's layouts depend on it.
    """
    records = list(records)
    found: list[list[tuple[str, str]]] = [[] for _ in records]
    for kind in dict.fromkeys(record["kind"] for record in records):
        numbers = [number for number, record in enumerate(records) if record["kind"] == kind]
        own = None if sizes is None else [sizes[number] for number in numbers]
        check = _TokenCheck(as_reader(model, kind), [records[number] for number in numbers], own)
        for place, number in enumerate(numbers):
            found[number] += check.problems(place)
        if hasattr(model, "stack"):
            for place, problem in check.too_long(model):
                found[numbers[place]].append(problem)
    return [
        Problem(record["id"], reason, detail)
        for record, own in zip(records, found, strict=True)
        for reason, detail in own
    ]


class _TokenCheck:
    """The tokens of some pairs of one kind.

    Args:
        reader: What says which tokens there are.
        records: The pairs.
        sizes: Of their images.
    """

    def __init__(
        self, reader: "TextReader", records: Sequence[PairRecord], sizes: Sequence[tuple[int, int]] | None
    ) -> None:
        self.reader, self.records, self.sizes = reader, records, sizes
        self.layout = self._layout(range(len(records)), "clean_prompt")
        self.n_tokens = {column: self._n_tokens(column) for column in PROMPTS}
        # The answers of a data set are few words, over and over.
        self.pieces = lru_cache(maxsize=None)(lambda text: tuple(pieces(reader.tokenizer, text)))
        self.answer = lru_cache(maxsize=None)(lambda prompt, answer: tuple(reader.answer_ids(prompt, answer)))

    def _layout(self, numbers: Sequence[int], prompt: str, answer: str | None = None) -> Layout:
        """Return the layout of some pairs' prompts and answers, of these columns."""
        answers = None if answer is None else [self.records[number][answer] for number in numbers]
        sizes = None if self.sizes is None else [self.sizes[number] for number in numbers]
        return self.reader.layout_of([self.records[number][prompt] for number in numbers], answers, sizes)

    def _there(self, column: str) -> list[int]:
        """Return the numbers of the pairs that have something in a column."""
        return [number for number, record in enumerate(self.records) if record[column] is not None]

    def _n_tokens(self, prompt: str) -> dict[int, int]:
        """Return how many tokens the prompts of a column have in the model's stream, by number of the pair."""
        layout, there = self._layout(self._there(prompt), prompt), self._there(prompt)
        stack = layout.prompt_stack
        return {number: len(layout.positions(stack, place, "prompt")) for place, number in enumerate(there)}

    def problems(self, number: int) -> Iterator[tuple[str, str]]:
        """Find the problems of one pair's tokens."""
        record = self.records[number]
        yield from self._lengths(number)
        yield from self._answers(record)
        for column in (*PROMPTS, *_read_answers(record)):
            if record[column] is not None and self.reader.tokenizer.unk_token_id in self.pieces(record[column]):
                yield UNKNOWN_WORD, f"{column} {record[column]!r} has a word that the tokenizer does not know ([UNK])"
        try:
            token_spans(self.layout, number, as_mapping(record["roles"]))
        except ValueError as error:
            yield ROLE, str(error)

    def _lengths(self, number: int) -> Iterator[tuple[str, str]]:
        """Yield problems of prompts that replace each other but differ in their number of tokens."""
        record, n = self.records[number], self.n_tokens["clean_prompt"][number]
        for column in ("corrupt_prompt", "donor_prompt"):
            other = self.n_tokens[column].get(number, n)
            if other != n:
                clean = f"clean_prompt {record['clean_prompt']!r} has {n} tokens"
                yield UNEQUAL_LENGTH, f"{clean}, {column} {record[column]!r} {other}"

    def _answers(self, record: PairRecord) -> Iterator[tuple[str, str]]:
        """Yield problems of prompts or answers without tokens, and of answers that share their first one."""
        prompt, answers = record["clean_prompt"], _read_answers(record)
        if record["kind"] != "caption" and not self.pieces(prompt):
            yield NO_TOKENS, f"clean_prompt {prompt!r} has no tokens: the tokenizer drops all of its characters"
        for column in answers:
            if record[column] is not None and not self.answer(prompt, record[column]):
                yield NO_TOKENS, f"{column} {record[column]!r} has no tokens: the tokenizer drops all of its characters"
        for column in answers[1:]:
            correct, other = record["correct_answer"], record[column]
            if other is None or not self.answer(prompt, other) or _same(correct, other):
                continue
            if self.answer(prompt, correct)[:1] == self.answer(prompt, other)[:1]:
                first = self.reader.tokenizer.convert_ids_to_tokens(self.answer(prompt, other)[0])
                yield FIRST_TOKEN, f"correct_answer {correct!r} and {column} {other!r} both begin with {first!r}"

    def too_long(self, model: "VisionLanguageModel") -> Iterator[tuple[int, tuple[str, str]]]:
        """Find texts with more tokens than the model has positions for; special tokens around them count.

        Yields:
            The number of the pair and its problem.
        """
        for column in ("clean_prompt", *_read_answers(self.records[0])):
            holds = "prompt" if column == "clean_prompt" else "answer"
            # A stream that answers follow in is measured with them.
            stacks = [
                stack
                for stack in model.cfg.stacks
                if holds in model.cfg.streams[stack] and (holds == "answer" or "answer" not in model.cfg.streams[stack])
            ]
            there = self._there(column)
            layout = self._layout(there, "clean_prompt", column) if holds == "answer" else self.layout
            for stack in stacks:
                most = model.stack(stack).cfg.n_ctx
                for place, number in enumerate(there):
                    if (length := layout.length(stack, place)) > most:
                        text = f"{self.records[number][column]!r:.60}"
                        yield (
                            number,
                            (TOO_LONG, f"{column} {text} makes {length} tokens; the model reads {most} at most"),
                        )


def _read_answers(record: PairRecord) -> tuple[str, ...]:
    """Return the columns of the answers that are said in words."""
    return () if record["kind"] == "match" else ("correct_answer", "incorrect_answer", "corrupt_answer")
