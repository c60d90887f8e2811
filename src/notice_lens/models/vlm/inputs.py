"""From pictures and prompts to what a model takes, through its own processor and chat template.

What comes out is Hugging Face's mapping of tensors. Pictures are read as everywhere here (`notice_lens.images`); each
prompt has one. A prompt that holds the image's token already is taken as it stands, without the chat template.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from notice_lens.images import ImageLike, to_rgb
from notice_lens.models.vlm.families import Family, family_of, image_token_id

QFORMER_INPUTS = ("qformer_input_ids", "qformer_attention_mask")
"""Inputs that are the question as a Q-Former's own tokenizer reads it."""


def prepare(
    processor: Any,
    config: Any,
    images: ImageLike | Sequence[ImageLike],
    prompts: str | Iterable[str],
    answers: str | Iterable[str] | None = None,
    *,
    image_size: int | tuple[int, int] | None = None,
    allow_unequal: bool = False,
) -> Any:
    """Return the processor's tensors of pictures and prompts.

    Args:
        processor: Hugging Face's processor.
        config: The model's config.
        images: One or many; see `notice_lens.images.to_rgb`.
        prompts: One or many. A single prompt is used for all pictures, and a single picture for all prompts.
        answers: Written after the rendered prompts; see `with_answer`.
        image_size: Side, or (height, width), in pixels, to which pictures are resized first.
        allow_unequal: Whether pictures may have unequal numbers of image tokens.

    Raises:
        ValueError: The numbers of pictures, prompts and answers differ; a picture cannot be read or is an address;
            there is no picture; a prompt has no place for one; the numbers of image tokens differ.
        TypeError: Arguments are of another type, or in another order.
    """
    pictures = read_pictures(images, image_size)
    texts = _texts("prompts", prompts)
    said = None if answers is None else _texts("answers", answers)
    columns: dict[str, list[Any]] = {"pictures": pictures, "prompts": texts}
    if said is not None:
        columns["answers"] = said
    n = max(map(len, columns.values()))
    if any(len(column) not in (1, n) for column in columns.values()):
        numbers = ", ".join(f"{len(column)} {name}" for name, column in columns.items())
        raise ValueError(f"numbers differ: {numbers}; expected as many of each, or a single one for all")
    pictures, texts, *rest = (column if len(column) == n else column * n for column in columns.values())
    family = family_of(config)
    rendered = [render(processor, text, family.plain_prompt) for text in texts]
    questions, more = rendered, dict[str, Any]()
    if rest and family.answer_argument:
        more[family.answer_argument] = list(rest[0])
    elif rest:
        rendered = [
            with_answer(processor.tokenizer, prompt, answer)[0]
            for prompt, answer in zip(rendered, rest[0], strict=True)
        ]
    inputs = _processed(processor, family, rendered, pictures, more)
    if rendered is not questions and any(name in inputs for name in QFORMER_INPUTS):
        # A Q-Former reads the question to look at the image, and must not see the answer.
        of_questions = _processed(processor, family, questions, None, {})
        inputs.update({name: of_questions[name] for name in QFORMER_INPUTS})
    inputs.pop("labels", None)  # PaliGemma's processor gives them for training
    if not allow_unequal:
        check_equal_counts(config, inputs["input_ids"], [picture.size for picture in pictures])
    return inputs


def _processed(
    processor: Any, family: Family, rendered: Sequence[str], pictures: Sequence[Any] | None, more: Mapping[str, Any]
) -> Any:
    """Return the processor's tensors of rendered prompts, padded on the left."""
    texts = [text_to_read(processor, family, text) for text in rendered]
    with _padding_left(processor.tokenizer):
        inputs = processor(
            text=texts,
            **({} if pictures is None else {"images": [[picture] for picture in pictures]}),
            return_tensors="pt",
            **({"padding": True} if len(texts) > 1 else {}),
            **({"add_special_tokens": False} if _has_start(processor, texts[0]) else {}),
            **more,
        )
    if family.image_in_front and len(texts) > 1:
        # The processor pads between image and words, which would lie that much further apart.
        _move_padding(inputs, ("input_ids", "attention_mask"), to_end=False)
    if QFORMER_INPUTS[0] in inputs:
        # A Q-Former counts positions from its first token, also where the processor pads in front of it.
        _move_padding(inputs, QFORMER_INPUTS, to_end=True)
    return inputs


def text_to_read(processor: Any, family: Family, rendered: str) -> str:
    """Return the text of a rendered prompt that the processor is given: without the image's token if it adds that."""
    token = image_token(processor)
    return rendered.replace(token, "", 1) if family.image_in_front and token is not None else rendered


def _move_padding(inputs: Any, names: tuple[str, str], to_end: bool) -> None:
    """Put all padding of each row at its start or end: of token ids and their mask, by name."""
    order = inputs[names[1]].argsort(dim=-1, stable=True, descending=to_end)
    inputs.update({name: inputs[name].gather(-1, order) for name in names})


def read_pictures(images: ImageLike | Sequence[ImageLike], image_size: int | tuple[int, int] | None) -> list[Any]:
    """Return pictures as RGB, resized where a size is given.

    Raises:
        ValueError: There are no pictures, one is an address on the web, or one cannot be read.
    """
    several = isinstance(images, Sequence) and not isinstance(images, str | bytes)
    given: list[Any] = list(images) if several else [images]  # pyright: ignore[reportArgumentType]
    if not given or any(image is None for image in given):
        raise ValueError(
            "no picture: this is a vision-language model, and a prompt without one says nothing about how it sees; for "
            "text alone, run the tokenizer's output: model(model.tokenizer(text, return_tensors='pt'))"
        )
    pictures = []
    for number, image in enumerate(given):
        if isinstance(image, str) and image.startswith(("http://", "https://")):
            raise ValueError(
                f"{image} is an address, and nothing is fetched here: download it once, and give the file's path or "
                "its bytes (requests.get(address).content)"
            )
        try:
            picture = to_rgb(image)
        except ValueError as error:
            which = f"picture {number} of {len(given)}" if several else "the picture"
            raise ValueError(f"{which} cannot be read: {error}") from error
        pictures.append(_resized(picture, image_size))
    return pictures


def _resized(picture: Image.Image, size: int | tuple[int, int] | None) -> Image.Image:
    if size is None:
        return picture
    height, width = (size, size) if isinstance(size, int) else size
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def _texts(what: str, given: str | Iterable[str]) -> list[str]:
    if isinstance(given, str):
        return [given]
    if not isinstance(given, Iterable) or isinstance(given, Mapping):
        raise TypeError(
            f"expected {what} as text, got {type(given).__name__}; pictures come first: "
            "model.prepare(picture, 'is it red?')"
        )
    texts = list(given)
    if any(not isinstance(text, str) for text in texts) or not texts:
        raise TypeError(f"expected {what} as one text or several, got {texts[:3]}")
    return texts


def image_token(processor: Any) -> str | None:
    """Return the token that stands for a picture in a prompt; None where the processor does not say."""
    for name in ("boi_token", "image_token"):
        token = getattr(processor, name, None)
        token = getattr(token, "content", token)  # an AddedToken in BLIP-2's processor
        if isinstance(token, str):
            return token
    return None


def render(processor: Any, prompt: str, plain: str = "") -> str:
    """Return the prompt in the model's chat format, with a place for one picture and ready for the answer.

    Args:
        processor: Hugging Face's processor.
        prompt: A question, or all that the model is to read, image token included.
        plain: The format of a family that has no chat: `{image}{prompt}`.

    Raises:
        ValueError: The model has no chat template, and the prompt no place for a picture.
    """
    token = image_token(processor)
    if token is not None and token in prompt:
        return prompt
    if not getattr(processor, "chat_template", None):
        shown = f"{token or ''}{prompt}"
        if plain:
            return plain.format(image=token, prompt=prompt)
        raise ValueError(
            f"the prompt {prompt!r} has no image token, and the processor has no chat template that would put one "
            f"there: write it yourself, for instance {shown!r}"
        )
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )


def with_answer(tokenizer: Any, rendered: str, answer: str) -> tuple[str, list[int]]:
    """Return a rendered prompt followed by an answer, as the model would write it, and the answer's tokens.

    After `ASSISTANT:` a model writes ` red`, with a space, whose token is another one than that of `red`; after the
    end of a line, `red`. An answer that begins with a space is taken as it is.

    Args:
        tokenizer: Hugging Face's.
        rendered: The prompt, ready for the answer.
        answer: The answer.

    Raises:
        ValueError: The answer's first letters are merged into the prompt's last token, with a space between and
            without.
    """
    before = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    spaced = rendered[-1:].isspace() or answer[:1].isspace()
    for text in (answer, f" {answer}") if spaced else (f" {answer}",):
        ids = tokenizer(rendered + text, add_special_tokens=False)["input_ids"]
        if ids[: len(before)] == before:
            return rendered + text, ids[len(before) :]
    raise ValueError(
        f"{answer!r} merges with the text before it, {rendered[-20:]!r}: the model reads other tokens there with "
        "the answer than without; end the prompt differently"
    )


@contextmanager
def _padding_left(tokenizer: Any) -> Iterator[None]:
    """Let a tokenizer pad on the left, so that the last position of every row is the one that the answer follows."""
    side = tokenizer.padding_side
    tokenizer.padding_side = "left"
    try:
        yield
    finally:
        tokenizer.padding_side = side


def _has_start(processor: Any, rendered: str) -> bool:
    """Return whether the rendered prompt begins with the start token, which must not be added again."""
    start = processor.tokenizer.bos_token
    return bool(start) and rendered.startswith(start)


def image_token_counts(config: Any, input_ids: Tensor) -> list[int]:
    """Return the number of image tokens of each prompt."""
    token = image_token_id(config)
    return [] if token is None else (input_ids == token).sum(-1).tolist()


def check_equal_counts(config: Any, input_ids: Tensor, sizes: Sequence[tuple[int, int]]) -> None:
    """Raise ValueError if a prompt has no image token, or if their numbers differ.

    Args:
        config: The model's config.
        input_ids: [batch, pos].
        sizes: (width, height) of each picture.
    """
    counts = image_token_counts(config, input_ids)
    if 0 in counts:
        raise ValueError(f"prompt {counts.index(0)} has no image token after the processor: its picture has no place")
    if len(set(counts)) > 1:
        other = next(row for row, count in enumerate(counts) if count != counts[0])
        raise ValueError(
            f"pictures of unequal size have unequal numbers of image tokens: {counts[0]} for {_size(sizes[0])} and "
            f"{counts[other]} for {_size(sizes[other])}, so their positions do not correspond. Resize them first "
            "(image_size=336), or say allow_unequal=True"
        )


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} pixels"


def on_device(inputs: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> Any:
    """Return the inputs on a device, pictures in the model's dtype."""
    moved = {}
    for name, value in inputs.items():
        if isinstance(value, Tensor):
            value = value.to(device, dtype) if value.is_floating_point() else value.to(device)
        moved[name] = value
    return type(inputs)(moved)  # pyright: ignore[reportCallIssue]
