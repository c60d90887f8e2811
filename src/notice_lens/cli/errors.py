"""Failures of commands: one message on the error stream, and an exit code.

0 all is well, 1 the request cannot be carried out, 2 the command line is wrong (click says so), 3 a fault of
notice-lens itself, 130 stopped by Ctrl-C.

Whose fault an error is: what the system says of files, and what this package raises on purpose, is about what was asked
for, and its message says enough. Everything else (a TypeError, an assertion, an error out of the depths of a library)
is a fault of the program, and is never dressed up as one of the user's. `--debug` shows the traceback of either.
"""

import dis
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any

import click

from notice_lens.plain_text import printable

FAILED, FAULT, STOPPED = 1, 3, 130
PACKAGE = Path(__file__).parents[1]
OF_PROGRAMS = (TypeError, AttributeError, AssertionError, NotImplementedError)
"""Never the user's: a command line has no types, attributes or invariants to get wrong."""


def echo(text: object, err: bool = False) -> None:
    """Print text with its control characters escaped and its passwords removed."""
    click.echo(printable(text), err=err)


def told(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command whose errors are one message and an exit code, with the option `--debug`."""

    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @wraps(command)
    def run(*args: Any, debug: bool, **options: Any) -> Any:
        try:
            return command(*args, **options)
        except KeyboardInterrupt as stop:
            echo(str(stop) or "stopped", err=True)
            sys.exit(STOPPED)
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise
        except Exception as error:
            if debug:
                echo("".join(traceback.format_exception(error)), err=True)
            message, code = verdict(error)
            echo(f"notice-lens: {message}", err=True)
            sys.exit(code)

    return run


def verdict(error: Exception) -> tuple[str, int]:
    """Return the message of an error, and the exit code."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"out of memory ({_first_line(error)}); --memory 500MB, for instance, keeps fewer runs at a time", FAILED
    if isinstance(error, OSError):
        return _of_system(error), FAILED
    end = _innermost(error.__traceback__)
    if end is not None and _on_purpose(end) and not isinstance(error, OF_PROGRAMS):
        return str(error.args[0]) if isinstance(error, KeyError) else str(error), FAILED
    where = "" if end is None else f" at {_place(error)}"
    return (
        f"an unexpected {type(error).__name__}{where}: {_first_line(error)}\n"
        "This is a fault of notice-lens, not of your command. --debug shows the traceback; please report it with that"
    ), FAULT


def _of_system(error: OSError) -> str:
    """Return the operating system's message with the file's name; other messages unchanged."""
    if error.strerror is None:
        return str(error)
    files = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return f"{' and '.join(files)}: {error.strerror}" if files else error.strerror


def _innermost(end: TracebackType | None) -> TracebackType | None:
    while end is not None and end.tb_next is not None:
        end = end.tb_next
    return end


def _on_purpose(end: TracebackType) -> bool:
    """Return whether a `raise` of this package ends the traceback, rather than a failed call or operation."""
    code = end.tb_frame.f_code
    raised = dis.opname[code.co_code[end.tb_lasti]] == "RAISE_VARARGS"
    return raised and PACKAGE in Path(code.co_filename).parents


def _place(error: Exception) -> str:
    """The last line of this package in an error's traceback."""
    own = [one for one in traceback.extract_tb(error.__traceback__) if PACKAGE in Path(one.filename).parents]
    return f"{Path(own[-1].filename).relative_to(PACKAGE)}:{own[-1].lineno}" if own else "an unknown place"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
