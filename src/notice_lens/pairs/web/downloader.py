"""Images from URLs into a folder, by id: complete, or missing and named in a report.

1. Ids and URLs are checked before anything is fetched; an id that cannot be a file name fails on its own.
2. What the folder has already is left alone: an id with an image file beside it is done. So a second run fetches only
   what is missing, after failures and after Ctrl-C alike.
3. Each image is written to `<id>.part`; once its bytes have been decoded it gets the name `<id>.jpg`, `.png`, ... by
   its real format, whatever the URL says. The bytes stay as they came.
4. What failed is simply missing, never replaced; `failed.csv` in the folder names every one, with the reason.

Limits: an image is known by its id alone, so other URLs under the same ids need another folder.
"""

import re
from asyncio import Semaphore
from collections.abc import Iterable, Mapping
from concurrent.futures import as_completed
from os import PathLike
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from anyio import to_thread
from anyio.from_thread import start_blocking_portal
from tqdm.auto import tqdm

from notice_lens.images import FORMATS, file_format, to_rgb
from notice_lens.pairs.image_folder import EXTENSIONS
from notice_lens.pairs.io.values import storable
from notice_lens.pairs.problems import IMAGE
from notice_lens.pairs.web.fetch import INTERRUPTED, Fetcher, FetchError, Limits
from notice_lens.pairs.web.report import FAILED_FILE, DownloadReport, Failure, write_csv

_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
NO_NAME = "id is no name of a file"


def download(
    urls: Any,
    folder: str | PathLike[str],
    *,
    workers: int = 8,
    retries: int = Limits.retries,
    max_bytes: int = Limits.max_bytes,
    connect_timeout: float = Limits.connect_timeout,
    read_timeout: float = Limits.read_timeout,
    max_seconds: float = Limits.max_seconds,
    proxies: Mapping[str, str] | None = None,
    allow_private: bool = False,
    progress: bool = True,
) -> DownloadReport:
    """Fetch the images that a folder lacks, and report what failed; failures of single images never raise.

    Experimental: it never ran against the web, only against a server that misbehaves in known ways.

    Args:
        urls: The URL of each id: a mapping, or pairs (id, url). Ids become names of files, so they consist of up to
            200 letters, digits, _ and -; others are not fetched, and reported.
        folder: Where the images lie, made where it is missing. Also written there: `failed.csv`, at each run anew.
        workers: How many images are fetched at a time.
        retries: Further tries after the first, where a failure may pass.
        max_bytes: The most bytes of an image.
        connect_timeout: Seconds until a connection stands.
        read_timeout: Seconds without a byte.
        max_seconds: Seconds for the whole of one image: redirects, pauses and all tries.
        proxies: The proxy of each scheme (`http`, `https` or `all`), before those of the environment (`HTTP_PROXY`,
            `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`).
        allow_private: Whether private, loopback, link-local and other addresses that are not public may be asked, as
            for your own server. Otherwise they are refused, also where a name or a redirect leads to them.
        progress: Whether to show a bar.

    Raises:
        TypeError, ValueError: The ids, the URLs or the settings are not what they have to be; nothing was fetched.
        OSError: The folder cannot be written. Finished files stay, and the next run resumes from them.
    """
    asked = _entries(urls)
    wanted = {id: url for id, url in asked.items() if _ID.fullmatch(id)}
    limits = Limits(retries, max_bytes, connect_timeout, read_timeout, max_seconds)
    if workers < 1:
        raise ValueError(f"workers has to be 1 or more, got {workers}")
    folder = Path(folder)
    _prepare(folder, wanted)
    before = _images(folder, wanted)
    missing = {id: url for id, url in wanted.items() if id not in before}
    failures = {id: _no_name(id, url) for id, url in asked.items() if id not in wanted}
    try:
        _fetch_all(Fetcher(limits, proxies, allow_private), missing, folder, workers, progress, failures)
    finally:
        files = _images(folder, wanted)
        untried = INTERRUPTED, "the run ended before it was fetched"
        failed = tuple(failures.get(id, Failure(id, url, *untried)) for id, url in asked.items() if id not in files)
        write_csv(failed, folder / FAILED_FILE)
    return DownloadReport(folder, files, len(files) - len(before), failed)


def _fetch_all(
    fetcher: Fetcher, urls: dict[str, str], folder: Path, workers: int, progress: bool, failures: dict[str, Failure]
) -> None:
    """Fetch all of them in a separate event loop, and note what failed; any other exception ends the loop."""
    slots = Semaphore(workers)
    bar = tqdm(total=len(urls), unit="image", disable=not progress)
    with bar, start_blocking_portal() as portal, portal.wrap_async_context_manager(fetcher):
        futures = {portal.start_task_soon(_fetch, fetcher, slots, id, url, folder): id for id, url in urls.items()}
        for future in as_completed(futures):
            id = futures[future]
            try:
                future.result()
            except FetchError as error:
                failures[id] = Failure(id, urls[id], error.reason, error.detail)
                bar.set_postfix(failed=len(failures))
            bar.update()


async def _fetch(fetcher: Fetcher, slots: Semaphore, id: str, url: str, folder: Path) -> None:
    """Fetch one image: it appears under its final name only when it is complete."""
    part = folder / f"{id}.part"
    async with slots:
        try:
            content_type = await fetcher.fetch(url, part)
            ending = await to_thread.run_sync(_extension, part, content_type)
            part.replace(folder / (id + ending))
        finally:
            part.unlink(missing_ok=True)


def _extension(path: Path, content_type: str) -> str:
    """The file name extension that fits a file's decoded content."""
    try:
        kind = file_format(path)
        to_rgb(path)
    except ValueError as error:
        size = f"{path.stat().st_size:,} bytes"
        raise FetchError(IMAGE, f"{error} ({size}, Content-Type {content_type or 'not given'})") from error
    return FORMATS[kind][0]


def _entries(urls: Any) -> dict[str, str]:
    """Return the URL of each id."""
    if isinstance(urls, str | bytes) or not isinstance(urls, Iterable):
        raise TypeError(f"urls are a mapping from id to URL, or pairs (id, url); got {type(urls).__name__}")
    entries: dict[str, str] = {}
    for index, item in enumerate(urls.items() if isinstance(urls, Mapping) else urls):
        if isinstance(item, str | bytes) or not hasattr(item, "__len__") or len(item) != 2:
            raise TypeError(f"urls are a mapping from id to URL, or pairs (id, url); item {index} is {item!r}")
        id, url = item
        if not isinstance(id, str) or not isinstance(url, str):
            raise TypeError(f"ids and URLs are strings; item {index} is {item!r}")
        if entries.setdefault(id, url) != url:
            raise ValueError(f"id {id!r} has two URLs: {entries[id]} and {url}")
    return entries


def _no_name(id: str, url: str) -> Failure:
    """Return the failure of an id that can be no file's name."""
    detail = f"ids become names of files: up to 200 of the letters A to Z and a to z, digits, _ and -; got {id!r:.220}"
    return Failure(storable(id), storable(url), NO_NAME, detail)


def _prepare(folder: Path, ids: Mapping[str, str]) -> None:
    """Make the folder, and remove the half-written files of an earlier run."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"folder {folder} is a file")
    folder.mkdir(parents=True, exist_ok=True)
    spelled: dict[str, str] = {}
    twins = [(other, id) for id in ids if (other := spelled.setdefault(id.casefold(), id)) != id]
    if twins and ignores_case(folder):
        one, other = twins[0]
        raise ValueError(f"{folder} takes the ids {one!r} and {other!r} for the same file: rename one of them")
    for part in folder.glob("*.part"):
        if part.stem in ids:
            part.unlink()


def ignores_case(folder: Path) -> bool:
    """Return whether the folder's file system ignores the case of names."""
    with NamedTemporaryFile(prefix="probe-", dir=folder) as probe:
        return (folder / Path(probe.name).name.swapcase()).exists()


def _images(folder: Path, ids: Mapping[str, str]) -> dict[str, Path]:
    """The image file of each id that has one, in the order of the ids."""
    found = {
        path.stem: path
        for path in sorted(folder.iterdir())
        if path.suffix in EXTENSIONS and path.stem in ids and path.is_file() and path.stat().st_size
    }
    return {id: found[id] for id in ids if id in found}
