"""Work that is done in a fork of this process, and may kill it."""

import os
from collections.abc import Callable


def forked(work: Callable[[], int]) -> tuple[int, int]:
    """The signal that ended a fork, and the number that `work` gave there; 0 each where there was none."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, str(work()).encode())
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    found = os.read(reader, 20)
    os.close(reader)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, int(found or 0)
