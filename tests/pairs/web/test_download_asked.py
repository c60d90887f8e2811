"""download: what may be asked for, and what the report says of it."""

import re

import pandas as pd
import pytest

from notice_lens.pairs.web.downloader import download
from notice_lens.pairs.web.fetch import Limits
from picture_server import HTML, JPEG, encoded, serve


@pytest.mark.parametrize(
    ("url", "reason", "detail"),
    [
        ("file:///etc/hostname", "no http or https address", "the URL is 'file:///etc/hostname'; expected http://"),
        ("", "no http or https address", "the URL is ''; expected http:// or https://"),
        ("http://", "no http or https address", "expected http:// or https:// and a host"),
        ("http://" + "a" * 70 + ".invalid/", "no connection", "(in 2 tries)"),
        ("http://127.0.0.1:1/", "no connection", "Connection refused (in 2 tries)"),
    ],
)
def test_urls_that_lead_nowhere(tmp_path, url, reason, detail):
    (failure,) = download({"x": url}, tmp_path, retries=1, progress=False, allow_private=True).failed
    assert (failure.url, failure.reason) == (url, reason)
    assert detail in failure.detail


def test_the_report_names_everything(server, get, tmp_path):
    server.routes |= {f"/{index}": lambda handler: handler.answer(410) for index in range(7)}
    server.routes |= {"/html": serve(HTML), "/good": serve(JPEG)}
    report = get({**{f"gone{index}": f"/{index}" for index in range(7)}, "page": "/html", "good": "/good"})
    assert report.counts == {"HTTP 410": 7, "image unreadable": 1}
    lines = str(report).splitlines()
    assert lines[:4] == [
        f"1 of 9 images in {tmp_path / 'images'}: 1 new, 0 from before",
        "8 missing; failed.csv there names all",
        "  HTTP 410: 7",
        f"    gone0: {server.url('/0')} answered 410 Gone",
    ]
    assert lines[8:10] == ["    ... and 2 more", "  image unreadable: 1"]
    frame = report.to_pandas()
    assert list(frame.columns) == ["id", "url", "reason", "detail"]
    assert list(frame["id"]) == [*(f"gone{index}" for index in range(7)), "page"]
    report.to_csv(tmp_path / "mine.csv")
    for path in (tmp_path / "mine.csv", tmp_path / "images" / "failed.csv"):
        pd.testing.assert_frame_equal(pd.read_csv(path, dtype=str), frame.astype(str), check_dtype=False)
    server.routes |= {f"/{index}": serve(JPEG) for index in range(7)} | {"/html": serve(JPEG)}
    again = get({**{f"gone{index}": f"/{index}" for index in range(7)}, "page": "/html", "good": "/good"})
    assert pd.read_csv(tmp_path / "images" / "failed.csv").empty
    assert again.to_pandas().empty


@pytest.mark.parametrize("id", ["", "a/b", "../a", "a.b", "a b", "é", "a\n", "x\0", "x" * 201, "x" * 100_000, "\ud800"])
def test_one_id_that_is_no_file_s_name_costs_no_other(server, get, tmp_path, id):
    server.routes["/good"] = serve(JPEG)
    report = get({"good": "/good", id: "/x"})
    assert list(report.files) == ["good"]
    assert report.counts == {"id is no name of a file": 1}
    assert f"digits, _ and -; got {id!r:.220}" in report.failed[0].detail
    assert server.visits == {"/good": 1}
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == ["failed.csv", "good.jpg"]


def test_the_longest_id(server, get):
    server.routes["/good"] = serve(JPEG)
    assert get({"x" * 200: "/good"}).fetched == 1


@pytest.mark.parametrize(
    ("urls", "error", "message"),
    [
        ([("a", "http://x"), ("a", "http://y")], ValueError, "id 'a' has two URLs: http://x and http://y"),
        ("http://x", TypeError, "urls are a mapping from id to URL, or pairs (id, url); got str"),
        (None, TypeError, "or pairs (id, url); got NoneType"),
        (["http://x"], TypeError, "or pairs (id, url); item 0 is 'http://x'"),
        ([("a", "http://x"), ("b",)], TypeError, "item 1 is ('b',)"),
        ({"a": float("nan")}, TypeError, "ids and URLs are strings; item 0 is ('a', nan)"),
        ({7: "http://x"}, TypeError, "ids and URLs are strings; item 0 is (7, 'http://x')"),
    ],
)
def test_bad_urls(tmp_path, urls, error, message):
    with pytest.raises(error, match=re.escape(message)):
        download(urls, tmp_path / "images")
    assert not (tmp_path / "images").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 0}, "workers has to be 1 or more, got 0"),
        ({"retries": -1}, "retries has to be 0 or more, got -1"),
        ({"max_bytes": 0}, "max_bytes has to be more than 0, got 0"),
        ({"max_seconds": -1.0}, "max_seconds has to be more than 0, got -1"),
        ({"read_timeout": float("nan")}, "read_timeout has to be more than 0, got nan"),
    ],
)
def test_bad_settings(get, settings, message):
    with pytest.raises(ValueError, match=message):
        get({"a": "/x"}, **settings)


def test_pairs_may_repeat_themselves(server, tmp_path):
    server.routes["/x"] = serve(JPEG)
    pairs = iter([("a", server.url("/x")), ("a", server.url("/x"))])
    assert download(pairs, tmp_path, progress=False, allow_private=True).fetched == 1
    assert server.visits["/x"] == 1


def test_ids_that_a_file_system_mixes_up(server, get, tmp_path, monkeypatch):
    server.routes |= {"/1": serve(JPEG), "/2": serve(encoded("PNG"))}
    monkeypatch.setattr("notice_lens.pairs.web.downloader.ignores_case", lambda _: True)
    with pytest.raises(ValueError, match="images takes the ids 'Ab' and 'aB' for the same file: rename one of them"):
        get({"Ab": "/1", "aB": "/2"})
    monkeypatch.undo()
    report = get({"Ab": "/1", "aB": "/2"})
    assert [path.name for path in report.files.values()] == ["Ab.jpg", "aB.png"]


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "images").touch()
    with pytest.raises(ValueError, match="images is a file"):
        download({"a": "http://x"}, tmp_path / "images")


def test_nothing_asked_for(tmp_path):
    assert str(download({}, tmp_path)) == f"0 of 0 images in {tmp_path}: 0 new, 0 from before"


def test_the_bar_can_be_switched_off(server, tmp_path, capsys):
    server.routes |= {"/x": serve(JPEG), "/y": lambda handler: handler.answer(404)}
    urls = {"x": server.url("/x"), "y": server.url("/y")}
    download(urls, tmp_path / "silent", progress=False, allow_private=True)
    assert capsys.readouterr() == ("", "")
    download(urls, tmp_path / "bar", allow_private=True)
    assert "2/2" in (shown := capsys.readouterr().err)
    assert "failed=1" in shown


def test_the_defaults_are_those_of_limits():
    assert Limits() == Limits(3, 50 * 2**20, 10.0, 30.0, 120.0)
