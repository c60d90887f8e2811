"""Roles: which words of the clean prompt carry the meaning, as characters, and as tokens of the model.

Spans of characters come from the template that wrote the prompt, or from words that occur in it exactly once. Spans of
tokens come from the layout of the model's inputs, and count from the first position of the stack that reads the prompt:
in BLIP `[CLS]` is token 0 (`[DEC]` for captions), so the first word piece is token 1.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from notice_lens.errors import one_of
from notice_lens.models.layout import Layout, Span
from notice_lens.models.protocol import SPECIAL_ROLES
from notice_lens.pairs.io.values import as_whole_number, is_missing

CORRECT = "correct"
"""The role of the word that is the correct answer; questions such as "is this red or green?" have it."""
LAST = "last"
"""The role of the token whose logits are the answer's, where the answer follows the prompt in one row."""
OPTIONS = (CORRECT, "incorrect")
"""The roles of the two answers that a question offers; `slots="answers"` stands for both."""
ALL = "all"
"""All words of the question at once: a choice beside its roles, and the default where it has no role `correct`."""
IN_IMAGE = "image:"
"""In front of a region's name where a role may have the same one: `image:object` is what `object` means in the image.
Without it a name that is both is the role's, in every pair."""
RESERVED = (*SPECIAL_ROLES, ALL, "answers")
"""Names that no role may have: roles of every prompt, and the words for all positions and for both options."""


def missing_role(role: Any, known: Iterable[str], what: str = "role") -> str:
    """Return the message for a role that is not among the known ones, with what to do.

    Args:
        role: The requested role.
        known: The roles there are.
        what: The role's description in the message.
    """
    known = list(known)
    if role != CORRECT:
        return one_of(what, role, dict.fromkeys([*known, ALL]))
    return (
        f"no {what} {CORRECT!r}: these questions do not contain their answer. Take all words at once, {ALL!r}, or one "
        f"of: {', '.join(map(repr, known))}"
    )


def default_role(swept: Sequence[str]) -> str:
    """Return the role that effects are read at by default.

    The word that is the correct answer, `correct`; else `last`, the token before the answer; else the only role that
    there is. If there are several others, `correct`, which is then refused by name.
    """
    preferred = [role for role in (CORRECT, LAST) if role in swept]
    return (preferred or (swept if len(swept) == 1 else [CORRECT]))[0]


def not_swept(role: str | None, swept: Iterable[str]) -> str:
    """Return the message for a role at which effects cannot be read, with what to do.

    Args:
        role: The requested role; None is the default, `correct`.
        swept: The roles that the effects have.
    """
    swept = list(swept)
    listed = ", ".join(map(repr, swept))
    everything = f"effects at all words at once need a separate sweep, patch_heads(..., positions={ALL!r})"
    if role == ALL:
        return f"role {ALL!r} was given, but these effects are by role ({listed}): {everything}"
    if role in (None, CORRECT):
        return (
            f"no role of these effects {CORRECT!r}: their questions do not contain their answer. Name another, such as "
            f"role={swept[0]!r}; valid: {listed}; {everything}"
        )
    return one_of("role of these effects", role, swept)


def as_spans(roles: Mapping[str, Any], prompt: str) -> dict[str, Span]:
    """The span of characters of each role.

    Args:
        roles: By name, a string that occurs exactly once in the prompt, or its first character and the one after its
            last. A missing one is skipped.
        prompt: The clean prompt.

    Raises:
        ValueError: A role has a reserved name or does not point at words of the prompt, or two roles overlap; the
            message says which.
    """
    taken = [name for name in roles if name in RESERVED]
    if taken:
        raise ValueError(
            f"no role may be called {taken[0]!r}; these names have a meaning already: {', '.join(RESERVED)}"
        )
    spans = {name: _as_span(name, value, prompt) for name, value in roles.items() if not is_missing(value)}
    in_order = sorted(spans.items(), key=lambda item: item[1])
    for (name, span), (after, following) in pairwise(in_order):
        if following[0] < span[1]:
            raise ValueError(f"roles {name!r} and {after!r} overlap in {prompt!r}")
    return spans


def _as_span(name: str, value: Any, prompt: str) -> Span:
    if isinstance(value, str):
        found = [match.span() for match in re.finditer(rf"(?<!\w){re.escape(value)}(?!\w)", prompt, re.IGNORECASE)]
        if len(found) != 1 or not value.strip():
            raise ValueError(
                f"role {name!r} is {value!r}, which occurs {len(found)} times in {prompt!r}; expected exactly once, or "
                "a span of characters"
            )
        return found[0]
    read = [as_whole_number(place) for place in value] if isinstance(value, Iterable) else []
    places = [place for place in read if place is not None]
    if len(read) != 2 or len(places) != 2:
        raise ValueError(
            f"role {name!r} is {value!r}; expected a string, or [first character, last + 1] in whole numbers"
        )
    start, end = places
    if not 0 <= start < end <= len(prompt):
        raise ValueError(f"role {name!r} is [{start}, {end}], outside of {prompt!r} with {len(prompt)} characters")
    words = prompt[start:end]
    if words != words.strip():
        raise ValueError(f"role {name!r} is [{start}, {end}], {words!r} in {prompt!r}: it begins or ends with a space")
    return start, end


def as_mapping(stored: Iterable[Mapping[str, Any]]) -> dict[str, Span]:
    """Spans by role, from roles as a data set stores them."""
    return {item["role"]: (item["start"], item["end"]) for item in stored}


def token_spans(layout: Layout, example: int, roles: Mapping[str, Span]) -> dict[str, Span]:
    """Return the positions of each role: its first token and the one after its last.

    Args:
        layout: Of inputs with these prompts.
        example: Which of its prompts the roles are spans of.
        roles: Spans of characters by role.

    Returns:
        Spans by role, in the order in which they stand: the given ones, and those that every prompt of the model has,
        such as `[CLS]`, `?` and `[SEP]`.

    Raises:
        ValueError: A role has no token, or begins or ends in the middle of one.
    """
    spans = {}
    for name, (first, last) in roles.items():
        try:
            spans[name] = layout.span(example, first, last)
        except ValueError as error:
            raise ValueError(f"role {name!r}, {error}") from error
    return dict(sorted({**spans, **layout.roles[example]}.items(), key=lambda item: item[1]))
