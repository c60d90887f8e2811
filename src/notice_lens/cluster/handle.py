"""The handle of a call that is divided among workers: how far it is, what failed, and its result.

It reads the stores of the parts, and asks the executor only whether a job has ended.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from notice_lens.cluster.call import Call
from notice_lens.cluster.jobs import DIED
from notice_lens.patching.store.parts import name_of
from notice_lens.progress import bar

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.cluster.jobs import Job

POLLED_AFTER = 0.5
"""Seconds between two looks at the stores, at least."""
SHARE_OF_TIME = 0.1
"""Share of the time that these looks may take: on a network's disk and with a thousand parts they are not free."""
FAILURES_SHOWN = 5


class ClusterRun:
    """A call that was divided among workers. Made by `cluster.submit`.

    Attributes:
        store: The folder of the parts.
        folder: The folder beside it with the pairs, the logs and tracebacks.
        jobs: What the executor runs, without what had ended when `failures` or `wait` last looked. Submitit's own job
            is `jobs[0].job`.
    """

    def __init__(self, call: Call, executor: str, jobs: "Sequence[Job]") -> None:
        self._call, self._executor = call, executor
        self.store: Path = call.store
        self.folder: Path = call.folder
        self.jobs = list(jobs)
        sent = {part for job in self.jobs for part in job.parts}
        self._failed: dict[int, str] = {}
        self._complete = {part: call.size(part) for part in range(call.parts) if part not in sent}

    @property
    def pairs_done(self) -> int:
        """How many pairs of all parts are done."""
        return sum(self._done().values())

    def wait(self, progress: bool = True) -> "ClusterRun":
        """Wait until every job has ended, and return this.

        An interrupt ends the waiting. Jobs of Slurm go on until `cancel`; processes on this machine may get the
        interrupt of their terminal too.

        Args:
            progress: Whether to show a line for all parts: pairs done, of how many, and the time left.

        Raises:
            RuntimeError: Parts failed. The message says which, why, and where their logs are. Finished pairs are kept,
                and the same call of `submit` computes the others.
        """
        parts = "1 part" if self._call.parts == 1 else f"{self._call.parts} parts"
        begun = self.pairs_done
        with bar(progress, f"{parts} ({self._executor})", total=self._call.n_pairs, unit="pairs", begun=begun) as shown:
            while True:
                started = time.monotonic()
                ended = all(job.done() for job in self.jobs)
                done = self.pairs_done
                shown.update(done - begun)
                begun = done
                if ended:
                    break
                spent = time.monotonic() - started
                time.sleep(max(POLLED_AFTER, spent / SHARE_OF_TIME))
        if failures := self.failures():
            raise RuntimeError(self._told(failures))
        return self

    def failures(self) -> dict[int, str]:
        """Return the parts that failed, with the reason and where the log is; of jobs that have ended."""
        for job in [job for job in self.jobs if job.done()]:
            for part, error in job.errors().items():
                done = self._call.pairs_done(part)
                if error.startswith(DIED) and self._call.is_finished(part):
                    continue  # it died later, at another of its parts
                file = self._call.error_file(part)
                log = file if file.is_file() else job.log(part)
                self._failed[part] = f"{done} of {self._call.size(part)} pairs are done; {error}; log: {log}"
            self.jobs.remove(job)
        return dict(sorted(self._failed.items()))

    def result(self, *, progress: bool = True, lazy: bool = False) -> "xr.Dataset | xr.DataTree":
        """Wait, and return what one call of the verb returns: all pairs in their order, read from the parts' stores.

        Args:
            progress: As `wait`.
            lazy: As `patching.gather`: numbers stay on disk, for a result that is larger than memory.

        Raises:
            RuntimeError: As `wait`.
            ValueError: A part is of another sweep, or damaged.
        """
        from notice_lens.cluster.gathered import gathered

        self.wait(progress)
        return gathered(self._call, lazy)

    def cancel(self) -> None:
        """End all jobs that have not ended. Finished pairs are kept."""
        for job in self.jobs:
            if not job.done():
                job.cancel()

    def __repr__(self) -> str:
        running = sum(not job.done() for job in self.jobs)
        pairs = f"{self.pairs_done} of {self._call.n_pairs} pairs done"
        return f"ClusterRun({str(self.store)!r}, {self._executor}: {pairs}, {running} jobs running)"

    def _done(self) -> dict[int, int]:
        """Return how many pairs of each part are done."""
        found = {}
        for part in range(self._call.parts):
            found[part] = self._complete[part] if part in self._complete else self._call.pairs_done(part)
            if found[part] == self._call.size(part):
                self._complete[part] = found[part]
        return found

    def _told(self, failures: dict[int, str]) -> str:
        shown = [f"part {part} ({name_of((part, self._call.parts))}): {why}" for part, why in list(failures.items())]
        more = [f"... and {len(shown) - FAILURES_SHOWN} more"] if len(shown) > FAILURES_SHOWN else []
        lines = "\n  ".join([*shown[:FAILURES_SHOWN], *more])
        return (
            f"{len(failures)} of {self._call.parts} parts failed; finished pairs are kept, and the same call of submit "
            f"computes the others:\n  {lines}"
        )
