"""The blocks of docs/patching.md run as printed, in their order."""

import re
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).parents[2] / "docs" / "patching.md"


def test_the_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 8
    exec(blocks[0], names)
    assert names["effects"].logit_diff_change.dims == ("pair", "layer", "head", "role")
    assert names["own"].dims == ("layer", "head", "role")
    assert names["modules"].kl.dims == ("pair", "site", "layer", "role")
    exec(blocks[1], names)
    assert names["figure"].data[0].z.shape == (3, 8)
    exec(blocks[2], names)
    assert (names["effects"].entropy > 0).any()
    exec(blocks[3], names)
    assert names["looks"].kl.dims == ("pair", "layer", "head", "role", "key_region")
    exec(blocks[4], names)
    both = names["both"]
    assert both.indirect_effect.dims == ("pair", "layer", "head", "role")
    np.testing.assert_allclose(both.indirect_effect_share, names["mean"], atol=1e-6)
    exec(blocks[5], names)
    assert names["groups"]["variant"].values.tolist() == ["two heads", "blind"]
    exec(blocks[6], names)
    assert dict(names["together"].patching_effect.sizes) == {
        "pair": len(names["pairs"]), "direction": 2, "node": 3, "other": 3
    }  # fmt: skip
    exec(blocks[7], names)
    assert (tmp_path / "heads.zarr").is_dir()


def test_the_blocks_about_ablation_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", (DOCS.parent / "ablation.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    exec(blocks[0], names)
    assert names["single"].logit_diff_change.dims == ("pair", "layer", "head", "role")
    assert names["single"].change_mean.dims == ("layer", "head", "role")
    assert names["joint"].accuracy_ablated.dims == ("pair", "variant")
    exec(blocks[1], names)
    assert names["scores"].minimality.dims == ("node",)
    assert names["scores"].logit_diff_without.dims == ("pair", "node")
    exec(blocks[2], names)
    assert names["parts"].logit_diff_change.dims == ("pair", "part", "layer", "head", "role")
