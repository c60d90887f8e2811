"""The blocks of docs/circuits.md run as printed, in their order, on the mini model."""

import re
from pathlib import Path

import numpy as np
import pytest

from notice_lens import patching

DOCS = Path(__file__).parents[2] / "docs" / "circuits.md"


@pytest.mark.large
def test_the_blocks_run() -> None:
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 10
    for block in blocks:
        exec(block, names)
    heads = names["heads"]
    assert heads.significant.dims == ("layer", "head")
    carried = patching.carried(names["sweeps"]["states image"]).sel(role="correct")
    np.testing.assert_allclose(heads.effect, patching.aggregate(carried, "carried_share"), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(heads.effect_of_gap, patching.aggregate(carried), rtol=1e-5, atol=1e-7)
    assert (heads.attrs["clusters"], heads.attrs["cluster"]) == (20, "shared")
    assert (heads.attrs["task"], heads.attrs["corruption"], heads.attrs["role"]) == ("states", "image", "correct")
    assert names["universal"].effect.dims == ("condition", "layer", "head")
    assert abs(names["profile"].share.sum() - 1) < 1e-9
    assert names["agreement"].attrs["noise"] == "noise"
    assert names["agreement"].spearman.sel(corruption="SMP", other="noise").notnull()
    together = names["together"]
    assert together.interaction.dims == ("pair_of_heads", "direction")
    assert together.attrs["clusters"] == 20
    assert (together.interaction_low <= together.interaction_high).all()
    curve, circuit = names["curve"], names["circuit"]
    assert float(curve.share.sel(direction="denoise", size=24)) > 0.99
    assert len(circuit.attrs["circuit"]) == int(circuit.in_circuit.sum())
    shared = names["shared"]
    assert shared.jaccard.dims == ("one", "other")
    assert set(shared.attrs["shared"]) <= set(circuit.attrs["circuit"]) & set(names["other"].attrs["circuit"])
    assert names["paper"].magnitude.dims == ("layer", "head")
