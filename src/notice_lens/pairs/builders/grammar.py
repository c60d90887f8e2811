"""Questions about a subject, a verb and an object, by rule.

1. The verb takes its -ing form, from the lexicon of lemminflect.
2. The preposition before the object is read off the sentence that describes the picture: "A girl is sitting on the
   beach." gives "on"; articles are dropped. Where a sentence does not say, others of the file do (`Prepositions`).
3. A template puts them together: "is girl sitting on beach or grass?". It knows where each word stands, so roles need
   no search.

Limits: tense is always the progressive; a preposition is taken from the words before the object alone, without parsing.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache

from notice_lens.errors import one_of
from notice_lens.mini.questions import Question, compose, either
from notice_lens.pairs.near_synonyms import forms

SLOTS = ("subject", "verb", "object")
Triplet = tuple[str, str, str]
"""Subject, verb and object."""

_PREPOSITIONS = frozenset(
    "about above across after against along alongside amid among around aside at atop away back before behind below "
    "beneath beside besides between beyond by down during for forward from in inside into like near of off on onto "
    "out outside over past round through throughout to toward towards under underneath up upon via with within "
    "without".split()
)
_WITHIN = frozenset("next close top front middle center centre edge side back corner rear".split())
"""Words between two prepositions that make one: "on top of", "in front of", "next to"."""
_DETERMINERS = frozenset("a an the his her its their my your our this that these those some".split())


@cache
def ing(verb: str) -> str:
    """The -ing form of a verb: "sitting" for "sit", "sits" and "sitting"; "picking up" for "pick up".

    A verb that the lexicon does not have is inflected by rule; one that ends in -ing stays.

    Raises:
        ValueError: There is no verb.
    """
    from lemminflect import getInflection

    first, *rest = verb.lower().split() or [""]
    if not first:
        raise ValueError(f"{verb!r} is not a verb; expected one in any form, such as 'sit' or 'picks up'")
    base = _base(first)
    inflected = () if base.endswith("ing") and not _known(base) else getInflection(base, "VBG")
    return " ".join([*(inflected[:1] or [base]), *rest])


def _base(verb: str) -> str:
    """The base form of one word; a word that is one already stays ("saw" wood)."""
    from lemminflect import getLemma

    lemmas = getLemma(verb, upos="VERB", lemmatize_oov=False)
    if not lemmas and verb.endswith(("s", "ed")):
        lemmas = getLemma(verb, upos="VERB")
    return verb if not lemmas or verb in lemmas else lemmas[0]


def _known(verb: str) -> bool:
    from lemminflect import getLemma

    return bool(getLemma(verb, upos="VERB", lemmatize_oov=False))


def preposition(sentence: object, verb: str, obj: str) -> str | None:
    """The preposition between verb and object in a sentence, without articles: "on", "in front of"; "" for none.

    Of several, it is the one that stands last before the object. None where the sentence does not say: where it is
    missing, or does not have the verb followed by the object.

    Args:
        sentence: The description of a picture; anything that is not a string counts as missing.
        verb: Of the picture's triplet, in any form.
        obj: Of the picture's triplet.
    """
    if not isinstance(sentence, str):
        return None
    words = [word for word in (part.strip(".,;:!?\"'()").lower() for part in sentence.split()) if word]
    after = _find(words, verb)
    if after is None:
        return None
    between = words[after:]
    end = _find(between, obj)
    if end is None:
        return None
    between = [word for word in between[: end - len(obj.split())] if word not in _DETERMINERS]
    return " ".join(_last_run(between))


class Prepositions:
    """The usual prepositions, for triplets whose own sentence has no preposition.

    Args:
        seen: Sentences with the verbs and objects of their pictures.
    """

    def __init__(self, seen: Iterable[tuple[object, str, str]]) -> None:
        self._counts: dict[tuple[str, str], Counter[str]] = {}
        for sentence, verb, obj in seen:
            found = preposition(sentence, verb, obj)
            if found is not None:
                for key in ((verb, obj), ("", obj), (verb, "")):
                    self._counts.setdefault(key, Counter())[found] += 1

    def usual(self, sentence: object, verbs: Sequence[str], obj: str) -> str:
        """Return the sentence's preposition, or else the most frequent one: with verbs and object, object, or verb.

        Args:
            sentence: The description of a picture, about the first of the verbs.
            verbs: One, or the two that the question offers.
            obj: The object.
        """
        own = preposition(sentence, verbs[0], obj)
        if own is not None:
            return own
        keys = [*((verb, obj) for verb in verbs), ("", obj), *((verb, "") for verb in verbs)]
        known = next((self._counts[key] for key in keys if key in self._counts), Counter({"": 1}))
        # Ties are broken by the alphabet, not by the order of the file.
        return min(known, key=lambda word: (-known[word], word))


def _find(words: Sequence[str], sought: str) -> int | None:
    """Return the index after the first occurrence of the sought words, in any inflection, or None."""
    targets = [forms(word) for word in sought.split()]
    if not targets:
        return None
    for start in range(len(words) - len(targets) + 1):
        there = words[start : start + len(targets)]
        if all(not forms(word).isdisjoint(target) for word, target in zip(there, targets, strict=True)):
            return start + len(targets)
    return None


def _last_run(words: Sequence[str]) -> list[str]:
    """The last prepositions that stand together."""
    end = len(words)
    while end and words[end - 1] not in _PREPOSITIONS:
        end -= 1
    start = end
    while start and (words[start - 1] in _PREPOSITIONS or words[start - 1] in _WITHIN):
        start -= 1
    return list(words[start:end])


def svo_question(slot: str, triplet: Triplet, other: str, prep: str = "", swap: bool = False) -> Question:
    """The question which of two words stands in one slot of a triplet: "is girl or boy sitting on beach?".

    Its roles are the two other slots, `correct` and `incorrect`, as characters.

    Args:
        slot: `subject`, `verb` or `object`.
        triplet: Subject, verb and object of the picture; the verb in the form that the question uses, see `ing`.
        other: The wrong word for the slot.
        prep: What stands before the object.
        swap: Whether the wrong word comes first.

    Raises:
        ValueError: There is no such slot.
    """
    if slot not in SLOTS:
        raise ValueError(one_of("slot", slot, SLOTS))
    words: list[str | tuple[str, str]] = ["is"]
    for name, word in zip(SLOTS, triplet, strict=True):
        if name == "object" and prep:
            words.append(prep)
        words += either(word, other, swap) if name == slot else [(name, word)]
    return compose(slot, triplet[SLOTS.index(slot)], [*words, "?"])
