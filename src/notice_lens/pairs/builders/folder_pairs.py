"""Pairs from labelled pictures: what MIT-States and facial expressions have in common.

1. Every picture is read once. Those that cannot be read, that are there twice, or that stand under two labels which
   contradict each other, are problems.
2. Two values may be offered against each other where they mean different things, begin with different word pieces (an
   answer is judged by its first one), and both have a replacement.
3. `pairing.py` decides which pictures become pairs; the orders of options are balanced over what it chose.
4. Each pair becomes a row: questions and roles from one template, symmetric token replacement, donors.
"""

import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from notice_lens.mini.questions import Question, compose, either
from notice_lens.pairs.builders.labels import Label, read_labels
from notice_lens.pairs.builders.pairing import Couple, GroupAndNoun, Labelled, Nearest, couples, offered, plan
from notice_lens.pairs.io.assembly import Built
from notice_lens.pairs.near_synonyms import NearSynonyms
from notice_lens.pairs.problems import FIRST_TOKEN, NO_REPLACEMENT, PairsError, Problem
from notice_lens.pairs.roles import OPTIONS
from notice_lens.pairs.sampling import chance, check_draw, option_orders
from notice_lens.pairs.token_replacement import Pool, replace_roles
from notice_lens.pairs.tokens import as_tokenizer, begin_alike, beginnings

SPARE = 8
"""How many pictures of each value `match="nearest"` may choose from beyond those that it needs."""

DONOR_COLUMNS = ("donor_image", "donor_prompt")


@dataclass(frozen=True)
class FolderTask:
    """The question of a builder, and where its pictures are.

    Attributes:
        builder: Its name, which is the task's.
        root: The given folder.
        opening: The question's words before its options; `{noun}` stands for the noun.
        pool: The words that may replace a value of a group.
        donor_pool: The same for donor prompts.
        contents: The bytes of pictures that are not files themselves.
    """

    builder: str
    root: Path
    opening: Sequence[str]
    pool: Callable[[str, str], Pool]
    donor_pool: Callable[[str, str], Pool]
    contents: Mapping[Path, bytes] = field(default_factory=dict, repr=False)

    def question(self, label: Labelled, other: str, swap: bool = False) -> Question:
        """The question about a picture, with where its roles stand."""
        words = [("noun", label.noun) if word == "{noun}" else word for word in self.opening]
        return compose(label.group, label.value, [*words, *either(label.value, other, swap), "?"])


@dataclass
class Maker:
    """One call of a builder.

    Attributes:
        task: The task of the pairs.
        tokenizer: The model's.
        seed: Of everything that is drawn.
        near: Which values mean nearly the same.
        problems: Which values cannot be offered against each other, and why.
    """

    task: FolderTask
    tokenizer: Any
    seed: int
    near: NearSynonyms = field(default_factory=NearSynonyms.load)
    problems: list[Problem] = field(default_factory=list)
    _differing: dict[tuple[str, str], bool] = field(default_factory=dict)

    def edges(self, pictures: Iterable[Labelled]) -> dict[GroupAndNoun, list[tuple[str, str]]]:
        """The pairs of values that may be offered against each other, by group and noun."""
        found: dict[GroupAndNoun, list[tuple[str, str]]] = {}
        by_place: dict[GroupAndNoun, dict[str, Labelled]] = defaultdict(dict)
        for picture in pictures:
            by_place[picture.place].setdefault(picture.value, picture)
        for place, examples in sorted(by_place.items()):
            two = [(a, b) for a, b in combinations(sorted(examples), 2) if not self.near.near(a, b)]
            found[place] = [(a, b) for a, b in two if self._tell_apart(place, a, b) and self._replace(examples[a], b)]
        return found

    def _tell_apart(self, place: GroupAndNoun, a: str, b: str) -> bool:
        if self._apart(a, b):
            return True
        detail = f"{a!r} and {b!r} begin with the same word piece, by which answers are told apart"
        self.problems.append(Problem(f"{place[1]}: {a} or {b}", FIRST_TOKEN, detail))
        return False

    def _apart(self, a: str, b: str) -> bool:
        return not begin_alike(beginnings(self.tokenizer, a), beginnings(self.tokenizer, b))

    def _replace(self, example: Labelled, other: str) -> bool:
        """Return whether both values have a replacement in this question, in either order of the options."""
        orders = (self.task.question(example, other, swap) for swap in (False, True))
        if all(self.replaced(question, "", self.task.pool) is not None for question in orders):
            return True
        detail = f"no two words of as many word pieces replace {example.value!r} and {other!r}"
        self.problems.append(Problem(f"{example.noun}: {example.value} or {other}", NO_REPLACEMENT, detail))
        return False

    def replaced(
        self, question: Question, name: str, pool: Callable[[str, str], Pool], avoid: Iterable[str] = ()
    ) -> Question | None:
        """The question with both options replaced; None where no words fit.

        Args:
            question: The clean one.
            name: The name of the choice; the same name gives the same choice.
            pool: The words to choose from, by group and value.
            avoid: Words that may not come in.
        """
        pools = {role: pool(question.group, _word(question, role)) for role in OPTIONS}
        rng = random.Random(f"{self.seed}/{name}")
        found = replace_roles(question.text, question.roles, OPTIONS, pools, rng, avoid=tuple(avoid))
        return None if found is None else Question(found[0], "", question.group, roles=found[1])

    def donors(self, pictures: Iterable[Labelled]) -> Callable[[Couple], Labelled | None]:
        """Return a function that finds a pair's donor: a picture of the same noun whose value is neither option."""
        by_value: dict[GroupAndNoun, dict[str, list[Labelled]]] = defaultdict(lambda: defaultdict(list))
        for picture in pictures:
            by_value[picture.place][picture.value].append(picture)

        def donor(couple: Couple) -> Labelled | None:
            values = by_value[couple.clean.place]
            third = [value for value in values if all(self._differ(value, option) for option in couple.values)]
            if not third:
                return None
            draw = chance(self.seed, f"donor\0{couple.id}")
            some = values[third[int.from_bytes(draw[:8]) % len(third)]]
            return some[int.from_bytes(draw[8:]) % len(some)]

        return donor

    def _differ(self, a: str, b: str) -> bool:
        """Return whether an answer to the first question cannot answer the second; each pair tests dozens of words."""
        if (a, b) not in self._differing:
            self._differing[a, b] = not self.near.near(a, b) and self._apart(a, b)
        return self._differing[a, b]

    def row(self, couple: Couple, first: bool, donor: Labelled | None) -> dict[str, Any]:
        """The columns of one pair.

        Args:
            couple: Its pictures.
            first: Whether the right answer is the first option.
            donor: A picture of a third value.
        """
        clean, corrupt = couple.clean, couple.corrupt
        question = self.task.question(clean, corrupt.value, swap=not first)
        other = self.replaced(question, f"corrupt/{couple.id}", self.task.pool)
        assert other is not None, f"a pair was planned whose words have no replacement: {question.text}"
        avoid = [_word(other, role) for role in OPTIONS]
        third = self.replaced(question, f"donor/{couple.id}", self.task.donor_pool, avoid)
        return {
            "id": couple.id,
            "task": self.task.builder,
            "group": couple.group,
            "kind": "vqa",
            "clean_image": clean.picture.source,
            "corrupt_image": corrupt.picture.source,
            "clean_prompt": question.text,
            "corrupt_prompt": other.text,
            "correct_answer": clean.value,
            "incorrect_answer": corrupt.value,
            "corrupt_answer": None,
            "donor_image": None if donor is None else donor.picture.source,
            "donor_digest": None if donor is None else donor.picture.digest,
            "donor_prompt": None if third is None else third.text,
            "roles": dict(question.roles),
            "clean_digest": clean.picture.digest,
            "corrupt_digest": corrupt.picture.digest,
        }


def build_pairs(
    task: FolderTask,
    labels: Sequence[Label],
    tokenizer: Any,
    *,
    n: int | None,
    seed: int,
    match: str | None,
    confine: bool,
    progress: bool,
    options: Mapping[str, Any],
    before: Sequence[Problem] = (),
) -> Built:
    """Make the rows of a task from labelled pictures.

    Args:
        task: The task of the pairs.
        labels: Which pictures show what.
        tokenizer: As the builders take it; for `match="nearest"` a HookedBLIP.
        n: How many pairs; None for all.
        seed: Of everything that is drawn.
        match: None or "nearest".
        confine: Whether links that lead out of the task's folder count as unreadable.
        progress: Whether to show progress.
        options: Settings of the builder for the manifest.
        before: Why some pictures have no label.

    Raises:
        PairsError: Not one pair can be made; its message says why.
    """
    maker = Maker(task, as_tokenizer(tokenizer), seed)
    read = read_labels(
        labels, task.root, maker.tokenizer, maker.near, contents=task.contents, confine=confine, progress=progress
    )
    stock: dict[GroupAndNoun, Counter[str]] = defaultdict(Counter)
    for picture in read.pictures:
        stock[picture.place][picture.value] += 1
    planned = plan(stock, maker.edges(read.pictures), n, seed)
    problems = [*before, *read.problems, *maker.problems]
    if not planned:
        raise PairsError(problems, sum(len(label.files) for label in labels), _no_pairs(stock))
    offer = offered(planned, read.pictures, seed, SPARE)
    found = couples(planned, offer, seed, _nearest(tokenizer, offer, progress) if match else None)
    orders = option_orders(found, seed, lambda couple: (*couple.values, couple.clean.value))
    donor = maker.donors(read.pictures)
    rows = [maker.row(couple, first, donor(couple)) for couple, first in zip(found, orders, strict=True)]
    with_donor = {f"with_{column}": sum(row[column] is not None for row in rows) for column in DONOR_COLUMNS}
    settings = {"n": n, "match": match, **options, "pictures": len(read.pictures), **with_donor}
    source = os.path.basename(os.path.abspath(task.root))
    return Built(task.builder, source, read.checksum, seed, rows, problems, settings)


def check_options(n: Any, seed: Any, match: Any, tokenizer: Any) -> None:
    """Raise if a builder's argument is invalid, before anything is read.

    Raises:
        ValueError: `n`, `seed` or `match` is invalid.
        TypeError: `match="nearest"` without a HookedBLIP.
    """
    check_draw(n, seed)
    if match not in (None, "nearest"):
        raise ValueError(f'match={match!r}: expected None or "nearest"')
    if match and not callable(getattr(tokenizer, "run_stack", None)):
        raise TypeError(
            'match="nearest" compares pictures by the states of a model: expected a HookedBLIP as `tokenizer`, '
            f"got {type(tokenizer).__name__}"
        )


def _nearest(model: Any, pictures: Sequence[Labelled], progress: bool) -> Nearest:
    """Pair pictures that are near each other for the model."""
    from notice_lens.pairs.distance import closest, picture_states

    states = picture_states(model, [picture.picture.source for picture in pictures], progress=progress)
    index = {picture.name: i for i, picture in enumerate(pictures)}

    def nearest(first: Sequence[Labelled], second: Sequence[Labelled], times: int) -> list[tuple[Labelled, Labelled]]:
        first, second = first[: times + SPARE], second[: times + SPARE]
        a, b = (states[[index[picture.name] for picture in some]] for some in (first, second))
        return [(first[i], second[j]) for i, j in closest(a, b, times)]

    return nearest


def _no_pairs(stock: Mapping[GroupAndNoun, Mapping[str, int]]) -> str:
    """Return the expected layout, for the error raised when no pair can be made."""
    alone = [f"{noun} is only {next(iter(values))}" for (_, noun), values in sorted(stock.items()) if len(values) == 1]
    found = f"; found {', '.join(alone[:3])}{', ...' if len(alone) > 3 else ''}" if alone else ""
    return f"\nNo pair can be made: expected pictures of one noun with two values of one group{found}"


def _word(question: Question, role: str) -> str:
    """The word in a role."""
    return question.text[slice(*question.roles[role])]
