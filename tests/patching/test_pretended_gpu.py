"""Sweeps on a pretended GPU (`pretended_sweeps.py`), in a process of their own: the device is patches of torch."""

import subprocess
import sys
from pathlib import Path

import pytest

SWEEPS = Path(__file__).with_name("pretended_sweeps.py")


@pytest.mark.large
def test_sweeps_on_a_pretended_gpu() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", str(SWEEPS)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=SWEEPS.parents[2])
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
