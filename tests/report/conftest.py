"""Fixtures of the tests of reports: the reports themselves, and a browser to open them in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browsing import browser
from notice_lens import viz
from notice_lens.report.data import ReportData
from report_pages import two_conditions, two_tasks_of


@pytest.fixture(scope="module")
def data(mini) -> ReportData:
    return two_conditions(mini)


@pytest.fixture(scope="module")
def path(data, tmp_path_factory) -> Path:
    return viz.report(data, tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def tasks(mini) -> ReportData:
    return two_tasks_of(mini)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as found:
        yield found
