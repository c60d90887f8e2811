"""What `notice-lens demo` does: a tiny BLIP, its hook points, a cache, and one patching table, in a report.

The weights are random, so the numbers say nothing about vision-language models; what is shown is the way there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from notice_lens.viz import demo_page
from notice_lens.viz.pictures import data_uri

if TYPE_CHECKING:
    from notice_lens.models import HookedBLIP

QUESTION = "is this circle red or green?"
ANSWERS = ("red", "green")
SHOWN_HOOKS = ("vision.blocks.0.attn.hook_pattern", "text.blocks.2.cross_attn.hook_pattern")
SHOWN_HOOKS += ("text.blocks.2.cross_attn.hook_z", "text.blocks.2.hook_normalized_resid_post", "decoder.hook_embed")


@dataclass(frozen=True)
class Patching:
    """One sweep: the patched share of the gap for each head, and the two unpatched logit differences."""

    share: pd.DataFrame
    clean: float
    corrupt: float


def run_demo(out: Path, say: Callable[[str], None] = lambda text: None) -> Path:
    """Writes the report and its data into a folder. Returns the report's absolute path.

    Args:
        out: The folder; made where it is missing.
        say: Is told what is being done.

    Raises:
        OSError: The folder cannot be written to.
    """
    from notice_lens import HookedBLIP
    from notice_lens.models.random_blip import save_random_checkpoint

    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    say("making a tiny BLIP with random weights ...")
    blip = HookedBLIP.from_pretrained(save_random_checkpoint(out / "model"))
    say(f"{blip!r}\nchecking it ...")
    checks = blip.check()
    say(str(checks))
    images = {"clean": draw_circle("red"), "corrupted": draw_circle("green")}
    text = blip.text.cfg
    say(f"patching {text.n_layers} x {text.n_heads} cross-attention heads ...")
    patching = patch_heads(blip, images)
    hooks, cached = blip.hooks_table(), cached_activations(blip, images["clean"])
    hooks.frame.to_csv(out / "hooks.csv", index=False)
    cached.to_csv(out / "cache.csv", index=False)
    patching.share.to_csv(out / "patching.csv")
    return demo_page.write(
        out / "report.html",
        title="notice-lens demo",
        model=repr(blip),
        checks=checks,
        question=QUESTION,
        images={name: data_uri(image.resize((256, 256))) for name, image in images.items()},
        patching=patching,
        heads=demo_page.figure_html(demo_page.heads(patching.share, title="Patching each cross-attention head")),
        cached=cached,
        hooks=hooks.frame,
        answers=ANSWERS,
    )


def draw_circle(color: str) -> Image.Image:
    """A circle of this colour on grey, 64 pixels wide."""
    image = Image.new("RGB", (64, 64), (190, 190, 185))
    ImageDraw.Draw(image).ellipse((14, 14, 50, 50), fill=color)
    return image


def patch_heads(blip: "HookedBLIP", images: dict[str, Image.Image]) -> Patching:
    """Every cross-attention head of the clean image patched into the run on the corrupted one, by TransformerLens.

    Args:
        blip: The model.
        images: `clean` and `corrupted`.
    """
    from transformer_lens import patching

    correct, incorrect = blip.tokenizer.convert_tokens_to_ids(list(ANSWERS))

    def logit_difference(logits: Tensor) -> Tensor:
        return (logits[:, 0, correct] - logits[:, 0, incorrect]).mean()

    clean = blip.lens("text.cross_attn", blip.prepare(images["clean"], QUESTION))
    corrupt = blip.lens("text.cross_attn", blip.prepare(images["corrupted"], QUESTION))
    with torch.no_grad():
        logits, cache = clean.run_with_cache(clean.tokens)
        patched = patching.get_act_patch_attn_head_out_all_pos(corrupt, corrupt.tokens, cache, logit_difference)
        ends = float(logit_difference(logits)), float(logit_difference(corrupt(corrupt.tokens)))
    share = (patched - ends[1]) / (ends[0] - ends[1])
    layers, heads = (pd.RangeIndex(n, name=name) for n, name in zip(share.shape, ("layer", "head"), strict=True))
    return Patching(pd.DataFrame(share.numpy(), index=layers, columns=heads), *ends)


def cached_activations(blip: "HookedBLIP", image: Image.Image) -> pd.DataFrame:
    """What a few activations look like: name, shape, mean and standard deviation."""
    with torch.no_grad():
        _, cache = blip.run_with_cache(blip.prepare(image, QUESTION), names_filter=list(SHOWN_HOOKS))
    rows = [
        {"hook point": name, "shape": str(list(x.shape)), "mean": f"{x.mean():.3f}", "std": f"{x.std():.3f}"}
        for name, x in cache.items()
    ]
    return pd.DataFrame(rows)
