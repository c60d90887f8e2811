"""Words too near in meaning to be offered against each other.

"Is a man or a guy walking the dog?" has no wrong answer, and "person" is right wherever "man" is. The list is written
by hand, for the nouns and verbs of SVO-Probes and the adjectives of MIT-States; `data/near_synonyms.txt` explains its
form.
"""

from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from itertools import chain


class NearSynonyms:
    """A list of words that are near each other, whatever their case and inflection.

    Args:
        lines: Groups in the form of `data/near_synonyms.txt`: `a, b, c`, or `general, general: special, special`.
            Nouns in the singular, verbs in the base form.

    Raises:
        ValueError: A line is not a group: it has fewer than two words, or more than one colon.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._near: dict[str, set[str]] = {}
        for number, line in enumerate(lines, 1):
            group = line.partition("#")[0].strip()
            if group:
                self._add(group, number)
        # Pools ask for the same few hundred words again and again.
        self._around: dict[str, frozenset[str]] = {}

    def _add(self, group: str, number: int) -> None:
        general, *special = ([_tidy(word) for word in part.split(",") if word.strip()] for part in group.split(":"))
        if len(special) > 1 or not general or len(general) + sum(map(len, special)) < 2:
            raise ValueError(
                f'line {number}: "{group}" is not a group of near-synonyms; '
                "expected `word, word, ...` or `general, ...: special, ...`"
            )
        for word in general:
            for other in chain(general, *special):
                self._near.setdefault(word, set()).add(other)
                self._near.setdefault(other, set()).add(word)

    @classmethod
    def load(cls) -> "NearSynonyms":
        """The list bundled with this package."""
        return _packaged()

    def near(self, a: str, b: str) -> bool:
        """Return whether two words are near-synonyms or forms of one word, in either order."""
        return not self.around(a).isdisjoint(forms(b))

    def around(self, word: str) -> frozenset[str]:
        """Every base form that is near the word, including its own; `forms` of a near word has one of these."""
        if word not in self._around:
            own = forms(word)
            self._around[word] = own.union(*(self._near.get(form, ()) for form in own))
        return self._around[word]


@cache
def _packaged() -> NearSynonyms:
    text = files("notice_lens.pairs").joinpath("data", "near_synonyms.txt").read_text(encoding="utf-8")
    return NearSynonyms(text.splitlines())


def forms(word: str) -> frozenset[str]:
    """The word in lower case and what it may be an inflection of, as verb and as noun: "sitting" gives "sit" as well.

    Of several words ("picking up") the first is taken for a verb, the last for a noun.
    """
    return _forms(_tidy(word))


@cache
def _forms(word: str) -> frozenset[str]:
    from lemminflect import getLemma

    found = {word}
    first, *rest = word.split(" ")
    # Guesses about words that the lexicon does not have go wrong too often: "xthing" would become "xthe".
    for lemma in getLemma(first, upos="VERB", lemmatize_oov=False):
        found.add(" ".join([lemma, *rest]))
    *start, last = word.split(" ")
    for lemma in getLemma(last, upos="NOUN", lemmatize_oov=False):
        found.add(" ".join([*start, lemma]))
    return frozenset(found)


def _tidy(word: str) -> str:
    return " ".join(word.lower().split())
