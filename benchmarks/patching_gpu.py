"""The sweeps of `benchmarks/patching.py` on a GPU: float32, TF32 and bfloat16, in one call.

    python benchmarks/patching_gpu.py                  # says so where there is no GPU
    python benchmarks/patching_gpu.py --device cpu --architecture tiny    # a trial of the script itself

For each precision: every cross-attention head, layer and token of one pair, beside the plain loop on the Hugging Face
model and TransformerLens's sweep on our lens in the same precision; the share of what this device reaches in matrix
products of that precision; pairs a second at 64 pairs; peak memory beside the estimate that decided the chunks; the
largest difference from float32, in shares of the gap; and how often the host waited for the device.
"""

import argparse
import statistics
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from notice_lens import HookedBLIP, patching
from notice_lens.models.blip.random_blip import processor, random_hf
from notice_lens.patching.engine.memory import budget
from patching import (
    HEADS,
    LAYERS,
    OPTIONS,
    TOKENS,
    VOCABULARY,
    TextSweep,
    lens_patches,
    loop_inputs,
    loop_patch,
    make_pairs,
    timed,
)

PRECISIONS = {"float32": (torch.float32, False), "TF32": (torch.float32, True), "bfloat16": (torch.bfloat16, False)}


@contextmanager
def precision(tf32: bool) -> Iterator[None]:
    """Matrix products in TF32, or not."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def seconds(device: torch.device, run: Any, times: int = 3) -> tuple[float, Any]:
    """Seconds of a run with all that the device has to do for it, the median of several, and what it gave."""

    def whole() -> Any:
        found = run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return found

    whole()
    runs = [timed(whole) for _ in range(times)]
    return statistics.median(own for own, _ in runs), runs[-1][1]


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of 768 -> 3072 products."""
    rows = 65536 if device.type == "cuda" else 1024
    a = torch.randn(rows, 768, device=device, dtype=dtype)
    w = torch.randn(3072, 768, device=device, dtype=dtype)
    time, _ = seconds(device, lambda: [torch.nn.functional.linear(a, w) for _ in range(10)], 5)
    return 10 * 2 * rows * 768 * 3072 / time


def waits(device: torch.device, run: Any) -> int:
    """How often the host waits for the device in a run."""
    if device.type != "cuda":
        return 0
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in found)


def memory(device: torch.device, blip: HookedBLIP, run: Any) -> str:
    """The peak of a run above the weights, and the budget that decided its chunks."""
    if device.type != "cuda":
        return "not measured"
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    used = torch.cuda.max_memory_allocated(device) - before
    return f"{used / 2**30:.2f} GB, of a budget of {budget(blip) / 2**30:.2f} GB"


def table(device: torch.device, name: str, hf: Any, own: Any, exact: Any, few: int) -> Any:
    """Prints the figures of one precision. Returns its effects."""
    dtype, tf32 = PRECISIONS[name]
    with precision(tf32):
        model = hf.to(device, dtype)
        blip = HookedBLIP.from_hf(model, own)
        pairs, many = make_pairs(1), make_pairs(64)

        def run(asked: Any = pairs, **options: Any) -> Any:
            return patching.patch_heads(blip, asked, positions="each", **{**OPTIONS, **options})

        time, effects = seconds(device, run)
        n = blip.text.cfg.n_layers * blip.text.cfg.n_heads * TOKENS
        inputs = loop_inputs(blip, pairs)
        inputs = (inputs[0].to(device, dtype), inputs[1])
        loop = statistics.median(
            seconds(device, lambda: loop_patch(model, blip, inputs, 0, 0, 0), 1)[0] for _ in range(few)
        )
        lens = statistics.median(lens_patches(blip, pairs, few))
        whole, _ = seconds(device, lambda: run(many), 1)
        print(f"{name}: {n} patches in {time:.2f} s; loop {loop * n:.0f} s, ratio {loop * n / time:.0f}")
        print(f"  TransformerLens on the lens {lens * n:.0f} s, ratio {lens * n / time:.1f}")
        print(f"  64 pairs: {64 / whole:.2f} pairs a second, {64 * n / whole:.0f} patches a second")
        if (blip.text.cfg.n_layers, blip.text.cfg.n_heads) == (LAYERS, HEADS):
            share = 64 * TextSweep().flops() / whole / peak(device, dtype)
            print(f"  {share:.2f} of the device's own matrix products at 64 pairs")
        print(f"  memory at 64 pairs: {memory(device, blip, lambda: run(many))}")
        print(f"  the host waited {waits(device, run)} times in a sweep of {blip.text.cfg.n_layers} layers")
        if exact is not None:
            gap = abs(exact.logit_diff_clean - exact.logit_diff_corrupt).item()
            error = abs(effects.logit_diff_change - exact.logit_diff_change).max().item()
            print(f"  largest difference from float32: {error / gap:.1e} of the gap")
        return effects


def main() -> None:
    """Prints the table of every precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--architecture", default="base", choices=("base", "tiny"))
    asked = parser.parse_args()
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        print("no GPU found; nothing was measured")
        return
    device = torch.device(asked.device)
    hf = random_hf("vqa", asked.architecture)
    own = processor(VOCABULARY, image_size=hf.config.vision_config.image_size)
    if device.type == "cuda":
        print(torch.cuda.get_device_name(device))
    exact = None
    with torch.no_grad():
        for name in PRECISIONS:
            effects = table(device, name, hf, own, exact, few=3 if device.type == "cuda" else 1)
            exact = effects if exact is None else exact


if __name__ == "__main__":
    main()
