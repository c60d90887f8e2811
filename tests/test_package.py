"""The package as a whole: quick to import, and it says what it has."""

import subprocess
import sys

import pytest

import notice_lens


def test_importing_does_nothing_heavy():
    heavy = ["torch", "transformers", "transformer_lens", "plotly", "pandas"]
    script = f"import sys, notice_lens; print([name for name in {heavy} if name in sys.modules])"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_public_names():
    assert set(notice_lens.__all__) == set(dir(notice_lens))
    assert all(getattr(notice_lens, name) is not None for name in notice_lens.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'HookedBlip'; it has"):
        notice_lens.HookedBlip  # noqa: B018
