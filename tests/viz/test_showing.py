"""Figures as notebooks keep them: interactive with a picture, and interactive alone where nothing can draw one."""

import base64
import logging

import pytest
from plotly.graph_objects import Figure, Heatmap

from notice_lens import viz
from notice_lens.viz.display import INTERACTIVE, PICTURE, Shown


@pytest.fixture
def figure() -> Figure:
    return Figure(Heatmap(z=[[0.0, 1.0]]), {"width": 320, "height": 240, "title": "a figure"})


def test_the_picture_lies_beside_the_interactive_figure(figure):
    bundle, sizes = Shown(figure, b"a picture")._repr_mimebundle_()
    assert base64.b64decode(bundle[PICTURE]) == b"a picture"
    assert bundle[INTERACTIVE]["layout"]["title"] == {"text": "a figure"}
    assert [trace["type"] for trace in bundle[INTERACTIVE]["data"]] == ["heatmap"]
    assert sizes == {PICTURE: {"width": 320, "height": 240}}


def test_without_kaleido_or_its_browser_the_figure_is_shown_alone(figure, monkeypatch, caplog):
    def broken(*_, **__):
        raise RuntimeError("no browser here\nand a long story")

    monkeypatch.setattr(Figure, "to_image", broken)
    with caplog.at_level(logging.WARNING, "notice_lens.viz"):
        shown = viz.show(figure)
    assert caplog.messages == ["figure without a PNG: RuntimeError: no browser here"]
    bundle, sizes = shown._repr_mimebundle_()
    assert list(bundle) == [INTERACTIVE]
    assert sizes == {}


def test_a_picture_has_the_figures_own_size(figure, monkeypatch):
    """Plotly's extension of JupyterLab shows it pixel by pixel, whatever size its metadata say."""
    monkeypatch.setattr(Figure, "to_image", lambda self, format, scale: f"{format} {scale}".encode())
    assert viz.show(figure).png == b"png 1.0"


def test_the_scale_reaches_the_picture(figure, monkeypatch):
    monkeypatch.setattr(Figure, "to_image", lambda self, format, scale: f"{format} {scale}".encode())
    assert viz.show(figure, scale=3.0).png == b"png 3.0"


def test_what_is_no_figure_is_named(figure):
    with pytest.raises(TypeError, match=r"takes a Plotly figure, such as viz\.heads\(effects\); got list"):
        viz.show([1])
    with pytest.raises(ValueError, match="above 0; got 0.0"):
        viz.show(figure, scale=0.0)


def test_what_the_browser_ignores_is_not_said(caplog):
    """Kaleido's browser logs a traceback for each message that it ignores; its level is its own again afterwards."""

    class Drawn:
        data = ()

        def to_plotly_json(self) -> None: ...

        def to_image(self, **_: object) -> bytes:
            logging.getLogger("choreographer.channels.pipe").error("JSONError decoding message. Ignoring")
            return b"png"

    before = logging.getLogger("choreographer").level
    assert viz.show(Drawn()).png == b"png"
    assert not caplog.text
    assert logging.getLogger("choreographer").level == before
