"""How the time of a sweep grows with pairs, layers and positions, beside what its arithmetic says.

    OMP_NUM_THREADS=1 python benchmarks/growth.py               # about twenty minutes of one core
    OMP_NUM_THREADS=1 python benchmarks/growth.py --pairs 1 10  # a minute or two

Both engines: a BLIP, whose rows get all their positions, and a LLaVA, whose rows have those behind the patch alone.
Weights are random, and small enough for a thousand pairs, yet large enough for products to take most of the time. Times
are of the whole call (pairs are validated, pictures prepared, runs recorded, rows patched), in seconds of the process
on one core: other processes of a busy machine do not count.

Each row changes one thing of a sweep of ten pairs, and is timed between two runs of that: "growth" is the ratio to
them. "Arithmetic" is the growth of the multiplications that the method needs: time that grows faster is bookkeeping.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from PIL import Image

from notice_lens import HookedBLIP, HookedVLM, patching
from notice_lens.mini import llava_folder
from notice_lens.models.blip.random_blip import random_hf
from notice_lens.pairs import MinimalPairs

from patching import TextSweep  # isort: skip -- the benchmark of that name, beside this one

WIDTH, HEADS, PATCH = 256, 8, 8
PROMPT = "is this apple red or green?"
PAIRS_AS_IT_IS, ROUNDS = 10, 3


class Sizes(NamedTuple):
    """What grows.

    Attributes:
        pairs: How many.
        layers: Of every stack.
        side: Patches along a side of the image: 12 and 17 give 145 and 290 positions with the class token.
        positions: Words at which heads are patched, one at a time.
    """

    pairs: int = PAIRS_AS_IT_IS
    layers: int = 4
    side: int = 12
    positions: int = 4


Sweep = Callable[[MinimalPairs], Any]
"""Patches pairs with a model."""


def make_pairs(n: int, pixels: int) -> MinimalPairs:
    """Pairs of noise images with one question."""

    def noise(number: int) -> Image.Image:
        return Image.fromarray(np.random.default_rng(number).integers(0, 255, (pixels, pixels, 3), dtype=np.uint8))

    return MinimalPairs.from_rows(
        {
            "id": f"p{number}", "task": "noise", "clean_prompt": PROMPT,
            "clean_image": noise(2 * number), "corrupt_image": noise(2 * number + 1),
            "correct_answer": "red", "incorrect_answer": "green",
        }
        for number in range(n)
    )  # fmt: skip


def blip(sizes: Sizes) -> tuple[Sweep, float]:
    """Return a sweep of BLIP's cross-attention heads, and the arithmetic of a pair in FLOP."""
    processor, pixels = HookedBLIP.mini().processor, PATCH * sizes.side
    width = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "intermediate_size": 4 * WIDTH}
    stack = {**width, "num_hidden_layers": sizes.layers}
    hf = random_hf(
        tokenizer=processor.tokenizer,
        text={**stack, "encoder_hidden_size": WIDTH},
        vision={**stack, "image_size": pixels, "patch_size": PATCH},
    )
    images = transformers.BlipImageProcessorPil(size={"height": pixels, "width": pixels})
    model = HookedBLIP.from_hf(hf, transformers.BlipProcessor(images, processor.tokenizer))
    tokens = len(model.tokenizer(PROMPT)["input_ids"])
    need = TextSweep(
        sizes.layers, HEADS, tokens, sizes.positions, sizes.side**2 + 1, WIDTH, hf.config.text_config.vocab_size
    )
    return sweep(model, list(range(tokens - sizes.positions, tokens))), need.flops()


def llava(sizes: Sizes) -> tuple[Sweep, float]:
    """Return a sweep of a LLaVA's heads at its last words, and the arithmetic of a pair in FLOP."""
    torch.manual_seed(0)
    processor = transformers.AutoProcessor.from_pretrained(llava_folder(), backend="pil")
    config: Any = transformers.LlavaConfig.from_pretrained(llava_folder())
    pixels, positions = PATCH * sizes.side, sizes.side**2
    stack = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": sizes.layers}
    text = {**stack, "num_key_value_heads": HEADS, "head_dim": WIDTH // HEADS, "intermediate_size": 3 * WIDTH}
    config.text_config.update({**text, "max_position_embeddings": 1024})
    config.vision_config.update({**stack, "intermediate_size": 4 * WIDTH, "image_size": pixels, "patch_size": PATCH})
    config.image_seq_length = positions
    processor.image_processor.size = {"shortest_edge": pixels}
    processor.image_processor.crop_size = {"height": pixels, "width": pixels}
    processor.patch_size = PATCH
    model = HookedVLM.from_hf(transformers.LlavaForConditionalGeneration(config).eval(), processor)
    length = model.prepare(Image.new("RGB", (pixels, pixels)), PROMPT)["input_ids"].shape[1]
    run = sweep(model, list(range(length - sizes.positions, length)))
    return run, flops_of_decoder(sizes, length, config.text_config.vocab_size)


def flops_of_decoder(sizes: Sizes, length: int, vocab: int) -> float:
    """Return the arithmetic of one pair, in FLOP.

    In units of d² multiplications: a position takes 4 + 9 in a block (attention, and an MLP of three times the width,
    gated), what is after z of it 1 + 9. A row patched at the k-th last word has k positions in the blocks above it, and
    in the last one the read-out alone, whose keys and values are of all k.
    """
    layers, mixed = sizes.layers, 2 * length / WIDTH
    rows = 0.0
    for suffix in range(1, sizes.positions + 1):
        for above in range(layers):
            rows += 10 + vocab / WIDTH
            rows += max(0, above - 1) * suffix * (13 + mixed) + (2 * suffix + 11 + mixed if above else 0)
    image = sizes.side**2 + 1
    tower = layers * image * (12 + 2 * image / WIDTH) + 2 * image
    recorded = 2 * (tower + layers * length * (13 + 2 * length / WIDTH))
    return 2 * WIDTH**2 * (HEADS * rows + recorded)


def sweep(model: Any, positions: list[int]) -> Sweep:
    """Return a sweep of every head of every layer at some words."""
    return lambda pairs: patching.patch_heads(model, pairs, positions=positions, controls=(), progress=False)


def seconds(run: Callable[[], Any]) -> float:
    """Seconds of this process on its core."""
    start = time.process_time()
    run()
    return time.process_time() - start


def table(name: str, make: Callable[[Sizes], tuple[Sweep, float]], counts: list[int]) -> None:
    """Print the rows of one engine; each change is timed between two runs of ten pairs as they are."""
    plain = Sizes()
    run_plain, flops_plain = make(plain)
    pairs_plain = make_pairs(plain.pairs, PATCH * plain.side)
    run_plain(pairs_plain)  # a first run allocates
    changes = {
        **{f"{n:,} pair{'s' if n > 1 else ''}": plain._replace(pairs=n) for n in counts},
        "layers x 2": plain._replace(layers=2 * plain.layers),
        "image positions x 2": plain._replace(side=17),
        "patched words x 2": plain._replace(positions=2 * plain.positions),
    }
    for what, sizes in changes.items():
        run, flops = make(sizes)
        pairs = make_pairs(sizes.pairs, PATCH * sizes.side)
        run(make_pairs(1, PATCH * sizes.side))
        each, ratios = [], []
        for _ in range(1 if sizes.pairs > 100 else ROUNDS):
            around = [seconds(lambda: run_plain(pairs_plain)) / plain.pairs]
            each.append(seconds(lambda run=run, pairs=pairs: run(pairs)) / sizes.pairs)
            around.append(seconds(lambda: run_plain(pairs_plain)) / plain.pairs)
            ratios.append(each[-1] / statistics.mean(around))
        took = statistics.median(each)
        growth, need = statistics.median(ratios), flops / flops_plain
        print(
            f"| {name} | {what} | {1000 * took:.0f} | {growth:.2f} | {need:.2f} | {flops / took / 1e9:.0f} |",
            flush=True,
        )


def main() -> None:
    """Read the options and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--only", choices=["BLIP", "LLaVA"])
    chosen = parser.parse_args()
    transformers.logging.set_verbosity_error()  # pyright: ignore[reportAttributeAccessIssue]
    torch.set_num_threads(1)
    print("| model | change | ms a pair | growth | arithmetic | GFLOP/s |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, make in (("BLIP", blip), ("LLaVA", llava)):
        if chosen.only in (None, name):
            table(name, make, chosen.pairs)


if __name__ == "__main__":
    main()
