"""One file from the web, within limits of size and time that no server can stretch.

httpx2 speaks HTTP, through the environment's proxies (`HTTP_PROXY`, `NO_PROXY` and their like). What is decided here:

1. One deadline encloses everything that belongs to a file: look-ups of names, connections, headers, redirects, bodies,
   pauses and further tries. It cancels whatever is awaited, however slowly or endlessly a server talks.
2. Only the headers of a redirect are read. Each has to lead to http or https, and there are few.
3. Private addresses are refused. What counts is the address that a connection has reached, looked at before a byte is
   sent, and not what a name led to a moment ago. Behind a proxy only addresses that a URL spells out can be refused.
4. Bytes are counted on the wire and again unpacked, a bounded piece at a time; what follows their end is not read.
5. What may pass (no connection, no answer in time, cut off, 429 and 5xx) is tried again after a pause.

Limits: nothing can interrupt a look-up of a name. No file waits for it, but the interpreter may, at its exit.
"""

import asyncio
import os
import ssl
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any, Self

import anyio
import httpx2

from notice_lens import __version__

ADDRESS = "no http or https address"
CONNECTION = "no connection"
CUT_OFF = "cut off"
INTERRUPTED = "interrupted"
PRIVATE = "private address refused"
REDIRECT = "redirect refused"
TIMEOUT = "out of time"
TOO_LARGE = "too large"
SCHEMES = ("http", "https")
MAX_REDIRECTS = 5

_PASSING = (429, 500, 502, 503, 504)
_PACKED = ("gzip", "x-gzip", "deflate")
_PIECE = 1 << 16


class FetchError(Exception):
    """A file could not be fetched.

    Attributes:
        reason: The kind of failure, one of this module's constants or HTTP and a status.
        detail: The request, the response, and the limits.
        wait: Seconds that the server asks to wait before another try, 0 where it names none; None where no try helps.
    """

    def __init__(self, reason: str, detail: str, wait: float | None = None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.wait = reason, detail, wait


@dataclass(frozen=True)
class Limits:
    """Limits of time and size for one file, as `download` describes them."""

    retries: int = 3
    max_bytes: int = 50 * 2**20
    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    max_seconds: float = 120.0

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise ValueError(f"retries has to be 0 or more, got {self.retries}")
        for name in ("max_bytes", "connect_timeout", "read_timeout", "max_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} has to be more than 0, got {getattr(self, name)}")


class Fetcher:
    """A client that fetches files, as an asynchronous context manager.

    Args:
        limits: How much one file may cost.
        proxies: The proxy of each scheme (`http`, `https` or `all`), before those of the environment.
        allow_private: Whether addresses that are not public may be asked.
    """

    def __init__(self, limits: Limits, proxies: Mapping[str, str] | None = None, allow_private: bool = False) -> None:
        self.limits = limits
        self.allow_private = allow_private
        self._client = httpx2.AsyncClient(
            headers={"User-Agent": f"notice-lens/{__version__}", "Accept-Encoding": "identity"},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            timeout=httpx2.Timeout(limits.read_timeout, connect=limits.connect_timeout, pool=None),
            limits=httpx2.Limits(max_connections=None),
            mounts={f"{name}://": httpx2.AsyncHTTPTransport(proxy=proxy) for name, proxy in (proxies or {}).items()},
        )

    async def __aenter__(self) -> Self:
        asyncio.get_running_loop().set_default_executor(_LookUps(64))
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def fetch(self, url: str, path: Path) -> str:
        """Write what a URL leads to into a file, and return the Content-Type, "" where none was given.

        Raises:
            FetchError: It is not there, or not within the limits; the file may hold a part of it.
            OSError: The file cannot be written.
        """
        try:
            with anyio.fail_after(self.limits.max_seconds) as scope:
                for tries in range(1, self.limits.retries + 2):
                    try:
                        return await self._attempt(url, path)
                    except FetchError as error:
                        await self._pause(error, tries, scope.deadline - anyio.current_time())
        except TimeoutError:
            detail = f"not complete within {self.limits.max_seconds:g} s (max_seconds){_so_far(path)}"
            raise FetchError(TIMEOUT, detail) from None
        raise AssertionError("the last try returns or raises")

    async def _attempt(self, url: str, path: Path) -> str:
        """Send one request."""
        path.unlink(missing_ok=True)
        response = await self._open(url)
        try:
            _check_status(response)
            self._check_size(int(response.headers.get("Content-Length", "0")[:20]), "Content-Length")
            packed = response.headers.get("Content-Encoding", "").lower() in _PACKED
            unpack = zlib.decompressobj(zlib.MAX_WBITS | 32) if packed else None
            chunks, received = response.aiter_raw(), 0
            with path.open("wb") as file:
                while not (unpack and unpack.eof):
                    with self._told(_so_far(path)):
                        if not (chunk := await anext(chunks, b"")):
                            break
                    received += len(chunk)
                    self._check_size(received, "at least")
                    for piece in _unpacked(chunk, unpack) if unpack else (chunk,):
                        self._check_size(file.tell() + len(piece), "at least")
                        file.write(piece)
                    file.flush()
            if unpack and not unpack.eof:
                raise FetchError(CUT_OFF, "Content-Encoding says compressed, and the end is missing")
            return response.headers.get("Content-Type", "")
        finally:
            await response.aclose()

    async def _open(self, url: str) -> httpx2.Response:
        """Return the answer at the end of all redirects, of which only the headers are read."""
        target = _parsed(url, ADDRESS, "the URL is")
        for _ in range(MAX_REDIRECTS + 1):
            self._check_public(target.host)
            # A password stays out of the URL, and so out of httpx2's log.
            auth = httpx2.BasicAuth(target.username, target.password) if target.userinfo else None
            guard = self._guard(target.raw_host.decode("ascii"))
            request = self._client.build_request("GET", target.copy_with(userinfo=b""), extensions={"trace": guard})
            with self._told():
                response = await self._client.send(request, stream=True, auth=auth)
            if not response.has_redirect_location:
                return response
            await response.aclose()
            following = response.next_request  # None for an invalid address
            target = _parsed(following.url if following else response.headers["Location"], REDIRECT, "it leads to")
        raise FetchError(REDIRECT, f"{MAX_REDIRECTS} redirects are followed, and there is another, to {target}")

    def _guard(self, host: str) -> Callable[[str, dict[str, Any]], Awaitable[None]]:
        """Return a callback that closes a direct connection to a private address before a byte is sent."""
        direct = False

        async def look(event: str, info: dict[str, Any]) -> None:
            nonlocal direct
            if event == "connection.connect_tcp.started":
                direct = info["host"] == host  # and not a proxy
            elif event == "connection.connect_tcp.complete" and direct:
                stream = info["return_value"]
                try:
                    self._check_public(stream.get_extra_info("server_addr")[0])
                except BaseException:
                    await stream.aclose()
                    raise

        return look

    def _check_public(self, host: str) -> None:
        """Refuse an address that is not public; a name is not an address."""
        try:
            address = ip_address(host)
        except ValueError:
            return
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or address.sixtofour or address
        if not self.allow_private and (not address.is_global or address.is_multicast):
            raise FetchError(PRIVATE, f"it leads to {host}; expected a public address, or allow_private=True")

    @contextmanager
    def _told(self, so_far: str = "") -> Iterator[None]:
        """Turn exceptions of a connection into failures."""
        connect, read = self.limits.connect_timeout, self.limits.read_timeout
        try:
            yield
        except FetchError:
            raise
        except httpx2.ConnectTimeout:
            raise FetchError(TIMEOUT, f"no connection within {connect:.3g} s (connect_timeout)", wait=0.0) from None
        except httpx2.TimeoutException:
            what = "further byte" if so_far else "answer"
            raise FetchError(TIMEOUT, f"no {what} within {read:.3g} s (read_timeout){so_far}", wait=0.0) from None
        # Odd servers meet the layers below with a dozen exceptions; one URL must not end a run of thousands.
        except Exception as error:
            cause: BaseException = error
            while inner := cause.__cause__ or cause.__context__:
                cause = inner
            number = getattr(cause, "errno", None) or 0
            detail = os.strerror(number) if number > 0 else str(cause) or type(cause).__name__
            cut_off = isinstance(error, httpx2.ReadError | httpx2.RemoteProtocolError | ssl.SSLError)
            wait = None if isinstance(cause, ssl.SSLCertVerificationError) else 0.0
            raise FetchError(CUT_OFF if cut_off else CONNECTION, detail + so_far, wait) from error

    async def _pause(self, error: FetchError, tries: int, left: float) -> None:
        """Wait as long as the server asks, or longer each time; raise the failure if no retry is left or would help."""
        if error.wait is None:
            raise error
        if tries > self.limits.retries:
            raise FetchError(error.reason, error.detail + (f" (in {tries} tries)" if tries > 1 else "")) from error
        seconds = error.wait or 2 ** (tries - 1) - 1
        if seconds >= left:
            wait = f"the server asks to wait {seconds:,.0f} s (Retry-After)"
            left_of = f"{left:.3g} s are left of {self.limits.max_seconds:g} s (max_seconds)"
            detail = f"{error.detail}; {wait if error.wait else 'another try has to wait'}, and {left_of}"
            raise FetchError(error.reason, detail) from error
        await anyio.sleep(seconds)

    def _check_size(self, size: int, what: str) -> None:
        if size > (limit := self.limits.max_bytes):
            raise FetchError(TOO_LARGE, f"{what} {size:,} bytes; at most {limit:,} asked for (max_bytes)")


class _LookUps(ThreadPoolExecutor):
    """Threads that resolve names. They cannot be interrupted, so nothing waits for them when the loop ends."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=True)


def _unpacked(chunk: bytes, decoder: "zlib._Decompress") -> Iterator[bytes]:
    """Yield a chunk without its gzip or deflate, a bounded piece at a time; nothing of what follows the end."""
    try:
        while chunk and not decoder.eof:
            yield decoder.decompress(chunk, _PIECE)
            chunk = decoder.unconsumed_tail
    except zlib.error as error:
        raise FetchError(CUT_OFF, f"Content-Encoding says compressed, and unpacking fails: {error}") from error


def _parsed(url: str | httpx2.URL, reason: str, what: str) -> httpx2.URL:
    """Return a URL of http or https with a host."""
    try:
        parsed = httpx2.URL(url.strip() if isinstance(url, str) else url)
    except httpx2.InvalidURL:
        parsed = httpx2.URL()
    if parsed.scheme not in SCHEMES or not parsed.host:
        raise FetchError(reason, f"{what} {str(url)!r}; expected http:// or https:// and a host")
    return parsed


def _check_status(response: httpx2.Response) -> None:
    """Refuse all but 200: nothing else brings a whole file."""
    status = response.status_code
    if status != 200:
        wait = _retry_after(response.headers.get("Retry-After", "")) if status in _PASSING else None
        raise FetchError(f"HTTP {status}", f"{response.url} answered {status} {response.reason_phrase}", wait)


def _retry_after(value: str) -> float:
    """Return the seconds that a server asks to wait; 0 where it says nothing that can be understood."""
    try:
        return float(value) if value.isdecimal() else max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return 0.0


def _so_far(path: Path) -> str:
    size = path.stat().st_size if path.exists() else 0
    return f", after {size:,} bytes" if size else ""
