"""Paths among heads of a decoder against one path at a time, on a random LLaVA of 611 positions.

    OMP_NUM_THREADS=2 python benchmarks/paths_vlm.py

Every path among 20 heads of the language model (to the queries, keys and values of those in later layers, and to the
logits) is patched at the last position. One at a time is two forward passes of Hugging Face's model for each: run 3,
with a hook on every attention and MLP that keeps what it wrote, and run 4, with the receiver's input put in. A few of
them are timed, and multiplied. The ratio is of times of one run.
"""

import statistics
import time
from typing import Any

import torch
from patching_vlm import SHAPES, make

from notice_lens.patching.engine.causal.decoder import Decoder
from notice_lens.patching.engine.causal.memory import memory_for
from notice_lens.patching.engine.causal.paths import DecoderPath, PathWalk, Received, edits_of
from notice_lens.patching.engine.causal.plan import DecoderEdit
from notice_lens.patching.engine.causal.record import record
from notice_lens.patching.engine.causal.wave import CausalWave
from notice_lens.patching.engine.receivers import Receiver

HEADS = 20


def heads(n_layers: int, n_heads: int) -> list[tuple[int, int]]:
    """Return heads of all layers, evenly."""
    step = n_layers * n_heads / HEADS
    return [divmod(int(number * step), n_heads) for number in range(HEADS)]


def paths_of(chosen: list[tuple[int, int]], last: int) -> list[DecoderPath]:
    """Return every path among heads, and from each to the logits."""
    found = []
    for layer, head in chosen:
        sender = (DecoderEdit("hook_z", layer, (last,), head),)
        found.append(DecoderPath(sender, Receiver("language.output")))
        for to_layer, to_head in chosen:
            if to_layer > layer:
                found += [
                    DecoderPath(sender, Receiver(f"language.blocks.{to_layer}.attn.hook_{leaf}", to_head))
                    for leaf in "qkv"
                ]
    return found


@torch.no_grad()
def all_at_once(base: Any, other: Any, paths: list[DecoderPath], memory: int) -> None:
    """Runs 3 and 4 of all paths, from recorded runs."""
    runs: dict[str, Any] = {"other": other, "self": base}
    walk = PathWalk(base, runs, paths, memory)
    for load in walk.loads():
        sources, variants = dict(runs), []
        for number, found in walk.received(load):
            if isinstance(found, Received):
                sources[f"path {number}"] = found
                variants.append(edits_of(paths[number], found, f"path {number}"))
        CausalWave(base, variants, sources, memory).readouts()


@torch.no_grad()
def one(hf: Any, inputs: Any, layers: Any) -> None:
    """Two forward passes, the first with a hook on every module that is kept."""
    handles = [
        module.register_forward_hook(lambda m, args, out: out)
        for layer in layers
        for module in (layer.self_attn.o_proj, layer.mlp)
    ]
    hf(**inputs)
    for handle in handles:
        handle.remove()
    handle = layers[-1].self_attn.q_proj.register_forward_hook(lambda m, args, out: out.clone())
    hf(**inputs)
    handle.remove()


def main() -> None:
    """Print the ratio."""
    hf, inputs = make(SHAPES["small"], "cpu", torch.float32)
    base_inputs, other_inputs = inputs(1), inputs(2)
    decoder = Decoder.of(hf)
    began = time.perf_counter()
    base, other = (record(decoder, some, ("hook_mlp_out", "hook_q", "hook_k")) for some in (base_inputs, other_inputs))
    recorded = time.perf_counter() - began
    chosen = heads(len(decoder.layers), decoder.blocks[0].attn.n_heads)
    paths = paths_of(chosen, base.readouts[0])
    memory = memory_for(hf, None)
    times = []
    for _ in range(3):
        began = time.perf_counter()
        all_at_once(base, other, paths, memory)
        times.append(time.perf_counter() - began)
    single = []
    for _ in range(4):
        began = time.perf_counter()
        one(hf, base_inputs, decoder.layers)
        single.append(time.perf_counter() - began)
    ours, theirs = recorded + statistics.median(times), statistics.median(single) * len(paths)
    print(f"{len(paths)} paths among {HEADS} heads, {base.length} positions: {ours:.1f} s, two runs recorded in it")
    print(f"one at a time {theirs:.0f} s; ratio {theirs / ours:.0f}")


if __name__ == "__main__":
    main()
