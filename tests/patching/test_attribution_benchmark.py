"""The numbers of benchmarks/attribution.py: by SciPy, by loops, by all orders of few heads, on planted effects."""

import importlib.util
import sys
from itertools import permutations
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The benchmark; it imports another one, which lies beside it."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("attribution_benchmark", BENCHMARKS / "attribution.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


def effects(n_pairs: int = 12, n_heads: int = 5, n_roles: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Estimates and exact effects [pair, head, role]; pairs 0 to 2 lack the last role, and no pair has the second."""
    rng = np.random.default_rng(3)
    exact = rng.normal(0, 1, (n_heads, n_roles)) + rng.normal(0, 0.5, (n_pairs, n_heads, n_roles))
    estimates = 0.6 * exact + rng.normal(0, 0.4, exact.shape)
    for own in (exact, estimates):
        own[:3, :, 2] = np.nan
        own[:, :, 1] = np.nan
    return estimates, exact


def by_hand(estimates: np.ndarray, exact: np.ndarray, least: float) -> tuple[float, float, int]:
    """Correlation, share of the same signs and how many of the ten largest are the same, of means [cell]."""
    cells = range(len(exact))
    counted = [cell for cell in cells if abs(exact[cell]) >= least]
    same = sum(np.sign(exact[cell]) == np.sign(estimates[cell]) for cell in counted) / len(counted)
    tops = [set(sorted(cells, key=lambda cell: -abs(own[cell]))[:10]) for own in (exact, estimates)]
    return float(stats.pearsonr(exact, estimates)[0]), same, len(tops[0] & tops[1])


def test_an_agreement_is_that_of_the_means(script: ModuleType) -> None:
    estimates, exact = effects()
    found = script.agreement(estimates, exact, np.arange(12), 0.3)
    means = [np.nanmean(own[:, :, [0, 2]], 0).ravel() for own in (estimates, exact)]
    expected = by_hand(*means, 0.3)
    np.testing.assert_allclose([found.correlation, found.signs, found.overlap], expected)
    assert found.low < found.correlation < found.high
    assert str(found).startswith(f"{expected[0]:.2f} [{found.low:.2f}, {found.high:.2f}] (")


def test_chance_is_that_of_all_orders_of_the_heads(script: ModuleType) -> None:
    """Each head keeps its roles: of five heads there are 120 orders, of which a thousand draws see all."""
    estimates, exact = effects()
    found = script.agreement(estimates, exact, np.arange(12), 0.3)
    estimate, true = (np.nanmean(own[:, :, [0, 2]], 0) for own in (estimates, exact))
    every = np.array([by_hand(estimate[list(order)].ravel(), true.ravel(), 0.3) for order in permutations(range(5))])
    near = np.quantile(every, [0.92, 0.98], axis=0)
    assert (near[0] - 1e-9 <= found.chance).all()
    assert (np.array(found.chance) <= near[1] + 1e-9).all()


def test_pairs_of_one_cluster_are_drawn_together(script: ModuleType) -> None:
    """Every pair twice: the interval is that of each pair once, and narrower where copies count as evidence."""
    estimates, exact = effects()
    once = script.agreement(estimates, exact, np.arange(12), 0.3)
    twice = [np.repeat(own, 2, axis=0) for own in (estimates, exact)]
    together = script.agreement(*twice, np.arange(24) // 2, 0.3)
    apart = script.agreement(*twice, np.arange(24), 0.3)
    np.testing.assert_allclose([together.low, together.high], [once.low, once.high])
    assert apart.high - apart.low < together.high - together.low
    assert np.isnan(script.agreement(estimates, exact, np.zeros(12, int), 0.3).low)


def test_where_nothing_moves_there_is_no_agreement(script: ModuleType) -> None:
    estimates, exact = effects()
    assert script.agreement(estimates, 1e-6 * exact, np.arange(12), 0.3) is None


def test_the_interval_holds_planted_correlations(script: ModuleType) -> None:
    """Exact and estimated effects of single pairs vary together, as two computations on one pair do."""
    rng, covered = np.random.default_rng(0), []
    exact = rng.choice([-1.0, 1.0], 32) * 0.15 * (np.arange(1, 33) / 32) ** 6
    truth = np.stack([exact, exact * np.exp(0.3 * rng.normal(size=32))])
    for _ in range(40):
        found = script.agreement(*script.planted(rng, 24, truth, 0.9), np.arange(24), 1e-4)
        covered.append(found.low <= stats.pearsonr(*truth)[0] <= found.high)
    assert np.mean(covered) >= 0.9
