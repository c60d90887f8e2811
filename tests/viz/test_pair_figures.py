"""Figures of pairs: the pictures and words that are in them, and what they say when there is nothing to show."""

import base64
import html
import io
import re
import subprocess
import sys
from typing import Any

import numpy as np
import plotly.io
import pytest
from PIL import Image

from notice_lens import viz
from notice_lens.pairs import mini_world
from notice_lens.pairs.minimal_pair import MinimalPair
from notice_lens.pairs.minimal_pairs import MinimalPairs
from notice_lens.viz.pair_figures import CORRECT_COLOUR, INCORRECT_COLOUR, REPLACED_COLOUR

MARKED = re.compile(r'<span style="color:([^"]*)"><b>(.*?)</b></span>')


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """As detailed as photographs are: blobs with a grain."""
    g = np.random.default_rng(seed)
    coarse = g.integers(0, 255, (max(2, height // 20), max(2, width // 20), 3), dtype=np.uint8)
    blobs = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), float)
    return Image.fromarray((blobs + g.normal(0, 15, blobs.shape)).clip(0, 255).astype(np.uint8))


def of_rows(*rows: dict[str, Any], **changes: Any) -> MinimalPairs:
    plain = {
        "task": "photos",
        "clean_image": photo(40, 30),
        "corrupt_image": photo(30, 40, 1),
        "clean_prompt": "is it a cat or a dog?",
        "correct_answer": "cat",
        "incorrect_answer": "dog",
    }
    numbered = [{"id": f"pair-{number}"} | plain | changes | row for number, row in enumerate(rows or [{}])]
    return MinimalPairs.from_rows(numbered, progress=False)


def pictures(figure: Any) -> list[Any]:
    return [trace for trace in figure.data if trace.type == "image"]


def decoded(trace: Any) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(trace.source.split(",")[1])))


def texts(figure: Any) -> list[str]:
    return [note.text for note in figure.layout.annotations]


def shown(figure: Any) -> str:
    """All text as it is read, wrapped or not."""
    joined = " ".join(text.replace("<br>", " ") for text in texts(figure))
    return html.unescape(re.sub(r"<[^<>]*>", "", joined))


def question(figure: Any, label: str) -> str:
    """The markup of the first question of a label."""
    written = texts(figure)
    return written[next(place for place, text in enumerate(written) if f">{label}<" in text) + 1]


def marked(markup: str) -> list[tuple[str, str]]:
    return [(html.unescape(word), colour) for colour, word in MARKED.findall(markup)]


def views(pair: MinimalPair) -> list[Image.Image]:
    return [image for image in (pair.clean_image, pair.corrupt_image, pair.donor_image) if image is not None]


@pytest.fixture(scope="module")
def states() -> MinimalPairs:
    return mini_world("states", 4, seed=3)


# Pictures


def test_small_pictures_are_the_pairs_pixels_drawn_crisp(states: MinimalPairs):
    traces = pictures(viz.pairs(states, 2))
    images = [image for pair in states[:2] for image in views(pair)]
    assert len(traces) == len(images) == 6
    for trace, image in zip(traces, images, strict=True):
        assert np.array_equal(np.asarray(decoded(trace)), np.asarray(image))
        assert trace.zsmooth is False


@pytest.mark.parametrize(
    ("size", "inside"), [((1200, 800), (320, 213)), ((500, 2000), (80, 320)), ((3000, 2), (320, 1))]
)
def test_large_pictures_are_shrunk_in_their_shape(size: tuple[int, int], inside: tuple[int, int]):
    trace = pictures(viz.pairs(of_rows(clean_image=photo(*size))))[0]
    assert decoded(trace).size == inside
    assert trace.zsmooth == "fast"
    assert f"{size[0]} x {size[1]} pixels, shown with {inside[0]} x {inside[1]}" in trace.hovertemplate


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG")
    return buffer.getvalue()


def test_six_pairs_of_large_photographs_stay_small():
    names = ("clean", "corrupt", "donor")
    images = {f"{name}_image": jpeg(photo(1000, 1000, seed)) for seed, name in enumerate(names)}
    figure = viz.pairs(of_rows(*[{}] * 6, **images))
    assert len(pictures(figure)) == 18
    assert len(figure.to_json()) < 1_000_000


def boxes(figure: Any) -> list[tuple[float, float, float, float]]:
    """Left, right, top and bottom of each picture, in pixels from the upper left of what is drawn."""
    layout, margin = figure.layout, figure.layout.margin
    across, down = layout.width - margin.l - margin.r, layout.height - margin.t - margin.b
    found = []
    for trace in pictures(figure):
        x, y = (layout[f"{axis[0]}axis{axis[1:]}"].domain for axis in (trace.xaxis, trace.yaxis))
        found.append((x[0] * across, x[1] * across, (1 - y[1]) * down, (1 - y[0]) * down))
    return found


def test_pictures_keep_their_shape_and_stand_in_columns_and_rows():
    sizes = [(64, 64), (1200, 300), (300, 1200), (200, 150)]
    rows = [{"clean_image": photo(*size), "corrupt_image": photo(*size[::-1]).rotate(180)} for size in sizes]
    figure = viz.pairs(of_rows(*rows))
    places = boxes(figure)
    shapes = [image.size for row in rows for image in (row["clean_image"], row["corrupt_image"])]
    for (left, right, top, bottom), (width, height) in zip(places, shapes, strict=True):
        assert (right - left) / (bottom - top) == pytest.approx(width / height, rel=0.01)
        assert max(right - left, bottom - top) > 200
    assert np.ptp([left for left, *_ in places[::2]]) < 0.01
    assert np.ptp([left for left, *_ in places[1::2]]) < 0.01
    tops = np.array([top for _, _, top, _ in places]).reshape(-1, 2)
    bottoms = np.array([bottom for *_, bottom in places]).reshape(-1, 2).max(1)
    assert np.allclose(tops[:, 0], tops[:, 1])
    assert (tops[1:, 0] > bottoms[:-1] + 60).all()


def test_axes_count_pixels_from_the_upper_left():
    layout = viz.pairs(of_rows()).layout
    assert (layout.xaxis.range, layout.yaxis.range) == ((-0.5, 39.5), (29.5, -0.5))
    assert (layout.xaxis2.range, layout.yaxis2.range) == ((-0.5, 29.5), (39.5, -0.5))
    assert layout.yaxis2.scaleanchor == "x2"


def test_a_missing_donor_leaves_its_cell_empty():
    figure = viz.pairs(of_rows({"donor_image": photo(30, 30, 2)}, {}))
    assert len(pictures(figure)) == 5
    lefts = [left for left, *_ in boxes(figure)]
    assert lefts[3:] == pytest.approx(lefts[:2])
    assert shown(figure).count("donor") == 1


def test_donors_have_a_column_only_where_there_are_any_or_they_are_asked_for(states: MinimalPairs):
    with_donors, without = viz.pairs(states, 1), viz.pairs(states, 1, donors=False)
    assert [len(pictures(figure)) for figure in (with_donors, without)] == [3, 2]
    assert "donor" not in shown(without)
    plain, forced = viz.pairs(of_rows()), viz.pairs(of_rows(), donors=True)
    assert plain.layout.width == without.layout.width < with_donors.layout.width == forced.layout.width


# Words


@pytest.mark.parametrize("task", ["scenes", "states", "faces"])
def test_marked_words_are_those_of_the_roles_and_the_replaced_ones(task: str):
    pairs = mini_world(task, 1, seed=5)
    pair, figure = pairs[0], viz.pairs(pairs)
    words = {pair.clean_prompt[start:end]: role for role, (start, end) in pair.roles.items()}
    found = dict(marked(question(figure, "clean")))
    assert found.keys() == words.keys()
    assert {words[word]: colour for word, colour in found.items()}.items() >= {
        ("correct", CORRECT_COLOUR),
        ("incorrect", INCORRECT_COLOUR),
    }
    assert len(set(found.values())) == len(words)
    assert dict(marked(texts(figure)[0])) == {role: found[word] for word, role in words.items()} | {
        "replaced": REPLACED_COLOUR
    }
    assert pair.corrupt_prompt is not None
    new = [word for word in re.findall(r"\w+", pair.corrupt_prompt) if word not in pair.clean_prompt]
    assert marked(question(figure, "corrupted")) == [(word, REPLACED_COLOUR) for word in new]


def test_answers_ids_tasks_and_groups_are_in_the_figure(states: MinimalPairs):
    for pair in states:
        figure = viz.pairs(states.filter(id=pair.id))
        text = shown(figure)
        assert f"{pair.task} · {pair.group} — pair 0 · vqa · {pair.id}" in text
        assert f"clean: {pair.correct_answer}" in text
        assert f"corrupted: {pair.incorrect_answer}" in text
        assert f"{pair.corrupt_prompt} → {pair.corrupt_answer} (clean image)" in text
        assert pair.clean_prompt in text
        assert f"donor {pair.donor_prompt} clean:" in text
        clean, corrupt, donor = (trace.hovertemplate for trace in pictures(figure))
        assert clean.startswith("<b>clean image</b><br>64 x 64 pixels<br>")
        assert f"<b>{pair.correct_answer}</b>" in clean
        assert f"<b>{pair.incorrect_answer}</b>" in corrupt
        assert "donor image" in donor


def test_text_is_escaped_everywhere():
    bad = "<img src=x onerror=alert(1)> $a$ %{x}"
    pairs = of_rows(
        {"id": bad, "task": bad, "group": bad, "clean_prompt": bad, "correct_answer": bad, "incorrect_answer": "b"},
        roles={bad: "img"},
        clean_regions={bad: [0, 0, 5, 5]},
    )
    figure = viz.pairs(pairs, regions=True)
    for text in [*texts(figure), figure.layout.title.text, *[trace.name for trace in figure.data]]:
        assert not set(re.findall(r"</?(\w+)", text)) - {"b", "span", "br"}
        assert not set("$%") & set(text)
    for trace in pictures(figure):
        assert "%{" not in trace.hovertemplate
        assert "<img" not in trace.hovertemplate
    assert shown(figure).count(bad) == 5  # role, task (once, as the group is the same), id, prompt, answer


def test_long_prompts_wrap_and_take_their_room():
    words = "what is the large brown dog that sits on the bench looking at " * 6
    short, long = (
        viz.pairs(of_rows()),
        viz.pairs(of_rows(clean_prompt=words, correct_answer="dog", incorrect_answer="x")),
    )
    lines = question(long, "clean").count("<br>") + 1
    assert lines > 3
    assert long.layout.height - short.layout.height == pytest.approx((lines - 1) * 16.9, abs=1)
    assert words.strip() in shown(long)


def test_captions_and_matches():
    caption = {
        "kind": "caption",
        "clean_prompt": "",
        "correct_answer": "a man on a wave " * 4,
        "incorrect_answer": "a dog",
    }
    text = {"kind": "match", "clean_prompt": "a man", "correct_answer": "", "incorrect_answer": ""}
    figure = viz.pairs(of_rows(caption, text))
    assert "no prompt" in shown(figure)
    assert "clean: match" in shown(figure)
    assert "corrupted: no match" in shown(figure)
    assert "words:" not in shown(figure)
    assert "a man on a wave a man on a wave" in shown(figure)


# Regions


def test_regions_are_tinted_in_their_pixels_with_one_legend_entry_each(states: MinimalPairs):
    figure = viz.pairs(states, 2, regions=True)
    names = list(dict.fromkeys(name for pair in states[:2] for name in pair.clean_regions))
    entries = [trace for trace in figure.data if trace.type == "scatter" and trace.showlegend is not False]
    assert [trace.name for trace in entries] == names
    assert figure.layout.showlegend
    pair = states[0]
    drawn = {trace.name: trace for trace in figure.data if trace.type == "scatter" and trace.xaxis == "x2"}
    assert drawn.keys() == {name for name, mask in pair.corrupt_regions.items() if mask.any()}
    rows, columns = np.nonzero(pair.corrupt_regions["object"])
    x, y = drawn["object"].x, drawn["object"].y
    assert (np.nanmin(x), np.nanmax(x)) == (columns.min() - 0.5, columns.max() + 0.5)
    assert (np.nanmin(y), np.nanmax(y)) == (rows.min() - 0.5, rows.max() + 0.5)
    assert not any(trace.type == "scatter" and trace.xaxis == "x3" for trace in figure.data)  # a donor has none


def test_regions_shrink_with_their_picture_and_lie_inside_larger_ones():
    whole = {"box": [100, 0, 600, 400], "box_format": "xywh"}
    regions = {"part": [100, 100, 200, 100], "whole": whole}
    figure = viz.pairs(of_rows(clean_image=photo(800, 400), clean_regions=regions), regions=True)
    drawn = [trace for trace in figure.data if trace.type == "scatter" and trace.fill == "toself"]
    assert [trace.name for trace in drawn] == ["whole", "part"]
    assert (np.nanmin(drawn[1].x), np.nanmax(drawn[1].x)) == (39.5, 119.5)
    assert (np.nanmin(drawn[1].y), np.nanmax(drawn[1].y)) == (39.5, 79.5)


def test_a_role_and_a_region_of_one_name_have_one_colour():
    pairs = of_rows(roles={"subject": "it"}, clean_regions={"other": [0, 0, 9, 9], "subject": [9, 9, 9, 9]})
    figure = viz.pairs(pairs, regions=True)
    region = next(trace for trace in figure.data if trace.name == "subject" and trace.fill == "toself")
    assert marked(question(figure, "clean")) == [("it", region.line.color)]


# How many, and what is wrong


@pytest.mark.parametrize(("n", "rows"), [(1, 1), (3, 3), (4, 4), (100, 4)])
def test_as_many_rows_as_asked_for_or_as_there_are(states: MinimalPairs, n: int, rows: int):
    figure = viz.pairs(states, n)
    assert len(pictures(figure)) == 3 * rows
    assert figure.layout.title.text.startswith("4 pairs (" if rows == 4 else f"{rows} of 4 pairs (")
    assert [pair.id in shown(figure) for pair in states] == [number < rows for number in range(4)]
    assert figure.layout.height == pytest.approx(112 + rows * 340, rel=0.05)


@pytest.mark.parametrize("n", [0, -3])
def test_fewer_than_one_pair(states: MinimalPairs, n: int):
    with pytest.raises(ValueError, match=f"n={n}: expected a number of pairs, 1 or more"):
        viz.pairs(states, n)


def test_no_pairs(states: MinimalPairs):
    with pytest.raises(ValueError, match="no pairs to show: this MinimalPairs is empty$"):
        viz.pairs(states.filter(task="none"))
    row = {"id": "x", "task": "t", "clean_image": b"none", "corrupt_image": b"none", "clean_prompt": "a?"}
    row |= {"correct_answer": "a", "incorrect_answer": "b"}
    lost = MinimalPairs.from_rows([row], on_error="drop", progress=False)
    with pytest.raises(ValueError, match="empty; `dropped` has the 1 that were dropped, and why"):
        viz.pairs(lost)


def test_regions_that_no_pair_has():
    with pytest.raises(ValueError, match="none of the 1 pairs shown has clean_regions or corrupt_regions"):
        viz.pairs(of_rows(), regions=True)


def test_an_unknown_choice_of_donors(states: MinimalPairs):
    choice: Any = "atuo"
    with pytest.raises(ValueError, match="no choice of donors 'atuo'; did you mean 'auto'"):
        viz.pairs.__wrapped__(states, donors=choice)


def test_no_default_is_set_and_nothing_is_shown(states: MinimalPairs):
    before = plotly.io.templates.default, plotly.io.renderers.default
    figure = viz.pairs(states, 1)
    assert (plotly.io.templates.default, plotly.io.renderers.default) == before
    assert figure.layout.template.layout.paper_bgcolor == "white"


def test_importing_viz_imports_nothing_heavy():
    code = "import sys, notice_lens.viz; print([m for m in ('plotly', 'torch', 'datasets', 'PIL') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    assert dir(viz) == sorted(viz.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'pears'; it has ReportData, attention"):
        _ = viz.pears
