"""The layout of inputs: what each position of each stack is.

A stack's stream is a row of segments, in order and without gaps: image, prompt, answer and special positions. An image
segment has a grid (rows, columns) where its positions lie in the picture's plane, and the area of the picture that the
grid covers. Special positions are all that a family puts around them: class tokens, separators, a chat template, the
ends of lines of tiles.

    BLIP, vision:     special(1)  image(24 x 24)                    question answering; captions have prompt and
    BLIP, text:       special(1)  prompt(n)  special(1)             answer in one row of the decoder
    BLIP, decoder:    special(1)  answer(k)
    chat, language:   special     image(24 x 24)  special  prompt(n)  special  answer(k)

Everything here is plain NumPy and needs no model: a model makes a `Layout` (see `protocol.py`), and whoever wants to
know where a word or a region is asks it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from notice_lens.errors import one_of

SegmentKind = Literal["image", "prompt", "answer", "special"]
SEGMENT_KINDS: tuple[SegmentKind, ...] = get_args(SegmentKind)
Span = tuple[int, int]
"""First character, or position, and the one after the last."""
Area = tuple[float, float, float, float]
"""Top, left, bottom and right edge as shares of the picture's height and width."""
WHOLE_PICTURE: Area = (0.0, 0.0, 1.0, 1.0)
Offset = tuple[int, int, int]
"""A position of the prompt, the first character that its token stands for, and the one after the last."""
HALF = 0.5 - 1e-9
"""A position belongs to a region where at least half of it is covered; a hair less, for rounding."""


def without_space(text: str, first: int, last: int) -> Span:
    """Return the characters of a token without the space that it begins with: `▁apple` and `Ġapple` are "apple".

    Args:
        text: The text that was read.
        first: The first character that the token stands for.
        last: The one after the last.
    """
    return last - len(text[first:last].lstrip()), last


@dataclass(frozen=True)
class Segment:
    """Neighbouring positions of one kind.

    Attributes:
        kind: `image`, `prompt`, `answer` or `special`.
        start: The first position.
        stop: The one after the last.
        grid: Rows and columns of an image segment, whose positions go row by row from the top left; None where its
            positions lie on no grid, and for other kinds.
        area: Which part of the picture the grid covers. A tile covers a part; where the processor pads the picture,
            edges lie below 0 or above 1.

    Raises:
        ValueError: The kind is unknown, positions run backwards, or the grid does not fit them.
    """

    kind: SegmentKind
    start: int
    stop: int
    grid: tuple[int, int] | None = None
    area: Area = WHOLE_PICTURE

    def __post_init__(self) -> None:
        if self.kind not in SEGMENT_KINDS:
            raise ValueError(one_of("kind of segment", self.kind, SEGMENT_KINDS))
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"a segment from {self.start} to {self.stop}: expected 0 <= start <= stop")
        if self.grid is not None and (self.kind != "image" or self.grid[0] * self.grid[1] != len(self)):
            raise ValueError(
                f"a grid of {self.grid[0]} x {self.grid[1]} for {len(self)} positions of kind {self.kind!r}; expected "
                "an image segment with as many positions as the grid has"
            )

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Layout:
    """The meaning of every position of a batch of inputs.

    Attributes:
        stacks: By stack, in the model's order, the segments of each example.
        read_out: For each example, the position of the last stack whose logits give the answer's first token.
        prompt_stack: The stack whose stream holds the prompt.
        roles: For each example, the positions of the prompt stack that every prompt of the model has, by name: `[CLS]`
            and `[SEP]`, or `bos` and `last`.
        prompts: The prompts, where they are known.
        offsets: For each example, which characters of its prompt the tokens stand for.

    Raises:
        ValueError: Segments leave a gap, or the parts are of different numbers of examples.
    """

    stacks: Mapping[str, Sequence[tuple[Segment, ...]]]
    read_out: tuple[int, ...]
    prompt_stack: str
    roles: tuple[Mapping[str, Span], ...]
    prompts: tuple[str, ...] | None = None
    offsets: tuple[tuple[Offset, ...], ...] | None = None

    def __post_init__(self) -> None:
        lengths = {name: len(examples) for name, examples in self.stacks.items()}
        lengths |= {"read_out": len(self.read_out), "roles": len(self.roles)}
        lengths |= {
            name: len(part) for name, part in (("prompts", self.prompts), ("offsets", self.offsets)) if part is not None
        }
        if len(set(lengths.values())) > 1:
            raise ValueError(f"a layout of unequal numbers of examples: {lengths}")
        for stack, examples in self.stacks.items():
            for segments in set(examples):
                stops = [0, *(segment.stop for segment in segments)]
                if any(segment.start != stop for segment, stop in zip(segments, stops, strict=False)):
                    raise ValueError(f"segments of `{stack}` leave a gap or overlap: {list(segments)}")

    def __len__(self) -> int:
        return len(self.read_out)

    def segments(self, stack: str, example: int) -> tuple[Segment, ...]:
        """Return the segments of a stack for one example. Raises KeyError if there is no such stack."""
        if stack not in self.stacks:
            raise KeyError(one_of("stack", stack, self.stacks))
        return self.stacks[stack][example]

    def length(self, stack: str, example: int) -> int:
        """Return how many positions a stack has for one example, padding left out."""
        segments = self.segments(stack, example)
        return segments[-1].stop if segments else 0

    def longest(self, stack: str) -> int:
        """Return how many positions the longest example has: the width of a padded batch."""
        return max((self.length(stack, example) for example in range(len(self))), default=0)

    def positions(self, stack: str, example: int, *kinds: SegmentKind) -> Int[np.ndarray, " n"]:
        """Return the positions of some kinds, in their order; of all kinds where none is named."""
        chosen = [np.arange(one.start, one.stop) for one in self.segments(stack, example) if one.kind in kinds]
        if not kinds:
            return np.arange(self.length(stack, example))
        return np.concatenate([np.arange(0), *chosen])

    def mask(self, stack: str, *kinds: SegmentKind) -> Bool[np.ndarray, "example pos"]:
        """Return where positions of some kinds are (of any kind where none is named); False at padding."""
        mask = np.zeros((len(self), self.longest(stack)), bool)
        for example, row in enumerate(mask):
            row[self.positions(stack, example, *kinds)] = True
        return mask

    def image_segments(self, stack: str, example: int) -> tuple[Segment, ...]:
        """Return the image segments of a stack for one example."""
        return tuple(segment for segment in self.segments(stack, example) if segment.kind == "image")

    def grid(self, stack: str) -> tuple[int, int]:
        """Return the rows and columns that all examples' images have, so that maps of them can be laid over each other.

        Raises:
            ValueError: Images have no grid, several segments, or grids of different sizes.
        """
        found = {
            tuple((segment.grid, segment.area) for segment in self.image_segments(stack, example))
            for example in range(len(self))
        }
        if len(found) != 1 or len(one := next(iter(found))) != 1 or one[0][0] is None:
            grids = sorted({str([grid for grid, _ in own]) for own in found})
            raise ValueError(
                f"expected one grid for the images of all examples in `{stack}`; they have {', '.join(grids) or 'none'}"
            )
        return one[0][0]

    def span(self, example: int, first: int, last: int) -> Span:
        """Return the positions of the prompt stack that stand for some characters of the prompt.

        Args:
            example: Which example.
            first: The first character.
            last: The one after the last.

        Returns:
            The first position and the one after the last.

        Raises:
            ValueError: No token stands for the characters, tokens reach beyond them, or the prompts are not known.
        """
        if self.prompts is None or self.offsets is None:
            raise ValueError("this layout was made without the prompts' strings: layout(inputs, prompts)")
        prompt = self.prompts[example]
        words = f"{prompt[first:last]!r} in {prompt!r}"
        inside = [offset for offset in self.offsets[example] if offset[1] < last and offset[2] > first]
        if not inside:
            raise ValueError(f"{words}, has no token")
        begin, end = inside[0][1], inside[-1][2]
        if begin < first or end > last:
            raise ValueError(f"{words}, cuts through a token: the tokens there are {prompt[begin:end]!r}")
        return inside[0][0], inside[-1][0] + 1

    def covered(self, stack: str, example: int, mask: Bool[np.ndarray, "height width"]) -> Float[np.ndarray, " pos"]:
        """Return the share of each position that a pixel mask covers, 0 to 1; 0 where a position is not an image patch.

        Args:
            stack: Whose positions.
            example: Which example.
            mask: True at the region's pixels; of the whole picture, at any resolution.

        Raises:
            ValueError: The image's positions lie on no grid.
        """
        shares = np.zeros(self.length(stack, example))
        for segment in self.image_segments(stack, example):
            if segment.grid is None:
                raise ValueError(f"image positions {segment.start} to {segment.stop - 1} of `{stack}` lie on no grid")
            shares[segment.start : segment.stop] = coverage(mask, segment.grid, segment.area).ravel()
        return shares

    def region(self, stack: str, example: int, mask: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, " pos"]:
        """Return which positions belong to a region of pixels: those that it covers by half or more."""
        return self.covered(stack, example, mask) >= HALF

    def take(self, examples: Sequence[int]) -> "Layout":
        """Return the layout of some of the examples, in the given order."""
        return replace(
            self,
            stacks={stack: [own[number] for number in examples] for stack, own in self.stacks.items()},
            read_out=tuple(self.read_out[number] for number in examples),
            roles=tuple(self.roles[number] for number in examples),
            prompts=None if self.prompts is None else tuple(self.prompts[number] for number in examples),
            offsets=None if self.offsets is None else tuple(self.offsets[number] for number in examples),
        )


def coverage(
    mask: Bool[np.ndarray, "height width"], grid: tuple[int, int], area: Area = WHOLE_PICTURE
) -> Float[np.ndarray, "rows columns"]:
    """Return the share of each square of a grid that a mask covers, 0 to 1, exact.

    Args:
        mask: bool [height, width].
        grid: Rows and columns of squares.
        area: Which part of the mask's picture the grid is stretched over.
    """
    edges = zip(mask.shape, grid, area[:2], area[2:], strict=True)
    rows, columns = (_shares(*along) for along in edges)
    return rows @ mask @ columns.T


def resample(
    mask: Bool[np.ndarray, "height width"], grid: tuple[int, int], area: Area = WHOLE_PICTURE
) -> Bool[np.ndarray, "rows columns"]:
    """Return which squares of a grid belong to a region: those that it covers by half or more."""
    return coverage(mask, grid, area) >= HALF


def _shares(pixels: int, squares: int, start: float, stop: float) -> Float[np.ndarray, "squares pixels"]:
    """Return how much of each square each pixel makes up, along one axis."""
    extent = (stop - start) * pixels
    edges = start * pixels + np.arange(squares + 1) * (extent / squares)
    first, last = edges[:-1, None], edges[1:, None]
    numbers = np.arange(pixels)
    return np.clip(np.minimum(last, numbers + 1) - np.maximum(first, numbers), 0, None) * (squares / extent)
