"""The figure of a circuit's graph, from made-up edges: which are drawn, how wide, how dashed, and what they say."""

from html import unescape

import numpy as np
import pytest
import xarray as xr

from notice_lens import viz

A, B = "text.cross_attn.L0.H1", "text.cross_attn.L2.H3"
EDGES = [
    ("object", A, "k", 0.02, 0.01, 0.03),
    ("object", A, "v", 0.2, 0.1, 0.3),
    ("<noun>", B, "q", 0.1, -0.05, 0.3),
    ("background", B, "v", 0.004, 0.001, 0.008),
    (A, B, "q", -0.1, -0.2, -0.05),
    (A, "answer", "", 0.4, 0.3, 0.5),
    (B, "answer", "", 0.05, 0.01, 0.1),
]


def made_graph(edges=EDGES) -> xr.Dataset:
    source, target, via, effect, low, high = (list(one) for one in zip(*edges, strict=True))
    ends = {
        name: ("edge", np.array(own, object)) for name, own in (("source", source), ("target", target), ("via", via))
    }
    coords = {**ends, "node": np.array([A, B], object), "layer": ("node", [0, 2])}
    values = {"effect": ("edge", effect), "effect_low": ("edge", low), "effect_high": ("edge", high)}
    attrs = {"regions": ["object", "background"], "roles": ["<noun>"], "pairs": 20, "clusters": 18}
    return xr.Dataset(values, coords, attrs)


def lines(figure) -> dict[str, object]:
    return {
        trace.hovertext.split("</b>")[0].removeprefix("<b>"): trace for trace in figure.data if trace.mode == "lines"
    }


def test_clear_edges_are_drawn_as_wide_as_they_are_large() -> None:
    drawn = lines(viz.circuit(made_graph()))
    assert {*drawn} == {f"object → {A}", f"{A} → {B}", f"{A} → answer", f"{B} → answer"}
    widths = [drawn[f"{A} → answer"].line.width, drawn[f"object → {A}"].line.width, drawn[f"{B} → answer"].line.width]
    np.testing.assert_allclose(np.diff(widths), [-0.2 / 0.4 * (11 - 1.2), -0.15 / 0.4 * (11 - 1.2)])
    against = drawn[f"{A} → {B}"]
    assert against.line.dash == "dash"
    assert against.line.color != drawn[f"{A} → answer"].line.color


def test_edges_run_from_left_to_right_and_past_no_node() -> None:
    figure = viz.circuit(made_graph([*EDGES, ("object", B, "v", 0.3, 0.2, 0.4)]))
    names = {"L0.H1": A, "L2.H3": B}
    nodes = next(trace for trace in figure.data if trace.mode == "markers+text")
    at = {names[text]: (x, y) for text, x, y in zip(nodes.text, nodes.x, nodes.y, strict=True)}
    for name, trace in lines(figure).items():
        assert np.all(np.diff(np.asarray(trace.x)) >= 0), name
        for node, (x, y) in at.items():
            if node not in name:
                passing = np.asarray(trace.y)[np.isclose(trace.x, x)]
                assert np.all(np.abs(passing - y) >= 0.5), name


def test_all_inputs_of_an_edge_are_told_and_names_are_escaped() -> None:
    figure = viz.circuit(made_graph(), least=0.0)
    drawn = lines(figure)
    said = unescape(drawn[f"object → {A}"].hovertext)
    assert "its values: +20.0% [+10.0%, +30.0%]" in said
    assert "its keys: +2.0%" in said
    assert f"background → {B}" in drawn
    written = " ".join(annotation.text for annotation in figure.layout.annotations)
    assert "<noun>" not in written
    figure = viz.circuit(made_graph([("<noun>", B, "q", 0.1, 0.05, 0.3)]))
    assert any(
        "&lt;noun&gt;" in annotation.text and "word: " in annotation.text for annotation in figure.layout.annotations
    )


def test_top_keeps_the_largest_and_the_subtitle_says_so() -> None:
    figure = viz.circuit(made_graph(), top=2)
    assert {*lines(figure)} == {f"object → {A}", f"{A} → answer"}
    said = figure.layout.title.subtitle.text
    assert "the 2 largest" in said
    assert "20 pairs in 18 clusters" in said


def test_a_graph_without_a_clear_edge_still_shows_its_heads() -> None:
    figure = viz.circuit(made_graph([("object", A, "v", 0.2, -0.1, 0.3)]))
    assert not lines(figure)
    assert next(trace for trace in figure.data if trace.mode == "markers+text").text == ("L0.H1", "L2.H3")


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        ([1], {}, TypeError, "viz.circuit takes a result of circuits.circuit_graph; got list"),
        (made_graph().drop_vars("via"), {}, ValueError, "this one lacks 'via'"),
        (made_graph(), {"least": 1.0}, ValueError, "least=1.0: expected a share of the gap"),
        (made_graph(), {"top": 0}, ValueError, "top=0: expected a number of edges"),
    ],
)
def test_what_it_cannot_draw_is_named(given, options, error, message) -> None:
    with pytest.raises(error, match=message):
        viz.circuit(given, **options)
