"""Mismatched donors for SVO-Probes: pictures of the same task that show neither option of a question."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from notice_lens.pairs.builders.grammar import SLOTS, Triplet
from notice_lens.pairs.builders.svo_csv import SvoRow
from notice_lens.pairs.image_folder import ReadablePicture
from notice_lens.pairs.near_synonyms import NearSynonyms, forms
from notice_lens.pairs.sampling import chance


class Donors:
    """Pictures by what they show.

    Args:
        rows: Whose pictures may be donors.
        pictures: By image id.
        near: Which words are too near an option to stand against it.
    """

    def __init__(self, rows: Iterable[SvoRow], pictures: Mapping[str, ReadablePicture], near: NearSynonyms) -> None:
        self._near = near
        self._pictures: dict[str, ReadablePicture] = {}
        self._shows: dict[str, set[Triplet]] = defaultdict(set)
        by_id = {}
        for row in rows:
            for image_id, triplet in ((row.positive_id, row.positive), (row.negative_id, row.negative)):
                by_id[image_id] = pictures[image_id]
                self._shows[pictures[image_id].digest].add(triplet)
        # One picture may have several ids: the first in their order stands for it, whatever the order of the rows.
        for _, picture in sorted(by_id.items()):
            self._pictures.setdefault(picture.digest, picture)
        self._sharing: dict[tuple[tuple[int, str], ...], list[str]] = defaultdict(list)
        for digest in self._pictures:
            for key in sorted({key for triplet in self._shows[digest] for key in _keys(triplet)}):
                self._sharing[key].append(digest)

    def of(self, row: SvoRow, seed: int, used: dict[str, int], cluster: int) -> ReadablePicture | None:
        """Return a picture with a third word in the row's slot, or None.

        It shares the two other words, or, if no picture does, one of them, preferably the subject. Every known triplet
        of it has a third word in the slot: neither option is right for it, and it is not one of the row's own pictures.
        If possible, the picture does not link the row to any other: pairs that share a donor, or whose donor is another
        pair's picture, are not independent evidence.

        Args:
            row: Whose donor it is.
            seed: Of the choice.
            used: The cluster of rows that each picture is in already, by digest; the donor is added to it.
            cluster: That of the row.
        """
        taken = frozenset().union(*(self._near.around(option) for option in row.options))
        others = [(place, row.positive[place]) for place in range(len(SLOTS)) if place != row.index]
        for key in (tuple(others), *((other,) for other in others)):
            sharing = self._sharing.get(key, [])
            start = int.from_bytes(chance(seed, f"donor\0{row.id}"), "big") % max(1, len(sharing))
            valid = [
                digest
                for digest in sharing[start:] + sharing[:start]
                if all(taken.isdisjoint(forms(shown[row.index])) for shown in self._shows[digest])
            ]
            if valid:
                free = (digest for digest in valid if used.get(digest, cluster) == cluster)
                chosen = next(free, valid[0])
                used.setdefault(chosen, cluster)
                return self._pictures[chosen]
        return None


def _keys(triplet: Triplet) -> list[tuple[tuple[int, str], ...]]:
    """Return the keys that find a triplet: two of its words, or one, with their slots."""
    words = list(enumerate(triplet))
    return [tuple(words[:place] + words[place + 1 :]) for place in range(len(words))] + [(word,) for word in words]
