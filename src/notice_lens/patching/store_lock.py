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

LENGTH = 1000
"""More bytes than a lock file holds."""


class Lock:
    """The right to write to a store, until `release`, or until the process ends in whatever way.

    The file `{name}.lock` holds the process's id and machine for the message alone. What counts is the system's lock on
    the file, so one that a killed process left behind is taken over, and a new process with an old id is not mistaken
    for the old one.

    Args:
        path: The store's folder, which need not exist.

    Raises:
        RuntimeError: Somebody else is writing.
    """

    def __init__(self, path: Path) -> None:
        file = path.with_name(path.name + ".lock")
        descriptor = _acquire(file, path)
        self._release = weakref.finalize(self, _release, descriptor, file, os.getpid())

    @property
    def released(self) -> bool:
        """Whether others may write."""
        return not self._release.alive

    def release(self) -> None:
        """Lets others write. A second time does nothing."""
        self._release()


def _acquire(file: Path, path: Path) -> int:
    """The lock file's descriptor, locked."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        if not _lock(descriptor):
            holder = _holder(os.read(descriptor, LENGTH))
            os.close(descriptor)
            raise RuntimeError(f"{path}: {holder} is writing to this store; wait for it, end it, or close that store")
        if _is(descriptor, file):
            break
        os.close(descriptor)  # the holder before us took the file away after we had opened it
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps({"pid": os.getpid(), "machine": platform.node()}).encode())
    return descriptor


def _lock(descriptor: int) -> bool:
    """Locks a file unless somebody has; says whether it did."""
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, LENGTH, os.SEEK_SET)  # Windows keeps others from reading what is locked
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.lseek(descriptor, 0, os.SEEK_SET)
        return False
    return True


def _is(descriptor: int, file: Path) -> bool:
    """Whether an open file is still the one under its name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except FileNotFoundError:
        return False


def _holder(content: bytes) -> str:
    """Who has the lock, in words."""
    try:
        found = json.loads(content)
        own = found["pid"] == os.getpid() and found["machine"] == platform.node()
        return "this very process" if own else f"process {found['pid']} on {found['machine']}"
    except (ValueError, KeyError, TypeError):  # it has just begun to write its name
        return "another process"


def _release(descriptor: int, file: Path, pid: int) -> None:
    """Takes the file away and frees it, in the process that locked it: a fork of it has no say."""
    if os.getpid() != pid:
        return
    try:
        file.unlink(missing_ok=True)
    except PermissionError:  # Windows keeps open files; an unlocked one is as good as none
        pass
    finally:
        os.close(descriptor)
