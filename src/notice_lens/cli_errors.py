"""What commands say when they fail: one message, and an exit code."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click


def told(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose errors are one message and exit code 1; 130 where it was stopped."""

    @wraps(command)
    def run(*args: Any, **options: Any) -> Any:
        try:
            return command(*args, **options)
        except KeyboardInterrupt:
            click.echo("stopped; what was done is kept, and the same command goes on from there", err=True)
            sys.exit(130)
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            click.echo(f"notice-lens: {error}", err=True)
            sys.exit(1)

    return run
