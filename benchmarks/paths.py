"""Path patching against the sweep of the same heads, and against one path at a time, on blip-vqa-base's architecture.

    python benchmarks/paths.py

All 144 cross-attention heads to `text.output`, by role, for one pair with random weights. One at a time is two forwards
of question encoder and decoder for each path (run 3 with hooks that freeze, run 4), the image encoded before; a few of
them are timed, and multiplied.
"""

import statistics
from typing import Any

import torch

from notice_lens import HookedBLIP, patching
from notice_lens.models.blip.random_blip import processor, random_hf
from patching import HEADS, LAYERS, OPTIONS, VOCABULARY, make_pairs, timed


def one_path(hf: Any, image: torch.Tensor, ids: torch.Tensor) -> None:
    """Run 3 and run 4 of one path, with a hook on every module of the question encoder."""
    start = torch.full((1, 1), hf.decoder_start_token_id)
    handles = [
        module.register_forward_hook(lambda m, args, out: out)
        for layer in hf.text_encoder.encoder.layer
        for module in (layer.attention.output.dense, layer.crossattention.output.dense, layer.output.dense)
    ]
    try:
        states = hf.text_encoder(input_ids=ids, encoder_hidden_states=image).last_hidden_state
    finally:
        for handle in handles:
            handle.remove()
    hf.text_decoder(input_ids=start, encoder_hidden_states=states)


@torch.no_grad()
def main() -> None:
    """Prints both ratios."""
    hf = random_hf("vqa", "base")
    model = HookedBLIP.from_hf(hf, processor(VOCABULARY, image_size=384))
    pairs = make_pairs(1)
    inputs = pairs.prepare(model)
    assert inputs.input_ids is not None, "questions were given"
    ids: torch.Tensor = inputs.input_ids
    image = hf.vision_model(pixel_values=inputs.pixel_values).last_hidden_state
    runs = {"paths": patching.patch_paths, "sweep": patching.patch_heads}
    times: dict[str, list[float]] = {name: [] for name in runs}
    roles = len(pairs.validate(model).token_spans(model)[0])
    for _ in range(4):
        for name, run in runs.items():
            seconds, _ = timed(lambda run=run: run(model, pairs, positions="roles", **OPTIONS))
            times[name].append(seconds)
    single = statistics.median(timed(lambda: one_path(hf, image, ids))[0] for _ in range(5))
    n = LAYERS * HEADS * roles
    paths, sweep = (statistics.median(times[name][1:]) for name in runs)
    print(f"{n} paths to text.output: {paths:.2f} s; the sweep of the same heads {sweep:.2f} s")
    print(f"  ratio to the sweep {sweep / paths:.1f}; to one path at a time {single * n / paths:.0f}")


if __name__ == "__main__":
    main()
