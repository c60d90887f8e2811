"""Made-up data folders of the presets in their published layouts, and a tiny LLaVA that knows their words."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import tiny_vlms
from notice_lens.pairs.builders.gqa import INSTRUCTION
from notice_lens.pairs.builders.visual_counterfact import questions
from notice_lens.pairs.io.records import as_png

COLOURS = ("red", "green", "blue", "yellow", "pink", "black")
THINGS = ("apple", "banana", "crow", "frog", "lemon", "pig", "rose", "swan", "tomato", "zebra", "cat", "dog")
SIDES = {"ChooseAttr": ("red", "green"), "LogicalObj": ("yes", "no"), "QueryAttr": ("left", "right")}
ASKED_FOR = {
    "ChooseAttr": "Is the {} red or green?",
    "LogicalObj": "Are there either pens or {}s that are red?",
    "QueryAttr": "On which side of the photo is the {}?",
}
FILES = {
    "ChooseAttr": "GQA_val_correct_question_with_choose_ChooseAttr.csv",
    "LogicalObj": "GQA_val_correct_question_with_existThatOr_LogicalObj.csv",
    "QueryAttr": "GQA_val_correct_question_with_positionQuery_QueryAttr.csv",
}
STATES = ("huge", "wide", "bent", "thin")
DETAILED = {"ChooseAttr": "chooseAttr", "LogicalObj": "existThatOr", "QueryAttr": "positionQuery"}
FALSE_OPTION = ("true option", "false option")
BOX = {"w": 14, "h": 14, "x": 0, "y": 7}
BOX_COLUMNS = [f"{name} {side}" for name in ("central object", "object1", "object2") for side in "whxy"]


def noise(seed: int, side: int = 28) -> Image.Image:
    """A picture of noise."""
    return tiny_vlms.picture(seed, side)


def tokenizer(
    special: Sequence[str] = ("<image>",), named: Mapping[str, str] = MappingProxyType({"image_token": "<image>"})
) -> PreTrainedTokenizerFast:
    """Words of all questions and answers as one token each, so that `here` and `usually` have as many.

    Args:
        special: Tokens of a family's template.
        named: Attribute to special token, as of `tiny_vlms.tokenizer`.
    """
    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    raw.decoder = decoders.Metaspace()
    said = [*(form for thing in THINGS for form in questions(thing)), *tiny_vlms.SENTENCES]
    said += [form.format(thing) + INSTRUCTION for form in ASKED_FOR.values() for thing in THINGS]
    forms = [*COLOURS, "yes", "no", "left", "right", *STATES, "box", "car", "this"]
    said += [word for form in forms for word in (form, form.capitalize()) for _ in range(3)]
    trainer = trainers.BpeTrainer(
        vocab_size=3000, special_tokens=["<pad>", "<s>", "</s>", "<unk>"], show_progress=False
    )
    raw.train_from_iterator(said * 2, trainer)
    raw.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens=dict(named), padding_side="left",
    )  # fmt: skip


def tiny_llava(folder: Path) -> Path:
    """A random LLaVA-1.5 of three layers with four heads."""
    return tiny_vlms.write(tiny_vlms.llava(tokenizer()), folder)


def color_rows() -> list[dict[str, Any]]:
    """Twelve rows of the colour split, as the hub has them."""
    return [
        {
            "object": thing, "correct_answer": str([COLOURS[number % 6].capitalize()]),
            "incorrect_answer": COLOURS[(number + 1) % 6].capitalize(),
            "original_image": {"bytes": as_png(noise(100 + number)), "path": None},
            "counterfact_image": {"bytes": as_png(noise(200 + number)), "path": None},
        }
        for number, thing in enumerate(THINGS)
    ]  # fmt: skip


def counterfact_folder(root: Path, rows: list[dict[str, Any]] | None = None) -> Path:
    """`data/color-00000-of-00001.parquet`, with an empty split of sizes beside it."""
    (root / "data").mkdir(parents=True)
    table = pd.DataFrame(color_rows() if rows is None else rows)
    table.to_parquet(root / "data" / "color-00000-of-00001.parquet")
    table.iloc[:0].to_parquet(root / "data" / "size-00000-of-00001.parquet")
    return root


def gqa_rows(kind: str, count: int) -> list[dict[str, str]]:
    """Questions of a type as a row of the authors' table; the last one has no box."""
    rows = []
    for number in range(count):
        one, other = SIDES[kind][:: 1 if number % 2 else -1]
        name = "object1" if kind == "LogicalObj" else "central object"
        box = dict.fromkeys(BOX_COLUMNS, "-") | {f"{name} {side}": str(at) for side, at in BOX.items()}
        rows.append({
            "question_id": f"0{number}{kind}", "img_id": str(1000 + number),
            "question": ASKED_FOR[kind].format(THINGS[number]), "answer": one, "type_detailed": DETAILED[kind],
            "captions": "a picture, of noise", **(box if number + 1 < count else dict.fromkeys(BOX_COLUMNS, "-")),
            **(dict(zip(FALSE_OPTION, (one, other), strict=True)) if kind == "ChooseAttr" else {}),
        })  # fmt: skip
    return rows


def gqa_pictures(root: Path, count: int) -> Path:
    (root / "images").mkdir(parents=True)
    for number in range(count):
        noise(300 + number).save(root / "images" / f"{1000 + number}.jpg", quality=95)
    return root


def gqa_tables(root: Path, count: int = 4) -> Path:
    """The authors' tables of three types, in `datasets`, and the pictures."""
    (gqa_pictures(root, count) / "datasets").mkdir()
    for kind, file in FILES.items():
        rows = gqa_rows(kind, count)
        with open(root / "datasets" / file, "w", newline="", encoding="utf-8") as opened:
            writer = csv.DictWriter(opened, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return root


def gqa_json(root: Path, count: int = 4) -> Path:
    """The same questions as GQA has them, with scene graphs."""
    gqa_pictures(root, count)
    records, scenes = {}, {}
    for kind in FILES:
        for number, row in enumerate(gqa_rows(kind, count)):
            semantic = [{"operation": "select", "dependencies": [], "argument": "thing (7)"}]
            if kind == "ChooseAttr":
                semantic.append({"operation": "choose color", "dependencies": [0], "argument": "red|green"})
            records[row["question_id"]] = {
                "question": row["question"], "imageId": row["img_id"], "answer": row["answer"],
                "isBalanced": True, "semantic": semantic,
                "types": {"detailed": DETAILED[kind], "semantic": "attr", "structural": "choose"},
                "annotations": {"question": {"2": "7"} if number + 1 < count else {}, "answer": {}},
            }  # fmt: skip
            scenes[row["img_id"]] = {"objects": {"7": {"name": "thing", **BOX}}}
    records["other"] = {**records["00ChooseAttr"], "types": {"detailed": "verifyAttr"}}
    (root / "val_balanced_questions.json").write_text(json.dumps(records), encoding="utf-8")
    (root / "val_sceneGraphs.json").write_text(json.dumps(scenes), encoding="utf-8")
    return root


def is_uniform(picture: Image.Image) -> bool:
    """Whether all pixels are the same."""
    pixels = np.asarray(picture).reshape(-1, 3)
    return bool((pixels == pixels[0]).all())
