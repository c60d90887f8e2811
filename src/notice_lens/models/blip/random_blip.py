"""BLIP checkpoints with random weights: tiny ones for tests and demos, and the size of `blip-vqa-base` for timing.

Hugging Face's own initialisation will not do. The vision stack's weights start at 1e-10, so the image changes nothing;
and with plain random weights a deep post-LayerNorm text stack forgets its positions, so that a patch at the wrong
token passes. Here weights have a real size, what each block of a text stack adds is scaled down and its attention is
sharpened, so that positions and image both reach the answer.
"""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from notice_lens.models.blip.config import STACKS_BY_CLASS, Kind

if TYPE_CHECKING:
    from notice_lens.models.blip.hooked_blip import HookedBLIP

ModelSize = Literal["tiny", "base"]

WORDS = """a above an angry animal apple are at baby bad ball banana beach bear bed below big bird black blue boat book
box boy brown bus cake can car cat chair child circle clock cloud color cow cup day dirty dog door dress dry ear eating
eye face fear feeling field fish flower food fork from full girl glass good grass gray green ground hair half hand happy
has hat head holding horse house how image in inside is it jumping kite large left light line long looking man many
moving mouth near neutral new night no not of old on one open or orange over park person phone photo picture pink plate
playing purple rainy red right ripe road room round running sad scared scene sea sheep shirt shoe short sign sitting
sky sleeping small smiling snow square standing star street striped sun surprise table tall the there this three tie to
train tree triangle truck two umbrella under walking wall water wearing wet what where white who window with woman wood
yellow yes young zebra""".split()
"""Words of the tiny vocabulary; other words fall into single letters."""


def tiny_vocabulary() -> list[str]:
    """Word pieces of the tiny tokenizer: special tokens, words, letters and digits to begin and to go on with."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = [*letters, *("##" + letter for letter in letters), *"?!.,:;'-()"]
    return [*("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), *pieces, *(word for word in WORDS if len(word) > 1)]


def processor(vocabulary: list[str] | str | PathLike[str] | None = None, image_size: int = 64) -> Any:
    """A `BlipProcessor` with a WordPiece vocabulary, to which `[DEC]` and `[ENC]` are added.

    Args:
        vocabulary: Word pieces in order, or a file with one a line; None takes the tiny one.
        image_size: What images are resized to, in pixels.
    """
    from transformers import BertTokenizer, BlipImageProcessorPil, BlipProcessor

    vocabulary = tiny_vocabulary() if vocabulary is None else vocabulary
    if not isinstance(vocabulary, list):
        vocabulary = Path(vocabulary).read_text(encoding="utf-8").splitlines()
    tokenizer = BertTokenizer(vocab={piece: index for index, piece in enumerate(vocabulary)})
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.add_tokens(["[ENC]"], special_tokens=True)
    return BlipProcessor(BlipImageProcessorPil(size={"height": image_size, "width": image_size}), tokenizer)


def random_hf(
    kind: Kind = "vqa",
    size: ModelSize = "tiny",
    *,
    seed: int = 0,
    tokenizer: Any = None,
    text: Mapping[str, Any] | None = None,
    vision: Mapping[str, Any] | None = None,
) -> Any:
    """A Hugging Face BLIP with random weights of a real size.

    Args:
        kind: `vqa`, `caption` or `match`.
        size: `tiny` (3 + 4 layers of 6 heads, 64-pixel images, 16 patches) or `base` (`blip-vqa-base`, 361 M weights).
        seed: Of the weights.
        tokenizer: Whose vocabulary size and special tokens it has; None has BERT's with `[DEC]` and `[ENC]`.
        text: Fields of the text config to set otherwise.
        vision: Fields of the vision config to set otherwise.
    """
    import transformers

    hf_class = next(name for name, (of_kind, _) in STACKS_BY_CLASS.items() if of_kind == kind)
    model = getattr(transformers, hf_class)(_config(size, tokenizer, text or {}, vision or {})).eval()
    fill_with_random_weights(model, {"tiny": 0.12, "base": 0.04}[size], seed)
    return model


def _config(size: ModelSize, tokenizer: Any, text: Mapping[str, Any], vision: Mapping[str, Any]) -> Any:
    from transformers import BlipConfig

    vocabulary: dict[str, Any] = {}
    if tokenizer is not None:
        vocabulary = {
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "sep_token_id": tokenizer.sep_token_id,
        }
    if size == "base":
        return BlipConfig(
            text_config={"num_attention_heads": 12, **vocabulary, **text}, vision_config={"image_size": 384, **vision}
        )
    width = {"hidden_size": 96, "num_attention_heads": 6, "intermediate_size": 192, "projection_dim": 64}
    return BlipConfig(
        text_config={**width, "num_hidden_layers": 4, "max_position_embeddings": 64, **vocabulary, **text},
        vision_config={**width, "num_hidden_layers": 3, "image_size": 64, "patch_size": 16, **vision},
        image_text_hidden_size=64,
    )


@torch.no_grad()
def fill_with_random_weights(model: Any, std: float, seed: int) -> None:
    """Weights for which image and positions both matter to the end (see the module's docstring)."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            parameter.normal_(0, std, generator=generator)
        elif name.endswith("bias"):
            parameter.normal_(0, 0.05, generator=generator)
        else:
            parameter.normal_(1, 0.1, generator=generator)
        if name.startswith("text_") and name.endswith("output.dense.weight"):
            parameter.mul_(0.25)
        if name.startswith("text_") and name.endswith(("query.weight", "key.weight")):
            parameter.mul_(2)
    model.tie_weights()


def random_blip(kind: Kind = "vqa", size: ModelSize = "tiny", *, seed: int = 0) -> "HookedBLIP":
    """A `HookedBLIP` with random weights and a small vocabulary, for trying things out; its answers mean nothing.

    Args:
        kind: `vqa`, `caption` or `match`.
        size: `tiny` or `base`.
        seed: Of the weights.
    """
    from notice_lens.models.blip.hooked_blip import HookedBLIP

    processing = processor(image_size={"tiny": 64, "base": 384}[size])
    return HookedBLIP.from_hf(random_hf(kind, size, seed=seed, tokenizer=processing.tokenizer), processing)


def save_random_checkpoint(
    folder: str | PathLike[str], kind: Kind = "vqa", size: ModelSize = "tiny", seed: int = 0
) -> Path:
    """Write a random model in Hugging Face's format, with its processor, and return the folder."""
    folder = Path(folder)
    processing = processor(image_size={"tiny": 64, "base": 384}[size])
    random_hf(kind, size, seed=seed, tokenizer=processing.tokenizer).save_pretrained(folder)
    processing.save_pretrained(folder)
    return folder
