"""The blocks of docs/head_functions.md run as printed, in their order."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[3] / "docs" / "head_functions.md"


def test_the_blocks_run():
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    exec(blocks[0], names)
    assert set(names["labels"].label.values) <= {"", *names["labels"].kind.values}
    assert names["labels"].label.values[0] == "implicit segmentation"
    exec(blocks[1], names)
    assert names["picture"].shape == (8, 8)
    assert names["functions"].role.values.tolist() == ["correct", "?"]
    exec(blocks[2], names)
    assert names["found"].auroc.dims == ("layer", "head")
    assert (names["functions"].testable_outlier == "no outlier patches").all()
    exec(blocks[3], names)
    assert "all" in names["labels"].group.values


def test_every_variable_that_is_explained_exists():
    names: dict = {}
    text = DOCS.read_text(encoding="utf-8")
    exec(
        re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0].replace("n=32", "n=4").replace("[(2, 2), (2, 4)]", "[]"),
        names,
    )
    explained = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    variables = {name for row in explained for name in re.findall(r"`(\w+)`", row)}
    assert len(variables) > 25
    assert variables <= {*names["functions"].data_vars, *names["labels"].data_vars}
