"""One decoder block, replayed for the tokens of many patched rows at once.

A block mixes positions in its attention alone. So tokens of any number of rows, each with its own number of positions,
are laid one after the other into one long sequence [1, token, d_model], and Hugging Face's own module is called on it
once, with the arguments that the model gave it in the base run, cut to the tokens' positions. Norms, MLPs, biases, q/k
norms, gates and quantised weights are right by construction. The attention function is ours: it knows which tokens are
whose, and gives each row its own keys and the shared ones (see `attend.py`).

Two savings, both exact:

- Rows whose z is given (a patch of z replaces it whole, or at some heads of the base run's) are not attended at all.
- Where fewer positions are read than go in (in the last block the read-out alone), the block is first run up to its
  keys and values, at all tokens; then as a whole, at the tokens that are read.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from notice_lens.models.protocol import TABLES
from notice_lens.models.vlm.attention import attention_by
from notice_lens.patching.engine.causal.attend import Geometry, TableEdit, attend, geometry
from notice_lens.patching.engine.causal.plan import LEAVES, DecoderVariant
from notice_lens.patching.engine.causal.record import Record

POSITION_AXIS: Mapping[str, int] = {
    "position_embeddings": -2,
    "position_embeddings_global": -2,
    "position_embeddings_local": -2,
    "position_ids": -1,
    "full_text_row_masked_out_mask": -2,
    "cross_attention_mask": -2,
}
"""The axis of positions in the arguments that transformers' decoders give their blocks; all others are left whole."""


IN_ATTENTION = ("hook_rot_q", "hook_rot_k", "hook_v", "hook_z")
"""Activations that the attention function itself edits."""


PART = 256 * 2**20
"""Bytes that a block's intermediates take at most at once on a CPU; larger ones are slower to allocate."""


@runtime_checkable
class ValueSource(Protocol):
    """A source of new values: a recorded run, or means of several."""

    def value(self, leaf: str, layer: int) -> Tensor:
        """Return an activation of a layer, [pos, ...]; [head, query_pos, key_pos] for scores and patterns."""
        ...


@dataclass
class TokenBlock:
    """Rows that go through a block with the same positions.

    Attributes:
        variants: The number of each row's variant.
        positions: Where the rows differ from the base run, going in.
        read: Those of them whose output is wanted.
        hidden: What goes in, [row, pos, d_model].
        z_is_given: Whether attention is skipped: z is the base run's, then edited.
    """

    variants: list[int]
    positions: Tensor
    read: Tensor
    hidden: Float[Tensor, "row pos d_model"]
    z_is_given: bool = False

    def rows(self, start: int, stop: int) -> "TokenBlock":
        """Return some of the rows."""
        return TokenBlock(
            self.variants[start:stop], self.positions, self.read, self.hidden[start:stop], self.z_is_given
        )


class OwnKeys(NamedTuple):
    """Keys and values of a segment's own positions, [kv_head, row * pos, d_head]."""

    keys: Tensor
    values: Tensor


class EditedTokens(NamedTuple):
    """The tokens of one row whose activation is replaced by one edit.

    Attributes:
        tokens: Their numbers in the sequence of tokens.
        head: The head, or None.
        positions: Their positions in the stream.
    """

    tokens: Int[np.ndarray, " token"]
    head: int | None
    positions: Int[np.ndarray, " token"]


class Replay:
    """Replays blocks of one base run for rows of variants.

    Args:
        base: The run.
        variants: The edits of each variant.
        sources: Where new values come from, by name.

    Attributes:
        seen: Activations [token, ...] by leaf, of the leaves that somebody has put here: each pass adds its own.
    """

    def __init__(self, base: Record, variants: Sequence[DecoderVariant], sources: Mapping[str, ValueSource]) -> None:
        self.base, self.variants, self.sources = base, variants, sources
        self.geometries: dict[tuple[Any, ...], Geometry] = {}
        self.seen: dict[str, list[Tensor]] = {}
        self._at_work: _Pass | None = None

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Let the model's attention be computed by the replay for the length of a `with` block."""
        decoder = self.base.decoder
        with attention_by(decoder.hf, dict.fromkeys(decoder.layer_of, self._attend)), torch.no_grad():
            yield

    def block(self, layer: int, segments: Sequence[TokenBlock]) -> list[Float[Tensor, "row read d_model"]]:
        """Return the output of a block at the positions of each segment that are read."""
        longer = [n for n, own in enumerate(segments) if not own.z_is_given and 0 < len(own.read) < len(own.positions)]
        own_keys: dict[int, OwnKeys] = {}
        if longer and not self.base.decoder.is_cross[layer]:
            found = self._run(_Pass(self, layer, [segments[n] for n in longer], None))
            own_keys = dict(zip(longer, found, strict=True))
        # A segment without a position to compute would be an empty sequence, which transformers' blocks cannot take.
        some = [n for n, own in enumerate(segments) if len(own.read)]
        keys = {some.index(n): found for n, found in own_keys.items() if n in some}
        found = self._run(_Pass(self, layer, [segments[n] for n in some], keys)) if some else []
        outputs = dict(zip(some, found, strict=True))
        return [outputs[n] if n in outputs else own.hidden[:, :0] for n, own in enumerate(segments)]

    def blocks(
        self, layer: int, segments: Sequence[TokenBlock], memory: int
    ) -> list[Float[Tensor, "row read d_model"]]:
        """Return a block's output for each segment as `block` does, computed in parts that fit into memory.

        Args:
            layer: The block.
            segments: Whose rows go through it.
            memory: Bytes that may be taken.
        """
        limit = max(1, self._tokens_at_once(layer, memory))
        pieces: list[list[Tensor]] = [[] for _ in segments]
        part: list[tuple[int, TokenBlock]] = []
        size = 0

        def run() -> None:
            if part:
                for (number, _), out in zip(part, self.block(layer, [s for _, s in part]), strict=True):
                    pieces[number].append(out)
            part.clear()

        for number, segment in enumerate(segments):
            start, total = 0, len(segment.variants)
            tokens = max(1, len(segment.positions))
            while start < total:
                fit = max(1, (limit - size) // tokens)
                if size and size + tokens > limit:
                    run()
                    size = 0
                    continue
                stop = min(total, start + fit)
                part.append((number, segment.rows(start, stop)))
                size += (stop - start) * tokens
                start = stop
        run()
        return [torch.cat(own) if len(own) > 1 else own[0] for own in pieces]

    def _tokens_at_once(self, layer: int, memory: int) -> int:
        """Return how many tokens a block may compute at once."""
        attended, stream = self.base.attended[layer], self.base.resid[layer]
        n_heads, n_keys = attended.z.shape[1], attended.keys.shape[1]
        width = self.base.decoder.widest(layer)
        each = (3 * n_heads * n_keys + 3 * width + 8 * stream.shape[-1]) * max(4, stream.element_size())
        return min(memory // 2, PART) // each if stream.device.type == "cpu" else memory // 2 // each

    def _run(self, work: "_Pass") -> Any:
        self._at_work = work
        try:
            return work.run()
        finally:
            self._at_work = None

    def _attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Any:
        assert self._at_work is not None, "blocks run by way of `block` alone"
        return self._at_work.attend(query[0], key[0], value[0]), None

    def geometry(self, layer: int, queries: Tensor, own: Tensor) -> Geometry:
        """Return the mask between positions; kept by mask and positions."""
        seen, device = self.base.masks[layer], self.base.attended[layer].keys.device
        which = (id(seen), device, tuple(queries.tolist()), tuple(own.tolist()))
        if which not in self.geometries:
            self.geometries[which] = geometry(seen, queries, own, self.base.decoder.is_cross[layer], device)
        return self.geometries[which]


class _HasKeys(Exception):
    """Leaves a block once the keys and values of its tokens are known."""


class _Pass:
    """One call of one block.

    Args:
        replay: The replay that this call belongs to.
        layer: The block.
        segments: Whose rows go through it.
        own_keys: Keys and values by the number of the segment, where they are known already; None: the call is for
            them alone, at all positions of the segments.
    """

    def __init__(
        self, replay: Replay, layer: int, segments: Sequence[TokenBlock], own_keys: Mapping[int, OwnKeys] | None
    ) -> None:
        self.replay, self.base, self.layer, self.segments = replay, replay.base, layer, segments
        self.own_keys, self.for_keys = own_keys or {}, own_keys is None
        self.positions = [own.positions if self.for_keys else own.read for own in segments]
        sizes = [len(own.variants) * len(at) for own, at in zip(segments, self.positions, strict=True)]
        self.bounds = [(sum(sizes[:n]), sum(sizes[: n + 1])) for n in range(len(sizes))]
        self.targets: dict[tuple[str, str, int], list[EditedTokens]] = {}
        self.tables: dict[int, list[TableEdit]] = {}
        for number in range(len(segments)):
            self._find_targets(number)
        self.hidden = torch.cat([self._tokens(number) for number in range(len(segments))])

    def _tokens(self, number: int) -> Float[Tensor, "token d_model"]:
        """Return the input of a segment: row by row, each with its positions."""
        segment, at = self.segments[number], self.positions[number]
        hidden = segment.hidden
        if len(at) < len(segment.positions):
            hidden = hidden[:, torch.isin(segment.positions, at)]
        return hidden.flatten(0, 1)

    def _find_targets(self, number: int) -> None:
        """Note which tokens of a segment are edited here, and how."""
        segment, (start, _) = self.segments[number], self.bounds[number]
        place = {position: n for n, position in enumerate(self.positions[number].tolist())}
        # Rows by the hundred are edited at the same positions: they are looked up once.
        known: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}
        for row, variant in enumerate(segment.variants):
            edits = [edit for edit in self.replay.variants[variant] if edit.layer == self.layer]
            # In the order of the edits: where two of them overlap, the later one holds.
            for order, edit in enumerate(edits):
                if edit.positions not in known:
                    here = [position for position in edit.positions if position in place]
                    known[edit.positions] = np.array([place[one] for one in here], int), np.array(here, int)
                places, positions = known[edit.positions]
                if edit.leaf in TABLES:
                    for query, position in zip(places.tolist(), positions.tolist(), strict=True):
                        self.tables.setdefault(number, []).append(self._table_edit(edit, row, query, position))
                elif len(places):
                    edited = EditedTokens(start + row * len(place) + places, edit.head, positions)
                    self.targets.setdefault((edit.leaf, edit.source, order), []).append(edited)

    def _table_edit(self, edit: Any, row: int, query: int, position: int) -> TableEdit:
        heads = slice(None) if edit.head is None else edit.head
        value: Tensor | float
        if edit.source == "cut":
            value = float("-inf")
        elif edit.source == "zero":
            value = 0.0
        else:
            value = self.replay.sources[edit.source].value(edit.leaf, self.layer)[heads, position]
        return TableEdit(edit.leaf, row, query, heads, edit.keys, value)

    def run(self) -> Any:
        """Call the block; return its outputs [row, read, d_model] by segment, or `OwnKeys` by segment."""
        block = self.base.decoder.layers[self.layer]
        self.hidden = self.changed("hook_resid_pre", self.hidden)
        at = torch.cat([
            at.repeat(len(own.variants)) for own, at in zip(self.segments, self.positions, strict=True)
        ])  # fmt: skip
        # Positions are kept on the CPU; those that index tensors of a GPU are sent there once.
        arguments = cut(self.base.arguments[self.layer], at.to(self.hidden.device, non_blocking=True))
        with ExitStack() as hooks:
            for leaf in dict.fromkeys([*(leaf for leaf, _, _ in self.targets), *self.replay.seen]):
                if leaf not in (*IN_ATTENTION, *TABLES, "hook_resid_pre", "hook_resid_post"):
                    place = self.base.decoder.place(self.layer, leaf)
                    hooks.callback(place.attach(partial(self._change, leaf)).remove)
            try:
                output = block(self.hidden[None], attention_mask=None, **arguments)
            except _HasKeys:
                return [OwnKeys(self.keys[:, start:stop], self.values[:, start:stop]) for start, stop in self.bounds]
        output = self.changed("hook_resid_post", (output[0] if isinstance(output, tuple) else output)[0])
        return [
            output[start:stop].unflatten(0, (len(own.variants), -1))
            for own, (start, stop) in zip(self.segments, self.bounds, strict=True)
        ]

    def _change(self, leaf: str, tensor: Float[Tensor, "1 token width"]) -> Tensor:
        return self.changed(leaf, tensor[0])[None]

    def changed(self, leaf: str, tensor: Tensor) -> Tensor:
        """Return an activation [token, ...] with new values where it is edited."""
        if leaf in self.replay.seen:
            self.replay.seen[leaf].append(tensor)
        groups = [(key, found) for key, found in self.targets.items() if key[0] == leaf]
        if not groups:
            return tensor
        new = tensor.clone()
        width = self.base.attended[self.layer].keys.shape[-1]
        view = new.unflatten(-1, (-1, width)) if LEAVES[leaf].heads and new.dim() == 2 else new
        for (_, source, _), targets in groups:
            for of_heads in (True, False):
                some = [target for target in targets if (target.head is not None) == of_heads]
                if some:
                    tokens = np.concatenate([one.tokens for one in some])
                    positions = np.concatenate([one.positions for one in some])
                    each = np.array([one.head for one in some if one.head is not None])
                    heads = [each.repeat([len(one.tokens) for one in some])] if of_heads else []
                    index, there = (tuple(map(torch.from_numpy, (at, *heads))) for at in (tokens, positions))
                    view[index] = self._new(source, leaf, there, view)
        return new

    def _new(self, source: str, leaf: str, index: tuple[Tensor, ...], like: Tensor) -> Tensor:
        if source == "zero":
            return like.new_zeros(())
        return self.replay.sources[source].value(leaf, self.layer)[index].to(like.dtype)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Float[Tensor, "1 token head d_value"]:
        """Return z of all tokens; query, key and value are [head, token, d_head]."""
        crossing = self.base.decoder.is_cross[self.layer]
        query = self.changed("hook_rot_q", query.transpose(0, 1)).transpose(0, 1)
        if not crossing:
            key = self.changed("hook_rot_k", key.transpose(0, 1)).transpose(0, 1)
            value = self.changed("hook_v", value.transpose(0, 1)).transpose(0, 1)
        if self.for_keys:
            self.keys, self.values = key, value
            raise _HasKeys
        parts = []
        for number, segment in enumerate(self.segments):
            start, stop = self.bounds[number]
            if segment.z_is_given:
                z = self.base.attended[self.layer].z[segment.read]
                parts.append(z.repeat(len(segment.variants), 1, 1))
                continue
            own = self.own_keys.get(number) or OwnKeys(key[:, start:stop], value[:, start:stop])
            parts.append(self._attend_segment(number, query[:, start:stop], own))
        return self.changed("hook_z", torch.cat(parts))[None]

    def _attend_segment(self, number: int, query: Tensor, own: OwnKeys) -> Tensor:
        segment = self.segments[number]
        where = self.replay.geometry(self.layer, segment.read, segment.positions)
        base = self.base.attended[self.layer]
        return attend(query, own.keys, own.values, base, where, self.tables.get(number, []))


def cut(arguments: Mapping[str, Any], positions: Tensor) -> dict[str, Any]:
    """Return a block's arguments for a sequence of tokens, given the position of each."""

    def at(value: Any, axis: int) -> Any:
        if isinstance(value, tuple | list):
            return tuple(at(one, axis) for one in value)
        # Of a model on several devices, arguments may be on another one than the stream.
        return value.index_select(axis, positions.to(value.device)) if isinstance(value, Tensor) else value

    axes = {name: POSITION_AXIS[name] for name in arguments if name in POSITION_AXIS}
    return {name: at(value, axes[name]) if name in axes else value for name, value in arguments.items()}
