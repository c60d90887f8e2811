"""Whole sweeps on a pretended GPU (`tests/pretend_gpu.py`): the CPU's numbers, and nobody waits inside a block loop.

What runs before the blocks may wait for the device: masks, digests and layouts are read on the host. The loops over
blocks may not, or a GPU is idle at every block.
"""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import xarray as xr

import tiny_vlms
from conftest import make_small_pair
from hosted_pairs import made_pairs, single_tokens
from notice_lens import HookedBLIP, HookedVLM, patching
from notice_lens.pairs import MinimalPairs, Noise
from notice_lens.patching import Site
from notice_lens.patching.engine import wave
from notice_lens.patching.engine.causal import replay
from pretend_gpu import PretendGPU, Wait, moved, pretended

OPTIONS: dict[str, Any] = {"progress": False, "memory": 2**26}
LOOPS = ("_StackWave.states", "Walk.streams", "CausalWave._through", "Replay.blocks", "PathWalk._walk")
"""The functions that go through blocks."""
Verb = Callable[[Any, MinimalPairs], xr.Dataset]
BLIP: dict[str, Verb] = {
    "heads": lambda model, pairs: patching.patch_heads(model, pairs, controls=("self", "mismatched"), **OPTIONS),
    "vision": lambda model, pairs: patching.patch_heads(model, pairs, "vision.attn", positions="all", **OPTIONS),
    "tables": lambda model, pairs: patching.sweep(
        model, pairs, ["text.cross_attn.pattern", "text.attn.attn_scores", "text.cross_attn.result"], **OPTIONS
    ),
    "mean": lambda model, pairs: patching.patch_heads(model, pairs, source="mean", **OPTIONS),
    "paths": lambda model, pairs: patching.patch_paths(
        model, pairs, Site.of(model, "text.cross_attn", layers=[0]), "text.cross_attn.q", **OPTIONS
    ),
    "attribution": lambda model, pairs: patching.attribute(model, pairs, progress=False)["text.cross_attn"],
}
HOSTED: dict[str, Verb] = {
    "heads": lambda model, pairs: patching.patch_heads(
        model, pairs, positions=["object", "last"], controls=("self", "mismatched"), **OPTIONS
    ),
    "vision": lambda model, pairs: patching.patch_heads(model, pairs, "vision.attn", positions="all", **OPTIONS),
    "tables": lambda model, pairs: patching.sweep(
        model, pairs,
        [Site.of(model, f"language.attn.{leaf}", positions=["object"]) for leaf in ("pattern", "attn_scores")],
        **OPTIONS,
    ),
    "keys": lambda model, pairs: patching.sweep(
        model, pairs, [Site.of(model, f"language.attn.{leaf}", positions=["object"]) for leaf in ("k", "v")], **OPTIONS
    ),
    "mean": lambda model, pairs: patching.patch_heads(model, pairs, positions=["object"], source="mean", **OPTIONS),
    "paths": lambda model, pairs: patching.patch_paths(
        model, pairs, Site.of(model, "language.attn", positions=["object"], layers=[0]), "language.attn.v",
        freeze_mlp=True, **OPTIONS,
    ),
    "noise": lambda model, pairs: patching.patch_heads(
        model, pairs, positions=["object"], corruption=Noise(), **OPTIONS
    ),
    "knockout": lambda model, pairs: patching.knockout(model, pairs, [("image", "object")], **OPTIONS),
    "attribution": lambda model, pairs: patching.attribute(model, pairs, progress=False)["language.attn"],
}  # fmt: skip


def small_blip() -> tuple[HookedBLIP, MinimalPairs]:
    model = make_small_pair().model
    return model, made_pairs()


def small_hosted(family: str) -> tuple[HookedVLM, MinimalPairs]:
    hf, processor = tiny_vlms.make(family)
    model = HookedVLM.from_hf(hf.double(), processor)
    return model, made_pairs(single_tokens(model))


def on_gpu(model: Any) -> Any:
    moved(getattr(model, "hf_model", model))
    return model


def in_loops(gpu: PretendGPU) -> list[Wait]:
    """The synchronisations while a loop over blocks was running."""
    return [wait for wait in gpu.waits if any(name.endswith(LOOPS) for name in wait.running)]


def compare(make: Callable[[], tuple[Any, MinimalPairs]], verbs: dict[str, Verb]) -> None:
    """Run each verb on the CPU and on the pretended GPU."""
    model, pairs = make()
    expected = {name: verb(model, pairs) for name, verb in verbs.items()}
    on_gpu(model)
    for name, verb in verbs.items():
        with pretended() as gpu:
            found = verb(model, pairs)
        assert gpu.waits, "results come to the host: where nobody waits, nothing ran on the device"
        assert not in_loops(gpu), name
        change, there = expected[name].logit_diff_change, found.logit_diff_change
        assert float(abs(change).max()) > 0, name
        xr.testing.assert_allclose(there, change, rtol=0, atol=1e-9 * max(1.0, float(abs(change).max())))


def test_blip_on_a_gpu_gives_the_numbers_of_the_cpu_and_waits_nowhere_in_its_blocks() -> None:
    compare(small_blip, BLIP)


@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_a_hosted_model_on_a_gpu_gives_the_numbers_of_the_cpu_and_waits_nowhere_in_its_blocks(family: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fell back to.*")
        compare(lambda: small_hosted(family), HOSTED if family == "llava" else {"heads": HOSTED["heads"]})


def test_a_language_model_that_attends_to_the_image_runs_on_a_gpu_too() -> None:
    verbs = {"heads": HOSTED["heads"], "cross": lambda model, pairs: patching.patch_heads(
        model, pairs, "language.cross_attn", positions=["object"], **OPTIONS
    )}  # fmt: skip
    compare(lambda: small_hosted("mllama"), verbs)


# What the pretended GPU finds


def reading(plain: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which reads a value of its first tensor on the way."""

    def read(*args: Any) -> Any:
        bool(next(one for one in args if isinstance(one, torch.Tensor)).sum())
        return plain(*args)

    return read


def test_a_value_that_is_read_in_a_block_of_blip_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs = small_blip()
    monkeypatch.setattr(wave, "neurons_in_parts", reading(wave.neurons_in_parts))
    with pretended() as gpu:
        patching.patch_heads(on_gpu(model), pairs, **OPTIONS)
    assert {wait.operation for wait in in_loops(gpu)} == {"aten._local_scalar_dense.default"}


def test_a_value_that_is_read_in_a_block_of_a_hosted_model_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs = small_hosted("llava")
    monkeypatch.setattr(replay, "attend", reading(replay.attend))
    with pretended() as gpu:
        HOSTED["heads"](on_gpu(model), pairs)
    assert {wait.operation for wait in in_loops(gpu)} == {"aten._local_scalar_dense.default"}


def test_a_tensor_that_is_made_without_a_device_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs = small_hosted("llava")
    plain = replay.attend
    monkeypatch.setattr(replay, "attend", lambda query, *rest: plain(query + torch.zeros(1), *rest))
    with pretended(), pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
        HOSTED["heads"](on_gpu(model), pairs)
