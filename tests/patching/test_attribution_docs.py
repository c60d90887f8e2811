"""The blocks of docs/attribution.md run as printed, in their order, and give what their comments say."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs" / "attribution.md"


def test_the_blocks_run() -> None:
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    exec(blocks[0], names)
    assert dict(names["heads"].sizes) == {"pair": 4, "layer": 3, "head": 8, "role": 6}
    assert dict(names["mean"].sizes) == {"layer": 4, "head": 8}
    assert len(names["found"].children) == 37
    exec(blocks[1], names)
    assert names["words"]["text.mlp.post"].logit_diff_change.dims == ("pair", "layer", "role", "neuron")
    assert names["patches"]["vision.attn"].logit_diff_change.sizes["position"] == 65
    assert names["looks"].logit_diff_change.dims == ("pair", "layer", "head", "role", "key_region")
    exec(blocks[2], names)
    assert len(names["found"].children) == 19
    assert dict(names["found"]["language.attn.z"].sizes) == {"pair": 4, "layer": 6, "head": 8, "role": 1}
    exec(blocks[3], names)
    assert names["line"].attrs["integrated_gradients"] == 8
    exec(blocks[4], names)
    assert names["screened"].exact.dims == ("pair", "layer", "head", "role")
    assert (
        names["screened"]
        .attrs["missed"]
        .startswith("15 of 144 cells were picked, 30 of the 129 others were verified: ")
    )
