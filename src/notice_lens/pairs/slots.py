"""Symmetric token replacement (STR) on pairs of any origin: a corrupted prompt for each, slot by slot."""

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from notice_lens.models.names import one_of, whole_number
from notice_lens.pairs.minimal_pair import MinimalPair
from notice_lens.pairs.minimal_pairs import MinimalPairs
from notice_lens.pairs.problems import NO_REPLACEMENT, ROLE, Problem
from notice_lens.pairs.replacement import Pool, replace_roles
from notice_lens.pairs.roles import OPTIONS, token_spans
from notice_lens.pairs.tokens import as_tokenizer, pieces
from notice_lens.pairs.values import shown

Words = Iterable[str] | Mapping[str, Iterable[str]]
Facts = dict[str, dict[str, tuple[str, str | None]]]
"""Questions with known answers, by the image's digest, and there by the question in lower case."""


def symmetric_replacement(
    pairs: MinimalPairs,
    tokenizer: Any,
    pool: Words | None = None,
    slots: str | Sequence[str] = "answers",
    seed: int = 0,
) -> MinimalPairs:
    """The pairs with new corrupted prompts, in which the words of some slots are replaced.

    A new word has as many word pieces as the old one, and is neither it, nor a near-synonym of it, nor a word of
    another slot. With `slots="answers"` both options are replaced, as in the paper. With another role, such as
    `subject` or `noun`, the options stay: an answer-free control, since new options let a patch copy the old word back.
    There, a replacement that is known to flip the answer is preferred; the mini world knows one for most of its pairs.

    `corrupt_answer` is filled in where it is known: where some pair asks that question about that image.
    `donor_prompt` becomes another replacement with yet other words, or None where there is none.

    An open question ("what color is the dog?") names no options: replace another role there.

    Args:
        pairs: With roles for the slots.
        tokenizer: A HookedBLIP, a tokenizer, or a hub id or folder.
        pool: The words to choose from, for all slots or by slot; None takes the words that stand in the same slots
            in the pairs of the same task and group (both options are one slot).
        slots: `answers`, a role, or several roles.
        seed: Of the choice, 0 or more.

    Returns:
        The pairs that have a replacement; the others are in `dropped` and counted.

    Raises:
        ValueError: No pair has such a role, a slot has no pool, or a pool holds something else than words.
    """
    seed = whole_number("seed", seed)
    tokenizer = as_tokenizer(tokenizer)
    names = list(OPTIONS) if _is_answers(slots) else [slots] if isinstance(slots, str) else list(slots)
    everyone = [MinimalPair.of(record) for record in pairs.records()]
    _check(names, everyone, slots)
    pools = _Pools(tokenizer, pool, everyone)
    facts = _known(everyone)
    columns: dict[str, list[str | None]] = {"corrupt_prompt": [], "corrupt_answer": [], "donor_prompt": []}
    found: list[Problem] = []
    for pair in everyone:
        rng = random.Random(f"{seed}/{pair.id}")
        absent = [name for name in names if name not in pair.roles]
        new = donor = None
        if absent:
            detail = f"it has no role {absent[0]!r}; it has {', '.join(pair.roles) or 'none'}"
            found.append(Problem(pair.id, ROLE, detail))
        elif cut := _cuts(tokenizer, pair):
            found.append(Problem(pair.id, ROLE, cut))
        else:
            own = {name: pools.of(pair, name) for name in names}
            new = _known_flip(pair, names, facts, tokenizer) or _fresh(pair, names, own, rng, facts)
            if new is None:
                words = ", ".join(repr(pair.clean_prompt[slice(*pair.roles[name])]) for name in names)
                found.append(Problem(pair.id, NO_REPLACEMENT, f"nothing in the pool replaces {words}"))
            else:
                donor = _replace(pair, names, own, rng, avoid=_words(new))
        columns["corrupt_prompt"].append(new)
        columns["corrupt_answer"].append(None if new is None else _answer(facts, pair, new))
        columns["donor_prompt"].append(donor)
    for column, values in columns.items():
        pairs = pairs.with_column(column, values)
    return pairs.without(found, "symmetric_replacement", {"slots": names, "seed": seed})


def _is_answers(slots: str | Sequence[str]) -> bool:
    return slots == "answers" if isinstance(slots, str) else list(slots) == ["answers"]


def _check(names: Sequence[str], pairs: Sequence[MinimalPair], slots: str | Sequence[str]) -> None:
    """Check the slots before anything is replaced. Raises ValueError where no pair has one of them."""
    roles = list(dict.fromkeys(role for pair in pairs for role in pair.roles))
    if not names:
        raise ValueError("no slots given; expected 'answers', a role, or several roles")
    for name in names:
        if name not in roles and pairs:
            if _is_answers(slots):
                raise ValueError(_open_questions(name, roles))
            options = ["answers"] if set(OPTIONS) <= set(roles) else []
            raise ValueError(one_of("slot", name, [*options, *roles]))


def _listed(words: Iterable[Any]) -> list[str]:
    """Return the words of a pool. Raises ValueError where something else is among them."""
    if isinstance(words, str):
        raise ValueError(f"pool={words!r}: expected words, such as {words.split()!r}")
    listed = list(words)
    wrong = [word for word in listed if not isinstance(word, str)]
    if wrong:
        raise ValueError(f"the pool holds {shown(wrong[0])}; expected words")
    return listed


def _open_questions(absent: str, roles: Sequence[str]) -> str:
    """Say why `answers` cannot be replaced, and what can."""
    way = (
        f"replace another role instead: slots={roles[0]!r}" + f" (there are {', '.join(map(repr, roles))})"
        if roles
        else 'name the words to replace in the column `roles`, such as {"noun": "dog"}, and give slots="noun"'
    )
    return (
        "slots='answers' replaces both options where a question names them, its roles 'correct' and 'incorrect'; no "
        f"pair has the role {absent!r}, as open questions have none: {way}"
    )


def _cuts(tokenizer: Any, pair: MinimalPair) -> str:
    """What is wrong with a pair's roles to this tokenizer; "" where nothing is."""
    try:
        token_spans(tokenizer, pair.clean_prompt, pair.roles, pair.kind)
    except ValueError as error:
        return str(error)
    return ""


class _Pools:
    """The pool of each slot of each pair, made once."""

    def __init__(self, tokenizer: Any, words: Words | None, pairs: Sequence[MinimalPair]) -> None:
        self.tokenizer = tokenizer
        self.given = {name: _listed(own) for name, own in words.items()} if isinstance(words, Mapping) else None
        self.all = None if words is None or self.given is not None else _listed(words)
        self.found: dict[tuple[str, str, str], set[str]] = {}
        self.made: dict[Any, Pool] = {}
        for pair in pairs:
            for name, span in pair.roles.items():
                self.found.setdefault(self._slot(pair, name), set()).add(pair.clean_prompt[slice(*span)])

    @staticmethod
    def _slot(pair: MinimalPair, name: str) -> tuple[str, str, str]:
        return pair.task, pair.group, "option" if name in OPTIONS else name

    def of(self, pair: MinimalPair, name: str) -> Pool:
        """The pool of one slot."""
        if self.given is not None and name not in self.given:
            raise ValueError(f"no pool for the slot {name!r}; there are {', '.join(self.given)}")
        key = name if self.given is not None else "all" if self.all is not None else self._slot(pair, name)
        if key not in self.made:
            found = self.found[self._slot(pair, name)] if self.all is None else self.all
            self.made[key] = Pool(self.tokenizer, found if self.given is None else self.given[name])
        return self.made[key]


def _replace(
    pair: MinimalPair, slots: Sequence[str], pools: Mapping[str, Pool], rng: random.Random, avoid: Iterable[str] = ()
) -> str | None:
    new = replace_roles(pair.clean_prompt, pair.roles, slots, pools, rng, avoid=set(avoid) - _words(pair.clean_prompt))
    return None if new is None else new[0]


def _fresh(
    pair: MinimalPair, slots: Sequence[str], pools: Mapping[str, Pool], rng: random.Random, facts: Facts
) -> str | None:
    """A replacement whose answer is not known to be the correct one still."""
    tried: set[str] = set()
    while (new := _replace(pair, slots, pools, rng, avoid=tried)) is not None:
        if _answer(facts, pair, new) != pair.correct_answer:
            return new
        tried |= _words(new) - _words(pair.clean_prompt)
    return None


def _answer(facts: Facts, pair: MinimalPair, prompt: str) -> str | None:
    """The answer to a question about the pair's clean image, where it is known."""
    return facts[pair.clean_digest].get(_key(prompt), ("", None))[1]


def _words(prompt: str) -> set[str]:
    return set(re.findall(r"\w+", prompt))


def _key(prompt: str) -> str:
    return " ".join(prompt.lower().split())


def _known(pairs: Iterable[MinimalPair]) -> Facts:
    """Every answer that pairs know."""
    facts: Facts = defaultdict(dict)
    for pair in pairs:
        record = pair.record
        known = [
            (pair.clean_digest, pair.clean_prompt, pair.correct_answer),
            (pair.corrupt_digest, pair.clean_prompt, pair.incorrect_answer),
            (pair.clean_digest, pair.corrupt_prompt, pair.corrupt_answer),
            (pair.clean_digest, record.get("control_prompt"), record.get("control_answer")),
        ]
        for image, prompt, answer in known:
            if prompt and answer:
                facts[image][_key(prompt)] = (prompt, answer)
    return facts


def _known_flip(pair: MinimalPair, slots: Sequence[str], facts: Facts, tokenizer: Any) -> str | None:
    """A question about the clean image that is known to have another answer and differs in these slots alone."""
    if set(slots) & set(OPTIONS):
        return None
    pattern, done = "", 0
    for name in sorted(slots, key=lambda name: pair.roles[name]):
        start, end = pair.roles[name]
        pattern, done = pattern + re.escape(pair.clean_prompt[done:start]) + r"(\S+)", end
    pattern += re.escape(pair.clean_prompt[done:])
    length = len(pieces(tokenizer, pair.clean_prompt))
    for prompt, answer in facts[pair.clean_digest].values():
        other = answer != pair.correct_answer
        if other and re.fullmatch(pattern, prompt, re.IGNORECASE) and len(pieces(tokenizer, prompt)) == length:
            return prompt
    return None
