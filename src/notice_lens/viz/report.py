"""A report as one HTML file that works from disk: no network, all text escaped."""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def write(path: Path, **content: Any) -> Path:
    """Fills the template and writes it. Returns the path.

    Args:
        path: Where to.
        **content: What the template asks for.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("notice_lens.viz"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    path.write_text(
        environment.get_template("report.html.j2").render(plotly=plotly_script(), **content), encoding="utf-8"
    )
    return path


def data_uri(image: Image.Image, kind: str = "png", **options: Any) -> str:
    """The image itself as an address.

    Args:
        image: What is written.
        kind: `png`, which loses nothing, or `jpeg`.
        **options: Of the writer, such as `quality`.
    """
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()


def figure_html(figure: "Figure") -> Any:
    """The figure as markup that needs `plotly_script` on the same page."""
    from markupsafe import Markup

    html = figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True})
    return Markup(html)


def plotly_script() -> Any:
    """Plotly's own script, so that the page needs no network."""
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    return Markup(f"<script>{get_plotlyjs()}</script>")
