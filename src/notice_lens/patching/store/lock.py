"""One writer at a time: a lock file beside a store, that the operating system frees when its process is gone."""

import json
import os
import platform
import sys
import weakref
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK_FILE_BYTES = 1000
"""More bytes than a lock file holds."""
UNKNOWN = "another process"


class Lock:
    """The right to write to a store, until `release`, or until the process ends in whatever way.

    The file `{name}.lock` holds the process's id and machine for the message alone. What counts is the system's lock on
    the file, so one that a killed process left behind is taken over, and a new process with an old id is not mistaken
    for the old one.

    Args:
        path: The store's folder, which need not exist.

    Raises:
        RuntimeError: Somebody else is writing.
        FileExistsError: Some other file has the lock file's name. It is left as it is.
        OSError: Nothing can be written there.
    """

    def __init__(self, path: Path) -> None:
        file = path.with_name(path.name + ".lock")
        descriptor = _acquire(file, path)
        self._release = weakref.finalize(self, _release, descriptor, file, os.getpid())

    @property
    def released(self) -> bool:
        """True where others may write."""
        return not self._release.alive

    def release(self) -> None:
        """Let others write. Calling it twice does no harm."""
        self._release()


def _acquire(file: Path, path: Path) -> int:
    """Return the lock file's descriptor, locked."""
    while True:
        descriptor = _opened(file, path)
        locked = _lock(descriptor)
        holder = os.read(descriptor, LOCK_FILE_BYTES)
        if locked and _is(descriptor, file):
            break
        os.close(descriptor)
        if not locked:
            raise RuntimeError(f"{path}: {_named(holder)} is writing to this store; wait for it, or end it")
        # Otherwise the holder before us took the file away after we had opened it.
    if holder and _named(holder) == UNKNOWN:
        os.close(descriptor)
        raise FileExistsError(f"{file} is in the way: it is not a lock file of ours; move it, or name another folder")
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps({"pid": os.getpid(), "machine": platform.node()}).encode())
    return descriptor


def _opened(file: Path, path: Path) -> int:
    """Return the lock file's descriptor. A link is not followed: what it leads to is not ours to write to."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        if file.is_symlink():
            raise FileExistsError(f"{file} is in the way: it is a link; move it, or name another folder") from error
        raise OSError(f"cannot write to {path}: {error.strerror or error}; name another folder") from error


def _lock(descriptor: int) -> bool:
    """Lock a file unless another process holds it; return whether that worked."""
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, LOCK_FILE_BYTES, os.SEEK_SET)  # Windows keeps others from reading what is locked
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.lseek(descriptor, 0, os.SEEK_SET)
        return False
    return True


def _is(descriptor: int, file: Path) -> bool:
    """Return whether an open file is still the one under its name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except FileNotFoundError:
        return False


def _named(content: bytes) -> str:
    """Return the writer of a lock file, in words."""
    try:
        found = json.loads(content)
        own = found["pid"] == os.getpid() and found["machine"] == platform.node()
        return "this very process" if own else f"process {found['pid']} on {found['machine']}"
    except (ValueError, KeyError, TypeError):  # it has just begun to write its name
        return UNKNOWN


def _release(descriptor: int, file: Path, pid: int) -> None:
    """Remove the file and free it, in the process that locked it: a fork of it has no say."""
    if os.getpid() != pid:
        return
    try:
        file.unlink(missing_ok=True)
    except PermissionError:  # Windows keeps open files; an unlocked one is as good as none
        pass
    finally:
        os.close(descriptor)
