"""Edits of a saved checkpoint, for tests of loading."""

import json

import torch
from safetensors.torch import load_file, save_file

from notice_lens import HookedBLIP


def edit_config(folder, part: str | None, **fields) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    (config[part] if part else config).update(fields)
    path.write_text(json.dumps(config))


def edit_weights(folder, edit) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def same_weights(a: HookedBLIP, b: HookedBLIP) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
