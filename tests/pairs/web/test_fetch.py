"""download against servers that never finish, and addresses that are none of its business."""

import asyncio
import base64
import gzip
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pandas as pd
import pytest

from notice_lens.pairs import download
from notice_lens.pairs.web import fetch
from picture_server import JPEG, redirect, serve

PATIENCE = 6.0
"""Seconds after which a server gives up, so that who waits for it fails and does not hang."""
OK = b"HTTP/1.1 200 OK\r\n"
GZIP = OK + b"Content-Encoding: gzip\r\n\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
PRIVATE = "private address refused"

Talk = Callable[[socket.socket, threading.Event], None]


@contextmanager
def talking(talk: Talk) -> Iterator[str]:
    """The URL of a server that answers each request as it likes, byte by byte."""
    over = threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(1 << 16)
            talk(connection, over)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        patience = threading.Timer(PATIENCE, over.set)
        patience.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/x.jpg"
        patience.cancel()
        over.set()
        listener.shutdown(socket.SHUT_RDWR)


def forever(first: bytes, again: bytes, pause: float = 0.02) -> Talk:
    """A server that says something, and then something else for ever."""

    def talk(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(first)
        while not over.wait(pause):
            connection.sendall(again)

    return talk


NEVER_FINISHED = {
    "100 Continue": forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "100 Continue, a flood": forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, 0),
    "103 Early Hints": forever(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
    "the status line": forever(b"HTTP/1.1 200 O", b"K"),
    "one header": forever(OK + b"X: ", b"a"),
    "headers": forever(OK, b"A: b\r\n"),
    "headers of a redirect": forever(b"HTTP/1.1 302 Found\r\nLocation: /x\r\n", b"A: b\r\n"),
    "the size of a chunk": forever(CHUNKED, b"0", 0.1),
    "an extension of a chunk": forever(CHUNKED + b"5;a=", b"b"),
    "tiny chunks": forever(CHUNKED, b"1\r\nx\r\n"),
    "trailers": forever(CHUNKED + b"%x\r\n%s\r\n0\r\n" % (len(JPEG), JPEG), b"A: b\r\n"),
    "a body without a length": forever(OK + b"\r\n", b"x"),
    "gzip of nothing": forever(GZIP + gzip.compress(b"")[:10], b"\x00\x00\x00\xff\xff"),
}  # fmt: skip


@pytest.mark.parametrize("name", NEVER_FINISHED)
def test_one_deadline_holds_against_whatever_never_finishes(tmp_path, name):
    with talking(NEVER_FINISHED[name]) as url:
        start = time.monotonic()
        report = download({"x": url}, tmp_path, max_seconds=1.0, allow_private=True, progress=False)
        took = time.monotonic() - start
    (failure,) = report.failed
    assert failure.reason == "out of time"
    assert failure.detail.startswith("not complete within 1 s (max_seconds)")
    assert took < PATIENCE / 2
    assert [path.name for path in tmp_path.iterdir()] == ["failed.csv"]


def test_redirects_have_one_deadline_together(tmp_path):
    def talk(connection: socket.socket, over: threading.Event) -> None:
        over.wait(0.4)
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /x.jpg\r\nContent-Length: 0\r\n\r\n")

    with talking(talk) as url:
        (failure,) = download({"x": url}, tmp_path, max_seconds=1.0, allow_private=True, progress=False).failed
    assert failure.detail == "not complete within 1 s (max_seconds)"


# (The names of tests have to be the same in every worker, and gzip writes the time.)
@pytest.mark.parametrize("junk", [b"x" * 5000, gzip.compress(JPEG), b"\x00"], ids=["text", "gzip again", "zero"])
def test_what_is_behind_the_end_of_gzip_is_not_read(tmp_path, junk):
    first = GZIP + gzip.compress(JPEG)
    with talking(forever(first + junk, junk)) as url:
        report = download({"x": url}, tmp_path, max_seconds=3.0, allow_private=True, progress=False)
    assert report.files["x"].read_bytes() == JPEG


def test_gzip_without_an_end_is_cut_off(server, get):
    server.routes["/x"] = serve(gzip.compress(JPEG)[:-9], Content_Encoding="gzip")
    (failure,) = get({"x": "/x"}).failed
    assert (failure.reason, "the end is missing" in failure.detail) == ("cut off", True)


def test_bytes_on_the_wire_are_counted_too(tmp_path):
    """Empty blocks of deflate: endless on the wire, and nothing when they are unpacked."""
    first = GZIP + gzip.compress(b"")[:10]
    with talking(forever(first, b"\x00\x00\x00\xff\xff" * 10_000, 0)) as url:
        report = download({"x": url}, tmp_path, max_bytes=10**6, allow_private=True, progress=False)
    assert report.counts == {"too large": 1}


def test_a_length_of_thousands_of_digits(tmp_path):
    answer = b"Content-Length: " + b"9" * 5000 + b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    with talking(forever(OK + answer, b"")) as url:
        report = download({"x": url}, tmp_path, max_seconds=2.0, retries=0, allow_private=True, progress=False)
    assert len(report.failed) == 1


def test_a_slow_look_up_of_a_name_holds_nothing_up(server, tmp_path, monkeypatch):
    found = socket.getaddrinfo

    def slow(host, *more, **options):
        if host in ("slow.example", b"slow.example"):
            time.sleep(4)
        return found("127.0.0.1", *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    server.routes["/x"] = serve(JPEG)
    urls = {f"slow{n}": server.url("/x").replace("127.0.0.1", "slow.example") for n in range(9)}
    start = time.monotonic()
    settings = {"workers": 9, "max_seconds": 1.0, "allow_private": True, "progress": False}
    report = download({**urls, "quick": server.url("/x")}, tmp_path, **settings)
    assert time.monotonic() - start < 3
    assert report.counts == {"out of time": 9}
    assert list(report.files) == ["quick"]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "224.0.0.1", "240.0.0.1", "255.255.255.255", "[::1]", "[::]", "[fe80::1]", "[fd00:ec2::254]", "[ff02::1]",
        "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[2002:7f00:1::]", "me:secret@10.0.0.1",
    ],
)  # fmt: skip
def test_private_addresses_are_refused(tmp_path, host):
    (failure,) = download({"x": f"http://{host}/x.jpg"}, tmp_path, progress=False).failed
    assert failure.reason == PRIVATE
    assert "expected a public address, or allow_private=True" in failure.detail


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f.0.0.1", "rebound.example", "127.0.0.1."])
def test_names_that_lead_to_private_addresses_are_refused_before_a_byte_is_sent(server, tmp_path, monkeypatch, host):
    """What counts is the address that is connected to: another look-up would find another one."""
    found = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda name, *more, **options: found("127.0.0.1", *more, **options))
    server.routes["/x"] = serve(JPEG)
    url = server.url("/x").replace("127.0.0.1", host)
    assert download({"x": url}, tmp_path, progress=False).counts == {PRIVATE: 1}
    assert not server.visits
    assert download({"x": url}, tmp_path, progress=False, allow_private=True).fetched == 1


@pytest.mark.parametrize(
    "target", ["http://127.0.0.2:{}/x", "http://[::1]:{}/x", "//10.0.0.1/x", "http://localhost:{}/x"]
)
def test_redirects_from_public_to_private_addresses_are_refused(server, tmp_path, monkeypatch, target):
    names: list[str] = []

    def seen(host: str) -> object:
        """The server's address counts as public until a name has led to it."""
        return ipaddress.ip_address("8.8.8.8" if host == "127.0.0.1" and not names else host)

    found = socket.getaddrinfo
    monkeypatch.setattr(fetch, "ip_address", seen)
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda name, *more, **options: names.append(name) or found(name, *more, **options)
    )
    server.routes |= {"/good": serve(JPEG), "/x": serve(JPEG), "/to": redirect(target.format(server.server_port))}
    report = download({"to": server.url("/to")}, tmp_path, progress=False)
    assert report.counts == {PRIVATE: 1}
    assert server.visits == {"/to": 1}


@pytest.fixture
def no_proxies(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.usefixtures("no_proxies")
def test_proxies_of_the_environment_are_respected(server, get, tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", server.url(""))
    server.routes |= {"http://pictures.example/x": serve(JPEG), "/x": serve(JPEG)}
    assert download({"x": "http://pictures.example/x"}, tmp_path, progress=False).fetched == 1
    assert get({"y": "/x"}, retries=0).failed, "asked through the proxy, which does not know it by that name"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert get({"z": "/x"}).fetched == 1


@pytest.mark.usefixtures("no_proxies")
def test_proxies_that_are_given_come_first(server, get, monkeypatch):
    server.routes |= {"/x": serve(JPEG)}
    monkeypatch.setenv("HTTP_PROXY", server.url(""))
    assert get({"x": "/x"}, proxies={"http": "http://127.0.0.1:1"}, retries=0).counts == {"no connection": 1}


@pytest.mark.usefixtures("no_proxies")
@pytest.mark.parametrize("target", ["http://169.254.169.254/latest/meta-data", "http://[::1]/x", "http://127.0.0.1/x"])
def test_private_addresses_are_refused_behind_a_proxy(server, tmp_path, target):
    server.routes |= {"http://pictures.example/x": redirect(target)}
    report = download({"x": "http://pictures.example/x"}, tmp_path, proxies={"http": server.url("")}, progress=False)
    assert report.counts == {PRIVATE: 1}
    assert list(server.visits) == ["http://pictures.example/x"]


def test_passwords_go_to_the_server_and_nowhere_else(server, tmp_path, caplog):
    server.routes |= {"/x": serve(JPEG), "/y": lambda handler: handler.answer(410)}
    urls = {id: server.url(f"/{id}").replace("//", "//me:se%20cret@") for id in "xy"}
    with caplog.at_level(logging.DEBUG):
        report = download(urls, tmp_path, allow_private=True, progress=False)
    assert [headers["Authorization"] for headers in server.headers] == [
        f"Basic {base64.b64encode(b'me:se cret').decode()}"
    ] * 2
    assert list(report.files) == ["x"]
    failed = (tmp_path / "failed.csv").read_text()
    assert server.url("/y").replace("//", "//***@") in failed
    assert not [text for text in (str(report), repr(report), failed, caplog.text) if "cret" in text]


def test_what_a_server_says_is_shown_and_not_obeyed(tmp_path):
    def talk(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(OK + b"Content-Type: \x9b2J\xe2\x80\xaegpj\r\nContent-Length: 4\r\n\r\nno p")

    with talking(talk) as url:
        report = download({"x": url}, tmp_path, allow_private=True, progress=False)
    for text in (str(report), (tmp_path / "failed.csv").read_text(encoding="utf-8")):
        assert "Content-Type" in text
        assert not set(text) & {"\x9b", "\u202e", "\x1b"}


def test_no_cell_of_the_report_is_a_formula(tmp_path):
    url = "=HYPERLINK(1)&cmd|' /C calc'!A0"
    report = download({"-5": url, "a": "@SUM(1+1)"}, tmp_path, progress=False)
    assert [failure.url for failure in report.failed] == [url, "@SUM(1+1)"]
    frame = pd.read_csv(tmp_path / "failed.csv", dtype=str)
    assert [*frame["id"], *frame["url"]] == ["-5", "a", f"'{url}", "'@SUM(1+1)"]


def test_it_runs_where_a_loop_is_running_already(server, get):
    """As in a notebook."""
    server.routes["/x"] = serve(JPEG)

    async def cell() -> int:
        return get({"x": "/x"}).fetched

    assert asyncio.run(cell()) == 1
