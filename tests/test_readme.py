"""The README's ten lines run as printed, but for the checkpoint, which cannot be fetched, and the device."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from notice_lens import HookedBLIP
from notice_lens.models.random_blip import save_random_checkpoint

README = Path(__file__).parent.parent / "README.md"


@pytest.fixture
def blocks(tmp_path, monkeypatch) -> list[str]:
    """The README's Python, in a folder that has a checkpoint and the pictures it names."""
    monkeypatch.chdir(tmp_path)
    save_random_checkpoint("checkpoint")
    for color in ("red", "green"):
        Image.new("RGB", (80, 60), color).save(f"{color}_apple.jpg")
    code = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return [block.replace("Salesforce/blip-vqa-base", "checkpoint").replace('"cuda"', '"cpu"') for block in code]


def test_the_ten_lines(blocks):
    names: dict = {}
    exec(blocks[0], names)
    assert names["effects"].shape == (4, 6)
    assert names["effects"].std() > 0


def test_minimal_pairs(blocks):
    names: dict = {}
    exec(blocks[1], names)
    assert names["pairs"][0].clean_prompt == "is this circle green or purple?"
    assert names["pairs"].token_spans(names["blip"])[0]["correct"] == (4, 5)
    assert 95 <= len(names["pairs"]) <= 100
    exec(blocks[2], names)
    assert dict(names["effects"].sizes) == {"pair": 20, "layer": 3, "head": 8, "role": 6}


DOCS = README.parent / "docs" / "pairs.md"


def test_the_docs_of_pairs(tmp_path, monkeypatch):
    """Its blocks run in their order, but for those that read downloads."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for color in ("red", "green"):
        Image.new("RGB", (80, 60), color).save(f"{color}_apple.jpg")
    names: dict = {"HookedBLIP": HookedBLIP}
    first, own, raw, noise = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    exec(first, names)
    assert len(names["pairs"]) > 90
    exec(noise, names)
    assert names["logits"].shape[0] == 4
    exec(own.partition('pairs = MinimalPairs.from_csv("')[0], names)
    assert names["pairs"][0].corrupt_prompt == "is this apple blue or black?"
    compile(raw, "docs/pairs.md", "exec")


def test_what_is_there(blocks):
    blip = HookedBLIP.from_pretrained("checkpoint")
    seen = []
    names = {
        "blip": blip,
        "images": ["red_apple.jpg", "green_apple.jpg"],
        "questions": ["is this red?", "what color is the apple?"],
        "my_hook": lambda z, hook: seen.append(z.shape),
    }
    with torch.no_grad():
        exec(blocks[3], names)
    assert seen == [(2, 8, 6, 16)]
    assert len(names["cache"]) > 100
