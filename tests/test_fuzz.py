"""A minute of the fuzzer: every reader, damaged files of every kind."""

import subprocess
import sys
from pathlib import Path

import pytest

FUZZER = Path(__file__).with_name("fuzz_readers.py")


@pytest.mark.large
def test_a_minute_of_damaged_files():
    command = [sys.executable, str(FUZZER), "--seconds", "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
