"""BLIP's layouts: where the special tokens stand, and which stack reads what.

| stack | question answering | captions | matching |
| --- | --- | --- | --- |
| vision | class token, patches | the same | the same |
| text | `[CLS]`, prompt, `[SEP]` | | `[CLS]`, prompt, `[SEP]` |
| decoder | `[DEC]`, answer | `[DEC]`, prompt, answer | |
| read-out | decoder: `[DEC]` | decoder: the prompt's last token | text: `[CLS]` |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from notice_lens.models.blip.config import BLIPConfig, Kind
from notice_lens.models.blip.inputs import BLIPInputs
from notice_lens.models.layout import Layout, Offset, Segment, SegmentKind, Span, without_space


class _Lengths(NamedTuple):
    """Tokens of one example: of its prompt and its teacher-forced answer, and whether `[SEP]` closes the prompt."""

    prompt: int
    answer: int = 0
    closed: bool = True


@dataclass(frozen=True)
class BLIPReader:
    """The decisions of BLIP's tokenizer: a `TextReader`, which needs no weights.

    Attributes:
        kind: Of the model, or of the pairs that it is to read.
        tokenizer: Hugging Face's.
        grid: Rows and columns of patches; None where no model is known, so that nothing is known of images.
    """

    kind: Kind
    tokenizer: Any
    grid: tuple[int, int] | None = None

    def answer_ids(self, prompt: str, answer: str) -> list[int]:
        """The tokens of an answer: the same after every prompt, since `[DEC]` or a space stands between."""
        return self.tokenizer(answer, add_special_tokens=False)["input_ids"]

    def layout_of(
        self,
        prompts: Sequence[str],
        answers: Sequence[str] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> Layout:
        """Return the layout of prompts and answers; pictures are resized to one size, so theirs do not matter.

        Args:
            prompts: The prompts.
            answers: The answer to teacher-force after each; None for none. Matching reads none.
            sizes: Ignored.
        """
        offsets = self._offsets(prompts)
        said = [0] * len(prompts) if answers is None else [len(self.answer_ids("", answer)) for answer in answers]
        lengths = [_Lengths(len(own), answer) for own, answer in zip(offsets, said, strict=True)]
        return _layout(self.kind, self.grid, lengths, prompts, offsets)

    def _offsets(self, prompts: Sequence[str]) -> list[tuple[Offset, ...]]:
        """The positions and characters of each prompt's tokens, which follow one special token."""
        if not len(prompts):
            return []
        encoded = self.tokenizer(list(prompts), add_special_tokens=False, return_offsets_mapping=True)
        return [
            tuple((position, *without_space(prompt, *span)) for position, span in enumerate(characters, 1))
            for prompt, characters in zip(prompts, encoded["offset_mapping"], strict=True)
        ]

    def layout_of_inputs(self, cfg: BLIPConfig, inputs: BLIPInputs, prompts: Sequence[str] | None) -> Layout:
        """Return the layout of prepared inputs, read from their tensors.

        Args:
            cfg: Of the model.
            inputs: Checked, with padding on the right.
            prompts: Their strings; without them words cannot be found, and there is no role `?`.

        Raises:
            ValueError: The prompts have other numbers of tokens than the inputs.
        """
        height, width = inputs.pixel_values.shape[-2:]
        grid = height // cfg.patch_size, width // cfg.patch_size
        lengths = _lengths_of_inputs(cfg, inputs)
        offsets = None
        if prompts is not None:
            prompts = [prompts] * len(inputs) if isinstance(prompts, str) else prompts
            offsets = self._offsets(prompts)
            counted, given = [len(own) for own in offsets], [own.prompt for own in lengths]
            if counted != given:
                raise ValueError(f"prompts of {counted} tokens for inputs of {given}: they are not the inputs' prompts")
        return _layout(self.kind, grid, lengths, prompts, offsets)


def _lengths_of_inputs(cfg: BLIPConfig, inputs: BLIPInputs) -> list[_Lengths]:
    """The lengths of each example, from its token ids, its mask and its targets."""
    n = len(inputs)
    if inputs.input_ids is None:
        words = [1] * n  # a caption of `[DEC]` alone
    elif inputs.attention_mask is None:
        words = [inputs.input_ids.shape[1]] * n
    else:
        words = inputs.attention_mask.sum(-1).tolist()
    if cfg.kind == "caption":
        read = words
        if inputs.target_ids is not None:  # the first target is predicted by the prompt's last token
            read = ((inputs.target_ids >= 0).int().argmax(-1) + 1).tolist()
        return [_Lengths(prompt - 1, whole - prompt, False) for prompt, whole in zip(read, words, strict=True)]
    said = [0] * n
    if inputs.answer_ids is not None:
        said = ((inputs.answer_ids != cfg.pad_token_id).sum(-1) - 1).tolist()
    ids = torch.as_tensor(inputs.input_ids)
    closed = [bool(row[count - 1] == cfg.sep_token_id) for row, count in zip(ids, words, strict=True)]
    return [_Lengths(count - 1 - sep, answer, sep) for count, answer, sep in zip(words, said, closed, strict=True)]


def _layout(
    kind: Kind,
    grid: tuple[int, int] | None,
    lengths: Sequence[_Lengths],
    prompts: Sequence[str] | None,
    offsets: Sequence[tuple[Offset, ...]] | None,
) -> Layout:
    stacks: dict[str, list[tuple[Segment, ...]]] = {}
    if grid is not None:
        patches = Segment("image", 1, 1 + grid[0] * grid[1], grid)
        stacks["vision"] = [(Segment("special", 0, 1), patches)] * len(lengths)
    if kind == "caption":
        stacks["decoder"] = [
            _segments(("special", 1), ("prompt", own.prompt), ("answer", own.answer)) for own in lengths
        ]
    else:
        stacks["text"] = [
            _segments(("special", 1), ("prompt", own.prompt), ("special", int(own.closed))) for own in lengths
        ]
    if kind == "vqa":
        stacks["decoder"] = [_segments(("special", 1), ("answer", own.answer)) for own in lengths]
    return Layout(
        stacks,
        read_out=tuple(own.prompt if kind == "caption" else 0 for own in lengths),
        prompt_stack="decoder" if kind == "caption" else "text",
        roles=tuple(
            _roles(kind, own, "" if prompts is None or offsets is None else _last(prompts[number], offsets[number]))
            for number, own in enumerate(lengths)
        ),
        prompts=None if prompts is None else tuple(prompts),
        offsets=None if offsets is None else tuple(offsets),
    )


def _segments(*parts: tuple[SegmentKind, int]) -> tuple[Segment, ...]:
    """Segments of these kinds and lengths, one after the other; empty ones are left out."""
    found, start = [], 0
    for kind, n in parts:
        if n:
            found.append(Segment(kind, start, start + n))
        start += n
    return tuple(found)


def _last(prompt: str, offsets: Sequence[Offset]) -> str:
    """The characters of a prompt's last token."""
    return prompt[slice(*offsets[-1][1:])] if offsets else ""


def _roles(kind: Kind, lengths: _Lengths, last: str) -> Mapping[str, Span]:
    """The positions that every prompt has, by name."""
    roles = {"[DEC]" if kind == "caption" else "[CLS]": (0, 1)}
    if last == "?":
        roles["?"] = lengths.prompt, lengths.prompt + 1
    if kind != "caption" and lengths.closed:
        roles["[SEP]"] = lengths.prompt + 1, lengths.prompt + 2
    return roles
