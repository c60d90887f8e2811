"""Planted circuits (see `planted`), put through the command line, come out as their construction says."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

from notice_lens.cli.commands import main
from planted import Gate, planted
from planted_folder import light_and_dark_folder, save_model


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> dict[str, Path]:
    """By direction: donors are of the base run's kind, so that the control restores nothing."""
    folder = tmp_path_factory.mktemp("pairs")
    return {name: light_and_dark_folder(folder / name, name == "noise") for name in ("denoise", "noise")}


def patched(blip: Any, pairs: dict[str, Path], folder: Path, direction: str = "denoise") -> tuple[Any, pd.DataFrame]:
    """What `notice-lens patch` says of a model and pairs, and its table of heads."""
    model, out = save_model(blip, folder / "model"), folder / "out"
    # The greedy answer of a planted model has no end, so the behaviour filter would drop all.
    command = ["patch", str(model), str(pairs[direction]), "--out", str(out), "--unfiltered", "--json"]
    command += ["--shown", "2", "--direction", direction]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(out / "tables" / "heads.csv").set_index(["layer", "head"])
    said = json.loads(result.stdout)["conditions"]["planted, image"]
    assert said.pop("clusters") == 16
    assert said.pop("share_of") == "what the mismatched donor leaves of the gap"
    return said, table


def check(table: pd.DataFrame, expected: dict[tuple[int, int], float]) -> None:
    """These heads have these effects, and all others none."""
    assert len(table) == 6
    for place, effect in table.effect.items():
        assert effect == pytest.approx(expected.get(place, 0.0), abs=1e-3), place


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_the_one_live_head_is_named_by_both_rules_and_the_distractor_by_neither(pairs, tmp_path, direction):
    distractor, live = (0, 0), (1, 2)
    blip = planted({distractor: 1, live: 0}, {0: 1.0})
    said, table = patched(blip, pairs, tmp_path, direction)
    assert said == {"pairs": 16, "significant": ["L1.H2"], "two_sigma": ["L1.H2"]}
    check(table, {live: 1.0})
    assert table.q[live] < 0.01
    assert table.q[distractor] == 1


@pytest.mark.parametrize(("either", "direction"), [(False, "noise"), (True, "denoise")], ids=["and", "or"])
def test_a_pair_of_heads_is_significant_where_each_alone_does_it(pairs, tmp_path, either, direction):
    """Two of six are no outliers among heads, so the two-sigma rule is blind to them."""
    blip = planted({(0, 1): 0, (1, 1): 1}, {2: 1.0}, [Gate(2, (0, 1), either)])
    said, table = patched(blip, pairs, tmp_path, direction)
    assert said == {"pairs": 16, "significant": ["L0.H1", "L1.H1"], "two_sigma": []}
    check(table, {(0, 1): 1.0, (1, 1): 1.0})


def test_an_and_pair_is_not_found_by_single_patches_that_restore(pairs, tmp_path):
    blip = planted({(0, 1): 0, (1, 1): 1}, {2: 1.0}, [Gate(2, (0, 1))])
    said, table = patched(blip, pairs, tmp_path)
    assert said["significant"] == []
    check(table, {})


def test_a_negative_head_keeps_its_sign(pairs, tmp_path):
    blip = planted({(0, 0): 0, (1, 1): 1}, {0: 2.0, 1: -1.0})
    said, table = patched(blip, pairs, tmp_path)
    assert said["significant"] == ["L0.H0", "L1.H1"]
    check(table, {(0, 0): 2.0, (1, 1): -1.0})
    assert table.sign[1, 1] == -1
    assert table.high[1, 1] < 0
