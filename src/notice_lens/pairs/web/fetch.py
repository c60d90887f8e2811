"""One file from the web, within limits of size and time that no server can stretch.

1. Ask for the bytes. Redirects are followed here and not by requests, which would read all of what a redirect says
   besides: each has to lead to http or https, and there are few.
2. Write what comes, as it comes. Time is looked at between any two bytes that arrive, size before each write; what
   is compressed on its way is unpacked in pieces, so that a small answer cannot become a huge one at once.
3. What may pass is tried again after a pause (no connection, no answer in time, cut off, 429 and 5xx): urllib3's
   `Retry` says how often and how long, and a server's own Retry-After counts, unless it asks for more than is left.

Neither proxies nor passwords are taken from the environment, and no cookies are kept.

Limits: the headers of one answer have the time of one answer, not of one image, so a server that sends them letter by
letter can hold a thread longer than `Limits.max_seconds`.
"""

import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from threading import Event
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, InvalidHeader, MaxRetryError, ReadTimeoutError
from urllib3.util import Retry

from notice_lens import __version__

ADDRESS = "no http or https address"
CONNECTION = "no connection"
CUT_OFF = "cut off"
INTERRUPTED = "interrupted"
REDIRECT = "redirect refused"
TIMEOUT = "out of time"
TOO_LARGE = "too large"
SCHEMES = ("http", "https")
MAX_REDIRECTS = 5

_PASSING = (429, 500, 502, 503, 504)
_PACKED = ("gzip", "x-gzip", "deflate")
_CHUNK = 1 << 16


class FetchError(Exception):
    """A file that was not fetched.

    Attributes:
        reason: The kind of failure, one of this module's constants or HTTP and a status.
        detail: What was asked, what arrived, and what is allowed.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class _MayPass(FetchError):
    """A failure worth another try; the answer, if there was one, may say when."""

    def __init__(self, reason: str, detail: str, response: requests.Response | None = None) -> None:
        super().__init__(reason, detail)
        self.response = response


@dataclass(frozen=True)
class Limits:
    """How much one file may cost.

    Attributes:
        retries: Further tries after the first.
        max_bytes: The most bytes of a file.
        connect_timeout: Seconds until a connection stands.
        read_timeout: Seconds without a byte.
        max_seconds: Seconds for the whole file: redirects, pauses and all tries.
    """

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
    """Fetches files; several threads may share one.

    Args:
        limits: How much one file may cost.
        stop: Ends what is under way once it is set, by a `FetchError` of the reason INTERRUPTED.
        connections: How many are kept open to one host.
        proxies: What requests takes: the proxy of each scheme.
    """

    def __init__(self, limits: Limits, stop: Event, connections: int, proxies: Mapping[str, str] | None = None) -> None:
        self.limits = limits
        self.stop = stop
        self._session = _Session()
        self._session.trust_env = False
        self._session.proxies.update(proxies or {})
        # What threads share must not change: no cookies.
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.headers.update({"User-Agent": f"notice-lens/{__version__}", "Accept-Encoding": "identity"})
        for scheme in SCHEMES:
            self._session.mount(f"{scheme}://", HTTPAdapter(pool_maxsize=connections))

    def close(self) -> None:
        """Closes all connections."""
        self._session.close()

    def fetch(self, url: str, path: Path) -> str:
        """Writes what a URL leads to into a file, and returns the Content-Type, "" where none was given.

        Raises:
            FetchError: It is not there, or not within the limits; the file may hold a part of it.
            OSError: The file cannot be written.
        """
        _check_scheme(url, ADDRESS, "the URL is")
        deadline = time.monotonic() + self.limits.max_seconds
        retry = Retry(total=self.limits.retries, backoff_factor=0.5, backoff_jitter=0.2, status_forcelist=_PASSING)
        while True:
            try:
                return self._attempt(url, path, deadline)
            except _MayPass as error:
                retry = self._pause(retry, error, deadline)

    def _attempt(self, url: str, path: Path, deadline: float) -> str:
        """Asks once."""
        with self._open(url, deadline) as response:
            _check_status(response)
            self._check_size(response.raw.length_remaining or 0, "Content-Length")
            chunks = self._chunks(response, deadline)
            if response.headers.get("Content-Encoding", "").lower() in _PACKED:
                chunks = _unpacked(chunks)
            size = 0
            with path.open("wb") as file:
                for chunk in chunks:
                    size += len(chunk)
                    self._check_size(size, "at least")
                    file.write(chunk)
            return response.headers.get("Content-Type", "")

    def _open(self, url: str, deadline: float) -> requests.Response:
        """The answer at the end of all redirects, of which only the headers are read."""
        for _ in range(MAX_REDIRECTS + 1):
            response = self._ask(url, deadline)
            if not response.is_redirect:
                return response
            response.close()
            url = _target(url, response.headers["location"])
        raise FetchError(REDIRECT, f"{MAX_REDIRECTS} redirects are followed, and there is another, to {url}")

    def _ask(self, url: str, deadline: float) -> requests.Response:
        """The answer of one server, of which only the headers are read."""
        left = self._time_left(deadline)
        timeout = (min(self.limits.connect_timeout, left), min(self.limits.read_timeout, left))
        try:
            return self._session.get(url, stream=True, allow_redirects=False, timeout=timeout)
        except requests.ConnectTimeout:
            raise _MayPass(TIMEOUT, f"no connection within {timeout[0]:.3g} s (connect_timeout)") from None
        except requests.Timeout:
            raise _MayPass(TIMEOUT, f"no answer within {timeout[1]:.3g} s (read_timeout)") from None
        except requests.exceptions.SSLError as error:
            raise FetchError(CONNECTION, _innermost(error)) from error
        except requests.ConnectionError as error:
            raise _MayPass(CONNECTION, _innermost(error)) from error
        # requests and urllib3 meet odd addresses with a dozen exceptions; one URL must not end a run of thousands.
        except Exception as error:
            raise FetchError(ADDRESS, f"{_innermost(error)} ({url})") from error

    def _chunks(self, response: requests.Response, deadline: float) -> Iterator[bytes]:
        """The bytes of an answer as they come over the wire."""
        size = 0
        while True:
            self._time_left(deadline, f", after {size:,} bytes")
            if self.stop.is_set():
                raise FetchError(INTERRUPTED, f"stopped after {size:,} bytes")
            try:
                # read1 hands over what is there: read would wait for the whole chunk, however slowly it comes.
                chunk = response.raw.read1(_CHUNK, decode_content=False)
            except ReadTimeoutError:
                detail = f"no further byte within {self.limits.read_timeout:.3g} s (read_timeout), after {size:,} bytes"
                raise _MayPass(TIMEOUT, detail) from None
            except (HTTPError, OSError) as error:
                raise _MayPass(CUT_OFF, f"the connection ended after {size:,} bytes, before the file did") from error
            if not chunk:
                return
            size += len(chunk)
            yield chunk

    def _pause(self, retry: Retry, error: _MayPass, deadline: float) -> Retry:
        """Waits as long as the server asks, or longer each time; the failure itself where no try or time is left."""
        try:
            retry = retry.increment("GET", error=error)
        except MaxRetryError:
            tries = f" (in {self.limits.retries + 1} tries)" if self.limits.retries else ""
            raise FetchError(error.reason, error.detail + tries) from error
        asked = _retry_after(retry, error.response)
        seconds = asked or retry.get_backoff_time()
        left = deadline - time.monotonic()
        if seconds >= left:
            wait = f"the server asks to wait {asked:,.0f} s (Retry-After)" if asked else "another try has to wait"
            detail = f"{error.detail}; {wait}, and {max(left, 0):.3g} s are left of {self.limits.max_seconds:g} s"
            raise FetchError(error.reason, f"{detail} (max_seconds)") from error
        if self.stop.wait(seconds):
            raise FetchError(INTERRUPTED, f"stopped before another try; before, {error.detail}")
        return retry

    def _time_left(self, deadline: float, where: str = "") -> float:
        """Seconds left for this file, more than none."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise FetchError(TIMEOUT, f"not complete within {self.limits.max_seconds:g} s (max_seconds){where}")
        return left

    def _check_size(self, size: int, what: str) -> None:
        if size > self.limits.max_bytes:
            raise FetchError(
                TOO_LARGE, f"{what} {size:,} bytes; at most {self.limits.max_bytes:,} asked for (max_bytes)"
            )


class _Session(requests.Session):
    """A session that sees no redirects: it would read the whole body of each, whatever its size and pace."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


def _check_scheme(url: str, reason: str, what: str) -> None:
    try:
        valid = urlsplit(url).scheme in SCHEMES
    except ValueError:
        valid = False
    if not valid:
        raise FetchError(reason, f"{what} {url!r}; expected http:// or https://")


def _target(url: str, location: str) -> str:
    """Where a redirect leads."""
    # Headers are read as Latin-1, and servers write UTF-8.
    location = location.encode("latin-1", "replace").decode("utf-8", "replace")
    try:
        target = urljoin(url, location)
    except ValueError:
        target = location
    _check_scheme(target, REDIRECT, "it leads to")
    return target


def _check_status(response: requests.Response) -> None:
    """Only 200 brings a whole file."""
    status = response.status_code
    detail = f"{response.url} answered {status} {response.reason}"
    if status in _PASSING:
        raise _MayPass(f"HTTP {status}", detail, response)
    if status != 200:
        raise FetchError(f"HTTP {status}", detail)


def _retry_after(retry: Retry, response: requests.Response | None) -> float | None:
    """Seconds that the server asks to wait; None where it says nothing that can be understood."""
    try:
        seconds = retry.get_retry_after(response.raw) if response is not None else None
    except (InvalidHeader, ValueError, OverflowError):
        return None
    return None if seconds is None else float(seconds)


def _unpacked(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Bytes without their gzip or deflate, a bounded piece at a time."""
    decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        for chunk in chunks:
            while chunk:
                yield decoder.decompress(chunk, _CHUNK)
                chunk = decoder.unconsumed_tail
        yield decoder.flush()
    except zlib.error as error:
        raise FetchError(CUT_OFF, f"Content-Encoding says compressed, and unpacking fails: {error}") from error


def _innermost(error: BaseException) -> str:
    """What happened, without the layers of libraries around it."""
    inner = error.args[0] if error.args and isinstance(error.args[0], Exception) else None
    inner = getattr(inner, "reason", None) or inner
    if isinstance(inner, Exception):
        return _innermost(inner)
    return str(error) or type(error).__name__
