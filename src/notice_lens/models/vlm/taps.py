"""Taps: a hook point's view of a tensor in Hugging Face's modules, and the way of an edit back into it.

A `Tap` says where: the input or the output of a module, some of its columns, cut into heads or not. Taps are attached
only for the length of a run, and only those that are hooked, so a model without hooks is Hugging Face's own.

Three places are not simply an input or an output:

- *Half-way through a block* the stream is read by a norm and kept by the block for the addition. A hook on the norm's
  input alone would leave the kept tensor as it was, so an edit is written into it in place (`Side.STREAM`).
- *Axes are missing or more than one.* Packed towers (Qwen's) hold the patches of all images one after the other, and
  OPT's MLP the tokens of all examples; Llama-3.2-Vision's images have an axis for tiles. Hooks see [row, position, ...]
  all the same (`Rows`): an image or an example a row. Packed images of unequal numbers of patches are one row of all
  patches.
- *Inside attention* there is no module between the steps: see `AttentionTap`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from notice_lens.models.hooks import CopyingHookPoint
from notice_lens.models.in_use import Changes
from notice_lens.models.vlm.anatomy import AttentionParts, Slice
from notice_lens.models.vlm.attention import (
    AttentionFunction,
    KeptSteps,
    Stage,
    explicit_attention,
    refuse_unknown_steps,
    watched_attention,
)


class Side(Enum):
    """The tensor of a module that a tap reads."""

    INPUT = "<"
    OUTPUT = ">"
    STREAM = "~"
    """The input, which the module's parent keeps for later as well."""


@dataclass
class Rows:
    """The number of rows of some modules' tensors, where it is not their first axis.

    Attributes:
        n: The number; None where it is the first axis.
    """

    n: int | None = None

    def note_images(self, tower: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Write down how many images a packed tower is about to see. A forward pre-hook of the tower."""
        grid = kwargs.get("grid_thw", args[1] if len(args) > 1 else None)
        if isinstance(grid, Tensor) and grid.ndim == 2:
            lengths = grid.prod(-1).tolist()
            self.n = len(lengths) if len(set(lengths)) == 1 else 1

    def note_batch(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Write down how many examples a module is about to see. A forward pre-hook of an attention or a block."""
        self.n = len(args[0] if args else kwargs[_stream(kwargs)])

    def of(self, tensor: Tensor) -> Float[Tensor, "row pos width"]:
        """Return a view of the tensor with one axis of rows and one of positions."""
        return tensor.reshape(len(tensor) if self.n is None else self.n, -1, tensor.shape[-1])


@dataclass(frozen=True)
class Tap:
    """One hook point on one tensor.

    Attributes:
        point: The hook point.
        module: Hugging Face's module.
        side: Which of its tensors.
        columns: The part of the last axis that is meant; None for all of it.
        rows: Of the module's tensors.
    """

    point: CopyingHookPoint
    module: nn.Module
    side: Side
    columns: Slice | None = None
    rows: Rows = field(default_factory=Rows)

    def attach(self, changes: Changes, fired: set[str]) -> None:
        """Attach the tap until the use of the model ends. Names of points that fire are added to `fired`."""

        def on_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            first = _stream(kwargs)
            given = args[0] if args else kwargs[first]
            new = self.through(given, fired)
            if self.side is Side.STREAM:
                if new is not given:
                    given.copy_(new)
                return None
            return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, first: new})

        def on_output(module: nn.Module, args: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (self.through(output[0], fired), *output[1:])
            return self.through(output, fired)

        if self.side is Side.OUTPUT:
            # In front: transformers records the tower's states, which LLaVA reads, with its own forward hooks.
            handle = self.module.register_forward_hook(on_output, prepend=True)
        else:
            handle = self.module.register_forward_pre_hook(on_input, with_kwargs=True)
        changes.at_end(handle.remove)

    def through(self, tensor: Tensor, fired: set[str]) -> Tensor:
        """Return the tensor after the hooks; `tensor` itself stays as it was."""
        fired.add(str(self.point.name))
        by_row = self.rows.of(tensor)
        columns = self.columns
        if columns is None:
            new = self._hooked(by_row)
        else:
            start, end = columns.start, columns.start + columns.width
            part = by_row[..., start:end]
            new = self._hooked(part if columns.n_heads is None else part.unflatten(-1, (columns.n_heads, -1)))
            new = new if columns.n_heads is None else new.flatten(-2)
            if columns.width != tensor.shape[-1]:
                new = torch.cat([by_row[..., :start], new, by_row[..., end:]], -1)
        return new.reshape(tensor.shape)

    def _hooked(self, tensor: Tensor) -> Tensor:
        return _same_shape(self.point, tensor, self.point(tensor))


def _same_shape(point: CopyingHookPoint, old: Tensor, new: Tensor) -> Tensor:
    """Return a hook's result. Raises ValueError if its shape differs from the hook's input."""
    if new.shape != old.shape:
        raise ValueError(
            f"a hook at {point.name} gave a tensor of shape {list(new.shape)}; expected {list(old.shape)}, "
            f"[{point.shape}]"
        )
    return new


@dataclass(frozen=True)
class ResultTap:
    """The hook point of what each head writes: the output projection, head by head.

    Attributes:
        point: The hook point, [batch, pos, head, d_model].
        attention: Whose heads.
        weights: Gives the projection's weights, [head, d_head, d_model].
        rows: Of the module's tensors.
    """

    point: CopyingHookPoint
    attention: AttentionParts
    weights: Callable[[], Tensor]
    rows: Rows

    def attach(self, changes: Changes, fired: set[str]) -> None:
        """Attach the tap until the use of the model ends."""

        def on_output(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            fired.add(str(self.point.name))
            z = args[0].unflatten(-1, (self.attention.n_heads, -1))
            result = torch.einsum("...hd,hdm->...hm", z, self.weights())
            by_row = self.rows.of(result.flatten(-2)).unflatten(-1, result.shape[-2:])
            change = _same_shape(self.point, by_row, self.point(by_row)) - by_row
            return output + change.sum(-2).reshape(output.shape)

        changes.at_end(self.attention.o.register_forward_hook(on_output, prepend=True).remove)


@dataclass(frozen=True)
class AttentionTap:
    """The hook points inside one attention module: rotated queries and keys, scores, pattern.

    Attributes:
        attention: The module.
        points: Hook point of each step that has one.
        rows: Of the module's tensors.
        steps: Where steps are kept, if somebody wants them.
    """

    attention: AttentionParts
    points: Mapping[Stage, CopyingHookPoint]
    rows: Rows
    steps: KeptSteps

    @property
    def watched(self) -> bool:
        """Return whether a hook is attached to one of the points, or steps are wanted."""
        return bool(self.steps.wanted) or any(point.watched for point in self.points.values())

    def function(self, changes: Changes, fired: set[str]) -> AttentionFunction:
        """Return the attention function that shows its steps to the hook points."""

        def watch(stage: Stage, tensor: Tensor) -> Tensor:
            point = self.points.get(stage)
            if point is not None and point.watched:
                fired.add(str(point.name))
                tensor = _same_shape(point, tensor, point(tensor))
            return self.steps.keep(stage, tensor)

        if "cu_seqlens" not in _keywords(self.attention.module):
            return self.steps.recording_scale(watched_attention(watch))
        packed = PackedAttention(self.rows, watch)
        handle = self.attention.module.register_forward_pre_hook(packed.unite, with_kwargs=True)
        changes.at_end(handle.remove)
        return self.steps.recording_scale(packed)


class PackedAttention:
    """Attention of a packed tower in one call, with the images as rows and their windows as a mask.

    The tower's attention calls its function once for each window. `unite` tells the module that there is one window;
    the real ones are kept for the mask.
    """

    def __init__(self, rows: Rows, watch: Callable[[Stage, Tensor], Tensor]):
        self.rows, self.watch = rows, watch
        self._ends: Tensor | None = None

    def unite(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Replace the windows by one that holds everything. A forward pre-hook of the attention module."""
        starts = kwargs["cu_seqlens"] if "cu_seqlens" in kwargs else args[1]
        self._ends = starts[1:].contiguous()
        everything = starts[[0, -1]]
        if "cu_seqlens" in kwargs:
            return args, {**kwargs, "cu_seqlens": everything}
        return (args[0], everything, *args[2:]), kwargs

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        *,
        scaling: float | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Return z [1, patch, head, d_head] and the pattern [image, head, patch, patch]."""
        refuse_unknown_steps(module, kwargs)
        assert self._ends is not None, "the pre-hook runs before the attention"
        rows, n = self.rows.n or 1, query.shape[2]
        window = torch.searchsorted(self._ends, torch.arange(n, device=self._ends.device), right=True)
        window = window.reshape(rows, -1).to(query.device)
        same = (window[:, None, :, None] == window[:, None, None, :]).to(query.device)
        # [1, head, all patches, d_head] to [image, head, patch, d_head]
        q, k, v = (tensor[0].unflatten(1, (rows, -1)).transpose(0, 1) for tensor in (query, key, value))
        z, pattern = explicit_attention(q, k, v, same, scaling=scaling, watch=self.watch)
        return z.flatten(0, 1)[None].contiguous(), pattern


def _stream(kwargs: Mapping[str, Any]) -> str:
    """The name of the stream among keywords; mllama's tower says `hidden_state` before transformers 5.23."""
    return "hidden_states" if "hidden_states" in kwargs else "hidden_state"


def _keywords(module: nn.Module) -> tuple[str, ...]:
    """The names of what a module's forward takes."""
    from inspect import signature

    return tuple(signature(type(module).forward).parameters)
