"""Symmetric token replacement: other words in the same slots, with the same number of word pieces.

"is girl or boy riding horse?" becomes "is baker or pilot riding horse?": each word of a slot makes way for another one
of that slot's pool. The prompts then have equal token counts, slot by slot, so that activations of the one can be
patched into the other at the same positions; and what the words meant is gone, for neither the old words nor their
near-synonyms come back in any slot. It is the STR of the paper (arXiv 2406.16320), after Zhang and Nanda
(arXiv 2309.16042).
"""

import random
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from notice_lens.models.names import one_of
from notice_lens.pairs.near_synonyms import NearSynonyms, forms
from notice_lens.pairs.tokens import Span, pieces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Pool:
    """Words to replace with, by number of word pieces.

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
        self._pieces: dict[str, list[int]] = {}
        self._by_length: dict[int, list[str]] = {}
        for word in sorted({" ".join(word.lower().split()) for word in words} - {""}):
            ids = pieces(tokenizer, word)
            if ids and tokenizer.unk_token_id not in ids:
                self._pieces[word] = ids
                self._by_length.setdefault(len(ids), []).append(word)

    @property
    def words(self) -> tuple[str, ...]:
        """All words, in alphabetical order."""
        return tuple(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)

    def __contains__(self, word: object) -> bool:
        return word in self._pieces

    def of_length(self, length: int) -> tuple[str, ...]:
        """The words of so many word pieces, in alphabetical order."""
        return tuple(self._by_length.get(length, ()))

    def first_piece(self, word: str) -> int:
        """The id of the first piece of one of these words."""
        return self._pieces[word][0]

    def candidates(self, word: str, fixed: Iterable[str]) -> list[str]:
        """The words of as many pieces as this one that are neither near it nor near any fixed word."""
        taken = self.near.around(word).union(*(self.near.around(other) for other in fixed))
        same = self.of_length(len(self._pieces.get(word) or pieces(self.tokenizer, word)))
        return [candidate for candidate in same if taken.isdisjoint(forms(candidate))]


def replace_words(
    words: Sequence[str], pools: Sequence[Pool], rng: random.Random, *, avoid: Collection[str] = ()
) -> tuple[str, ...] | None:
    """Other words for all slots, or None where the pools have none that fit together.

    A new word has the same number of word pieces as the old one; it is neither the same as nor a near-synonym of any
    old word, any other new word or any word to avoid; and no two new words share their first piece, by which answers
    are told apart. All combinations are tried before there is None.

    Args:
        words: The old word of each slot.
        pools: The new words to choose from, for each slot. Whether a word is near another is up to its pool.
        rng: Decides among the replacements.
        avoid: Words that may not come in, nor their near-synonyms, such as the rest of the prompt.

    Raises:
        ValueError: There are not as many pools as words.
    """
    if len(words) != len(pools):
        raise ValueError(f"{len(words)} words to replace, but {len(pools)} pools; expected one pool for each word")
    fixed = [*words, *avoid]
    candidates = [pool.candidates(word, fixed) for word, pool in zip(words, pools, strict=True)]
    for slot in candidates:
        rng.shuffle(slot)
    return next(_together(candidates, pools, ()), None)


def _together(
    candidates: Sequence[Sequence[str]], pools: Sequence[Pool], chosen: tuple[str, ...]
) -> Iterator[tuple[str, ...]]:
    """Every way to go on from the chosen words of the first slots, depth first: a choice that blocks is undone."""
    slot = len(chosen)
    if slot == len(pools):
        yield chosen
        return
    for word in candidates[slot]:
        if all(_apart(word, pools[slot], other, pool) for other, pool in zip(chosen, pools, strict=False)):
            yield from _together(candidates, pools, (*chosen, word))


def _apart(word: str, pool: Pool, other: str, others: Pool) -> bool:
    """Whether two new words may stand in one prompt."""
    if pool.first_piece(word) == others.first_piece(other):
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

    The new prompt has as many tokens as the old one, in every slot and altogether.

    Args:
        prompt: The clean prompt.
        roles: Characters of the prompt, by role.
        slots: The roles to replace.
        pools: The words to choose from, for each of these roles.
        rng: Decides among the replacements.
        avoid: Words that may not come in, nor their near-synonyms; the other words of the prompt never do.

    Raises:
        ValueError: A slot is no role of the prompt or has no pool, or a role lies outside the prompt or in another one.
    """
    _check(prompt, roles, slots, pools)
    old = [prompt[slice(*roles[slot])] for slot in slots]
    context = _without(prompt, [roles[slot] for slot in slots])
    new = replace_words(old, [pools[slot] for slot in slots], rng, avoid={*context, *avoid})
    if new is None:
        return None
    text, spans = _put(prompt, roles, dict(zip(slots, new, strict=True)))
    tokenizer = next(iter(pools.values())).tokenizer if slots else None
    assert tokenizer is None or len(pieces(tokenizer, text)) == len(pieces(tokenizer, prompt)), (prompt, text)
    return text, spans


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
