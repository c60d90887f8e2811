"""`cluster.submit`: what every verb's parts become, what is sent to workers, and what is refused beforehand.

Where no process is needed to show it, jobs run in this one.
"""

import inspect
import pickle
import stat
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
import xarray as xr

from notice_lens import HookedBLIP, HookedVLM, MinimalPairs, cluster, patching
from notice_lens.cluster import submission
from notice_lens.cluster.call import DECIDED, Call, Verb, Worker
from notice_lens.cluster.jobs import Share
from notice_lens.cluster.submission import VerbOptions
from notice_lens.pairs import Noise, mini_world
from notice_lens.patching.options import Options

MEMORY = 200_000_000
SITE = "language.attn"


class Here:
    """A job in this process, with what is sent to a worker pickled on the way."""

    def __init__(self, call: Call, parts: Sequence[int]) -> None:
        self.parts = parts
        self.found = pickle.loads(pickle.dumps(Share(call, parts)))()

    def done(self) -> bool:
        return True

    def errors(self) -> dict[int, str]:
        return self.found

    def log(self, part: int) -> str:
        return "nowhere"

    def cancel(self) -> None:
        raise AssertionError("it has ended")


@pytest.fixture(scope="module")
def llava() -> HookedVLM:
    return HookedVLM.mini()


@pytest.fixture(scope="module")
def things() -> MinimalPairs:
    return mini_world("states", n=5, seed=5, world="pictures")


@pytest.fixture
def here(llava: HookedVLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs run in this process, where the model is loaded already."""
    monkeypatch.setattr(submission, "local_jobs", lambda call, parts, *_: [Here(call, parts)])
    monkeypatch.setattr(Call, "load_model", lambda _: llava)


def submit(verb: Any, pairs: Any, store: Path, parts: int = 2, **options: Any) -> cluster.ClusterRun:
    return cluster.submit(verb, "mini-llava", pairs, store=store, parts=parts, memory=MEMORY, **options)


def same(found: xr.Dataset, whole: xr.Dataset) -> None:
    cut = ("rows_at_a_time", "pairs_at_a_time")
    for one in (found, whole):
        one.attrs = {name: value for name, value in one.attrs.items() if name not in cut}
    xr.testing.assert_identical(found, whole)


CALLS: dict[str, dict[str, Any]] = {
    "sweep": {"sites": ["language.hook_mlp_out", "language.hook_attn_out"]},
    "patch_heads": {"positions": ["last"], "layers": [1], "corruption": Noise(samples=2, seed=3), "controls": ()},
    "patch_modules": {"layers": [1], "positions": ["last"]},
    "patch_paths": {"sender": SITE, "sender_layers": [0], "positions": ["last"], "controls": ()},
    "run_variants": {"variants": {"one": patching.Edit(f"{SITE}.hook_z", 1, 2)}},
    "split": {"site": SITE, "layers": 1, "positions": ["last"]},
    "knockout": {"flows": "image -> last", "run": "corrupt"},
    "ablate": {"sites": "language.hook_mlp_out", "positions": ["last"], "value": "zero", "confidence": 0.9, "seed": 4},
}


@pytest.mark.filterwarnings("ignore:.*clusters")
@pytest.mark.parametrize("verb", CALLS)
def test_every_verb_gives_what_one_call_gives(here, llava, things, tmp_path, verb) -> None:
    """The statistics of an ablation and the interaction of a split among it, which are of all pairs."""
    options = CALLS[verb]
    whole = getattr(patching, verb)(llava, things, memory=MEMORY, progress=False, **options)
    found = submit(verb, things, tmp_path / "x.zarr", **options).result(progress=False)
    assert isinstance(found, xr.Dataset)
    same(found, whole)


def test_an_attribution_gives_the_tree_of_one_call(here, llava, things, tmp_path) -> None:
    sites = ["language.attn.hook_z", "language.hook_mlp_out"]
    whole = patching.attribute(llava, things, sites, memory=MEMORY, progress=False)
    run = submit("attribute", things, tmp_path / "sites", sites=sites)
    found = run.result(progress=False)
    assert run.pairs_done == 5
    assert found.attrs == whole.attrs
    assert set(found.children) == set(whole.children)
    for name in whole.children:
        same(found[name].to_dataset(), whole[name].to_dataset())


def test_means_over_a_reference_set_reach_the_workers(here, llava, things, tmp_path) -> None:
    others = mini_world("states", n=4, seed=8, world="pictures")
    options = {"positions": ["last"], "layers": [2], "source": "mean", "controls": ()}
    whole = patching.patch_heads(llava, things, reference=others, memory=MEMORY, progress=False, **options)
    same(submit("patch_heads", things, tmp_path / "x.zarr", reference=others, **options).result(progress=False), whole)


def test_saved_pairs_are_read_where_they_are(here, llava, things, tmp_path) -> None:
    folder = things.save(tmp_path / "pairs")
    run = submit("patch_heads", folder, tmp_path / "x.zarr", layers=[0], positions=["last"])
    assert not list(run.folder.glob("pairs-*"))
    whole = patching.patch_heads(llava, things, layers=[0], positions=["last"], memory=MEMORY, progress=False)
    same(run.result(progress=False), whole)


def test_only_what_is_missing_is_sent(here, things, tmp_path, monkeypatch, batches) -> None:
    def breaks(pairs: Sequence[int]) -> bool:
        if pairs[0] == 4:
            raise RuntimeError("the disk is on fire")
        return False

    options = {"layers": [0], "positions": ["last"], "metrics": {"score": lambda logits: logits[:, 0, 3]}}
    monkeypatch.setattr("test_submit.pickle.dumps", lambda value: value)  # a lambda needs cloudpickle, which jobs have
    monkeypatch.setattr("test_submit.pickle.loads", lambda value: value)
    batches.stop = breaks
    run = submit("patch_heads", things, tmp_path / "x.zarr", 3, **options)
    message = "part 2 .*1 of 2 pairs are done; RuntimeError: the disk is on fire.*; log: .*part-2-of-3.zarr.error.txt"
    with pytest.raises(RuntimeError, match=message):
        run.result(progress=False)
    assert "in breaks" in (run.folder / "part-2-of-3.zarr.error.txt").read_text()
    with pytest.raises(RuntimeError, match="part 2"):  # asked again, it says so again
        run.wait(progress=False)

    batches.go_on()
    again = submit("patch_heads", things, tmp_path / "x.zarr", 3, **options)
    assert [job.parts for job in again.jobs] == [[2]]
    again.wait(progress=False)
    assert not (run.folder / "part-2-of-3.zarr.error.txt").exists()
    assert submit("patch_heads", things, tmp_path / "x.zarr", 3, **options).jobs == []


def test_parts_of_another_call_are_not_taken_for_this_one(here, things, tmp_path) -> None:
    """The stores decide, as in any sweep: what is not known to be of this call is sent to a worker."""
    options = {"layers": [0], "positions": ["last"]}
    first = submit("patch_heads", things, tmp_path / "x.zarr", **options).result(progress=False)
    with pytest.raises(RuntimeError, match="is the store of another sweep: direction is 'denoise' there and 'noise'"):
        submit("patch_heads", things, tmp_path / "x.zarr", direction="noise", **options).result(progress=False)
    same(submit("patch_heads", things, tmp_path / "x.zarr", **options).result(progress=False), first)
    for receipt in (tmp_path / "x.zarr.cluster").glob("*.receipt"):
        receipt.unlink()  # such as of parts that were computed by hand
    checked = submit("patch_heads", things, tmp_path / "x.zarr", **options)
    assert [job.parts for job in checked.jobs] == [[0, 1]]
    same(checked.result(progress=False), first)


def test_a_job_that_slurm_starts_again_computes_the_rest(here, things, tmp_path, monkeypatch, batches) -> None:
    calls: list[Call] = []
    monkeypatch.setattr(submission, "local_jobs", lambda call, *_: calls.append(call) or [])
    submit("patch_heads", things, tmp_path / "x.zarr", layers=[0], positions=["last"])
    assert Worker(calls[0]).run(0) == ""
    batches.begun.clear()
    assert Share(calls[0], (0, 1)).checkpoint().function() == {}
    assert batches.begun == [[2], [3], [4]], "the pairs of part 1"


def test_what_slurm_is_asked_for(things, tmp_path, monkeypatch) -> None:
    """The script that `sbatch` gets; there is no Slurm here, so that a script stands for it."""
    (tmp_path / "bin").mkdir()
    for name, text in {"sbatch": 'cp "$1" got.sh; echo "Submitted batch job 17"', "srun": "", "sacct": ""}.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\ncd {tmp_path}\n{text}\n")
        (tmp_path / "bin" / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    run = submit(
        "patch_heads", things, tmp_path / "x.zarr", 4, workers=2, executor="slurm", cpus=8, gpus=1, mem_gb=40,
        slurm={"partition": "gpu", "time": 90, "setup": ["module load cuda"]},
    )  # fmt: skip
    assert [job.parts for job in run.jobs] == [[0, 2], [1, 3]]
    assert [job.job.job_id for job in run.jobs] == ["17_0", "17_1"]
    script = (tmp_path / "got.sh").read_text()
    for line in (
        "array=0-1%2", "cpus-per-task=8", "gpus-per-node=1", "mem=40GB", "partition=gpu", "time=90",
        "job-name=patch_heads",
    ):  # fmt: skip
        assert f"#SBATCH --{line}\n" in script
    assert "\nmodule load cuda\n" in script


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"verb": "patch_head"}, ValueError, "no verb that computes parts 'patch_head'; did you mean 'patch_heads'"),
        ({"verb": "screen"}, ValueError, "no verb that computes parts 'screen'"),
        ({"verb": patching.patch_heads}, TypeError, "expected its name, 'patch_heads'"),
        ({"executor": "slrum"}, ValueError, "no executor 'slrum'; did you mean 'slurm'"),
        ({"position": "last"}, TypeError, "no option of patch_heads 'position'; did you mean 'positions'"),
        ({"part": (0, 2)}, TypeError, "part is not an option here: submit divides the pairs; say parts="),
        ({"progress": True}, TypeError, r"wait\(progress=...\) does"),
        ({"parts": 6}, ValueError, "there are 5 pairs; expected at most as many parts"),
        ({"parts": 0}, ValueError, "parts=0: expected a whole number, 1 or more"),
        ({"workers": 0}, ValueError, "workers=0: expected a whole number, 1 or more"),
        ({"model": 3}, TypeError, "model is of type int; expected a name, a folder, or a function"),
        ({"slurm": {"partition": "gpu"}}, ValueError, "goes with executor='slurm'; executor is 'local'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_refused_before_anything_is_sent(unchecked, things, tmp_path, change, error, message) -> None:
    given = {"verb": "patch_heads", "model": "mini-llava", "pairs": things, "parts": 2, **change}
    with pytest.raises(error, match=message):
        cluster.submit(store=tmp_path / "x.zarr", **given)


def test_a_model_in_memory_is_not_sent(mini: HookedBLIP, things, tmp_path) -> None:
    with pytest.raises(TypeError, match="in the memory of this process, and workers load their own; give a name"):
        cluster.submit("patch_heads", mini, things, store=tmp_path / "x.zarr", parts=2)


def test_other_stores_are_left_alone(here, llava, things, tmp_path) -> None:
    options = {"layers": [0], "positions": ["last"]}
    submit("patch_heads", things, tmp_path / "parts.zarr", **options)
    with pytest.raises(ValueError, match=r"parts=3: .*parts.zarr has parts of 2; give that number"):
        submit("patch_heads", things, tmp_path / "parts.zarr", 3, **options)
    patching.patch_heads(llava, things, store=tmp_path / "whole.zarr", progress=False, **options)
    with pytest.raises(FileExistsError, match="is the store of a whole sweep"):
        submit("patch_heads", things, tmp_path / "whole.zarr", **options)


@pytest.mark.parametrize(
    ("executor", "package", "name"), [("local", "submitit", "slurm"), ("slurm", "submitit", "slurm"), ("ray",) * 3]
)
def test_an_executor_that_is_not_installed(things, tmp_path, monkeypatch, executor, package, name) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ImportError, match=rf"executor='{executor}' needs {package}: pip install 'notice-lens\[{name}\]'"
    ):
        submit("patch_heads", things, tmp_path / "x.zarr", executor=executor)


def test_more_gpus_than_there_are(things, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    with pytest.raises(ValueError, match="workers=2, gpus=2: this machine has 2 GPUs"):
        submit("patch_heads", things, tmp_path / "x.zarr", workers=2, gpus=2)


def test_workers_load_models_by_name(tmp_path) -> None:
    made = Call("patch_heads", "mini", {"dtype": "float64"}, tmp_path, 1, tmp_path, 1, {}, 1)
    model = made.load_model()
    assert isinstance(model, HookedBLIP)
    assert str(model.dtype) == "torch.float64"
    weights, shipped = dict(model.named_parameters()), dict(HookedBLIP.mini().named_parameters())
    assert all((weights[name] == shipped[name]).all() for name in shipped)


def test_options_are_those_of_all_verbs() -> None:
    """What Shift-Tab and a type checker know of `submit` is what its verbs take."""
    taken = set()
    for verb in get_args(Verb):
        named = inspect.signature(getattr(patching, verb)).parameters.values()
        taken |= {one.name for one in named if one.kind is not one.VAR_KEYWORD}
    taken |= {field.name for field in fields(Options)}
    assert set(VerbOptions.__annotations__) == taken - {"model", "pairs"} - set(DECIDED)
