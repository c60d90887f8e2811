"""Patterns for messages."""

import re


def says(message: str) -> str:
    """A pattern for a message that begins so, whatever its brackets mean to regular expressions."""
    return "^" + re.escape(message)
