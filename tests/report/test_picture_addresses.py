"""Pictures as addresses inside a page."""

import base64
import io

from PIL import Image

from notice_lens.report.image_bytes import data_uri


def test_an_image_as_an_address():
    uri = data_uri(Image.new("RGB", (3, 2), "red"))
    image = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
    assert image.size == (3, 2)
    assert image.getpixel((0, 0)) == (255, 0, 0)
