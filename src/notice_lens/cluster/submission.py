"""`submit`: one call of a verb, divided among workers on this machine, on Slurm or in a Ray cluster.

    run = cluster.submit("patch_heads", "llava-hf/llava-1.5-7b-hf", pairs, store="states.zarr", parts=8,
                         executor="slurm", gpus=1, slurm={"partition": "gpu", "time": 120}, positions=["last"])
    effects = run.result()

1. Check the call, and save the pairs beside the store, where workers read them.
2. Leave out the parts that are finished; hand the others to the executor, with what a worker needs to load its model.
3. Return at once, with a handle that reads the stores of the parts.
"""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from notice_lens.cluster.call import (
    Call,
    Verb,
    as_sent,
    check_model_source,
    check_options,
    check_verb,
    digest_of,
    folder_beside,
    saved_pairs,
)
from notice_lens.cluster.handle import ClusterRun
from notice_lens.cluster.jobs import Job, Resources, SlurmOptions, local_jobs, ray_jobs, slurm_jobs
from notice_lens.errors import check_choice, whole_number
from notice_lens.models.by_name import ModelOptions
from notice_lens.patching.edits import Edit, Site
from notice_lens.patching.options import (
    CommonOptions,
    Controls,
    Corruption,
    Direction,
    Metrics,
    Numbers,
    PositionSpec,
    Source,
)
from notice_lens.patching.store.parts import divisions, pairs_of_part

if TYPE_CHECKING:
    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs
    from notice_lens.patching.ablation import Group

Executor = Literal["local", "slurm", "ray"]
EXECUTORS = ("local", "slurm", "ray")


class VerbOptions(CommonOptions, total=False):
    """Options of the verbs, by name; each verb's own docstring says what they mean.

    Attributes:
        corruption: As all that follow, of every verb: see `patching.sweep`.
        site: Of `patch_heads`, `split`, `knockout`.
        sites: Of `sweep`, `ablate`, `attribute`.
        with_sites: Of `sweep`.
        stack: Of `patch_modules`.
        variants: Of `run_variants`.
        layers: Of verbs of sites, as `heads` and `positions`.
        sender: Of `patch_paths`, as all with `sender`, `receiver` and `freeze`.
        flows: Of `knockout`, as `window` and `run`.
        value: Of `ablate`, as `joint` and `confidence`; `joint` of `patch_paths` too.
        neurons: Of `attribute`, as `integrated_gradients`, `path` and `attention_correction`.
    """

    corruption: Corruption
    direction: Direction
    metrics: Metrics
    source: Source
    controls: Controls
    reference: "MinimalPairs | None"
    seed: int
    site: str | Site | None
    sites: str | Site | Sequence[str | Site] | None
    with_sites: bool | None
    stack: str | None
    variants: Mapping[str, Edit | Sequence[Edit]]
    layers: Numbers | None
    heads: Numbers | Literal["each"] | None
    positions: PositionSpec | None
    sender: str | Site | Sequence[str | Site] | None
    sender_layers: Numbers | None
    sender_heads: Numbers | Literal["each"] | None
    receiver: str | Site
    receiver_layers: Numbers | None
    receiver_heads: Numbers | Literal["each"] | None
    freeze_layernorm: bool
    freeze_mlp: bool
    flows: str | Sequence[str | tuple[str, str]] | Mapping[str, str | tuple[str, str]] | None
    window: int
    run: Literal["clean", "corrupt"]
    value: Literal["mean", "resample", "zero"]
    joint: "bool | Mapping[str, Group]"
    confidence: float
    neurons: bool | None
    integrated_gradients: int
    path: Literal["site", "inputs"]
    attention_correction: bool


def submit(
    verb: Verb,
    model: "str | PathLike[str] | Callable[[], VisionLanguageModel]",
    pairs: "MinimalPairs | str | PathLike[str]",
    *,
    store: str | PathLike[str],
    parts: int,
    executor: Executor = "local",
    workers: int | None = None,
    cpus: int = 1,
    gpus: int = 0,
    mem_gb: float | int | None = None,
    restarts: int = 3,
    slurm: SlurmOptions | None = None,
    model_options: ModelOptions | None = None,
    **options: "Unpack[VerbOptions]",
) -> ClusterRun:
    """Divide a sweep into parts that several processes compute, on this machine, on Slurm or in a Ray cluster.

    Experimental: tried on processes of one machine and on a local Ray; never on a real Slurm, nor on GPUs.

    It returns at once. `result()` of the handle waits, shows one line for all parts, and returns what one call of the
    verb returns. The same call again computes only what is missing: pairs that are done are kept, whatever happened.

        run = cluster.submit("patch_heads", "mini-llava", pairs, store="heads.zarr", parts=4, workers=2)
        effects = run.result()

    Args:
        verb: The name of the verb in `patching`.
        model: Where every worker loads the model from: a hub id, a folder, `mini`, `mini-blip` or `mini-llava`, with
            `model_options`; or a function without arguments that returns the hooked model.
        pairs: The pairs, or a folder in which they were saved.
        store: The folder for the numbers, which all workers can reach: each part has a store of its own in it. Pairs,
            logs and tracebacks are in `<store>.cluster`, beside it.
        parts: Into how many parts the pairs are divided; the same in every call with this store.
        executor: `local`: processes on this machine, by submitit. `slurm`: an array of jobs, by submitit. `ray`: actors
            in the Ray cluster that `ray.init` connected to, or on this machine.
        workers: How many processes, jobs or actors share the parts; each loads the model once. None: on Slurm a job for
            each part; else as many as there are processors or GPUs for.
        cpus: Processors of each worker, and threads of torch.
        gpus: GPUs of each worker. More than one makes sense with `model_options={"device_map": "auto"}`.
        mem_gb: Memory of each worker, in GiB; None asks for none. Not for `local`.
        restarts: How often a job that Slurm interrupted (out of time, preempted) is put back in the queue, and an actor
            that died is started again.
        slurm: What else to ask Slurm for, `sbatch`'s options by name.
        model_options: Options of `from_pretrained`, such as `dtype`.
        **options: Of the verb, by name, also those that it takes by position: `site="language.attn"`. Give `memory` for
            numbers that do not depend on how much of it was free.

    Raises:
        ValueError: There is no such verb or executor, fewer pairs than parts, or parts of another division are there.
        TypeError: The verb has no such option, or no worker can load this model.
        FileExistsError: The store is that of a whole sweep.
        ImportError: The executor is not installed; the message says how to install it.
    """
    check_verb(verb)
    check_choice("executor", executor, EXECUTORS)
    check_model_source(model)
    check_options(verb, options)
    parts = whole_number("parts", parts, 1)
    resources: Resources = {
        "cpus": whole_number("cpus", cpus, 1),
        "gpus": whole_number("gpus", gpus),
        "mem_gb": mem_gb,
        "restarts": whole_number("restarts", restarts),
    }
    if workers is not None:
        workers = whole_number("workers", workers, 1)
    if slurm is not None and executor != "slurm":
        raise ValueError(f"slurm={slurm!r} goes with executor='slurm'; executor is {executor!r}")
    folder = Path(store).resolve()
    _check_store(folder, parts)
    call = _call(verb, model, pairs, folder, parts, resources["cpus"], model_options or {}, options)
    left = [part for part in range(parts) if not call.is_finished(part)]
    if not left:
        return ClusterRun(call, executor, [])
    jobs: list[Job]
    if executor == "slurm":
        jobs = slurm_jobs(call, left, workers, resources, slurm or {})
    else:
        jobs = (local_jobs if executor == "local" else ray_jobs)(call, left, workers, resources)
    return ClusterRun(call, executor, jobs)


def _call(
    verb: Verb,
    model: Any,
    pairs: Any,
    store: Path,
    parts: int,
    threads: int,
    model_options: ModelOptions,
    options: Mapping[str, Any],
) -> Call:
    """Return the call as workers get it, with its pairs on disk."""
    from notice_lens.pairs import MinimalPairs

    if isinstance(pairs, MinimalPairs):
        given, folder = pairs, _saved(pairs, store)
    else:
        given, folder = saved_pairs(Path(pairs)), Path(pairs).resolve()
    pairs_of_part(len(given), (0, parts))
    sent = dict(options)
    if isinstance(reference := sent.get("reference"), MinimalPairs):
        sent["reference"] = _saved(reference, store)
    return Call(
        verb=verb,
        model=as_sent(model),
        model_options=model_options,
        pairs=folder,
        n_pairs=len(given),
        store=store,
        parts=parts,
        options=sent,
        threads=threads,
        digest=digest_of(
            verb=verb, model=as_sent(model), model_options=model_options, pairs=given, parts=parts,
            options=dict(sorted(options.items())),
        ),
    )  # fmt: skip


def _saved(pairs: "MinimalPairs", store: Path) -> Path:
    """Return a folder beside the store with these pairs."""
    folder = folder_beside(store) / f"pairs-{pairs.fingerprint[:16]}"
    return folder if folder.exists() else pairs.save(folder)  # it is complete or not there


def _check_store(folder: Path, parts: int) -> None:
    """Refuse a folder that is a whole store, or that has parts of another division; make the one for the workers."""
    if (folder / "zarr.json").exists():
        raise FileExistsError(f"{folder} is the store of a whole sweep; parts need a folder of their own")
    inside = [folder, *(path for path in folder.iterdir() if path.is_dir())] if folder.is_dir() else []
    if others := {n for path in inside for n in divisions(path)} - {parts}:
        raise ValueError(f"parts={parts}: {folder} has parts of {max(others)}; give that number, or another folder")
    folder_beside(folder).mkdir(parents=True, exist_ok=True)
