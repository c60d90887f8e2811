"""download: every image arrives whole or is named in the report, whatever the server does."""

import gzip
import io
import re
import signal
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from notice_lens import __version__
from notice_lens.pairs.web.downloader import download
from notice_lens.pairs.web.fetch import Limits
from notice_lens.pairs.web.report import DownloadReport

HOUR = 3600


def encoded(format: str = "JPEG", mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, format)
    return file.getvalue()


JPEG = encoded()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.site.visits[self.path] += 1
        self.site.headers.append(dict(self.headers))
        self.close_connection = True
        with suppress(BrokenPipeError, ConnectionResetError):
            self.site.routes[self.path](self)

    @property
    def site(self) -> "Server":
        assert isinstance(self.server, Server)
        return self.server

    @property
    def visit(self) -> int:
        return self.site.visits[self.path]

    def answer(self, status: int = 200, body: bytes = b"", length: int | None = -1, **headers: str) -> None:
        """Sends an answer; a length of None leaves Content-Length out, so that the end of the connection ends it."""
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(len(body) if length == -1 else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """A server whose answers are written by the tests: a function for each path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.routes: dict[str, Callable[[Handler], None]] = {}
        self.visits: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.over = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    # A download that waits for ever should fail its test and not hold up all others.
    patience = threading.Timer(8, server.over.set)
    patience.start()
    yield server
    patience.cancel()
    server.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def get(server, tmp_path) -> Callable[..., DownloadReport]:
    """Downloads paths of the server by id, fast and silently."""

    def get(paths: dict[str, str], **settings: Any) -> DownloadReport:
        settings = {"progress": False, "retries": 1, "read_timeout": 0.4, "max_seconds": 5.0} | settings
        return download({id: server.url(path) for id, path in paths.items()}, tmp_path / "images", **settings)

    return get


def serve(body: bytes, **more: Any) -> Callable[[Handler], None]:
    return lambda handler: handler.answer(body=body, **more)


def names(tmp_path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "images").iterdir())


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


def stall(handler: Handler) -> None:
    handler.site.over.wait()


def stall_midway(handler: Handler) -> None:
    handler.answer(body=JPEG[:100], length=len(JPEG))
    handler.site.over.wait()


def trickle(handler: Handler) -> None:
    """A byte now and then, each in time for the read time-out."""
    handler.answer(body=JPEG[:100], length=len(JPEG))
    for byte in JPEG[100:]:
        if handler.site.over.wait(0.1):
            break
        handler.wfile.write(bytes([byte]))


def endless(handler: Handler) -> None:
    handler.answer(length=None)
    while not handler.site.over.is_set():
        handler.wfile.write(JPEG)


def chunked(body: bytes) -> Callable[[Handler], None]:
    def send(handler: Handler) -> None:
        handler.answer(length=None, Transfer_Encoding="chunked")
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(body) + 1, body))

    return send


def redirect(to: str) -> Callable[[Handler], None]:
    return lambda handler: handler.answer(302, Location=to)


HTML = b"<html><body>Please log in</body></html>"
FAILURES = {
    "404": (lambda handler: handler.answer(404), "HTTP 404", "/x answered 404 Not Found", 1),
    "500": (lambda handler: handler.answer(500), "HTTP 500", "answered 500 Internal Server Error (in 2 tries)", 2),
    "no body": (lambda handler: handler.answer(204), "HTTP 204", "answered 204 No Content", 1),
    "html": (
        serve(HTML, Content_Type="text/html"),
        "image unreadable",
        "not an image in a format that Pillow knows (39 bytes, Content-Type text/html)",
        1,
    ),
    "empty": (serve(b""), "image unreadable", "the file is empty (0 bytes) (0 bytes, Content-Type not given)", 1),
    "half a JPEG": (serve(JPEG[: len(JPEG) // 2]), "image unreadable", "image file is truncated", 1),
    "postscript": (
        serve(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"),
        "image unreadable",
        "an image of the format EPS; expected one of AVIF, BMP,",
        1,
    ),
    "cut off": (serve(JPEG[:100], length=len(JPEG)), "cut off", "ended after 100 bytes, before the file did", 2),
    "a chunk cut off": (chunked(JPEG[:100]), "cut off", "the connection ended after", 2),
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
    "to a file": (redirect("file:///etc/hostname"), "redirect refused", "leads to 'file:///etc/hostname'; expected", 1),
    "to ftp": (redirect("ftp://127.0.0.1/x"), "redirect refused", "expected http:// or https://", 1),
    "loop": (redirect("/x"), "redirect refused", "5 redirects are followed, and there is another, to http://", 6),
    "to nonsense": (redirect("http://["), "redirect refused", "expected http:// or https://", 1),
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


@pytest.mark.parametrize(
    ("url", "reason", "detail"),
    [
        ("file:///etc/hostname", "no http or https address", "the URL is 'file:///etc/hostname'; expected http://"),
        ("", "no http or https address", "the URL is ''; expected http:// or https://"),
        ("http://", "no http or https address", "No host supplied"),
        ("http://" + "a" * 70 + ".invalid/", "no http or https address", "label empty or too long"),
        ("http://127.0.0.1:1/", "no connection", "Connection refused (in 2 tries)"),
    ],
)
def test_urls_that_lead_nowhere(tmp_path, url, reason, detail):
    (failure,) = download({"x": url}, tmp_path, retries=1, progress=False).failed
    assert (failure.url, failure.reason) == (url, reason)
    assert detail in failure.detail


def test_environment_proxies_and_cookies_are_left_out(server, get, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    server.routes["/x"] = lambda handler: handler.answer(302, Location="/y", Set_Cookie="a=b; Path=/")
    server.routes["/y"] = serve(JPEG)
    assert get({"x": "/x"}).failed == ()
    assert all("Cookie" not in headers for headers in server.headers)
    assert get({"z": "/y"}, proxies={"http": "http://127.0.0.1:1"}, retries=0).counts == {"no connection": 1}


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
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]
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


@pytest.mark.parametrize("id", ["", "a/b", "../a", "a.b", "a b", "é", "a\n", "x\0"])
def test_ids_that_are_no_names_of_files(server, get, tmp_path, id):
    with pytest.raises(ValueError, match=re.escape(f"digits, _ and -; got {id!r}")):
        get({"good": "/good", id: "/x"})
    assert not server.visits
    assert not (tmp_path / "images").exists()


def test_many_bad_ids_are_counted(get):
    with pytest.raises(ValueError, match=re.escape("got '0.', '1.', '2.', '3.', '4.' and 3 more")):
        get({f"{index}.": "/x" for index in range(8)})


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
    assert download(pairs, tmp_path, progress=False).fetched == 1
    assert server.visits["/x"] == 1


def test_ids_that_a_file_system_mixes_up(server, get, tmp_path, monkeypatch):
    server.routes |= {"/1": serve(JPEG), "/2": serve(encoded("PNG"))}
    monkeypatch.setattr("notice_lens.pairs.web.downloader._ignores_case", lambda _: True)
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
    download(urls, tmp_path / "silent", progress=False)
    assert capsys.readouterr() == ("", "")
    download(urls, tmp_path / "bar")
    assert "2/2" in (shown := capsys.readouterr().err)
    assert "failed=1" in shown


def test_the_defaults_are_those_of_limits():
    assert Limits() == Limits(3, 50 * 2**20, 10.0, 30.0, 120.0)
