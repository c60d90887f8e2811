"""A small share of benchmarks/head_statistics.py: its rows, and draws that stop early without moving them."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner

from notice_lens.circuits import important_heads, universal_heads
from notice_lens.circuits.important import Rules
from notice_lens.stats.nulls import family_wise, p_values
from notice_lens.stats.synthetic import synthetic_effects

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
        effects = synthetic_effects(**made)
        found = script.run_once(effects, RULES)
        for method in ("max_t", "fdr"):
            table = important_heads(effects, role=None, method=method, n_permutations=600, n_bootstrap=2)
            np.testing.assert_array_equal(getattr(found, method), table.significant.values.ravel())
            some += table.significant.values.sum()
    assert some > 16


def test_draws_so_far_are_the_first_of_all_draws(script: ModuleType) -> None:
    own = script.look(synthetic_effects(**planted(0.04, 0)[1]), RULES)
    places = np.flatnonzero(own.test.statistic >= 0)
    tally = script.Tally(own, places)
    for several in script.steps(600):
        assert (tally.least_p <= p_values(own.nulls(), own.test.statistic)[places]).all()
        tally.add(several)
    by_own_draws = [null.own(own.test.statistic)[places] for null in own.nulls()]
    np.testing.assert_allclose(tally.least_p, np.maximum(*by_own_draws))
    assert tally.least_of_all <= family_wise(own.nulls(), own.test.statistic).min()


def test_runs_are_those_of_important_heads(script: ModuleType) -> None:
    truth, made = planted(0.09, 0)
    effects = synthetic_effects(**made)
    found = script.run_once(effects, RULES)
    for method in ("max_t", "fdr"):
        table = important_heads(effects, role=None, method=method, n_permutations=600, n_bootstrap=2)
        np.testing.assert_array_equal(getattr(found, method), table.significant.values.ravel())
        np.testing.assert_array_equal(table.significant, truth != 0)


@pytest.mark.parametrize("k", [2, 3])
def test_runs_of_several_conditions_are_those_of_universal_heads(script: ModuleType, k: int) -> None:
    conditions = [synthetic_effects(planted(0.05, 0)[0], clusters=60, seed=seed) for seed in range(3)]
    found = script.run_conditions(conditions, k, Rules(n_permutations=1000))
    options = {"role": None, "n_permutations": 1000, "n_bootstrap": 2, "n_null": 1}
    table = universal_heads(dict(zip("abc", conditions, strict=True)), at_least=k, **options)
    np.testing.assert_array_equal(found, table.universal.values.ravel())
    assert 0 < found.sum() < 6
    nothing = [synthetic_effects(np.zeros((4, 6)), clusters=60, seed=seed) for seed in range(2)]
    assert not script.run_conditions(nothing, 2, RULES).any()


def test_heads_of_one_condition_are_not_called_universal(script: ModuleType) -> None:
    """Sixty runs of fewer heads and draws: large in one condition, at the boundary, tails against it, in the other."""
    _, options = script.made(60, 3.0, "against")
    wrong = 0
    for seed in range(60):
        conditions = [synthetic_effects(np.full((4, 6), size), seed=[seed, 0], **options) for size in (0.06, 0.02)]
        wrong += script.run_conditions(conditions, 2, Rules(n_permutations=500)).any()
    assert wrong / 60 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)


def test_steps_add_up(script: ModuleType) -> None:
    assert [*script.steps(250)] == [100, 100, 50]
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
