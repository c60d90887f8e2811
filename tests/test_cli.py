"""The command line and the demo's report."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from notice_lens.cli import main

CHROMIUM = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, list[str]]:
    """The folder that the demo wrote, and the lines that it printed."""
    out = tmp_path_factory.mktemp("demo") / "new folder"
    result = CliRunner().invoke(main, ["demo", "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out, result.stdout.splitlines()


def test_the_demo_keeps_its_contract(demo):
    out, lines = demo
    assert Path(lines[-1]) == (out / "report.html").resolve()
    assert {"report.html", "hooks.csv", "cache.csv", "patching.csv", "model"} <= {path.name for path in out.iterdir()}
    assert pd.read_csv(out / "patching.csv", index_col=0).shape == (4, 6)
    text = (out / "report.html").read_text(encoding="utf-8")
    assert "The weights of this model are random." in text
    assert "text.blocks.L.cross_attn.hook_pattern" in text
    assert len(text) < 12e6


def test_the_demo_can_be_run_again_into_the_same_folder(demo):
    out, _ = demo
    before = (out / "patching.csv").read_text()
    assert CliRunner().invoke(main, ["demo", "--out", str(out)]).exit_code == 0
    assert (out / "patching.csv").read_text() == before


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "file" / "demo")])
    assert result.exit_code == 1
    assert "notice-lens demo: cannot write to" in result.stderr


def test_help_and_version():
    runner = CliRunner()
    assert "demo" in runner.invoke(main, ["--help"]).output
    assert "report.html" in runner.invoke(main, ["demo", "-h"]).output
    assert runner.invoke(main, ["--version"]).output.startswith("notice-lens, version")
    assert "No such command 'dmo'" in runner.invoke(main, ["dmo"]).output


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to open the report in")
@pytest.mark.parametrize("width", [1200, 390])
def test_the_report_opens_in_a_browser(demo, width):
    from playwright.sync_api import sync_playwright

    out, _ = demo
    messages, requests = [], []
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto((out / "report.html").resolve().as_uri())
        page.wait_for_selector(".plot .heatmaplayer image, .plot .heatmaplayer path")
        assert page.evaluate("document.documentElement.scrollWidth") == width, "nothing sticks out"
        assert page.locator("img:not([alt])").count() == 0
        browser.close()
    assert messages == []
    assert [url for url in requests if not url.startswith("file:")] == []
