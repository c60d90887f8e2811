"""The command line, `notice-lens`."""

from notice_lens.cli.commands import main

__all__ = ["main"]
