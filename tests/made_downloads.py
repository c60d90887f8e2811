"""The files that pages of the docs speak of, made up: pictures, and downloads in their published layouts."""

import csv
from pathlib import Path

from PIL import Image

from pair_rows import picture

VERBS = ("sit", "stand", "run", "walk", "sleep", "jump")
STATES = ("large box", "tiny box", "bent box", "straight box", "round box", "red box", "green box")
EMOTIONS = ("angry", "happy", "sad", "surprise", "fear", "neutral", "disgust")
HEADER = "sentence,pos_triplet,neg_triplet,pos_url,neg_url,pos_image_id,neg_image_id,subj_neg,verb_neg,obj_neg"


def _pictures(folder: Path, count: int, start: int) -> None:
    folder.mkdir(parents=True)
    for number in range(start, start + count):
        picture(number).save(folder / f"{number}.jpg", quality=95)


def make(root: Path) -> None:
    """All of them, in one folder."""
    for name, color in {"red": "red", "green": "green", "yellow": "yellow"}.items():
        for ending in ("", "_apple"):
            Image.new("RGB", (80, 60), color).save(root / f"{name}{ending}.jpg")
    _pictures(root / "images", 2 * len(VERBS), 0)
    for place, state in enumerate(STATES):
        _pictures(root / "release_dataset" / "images" / state, 4, 100 + 10 * place)
    for place, emotion in enumerate(EMOTIONS):
        _pictures(root / "expressions" / "train" / emotion, 4, 200 + 10 * place)
    for number in range(1, 8):
        _pictures(root / "numbered_faces" / str(number), 4, 300 + 10 * number)
    with open(root / "fer2013.csv", "w", newline="", encoding="utf-8") as opened:
        faces = [
            [number % 7, " ".join(map(str, picture(400 + number, (48, 48)).convert("L").tobytes())), "Training"]
            for number in range(28)
        ]
        csv.writer(opened).writerows([["emotion", "pixels", "Usage"], *faces])
    rows = [
        [f"A girl is on the beach: {verb}.", f"girl,{verb},beach", f"girl,{other},beach", "", "", str(2 * number),
         str(2 * number + 1), "False", "True", "False"]
        for number, (verb, other) in enumerate(zip(VERBS, VERBS[1:] + VERBS[:1], strict=True))
    ]  # fmt: skip
    with open(root / "svo_probes.csv", "w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([HEADER.split(","), *rows])
