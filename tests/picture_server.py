"""A web server on this machine whose answers are written by the tests, and pictures for it to send."""

import io
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def encoded(format: str = "JPEG", mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, format)
    return file.getvalue()


JPEG = encoded()
HTML = b"<html><body>Please log in</body></html>"


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


@contextmanager
def serving() -> Iterator[Server]:
    """A server, while it runs."""
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


def serve(body: bytes, **more: Any) -> Callable[[Handler], None]:
    return lambda handler: handler.answer(body=body, **more)


def names(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "images").iterdir())


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
