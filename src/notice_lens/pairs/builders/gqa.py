"""Questions of GQA by the types of "Cross-modal Information Flow", each with the boxes of what it asks about.

Two layouts are read. The tables that the paper's authors publish, one for each type, hold the questions that they used,
with the options and boxes. GQA's own `val_balanced_questions.json` has the types in `types.detailed`; boxes are then
those of `val_sceneGraphs.json`, where it is there.

| type | `types.detailed` | for instance |
| --- | --- | --- |
| ChooseAttr | chooseAttr | Is the jar full or empty? |
| ChooseCat | categoryThatThisChoose, objThisChoose | Which kind of furniture is it, a table or a bed? |
| ChooseRel | relChooser | Is the cup to the left or to the right of the plate? |
| CompareAttr | twoCommon | What do the sofa and the pillow have in common? |
| LogicalObj | existThatOr, existThatOrC | Are there either tents or surfboards that are blue? |
| QueryAttr | positionQuery | On which side of the photo is the curtain? |

A pair needs a second picture and a foil, which the design does not have: the second picture is one of the first's mean
colour, the foil the other option, or the other most frequent answer of the type. No number of the design uses them.

Source: Zhang et al., arXiv 2411.18620; Hudson and Manning, "GQA", arXiv 1902.09506.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from notice_lens.errors import reading
from notice_lens.images import to_rgb
from notice_lens.pairs.io.tables import read_csv
from notice_lens.pairs.manifest import Manifest
from notice_lens.pairs.minimal_pairs import MinimalPairs
from notice_lens.pairs.problems import DUPLICATE, IMAGE, MISSING, NO_IMAGE, PairsError, Problem
from notice_lens.pairs.sampling import balanced
from notice_lens.progress import bar

GQA_TYPES: dict[str, tuple[str, ...]] = {
    "ChooseAttr": ("chooseAttr",),
    "ChooseCat": ("categoryThatThisChoose", "objThisChoose"),
    "ChooseRel": ("relChooser",),
    "CompareAttr": ("twoCommon",),
    "LogicalObj": ("existThatOr", "existThatOrC"),
    "QueryAttr": ("positionQuery",),
}
"""Each type of question, with GQA's names for it in `types.detailed`."""
INSTRUCTION = " \nAnswer the question using a single word or phrase."
ASKED, OBJECT, REST_OF_IMAGE = "asked", "object", "rest"
"""The role of the question's words, and the regions of the things that it is about and of all else."""
TABLE_COLUMNS = ("question_id", "img_id", "question", "answer")
BOXES = ("central object", "object1", "object2")
XYWH = tuple[int, int, int, int]


class GqaQuestion(NamedTuple):
    """A question about a picture.

    Attributes:
        id: GQA's.
        group: GQA's detailed type.
        image: The id of its picture.
        text: The question.
        answer: The right answer.
        foil: The other option; empty where the question has none.
        boxes: Of the things that it is about: x, y, width and height in pixels.
    """

    id: str
    group: str
    image: str
    text: str
    answer: str
    foil: str
    boxes: tuple[XYWH, ...]


def gqa_questions(
    folder: str | Path, *, n: int | None = None, seed: int = 0, progress: bool = True
) -> dict[str, MinimalPairs]:
    """Return questions of GQA as pairs, by type; those types that the folder has.

    Experimental: it ran on made-up folders of the published layouts alone.

    Args:
        folder: Holds `images` with pictures named by id (`2386586.jpg`), and either the authors' tables
            (`*_ChooseAttr.csv` and so on) or GQA's `*_questions.json`, with `*sceneGraphs.json` where boxes are wanted;
            tables and questions lie there, or in `datasets` or `questions`.
        n: Questions of each type; None takes all.
        seed: Of the draw.
        progress: Whether to show a bar while pictures are read.

    Returns:
        Pairs by type. The role `asked` is the question without the instruction behind it; the regions `object` and
        `rest` are the things that it is about and everything else, of questions with boxes.

    Raises:
        FileNotFoundError: The folder lacks pictures, or both tables and questions; the message says what is expected.
        ValueError: A file is in another layout.
        PairsError: Not one question of a type gives a pair. A ValueError.
    """
    folder = Path(folder)
    images = folder / "images"
    if not images.is_dir():
        raise FileNotFoundError(f"{folder} has no folder images: expected GQA's pictures by id in it, such as 1.jpg")
    made = {}
    for kind, (source, found) in _by_type(folder).items():
        questions, problems = _checked(found, images)
        drawn = balanced(questions, n, seed) if questions else []
        rows = _rows(drawn, images, problems, f"reading pictures of {kind}", progress)
        built = [{**row, "task": kind} for row in rows]
        if not built:
            raise PairsError(problems, len(problems), f"\nNo question of {source} gives a pair")
        manifest = Manifest("gqa_questions", source, seed=seed, options={"n": n, "type": kind})
        options = {"on_error": "drop", "manifest": manifest, "before": problems, "progress": False}
        made[kind] = MinimalPairs.from_rows(built, **options)
    return made


def _by_type(folder: Path) -> dict[str, tuple[str, list[GqaQuestion | Problem]]]:
    """Return the questions of each type, with the name of their file.

    Raises:
        FileNotFoundError: There are neither tables nor questions.
    """
    places = (folder, folder / "datasets", folder / "questions")
    tables = {kind: path for kind in GQA_TYPES for path in _files(places, f"*_{kind}.csv")[:1]}
    if tables:
        return {kind: (path.name, list(_of_table(path))) for kind, path in tables.items()}
    if files := _files(places, "*questions.json"):
        return _of_json(files[0], _files((folder, folder / "sceneGraphs", *places), "*sceneGraphs.json")[:1])
    raise FileNotFoundError(
        f"{folder} has no questions: expected the authors' tables, such as "
        "datasets/GQA_val_correct_question_with_choose_ChooseAttr.csv, or GQA's val_balanced_questions.json"
    )


def _files(places: Sequence[Path], pattern: str) -> list[Path]:
    return [path for place in places for path in sorted(place.glob(pattern))]


def _of_table(path: Path) -> Iterator[GqaQuestion | Problem]:
    """Read one of the authors' tables."""
    with reading(path):
        rows = read_csv(path)
        names = next((list(row) for row in rows if not isinstance(row, Problem)), [])
        if missing := [name for name in TABLE_COLUMNS if name not in names]:
            raise ValueError(f"it has no column {', '.join(missing)}; its columns are {', '.join(names)}")
    for row in rows:
        if isinstance(row, Problem):
            yield row
            continue
        image = row["img_id"].strip().removesuffix(".jpg")
        boxes = tuple(box for name in BOXES if (box := _box([row.get(f"{name} {side}") for side in "xywh"])))
        foil = (row.get("false option") or "").strip()
        group = row.get("type_detailed") or path.stem
        yield GqaQuestion(row["question_id"], group, image, row["question"], row["answer"].strip(), foil, boxes)


def _box(sides: Sequence[Any]) -> XYWH | None:
    """Return a box; None where a side is missing, which the tables write as a dash."""
    try:
        x, y, width, height = (round(float(side)) for side in sides)
    except (TypeError, ValueError):
        return None
    return x, y, width, height


def _of_json(path: Path, scenes: Sequence[Path]) -> dict[str, tuple[str, list[GqaQuestion | Problem]]]:
    """Read GQA's own questions, and the boxes of its scene graphs where they are there."""
    kind_of = {detailed: kind for kind, several in GQA_TYPES.items() for detailed in several}
    graphs = _json(scenes[0]) if scenes else {}
    found: dict[str, list[GqaQuestion | Problem]] = defaultdict(list)
    for name, record in _json(path).items():
        with reading(path):
            kind = kind_of.get(record["types"]["detailed"])
            if kind is not None:
                found[kind].append(_of_record(name, record, graphs.get(record["imageId"], {})))
    if not found:
        raise ValueError(f"{path} has no question of the types {', '.join(GQA_TYPES)}; `types.detailed` says which")
    return {kind: (path.name, found[kind]) for kind in GQA_TYPES if kind in found}


def _json(path: Path) -> dict[str, Any]:
    with reading(path):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"expected an object by id, got a {type(content).__name__}")
    return content


def _of_record(name: str, record: Mapping[str, Any], graph: Mapping[str, Any]) -> GqaQuestion:
    options = [str(step.get("argument", "")).split("|") for step in record.get("semantic", [])]
    answer = str(record["answer"])
    foils = [one for two in options if len(two) == 2 and answer in two for one in two if one != answer]
    things = graph.get("objects", {})
    pointed = dict.fromkeys((record.get("annotations") or {}).get("question", {}).values())
    sides = [[things[one].get(side) for side in "xywh"] for one in pointed if one in things]
    boxes = tuple(box for own in sides if (box := _box(own)))
    detailed, image = record["types"]["detailed"], str(record["imageId"])
    return GqaQuestion(name, detailed, image, record["question"], answer, foils[0] if foils else "", boxes)


def _checked(found: Sequence[GqaQuestion | Problem], images: Path) -> tuple[list[GqaQuestion], list[Problem]]:
    """Return the questions that have all they need, each with a foil, and why the others do not."""
    problems = [one for one in found if isinstance(one, Problem)]
    frequent = [answer for answer, _ in Counter(_usual_answers(found)).most_common()]
    questions: dict[str, GqaQuestion] = {}
    for one in found:
        if isinstance(one, Problem):
            continue
        foil = one.foil or next((answer for answer in frequent if answer != one.answer), "")
        if one.id in questions:
            problems.append(Problem(one.id, DUPLICATE, "the question was there before"))
        elif not (one.text and one.answer and foil):
            problems.append(Problem(one.id, MISSING, "no question, no answer, or only one answer in all of its type"))
        elif not (images / f"{one.image}.jpg").is_file():
            problems.append(Problem(one.id, NO_IMAGE, f"{images / one.image}.jpg is missing"))
        else:
            questions[one.id] = one._replace(foil=foil)
    return list(questions.values()), problems


def _usual_answers(found: Sequence[GqaQuestion | Problem]) -> Iterator[str]:
    """Yield the answers of a type; yes and no are each other's foils, whichever of them there is."""
    answers = [one.answer for one in found if isinstance(one, GqaQuestion)]
    yield from answers
    if answers and set(answers) <= {"yes", "no"}:
        yield from ("yes", "no")


def _rows(
    questions: Sequence[GqaQuestion], images: Path, problems: list[Problem], what: str, progress: bool
) -> Iterator[dict[str, Any]]:
    """Yield a row for each question whose picture can be read; the others become problems."""
    with bar(progress, what, total=len(questions), unit="pictures") as shown:
        for one in questions:
            path = images / f"{one.image}.jpg"
            try:
                picture = to_rgb(path)
            except (ValueError, OSError) as error:
                problems.append(Problem(one.id, IMAGE, f"{path}: {error}"))
                continue
            finally:
                shown.update(1)
            yield {
                "id": one.id, "group": one.group, "clean_image": path, "corrupt_image": _blank(picture),
                "clean_prompt": one.text + INSTRUCTION, "correct_answer": one.answer, "incorrect_answer": one.foil,
                "roles": {ASKED: [0, len(one.text)]}, "clean_regions": _regions(one.boxes, picture.size),
            }  # fmt: skip


def _blank(picture: Image.Image) -> Image.Image:
    """Return a picture of the same size, all of the first's mean colour."""
    red, green, blue = np.asarray(picture).reshape(-1, 3).mean(0).round().astype(int).tolist()
    return Image.new("RGB", picture.size, (red, green, blue))


def _regions(boxes: Sequence[XYWH], size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Return the masks of the boxes and of all else, [height, width]; nothing without a box in the picture."""
    mask = np.zeros(size[::-1], bool)
    for x, y, width, height in boxes:
        mask[max(0, y) : max(0, y + height), max(0, x) : max(0, x + width)] = True
    return {OBJECT: mask, REST_OF_IMAGE: ~mask} if mask.any() and not mask.all() else {}
