"""Validation of pairs in two steps: by themselves, and for a model's tokenizer."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from notice_lens.pairs.io.records import MATCH_ANSWERS
from notice_lens.pairs.problems import (
    EQUAL_ANSWERS,
    FIRST_TOKEN,
    LENGTH,
    NO_TOKENS,
    NOTHING,
    OPTION,
    ROLE,
    TOO_LONG,
    UNKNOWN_WORD,
    Problem,
)
from notice_lens.pairs.roles import as_mapping, token_spans

if TYPE_CHECKING:
    from notice_lens.models.blip.config import BLIPConfig

YES_NO = {"yes", "no"}
OPENINGS = ("what", "which", "who", "where", "when", "why", "how")
Record = Mapping[str, Any]


def check_meaning(record: Record) -> list[Problem]:
    """Return what is wrong with a pair by itself, without a tokenizer and beside what `records.store` notes."""
    return [Problem(record["id"], reason, detail) for reason, detail in (*_answers(record), *_differences(record))]


def _differences(record: Record) -> Iterable[tuple[str, str]]:
    """A pair has to differ in something."""
    prompt, corrupt = record["clean_prompt"], record["corrupt_prompt"]
    if corrupt is not None and prompt is not None and _same(prompt, corrupt):
        yield NOTHING, f"clean_prompt and corrupt_prompt are both {prompt!r}"
    elif corrupt is None and record["clean_digest"] and record["clean_digest"] == record["corrupt_digest"]:
        yield NOTHING, "clean_image and corrupt_image are the same picture, and there is no corrupt_prompt"


def _answers(record: Record) -> Iterable[tuple[str, str]]:
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
    if _stands_in("or", prompt) and not {correct.lower(), incorrect.lower()} <= YES_NO:
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


def check_tokens(records: Iterable[Record], tokenizer: Any, cfg: "BLIPConfig | None" = None) -> list[Problem]:
    """Return what is wrong with pairs to a model: lengths, answers without tokens, unknown words, roles.

    Args:
        records: The pairs.
        tokenizer: The model's.
        cfg: The model's, which says how many tokens it reads; None where only the tokenizer is known.
    """
    # Prompts of a data set are few words in many arrangements, answers fewer still.
    tokens = lru_cache(maxsize=None)(lambda text: tuple(tokenizer(text, add_special_tokens=False)["input_ids"]))
    problems = []
    for record in records:
        found = [*_check_tokens(record, tokenizer, tokens), *(_too_long(record, tokens, cfg) if cfg else ())]
        problems += [Problem(record["id"], reason, detail) for reason, detail in found]
    return problems


def _check_tokens(
    record: Record, tokenizer: Any, tokens: Callable[[str], tuple[int, ...]]
) -> Iterable[tuple[str, str]]:
    prompt = record["clean_prompt"]
    for column in ("corrupt_prompt", "donor_prompt"):
        other = record[column]
        if other is not None and len(tokens(other)) != len(tokens(prompt)):
            yield (
                LENGTH,
                f"clean_prompt {prompt!r} has {len(tokens(prompt))} tokens, {column} {other!r} {len(tokens(other))}",
            )
    answers = _read_answers(record)
    for column in ("clean_prompt",) * (record["kind"] != "caption") + answers:
        if record[column] is not None and not tokens(record[column]):
            yield NO_TOKENS, f"{column} {record[column]!r} has no tokens: the tokenizer drops all of its characters"
    for column in answers[1:]:
        correct, other = record["correct_answer"], record[column]
        if other is None or not tokens(other) or _same(correct, other):
            continue
        if tokens(correct)[:1] == tokens(other)[:1]:
            first = tokenizer.convert_ids_to_tokens(tokens(other)[0])
            yield FIRST_TOKEN, f"correct_answer {correct!r} and {column} {other!r} both begin with {first!r}"
    for column in ("clean_prompt", "corrupt_prompt", "donor_prompt", *answers):
        if record[column] is not None and tokenizer.unk_token_id in tokens(record[column]):
            yield UNKNOWN_WORD, f"{column} {record[column]!r} has a word that the tokenizer does not know ([UNK])"
    try:
        token_spans(tokenizer, prompt, as_mapping(record["roles"]), record["kind"])
    except ValueError as error:
        yield ROLE, str(error)


def _read_answers(record: Record) -> tuple[str, ...]:
    """Return the columns of the answers that a decoder reads."""
    return () if record["kind"] == "match" else ("correct_answer", "incorrect_answer", "corrupt_answer")


def _too_long(record: Record, tokens: Callable[[str], tuple[int, ...]], cfg: "BLIPConfig") -> Iterable[tuple[str, str]]:
    """Find texts with more tokens than the model has positions for; the special tokens in front and behind count."""
    prompt = len(tokens(record["clean_prompt"]))
    lengths = {}
    if cfg.text is not None:
        lengths["clean_prompt"] = (prompt + 2, cfg.text.n_ctx)
    if cfg.decoder is not None:
        in_front = 1 + prompt * (cfg.kind == "caption")
        for column in _read_answers(record):
            lengths[column] = (in_front + len(tokens(record[column] or "")), cfg.decoder.n_ctx)
    for column, (length, most) in lengths.items():
        if length > most:
            yield TOO_LONG, f"{column} {record[column]!r:.60} makes {length} tokens; the model reads {most} at most"
