"""Draws the pictures of README and docs: `python docs/make_figures.py --out docs/figures`.

They are real results of the mini model. `notice-lens demo` is run into a folder (`--demo`; one that has its report
already is taken as it is), and its report and results are drawn; the first patch of `docs/start.md` is run as that page
runs it. Plotly figures and the page are photographed in Chromium. Sheets of the mini world are `python -m
train_mini.sheet`, the training curve is `python -m train_mini.curve`, and the wavefront `python
docs/draw_wavefront.py`.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FOLDER = click.Path(file_okay=False, path_type=Path)
SHARPNESS = 2
"""Pixels of the picture for one of the page, so that text is sharp on good screens and in print."""


@contextmanager
def chromium() -> Iterator[Any]:
    """Pages of a headless Chromium."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def photograph(browser: Any, figure: "Figure", path: Path, width: int | None = None, height: int | None = None) -> None:
    """A Plotly figure as a PNG, in its own size or another."""
    size = {"width": round(width or figure.layout.width), "height": round(height or figure.layout.height)}
    page = browser.new_page(viewport=size, device_scale_factor=SHARPNESS)
    figure.update_layout(**size)
    page.set_content(figure.to_html(include_plotlyjs=True, config={"staticPlot": True}))
    page.wait_for_selector(".main-svg")
    page.locator(".plotly-graph-div").screenshot(path=path)
    page.close()


def photograph_page(browser: Any, report: Path, path: Path, width: int = 1280, height: int = 860) -> None:
    """The top of a report, as a reader first sees it."""
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
    page.goto(report.resolve().as_uri())
    page.wait_for_timeout(500)
    page.screenshot(path=path)
    page.close()


def first_patch() -> "Figure":
    """The figure of `docs/start.md`."""
    from notice_lens import HookedBLIP, patching, viz
    from notice_lens.pairs import behaviour_filter, mini_world

    model = HookedBLIP.mini()
    pairs = behaviour_filter(model, mini_world("states", n=20, seed=0))
    return viz.heads(patching.patch_heads(model, pairs, site="text.cross_attn", corruption="image"))


def together() -> "Figure":
    """The restoration curve of `scenes`, as `benchmarks/restoration.py` computes it."""
    from notice_lens import HookedBLIP, circuits, viz
    from notice_lens.pairs import mini_world

    pairs = mini_world("scenes", n=60, seed=0)
    return viz.curve(circuits.restoration_curve(HookedBLIP.mini(), pairs))


def stream() -> "Figure":
    """The logit lens of `states` in the small LLaVA."""
    from notice_lens import HookedVLM, viz
    from notice_lens.pairs import mini_world

    return viz.lens(HookedVLM.mini(), mini_world("states", n=24, seed=1, world="pictures"))


def look(data: Any) -> "Figure":
    """Where the strongest head of `states` looks while it reads the right answer's word."""
    from notice_lens import viz
    from notice_lens.pairs import mini_world

    condition = next(condition for condition in data.conditions if condition.name == "states, image")
    place = condition.heads.effect.argmax(("layer", "head"))
    layer, head = int(place["layer"]), int(place["head"])
    shown = data.pairs[condition.shown[0]].id
    pairs = mini_world("states", n=60, seed=0)
    return viz.attention(data.maps(), pairs, shown, layer=layer, head=head)


@click.command(help=__doc__)
@click.option("--out", type=FOLDER, default=Path(__file__).parent / "figures", show_default=True)
@click.option("--demo", type=FOLDER, help="Results of `notice-lens demo --model blip`; by default they are made anew.")
@click.option("--llava", type=FOLDER, help="The same of `--model llava`.")
@click.option("--drawn", type=FOLDER, help="The same of `--model drawn`.")
def main(out: Path, demo: Path | None, llava: Path | None, drawn: Path | None) -> None:
    """Draw all of them."""
    from notice_lens import viz
    from notice_lens.cli.commands import main as notice_lens

    with tempfile.TemporaryDirectory() as scratch, chromium() as browser:
        folders = {"blip": demo, "llava": llava, "drawn": drawn}
        for name, given in folders.items():
            folders[name] = given or Path(scratch) / name
            if not (folders[name] / "report").is_dir():
                notice_lens(["demo", "--model", name, "--out", scratch], standalone_mode=False)
        blip, chat, shapes = (Path(str(folders[name])) for name in ("blip", "llava", "drawn"))
        data = viz.ReportData.load(shapes / "report")
        conditions = {condition.name: condition for condition in data.conditions}
        photograph(browser, first_patch(), out / "first_patch.png", 720, 380)
        photograph(browser, viz.heads(conditions["states, image"].heads), out / "heads.png", 720, 380)
        photograph(browser, together(), out / "curve.png")
        photograph(browser, viz.universal(data.universal), out / "universal.png", height=620)
        photograph(browser, look(data), out / "attention.png")
        photograph(browser, stream(), out / "lens.png")
        photograph_page(browser, blip / "report.html", out / "report.png")
        photograph_page(browser, chat / "report.html", out / "report_llava.png")
        graphs = viz.ReportData.load(chat / "report").graphs
        photograph(browser, viz.circuit(graphs["states, image"]), out / "circuit.png")


if __name__ == "__main__":
    main()
