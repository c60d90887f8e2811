"""A hook-free forward of HookedBLIP against Hugging Face's, side by side, on the architecture of blip-vqa-base.

    python benchmarks/forward.py                 # batch 1 and 8, float32
    python benchmarks/forward.py --batch 1 4 16 --device cuda --dtype bfloat16

Both models have the same random weights and inputs. Runs alternate, so that a machine whose speed drifts slows both;
the ratio is taken run by run. Peak memory is that of one forward above the weights, each model in a process of its own.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from notice_lens import HookedBLIP
from notice_lens.models import BLIPInputs
from notice_lens.models.blip.random_blip import random_hf

LENGTH = 9


def make_inputs(batch: int, device: str, dtype: torch.dtype) -> BLIPInputs:
    """Noise images and questions of nine tokens."""
    generator = torch.Generator().manual_seed(0)
    return BLIPInputs(
        pixel_values=torch.randn(batch, 3, 384, 384, generator=generator).to(dtype),
        input_ids=torch.randint(1000, 20000, (batch, LENGTH), generator=generator),
        attention_mask=torch.ones(batch, LENGTH, dtype=torch.long),
    ).to(device)


def hugging_face_forward(model: Any, inputs: BLIPInputs) -> torch.Tensor:
    """Answer logits by Hugging Face's modules, with the masks that its own forward passes."""
    image = model.vision_model(pixel_values=inputs.pixel_values).last_hidden_state
    question = model.text_encoder(
        input_ids=inputs.input_ids,
        attention_mask=inputs.attention_mask,
        encoder_hidden_states=image,
        encoder_attention_mask=torch.ones(image.shape[:-1], dtype=torch.long, device=image.device),
    ).last_hidden_state
    start = torch.full((len(inputs), 1), model.decoder_start_token_id, device=image.device)
    return model.text_decoder(
        input_ids=start, encoder_hidden_states=question, encoder_attention_mask=inputs.attention_mask
    ).logits


def timed(run: Callable[[], torch.Tensor], device: str) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(which: str, batch: int, device: str, dtype: str) -> float:
    """Peak MiB above the weights of one forward, measured in a fresh process."""
    command = [sys.executable, __file__, "--measure-memory", which, "--batch", str(batch)]
    output = subprocess.run(
        [*command, "--device", device, "--dtype", dtype], capture_output=True, text=True, check=True
    )
    return json.loads(output.stdout.splitlines()[-1])


def measure_memory(which: str, batch: int, device: str, dtype: torch.dtype) -> float:
    """The same, in this process, which must not have run a forward before."""
    hf = random_hf("vqa", "base").to(device=device, dtype=dtype)
    inputs = make_inputs(batch, device, dtype)
    run: Callable[[], torch.Tensor] = lambda: hugging_face_forward(hf, inputs)  # noqa: E731
    if which == "ours":
        blip = HookedBLIP.from_hf(hf)
        del hf
        run = lambda: blip(inputs)  # noqa: E731
    with torch.no_grad():
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run()
            return (torch.cuda.max_memory_allocated() - before) / 2**20
        # The high-water mark of the process: making the models may have been higher than the weights, so it is only
        # a fair measure where the forward goes beyond it. Ballast that is freed first would hide nothing.
        reset_high_water_mark()
        before = resident_mebibytes("VmRSS")
        run()
        return resident_mebibytes("VmHWM") - before


def reset_high_water_mark() -> None:
    """Starts Linux's peak counter of this process anew."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def resident_mebibytes(field: str) -> float:
    """Return a field of /proc/self/status in MiB; elsewhere than on Linux, the peak since the start."""
    try:
        with open("/proc/self/status") as file:
            line = next(line for line in file if line.startswith(field))
        return int(line.split()[1]) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare(batch: int, device: str, dtype: torch.dtype, hf: Any, blip: HookedBLIP, runs: int) -> dict[str, float]:
    """Median seconds of each and the median of the ratios run by run; also that both say the same."""
    inputs = make_inputs(batch, device, dtype)
    theirs: Callable[[], torch.Tensor] = lambda: hugging_face_forward(hf, inputs)  # noqa: E731
    ours: Callable[[], torch.Tensor] = lambda: blip(inputs)  # noqa: E731
    with torch.no_grad():
        expected = theirs()
        error = float((ours() - expected).abs().max() / expected.abs().max())
        pairs = [(timed(theirs, device), timed(ours, device)) for _ in range(runs)]
    return {
        "Hugging Face, s": statistics.median(pair[0] for pair in pairs),
        "notice-lens, s": statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(pair[0] / pair[1] for pair in pairs),
        "error": error,
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--measure-memory", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    if args.measure_memory:
        print(json.dumps(measure_memory(args.measure_memory, args.batch[0], args.device, dtype)))
        return
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{machine}, {args.device}, {args.dtype}")
    hf = random_hf("vqa", "base").to(device=args.device, dtype=dtype)
    blip = HookedBLIP.from_hf(hf)
    header = ("batch", "Hugging Face, s", "notice-lens, s", "ratio", "error", "HF peak, MiB", "ours peak, MiB")
    print(" | ".join(header))
    for batch in args.batch:
        row = compare(batch, args.device, dtype, hf, blip, args.runs)
        peaks = [peak_memory(which, batch, args.device, args.dtype) for which in ("theirs", "ours")]
        print(
            f"{batch} | {row['Hugging Face, s']:.3f} | {row['notice-lens, s']:.3f} | {row['ratio']:.2f} | "
            f"{row['error']:.1e} | {peaks[0]:.0f} | {peaks[1]:.0f}"
        )


if __name__ == "__main__":
    main()
