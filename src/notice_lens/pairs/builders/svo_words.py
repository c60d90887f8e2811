"""The words of SVO-Probes: what each row asks, and the words that replace its options."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from notice_lens.mini.questions import Question
from notice_lens.pairs.builders.grammar import SLOTS, Prepositions, Triplet, ing, svo_question
from notice_lens.pairs.builders.svo_csv import SvoRow
from notice_lens.pairs.near_synonyms import NearSynonyms
from notice_lens.pairs.problems import FIRST_TOKEN, NO_REPLACEMENT, UNKNOWN_WORD, Problem
from notice_lens.pairs.roles import OPTIONS
from notice_lens.pairs.sampling import chance
from notice_lens.pairs.token_replacement import Pool, replace_roles
from notice_lens.pairs.tokens import begin_alike, beginnings, pieces

NEAR = "options nearly synonymous"
TwoOptions = tuple[str, str]
"""Two words of one slot: one for the positive picture, one for the negative picture."""


@dataclass(frozen=True)
class Asked:
    """The words of a row's question.

    Attributes:
        slot: The slot, of `SLOTS`, that the question is about.
        triplet: The positive picture's, as it stands in the question.
        prep: Before the object; may be empty.
        clean: The options of the clean prompt.
        corrupt: Those of the corrupted prompt.
        donor: Those of the donor's prompt, or None.
    """

    slot: str
    triplet: Triplet
    prep: str
    clean: TwoOptions
    corrupt: TwoOptions
    donor: TwoOptions | None

    def question(self, options: TwoOptions, swap: bool) -> Question:
        """The question with these options, the right one before the wrong one unless swapped."""
        subject, verb, obj = (
            options[0] if slot == self.slot else word for slot, word in zip(SLOTS, self.triplet, strict=True)
        )
        return svo_question(self.slot, (subject, verb, obj), options[1], self.prep, swap)


class SvoWords:
    """The words of a file, by slot, and the questions that can be made of them."""

    def __init__(self, rows: Sequence[SvoRow], tokenizer: Any) -> None:
        self.near = NearSynonyms.load()
        # A file has some hundred words in tens of thousands of rows.
        self._pieces = cache(lambda word: pieces(tokenizer, word))
        self._beginnings = cache(lambda word: beginnings(tokenizer, word))
        self._unknown = tokenizer.unk_token_id
        triplets = {_as_asked(triplet) for row in rows for triplet in (row.positive, row.negative)}
        self._prepositions = Prepositions((row.sentence, *row.positive[1:]) for row in rows)
        self.pools = [Pool(tokenizer, words, self.near) for words in zip(*triplets, strict=True)]

    def ask(self, row: SvoRow, seed: int) -> Asked | Problem:
        """Return the words of a row's question and their replacements, or the reason for having none."""
        line, triplet = f"line {row.line}", _as_asked(row.positive)
        options = triplet[row.index], _as_asked(row.negative)[row.index]
        quoted = " and ".join(map(repr, options))
        if self.near.near(*options):
            return Problem(line, NEAR, f"{quoted}: both may be right for one picture")
        strange = [word for word in (*triplet, *options) if not self._readable(word)]
        if strange:
            return Problem(line, UNKNOWN_WORD, f"the tokenizer does not know {strange[0]!r}")
        if begin_alike(*map(self._beginnings, options)):
            return Problem(line, FIRST_TOKEN, f"{quoted} begin with the same word piece")
        rng = random.Random(chance(seed, f"words\0{row.id}"))
        verbs = [row.positive[1]] if row.slot != "verb" else list(row.options)
        prep = self._prepositions.usual(row.sentence, verbs, row.positive[2])
        clean = Asked(row.slot, triplet, prep, options, options, None)
        context = [word for place, word in enumerate(triplet) if place != row.index]
        corrupt = self._replace(clean, row, rng, context)
        if corrupt is None:
            return Problem(line, NO_REPLACEMENT, f"no two other words of the slot {row.slot} replace {quoted}")
        return replace(clean, corrupt=corrupt, donor=self._replace(clean, row, rng, [*context, *corrupt]))

    def _readable(self, word: str) -> bool:
        """Return whether the word has at least one piece and all of them are known to the tokenizer."""
        return bool(self._pieces(word)) and self._unknown not in self._pieces(word)

    def _replace(self, asked: Asked, row: SvoRow, rng: random.Random, avoid: list[str]) -> TwoOptions | None:
        """Return two other options, whose question has its tokens in the same places."""
        question = asked.question(asked.clean, swap=False)
        pools: dict[str, Pool] = dict.fromkeys(OPTIONS, self.pools[row.index])
        new = replace_roles(question.text, question.roles, OPTIONS, pools, rng, avoid=avoid)
        if new is None:
            return None
        correct, incorrect = (new[0][slice(*new[1][role])] for role in OPTIONS)
        return correct, incorrect


def _as_asked(triplet: Triplet) -> Triplet:
    return triplet[0], ing(triplet[1]), triplet[2]
