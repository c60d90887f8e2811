"""download: every image arrives whole or is named in the report, whatever the server does."""

import gzip
import re
import signal
import threading
import time
import zlib
from typing import Any

import pandas as pd
import pytest

from notice_lens import __version__
from picture_server import (
    HTML,
    JPEG,
    Handler,
    chunked,
    encoded,
    endless,
    names,
    redirect,
    serve,
    stall,
    stall_midway,
    trickle,
)

HOUR = 3600


@pytest.mark.parametrize(
    ("format", "ending"),
    [("JPEG", "jpg"), ("PNG", "png"), ("GIF", "gif"), ("WEBP", "webp"), ("BMP", "bmp"), ("TIFF", "tif")],
)
def test_bytes_stay_as_they_came_and_the_real_format_gives_the_name(server, get, tmp_path, format, ending):
    body = encoded(format)
    server.routes["/picture.jpg?size=big"] = serve(body, Content_Type="image/jpeg")
    report = get({"an_Id-7": "/picture.jpg?size=big"})
    assert names(tmp_path) == [f"an_Id-7.{ending}", "failed.csv"]
    assert report.files == {"an_Id-7": tmp_path / "images" / f"an_Id-7.{ending}"}
    assert report.files["an_Id-7"].read_bytes() == body
    assert (report.fetched, report.failed, report.counts) == (1, (), {})
    assert server.headers[0]["User-Agent"] == f"notice-lens/{__version__}"
    assert server.headers[0]["Accept-Encoding"] == "identity"


def test_a_second_run_fetches_only_what_is_missing(server, get, tmp_path):
    paths = {f"image{index}": f"/{index}" for index in range(20)}
    for path in paths.values():
        server.routes[path] = serve(JPEG)
    server.routes["/7"] = lambda handler: handler.answer(404) if handler.visit == 1 else handler.answer(body=JPEG)
    first = get(paths)
    assert (first.fetched, len(first.files), [failure.id for failure in first.failed]) == (19, 19, ["image7"])
    second = get(paths)
    assert (second.fetched, list(second.files), second.failed) == (1, list(paths), ())
    assert str(second) == f"20 of 20 images in {tmp_path / 'images'}: 1 new, 19 from before"
    third = get(paths)
    assert (third.fetched, third.failed) == (0, ())
    assert server.visits == {path: 1 + (path == "/7") for path in paths.values()}


def test_half_written_files_are_cleared_and_fetched_anew(server, get, tmp_path):
    server.routes["/a"] = serve(JPEG)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.part").write_bytes(JPEG[:99])
    (tmp_path / "images" / "b.part").write_bytes(JPEG[:99])
    (tmp_path / "images" / "b.jpg").write_bytes(JPEG)
    (tmp_path / "images" / "mine.part").write_bytes(b"somebody else's")
    (tmp_path / "images" / "a.png").touch()
    report = get({"a": "/a", "b": "/b"})
    assert report.files["a"].read_bytes() == JPEG
    assert report.fetched == 1
    assert names(tmp_path) == ["a.jpg", "a.png", "b.jpg", "failed.csv", "mine.part"]


FAILURES = {
    "404": (lambda handler: handler.answer(404), "HTTP 404", "/x answered 404 Not Found", 1),
    "500": (lambda handler: handler.answer(500), "HTTP 500", "answered 500 Internal Server Error (in 2 tries)", 2),
    "no body": (lambda handler: handler.answer(204), "HTTP 204", "answered 204 No Content", 1),
    "html": (
        serve(HTML, Content_Type="text/html"),
        "image unreadable",
        "PPM, TIFF, WEBP (39 bytes, Content-Type text/html)",
        1,
    ),
    "empty": (serve(b""), "image unreadable", "the file is empty (0 bytes) (0 bytes, Content-Type not given)", 1),
    "half a JPEG": (serve(JPEG[: len(JPEG) // 2]), "image unreadable", "image file is truncated", 1),
    "postscript": (
        serve(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"),
        "image unreadable",
        "not an image in a format that is read here: AVIF, BMP,",
        1,
    ),
    "cut off": (serve(JPEG[:100], length=len(JPEG)), "cut off", "(received 100 bytes, expected", 2),
    "a chunk cut off": (chunked(JPEG[:100]), "cut off", ", after 101 bytes (in 2 tries)", 2),
    "stall": (stall, "out of time", "no answer within 0.4 s (read_timeout) (in 2 tries)", 2),
    "stall midway": (stall_midway, "out of time", "no further byte within 0.4 s (read_timeout), after 100 bytes", 2),
    "says too large": (
        serve(JPEG, length=10**9),
        "too large",
        "Content-Length 1,000,000,000 bytes; at most 50,000 asked for (max_bytes)",
        1,
    ),
    "is too large": (endless, "too large", "bytes; at most 50,000 asked for (max_bytes)", 1),
    "bomb": (
        serve(gzip.compress(bytes(10**7)), Content_Encoding="gzip"),
        "too large",
        "at least 65,536 bytes; at most 50,000 asked for",
        1,
    ),
    "not gzip": (serve(JPEG, Content_Encoding="gzip"), "cut off", "unpacking fails: Error -3", 1),
    "to a file": (
        redirect("file:///etc/hostname"),
        "redirect refused",
        "leads to 'file://127.0.0.1/etc/hostname'; expected",
        1,
    ),
    "to ftp": (redirect("ftp://127.0.0.1/x"), "redirect refused", "expected http:// or https://", 1),
    "loop": (redirect("/x"), "redirect refused", "5 redirects are followed, and there is another, to http://", 6),
    "to nonsense": (redirect("http://[::1"), "redirect refused", "expected http:// or https://", 1),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_keep_nothing_and_are_named(server, get, tmp_path, name):
    route, reason, detail, visits = FAILURES[name]
    server.routes |= {"/x": route, "/good": serve(JPEG)}
    report = get({"bad": "/x", "good": "/good"}, max_bytes=50_000)
    assert names(tmp_path) == ["failed.csv", "good.jpg"]
    (failure,) = report.failed
    assert (failure.id, failure.url, failure.reason) == ("bad", server.url("/x"), reason)
    assert detail in failure.detail
    assert report.counts == {reason: 1}
    assert server.visits["/x"] == visits
    server.routes["/x"] = serve(JPEG)
    assert get({"bad": "/x", "good": "/good"}).failed == ()
    assert names(tmp_path) == ["bad.jpg", "failed.csv", "good.jpg"]
    assert server.visits == {"/x": visits + 1, "/good": 1}


def test_a_slow_trickle_ends_in_time(server, get):
    server.routes["/x"] = trickle
    start = time.monotonic()
    (failure,) = get({"slow": "/x"}, max_seconds=0.6).failed
    assert time.monotonic() - start < 1.5
    assert failure.reason == "out of time"
    assert re.fullmatch(r"not complete within 0.6 s \(max_seconds\), after 10\d bytes", failure.detail)


def test_a_slow_chunk_ends_in_time(server, get):
    """One chunk of many bytes: whoever waits for all of it waits for as long as the server likes."""

    def send(handler: Handler) -> None:
        handler.answer(length=None, Transfer_Encoding="chunked")
        handler.wfile.write(b"ffff\r\n")
        while not handler.site.over.wait(0.1):
            handler.wfile.write(b"x")

    server.routes["/x"] = send
    start = time.monotonic()
    assert get({"slow": "/x"}, max_seconds=0.6).counts == {"out of time": 1}
    assert time.monotonic() - start < 1.5


def test_what_a_redirect_or_an_error_says_is_never_read(server, get):
    """Bodies without end: whoever reads them to keep the connection never comes back."""

    def redirect(handler: Handler) -> None:
        handler.answer(302, length=10**9, Location="/good")
        stall(handler)

    def error(handler: Handler) -> None:
        if handler.visit > 1:
            return handler.answer(body=JPEG)
        handler.answer(503, length=10**9)
        stall(handler)

    server.routes |= {"/redirect": redirect, "/error": error, "/good": serve(JPEG)}
    start = time.monotonic()
    report = get({"redirect": "/redirect", "error": "/error"}, read_timeout=3.0)
    assert list(report.files) == ["redirect", "error"]
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    "first",
    [
        lambda handler: handler.answer(500),
        lambda handler: handler.answer(503, Retry_After="nonsense"),
        serve(JPEG[:100], length=len(JPEG)),
        stall,
        stall_midway,
        lambda handler: handler.connection.close(),
    ],
)
def test_what_may_pass_is_tried_again(server, get, first):
    server.routes["/x"] = lambda handler: first(handler) if handler.visit == 1 else handler.answer(body=JPEG)
    report = get({"x": "/x"})
    assert report.files["x"].read_bytes() == JPEG
    assert server.visits["/x"] == 2


def test_the_pause_grows(server, get):
    server.routes["/x"] = lambda handler: times.append(time.monotonic()) or handler.answer(502)
    times: list[float] = []
    (failure,) = get({"x": "/x"}, retries=2).failed
    assert failure.detail.endswith("answered 502 Bad Gateway (in 3 tries)")
    assert times[2] - times[1] > 0.9 > times[1] - times[0]


def test_a_server_that_asks_to_wait_is_waited_for(server, get):
    server.routes["/x"] = lambda handler: (
        times.append(time.monotonic()),
        handler.answer(429, Retry_After="1") if handler.visit == 1 else handler.answer(body=JPEG),
    )
    times: list[float] = []
    assert get({"x": "/x"}).failed == ()
    assert 0.9 < times[1] - times[0] < 3


@pytest.mark.parametrize("status", [429, 503])
def test_hours_of_waiting_are_a_failure(server, get, status):
    server.routes["/x"] = lambda handler: handler.answer(status, Retry_After=str(2 * HOUR))
    (failure,) = get({"x": "/x"}).failed
    assert failure.reason == f"HTTP {status}"
    assert re.search(
        r"; the server asks to wait 7,200 s \(Retry-After\), and [45](\.\d+)? s are left of 5 s \(max_seconds\)",
        failure.detail,
    )
    assert server.visits["/x"] == 1


def test_the_pauses_count_towards_the_time(server, get):
    server.routes["/x"] = lambda handler: handler.answer(500)
    start = time.monotonic()
    (failure,) = get({"x": "/x"}, retries=9, max_seconds=1.5).failed
    assert time.monotonic() - start < 2
    assert "answered 500 Internal Server Error; another try has to wait, and " in failure.detail


def test_redirects_are_followed(server, get):
    server.routes |= {"/x": redirect("/y?a=b"), "/y?a=b": redirect(server.url("/z")), "/z": serve(JPEG)}
    assert get({"x": "/x"}).files["x"].read_bytes() == JPEG


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_what_the_server_packed_is_unpacked(server, get, pack):
    bmp = encoded("BMP", size=(300, 200))
    server.routes["/x"] = serve(pack(bmp), Content_Encoding="gzip")
    assert get({"x": "/x"}).files["x"].read_bytes() == bmp


def test_chunks(server, get):
    def send(handler: Handler) -> None:
        handler.answer(length=None, Transfer_Encoding="chunked")
        for half in (JPEG[:99], JPEG[99:]):
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(half), half))
        handler.wfile.write(b"0\r\n\r\n")

    server.routes["/x"] = send
    assert get({"x": "/x"}).files["x"].read_bytes() == JPEG


def test_cookies_are_left_out(server, get):
    server.routes["/x"] = lambda handler: handler.answer(302, Location="/y", Set_Cookie="a=b; Path=/")
    server.routes["/y"] = serve(JPEG)
    assert get({"x": "/x"}).failed == ()
    assert all("Cookie" not in headers for headers in server.headers)


def test_several_at_a_time(server, get):
    together = threading.Barrier(6)

    def send(handler: Handler) -> None:
        together.wait(3)
        handler.answer(body=JPEG)

    paths = {str(index): f"/{index}" for index in range(6)}
    server.routes |= dict.fromkeys(paths.values(), send)
    assert get(paths, workers=6, read_timeout=4.0, retries=0).fetched == 6


def test_ctrl_c_leaves_a_folder_to_go_on_from(server, get, tmp_path):
    paths = {f"image{index}": f"/{index}" for index in range(12)}
    server.routes |= dict.fromkeys(paths.values(), serve(JPEG))

    def interrupt(handler: Handler) -> None:
        handler.answer(body=JPEG[:100], length=10**6)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        while not handler.site.over.wait(0.05):
            handler.wfile.write(b"x")

    server.routes["/5"] = interrupt
    before, start = signal.signal(signal.SIGINT, signal.default_int_handler), time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            get(paths, workers=2)
        assert time.monotonic() - start < 3, "what is under way is not waited for"
    finally:
        signal.signal(signal.SIGINT, before)
    there = [name.removesuffix(".jpg") for name in names(tmp_path) if name.endswith(".jpg")]
    missing = pd.read_csv(tmp_path / "images" / "failed.csv")
    assert sorted([*there, *missing["id"]]) == sorted(paths)
    assert set(missing["reason"]) == {"interrupted"}
    assert "image5" in set(missing["id"])
    assert not [name for name in names(tmp_path) if name.endswith(".part")]
    assert not [thread for thread in threading.enumerate() if "portal" in thread.name]
    server.routes["/5"] = serve(JPEG)
    assert get(paths).fetched == len(missing)
    assert sum(server.visits.values()) <= len(paths) + 2


def test_a_disk_that_takes_nothing_ends_the_run(server, get, monkeypatch):
    def full(self, *_: Any) -> None:
        raise OSError(28, "No space left on device")

    server.routes["/x"] = serve(JPEG)
    monkeypatch.setattr("notice_lens.pairs.web.fetch.Path.replace", lambda *_: full(None))
    with pytest.raises(OSError, match="No space left on device"):
        get({"x": "/x"})
