"""Layouts of hosted models' inputs: which positions of the language model's row are image, prompt, answer, the rest.

Positions are columns of `input_ids`: padding on the left is special, as are the chat template, the start token, and
what a processor puts around the image. An image's positions are those of its token; where several runs of it belong to
one picture (tiles, lines of tiles), each run is a segment.

A picture of one run has a grid: that of the processor where it gives one (Qwen-VL), else a square, or several where it
lies in tiles (`tiles.py`). A grid is stretched over the picture, or over its tile's part of it, which is so for square
pictures in every family, and for others where the processor does not crop. Behind a Q-Former there is no grid: each
position is a learned query, which may look anywhere.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

from notice_lens.models.hook_names import QFORMER
from notice_lens.models.layout import Layout, Offset, Segment, SegmentKind, Span, without_space
from notice_lens.models.vlm.families import family_of, image_token_id, learned_queries
from notice_lens.models.vlm.inputs import QFORMER_INPUTS, render, text_to_read
from notice_lens.models.vlm.tiles import ImagePart, parts_of

MARK = "\ue000"
"""A prompt that no chat template holds, nor changes, which shows where prompts stand in it."""


def layout_of_inputs(
    processor: Any,
    config: Any,
    inputs: Mapping[str, Any],
    prompts: Sequence[str] | None = None,
    *,
    coded: bool = False,
) -> Layout:
    """Return the layout of prepared inputs.

    Args:
        processor: Hugging Face's; needed where prompts are given.
        config: The model's config.
        inputs: What `prepare` gives.
        prompts: The prompts' strings, before the chat template. Without them all words are special positions.
        coded: Whether pictures are those of `tiles.coordinates`, so that it can be seen where tiles lie.

    Raises:
        ValueError: The prompts are not those of the inputs.
    """
    ids: Tensor = inputs["input_ids"]
    rows = [row.tolist() for row in ids]
    prompts = [prompts] * len(rows) if isinstance(prompts, str) else prompts
    if prompts is not None and len(prompts) != len(rows):
        raise ValueError(f"{len(prompts)} prompts for inputs of {len(rows)} examples: expected as many")
    offsets: list[tuple[Offset, ...]] | None = None
    ends = [len(row) for row in rows]
    if prompts is not None:
        found = [_words(processor, config, row, prompt) for row, prompt in zip(rows, prompts, strict=True)]
        offsets, ends = [own for own, _ in found], [end for _, end in found]
    tokenizer = None if prompts is None else getattr(processor, "qformer_tokenizer", None)
    between = {QFORMER: _of_qformer(config, inputs, tokenizer)} if learned_queries(config) else {}
    mask = inputs.get("attention_mask")
    starts = [0] * len(rows) if mask is None else mask.long().argmax(-1).tolist()
    return Layout(
        {
            **between,
            "language": [
                _segments(config, inputs, number, row, offsets, ends[number], coded) for number, row in enumerate(rows)
            ],
        },
        read_out=tuple(end - 1 for end in ends),
        prompt_stack="language",
        roles=tuple(_roles(config, row, start, end) for row, start, end in zip(rows, starts, ends, strict=True)),
        prompts=None if prompts is None else tuple(prompts),
        offsets=None if offsets is None else tuple(offsets),
    )


def _words(processor: Any, config: Any, row: list[int], prompt: str) -> tuple[tuple[Offset, ...], int]:
    """Return the positions of the prompt's characters in a row of token ids, and of the answer's start.

    The rendered prompt is read by the tokenizer as it stands, in context; after the image, its tokens are the row's.
    """
    rendered = _as_read(processor, config, prompt)
    # Where the prompt stands is asked with another one: its words may be the template's too, as in "assistant".
    first, lead = _as_read(processor, config, MARK).index(MARK), len(prompt) - len(prompt.lstrip())
    if not rendered.startswith(prompt, first):  # Gemma's template leaves out the space around a prompt
        first -= lead
    if not rendered.startswith(prompt.strip(), first + lead):
        raise ValueError(
            f"the chat template changes the prompt {prompt!r}, so its words cannot be found in {rendered!r}"
        )
    encoded = processor.tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
    tokens = encoded["input_ids"]
    spans = [without_space(rendered, *span) for span in encoded["offset_mapping"]]
    end = first + len(prompt.rstrip())
    visible = [n for n, (start, stop) in enumerate(spans) if first < stop and start < min(stop, end)]
    tail = tokens[visible[0] :] if visible else []
    begin = next((at for at in range(len(row) - len(tail), -1, -1) if row[at : at + len(tail)] == tail), None)
    if not visible or begin is None:
        raise ValueError(f"{prompt!r} is not the prompt of these inputs: its words are not found in their order")
    placed = tuple(
        (begin + n - visible[0], max(spans[n][0] - first, 0), min(spans[n][1] - first, len(prompt)))
        for n in range(visible[0], visible[-1] + 1)
    )
    return placed, begin + len(tail)


def _as_read(processor: Any, config: Any, prompt: str) -> str:
    """Return the rendered prompt as the processor gives it to the tokenizer, apart from the image's own tokens."""
    family = family_of(config)
    rendered = render(processor, prompt, family.plain_prompt)
    if rendered == prompt:
        raise ValueError(f"{prompt!r} is rendered already: a layout is of the prompt before the chat template")
    if family.image_in_front:
        return text_to_read(processor, family, rendered)
    if family.read_as:
        return family.read_as.format(start=processor.tokenizer.bos_token, prompt=prompt)
    # Gemma 3's processor puts empty lines around the image, which the first word's token depends on.
    around = getattr(processor, "full_image_sequence", None)
    return rendered if around is None else rendered.replace(processor.boi_token, around)


def _segments(
    config: Any,
    inputs: Mapping[str, Any],
    number: int,
    row: list[int],
    offsets: list[tuple[Offset, ...]] | None,
    end: int,
    coded: bool,
) -> tuple[Segment, ...]:
    token = image_token_id(config)
    words = set() if offsets is None else {position for position, _, _ in offsets[number]}
    kinds: list[SegmentKind] = [
        "answer" if at >= end else "prompt" if at in words else "image" if found == token else "special"
        for at, found in enumerate(row)
    ]
    cuts = [0, *(at for at in range(1, len(kinds)) if kinds[at] != kinds[at - 1]), len(kinds)]
    runs: list[tuple[SegmentKind, int, int]] = [(kinds[start], start, stop) for start, stop in pairwise(cuts)]
    images = [stop - start for kind, start, stop in runs if kind == "image"]
    grid = _grid(config, inputs, number, images[0]) if len(images) == 1 else None
    parts = None if grid else parts_of(config, inputs, number, sum(images), coded)
    if parts is None:
        return tuple(Segment(kind, start, stop, grid if kind == "image" else None) for kind, start, stop in runs)
    return tuple(_in_parts(runs, parts))


def _of_qformer(config: Any, inputs: Mapping[str, Any], tokenizer: Any) -> list[tuple[Segment, ...]]:
    """Return the segments of a Q-Former: its learned queries, which lie on no grid, then the question it reads, if any.

    Args:
        config: The model's config.
        inputs: What `prepare` gives.
        tokenizer: The Q-Former's own; None leaves all words special.
    """
    n, examples = learned_queries(config), len(inputs["input_ids"])
    queries = Segment("image", 0, n)
    if QFORMER_INPUTS[0] not in inputs:
        return [(queries,)] * examples
    special = None if tokenizer is None else set(tokenizer.all_special_ids)
    found = []
    for row, mask in zip(*(inputs[name].tolist() for name in QFORMER_INPUTS), strict=True):
        words = row[: sum(mask)]  # padding follows the words
        kinds: list[SegmentKind] = ["special" if special is None or token in special else "prompt" for token in words]
        cuts = [0, *(at for at in range(1, len(kinds)) if kinds[at] != kinds[at - 1]), len(kinds)]
        runs = (Segment(kinds[start], n + start, n + stop) for start, stop in pairwise(cuts) if start < stop)
        found.append((queries, *runs))
    return found


def _in_parts(runs: Sequence[tuple[SegmentKind, int, int]], parts: Sequence[ImagePart]) -> Iterator[Segment]:
    """Yield segments: runs of other kinds as they are, and those of the image cut into its parts."""
    waiting = iter(parts)
    for kind, start, stop in runs:
        while kind == "image" and start < stop:
            part = next(waiting)
            yield Segment("image" if part.grid else "special", start, start + part.length, part.grid, part.area)
            start += part.length
        if start < stop:
            yield Segment(kind, start, stop)


def _grid(config: Any, inputs: Mapping[str, Any], number: int, n: int) -> tuple[int, int] | None:
    """Rows and columns of a picture of `n` positions in one run; None where it has tiles."""
    if "image_grid_thw" in inputs and len(inputs["image_grid_thw"]) == len(inputs["input_ids"]):
        merge = config.vision_config.spatial_merge_size
        _, height, width = inputs["image_grid_thw"][number].tolist()
        return height // merge, width // merge
    if learned_queries(config):
        return None
    side = round(n**0.5)
    return (side, side) if side * side == n and "image_sizes" not in inputs else None


def _roles(config: Any, row: list[int], start: int, end: int) -> dict[str, Span]:
    """The positions that every prompt has, by name."""
    token = image_token_id(config)
    if family_of(config).image_in_front:  # the start token comes after the image
        start = next(at for at in range(start, end) if row[at] != token)
    roles: dict[str, Span] = {"bos": (start, start + 1), "last": (end - 1, end)}
    if token in row:
        roles["image"] = row.index(token), len(row) - row[::-1].index(token)
    return roles
