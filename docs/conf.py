"""Sphinx configuration. Tables of hook points and pages of commands are generated from the code at every build.

The tutorials are shown as they are stored, with their outputs: of a figure its PNG, since the page has no Plotly.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import click
from docutils import nodes
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))
from signatures import on_signature

project = "notice-lens"
author = "The notice-lens developers"
copyright = "2026, The notice-lens developers"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "notice-lens"
html_theme_options = {"sidebar_hide_name": False}
html_static_path = ["static"]
html_css_files = ["wide.css"]
exclude_patterns = ["_build", "generated", "jupyter_execute"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # types stand in the signatures that `signatures.py` writes
python_maximum_signature_line_length = 100
suppress_warnings = ["myst.xref_missing"]


def write_tables(app: Sphinx) -> None:
    """Writes the tables that `hooks.md` and `lens.md` include."""
    from notice_lens.models.blip.random_blip import random_blip
    from notice_lens.models.check import made_up_inputs
    from notice_lens.models.stack_view import LENSES

    folder = Path(app.srcdir) / "generated"
    folder.mkdir(exist_ok=True)
    model = random_blip()
    inputs = made_up_inputs(model)
    (folder / "hooks.md").write_text(model.hooks_table().to_markdown() + "\n")
    for name in LENSES:
        (folder / f"{name}.md").write_text(model.lens(name, inputs).names_table().to_markdown() + "\n")


def helps(command: click.Command, name: str, above: click.Context | None = None) -> str:
    """What a command and those below it say with `--help`, a section each; as wide as a page."""
    context = click.Context(
        command, above, info_name=name.split()[-1], max_content_width=96, terminal_width=96, **command.context_settings
    )
    said = f"## `{name}`\n\n```text\n{command.get_help(context)}\n```\n"
    below = command.commands.items() if isinstance(command, click.Group) else ()
    return "\n".join([said, *(helps(one, f"{name} {own}", context) for own, one in below)])


def write_commands(app: Sphinx) -> None:
    """Writes what `commands.md` includes."""
    from notice_lens.cli.commands import main

    folder = Path(app.srcdir) / "generated"
    folder.mkdir(exist_ok=True)
    (folder / "commands.md").write_text(helps(main, "notice-lens"))


def escape_bars(app: Sphinx, what: str, name: str, of: Any, options: Any, lines: list[str]) -> None:
    """Absolute values in docstrings, such as |effect|, are no substitutions of reStructuredText."""
    lines[:] = [re.sub(r"\|(\w+)\|", r"\\|\1\\|", line) for line in lines]


NUMBERS = re.compile(r"(?:[^\w`]|\d|\bto\b|(?<=\d)e(?=[-\d]))*")
"""Cells that are read as one thing, such as `0.51 (0.45 to 0.57)`."""


def lay_out_tables(app: Sphinx, doctree: nodes.document, name: str) -> None:
    """Marks cells that stay on one line, and says where long names in the others may break: never within a word."""
    for group in doctree.findall(nodes.tgroup):
        if int(group["cols"]) > 6:
            group.parent["classes"].append("many")
    for cell in doctree.findall(nodes.entry):
        said = cell.astext()
        if len(said) <= 14 or (len(said) <= 32 and NUMBERS.fullmatch(said)):
            cell["classes"].append("short")
        elif _in_names(cell):
            for text in list(cell.findall(nodes.Text)):
                _breakable(text, r"(?<=\w\.)(?=\w)")
        else:
            for literal in cell.findall(nodes.literal):
                if len(literal.astext()) > 40 and "long" not in cell["classes"]:
                    cell["classes"].append("long")
                for text in list(literal.findall(nodes.Text)):
                    _breakable(text, r"(?<=[/:,.=])(?=[\w*])|(?<=_)(?=\w)" if len(text) > 24 else r"(?<=[/,])(?=\w)")


def _in_names(node: nodes.Node | None) -> bool:
    """Whether a node is in a table of hook points."""
    while node is not None:
        if isinstance(node, nodes.Element) and "names" in node.get("classes", ()):
            return True
        node = node.parent
    return False


def _breakable(text: nodes.Text, where: str) -> None:
    """Puts a place where the line may break wherever the pattern matches; an arrow stays with its name."""
    pieces = re.split(where, re.sub(r"^([<>]) ", "\\1\N{NO-BREAK SPACE}", str(text)))
    new: list[nodes.Node] = [nodes.Text(pieces[0])]
    for piece in pieces[1:]:
        new += [nodes.raw("", "<wbr>", format="html"), nodes.Text(piece)]
    text.parent.replace(text, new)


def copy_tutorials(app: Sphinx) -> None:
    """Brings the notebooks to where they are pages, with links as they are from there, and figures by their titles."""
    folder = Path(app.srcdir) / "notebooks"
    folder.mkdir(exist_ok=True)
    tutorials = sorted((Path(app.srcdir).parent / "tutorials").glob("*.ipynb"))
    for copy in folder.glob("*.ipynb"):
        if copy.name not in {path.name for path in tutorials}:  # of a tutorial that has another name by now
            copy.unlink()
    for path in tutorials:
        notebook = json.loads(path.read_text().replace("(../docs/", "(../"))
        for cell in notebook["cells"]:
            for output in cell.get("outputs", []):
                figure = output.get("data", {}).pop("application/vnd.plotly.v1+json", None)
                if figure is not None:
                    title = re.sub(r"<.*?>", "", figure["layout"]["title"]["text"])
                    cell["metadata"].setdefault("mystnb", {})["image"] = {"alt": title}
        notebook["metadata"].setdefault("language_info", {})["pygments_lexer"] = "ipython3"
        (folder / path.name).write_text(json.dumps(notebook))


def setup(app: Sphinx) -> None:
    """Hooks the generators into the build."""
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("autodoc-process-signature", on_signature)
    app.connect("doctree-resolved", lay_out_tables)
    app.connect("builder-inited", write_tables)
    app.connect("builder-inited", write_commands)
    app.connect("builder-inited", copy_tutorials)
