"""Path patching in a decoder: what one part of it writes for another to read, with everything between frozen.

The four runs are those of `engine.path_walk`; this is the third one. With z given in every block, nothing moves from
one position to another, so a row is the sender's positions and no others: it starts at the base run's stream, goes
through Hugging Face's own blocks with the base run's z (and, where MLPs are frozen, with what they wrote there), and
what the receiver takes in is read on the way. The fourth run is a row of the causal wave whose edit has that value.

Norms are the model's own modules, so they are recomputed on every path.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from notice_lens.models.blip.steps import OUTPUT
from notice_lens.models.hook_names import IMAGE_STACK, QFORMER, HookName
from notice_lens.patching.engine.causal.plan import LEAVES, DecoderEdit, DecoderVariant, first_layer
from notice_lens.patching.engine.causal.record import Record
from notice_lens.patching.engine.causal.replay import Replay, TokenBlock, ValueSource
from notice_lens.patching.engine.causal.site import leaf_of
from notice_lens.patching.engine.causal.trim import ORDER
from notice_lens.patching.engine.causal.upstream import WAVE_STACK, is_upstream
from notice_lens.patching.engine.plan import END
from notice_lens.patching.engine.receivers import Receiver

if TYPE_CHECKING:
    from notice_lens.models.vlm.hooked_vlm import HookedVLM

MLP_IN = ("mlp.hook_pre", "mlp.hook_pre_linear")
"""What an MLP makes of its input: of a gated one, both halves."""


class DecoderPaths:
    """Which parts of a hosted model send and receive; `PathRules`.

    Parts of the language model send and receive; those of the tower and the projector send to it. Q-Formers, features
    that enter at later blocks and cross-attention have no paths from the tower: what goes through them is not the
    stream before the first block.

    Args:
        model: The model.
    """

    receiving: tuple[str, ...] = (WAVE_STACK,)
    senders: tuple[str, ...] = (
        "hook_resid_pre", "attn.hook_z", "hook_attn_out", "cross_attn.hook_z", "hook_cross_attn_out", "hook_mlp_out",
        "hook_out",
    )  # fmt: skip
    receivers: tuple[str, ...] = ("attn.hook_q", "attn.hook_k", "attn.hook_v", "cross_attn.hook_q", "mlp.hook_pre")
    can_freeze_layernorm: bool = False

    def __init__(self, model: "HookedVLM") -> None:
        self.refused: Mapping[str, str] = refused_stacks(model)
        sending = (IMAGE_STACK, "projector", WAVE_STACK)
        self.stacks: tuple[str, ...] = tuple(stack for stack in sending if stack not in self.refused)

    def comes_before(self, hook: str, receiver: Receiver) -> bool:
        """Return whether a sender comes before the input of a receiver, in another module."""
        layer, module = receiver.reads(self.stacks)[1]
        if layer == END or is_upstream(hook):
            return True
        sender = HookName.parse(hook)
        assert sender.layer is not None, "senders are checked"
        reads = ORDER["mlp.hook_pre"] if module == "mlp" else ORDER["hook_resid_pre"] + 1
        return (sender.layer, ORDER[leaf_of(sender.leaf)]) < (layer, reads)

    def goes(self, stack: str, receiver: Receiver) -> bool:
        """Return whether paths go from a stack to a receiver: to its own output, or into the language model."""
        end = HookName.parse(receiver.hook)
        return end.stack == (stack if end.layer is None else WAVE_STACK)

    def instead(self, stack: str) -> str:
        """Return why paths of a stack go no further, and where they go."""
        return (
            "with attention frozen nothing comes from the image's positions to the answer's; receivers of "
            f"`{stack}` are {stack}.{OUTPUT} or logits, behind which all runs free, and queries, keys, values and MLPs "
            f"of {WAVE_STACK}"
        )


def refused_stacks(model: "HookedVLM") -> dict[str, str]:
    """Return why nothing sends in a stack, for those of a model where that is so."""
    if model.cfg.sources.get(WAVE_STACK) is not None:
        why = "this language model reads the image by cross-attention, whose keys and values receive nothing here"
        return {stack: why for stack in model.cfg.stacks if stack != WAVE_STACK}
    if model.cfg.qformer is not None:
        why = "between the tower and the projector is a Q-Former, whose attention to the tower is on every path"
        return dict.fromkeys((IMAGE_STACK, QFORMER), f"{why}; projector.out sends")
    if len(model.projector.deepstack):
        why = "features of this tower enter the language model at later blocks too (deepstack)"
        return {IMAGE_STACK: f"{why}; projector.out sends what enters before the first"}
    return {}


class DecoderPath(NamedTuple):
    """A path.

    Attributes:
        sender: The nodes that are sent together, as edits.
        receiver: Its end.
    """

    sender: DecoderVariant
    receiver: Receiver

    @property
    def end(self) -> tuple[int, str]:
        """The layer and the leaf of the receiver; `END` for the output."""
        name = HookName.parse(self.receiver.hook)
        return (END, "") if name.layer is None else (name.layer, leaf_of(name.leaf))


class Received:
    """What a receiver takes in at the sender's positions; elsewhere it is not asked for.

    Args:
        length: Positions of the stream.
        positions: The sender's.
        values: By leaf, [position, ...].
    """

    def __init__(self, length: int, positions: Tensor, values: Mapping[str, Tensor]) -> None:
        self.length, self.positions, self.values = length, positions, values

    def value(self, leaf: str, layer: int) -> Tensor:
        """Return the new values of an activation, [pos, ...]."""
        values = self.values[leaf]
        whole = values.new_zeros(self.length, *values.shape[1:])
        whole[self.positions] = values
        return whole


@dataclass
class _Walkers:
    """Senders with the same positions, on their way up.

    Attributes:
        positions: Of the stream.
        joining: Their numbers by the layer in which they join.
        variants: Those that have joined, in the order of the rows.
        hidden: The stream, [row, position, d_model].
    """

    positions: Tensor
    joining: dict[int, list[int]]
    variants: list[int] = field(default_factory=list)
    hidden: Tensor = field(default_factory=lambda: torch.empty(0))

    def join(self, base: Record, layer: int) -> None:
        """Go on to a layer: add what the model adds in front of it, and take in the senders of that layer."""
        between = base.between(layer - 1) if layer else None
        if between is not None and self.variants:
            self.hidden = self.hidden + between[self.positions]
        new = self.joining.get(layer, [])
        if new:
            start = base.resid[layer][self.positions].expand(len(new), -1, -1)
            self.hidden = torch.cat([self.hidden, start]) if self.variants else start
            self.variants = self.variants + new


class PathWalk:
    """The third run of paths of one pair.

    Args:
        base: The run that is patched.
        sources: Where senders take their values from, by name; `self` is the base run.
        paths: The paths.
        memory: Bytes that rows may take.
    """

    def __init__(
        self, base: Record, sources: Mapping[str, ValueSource], paths: Sequence[DecoderPath], memory: int
    ) -> None:
        self.base, self.sources, self.paths, self.memory = base, sources, paths, memory

    def loads(self) -> Iterator[list[int]]:
        """Yield the numbers of paths that are walked together: their streams, and what is received, fit into memory."""
        groups = self._by_sender(range(len(self.paths)))
        load, size = [], 0
        for sender, numbers in groups.items():
            need = self._bytes_of(sender[1], numbers)
            if load and size + need > self.memory // 2:
                yield load
                load, size = [], 0
            load, size = load + numbers, size + need
        if load:
            yield load

    def received(self, numbers: Sequence[int]) -> Iterator[tuple[int, Received | Float[Tensor, "answer_pos d_model"]]]:
        """Yield the number of each path and what its receiver takes in; of an output, its states at the read-outs.

        Args:
            numbers: Of paths, as `loads` yields them.
        """
        return self._walk(self._by_sender(numbers))

    def _by_sender(self, numbers: Iterable[int]) -> dict[tuple[bool, DecoderVariant], list[int]]:
        groups: dict[tuple[bool, DecoderVariant], list[int]] = {}
        for number in numbers:
            path = self.paths[number]
            groups.setdefault((path.receiver.freeze_mlp, path.sender), []).append(number)
        return groups

    def _bytes_of(self, sender: DecoderVariant, numbers: Sequence[int]) -> int:
        """Return the bytes that a sender's stream takes, and what its receivers take in, at most."""
        stream, decoder = self.base.resid[0], self.base.decoder
        ends = {self.paths[number].end for number in numbers} - {(END, "")}
        width = 3 * stream.shape[-1] + sum(len(MLP_IN) * decoder.widest(layer) for layer, _ in ends)
        return len(_positions(sender)) * width * stream.element_size()

    def _walk(
        self, groups: Mapping[tuple[bool, DecoderVariant], Sequence[int]]
    ) -> Iterator[tuple[int, Received | Tensor]]:
        base, senders = self.base, list(groups)
        replay = Replay(base, [self._frozen(*sender) for sender in senders], self.sources)
        walkers = self._walkers([sender for _, sender in senders])
        wanted: dict[int, list[tuple[int, int]]] = {}
        for row, sender in enumerate(senders):
            for number in groups[sender]:
                wanted.setdefault(self.paths[number].end[0], []).append((number, row))
        n_layers = len(base.decoder.layers)
        last = n_layers - 1 if END in wanted else max(wanted)
        with replay.ready():
            for layer in range(min(first_layer(sender) for _, sender in senders), last + 1):
                for own in walkers:
                    own.join(base, layer)
                started = [own for own in walkers if own.variants]
                replay.seen = {leaf: [] for leaf in self._leaves(layer, wanted.get(layer, ()))}
                segments = [
                    TokenBlock(own.variants, own.positions, own.positions, own.hidden, z_is_given=True)
                    for own in started
                ]
                outputs = replay.blocks(layer, segments, self.memory)
                for own, out in zip(started, outputs, strict=True):
                    own.hidden = out
                yield from self._taken(layer, wanted.get(layer, ()), started, replay.seen)
        rows = {row: (own, at) for own in walkers for at, row in enumerate(own.variants)}
        for number, row in wanted.get(END, ()):
            own, at = rows[row]
            states = base.out[-1].clone()
            states[own.positions] = own.hidden[at]
            yield number, states[list(base.readouts)]

    def _walkers(self, senders: Sequence[DecoderVariant]) -> list[_Walkers]:
        found: dict[tuple[int, ...], dict[int, list[int]]] = {}
        for row, sender in enumerate(senders):
            found.setdefault(_positions(sender), {}).setdefault(first_layer(sender), []).append(row)
        return [_Walkers(torch.tensor(positions), joining) for positions, joining in found.items()]

    def _frozen(self, freeze_mlp: bool, sender: DecoderVariant) -> DecoderVariant:
        """Return a sender's edits, behind those that keep what MLPs write: where both are at one MLP, the sender's."""
        if not freeze_mlp:
            return sender
        layers = range(first_layer(sender), len(self.base.decoder.layers))
        kept = [DecoderEdit("hook_mlp_out", layer, _positions(sender), source="self") for layer in layers]
        return (*kept, *sender)

    def _leaves(self, layer: int, wanted: Sequence[tuple[int, int]]) -> list[str]:
        """Return the activations that receivers of a layer take in."""
        found: dict[str, None] = {}
        for number, _ in wanted:
            leaf = self.paths[number].end[1]
            found |= dict.fromkeys(self._mlp_in(layer) if leaf == "mlp.hook_pre" else [leaf])
        return list(found)

    def _mlp_in(self, layer: int) -> list[str]:
        gated = self.base.decoder.blocks[layer].mlp.pre_linear is not None
        return list(MLP_IN if gated else MLP_IN[:1])

    def _taken(
        self,
        layer: int,
        wanted: Sequence[tuple[int, int]],
        started: Sequence[_Walkers],
        seen: Mapping[str, Sequence[Tensor]],
    ) -> Iterator[tuple[int, Received]]:
        """Yield what the receivers of a layer take in, from all tokens of its pass, row by row."""
        tokens = {leaf: torch.cat(list(parts)) for leaf, parts in seen.items()}
        place, start = {}, 0
        for own in started:
            for row in own.variants:
                place[row] = (slice(start, start + len(own.positions)), own.positions)
                start += len(own.positions)
        width = self.base.attended[layer].keys.shape[-1]
        for number, row in wanted:
            at, positions = place[row]
            leaf = self.paths[number].end[1]
            leaves = self._mlp_in(layer) if leaf == "mlp.hook_pre" else [leaf]
            values = {one: tokens[one][at] for one in leaves}
            if LEAVES[leaf].heads:
                values = {one: new if new.ndim == 3 else new.unflatten(-1, (-1, width)) for one, new in values.items()}
            yield number, Received(self.base.length, positions, values)


def edits_of(path: DecoderPath, received: Received, source: str) -> DecoderVariant:
    """Return the edits of the fourth run: the receiver takes in what it received.

    Args:
        path: The path.
        received: Its values.
        source: The name by which the wave finds them.
    """
    layer = path.end[0]
    positions = tuple(received.positions.tolist())
    return tuple(DecoderEdit(leaf, layer, positions, path.receiver.head, source) for leaf in received.values)


def _positions(sender: DecoderVariant) -> tuple[int, ...]:
    return tuple(sorted({position for edit in sender for position in edit.positions}))
