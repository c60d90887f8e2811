"""The fuzzer: every reader, damaged files of every kind."""

import subprocess
import sys
from pathlib import Path

import pytest

FUZZER = Path(__file__).with_name("fuzz_readers.py")


@pytest.mark.parametrize("seconds", ["15", pytest.param("60", marks=pytest.mark.large)])
def test_damaged_files(seconds):
    command = [sys.executable, str(FUZZER), "--seconds", seconds]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
