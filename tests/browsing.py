"""A page in Debian's Chromium: opened from disk, with what it logs and asks the network for."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to open pages in")


@dataclass
class Opened:
    """A page and what it said and did."""

    page: Any
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    @property
    def away(self) -> list[str]:
        """Addresses that are not on disk or in the page itself."""
        return [url for url in self.requests if not url.startswith(("file:", "data:", "about:", "blob:"))]

    def calm(self) -> None:
        assert self.messages == []
        assert self.away == []
        assert self.dialogs == []


def until(page: Any, expression: str, seconds: float = 10.0) -> None:
    """Waits for JavaScript to be true; the page's policy forbids Playwright's own way, which evaluates in the page."""
    for _ in range(int(seconds / 0.05)):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"not so after {seconds} s: {expression}")


@contextmanager
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield found
        found.close()


def opened(
    found: Any, path: Path | None = None, width: int = 1280, height: int = 900, scheme: str = "light", anchor: str = ""
) -> Opened:
    """A file, perhaps at an anchor, or an empty page."""
    one = Opened(found.new_page(viewport={"width": width, "height": height}, color_scheme=scheme))
    one.page.on("console", lambda message: one.messages.append(message.text))
    one.page.on("pageerror", lambda error: one.messages.append(str(error)))
    one.page.on("request", lambda request: one.requests.append(request.url))
    one.page.on("dialog", lambda dialog: (one.dialogs.append(dialog.message), dialog.dismiss()))
    if path is not None:
        one.page.goto(path.resolve().as_uri() + (f"#{anchor}" if anchor else ""))
    return one
