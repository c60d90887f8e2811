"""Symmetric token replacement (STR) on pairs of any origin: a corrupted prompt for each, slot by slot."""

import random
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from notice_lens.errors import one_of, whole_number
from notice_lens.models.layout import Span
from notice_lens.pairs.io.values import shown
from notice_lens.pairs.minimal_pair import MinimalPair
from notice_lens.pairs.minimal_pairs import MinimalPairs
from notice_lens.pairs.near_synonyms import NearSynonyms, forms
from notice_lens.pairs.problems import NO_REPLACEMENT, ROLE, Problem
from notice_lens.pairs.roles import OPTIONS, token_spans
from notice_lens.pairs.tokens import (
    AFTER_SPACE,
    AT_START,
    as_reader,
    as_tokenizer,
    begin_alike,
    beginnings,
    outline,
    pieces,
    pieces_behind,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Pool:
    """Words to replace with, by number of word pieces, which depends on what stands before them.

    Words are kept once, in lower case and in alphabetical order, so that a seed gives the same replacement whatever the
    order they came in. Words that the vocabulary does not know in full (`[UNK]`) are left out.

    Args:
        tokenizer: The model's.
        words: As they are to stand in prompts: verbs in their -ing form.
        near: Which words are too near in meaning; the package's own list unless given.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase | Any", words: Iterable[str], near: NearSynonyms | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.near = near or NearSynonyms.load()
        self.beginnings: dict[str, tuple[int, int]] = {}
        self._by_length: dict[str, dict[int, dict[str, list[int]]]] = {}
        self._standing = cache(lambda word, before: pieces_behind(tokenizer, before, [word])[0])
        for word in sorted({" ".join(word.lower().split()) for word in words} - {""}):
            ids = pieces(tokenizer, word)
            if ids and tokenizer.unk_token_id not in ids:
                self.beginnings[word] = beginnings(tokenizer, word)

    @property
    def words(self) -> tuple[str, ...]:
        """All words, in alphabetical order."""
        return tuple(self.beginnings)

    def __len__(self) -> int:
        return len(self.beginnings)

    def __contains__(self, word: object) -> bool:
        return word in self.beginnings

    def of_length(self, length: int, before: str = AFTER_SPACE) -> tuple[str, ...]:
        """The words of so many word pieces, in alphabetical order; see `pieces_behind` for `before`."""
        return tuple(self._of_length(length, before))

    def _of_length(self, length: int, before: str) -> dict[str, list[int]]:
        if before not in self._by_length:
            own: dict[int, dict[str, list[int]]] = {}
            for word, ids in zip(self.words, pieces_behind(self.tokenizer, before, self.words), strict=True):
                own.setdefault(len(ids), {})[word] = ids
            self._by_length[before] = own
        return self._by_length[before].get(length, {})

    def candidates(self, word: str, fixed: Iterable[str], before: str = AFTER_SPACE) -> list[str]:
        """The words of as many pieces as this one, but not the same ones, that are near neither it nor a fixed word."""
        taken = self.near.around(word).union(*(self.near.around(other) for other in fixed))
        own = self._standing(word, before)
        # Where accents are dropped, `café` has the pieces of `cafe`.
        others = [other for other, ids in self._of_length(len(own), before).items() if ids != own]
        return [candidate for candidate in others if taken.isdisjoint(forms(candidate))]


def replace_words(
    words: Sequence[str],
    pools: Sequence[Pool],
    rng: random.Random,
    *,
    avoid: Collection[str] = (),
    before: Sequence[str] = (),
    fit: Callable[[Mapping[int, str]], bool] = lambda new: True,
) -> tuple[str, ...] | None:
    """Return other words for all slots, or None if no words of the pools fit together.

    A new word has the same number of word pieces as the old one; it is neither the same as nor a near-synonym of any
    old word, any other new word or any word to avoid; and no two new words share their first piece, by which answers
    are told apart. All combinations are tried before there is None.

    Args:
        words: The old word of each slot.
        pools: The new words to choose from, for each slot. Whether a word is near another is up to its pool.
        rng: Decides among the replacements.
        avoid: Words that may not come in, nor their near-synonyms, such as the rest of the prompt.
        before: What stands before each word, `AFTER_SPACE` or `AT_START`; a space before all of them unless given.
        fit: Whether new words, by the number of their slot, have the old ones' tokens' places in the prompt.

    Raises:
        ValueError: There are not as many pools as words.
    """
    if len(words) != len(pools):
        raise ValueError(f"{len(words)} words to replace, but {len(pools)} pools; expected one pool for each word")
    fixed = [*words, *avoid]
    places = before or [AFTER_SPACE] * len(words)
    candidates = [pool.candidates(word, fixed, at) for word, pool, at in zip(words, pools, places, strict=True)]
    for slot in candidates:
        rng.shuffle(slot)
    fits = cache(lambda new: fit(dict(enumerate(new))))
    first = next(_together(candidates, pools, lambda slot, word: True, ()), None)
    if first is None or fits(first):
        return first
    alone = cache(lambda slot, word: fit({slot: word}))
    return next((new for new in _together(candidates, pools, alone, ()) if fits(new)), None)


def _together(
    candidates: Sequence[Sequence[str]],
    pools: Sequence[Pool],
    alone: Callable[[int, str], bool],
    chosen: tuple[str, ...],
) -> Iterator[tuple[str, ...]]:
    """Yield every continuation of the chosen words of the first slots, depth first with backtracking.

    Args:
        candidates: The words of each slot.
        pools: Of each slot.
        alone: Whether a word fits into a slot.
        chosen: The words of the first slots.
    """
    slot = len(chosen)
    if slot == len(pools):
        yield chosen
        return
    for word in candidates[slot]:
        apart = all(_apart(word, pools[slot], other, pool) for other, pool in zip(chosen, pools, strict=False))
        if apart and alone(slot, word):
            yield from _together(candidates, pools, alone, (*chosen, word))


def _apart(word: str, pool: Pool, other: str, others: Pool) -> bool:
    """Return whether two replacements may be used in one prompt."""
    if begin_alike(pool.beginnings[word], others.beginnings[other]):
        return False
    return not pool.near.near(word, other) and not others.near.near(word, other)


def replace_roles(
    prompt: str,
    roles: Mapping[str, Span],
    slots: Sequence[str],
    pools: Mapping[str, Pool],
    rng: random.Random,
    *,
    avoid: Collection[str] = (),
) -> tuple[str, dict[str, Span]] | None:
    """The prompt with other words in some of its roles, and where all roles stand in it; None where no words fit.

    The new prompt has as many tokens as the old one, in every slot and altogether, and the other tokens stay. Where a
    token reaches across the edge of a slot, no words fit.

    Args:
        prompt: The clean prompt.
        roles: Characters of the prompt, by role.
        slots: The roles to replace.
        pools: The words to choose from, for each of these roles.
        rng: Decides among the replacements.
        avoid: Words that may not come in, nor their near-synonyms; the other words of the prompt never do.

    Raises:
        ValueError: A slot is not a role of the prompt or has no pool, or a role lies outside the prompt or in another
            one.
    """
    _check(prompt, roles, slots, pools)
    old = [prompt[slice(*roles[slot])] for slot in slots]
    context = _without(prompt, [roles[slot] for slot in slots])
    if not slots:
        return prompt, dict(roles)
    tokenizer = pools[slots[0]].tokenizer
    before = outline(tokenizer, prompt, [roles[slot] for slot in slots])
    if before is None:
        return None

    def fit(new: Mapping[int, str]) -> bool:
        text, spans = _put(prompt, roles, {slots[number]: word for number, word in new.items()})
        return outline(tokenizer, text, [spans[slot] for slot in slots]) == before

    leads = [AFTER_SPACE if prompt[: roles[slot][0]].endswith(" ") else AT_START for slot in slots]
    chosen = [pools[slot] for slot in slots]
    new = replace_words(old, chosen, rng, avoid={*context, *avoid}, before=leads, fit=fit)
    return None if new is None else _put(prompt, roles, dict(zip(slots, new, strict=True)))


def _check(prompt: str, roles: Mapping[str, Span], slots: Sequence[str], pools: Mapping[str, Pool]) -> None:
    for slot in slots:
        for what, known in (("role of this prompt", roles), ("role with a pool", pools)):
            if slot not in known:
                raise ValueError(one_of(what, slot, known))
    end, before = 0, ""
    for role, (start, stop) in sorted(roles.items(), key=lambda item: item[1]):
        if not 0 <= start < stop <= len(prompt):
            raise ValueError(
                f'role "{role}" spans characters {start} to {stop} of a prompt of {len(prompt)}: "{prompt}"'
            )
        if start < end:
            raise ValueError(f'roles "{before}" and "{role}" overlap in "{prompt}"')
        end, before = stop, role


def _without(prompt: str, spans: Iterable[Span]) -> set[str]:
    """The words of the prompt outside the spans."""
    for start, stop in spans:
        prompt = prompt[:start] + " " * (stop - start) + prompt[stop:]
    return set(re.findall(r"\w+", prompt))


def _put(prompt: str, roles: Mapping[str, Span], new: Mapping[str, str]) -> tuple[str, dict[str, Span]]:
    """The prompt with the new words in their roles, and where all roles are then."""
    text, spans, done = "", {}, 0
    for role, (start, stop) in sorted(roles.items(), key=lambda item: item[1]):
        text += prompt[done:start]
        word = new.get(role, prompt[start:stop])
        spans[role] = (len(text), len(text) + len(word))
        text, done = text + word, stop
    return text + prompt[done:], {role: spans[role] for role in roles}


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
    `donor_prompt` becomes another replacement with yet other words, or None.

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
    _check_slots(names, everyone, slots)
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


def _check_slots(names: Sequence[str], pairs: Sequence[MinimalPair], slots: str | Sequence[str]) -> None:
    """Check the slots before anything is replaced. Raises ValueError if no pair has one of them."""
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
    """Return the words of a pool. Raises ValueError if something else is among them."""
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
    """Return the problem of a pair's roles for this tokenizer, or an empty text."""
    try:
        token_spans(as_reader(tokenizer, pair.kind).layout_of([pair.clean_prompt]), 0, pair.roles)
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
    """A replacement whose answer is not known to remain the correct one."""
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
    """Every known answer."""
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
    """A question about the clean image with a known, different answer that differs in these slots alone."""
    if set(slots) & set(OPTIONS):
        return None
    pattern, done = "", 0
    in_order = sorted(slots, key=lambda name: pair.roles[name])
    for name in in_order:
        start, end = pair.roles[name]
        pattern, done = pattern + re.escape(pair.clean_prompt[done:start]) + r"(\S+)", end
    pattern += re.escape(pair.clean_prompt[done:])
    own = outline(tokenizer, pair.clean_prompt, [pair.roles[name] for name in in_order])
    for prompt, answer in facts[pair.clean_digest].values():
        found = re.fullmatch(pattern, prompt, re.IGNORECASE) if answer != pair.correct_answer else None
        if found and own and outline(tokenizer, prompt, [found.span(n + 1) for n in range(len(in_order))]) == own:
            return prompt
    return None
