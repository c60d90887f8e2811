"""From pictures and strings to the tensors that BLIP reads.

Which logit predicts which token:

- question answering: the decoder reads `answer_ids`, `[DEC]` and then the answer's pieces; `logits[:, i]` predicts
  piece i of the answer, and after the last piece `[SEP]`. Without answers it reads `[DEC]` alone: one position.
- captions: the decoder reads `input_ids`, `[DEC]`, the prompt's pieces and then the answer's; `logits[:, i]` predicts
  the token at i + 1.

`target_ids` says it position by position, wherever answers are given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from os import PathLike
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from notice_lens.arguments import as_list
from notice_lens.images import ImageLike, to_rgb
from notice_lens.models.blip.config import BLIPConfig

_ROUNDING = 0.02
"""The most that values of half precision lie beyond those of black and white."""
IGNORED = -100
"""In `target_ids`, a position that predicts nothing of the answer; cross-entropy ignores it by default."""


@dataclass(frozen=True)
class BLIPInputs:
    """The tensors that a `HookedBLIP` runs on.

    Attributes:
        pixel_values: Preprocessed images.
        input_ids: The question; for captions `[DEC]`, the prompt and the answer.
        attention_mask: 1 at real tokens, 0 at padding, which `check` moves after them; None if nothing is padded.
        answer_ids: The answer decoder's tokens: `[DEC]` and the answer's pieces (question answering only).
        target_ids: The token that each of the decoder's logits has to predict; -100 where none.
        interpolate_pos_encoding: Whether to stretch position embeddings to images of another size.
    """

    pixel_values: Float[Tensor, "batch 3 height width"]
    input_ids: Int[Tensor, "batch pos"] | None = None
    attention_mask: Int[Tensor, "batch pos"] | None = None
    answer_ids: Int[Tensor, "batch answer_pos"] | None = None
    target_ids: Int[Tensor, "batch answer_pos"] | None = None
    interpolate_pos_encoding: bool = False

    @classmethod
    def of(cls, inputs: Any) -> "BLIPInputs":
        """Return the inputs, from an object of this class or from the output of a Hugging Face processor.

        Raises:
            TypeError: It is neither, or has keys that are not known.
        """
        if isinstance(inputs, BLIPInputs):
            return inputs
        known = {field.name for field in fields(cls)}
        keys = list(inputs) if isinstance(inputs, Mapping) else []
        if "pixel_values" not in keys or not known.issuperset(keys):
            got = f"the keys {', '.join(map(str, keys))}" if keys else f"a {type(inputs).__name__}"
            raise TypeError(
                "inputs come from model.prepare(images, questions), or are a mapping with pixel_values and any of "
                f"{', '.join(sorted(known - {'pixel_values'}))}; got {got}"
            )
        return cls(**inputs)

    def __len__(self) -> int:
        return len(self.pixel_values)

    def __repr__(self) -> str:
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        kept = (
            f"{name} {list(value.shape)} {str(value.dtype).removeprefix('torch.')}" for name, value in tensors.items()
        )
        stretched = "; position embeddings are stretched" if self.interpolate_pos_encoding else ""
        return f"BLIPInputs of {len(self)} on {self.pixel_values.device}: {', '.join(kept)}{stretched}"

    def to(self, device: torch.device | str) -> "BLIPInputs":
        """Return these inputs on another device."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        if all(tensor.device == torch.device(device) for tensor in tensors.values()):
            return self
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})

    def ordinary(self) -> "BLIPInputs":
        """The inputs with tensors that autograd accepts: those made in inference mode are copied."""
        made_there = {name: x for name, x in vars(self).items() if isinstance(x, Tensor) and x.is_inference()}
        with torch.inference_mode(False):
            return replace(self, **{name: tensor.clone() for name, tensor in made_there.items()})

    def take(self, rows: Int[Tensor, " rows"]) -> "BLIPInputs":
        """The inputs of some of the examples."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **{name: tensor[rows.to(tensor.device)] for name, tensor in tensors.items()})

    def check(self, cfg: BLIPConfig) -> "BLIPInputs":
        """Return the inputs with padding on the right, which is where positions are counted as the model does.

        Raises:
            TypeError: A field is not a tensor.
            ValueError: This model cannot run on them; the message says why.
        """
        for field in fields(self)[:-1]:
            _check_tensor(field.name, getattr(self, field.name))
        if cfg.kind != "caption" and self.input_ids is None:
            raise ValueError(f"a model of kind {cfg.kind!r} reads a text as well: input_ids are missing")
        if cfg.kind != "vqa" and self.answer_ids is not None:
            raise ValueError(f"answer_ids are for question answering; a model of kind {cfg.kind!r} reads none")
        rows = {name: len(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        if len(set(rows.values())) > 1:
            raise ValueError(f"inputs of unequal batch size: {rows}")
        if self.answer_ids is not None and bool(_before_real(self.answer_ids != cfg.pad_token_id).any()):
            raise ValueError("answer_ids have padding before or between tokens; expected it after the last one")
        return self._padded_right(cfg) if self.input_ids is not None else self

    def _padded_right(self, cfg: BLIPConfig) -> "BLIPInputs":
        """Return the inputs with the padding of each row after its last token.

        Positions count from the first one, so padding before a token would move all that follows.

        Raises:
            ValueError: The mask hides words, padding has no mask, or a caption's rows, to whose positions logits and
                `target_ids` belong, would have to be moved.
        """
        ids, mask = torch.as_tensor(self.input_ids), self.attention_mask
        padding = ids == cfg.pad_token_id
        if mask is None:
            if bool(padding.any()):
                raise ValueError(
                    "input_ids hold padding, and attention_mask is missing: it is 1 at tokens, 0 at padding"
                )
            return self
        if mask.shape != ids.shape:
            raise ValueError(f"attention_mask is {list(mask.shape)}, input_ids are {list(ids.shape)}")
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError(f"attention_mask is 1 at tokens and 0 at padding; got values {mask.unique().tolist()}")
        real = mask.bool()
        if not bool(real.any(-1).all()):
            raise ValueError("attention_mask has a row without a single real token")
        before = _before_real(real)
        if not bool(before.any()):
            return self
        hidden = (before & ~padding).nonzero()
        if len(hidden):
            raise ValueError(
                f"attention_mask hides a token that is not padding and comes before others (row {hidden[0, 0]}, "
                f"position {hidden[0, 1]}); leave it out of the row, or take its attention away with hooks"
            )
        if cfg.kind == "caption":
            raise ValueError(
                "attention_mask has padding before or between the tokens of a caption, to whose positions the logits "
                "belong; pad on the right: tokenizer.padding_side = 'right'"
            )
        order = (~real).to(torch.uint8).argsort(dim=-1, stable=True)
        return replace(self, input_ids=ids.gather(-1, order), attention_mask=mask.gather(-1, order))


def _before_real(real: Bool[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    """Return the positions that are not real and stand before one that is."""
    return ~real & (real.flip(-1).cumsum(-1).flip(-1) > 0)


def to_pixel_values(
    images: ImageLike | Sequence[ImageLike] | Mapping[str, Tensor],
    image_processor: Any,
    image_size: int | tuple[int, int] | None = None,
) -> Float[Tensor, "batch 3 height width"]:
    """Return preprocessed images, one or many.

    Everything that `pictures.to_rgb` reads is resized and normalised: a PIL image, a path, the bytes of a file, a NumPy
    array (height x width x 3, or height x width; uint8, uint16, or floats from 0 to 1) or a uint8 tensor
    (3 x height x width). Images that are preprocessed already are given as `{"pixel_values": tensor}`, as an image
    processor returns them. A floating tensor without that name is taken for preprocessed only where its values and its
    size can be nothing else.

    Args:
        images: One image, or a sequence or batch of them; or a mapping with `pixel_values` alone.
        image_processor: Hugging Face's processor.
        image_size: (height, width) or side in pixels, instead of the processor's own size.

    Raises:
        ValueError: An image cannot be read, or may be preprocessed or not; the message names it.
    """
    if images is None:
        raise ValueError("no images given")
    if isinstance(images, Mapping):
        return _named_pixels(images, image_size)
    if isinstance(images, Tensor) and images.is_floating_point() and images.ndim == 4:
        images = list(images)
    single = isinstance(images, str | PathLike | bytes | Image.Image)
    one_array = isinstance(images, np.ndarray | Tensor) and images.ndim in (2, 3)
    several: list[Any] = [images] if single or one_array else as_list("images", images)
    if not several:
        raise ValueError("no images given")
    preprocessed = [isinstance(image, Tensor) and image.is_floating_point() for image in several]
    if any(preprocessed):
        stacked = _stack_preprocessed(several, all(preprocessed) and image_size is None)
        _check_preprocessed(stacked, image_processor)
        return stacked
    pictures = [_to_picture(image, index) for index, image in enumerate(several)]
    size = {}
    if image_size is not None:
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        size = {"size": {"height": height, "width": width}}
    return image_processor(images=pictures, return_tensors="pt", **size)["pixel_values"]


def _named_pixels(images: Mapping[str, Any], image_size: Any) -> Float[Tensor, "batch 3 height width"]:
    """Return the tensor of a mapping with `pixel_values`, which says itself that it is preprocessed."""
    if list(images) != ["pixel_values"] or image_size is not None:
        raise ValueError(
            "images as a mapping have the key pixel_values alone and no image_size; got the keys "
            f"{', '.join(map(str, images))}, image_size={image_size}. A mapping with words is for model(inputs) itself"
        )
    _check_tensor("pixel_values", images["pixel_values"])
    return images["pixel_values"]


def _stack_preprocessed(images: list[Any], alone: bool) -> Float[Tensor, "batch 3 height width"]:
    """Return floating tensors as one: preprocessed images are not resized, and not mixed with pictures."""
    if not alone:
        raise ValueError(
            "floating tensors are taken as preprocessed images, so they go neither with pictures nor with image_size; "
            "give uint8 tensors or PIL images to have them resized and normalised"
        )
    shapes = {tuple(image.shape) for image in images}
    shape = next(iter(shapes))
    if len(shapes) > 1 or len(shape) != 3 or shape[0] != 3:
        raise ValueError(f"preprocessed images are 3 x height x width, all of one size; got {sorted(shapes)}")
    return torch.stack(images)


def _check_preprocessed(images: Float[Tensor, "batch 3 height width"], image_processor: Any) -> None:
    """Raise ValueError if floating tensors may be pictures, or are preprocessed for another model.

    Normalised images have values below 0, none beyond those of black and white, and some that neither a picture from 0
    to 1 nor one from -1 to 1 has.
    """
    mean, std = torch.zeros(1), torch.ones(1)
    if image_processor.do_normalize:
        mean, std = torch.tensor(image_processor.image_mean), torch.tensor(image_processor.image_std)
    darkest, brightest = (-mean / std).min().item(), ((1 - mean) / std).max().item()
    expected = [image_processor.size.get("height"), image_processor.size.get("width")]
    for index, image in enumerate(images):
        low, high = image.min().item(), image.max().item()
        inside = darkest - _ROUNDING <= low and high <= brightest + _ROUNDING
        # The model's own range may be that of -1 to 1.
        telling = low < 0 and (low < -1 - _ROUNDING or high > 1 + _ROUNDING or darkest >= -1 - _ROUNDING)
        if not (inside and telling and list(image.shape[1:]) == expected):
            raise ValueError(
                f"image {index} is a floating tensor {list(image.shape)} with values from {low:.3g} to {high:.3g}: a "
                f"picture, or preprocessed? Preprocessed would be [3, {expected[0]}, {expected[1]}], with values "
                f"between {darkest:.3g} and {brightest:.3g}, some below 0 and some beyond -1 or 1. Give a picture as "
                'uint8, such as (image * 255).round().to(torch.uint8); preprocessed images as {"pixel_values": images}'
            )


def _check_tensor(name: str, value: Any) -> None:
    """Raise if a field of the inputs is not a tensor of the right rank and dtype."""
    if value is None and name != "pixel_values":
        return
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} has to be a tensor, got {type(value).__name__}")
    got = f"got {value.dtype} {list(value.shape)}"
    if name == "pixel_values":
        if value.ndim != 4 or value.shape[1] != 3 or not value.is_floating_point():
            raise ValueError(f"pixel_values are floats, [batch, 3, height, width]; {got}")
    elif value.ndim != 2 or not value.shape[1] or value.is_floating_point():
        raise ValueError(f"{name} are integers, [batch, pos], with a position or more; {got}")


def _to_picture(image: ImageLike, index: int) -> Image.Image:
    """One of several images as a PIL image in RGB; an error says which."""
    try:
        return to_rgb(image)
    except ValueError as error:
        what = image if isinstance(image, str | PathLike) else type(image).__name__
        raise ValueError(f"image {index} ({what}) cannot be read: {error}") from error


def to_common_length(**columns: list | None) -> dict[str, Any]:
    """The columns, a single entry repeated to the length of the others. Raises ValueError if lengths differ."""
    lengths = {name: len(column) for name, column in columns.items() if column is not None}
    n = max(lengths.values())
    if any(length not in (1, n) for length in lengths.values()):
        raise ValueError(
            "numbers differ: "
            + ", ".join(f"{length} {name}" for name, length in lengths.items())
            + "; expected as many of each, or a single one for all"
        )
    return {
        name: column if column is None or len(column) == n else list(column) * n for name, column in columns.items()
    }


def pad(rows: Sequence[Sequence[int]], value: int) -> Int[Tensor, "batch pos"]:
    """Rows of token ids, filled up on the right to the length of the longest."""
    longest = max(map(len, rows))
    return torch.tensor([list(row) + [value] * (longest - len(row)) for row in rows])


def text_inputs(
    cfg: BLIPConfig, tokenizer: Any, questions: list[str], answers: list[str] | None, enc_token_id: int | None = None
) -> dict[str, Tensor | None]:
    """`input_ids`, `attention_mask`, `answer_ids` and `target_ids` of questions (or prompts) and answers.

    Args:
        cfg: The model's.
        tokenizer: Hugging Face's.
        questions: Questions, prompts of captions, or texts to match.
        answers: What the decoder is to say, one for each question.
        enc_token_id: What replaces each question's `[CLS]`, as in the original Salesforce code; None leaves it.
    """
    pieces = None
    if answers is not None:
        if cfg.kind == "match":
            raise ValueError("a model of kind 'match' has no decoder, so no answers")
        pieces = tokenizer(answers, add_special_tokens=False)["input_ids"]
    if cfg.kind == "caption":
        prompts = [[cfg.dec_token_id, *ids] for ids in tokenizer(questions, add_special_tokens=False)["input_ids"]]
        return _caption_inputs(cfg, prompts, pieces)
    rows = tokenizer(questions)["input_ids"]
    if enc_token_id is not None:
        rows = [[enc_token_id, *row[1:]] for row in rows]
    read = {
        "input_ids": pad(rows, cfg.pad_token_id),
        "attention_mask": pad([[1] * len(row) for row in rows], 0),
        "answer_ids": None,
        "target_ids": None,
    }
    if pieces is not None:
        read["answer_ids"] = pad([[cfg.dec_token_id, *row] for row in pieces], cfg.pad_token_id)
        read["target_ids"] = pad([[*row, cfg.sep_token_id] for row in pieces], IGNORED)
    return read


def _caption_inputs(cfg: BLIPConfig, prompts: list[list[int]], pieces: list[list[int]] | None) -> dict[str, Any]:
    """A caption's decoder reads prompt and answer in one row; only the answer is to be predicted."""
    rows = [prompt + answer for prompt, answer in zip(prompts, pieces or [[]] * len(prompts), strict=True)]
    targets = None
    if pieces is not None:
        unasked = [[IGNORED] * (len(prompt) - 1) for prompt in prompts]
        targets = pad(
            [skip + answer + [cfg.sep_token_id] for skip, answer in zip(unasked, pieces, strict=True)], IGNORED
        )
    return {
        "input_ids": pad(rows, cfg.pad_token_id),
        "attention_mask": pad([[1] * len(row) for row in rows], 0),
        "answer_ids": None,
        "target_ids": targets,
    }
