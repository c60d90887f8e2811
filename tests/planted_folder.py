"""Planted models and pairs that fit them, as folders that commands take."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from conftest import make_small_pair
from notice_lens import HookedBLIP, MinimalPairs
from notice_lens.models.blip.weights import translate_one
from planted import picture


def save_model(model: HookedBLIP, folder: Path) -> Path:
    """A model of the size of `make_small_pair` in Hugging Face's format, each of its weights under its own name."""
    like = make_small_pair()
    like.hf.save_pretrained(folder)
    like.model.processor.save_pretrained(folder)
    ours = model.state_dict()
    ours["head.bias"] = ours["head.unembed.bias"]
    weights = {}
    for name, weight in like.hf.state_dict().items():
        names = list(translate_one(name, weight, "vqa") or ())
        if names:  # query, key and value are one in Hugging Face's image encoder
            weights[name] = torch.cat([ours[own] for own in names]).contiguous().clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def light_and_dark_folder(folder: Path, light_donor: bool, n: int = 16) -> Path:
    """Saved pairs: clean images are light and corrupted ones dark; `red` is where the decoder looks."""
    rows: list[dict[str, Any]] = [
        {
            "id": f"p{number}", "task": "planted", "kind": "vqa",
            "clean_image": picture(True, 3 * number), "corrupt_image": picture(False, 3 * number + 1),
            "donor_image": picture(light_donor, 3 * number + 2), "clean_prompt": "is this red or green?",
            "correct_answer": "red", "incorrect_answer": "green", "roles": {"correct": "red", "incorrect": "green"},
        }
        for number in range(n)
    ]  # fmt: skip
    MinimalPairs.from_rows(rows, progress=False).save(folder)
    return folder
