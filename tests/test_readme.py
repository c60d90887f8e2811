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
        exec(blocks[1], names)
    assert seen == [(2, 8, 6, 16)]
    assert len(names["cache"]) > 100
