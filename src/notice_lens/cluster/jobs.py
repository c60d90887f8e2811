"""Jobs: what an executor runs. Each computes some parts of a call in turn, and says at last which of them failed.

Nothing here schedules anything. All jobs are handed over at once; submitit's local processes, Slurm or Ray run them.
The parts are dealt out beforehand, part k to job k modulo their number, so that a job loads the model once.
"""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, runtime_checkable

from notice_lens.cluster.call import Call, Worker
from notice_lens.errors import extra, in_words

if TYPE_CHECKING:
    import submitit

UNLIMITED_MINUTES = 60 * 24 * 365
"""What a job on this machine may take, since submitit wants a number: a year."""
USUAL_TIME = 240
"""Minutes that a job on Slurm may take where the caller says nothing."""
RAY_LOGS = "the worker's files in Ray's log folder on its machine, /tmp/ray/session_latest/logs by default"
DIED = "its worker died"


class SlurmOptions(TypedDict, total=False):
    """What Slurm is asked for, beside processors, GPUs and memory; the names are those of `sbatch`.

    Attributes:
        time: Minutes that a job may take, 240 by default. A job that runs out of time is put back in the queue, and
            goes on where it was.
        partition: The queue.
        account: Who is charged.
        qos: The quality of service.
        constraint: Features that a machine must have, such as the kind of its GPU.
        gres: Other resources of a machine.
        exclude: Machines that are not to be used.
        comment: A note for the accounting.
        setup: Lines of the script before Python starts, such as `module load cuda`.
        additional_parameters: Any other option of `sbatch`, by its name.
        use_srun: Whether Python is started by `srun`.
    """

    time: int
    partition: str
    account: str
    qos: str
    constraint: str
    gres: str
    exclude: str
    comment: str
    setup: list[str]
    additional_parameters: dict[str, str | int | float | bool]
    use_srun: bool


class Resources(TypedDict):
    """What each worker gets."""

    cpus: int
    gpus: int
    mem_gb: float | int | None
    restarts: int


@runtime_checkable
class Job(Protocol):
    """Some parts that one worker computes.

    Attributes:
        parts: Their numbers.
    """

    parts: Sequence[int]

    def done(self) -> bool:
        """Return whether it has ended, in whatever way."""
        ...

    def errors(self) -> dict[int, str]:
        """Return what was raised, by part; of a worker that died, the same for all of its parts. Once it is done."""
        ...

    def log(self, part: int) -> str:
        """Say where to read more."""
        ...

    def cancel(self) -> None:
        """End it."""
        ...


class Share:
    """The parts of one job of submitit, as the function that it runs.

    Args:
        call: The call.
        parts: The numbers of the parts.
    """

    def __init__(self, call: Call, parts: Sequence[int]) -> None:
        self.call, self.parts = call, list(parts)

    def __call__(self) -> dict[int, str]:
        """Compute the parts in turn, and return what was raised, by part."""
        worker = Worker(self.call)
        return {part: error for part in self.parts if (error := worker.run(part))}

    def checkpoint(self) -> Any:
        """Return what to run when a job that ran out of time, or had to make room, starts again: the same."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class SubmititJob:
    """A job of Slurm.

    Args:
        parts: The numbers of the parts.
        job: Submitit's.
    """

    def __init__(self, parts: Sequence[int], job: "submitit.Job[dict[int, str]]") -> None:
        self.parts, self.job = parts, job

    def done(self) -> bool:
        """Return whether it has ended."""
        return self.job.done()

    def errors(self) -> dict[int, str]:
        """Return what was raised, by part."""
        from submitit.core.utils import FailedJobError, UncompletedJobError

        try:
            return self.job.result()
        except FailedJobError as error:
            return dict.fromkeys(self.parts, f"its job failed: {_raised(str(error))}")
        except UncompletedJobError:
            return dict.fromkeys(self.parts, f"{DIED} ({self.job.state})")

    def log(self, part: int) -> str:
        """Return the path of what it wrote to its error stream."""
        return str(self.job.paths.stderr)

    def cancel(self) -> None:
        """End it."""
        self.job.cancel()


class LocalJob(SubmititJob):
    """A process on this machine, with submitit's controller above it."""

    def cancel(self) -> None:
        """Kill it. Submitit would send SIGINT, which programs that were started in the background ignore."""
        import psutil

        with suppress(psutil.NoSuchProcess):
            controller = psutil.Process(int(self.job.job_id))
            controller.suspend()  # so that it starts no more of them
            for process in (controller, *controller.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    process.kill()


class RayJob:
    """A task of a Ray actor.

    Args:
        part: The number of the part.
        actor: That computes it.
    """

    def __init__(self, part: int, actor: Any) -> None:
        self.parts: Sequence[int] = (part,)
        self.actor = actor
        self.answer = actor.run.remote(part)

    def done(self) -> bool:
        """Return whether it has ended."""
        import ray

        return bool(ray.wait([self.answer], timeout=0)[0])

    def errors(self) -> dict[int, str]:
        """Return what was raised, by part; the actor ends with the last of its tasks."""
        import ray
        from ray.exceptions import RayError

        self.actor = None
        try:
            error = str(ray.get(self.answer))
        except RayError as died:
            error = f"{DIED}: {in_words(died)}"
        return {self.parts[0]: error} if error else {}

    def log(self, part: int) -> str:
        """Say where Ray keeps what the worker wrote."""
        return RAY_LOGS

    def cancel(self) -> None:
        """End the actor, and with it the other parts that it was given."""
        import ray

        if self.actor is not None:
            ray.kill(self.actor, no_restart=True)


def local_jobs(call: Call, parts: Sequence[int], workers: int | None, resources: Resources) -> list[Job]:
    """Start processes on this machine, through submitit.

    Args:
        call: The call.
        parts: The parts to compute.
        workers: How many processes; None for as many as the machine has processors or GPUs for.
        resources: Of each.

    Raises:
        ImportError: submitit is not installed.
        ValueError: There are not so many GPUs.
    """
    with extra("submitit", "slurm", "executor='local'"):
        import submitit

    cpus, gpus = resources["cpus"], resources["gpus"]
    cards = _cards() if gpus else []
    fit = len(cards) // gpus if gpus else max(1, (os.cpu_count() or 1) // cpus)
    workers = min(len(parts), fit if workers is None else workers)
    if gpus and not 0 < workers <= fit:
        raise ValueError(f"workers={workers}, gpus={gpus}: this machine has {len(cards)} GPUs")
    executor = submitit.LocalExecutor(call.folder / "logs")
    jobs: list[Job] = []
    for number, own in enumerate(_dealt(parts, workers)):
        executor.update_parameters(
            timeout_min=UNLIMITED_MINUTES, gpus_per_node=gpus, visible_gpus=cards[number * gpus : (number + 1) * gpus]
        )
        jobs.append(LocalJob(own, executor.submit(Share(call, own))))
    return jobs


def slurm_jobs(
    call: Call, parts: Sequence[int], workers: int | None, resources: Resources, slurm: SlurmOptions
) -> list[Job]:
    """Send an array of jobs to Slurm, through submitit.

    Args:
        call: The call.
        parts: The parts to compute.
        workers: How many jobs; None for one for each part.
        resources: Of each.
        slurm: What else to ask for.

    Raises:
        ImportError: submitit is not installed.
        RuntimeError: There is no Slurm here.
    """
    with extra("submitit", "slurm", "executor='slurm'"):
        import submitit

    shares = _dealt(parts, min(len(parts), workers or len(parts)))
    executor = submitit.AutoExecutor(call.folder / "logs", "slurm", slurm_max_num_timeout=resources["restarts"])
    asked = {f"slurm_{name}": value for name, value in {"time": USUAL_TIME, **slurm}.items()}
    executor.update_parameters(
        name=call.verb, cpus_per_task=resources["cpus"], gpus_per_node=resources["gpus"] or None,
        mem_gb=resources["mem_gb"], slurm_array_parallelism=len(shares), **asked,
    )  # fmt: skip
    with executor.batch():
        jobs = [executor.submit(Share(call, own)) for own in shares]
    return [SubmititJob(own, job) for own, job in zip(shares, jobs, strict=True)]


def ray_jobs(call: Call, parts: Sequence[int], workers: int | None, resources: Resources) -> list[Job]:
    """Start actors on the Ray cluster that this process is connected to, or on this machine, and give them the parts.

    An actor that dies is started again by Ray, and its tasks with it.

    Args:
        call: The call.
        parts: The parts to compute.
        workers: How many actors; None for as many as the cluster has processors and GPUs for.
        resources: Of each.

    Raises:
        ImportError: Ray is not installed.
        ValueError: No worker fits into the cluster.
    """
    with extra("ray", "ray", "executor='ray'"):
        import ray

    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    there, cpus, gpus = ray.cluster_resources(), resources["cpus"], resources["gpus"]
    n_cpus, n_gpus = (int(there.get(name, 0)) for name in ("CPU", "GPU"))
    fit = min(n_cpus // cpus, n_gpus // gpus) if gpus else n_cpus // cpus
    if fit < 1:
        has = f"{n_cpus} processors and {n_gpus} GPUs"
        raise ValueError(f"cpus={cpus}, gpus={gpus}: no worker fits into this Ray cluster, which has {has}")
    memory = None if resources["mem_gb"] is None else int(resources["mem_gb"] * 2**30)
    remote = ray.remote(Worker).options(
        num_cpus=cpus, num_gpus=gpus, memory=memory,
        max_restarts=resources["restarts"], max_task_retries=resources["restarts"],
    )  # fmt: skip
    actors = [remote.remote(call) for _ in range(min(len(parts), workers or fit))]
    return [RayJob(part, actors[number % len(actors)]) for number, part in enumerate(parts)]


def _dealt(parts: Sequence[int], workers: int) -> list[list[int]]:
    """Return the parts of each worker."""
    return [list(parts[number::workers]) for number in range(workers)]


def _raised(message: str) -> str:
    """Return the exception itself from submitit's message, which has the traceback between two lines of dashes."""
    _, *inside = re.split(r"^-{5,}$", message, flags=re.MULTILINE)
    lines = (inside[0] if inside else message).strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"


def _cards() -> list[int]:
    """Return the numbers of the GPUs that this process may use."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return list(range(torch.cuda.device_count()))
    return [int(one) for one in named.split(",") if one.strip().isdigit()]
