"""A sweep that is killed goes on where it stopped, and ends with the same numbers."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import swept_and_killed
from computed_batches import Batches
from notice_lens import HookedBLIP
from notice_lens.pairs import mini_world
from notice_lens.patching import Site, sweep
from notice_lens.patching.store.format import read


@pytest.mark.large
def test_a_sweep_that_was_killed_ends_with_the_same_numbers(tmp_path: Path) -> None:
    g = random.Random(0)
    moments = [["files", g.random()] for _ in range(7)] + [["batches", number] for number in (1, 2, 3)]
    command = [sys.executable, swept_and_killed.__file__, str(tmp_path), json.dumps(moments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    (_, files), *ends = json.loads(ended.stdout)
    assert files > 100
    assert ends == [[signal.SIGKILL, 0]] * 10
    unbroken = read(tmp_path / "unbroken")
    assert unbroken.attrs["pairs_at_a_time"] == swept_and_killed.PAIRS_AT_A_TIME
    assert unbroken.logit_diff_change.notnull().any(["layer", "head", "role"]).all()
    batches = begun(tmp_path / "unbroken.log")
    assert len(batches) >= 3
    for number, (what, moment) in enumerate(moments):
        xr.testing.assert_identical(read(tmp_path / str(number)), unbroken)
        # Every batch is computed, in its order; the one that was broken into is computed again, and no other.
        again = begun(tmp_path / f"{number}.log")
        assert list(dict.fromkeys(again)) == batches
        assert len(again) <= len(batches) + 1
        if what == "batches":
            assert again[moment - 1] == again[moment] == batches[moment - 1]


def begun(log: Path) -> list[tuple[int, ...]]:
    """The batches of pairs that were begun, over all runs."""
    return [tuple(json.loads(line)) for line in log.read_text().splitlines()]


@pytest.fixture
def site(mini: HookedBLIP) -> Site:
    return Site.of(mini, "text.cross_attn", layers=2, heads=[1, 2])


def test_a_finished_sweep_is_read(mini: HookedBLIP, site: Site, tmp_path: Path, batches: Batches) -> None:
    pairs = mini_world("states", 3, seed=1)
    first = sweep(mini, pairs, site, store=tmp_path / "s", progress=False)
    xr.testing.assert_identical(first, sweep(mini, pairs, site, progress=False))
    batches.refuse("done pairs are not computed again")
    xr.testing.assert_identical(first, sweep(mini, pairs, site, store=tmp_path / "s", progress=False))


def test_a_sweep_goes_on_with_the_plan_of_its_store(
    mini: HookedBLIP, site: Site, tmp_path: Path, batches: Batches
) -> None:
    """Another budget would make other batches, which round otherwise."""
    pairs = mini_world("states", 6, seed=1)
    batches.stop_after(2)
    with pytest.raises(KeyboardInterrupt):
        sweep(mini, pairs, site, store=tmp_path / "s", memory=1, progress=False)
    batches.go_on()
    resumed = sweep(mini, pairs, site, store=tmp_path / "s", memory=10**9, progress=False)
    assert [len(several) for several in batches.begun] == [1] * 6
    assert sorted(np.concatenate(batches.begun).tolist()) == list(range(6))
    assert resumed.attrs["rows_at_a_time"] == 1
    xr.testing.assert_identical(resumed, sweep(mini, pairs, site, memory=1, progress=False))
