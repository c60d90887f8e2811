"""Shares of the highest learning rate: a ramp where something begins, and a straight fall to the end."""


def ramp(since: int, length: int) -> float:
    """Return the share `since` steps after a beginning, for a ramp of `length` steps."""
    return min(1.0, (since + 1) / length) if length else 1.0


def fall(left: int, length: float) -> float:
    """Return the share `left` steps before the end: 1 up to `length` steps before it, then down to 0.01."""
    return min(1.0, max(0.01, left / length))
