"""A small share of benchmarks/head_statistics.py: its rows, and draws that stop early without moving them."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner

from notice_lens.circuits import important_heads
from notice_lens.circuits.minimum_effect import Null, flips, resamples
from notice_lens.circuits.rules import Rules
from notice_lens.circuits.synthetic import synthetic_effects

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "head_statistics.py"
RULES = Rules(n_permutations=600)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[SCRIPT.stem] = module
    spec.loader.exec_module(module)
    return module


def planted(size: float, seed: int) -> tuple[np.ndarray, dict]:
    truth = np.zeros((4, 6))
    truth.ravel()[::6] = size
    return truth, {"effect": truth, "clusters": 60, "seed": seed}


def test_draws_that_stop_early_find_what_all_draws_find(script: ModuleType) -> None:
    some = 0
    for seed, size in enumerate((0.0, 0.02, 0.03, 0.04, 0.05, 0.06)):
        _, made = planted(size, seed)
        own = script.look(synthetic_effects(**made), RULES)
        kinds = [(flips, own.rng("flips"), False), (resamples, own.rng("null"), True)]
        draws = [
            [own.test.null(draw, n, rng, centred).draws for n in script.steps(600)] for draw, rng, centred in kinds
        ]
        every = script.judged([Null(np.concatenate(one)) for one in draws], own.test.statistic, RULES)
        found = script.run_once(synthetic_effects(**made), RULES)
        np.testing.assert_array_equal(found.max_t, every.max_t)
        np.testing.assert_array_equal(found.fdr, every.fdr)
        some += every.fdr.sum()
    assert some > 8


def test_runs_are_those_of_important_heads(script: ModuleType) -> None:
    truth, made = planted(0.09, 0)
    effects = synthetic_effects(**made)
    found = script.run_once(effects, RULES)
    for method in ("max_t", "fdr"):
        table = important_heads(effects, role=None, method=method, n_permutations=600, n_bootstrap=2)
        np.testing.assert_array_equal(getattr(found, method), table.significant.values.ravel())
        np.testing.assert_array_equal(table.significant, truth != 0)


def test_steps_add_up(script: ModuleType) -> None:
    assert [*script.steps(950)] == [100, 100, 200, 400, 150]
    assert sum(script.steps(3000)) == 3000


def test_planted_heads_are_found_and_no_others(script: ModuleType) -> None:
    """Ten runs of the row of the table that is most like real sweeps."""
    truth = np.zeros((12, 12))
    truth.ravel()[::15] = 0.06
    _, options = script.made(100, 2.0, "along", 0.08)
    runs = [
        script.run_once(synthetic_effects(truth, seed=seed, **options), Rules(n_permutations=3000))
        for seed in range(10)
    ]
    found, real = np.array([run.fdr for run in runs]), truth.ravel() > 0
    assert found[:, real].mean() >= 0.95
    assert found[:, ~real].sum() <= 0.05 * found.sum()


def test_the_table_is_printed(script: ModuleType) -> None:
    printed = CliRunner().invoke(script.main, ["--quick", "--only", "coverage", "--power-runs", "100"])
    assert printed.exit_code == 0, printed.output
    rows = [line for line in printed.output.splitlines() if line.startswith("| 40 clusters of 40 pairs, skewness 2")]
    assert len(rows) == 1
    assert float(rows[0].split("|")[3].split("±")[0]) > 0.85
