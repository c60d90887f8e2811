"""The blocks of docs/vision_language_models.md run, on a tiny LLaVA and BLIP-2 in place of the published ones."""

from pathlib import Path

import pytest

import tiny_vlms
from test_pages import DOCS, blocks

PAGE = DOCS / "vision_language_models.md"


def test_the_blocks_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, with_qformer = (tiny_vlms.write(family, tmp_path / family) for family in ("llava", "blip-2"))
    for seed, name in enumerate(("red_apple.jpg", "green_apple.jpg")):
        tiny_vlms.picture(seed, 28).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for number, (why, code) in enumerate(blocks(PAGE), 1):
        assert why is None
        here = code.replace('"llava-hf/llava-1.5-7b-hf"', repr(str(folder)))
        here = here.replace('"Salesforce/blip2-opt-2.7b"', repr(str(with_qformer)))
        here = here.replace('device_map="cuda"', "device_map=None")
        exec(compile(here.replace('"bfloat16"', '"float32"'), f"{PAGE.name}, block {number}", "exec"), names)
    assert names["effects"].shape == (3, 4)
    assert names["report"].passed
    assert names["queries"].sizes["position"] == tiny_vlms.N_QUERIES
    assert len(names["answer"]) == 1
    assert (names["edited"] - names["logits"]).abs().max() > 1e-3
