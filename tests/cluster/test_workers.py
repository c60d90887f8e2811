"""Parts that other processes compute, one of them killed in the middle: as one process, to the last bit.

The workers are real: processes of submitit's local executor, actors of a local Ray. The one that is killed gets
SIGKILL, which nothing in it can catch.
"""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import xarray as xr

from notice_lens import HookedVLM, MinimalPairs, cluster, patching
from notice_lens.pairs import mini_world

PARTS = 8
OPTIONS = {"positions": ["last"], "layers": [1, 3], "controls": (), "memory": 200_000_000}


@pytest.fixture(scope="module")
def things() -> MinimalPairs:
    return mini_world("states", n=2 * PARTS, seed=5, world="pictures")


@pytest.fixture(scope="module")
def whole(things: MinimalPairs) -> xr.Dataset:
    """The sweep of one process."""
    return patching.patch_heads(HookedVLM.mini(), things, progress=False, **OPTIONS)


@pytest.fixture
def local_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Ray cluster on this machine, with two processors."""
    import ray

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


def killed_at(pair: int, flag: Path) -> Callable[[], HookedVLM]:
    """A model whose worker is killed when it comes to a pair, the first time."""

    def load() -> HookedVLM:
        from notice_lens.patching import runner

        measured = runner.SweepRunner.compute_batch  # a worker has none of the helpers of these tests

        def batch(self, pairs, setting):
            if pair in pairs and not flag.exists():
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return measured(self, pairs, setting)

        runner.SweepRunner.compute_batch = batch
        return HookedVLM.mini()

    return load


def submitted(model: Callable[[], HookedVLM], pairs: MinimalPairs, folder: Path, executor: str) -> cluster.ClusterRun:
    return cluster.submit(
        "patch_heads", model, pairs, store=folder / "heads.zarr", parts=PARTS, workers=2, executor=executor, **OPTIONS
    )


def same(parts: xr.Dataset, whole: xr.Dataset) -> None:
    """Both to the last bit, attributes included, but for how one process cuts the sweep up."""
    cut = ("rows_at_a_time", "pairs_at_a_time")
    left = {name: value for name, value in whole.attrs.items() if name not in cut}
    xr.testing.assert_identical(parts, whole.drop_attrs().assign_attrs(left))


@pytest.mark.large
def test_a_process_that_is_killed_loses_nothing(things, whole, tmp_path, capsys) -> None:
    model = killed_at(7, tmp_path / "killed")  # the second pair of part 3, which the second process has
    run = submitted(model, things, tmp_path, "local")
    with pytest.raises(RuntimeError, match="finished pairs are kept, and the same call of submit computes") as failed:
        run.wait()
    assert (tmp_path / "killed").exists()
    said = str(failed.value).splitlines()
    assert said[0].startswith("3 of 8 parts failed")
    for line, part, done in zip(said[1:], (3, 5, 7), (1, 0, 0), strict=True):
        assert f"part {part} (part-{part}-of-8.zarr): {done} of 2 pairs are done; its worker died" in line
        assert Path(line.partition("log: ")[2]).is_file()
    assert run.pairs_done == 11
    assert "11/16" in capsys.readouterr().err

    again = submitted(model, things, tmp_path, "local")
    assert [job.parts for job in again.jobs] == [[3, 7], [5]]
    same(again.result(), whole)
    line = capsys.readouterr().err.split("\r")[-1]
    assert re.search(r"8 parts \(local\): 100%.* 16/16 \[", line), "one line, for all parts"

    done = submitted(model, things, tmp_path, "local")
    assert done.jobs == []
    assert repr(done) == f"ClusterRun({str(tmp_path / 'heads.zarr')!r}, local: 16 of 16 pairs done, 0 jobs running)"
    same(done.result(progress=False), whole)


def load_from_a_file_of_the_tests() -> HookedVLM:
    return HookedVLM.mini()


def asleep() -> Callable[[], HookedVLM]:
    """A model that takes an hour to load."""

    def load() -> HookedVLM:
        time.sleep(3600)
        return HookedVLM.mini()

    return load


@pytest.mark.large
def test_a_function_that_workers_cannot_import(things, tmp_path) -> None:
    """Functions of a file are sent by their name; those of a notebook as they are."""
    run = submitted(load_from_a_file_of_the_tests, things, tmp_path, "local")
    with pytest.raises(RuntimeError, match="8 of 8 parts failed") as failed:
        run.wait(progress=False)
    assert "0 of 2 pairs are done; its job failed: ModuleNotFoundError: No module named 'test_workers'" in str(
        failed.value
    )


@pytest.mark.large
def test_jobs_can_be_ended(things, tmp_path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a program that was started in the background
    try:
        run = submitted(asleep(), things, tmp_path, "local")
    finally:
        signal.signal(signal.SIGINT, before)
    run.cancel()
    with pytest.raises(RuntimeError, match="part 0 .*: 0 of 2 pairs are done; its worker died"):
        run.wait(progress=False)
    assert repr(run).endswith("0 of 16 pairs done, 0 jobs running)")


# Ray's own processes may be alive for a moment after its shutdown.
@pytest.mark.filterwarnings("ignore:.*subprocess:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.large
def test_ray_starts_a_killed_actor_again(things, whole, tmp_path, local_ray) -> None:
    run = submitted(killed_at(7, tmp_path / "killed"), things, tmp_path, "ray")
    assert [list(job.parts) for job in run.jobs] == [[part] for part in range(PARTS)]
    same(run.result(progress=False), whole)
    assert (tmp_path / "killed").exists()
    assert submitted(killed_at(7, tmp_path / "killed"), things, tmp_path, "ray").jobs == []
