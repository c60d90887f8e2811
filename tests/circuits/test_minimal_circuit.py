"""Minimal circuits: planted ones are found exactly, the search is what exhaustive search finds, scores are held out."""

from itertools import combinations

import numpy as np
import pytest
import xarray as xr

from notice_lens import HookedBLIP, circuits, patching
from notice_lens.circuits.joint import JointPatches, halves, nodes_at
from notice_lens.pairs import mini_world
from notice_lens.stats.clusters import clusters_of
from planted import Gate, Majority, light_and_dark, planted

QUIET = {"progress": False}
EXACT = 1e-4


def name(head):
    return f"text.cross_attn.L{head[0]}.H{head[1]}"


DESIGNS = {
    "one": ([(0, 1)], {0: 1.0}, []),
    "AND of two": ([(0, 1), (1, 2)], {2: 1.0}, [Gate(2, (0, 1))]),
    "OR of two": ([(0, 1), (1, 2)], {2: 1.0}, [Gate(2, (0, 1), True)]),
    "AND of three": ([(0, 0), (0, 2), (1, 1)], {3: 1.0}, [Gate(3, (0, 1, 2))]),
    "OR of three": ([(0, 0), (0, 2), (1, 1)], {3: 1.0}, [Gate(3, (0, 1, 2), True)]),
    "a sum of three": ([(0, 0), (0, 2), (1, 1)], {0: 1.0, 1: 1.0, 2: 1.0}, []),
}


@pytest.mark.parametrize("design", DESIGNS)
def test_planted_circuits_are_found_exactly(design):
    """Planted: a gate over one, two or three heads, among six. Faithful and complete on the other half, and stable."""
    heads, reads, gates = DESIGNS[design]
    model = planted({head: channel for channel, head in enumerate(heads)}, reads, gates)
    found = circuits.minimal_circuit(model, light_and_dark(n=12), n_resamples=4, n_random=3, **QUIET)
    assert sorted(found.attrs["circuit"]) == sorted(map(name, heads))
    np.testing.assert_allclose([found.faithfulness, found.completeness], 1, atol=EXACT)
    np.testing.assert_array_equal(found.stability, found.in_circuit)


def test_two_of_a_majority_of_three_are_enough_both_ways():
    """Planted: what two or three of three heads say; no single patch shows anything. Any two restore, and lose, all."""
    heads = [(0, 0), (0, 2), (1, 1)]
    model = planted({head: channel for channel, head in enumerate(heads)}, {3: 1.0}, [Majority(3, (0, 1, 2))])
    found = circuits.minimal_circuit(model, light_and_dark(n=12), n_resamples=0, n_random=0, **QUIET)
    assert len(found.attrs["circuit"]) == 2
    assert {*found.attrs["circuit"]} < {*map(name, heads)}
    np.testing.assert_allclose([found.faithfulness, found.completeness], 1, atol=EXACT)
    assert found.stability.isnull().all()


@pytest.fixture(scope="module")
def mini():
    return HookedBLIP.mini(), mini_world("states", n=24, seed=2)


@pytest.fixture(scope="module")
def searched(mini):
    model, pairs = mini
    return circuits.minimal_circuit(model, pairs, share=0.6, lower=0.5, n_resamples=6, n_random=5, seed=1, **QUIET)


@pytest.mark.large
def test_no_node_can_be_left_out(mini, searched):
    """By hand, on the half that chose: the circuit reaches the share both ways, and without any of its heads not."""
    model, pairs = mini
    chosen, held_out = (pairs.select(half.tolist()) for half in halves(pairs, 1))
    circuit = searched.attrs["circuit"]

    def shares(names, some):
        edits = [patching.Edit("text.cross_attn.z", int(one.split(".L")[1][0]), int(one[-1])) for one in names]
        found = []
        for direction, sign in (("denoise", 1), ("noise", -1)):
            own = patching.run_variants(model, some, {"these": edits}, direction=direction, controls=(), **QUIET)
            gap = float((own.logit_diff_clean - own.logit_diff_corrupt).sum())
            found.append(sign * float(own.logit_diff_change.sum()) / gap)
        return found

    assert min(shares(circuit, chosen)) >= 0.6 - 1e-4
    for left_out in circuit:
        assert min(shares([one for one in circuit if one != left_out], chosen)) < 0.6
    np.testing.assert_allclose([searched.faithfulness, searched.completeness], shares(circuit, held_out), atol=1e-4)
    assert {*chosen["clean_digest"]}.isdisjoint(held_out["clean_digest"])


def test_the_search_is_near_the_best_of_all_sets(mini, searched):
    """All sets of a size smaller than the circuit's, of its seven best heads: none reaches the share."""
    model, pairs = mini
    chosen = pairs.select(halves(pairs, 1)[0].tolist())
    nodes = nodes_at(model, None, "all")
    patches = JointPatches(model, chosen, nodes, **QUIET)
    best = np.argsort(-np.maximum(searched.restores.values, searched.costs.values))[:8].tolist()
    size = len(searched.attrs["circuit"]) - 1
    sets = [frozenset(one) for one in combinations(best, size)]
    patches.measure(sets)
    assert max(patches.shares(one).min() for one in sets) < 0.6


def test_stability_is_the_share_of_resamples(searched):
    assert searched.sizes["resample"] == 6
    assert float(searched.stability.sum()) * 6 == pytest.approx(float(searched.resampled_size.sum()))
    assert ((searched.stability >= 0) & (searched.stability <= 1)).all()


@pytest.mark.large
def test_a_surer_search_takes_no_fewer_heads(mini, searched):
    model, pairs = mini
    sure = circuits.minimal_circuit(model, pairs, share=0.6, lower=0.99, n_resamples=0, n_random=0, seed=1, **QUIET)
    assert len(sure.attrs["circuit"]) >= len(searched.attrs["circuit"])
    assert sure.attrs["searched_faithfulness"] > 0.6


def test_errors_of_shares_are_those_of_resampled_clusters(mini):
    """Against the spread of the ratio over bootstrap resamples of clusters."""
    model, pairs = mini
    patches = JointPatches(model, pairs, nodes_at(model, None, "all"), **QUIET)
    some = frozenset(range(16, 22))
    patches.measure([some])
    rng = np.random.default_rng(0)
    labels = clusters_of(pairs)
    counts = rng.multinomial(labels.max() + 1, np.full(labels.max() + 1, 1 / (labels.max() + 1)), 4000)
    drawn = np.array([patches.shares(some, own[labels].astype(float)) for own in counts])
    np.testing.assert_allclose(patches.errors(some, np.ones(len(pairs))), drawn.std(0), rtol=0.1)
    twice = patches.errors(some, np.full(len(pairs), 2.0))
    np.testing.assert_allclose(twice * np.sqrt(2), patches.errors(some, np.ones(len(pairs))), rtol=0.03)


def made(*inside, layers=3, heads=8):
    """A circuit by the numbers of its nodes."""
    names = [f"text.cross_attn.L{n // heads}.H{n % heads}" for n in range(layers * heads)]
    return xr.Dataset(
        {"in_circuit": ("node", [n in inside for n in range(len(names))])},
        coords={"node": names, "alike": ("node", [n // heads for n in range(len(names))])},
    )


def test_shared_nodes_of_two_circuits():
    found = circuits.shared_nodes({"a": made(0, 1, 9), "b": made(0, 9, 10)}, n_random=4_000)
    assert float(found.jaccard.sel(one="a", other="b")) == pytest.approx(2 / 4)
    assert found.attrs["shared"] == ["text.cross_attn.L0.H0", "text.cross_attn.L1.H1"]
    assert int(found.in_all) == 2
    assert found["count"].values[:2].tolist() == [2, 1]
    # Two of eight and one of eight share one with chance 1/4; one of eight and two of eight the same: both, 1/16.
    assert float(found.in_all_p) == pytest.approx(1 / 16, abs=0.015)
    assert float(found.in_all_expected) == pytest.approx(0.5, abs=0.03)


def test_the_null_of_shared_nodes_knows_the_layers():
    """Two circuits that are all of a layer share all of it by chance alone."""
    found = circuits.shared_nodes({"a": made(*range(8)), "b": made(*range(8))}, n_random=99)
    assert float(found.jaccard_p.sel(one="a", other="b")) == 1
    assert float(found.in_all_p) == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"share": 0.0}, ValueError, "share=0.0: expected a share of the gap"),
        ({"share": 1.2}, ValueError, "above 0 and at most 1"),
        ({"lower": 0.2}, ValueError, "lower=0.2: expected a one-sided confidence"),
        ({"n_resamples": -1}, ValueError, "n_resamples"),
        ({"nodes": "text.cross_attn.L0.H0"}, ValueError, "all 1 nodes together restore"),
        ({"controls": "self"}, TypeError, "minimal_circuit decides it itself"),
    ],
)
def test_what_cannot_be_is_said(mini, options, error, message):
    model, pairs = mini
    with pytest.raises(error, match=message):
        circuits.minimal_circuit(model, pairs, **{**QUIET, **options})


def test_circuits_that_cannot_be_compared_are_named():
    with pytest.raises(ValueError, match="two or more"):
        circuits.shared_nodes({"a": made(0)})
    with pytest.raises(TypeError, match="circuit 'b' is of type dict"):
        circuits.shared_nodes({"a": made(0), "b": {}})
    with pytest.raises(ValueError, match="circuit 'b' is over other nodes than 'a'"):
        circuits.shared_nodes({"a": made(0), "b": made(0, heads=4)})
