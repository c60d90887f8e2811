"""What commands say when they fail: one message on the error stream, and an exit code.

0 all is well, 1 what was asked for cannot be done, 2 the command line is wrong (click says so), 130 stopped by Ctrl-C.
"""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from notice_lens.plain_text import printable

FAILED, STOPPED = 1, 130


def echo(text: object, err: bool = False) -> None:
    """Print text whose control characters and passwords, wherever they are from, are made harmless."""
    click.echo(printable(text), err=err)


def told(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose errors are one message and exit code 1; 130 where it was stopped."""

    @wraps(command)
    def run(*args: Any, **options: Any) -> Any:
        try:
            return command(*args, **options)
        except KeyboardInterrupt as stop:
            echo(str(stop) or "stopped", err=True)
            sys.exit(STOPPED)
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            echo(f"notice-lens: {error}", err=True)
            sys.exit(FAILED)

    return run
