"""The report as one HTML file that works from disk: no network, all text escaped, behaviour and looks inside.

Text is escaped by the template (autoescape) and by the script (`textContent` alone); the data are JSON in which no
character can end their element. A content security policy lets nothing in but this page's own style and script, by
their hashes, and pictures that are in the file itself.
"""

import base64
import hashlib
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

from notice_lens.files import replacing
from notice_lens.report.context import page_context
from notice_lens.report.data import ReportData
from notice_lens.report.page_data import MAP_BYTES, fitting, page_data, safe_json

START = """
const content = JSON.parse(document.getElementById("notice-lens-data").textContent);
start(document.querySelector(".notice-lens"), content, true);
"""


def report(data: ReportData | str | PathLike[str], path: str | PathLike[str], *, map_bytes: int = MAP_BYTES) -> Path:
    """Write a report as one self-contained HTML file, and return its absolute path.

    Args:
        data: What `ReportData.collect` gave, or a folder that its `save` wrote.
        path: Where to; folders are made, an earlier file is replaced.
        map_bytes: What attention maps may take; where they are more, the roles at which conditions are read are kept,
            and then fewer pairs, and the page says so.

    Raises:
        TypeError: `data` are neither.
        FileNotFoundError: The folder does not exist, or is not complete.
        OSError: The file cannot be written; an earlier one is left as it was.
        ValueError: There are no conditions, or the folder is damaged.
    """
    if not isinstance(data, ReportData | str | PathLike):
        raise TypeError(
            f"viz.report takes a ReportData, or the folder of one; got {type(data).__name__}. "
            "ReportData.collect(model, {name: pairs}, {name: effects}) makes one of results"
        )
    found = data if isinstance(data, ReportData) else ReportData.load(data)
    if not found.conditions:
        raise ValueError("a report needs at least one condition; these data have none")
    target = Path(path).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    style, script = part("page.css"), page_script() + START
    text = render(
        "page.html.j2",
        found,
        map_bytes,
        style=_markup(style),
        script=_markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        data_json=_markup(safe_json(page_data(found, map_bytes))),
    )
    with replacing(target) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")
    return target


def render(template: str, data: ReportData, map_bytes: int, prefix: str = "", **content: Any) -> str:
    """A template of the page, filled.

    Args:
        template: `page.html.j2`, or `body.html.j2` alone.
        data: Of the report.
        map_bytes: As of `report`.
        prefix: Of the ids in it, so that one document can have several.
        **content: What else the template asks for.
    """
    from notice_lens import __version__

    page = page_context(data, fitting(data, map_bytes))
    return _environment().get_template(template).render(page=page, version=__version__, prefix=prefix, **content)


def page_script() -> str:
    """The page's behaviour: `start(root, data)` and what it needs."""
    return "\n".join(part(name) for name in ("words.js", "looks.js", "page.js"))


def part(name: str) -> str:
    """A file of the page, such as `page.css`."""
    return (resources.files("notice_lens.report") / "page_files" / name).read_text(encoding="utf-8")


def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("notice_lens.report", "page_files")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _markup(text: str) -> Any:
    """Text that is markup already: the page's own style and script, and JSON that was made safe."""
    from markupsafe import Markup

    return Markup(text)


def _hash(text: str) -> str:
    """As a content security policy asks for it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
