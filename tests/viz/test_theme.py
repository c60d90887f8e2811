"""The look that all figures share."""

from plotly.graph_objects import Figure

from notice_lens.viz.theme import finish

SAID = "12 of 24 heads carry 85% of the answer; as many at random 82%; these heads from an unrelated picture 40%; "


def test_a_subtitle_that_is_wider_than_the_figure_goes_on_below() -> None:
    """Plotly cuts off what is wider than the figure. The drawing keeps its height."""
    short, long = finish(Figure(), "Title", SAID, (760, 480)), finish(Figure(), "Title", SAID * 3, (760, 480))
    lines = long.layout.title.subtitle.text.split("<br>")
    assert len(lines) == 3
    assert " ".join(lines) == (SAID * 3).strip().replace("%", "&#37;")
    assert all(len(line.replace("&#37;", "%")) * 5.5 < 760 for line in lines)
    heights = [figure.layout.height - figure.layout.margin.t - figure.layout.margin.b for figure in (short, long)]
    assert heights[0] == heights[1]
    assert long.layout.height > short.layout.height
    assert "<br>" not in short.layout.title.subtitle.text


def test_markup_in_a_subtitle_is_text() -> None:
    assert "<b>" not in finish(Figure(), "Title", "<b>bold</b>").layout.title.subtitle.text
