"""The causal wave against a hooked forward pass a patch, side by side, on a random LLaVA.

    OMP_NUM_THREADS=2 python benchmarks/patching_vlm.py            # a few minutes on two cores
    python benchmarks/patching_vlm.py --device cuda --dtype bfloat16 --shape 7b

The model has LLaVA-1.5's parts with random weights: by default 12 layers of 12 heads, width 768, and 611 positions, 576
of them the image. The usual loop, a full forward pass of Hugging Face's model with one hook, is timed for a few patches
and multiplied; so is the same patch by `TransformerBridge.run_with_hooks`, which wants eager attention. Ratios are of
times of one run: machines are noisy, and absolute times mean little.
"""

import argparse
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple
from unittest import mock

import psutil
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from notice_lens.patching import patch_inputs
from notice_lens.patching.engine.causal.decoder import Decoder
from notice_lens.patching.engine.causal.memory import memory_for
from notice_lens.patching.engine.causal.readout import metric_of_readouts
from notice_lens.patching.engine.causal.record import record
from notice_lens.patching.engine.causal.site import DecoderSite, groups_of
from notice_lens.patching.engine.causal.wave import CausalWave

IMAGE, WORDS = 576, 30


class Shape(NamedTuple):
    """Sizes of a language model and of the vision tower in front of it."""

    text: dict[str, int]
    vision: dict[str, int]


SHAPES = {
    "small": Shape(
        {
            "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12,
            "vocab_size": 4000,
        },
        {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4},
    ),
    "7b": Shape(
        {
            "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
            "vocab_size": 32064,
        },
        {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
    ),
}  # fmt: skip


def make(shape: Shape, device: str, dtype: torch.dtype) -> tuple[Any, Callable[[int], dict[str, Tensor]]]:
    """Return a random LLaVA, and its inputs by the seed of the picture."""
    torch.manual_seed(0)
    image_id = shape.text["vocab_size"] - 1
    vision: dict[str, Any] = {**shape.vision, "image_size": 336, "patch_size": 14}
    text: dict[str, Any] = {**shape.text, "max_position_embeddings": 2048}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**vision),
        text_config=transformers.LlamaConfig(**text),
        image_token_index=image_id,
        vision_feature_layer=-2,
        image_seq_length=IMAGE,
    )
    with torch.device(device):
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        model = transformers.LlavaForConditionalGeneration(config).eval()
        torch.set_default_dtype(default)
    ids = torch.cat([torch.arange(1, 6), torch.full((IMAGE,), image_id), torch.arange(10, 10 + WORDS)])[None]

    def inputs(seed: int) -> dict[str, Tensor]:
        pixels = torch.randn(1, 3, 336, 336, generator=torch.Generator().manual_seed(seed))
        rest = {"input_ids": ids.to(device), "attention_mask": torch.ones_like(ids).to(device)}
        return {**rest, "pixel_values": pixels.to(device, dtype)}

    return model, inputs


def difference(logits: Tensor) -> Tensor:
    """Return the logit difference of two tokens, [row]."""
    return logits[:, 7] - logits[:, 9]


class Peak:
    """The most memory that the process, or the GPU, takes within a `with` block above what it took before."""

    def __init__(self, device: str) -> None:
        self.cuda, self.process, self.open = device == "cuda", psutil.Process(), True

    def taken(self) -> int:
        """Return the bytes that are taken now; on a GPU, the most so far."""
        return torch.cuda.max_memory_allocated() if self.cuda else self.process.memory_info().rss

    def __enter__(self) -> "Peak":
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        self.before = self.most = self.taken()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while self.open:
            self.most = max(self.most, self.taken())
            time.sleep(0.005)

    def __exit__(self, *_: object) -> None:
        self.most = max(self.most, self.taken())
        self.open = False
        self.thread.join()

    @property
    def gigabytes(self) -> float:
        """The difference, in GB."""
        return (self.most - self.before) / 1e9


def seconds(work: Callable[[], Any], device: str) -> float:
    """Return how long something takes."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


@torch.no_grad()
def hooked_forward(model: Any, inputs: dict[str, Tensor], z: list[Tensor], cell: tuple[int, int, int]) -> float:
    """Return the metric of a full forward pass in which a hook patches one head at one position."""
    layer, head, position = cell
    attention = model.get_decoder().layers[layer].self_attn
    own = slice(head * attention.head_dim, (head + 1) * attention.head_dim)

    def patch(_: Any, args: tuple[Tensor]) -> tuple[Tensor]:
        new = args[0].clone()
        new[:, position, own] = z[layer][position, head]
        return (new,)

    handle = attention.o_proj.register_forward_pre_hook(patch)
    try:
        return float(difference(model(**inputs).logits[:, -1].float()))
    finally:
        handle.remove()


def bridge_of(model: Any, device: str, dtype: torch.dtype) -> TransformerBridge:
    """Return TransformerLens's bridge of a model, whose modules it wraps in place: to be called last.

    Booting wants a tokenizer, and runs pip where a processor does not load; no process is started here.
    """
    model.config.architectures = [type(model).__name__]
    words = Tokenizer(WordLevel({"<s>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    refused = mock.patch.object(subprocess, "Popen", side_effect=OSError("no installing in a benchmark"))
    with tempfile.TemporaryDirectory() as folder, refused:
        transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
        model.config.save_pretrained(folder)
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
        return TransformerBridge.boot_transformers(
            folder, hf_model=model, tokenizer=tokenizer, device=device, dtype=dtype
        )


@torch.no_grad()
def bridged(bridge: TransformerBridge, inputs: dict[str, Tensor], z: list[Tensor], cell: tuple[int, int, int]) -> float:
    """Return the metric of a run of the bridge in which a hook patches one head at one position, picture included."""
    layer, head, position = cell
    rest: dict[str, Any] = {name: value for name, value in inputs.items() if name != "input_ids"}

    def patch(activation: Tensor, hook: Any) -> Tensor:
        activation[:, position, head] = z[layer][position, head]
        return activation

    logits = bridge.run_with_hooks(inputs["input_ids"], fwd_hooks=[(f"blocks.{layer}.attn.hook_z", patch)], **rest)
    return float(difference(logits[:, -1].float()))


def against_others(
    model: Any,
    inputs: dict[str, Tensor],
    z: list[Tensor],
    cells: list[tuple[int, int, int]],
    loop: list[float],
    rows: list[tuple[str, int, float]],
) -> None:
    """Print how long the same patches take elsewhere, one at a time, in multiples of the wave's time.

    Args:
        model: Hugging Face's. The bridge changes it.
        inputs: Of the base run.
        z: Each layer's heads in the other run.
        cells: What is patched.
        loop: The metric by a hooked forward pass, by cell.
        rows: Name, number of patches and the wave's seconds.
    """
    device, dtype = model.device.type, model.dtype
    bridge = bridge_of(model, device, dtype)
    bridged(bridge, inputs, z, cells[0])  # a first run allocates
    numbers: list[float] = []
    run = min(seconds(lambda c=cell: numbers.append(bridged(bridge, inputs, z, c)), device) for cell in cells)
    apart = max(abs(number - expected) for number, expected in zip(numbers, loop, strict=True))
    print(f"against TransformerBridge.run_with_hooks, one patch at a time: {run:.3f} s a patch, apart {apart:.1e}")
    print(f"{'':14s}{'patches':>8s}{'seconds':>9s}{'ratio':>8s}")
    for name, patches, took in rows:
        print(f"{name:14s}{patches:8d}{took:9.2f}{run * patches / took:8.0f}", flush=True)
    found = find_spec("nnsight") is not None
    print("nnsight is installed, but not compared here" if found else "nnsight is not installed: not compared")


def benchmark(device: str, dtype: torch.dtype, shape: Shape, forwards: int) -> None:
    """Print the table."""
    model, inputs = make(shape, device, dtype)
    decoder = Decoder.of(model)
    clean, corrupted = inputs(1), inputs(2)
    record(decoder, clean)  # a first run allocates
    recorded = seconds(lambda: [record(decoder, some) for some in (clean, corrupted)], device)
    base, other = record(decoder, corrupted), record(decoder, clean)
    z = [other.value("hook_z", layer) for layer in range(len(decoder.layers))]
    length = base.length
    cells = [(0, 1, length - 1), (len(z) // 2, 3, length - 6), (2 * len(z) // 3, 0, length - 11)][:forwards]
    hooked_forward(model, corrupted, z, cells[0])
    loop: list[float] = []
    rows: list[tuple[str, int, float]] = []

    def patched(cell: tuple[int, int, int]) -> None:
        loop.append(hooked_forward(model, corrupted, z, cell))

    forward = min(seconds(partial(patched, cell), device) for cell in cells)
    title = f"{type(model).__name__}, {len(z)} layers, {length} positions, {dtype}, {device}"
    print(f"{title}, {torch.get_num_threads()} threads")
    print(f"a hooked forward pass {forward:.3f} s; two recorded runs {recorded / forward:.2f} forward passes")
    region = [5 + 24 * line + column for line in range(8, 16) for column in range(8, 16)]
    what: dict[str, Any] = {
        "last token": [-1],
        "ten words": range(length - 10, length),
        "image region": {"region": region},
    }
    print(f"{'':14s}{'patches':>8s}{'seconds':>9s}{'ratio':>8s}{'whole, in forwards':>20s}{'peak GB':>9s}{'apart':>9s}")
    for name, positions in what.items():
        site = DecoderSite.of(decoder, "language.attn")
        labels, groups = groups_of(positions, length)
        variants = [(site.edit(cell, groups, "other"),) for cell in site.cells(len(groups))]
        memory = memory_for(decoder.hf, None)
        values: list[Tensor] = []

        def wave(variants: Any = variants, memory: int = memory, values: list[Tensor] = values) -> None:
            readouts = CausalWave(base, variants, {"other": other}, memory).readouts()[:, -1]
            values.append(metric_of_readouts(decoder, readouts, base.capped, difference))

        took = min(seconds(wave, device) for _ in range(1 if name == "image region" else 2))
        numbers = values[0].reshape(len(z), -1, len(groups)).tolist()
        at = {int(label): number for number, label in enumerate(labels) if isinstance(label, int)}
        apart = [
            abs(numbers[layer][head][at[position]] - expected)
            for (layer, head, position), expected in zip(cells, loop, strict=False)
            if position in at
        ]
        whole, peak = float("nan"), float("nan")
        if name != "image region":
            with Peak(device) as taken:
                options: dict[str, Any] = {"metric": difference, "positions": positions, "progress": False}
                whole = seconds(lambda o=options: patch_inputs(model, clean, corrupted, **o), device) / forward
            peak = taken.gigabytes
        ratio = forward * len(variants) / took
        worst = max(apart, default=float("nan"))
        row = f"{len(variants):8d}{took:9.2f}{ratio:8.0f}{whole:20.2f}{peak:9.2f}{worst:9.1e}"
        print(f"{name:14s}{row}", flush=True)
        rows.append((name, len(variants), took))
    against_others(model, corrupted, z, cells, loop, rows)


def main() -> None:
    """Read the options and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--shape", default="small", choices=SHAPES)
    parser.add_argument("--forwards", type=int, default=3, help="hooked forward passes that are timed")
    chosen = parser.parse_args()
    transformers.logging.set_verbosity_error()  # pyright: ignore[reportAttributeAccessIssue]
    benchmark(chosen.device, getattr(torch, chosen.dtype), SHAPES[chosen.shape], chosen.forwards)


if __name__ == "__main__":
    main()
