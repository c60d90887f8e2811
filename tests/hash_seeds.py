"""What a script prints in other processes, whose sets and dictionaries of strings are in another order."""

import os
import subprocess
import sys


def printed_by_hash_seed(script: str, seeds: tuple[str, ...] = ("1", "2")) -> list[str]:
    """Return what a script prints under each seed of Python's hashes."""
    return [
        subprocess.run(
            [sys.executable, "-c", script],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in seeds
    ]
