"""Sweeps against the usual loops, side by side, on the architecture of blip-vqa-base with random weights.

    python benchmarks/patching.py                # every table; about ten minutes on two cores
    python benchmarks/patching.py --only loop lens

- `loop`: every cross-attention head, layer and token of a pair, against a full forward of (clean, corrupted, patched)
  on the Hugging Face model for each patch. A few of those are timed, and multiplied.
- `lens`: against `transformer_lens.patching` on our own lens, which has the image encoded and projected already.
- `peak`: arithmetic over time, beside this machine's own float32 matrix products in the same run.
- `vision`: every vision head of a pair at all positions.
- `mini`: the mini model on 100 pairs, both corruptions, both controls.

Ratios are of times of one run; machines are noisy, and absolute times mean little.
"""

import argparse
import ctypes
import gc
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from PIL import Image

from notice_lens import HookedBLIP, patching
from notice_lens.models.blip.random_blip import processor, random_hf
from notice_lens.pairs import MinimalPairs, mini_world

VOCABULARY = Path(__file__).parents[1] / "tests" / "data" / "bert" / "vocab.txt"
LAYERS, HEADS, TOKENS, PATCHES, WIDTH, VOCAB = 12, 12, 9, 577, 768, 30524
OPTIONS: dict[str, Any] = {"controls": (), "progress": False}


def make_pairs(n: int) -> MinimalPairs:
    """Pairs of noise images with one question of nine tokens."""

    def noise(number: int) -> Image.Image:
        return Image.fromarray(np.random.default_rng(number).integers(0, 255, (384, 384, 3), dtype=np.uint8))

    return MinimalPairs.from_rows(
        {
            "id": f"p{number}", "task": "noise",
            "clean_image": noise(2 * number), "corrupt_image": noise(2 * number + 1),
            "clean_prompt": "is this apple red or green?",
            "correct_answer": "red", "incorrect_answer": "green",
            "corrupt_prompt": "is this apple blue or black?",
        }
        for number in range(n)
    )  # fmt: skip


class Peak:
    """How much memory this process takes at most within a `with` block, above what it took before."""

    def __enter__(self) -> "Peak":
        gc.collect()
        if sys.platform == "linux":
            # Memory that was freed before, and is still this process's, would hide what is taken now.
            ctypes.CDLL(None).malloc_trim(0)
        self.process, self.open = psutil.Process(), True
        self.before = self.most = self.process.memory_info().rss
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while self.open:
            self.most = max(self.most, self.process.memory_info().rss)
            time.sleep(0.005)

    def __exit__(self, *_: object) -> None:
        self.open = False
        self.thread.join()

    @property
    def gigabytes(self) -> float:
        """The difference, in GB."""
        return (self.most - self.before) / 2**30


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one run, and what it gave."""
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found


def loop_inputs(model: HookedBLIP, pairs: MinimalPairs) -> tuple[torch.Tensor, torch.Tensor]:
    """The three images of a pair (clean, corrupted, patched) and its question, preprocessed once."""
    inputs = pairs.prepare(model)
    assert inputs.input_ids is not None, "questions were given"
    corrupted = pairs.prepare(model, image="corrupt").pixel_values
    return torch.cat([inputs.pixel_values, corrupted, corrupted]), inputs.input_ids.expand(3, -1)


def loop_patch(
    hf: Any, model: HookedBLIP, inputs: tuple[torch.Tensor, torch.Tensor], layer: int, position: int, head: int
) -> float:
    """One patch of the plain loop: a full forward of clean, corrupted and patched. Logit difference."""
    pixels, ids = inputs

    def patch(module: Any, args: Any, output: Any) -> Any:
        z = output[0].unflatten(-1, (HEADS, -1)).clone()
        z[2, position, head] = z[0, position, head]
        return (z.flatten(-2), *output[1:])

    handle = hf.text_encoder.encoder.layer[layer].crossattention.self.register_forward_hook(patch)
    try:
        images = hf.vision_model(pixel_values=pixels).last_hidden_state
        states = hf.text_encoder(input_ids=ids, encoder_hidden_states=images).last_hidden_state
        start = torch.full((3, 1), hf.decoder_start_token_id)
        logits = hf.text_decoder(input_ids=start, encoder_hidden_states=states).logits[:, -1]
    finally:
        handle.remove()
    red, green = model.tokenizer.convert_tokens_to_ids(["red", "green"])
    return (logits[2, red] - logits[2, green]).item()


def against_the_loop(hf: Any, model: HookedBLIP, some: int = 3) -> None:
    """Prints how often faster, and how equal."""
    pairs = make_pairs(1)
    patches = LAYERS * HEADS * TOKENS
    with Peak() as peak:
        ours = [timed(lambda: patching.patch_heads(model, pairs, positions="each", **OPTIONS)) for _ in range(2)]
    effects = ours[0][1]
    inputs = loop_inputs(model, pairs)
    generator, each, errors = np.random.default_rng(0), [], []
    gap = (effects.logit_diff_clean - effects.logit_diff_corrupt).item()
    for _ in range(some):
        layer, position, head = (int(generator.integers(n)) for n in (LAYERS, TOKENS, HEADS))
        seconds, plain = timed(lambda at=(layer, position, head): loop_patch(hf, model, inputs, *at))
        each.append(seconds)
        own = effects.logit_diff_change[0, layer, head, position].item() + effects.logit_diff_corrupt[0].item()
        errors.append(abs(own - plain) / abs(gap))
    seconds, loop = min(time_ for time_, _ in ours), statistics.median(each)
    print(f"loop: {patches} patches in {seconds:.1f} s (first {ours[0][0]:.1f} s); a patch of the loop {loop:.2f} s")
    print(f"  ratio {loop * patches / seconds:.0f}; largest difference {max(errors):.1e} of the gap")
    print(f"  peak memory {peak.gigabytes:.2f} GB above the weights")
    several = make_pairs(16)
    alone = [timed(lambda: patching.patch_heads(model, pairs, positions="each", **OPTIONS))[0]]
    many, _ = timed(lambda: patching.patch_heads(model, several, positions="each", **OPTIONS))
    alone.append(timed(lambda: patching.patch_heads(model, pairs, positions="each", **OPTIONS))[0])
    single = statistics.mean(alone)
    print(f"  16 pairs: {many / 16:.2f} s a pair; one pair before and after {single:.2f} s: {many / 16 / single:.2f}")


def against_the_lens(model: HookedBLIP) -> None:
    """Prints how often faster than TransformerLens's own sweep on our lens, with one pair and with 16."""
    for n, some in ((1, 12), (16, 4)):
        pairs = make_pairs(n)
        loop = statistics.median(lens_patches(model, pairs, some)) * LAYERS * HEADS * TOKENS
        ours, _ = timed(lambda pairs=pairs: patching.patch_heads(model, pairs, positions="each", **OPTIONS))
        print(f"lens, {n} pairs: {ours:.1f} s, images encoded too; TransformerLens {loop:.0f} s without that")
        print(f"  ratio {loop / ours:.1f}")


def lens_patches(model: HookedBLIP, pairs: MinimalPairs, some: int) -> list[float]:
    """Seconds of some patches as `get_act_patch_attn_head_out_by_pos` runs them: one forward of the lens each."""
    red, green = model.tokenizer.convert_tokens_to_ids(["red", "green"])
    clean = model.lens("text.cross_attn", pairs.prepare(model))
    corrupt = model.lens("text.cross_attn", pairs.prepare(model, image="corrupt"))
    _, cache = clean.run_with_cache(clean.tokens)

    def run(number: int) -> torch.Tensor:
        where = (slice(None), number % TOKENS, number % HEADS)

        def patch(z: torch.Tensor, hook: Any) -> torch.Tensor:
            z[where] = cache[hook.name][where]
            return z

        hooks = [(f"blocks.{number % LAYERS}.attn.hook_z", patch)]
        logits = corrupt.run_with_hooks(corrupt.tokens, fwd_hooks=hooks)
        return (logits[:, 0, red] - logits[:, 0, green]).mean()

    return [timed(lambda number=number: run(number))[0] for number in range(some)]


def gigaflops_of_products(rows: int = 4096, rounds: int = 5) -> float:
    """GFLOP/s of 768 -> 3072 products, the median of several."""
    a, w = torch.randn(rows, WIDTH), torch.randn(4 * WIDTH, WIDTH)
    rates = []
    for _ in range(rounds):
        seconds, _ = timed(lambda: torch.nn.functional.linear(a, w))
        rates.append(2 * rows * 4 * WIDTH**2 / seconds / 1e9)
    return statistics.median(rates)


class TextSweep(NamedTuple):
    """Sizes of a sweep of cross-attention heads; by default that of the tables here.

    Attributes:
        layers: Of each of the three stacks.
        heads: Of each layer.
        tokens: Of the question.
        patched: Those of them at which heads are patched, one at a time.
        patches: Positions of the image.
        width: Of all stacks; MLPs have four times as many neurons.
        vocab: How many logits there are.
    """

    layers: int = LAYERS
    heads: int = HEADS
    tokens: int = TOKENS
    patched: int = TOKENS
    patches: int = PATCHES
    width: int = WIDTH
    vocab: int = VOCAB

    def flops(self) -> float:
        """Return the arithmetic of one pair, as `docs/performance.md` writes it, in FLOP."""
        unit = self.width**2
        per_layer = self.heads * self.patched
        cross = 2 * self.tokens * self.patches * self.width / unit
        itself = 2 * self.tokens * self.tokens * self.width / unit
        blocks = sum(
            9 + (0 if left == 0 else 3 + 11 * self.tokens + (left - 1) * 14 * self.tokens + left * (cross + itself))
            for left in range(self.layers)
        )
        decoder = self.layers * 12 + (self.layers - 1) * 2 + self.layers * 2 * self.heads * self.tokens / self.width
        decoder += 1 + self.vocab / self.width
        images = 2 * self.layers * (12 * self.patches + 2 * self.patches**2 / self.width)
        keys = 3 * self.layers * 2 * self.patches
        return 2 * unit * (per_layer * blocks + self.layers * per_layer * decoder + images + keys)


def vision_sweep_flops() -> float:
    """Arithmetic of the vision sweep in FLOP."""
    unit = WIDTH**2
    block = 12 * PATCHES + 2 * PATCHES**2 / WIDTH
    vision = sum(HEADS * (9 * PATCHES + left * block) for left in range(LAYERS))
    folded = 2 * TOKENS + 2 * HEADS * TOKENS * PATCHES / WIDTH
    text = LAYERS * (12 * TOKENS + folded + 2 * TOKENS * TOKENS / WIDTH)
    decoder = LAYERS * 12 + (LAYERS - 1) * 2 + 1 + VOCAB / WIDTH
    return 2 * unit * (vision + LAYERS * HEADS * (text + decoder) + 3 * LAYERS * block)


def share_of_peak(model: HookedBLIP) -> None:
    """Prints arithmetic over time, each sweep between products: a few, and for as long as a sweep."""
    pairs = make_pairs(1)
    patching.patch_heads(model, pairs, positions="each", layers=[11], **OPTIONS)
    rates, peaks, long = [], [gigaflops_of_products()], []
    for _ in range(5):
        seconds, _ = timed(lambda: patching.patch_heads(model, pairs, positions="each", **OPTIONS))
        rates.append(TextSweep().flops() / seconds / 1e9)
        peaks.append(gigaflops_of_products())
        long.append(gigaflops_of_products(rounds=100))
    rate, peak, sustained = map(statistics.median, (rates, peaks, long))
    shares = [own / statistics.mean(around) for own, *around in zip(rates, peaks, peaks[1:], strict=False)]
    print(
        f"peak: {TextSweep().flops() / 1e12:.2f} TFLOP in {TextSweep().flops() / rate / 1e9:.1f} s, the median of five"
    )
    print(
        f"  {rate:.0f} of {peak:.0f} GFLOP/s: {rate / peak:.2f}; sweep by sweep {', '.join(f'{s:.2f}' for s in shares)}"
    )
    print(f"  of what products reach that run for as long, {sustained:.0f} GFLOP/s: {rate / sustained:.2f}")


def vision_heads(hf: Any, model: HookedBLIP) -> None:
    """Prints the time of all vision heads of a pair, beside the loop and the peak."""
    pairs = make_pairs(1)
    inputs = loop_inputs(model, pairs)
    before, long = gigaflops_of_products(), [gigaflops_of_products(rounds=100)]
    seconds, _ = timed(lambda: patching.patch_heads(model, pairs, "vision.attn", positions="all", **OPTIONS))
    after = gigaflops_of_products()
    long.append(gigaflops_of_products(rounds=100))
    each = statistics.median(timed(lambda: loop_patch(hf, model, inputs, 0, 0, 0))[0] for _ in range(2))
    rate, peak = vision_sweep_flops() / seconds / 1e9, statistics.mean([before, after])
    print(f"vision: 144 heads in {seconds:.1f} s; loop {each * 144:.0f} s, ratio {each * 144 / seconds:.1f}")
    sustained = statistics.mean(long)
    print(
        f"  {rate:.0f} of {peak:.0f} GFLOP/s: {rate / peak:.2f}; of {sustained:.0f} sustained: {rate / sustained:.2f}"
    )


def mini_model() -> None:
    """Prints the time of the mini model's sweep."""
    model, pairs = HookedBLIP.mini(), mini_world("states", 100)
    seconds, _ = timed(
        lambda: [patching.patch_heads(model, pairs, corruption=c, progress=False) for c in ("image", "text")]
    )
    print(f"mini: 100 pairs, image and text corruption, roles, both controls: {seconds:.1f} s")


def main() -> None:
    """Prints the tables asked for."""
    tables = ("loop", "lens", "peak", "vision", "mini")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tables, default=tables)
    asked = parser.parse_args().only
    if "mini" in asked:
        mini_model()
    if set(asked) == {"mini"}:
        return
    own = processor(VOCABULARY, image_size=384)
    hf = random_hf("vqa", "base")
    model = HookedBLIP.from_hf(hf, own)
    with torch.no_grad():
        if "loop" in asked:
            against_the_loop(hf, model)
        if "peak" in asked:
            share_of_peak(model)
        if "lens" in asked:
            against_the_lens(model)
        if "vision" in asked:
            vision_heads(hf, model)


if __name__ == "__main__":
    main()
