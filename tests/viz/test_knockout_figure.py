"""The figure of an attention knockout, from made-up numbers."""

import numpy as np
import pytest
import xarray as xr

from notice_lens import viz


def lost(n_pairs: int = 20, **more: list[int]) -> xr.Dataset:
    rng = np.random.default_rng(0)
    coords = {
        "pair": [f"p{n}" for n in range(n_pairs)], "flow": ["image -> last", "<b>x</b> -> last"], "layer": [0, 1, 2],
        **more,
    }  # fmt: skip
    shape = [len(own) for own in coords.values()]
    values = rng.normal(-0.2, 0.05, shape)
    values[:, 0, 1] = -0.5
    images = {which: [f"{which}{n // 2}" for n in range(n_pairs)] for which in ("clean", "corrupt")}
    digests = {f"{which}_digest": ("pair", own) for which, own in images.items()}
    return xr.Dataset({"prob_change": (list(coords), values)}, {**coords, **digests})


def test_lines_are_means_with_intervals_by_cluster() -> None:
    result = lost()
    figure = viz.profile(result)
    band, line = figure.data[0], figure.data[1]
    np.testing.assert_allclose(line.y, result.prob_change.mean("pair").values[0])
    assert (line.customdata[:, 0] <= line.y).all()
    assert (line.y <= line.customdata[:, 1]).all()
    assert list(band.y) == [*line.customdata[:, 1], *line.customdata[::-1, 0]]
    assert "20 pairs in 10 clusters" in figure.layout.title.subtitle.text
    assert figure.data[3].name == "&lt;b&gt;x&lt;/b&gt; -&gt; last"
    assert figure.layout.yaxis.title.text == "change of the answer's probability"


def test_what_cannot_be_drawn_is_named() -> None:
    with pytest.raises(ValueError, match="no metric of this knockout 'prob_chang'; did you mean 'prob_change'"):
        viz.profile(lost(), metric="prob_chang")
    with pytest.raises(ValueError, match=r"this knockout has 'head' too: take lost\.sel\(head=0\)"):
        viz.profile(lost(head=[0, 1]))
