"""Small raw downloads in their owners' layouts, of pictures that are noise."""

import csv
from pathlib import Path

from picture_folders import folders, picture

SVO = "sentence,pos_triplet,neg_triplet,pos_url,neg_url,pos_image_id,neg_image_id,subj_neg,verb_neg,obj_neg".split(",")


def raw_folder(root: Path) -> Path:
    """All three data sets in one folder, as the presets `notice-blip` and `notice-llava` take them."""
    states = {f"{size}_{noun}": 4 for size in ("huge", "wide", "bent", "thin") for noun in ("box", "car")}
    folders(root / "mit-states", **states)
    folders(root / "faces", **dict.fromkeys(("happy", "angry", "neutral", "fear", "surprise"), 4))
    rows = []
    for number, (one, other) in enumerate([("dog", "cat"), ("boy", "girl"), ("horse", "bird"), ("man", "woman")]):
        for side in ("a", "b"):
            picture(root / "images" / f"{number}{side}.png", size=(16, 16))
        sentence = f"A {one} is sitting on the grass."
        triplets = [f"{one},sit,grass", f"{other},sit,grass"]
        rows.append([sentence, *triplets, "u", "u", f"{number}a", f"{number}b", "True", "False", "False"])
    with (root / "svo_probes.csv").open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([SVO, *rows])
    return root
