"""The graph of a circuit: planted ones have the edges that they were built with; each edge is another verb's number."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from notice_lens import HookedBLIP, HookedVLM, circuits, patching
from notice_lens.circuits.joint import halves
from notice_lens.pairs import mini_world
from planted import Gate, light_and_dark, planted
from planted_looking import Looks, Says, looking, looking_pairs

QUIET: Any = {"progress": False}


def edges(graph: xr.Dataset, least: float = 0.01) -> dict[tuple[str, str, str], float]:
    """Edges by their ends and the input, as shares of the gap."""
    ends = zip(*(graph[name].values.tolist() for name in ("source", "target", "via")), strict=True)
    return {end: effect for end, effect in zip(ends, graph.effect.values.tolist(), strict=True) if abs(effect) > least}


def test_two_heads_in_series_are_a_chain() -> None:
    """The first writes at one word; the second reads it there by its values, and alone tells the decoder."""
    model = planted({(0, 1): 0}, {1: 1.0}, copies={(1, 2): (0, 1)})
    pairs = light_and_dark(n=6)
    first, second, idle = "text.cross_attn.L0.H1", "text.attn.L1.H2", "text.cross_attn.L1.H0"
    graph = circuits.circuit_graph(model, pairs, [second, idle, first], **QUIET)
    found = edges(graph)
    assert {end for end in found if end[0] in (first, second, idle)} == {(first, second, "v"), (second, "answer", "")}
    np.testing.assert_allclose([found[first, second, "v"], found[second, "answer", ""]], 1, atol=1e-6)
    assert graph.node.values.tolist() == [first, second, idle] or graph.node.values.tolist() == [first, idle, second]


def test_heads_that_meet_in_an_mlp_have_their_edge_through_it() -> None:
    """An OR of two: each alone brings the answer through the MLP, which is no head and is not frozen."""
    model = planted({(0, 1): 0, (1, 1): 1}, {2: 1.0}, [Gate(2, (0, 1), True)])
    heads = ["text.cross_attn.L0.H1", "text.cross_attn.L1.H1"]
    graph = circuits.circuit_graph(model, light_and_dark(n=6), heads, **QUIET)
    assert edges(graph) == pytest.approx({(head, "answer", ""): 1.0 for head in heads}, abs=1e-6)
    with_mlp = circuits.circuit_graph(model, light_and_dark(n=6), [*heads, "text.mlp.L1"], **QUIET)
    found = edges(with_mlp)
    assert found["text.mlp.L1", "answer", ""] == pytest.approx(1, abs=1e-6)
    assert all(found[head, "text.mlp.L1", "mlp"] == pytest.approx(1, abs=1e-6) for head in heads)


def test_a_head_that_looks_at_the_object_reads_the_object() -> None:
    pairs = looking_pairs(Says())
    graph = circuits.circuit_graph(looking({(1, 1): Looks(at_object=20.0)}), pairs, "text.cross_attn.L1.H1", **QUIET)
    found = edges(graph, 0.05)
    assert found["object", "text.cross_attn.L1.H1", "v"] > 0.9
    assert {end[0] for end in found if end[2] == "v"} == {"object"}


@pytest.mark.parametrize("kind", ["blip", "llava"])
def test_every_edge_is_a_number_of_another_verb(kind: str) -> None:
    """Reads are variants with one edit, paths are those of `patch_paths`; sums over pairs, NaN where a label is not."""
    if kind == "blip":
        model, pairs, module = HookedBLIP.mini(), mini_world("states", n=5, seed=3), "text.cross_attn"
    else:
        model, pairs, module = HookedVLM.mini(), mini_world("scenes", world="pictures", n=5, seed=3), "language.attn"
    heads = [f"{module}.L0.H1", f"{module}.L1.H2", f"{module}.L2.H3"]
    graph = circuits.circuit_graph(model, pairs, heads, corruption="image", **QUIET)
    reads, paths = [], []
    for number, (source, target, via) in enumerate(
        zip(graph.source.values, graph.target.values, graph.via.values, strict=True)
    ):
        (paths if source in heads else reads).append((number, str(source), str(target), str(via)))
    assert len(paths) == (3 + 3 if kind == "blip" else 3 + 9)
    variants = {
        str(number): patching.Edit(f"{module}.{via}", *_place(target), positions=[source])
        for number, source, target, via in reads
    }
    assert len(variants) > 20
    ran = patching.run_variants(model, pairs, variants, controls=(), **QUIET)
    for number, *_ in reads:
        _same(graph, number, ran, ran.logit_diff_change.sel(variant=str(number)))
    for number, source, target, via in paths:
        layer, head = _place(source)
        ends = {"receiver": "logits"}
        if target != "answer":
            ends = {"receiver": f"{module}.{via}"} | dict(
                zip(("receiver_layers", "receiver_heads"), _place(target), strict=True)
            )
        path = patching.patch_paths(
            model, pairs, module, sender_layers=layer, sender_heads=head, positions="all", freeze_mlp=False,
            controls=(), **ends, **QUIET,
        )  # fmt: skip
        _same(graph, number, path, path.logit_diff_change.squeeze())


def _place(name: str) -> tuple[int, int]:
    layer, head = name.rsplit(".", 2)[1:]
    return int(layer[1:]), int(head[1:])


def _same(graph: xr.Dataset, number: int, ran: xr.Dataset, change: xr.DataArray) -> None:
    there = change.notnull()
    gap = ran.logit_diff_clean - ran.logit_diff_corrupt
    expected = float(change.where(there).sum() / gap.where(there).sum()) if bool(there.any()) else np.nan
    assert float(graph.effect[number]) == pytest.approx(expected, abs=2e-5, nan_ok=True)


def test_edges_are_measured_on_the_pairs_that_did_not_choose_the_heads() -> None:
    model, pairs = HookedBLIP.mini(), mini_world("states", n=16, seed=1)
    circuit = circuits.minimal_circuit(model, pairs, share=0.7, n_resamples=0, n_random=0, **QUIET)
    held_out = pairs.select(halves(pairs, 0)[1].tolist())
    assert circuit.attrs["scored_ids"] == held_out["id"]
    whole = circuits.circuit_graph(model, pairs, circuit, **QUIET)
    half = circuits.circuit_graph(model, held_out, circuit.attrs["circuit"], **QUIET)
    assert whole.attrs["pairs"] == len(held_out)
    xr.testing.assert_equal(whole, half)


def test_of_a_curve_the_first_heads_are_taken_and_measured_where_they_were_scored() -> None:
    model, pairs = HookedBLIP.mini(), mini_world("states", n=16, seed=1)
    curve = circuits.restoration_curve(model, pairs, n_random=0, **QUIET)
    graph = circuits.circuit_graph(model, pairs, curve, **QUIET)
    restored = curve.share.sel(direction="denoise")
    size = int(curve["size"][int(np.argmax(restored.values >= 0.8))])
    heads = curve.order.values[0][:size].tolist()
    assert sorted(graph.node.values.tolist()) == sorted(heads)
    own = pairs.select(np.flatnonzero(curve.scored_in.values == 0).tolist())
    xr.testing.assert_equal(graph, circuits.circuit_graph(model, own, heads, **QUIET))


def test_a_word_and_a_region_of_one_name_are_two_ends() -> None:
    """In `scenes` the question names an object or subject, and the image has regions of these names."""
    model, pairs = HookedVLM.mini(), mini_world("scenes", world="pictures", n=6, seed=3)
    graph = circuits.circuit_graph(model, pairs, "language.attn.L0.H0", **QUIET)
    word = next(name for name in ("object", "subject") if name in graph.attrs["roles"])
    assert f"image:{word}" in graph.attrs["regions"]
    only = circuits.circuit_graph(model, pairs, "language.attn.L0.H0", labels=[f"image:{word}"], **QUIET)
    assert {*only.source.values} == {f"image:{word}", "language.attn.L0.H0"}
    swept = patching.sweep(
        model, pairs, patching.Site.of(model, "language.attn.v", layers=0, heads=[0], positions="regions"), **QUIET
    )
    expected = swept.logit_diff_change.sel(region=word).squeeze()
    _same(only, int(np.flatnonzero(only.via.values == "v")[0]), swept, expected)


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"circuit": ["text.cross_attn.L7.H0"]}, ValueError, "layer 7 asked for"),
        ({"circuit": xr.Dataset()}, ValueError, "expected a result of circuits.minimal_circuit or restoration_curve"),
        ({"labels": ["objekt"]}, ValueError, "no region or role 'objekt'; did you mean 'object'"),
        ({"direction": "noise"}, TypeError, "direction: circuit_graph decides it itself"),
    ],
)
def test_what_is_not_there_is_named(asked: dict[str, Any], error: type[Exception], message: str) -> None:
    model, pairs = HookedBLIP.mini(), mini_world("states", n=2, seed=1)
    given: dict[str, Any] = {"circuit": ["text.cross_attn.L0.H0"], **QUIET, **asked}
    with pytest.raises(error, match=message):
        circuits.circuit_graph(model, pairs, given.pop("circuit"), **given)
