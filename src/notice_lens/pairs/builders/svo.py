"""Minimal pairs from SVO-Probes: two photographs whose subject, verb or object differs.

1. The published CSV is read; rows whose triplets and flags contradict each other are counted, not guessed at.
2. Their pictures are read once: missing and broken ones, and two copies of one picture, are counted.
3. A row becomes a question by rule, "is girl or boy sitting on beach?", asked of both pictures: two pairs, one with
   the positive picture clean and one with the negative. So each option is as often right as wrong, and the first as
   often as the second.
4. The options are replaced by other words of the same slot and token length (STR) for the corrupted prompt, and once
   more for the donor's; a picture with a third word in the slot is the donor image.

Limits: photographs differ in more than the word, see `pairs.minimality()`. Rows whose options mean nearly the same,
such as "man" and "person", are dropped, since both answers would be right.

Data: Hendricks and Nematzadeh, "Probing Image-Language Transformers for Verb Understanding", arXiv 2106.09141.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from notice_lens.errors import one_of
from notice_lens.pairs.builders.grammar import SLOTS
from notice_lens.pairs.builders.svo_csv import SvoRow, find_images, read_rows
from notice_lens.pairs.builders.svo_donors import Donors
from notice_lens.pairs.builders.svo_words import Asked, SvoWords
from notice_lens.pairs.image_folder import ReadablePicture, image_files, read_pictures, relative_name
from notice_lens.pairs.io.assembly import Built
from notice_lens.pairs.problems import DUPLICATE, IMAGE, NO_IMAGE, PairsError, Problem
from notice_lens.pairs.sampling import balanced, check_draw, option_orders
from notice_lens.pairs.tokens import as_tokenizer
from notice_lens.stats.clusters import cluster_numbers

if TYPE_CHECKING:
    from notice_lens.pairs.minimal_pairs import MinimalPairs

SAME_PICTURE = "both images are one picture"


def svo_probes(
    csv: str | PathLike[str],
    images: str | PathLike[str],
    tokenizer: Any,
    *,
    n: int | None = None,
    seed: int = 0,
    groups: Sequence[str] = SLOTS,
    confine: bool = False,
    progress: bool = True,
) -> "MinimalPairs":
    """Minimal pairs from the raw download of SVO-Probes.

    Experimental: it ran on made-up downloads of the published layout alone.

    Args:
        csv: `svo_probes.csv`, in UTF-8.
        images: A folder with the pictures by id, such as `123.jpg` or `123`; some may be missing.
        tokenizer: A HookedBLIP, a tokenizer, or a hub id or folder: replaced words have equal token counts for it.
        n: How many pairs, as equally many of each group as there are. Both directions of a row go together, so an odd
            number gives one pair fewer. None takes all.
        seed: Of the sampling, the order of the options and the replacements.
        groups: The slots that may differ: `subject`, `verb`, `object`.
        confine: Whether pictures that are links out of the folder count as unreadable.
        progress: Whether to show a progress bar while pictures are read.

    Returns:
        The pairs, with ids `svo-{line}-pos` and `svo-{line}-neg`; rows that gave none are dropped and counted.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ValueError: The file is empty, not in UTF-8 or lacks columns, the folder holds no images, or `n`, `seed` or
            `groups` is invalid.
        PairsError: Not one pair can be made; its message says why. A ValueError.
    """
    return build_svo(csv, images, tokenizer, n=n, seed=seed, groups=groups, confine=confine, progress=progress).pairs()


def build_svo(
    csv: str | PathLike[str],
    images: str | PathLike[str],
    tokenizer: Any,
    *,
    n: int | None = None,
    seed: int = 0,
    groups: Sequence[str] = SLOTS,
    confine: bool = False,
    progress: bool = True,
) -> Built:
    """Make the rows of `svo_probes`, with the same arguments and errors."""
    groups = _check(n, seed, groups)
    tokenizer = as_tokenizer(tokenizer)
    path = Path(csv)
    raw = path.read_bytes()
    rows, problems = read_rows(raw, path.name)
    words = SvoWords(rows, tokenizer)
    rows = [row for row in rows if row.group in groups]
    skipped: Counter[str] = Counter()
    files = find_images(image_files(images, skipped))
    rows, pictures, found = _with_pictures(rows, files, Path(images), confine, progress)
    problems += found
    donors = Donors(rows, pictures, words.near)
    sound: dict[str, Asked] = {}
    for row in rows:
        asked = words.ask(row, seed)
        if isinstance(asked, Problem):
            problems.append(asked)
        else:
            sound[row.id] = asked
    if not sound:
        raise PairsError(problems, len({problem.id for problem in problems}), "\nNo pair can be made of its rows")
    drawn = balanced([row for row in rows if row.id in sound], None if n is None else n // 2, seed)
    drawn.sort(key=lambda row: row.line)
    first = option_orders(drawn, seed, lambda row: tuple(sorted(row.options)))
    images_of = [[pictures[image].digest for image in (row.positive_id, row.negative_id)] for row in drawn]
    clusters = cluster_numbers(images_of).tolist()
    used = {digest: cluster for own, cluster in zip(images_of, clusters, strict=True) for digest in own}
    built = []
    for row, in_order, cluster in zip(drawn, first, clusters, strict=True):
        donor = donors.of(row, seed, used, cluster)
        built += _pairs(row, sound[row.id], pictures, donor, swap=not in_order)
    return Built(
        builder="svo_probes",
        source=path.name,
        checksum=hashlib.sha256(raw).hexdigest(),
        seed=seed,
        rows=built,
        problems=problems,
        options={
            "n": n,
            "groups": list(groups),
            "rows_used": len(drawn),
            **_counts(built),
            "skipped_files": dict(skipped),
        },
    )


def _check(n: Any, seed: Any, groups: Any) -> tuple[str, ...]:
    check_draw(n, seed)
    if n == 1:
        raise ValueError("n=1: both directions of a row go together; expected 2 or more, or None for all")
    groups = (groups,) if isinstance(groups, str) else tuple(groups)
    for group in groups:
        if group not in SLOTS:
            raise ValueError(one_of("group", group, SLOTS))
    if not groups:
        raise ValueError(f"groups is empty; expected some of {', '.join(SLOTS)}")
    return tuple(slot for slot in SLOTS if slot in groups)


def _counts(built: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the number of pairs of each kind, for the manifest."""
    return {
        "pairs_by_group": dict(Counter(row["group"] for row in built)),
        "with_donor_image": sum(row["donor_image"] is not None for row in built),
        "with_donor_prompt": sum(row["donor_prompt"] is not None for row in built),
    }


def _with_pictures(
    rows: Sequence[SvoRow], files: Mapping[str, Path], folder: Path, confine: bool, progress: bool
) -> tuple[list[SvoRow], dict[str, ReadablePicture], list[Problem]]:
    """Return the rows with two different pictures and a question of their own, and all pictures by image id."""
    wanted = sorted({image for row in rows for image in (row.positive_id, row.negative_id)} & files.keys())
    inventory = read_pictures([files[image] for image in wanted], root=folder, confine=confine, progress=progress)
    broken = {problem.id: problem.detail for problem in inventory.problems}
    pictures = {image: inventory.pictures[files[image]] for image in wanted if files[image] in inventory.pictures}
    kept, problems, seen = [], [], {}
    for row in rows:
        problem = None
        for image in (row.negative_id, row.positive_id):
            if image not in files:
                problem = Problem(f"line {row.line}", NO_IMAGE, f"no image {image:.80}.* in {folder.name}")
            elif image not in pictures:
                name = relative_name(files[image], folder)
                problem = Problem(f"line {row.line}", IMAGE, f"{name}: {broken[name]}")
        problem = problem or _repeated(row, pictures, seen)
        if problem:
            problems.append(problem)
        else:
            kept.append(row)
    return kept, pictures, problems


def _repeated(row: SvoRow, pictures: Mapping[str, ReadablePicture], seen: dict[Any, int]) -> Problem | None:
    """Return the problem of a row that shows one picture twice or repeats another row."""
    digests = frozenset(pictures[image].digest for image in (row.positive_id, row.negative_id))
    if len(digests) == 1:
        detail = f"images {row.positive_id} and {row.negative_id} hold the same pixels"
        return Problem(f"line {row.line}", SAME_PICTURE, detail)
    # Either way round, and whatever the sentence says: it is the same question about the same two pictures.
    first = seen.setdefault((digests, frozenset((row.positive, row.negative))), row.line)
    if first != row.line:
        return Problem(f"line {row.line}", DUPLICATE, f"the same pictures and question as line {first}")
    return None


def _pairs(
    row: SvoRow, asked: Asked, pictures: Mapping[str, ReadablePicture], donor: ReadablePicture | None, swap: bool
) -> Iterable[dict[str, Any]]:
    """Both directions of a row: the same questions, with the pictures and the answers exchanged."""
    positive, negative = pictures[row.positive_id], pictures[row.negative_id]
    right, wrong = asked.clean
    for name, clean, corrupt, answers in (
        ("pos", positive, negative, (right, wrong)),
        ("neg", negative, positive, (wrong, right)),
    ):
        # The other option is right in the other direction; the words and their order stay.
        forward = name == "pos"
        question = asked.question(answers, swap if forward else not swap)
        yield {
            "id": f"{row.id}-{name}",
            "task": "svo",
            "group": row.group,
            "kind": "vqa",
            "clean_image": clean.path,
            "corrupt_image": corrupt.path,
            "clean_prompt": question.text,
            "corrupt_prompt": asked.question(asked.corrupt, swap).text,
            "correct_answer": question.answer,
            "incorrect_answer": answers[1],
            "corrupt_answer": None,
            "donor_image": None if donor is None else donor.path,
            "donor_prompt": None if asked.donor is None else asked.question(asked.donor, swap).text,
            "roles": question.roles,
            "clean_digest": clean.digest,
            "corrupt_digest": corrupt.digest,
            "donor_digest": None if donor is None else donor.digest,
            "clean_triplet": ",".join(row.positive if forward else row.negative),
            "corrupt_triplet": ",".join(row.negative if forward else row.positive),
        }
