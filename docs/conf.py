"""Sphinx configuration. The tables of hook points are generated from the code at every build."""

from pathlib import Path

from sphinx.application import Sphinx

project = "notice-lens"
author = "The notice-lens developers"
copyright = "2026, The notice-lens developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "notice-lens"
exclude_patterns = ["_build", "generated"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"
suppress_warnings = ["myst.xref_missing"]


def write_tables(app: Sphinx) -> None:
    """Writes the tables that `hooks.md` and `lens.md` include."""
    from notice_lens.models import LENSES
    from notice_lens.models.checks import made_up_inputs
    from notice_lens.models.random_blip import random_blip

    folder = Path(app.srcdir) / "generated"
    folder.mkdir(exist_ok=True)
    blip = random_blip()
    inputs = made_up_inputs(blip)
    (folder / "hooks.md").write_text(blip.hooks_table().to_markdown() + "\n")
    for name in LENSES:
        (folder / f"{name}.md").write_text(blip.lens(name, inputs).names_table().to_markdown() + "\n")


def setup(app: Sphinx) -> None:
    """Hooks the generator into the build."""
    app.connect("builder-inited", write_tables)
