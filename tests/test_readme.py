"""The README's blocks run as printed, one after the other."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

import tiny_vlms
from notice_lens import HookedBLIP

README = Path(__file__).parent.parent / "README.md"
MEASURED = Path(__file__).parent.parent / "docs" / "performance.md"


def test_the_blocks_run_as_printed():
    three, ten_lines, many, there, _ = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    exec(three.replace("viz.curve(", "figure = viz.curve(").replace("n=20", "n=10"), names)
    assert "of 48 heads carry" in names["figure"].layout.title.subtitle.text
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
    hooked = names["model"].run_with_hooks(
        names["inputs"], fwd_hooks=[("text.blocks.2.cross_attn.hook_z", names["my_hook"])]
    )
    assert (hooked - names["logits"]).abs().max() > 1e-3, "the hook does what its comment says"


def test_the_block_of_hosted_models_runs_on_a_tiny_one(tmp_path, monkeypatch):
    """On a tiny LLaVA in place of the published one; its largest effect is that of a full hooked forward pass."""
    *_, block = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    folder = tiny_vlms.write("llava", tmp_path / "llava")
    for seed, name in enumerate(("red_apple.jpg", "green_apple.jpg")):
        tiny_vlms.picture(seed, 28).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    block = block.replace('"llava-hf/llava-1.5-7b-hf"', repr(str(folder)))
    names: dict = {}
    exec(block.replace('dtype="bfloat16", device_map="cuda"', 'dtype="float64"'), names)
    effects, vlm = names["effects"], names["vlm"]
    assert effects.metric.shape == (3, 4, 1)
    moved = abs(effects.metric - effects.metric_corrupted)
    layer, head, _ = np.unravel_index(int(np.argmax(moved.data)), moved.shape)
    hook = f"language.blocks.{layer}.attn.hook_z"
    _, cache = vlm.run_with_cache(names["clean"], names_filter=hook)

    def patched(z, hook):
        z[:, -1, head] = cache[hook.name][:, -1, head]

    logits = vlm.run_with_hooks(names["corrupted"], fwd_hooks=[(hook, patched)])[0, -1].detach().numpy()
    gap = abs(effects.metric_clean - effects.metric_corrupted)
    assert moved.max() > 1e-3 * gap
    assert abs(logits[names["red"]] - logits[names["green"]] - effects.metric.values[layer, head, 0]) < 1e-9 * gap


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
