"""A Plotly figure as a notebook keeps it: interactive, and as a picture for pages that run no scripts.

A code-hosting site shows a notebook's pictures, but runs none of its scripts. Plotly can write both through a renderer,
which is a setting of the whole process; here it is a property of one displayed object.
"""

import base64
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from notice_lens.plain_text import printable

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

INTERACTIVE, PICTURE = "application/vnd.plotly.v1+json", "image/png"
"""MIME types: what notebooks draw with Plotly's script, and what everything draws."""
logger = logging.getLogger("notice_lens.viz")


@dataclass(frozen=True)
class Shown:
    """The result of `show`: a notebook displays it as the last value of a cell, or through `display`."""

    figure: "Figure"
    png: bytes | None
    """None where there was nothing to draw it with."""

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """IPython's protocol: contents by MIME type, and how large the picture is meant to be, in pixels."""
        content = json.loads(str(self.figure.to_json()))
        bundle: dict[str, Any] = {INTERACTIVE: {"data": content["data"], "layout": content["layout"], "config": {}}}
        if self.png is None:
            return bundle, {}
        size = {side: length for side in ("width", "height") if (length := content["layout"].get(side)) is not None}
        return bundle | {PICTURE: base64.b64encode(self.png).decode()}, {PICTURE: size}

    def __repr__(self) -> str:
        traces: Any = self.figure.data
        return f"Shown({len(traces)} traces, {'without' if self.png is None else 'with'} a PNG)"


def show(figure: Any, *, scale: float = 1.0) -> Shown:
    """The figure for a notebook's output: interactive, and as a PNG that a code-hosting site shows.

    The PNG is drawn by Kaleido with Chromium (`pip install kaleido`), about two seconds each. Where one of the two is
    missing the interactive figure is shown alone, and the reason is logged under `notice_lens.viz`. No renderer is set.

    Args:
        figure: Of `viz.heads` and its like, or any Plotly figure.
        scale: Pixels of the PNG per pixel of the figure, above 0. Plotly's extension of JupyterLab shows the PNG until
            the pointer enters it, pixel by pixel: with a scale of 2 the figure has twice its size there until then.

    Raises:
        TypeError: It is not a Plotly figure.
        ValueError: `scale` is not above 0.
    """
    if not hasattr(figure, "to_plotly_json"):
        raise TypeError(f"viz.show takes a Plotly figure, such as viz.heads(effects); got {type(figure).__name__}")
    if not scale > 0:
        raise ValueError(f"scale is in pixels of the PNG per pixel of the figure and above 0; got {scale}")
    return Shown(figure, _png(figure, scale))


def _png(figure: "Figure", scale: float) -> bytes | None:
    """The picture, or None where Kaleido or its browser is missing: whatever that raises, the figure itself is fine."""
    # Kaleido's browser logs a traceback for messages that it says it ignores; a drawing that fails raises.
    browser = logging.getLogger("choreographer")
    level = browser.level
    browser.setLevel(logging.CRITICAL)
    try:
        return figure.to_image(format="png", scale=scale)
    except Exception as error:
        reason = printable(error).strip().partition("\n")[0]
        logger.warning("figure without a PNG: %s: %s", type(error).__name__, reason)
        return None
    finally:
        browser.setLevel(level)
