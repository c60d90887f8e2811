"""The README's blocks run as printed, one after the other."""

import re
from pathlib import Path

from PIL import Image

from notice_lens import HookedBLIP

README = Path(__file__).parent.parent / "README.md"
MEASURED = Path(__file__).parent.parent / "docs" / "performance.md"


def test_the_blocks_run_as_printed():
    ten_lines, many, there = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {"__name__": "a notebook"}  # and nothing else: no name that a reader would not have
    exec(ten_lines, names)
    assert names["pair"].clean_prompt == "is this circle green or purple?"
    assert names["effects"].shape == (3, 8)
    assert names["effects"].std() > 0
    exec(many, names)
    assert 95 <= len(names["pairs"]) <= 100
    assert dict(names["effects"].sizes) == {"pair": 20, "layer": 3, "head": 8, "role": 6}
    exec(there, names)
    assert {"low", "high", "q"} <= set(names["heads"])
    assert len(names["cache"]) > 100
    hooked = names["blip"].run_with_hooks(
        names["inputs"], fwd_hooks=[("text.blocks.2.cross_attn.hook_z", names["my_hook"])]
    )
    assert (hooked - names["logits"]).abs().max() > 1e-3, "the hook does what its comment says"


def test_its_speeds_are_those_of_the_performance_page():
    measured = MEASURED.read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| .+ \| ([\d.]+ s) \| ([\d,]+ s) \| ([\d.]+) \|$", README.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(rows) == 3
    assert "3.2" in {ratio for _, _, ratio in rows}, "the least of the measured gains stands beside the largest"
    for ours, theirs, ratio in rows:
        assert re.search(rf"\| {ours} \| (.*, )?{theirs} \| {ratio} \|", measured), (ours, theirs, ratio)


DOCS = README.parent / "docs" / "pairs.md"


def test_the_docs_of_pairs(tmp_path, monkeypatch):
    """Its blocks run in their order, but for those that read downloads."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for color in ("red", "green"):
        Image.new("RGB", (80, 60), color).save(f"{color}_apple.jpg")
    names: dict = {"HookedBLIP": HookedBLIP}
    first, own, regions, raw, noise = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    exec(first, names)
    assert len(names["pairs"]) > 90
    exec(noise, names)
    assert names["logits"].shape[0] == 4
    exec(own.partition('pairs = MinimalPairs.from_csv("')[0], names)
    assert names["pairs"][0].corrupt_prompt == "is this apple blue or black?"
    exec(regions, names)
    assert names["pairs"][0].clean_regions["object"].sum() == 40 * 20
    compile(raw, "docs/pairs.md", "exec")
