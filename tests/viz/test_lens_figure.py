"""The figure of the logit lens: its lines and squares are the reading's means, its bands the intervals of clusters."""

import numpy as np
import pytest

from notice_lens import HookedVLM, patching, viz
from notice_lens.pairs import mini_world
from notice_lens.stats.clusters import clusters_of
from notice_lens.stats.intervals import ratio_of_sums


@pytest.fixture(scope="module")
def llava():
    return HookedVLM.mini()


@pytest.fixture(scope="module")
def reading(llava):
    return patching.logit_lens(llava, mini_world("states", 6, seed=1, world="pictures"), progress=False)


def test_lines_bands_and_heads(reading):
    figure = viz.lens(reading, roles=["last", "object"], metric="answer_prob")
    own = reading.sel(run="clean")
    lines = {trace.name: trace for trace in figure.data if trace.name}
    assert list(lines) == ["last", "object"]
    np.testing.assert_allclose(lines["last"].y, own.answer_prob.sel(role="last").astype(float).mean("pair"))
    band = next(trace for trace in figure.data if trace.fill == "toself")
    values = own.answer_prob.sel(role="last").transpose("pair", "blocks").values
    interval = ratio_of_sums(values, np.ones(6), clusters_of(reading))
    np.testing.assert_allclose(band.y, np.concatenate([interval.high, interval.low[::-1]]))
    squares = figure.data[-1]
    np.testing.assert_allclose(squares.z, own.head_logit_diff.mean("pair"), atol=0.0051)


def test_the_corrupted_run_of_one_pair(llava):
    figure = viz.lens(llava, mini_world("states", 1, seed=1, world="pictures"), run="corrupt")
    names = [trace.name for trace in figure.data if trace.name]
    assert len(names) == 6
    assert {"last", "image"} <= set(names)
    assert not any(getattr(trace, "fill", None) == "toself" for trace in figure.data), "one pair has no interval"
    assert "corrupt run, one pair" in figure.layout.title.subtitle.text


def test_messages(llava, reading):
    with pytest.raises(TypeError, match=r"of a single pair, pairs\[3:4\]"):
        viz.lens(llava, mini_world("states", 1, world="pictures")[0])
    with pytest.raises(ValueError, match="no role of this reading 'objekt'; did you mean 'object'"):
        viz.lens(reading, roles="objekt")
    with pytest.raises(ValueError, match="draws a result of patching.logit_lens; this one has"):
        viz.lens(reading[["logit_diff"]])
    with pytest.raises(ValueError, match="metric 'prob'"):
        viz.lens(reading, metric="prob")
