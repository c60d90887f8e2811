"""The first demo's page and its building blocks."""

import base64
import io

import numpy as np
import pandas as pd
from PIL import Image

from notice_lens.viz import demo_page
from notice_lens.viz.pictures import data_uri


def test_a_heat_map_is_symmetric_about_zero_and_keeps_the_sign():
    share = pd.DataFrame([[0.1, -0.4], [0.2, 0.0]])
    figure = demo_page.heads(share, "Effects")
    axis = figure.layout.coloraxis
    assert (axis.cmin, axis.cmax) == (-0.4, 0.4)
    assert np.allclose(figure.data[0].z, share)
    assert figure.layout.title.text == "Effects"
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("head", "layer")


def test_a_heat_map_of_nothing():
    assert demo_page.heads(pd.DataFrame(np.zeros((2, 2))), "Nothing").layout.coloraxis.cmax == 1


def test_an_image_as_an_address():
    uri = data_uri(Image.new("RGB", (3, 2), "red"))
    image = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
    assert image.size == (3, 2)
    assert image.getpixel((0, 0)) == (255, 0, 0)


def test_text_is_escaped_and_figures_are_not():
    figure = demo_page.figure_html(demo_page.heads(pd.DataFrame([[1.0]]), "</script><script>alert(1)</script>"))
    assert "</script><script>alert(1)" not in figure
    assert "<div" in figure
