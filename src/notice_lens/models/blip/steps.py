"""A transformer block as data: its steps, in their order.

A block is a list of steps over two values, the stream and what the last sublayer wrote. The forward pass (`blocks.py`),
the wave and the path walk (`notice_lens.patching`) all interpret the same list, and what a block has (its modules, its
hook points, the order in which edits happen, what can send and receive) is derived from it. A step of a kind that there
is needs an entry in the list below and nothing else. A new kind needs a class here, a case in `_points` and
`norm_inputs`, and one wherever steps are interpreted (`Block`, the wave, the path walk), which all refuse what they do
not know.

| step | what it does |
| --- | --- |
| `Stream(hook)` | the stream passes a hook point |
| `Apply(module)` | the stream becomes what a position-wise module makes of it: a LayerNorm after an addition |
| `Attend(module, out)` | self-attention or cross-attention reads the stream; what it writes passes `out` |
| `Transform(module, out)` | an MLP reads the stream; what it writes passes `out` |
| `Add(hook)` | what was written is added to the stream, which passes a hook point |

Sublayers with a `norm` read a normalised copy of the stream (pre-LayerNorm); the stream itself stays as it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Stream:
    """The stream passes a hook point."""

    hook: str


@dataclass(frozen=True)
class Apply:
    """A step that passes the stream through a position-wise module."""

    module: str


@dataclass(frozen=True)
class Attend:
    """An attention module reads the stream.

    Attributes:
        module: Its name in the block.
        out: The hook point of its output.
        norm: The LayerNorm before it, if there is one.
        crosses: Whether keys and values come from the stack before.
    """

    module: str
    out: str
    norm: str | None = None
    crosses: bool = False


@dataclass(frozen=True)
class Transform:
    """An MLP reads the stream; attributes as of `Attend`."""

    module: str
    out: str
    norm: str | None = None


@dataclass(frozen=True)
class Add:
    """The output of the last sublayer is added to the stream, which passes a hook point."""

    hook: str


Step = Stream | Apply | Attend | Transform | Add
Steps = tuple[Step, ...]

PRE_NORM: Steps = (
    Stream("hook_resid_pre"),
    Attend("attn", "hook_attn_out", norm="ln1"),
    Add("hook_resid_mid"),
    Transform("mlp", "hook_mlp_out", norm="ln2"),
    Add("hook_resid_post"),
)
"""A block of a ViT: each sublayer reads a normalised copy and adds to the stream."""
POST_NORM: Steps = (
    Stream("hook_resid_pre"),
    Attend("attn", "hook_attn_out"),
    Add("hook_resid_mid"),
    Apply("ln1"),
    Attend("cross_attn", "hook_cross_attn_out", crosses=True),
    Add("hook_resid_mid_cross"),
    Apply("ln2"),
    Transform("mlp", "hook_mlp_out"),
    Add("hook_resid_post"),
    Apply("ln3"),
    Stream("hook_normalized_resid_post"),
)
"""A block of BERT with cross-attention: a LayerNorm follows each addition, and the stream *is* its output."""
STEPS_BY_NORMALIZATION = {"pre": PRE_NORM, "post": POST_NORM}
"""By the `normalization` of a `StackConfig`."""

EMBEDDING = ("hook_embed", "hook_pos_embed")
"""Hook points before block 0; the stream starts as their sum, normalised where the stack does that."""
OUTPUT = "output"
"""The states that a stack gives to the next one or to the read-out: a step after its last block."""
SELF_INSIDE = ("hook_q", "hook_k", "hook_v", "hook_attn_scores", "hook_pattern")
CROSS_INSIDE = ("hook_k", "hook_v", "hook_attn_scores", "hook_pattern")
"""Hook points between an attention module's projections and its z. Queries of cross-attention come before: they are
position-wise, while queries of self-attention are needed at all positions as soon as keys change."""


def inside(module: str) -> str:
    """The step at which positions mix: between the projections of an attention module and its z."""
    return f"{module}.inside"


def order(steps: Steps) -> tuple[str, ...]:
    """Every point of a stack at which something can be edited, in the order of the forward pass.

    Embeddings, the hook points of a block, `<module>.inside` where positions mix, and `OUTPUT`.
    """
    return (*EMBEDDING, *(point for step in steps for point in _points(step)), OUTPUT)


def _points(step: Step) -> Iterator[str]:
    match step:
        case Stream(hook) | Add(hook):
            yield hook
        case Attend(module, out, _, crosses):
            if crosses:
                yield f"{module}.hook_q"
            yield inside(module)
            yield from (f"{module}.{leaf}" for leaf in (CROSS_INSIDE if crosses else SELF_INSIDE))
            yield from (f"{module}.hook_z", f"{module}.hook_result", out)
        case Transform(module, out):
            yield from (f"{module}.hook_pre", f"{module}.hook_post", out)
        case Apply():
            return


def inside_of(steps: Steps) -> dict[str, str]:
    """Return the step at which a row joins, by the hook point inside an attention module that it edits."""
    return {
        f"{step.module}.{leaf}": inside(step.module)
        for step in steps
        if isinstance(step, Attend)
        for leaf in (CROSS_INSIDE if step.crosses else SELF_INSIDE)
    }


def sublayers(steps: Steps) -> list[Attend | Transform]:
    """The steps that write to the stream."""
    return [step for step in steps if isinstance(step, Attend | Transform)]


def last_hook(steps: Steps) -> str:
    """The hook point that a block's output passes."""
    return next(step.hook for step in reversed(steps) if isinstance(step, Stream | Add))


def norm_inputs(steps: Steps) -> dict[str, str]:
    """Return the hook point of the stream that enters each LayerNorm of a block."""
    found, passed = {}, ""
    for step in steps:
        match step:
            case Stream(hook) | Add(hook):
                passed = hook
            case Apply(module) | Attend(norm=str(module)) | Transform(norm=str(module)):
                found[module] = passed
            case _:
                pass
    return found


def reading_points(steps: Steps) -> dict[str, str]:
    """Return the first point of `order` that the input of a module can change, by module that reads the stream."""
    points = {}
    for step in sublayers(steps):
        points[step.module] = next(_points(step))
    return points
