"""Path patching: what one part of the model tells another, and what the answer makes of it.

A path goes from a *sender* (a head, an MLP, an embedding) to a *receiver* (a head's query, key or value, an MLP's
input, a stack's output). Four runs define its effect:

1. The base run, and 2. the other run, as in any sweep.
3. The base run, in which the sender takes its values from the other run. A path lies in the stacks that it names: nodes
   between sender and receiver in those stacks are frozen at the base run. The receiver's input is recorded.
4. The base run, in which the receiver takes that changed input. Everything after the receiver runs free.

With attention frozen, what happens at one position depends on that position alone, and what every node writes there is
known: run 3 is not a forward pass but the base run's stream with the sender's difference, sent through the LayerNorms
(`Walk`), for all senders at once. Run 4 is a row of the wave whose edit carries its value.

Source: Wang et al. (arXiv 2211.00593), Goldowsky-Dill et al. (arXiv 2304.05969).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from notice_lens.models import HookedBLIP
from notice_lens.models.blip.attention import Attention
from notice_lens.models.blip.blocks import MLP, Block
from notice_lens.models.blip.layer_norm import LayerNorm
from notice_lens.models.blip.steps import (
    EMBEDDING,
    OUTPUT,
    Add,
    Apply,
    Attend,
    Stream,
    Transform,
    last_hook,
    norm_inputs,
    order,
    reading_points,
    sublayers,
)
from notice_lens.models.hook_names import HookName
from notice_lens.patching.engine.plan import END, VALUE_GIVEN, HookEdit, RowEdit
from notice_lens.patching.engine.receivers import Read, Receiver
from notice_lens.patching.engine.rows import Index
from notice_lens.patching.engine.runs import Run


@dataclass
class _Sender:
    """One or several nodes of one stack that send their values in one pair's other run.

    Attributes:
        pair: The pair.
        edits: The nodes, as they would be patched.
        positions: All positions that they are patched at.
        first: The layer of the first of them; -1 for embeddings.
        start: The first line of its positions in the walk.
    """

    pair: int
    edits: Sequence[RowEdit]
    positions: Index
    first: int
    start: int = 0

    @property
    def lines(self) -> slice:
        """The lines of its positions in the walk."""
        return slice(self.start, self.start + len(self.positions))

    @classmethod
    def of(cls, pair: int, edits: Sequence[RowEdit]) -> "_Sender":
        layers = [HookName.parse(edit.hook).layer for edit in edits]
        positions = np.unique(np.concatenate([edit.positions for edit in edits]))
        return cls(pair, edits, positions, min(-1 if layer is None else layer for layer in layers))


def received(
    run: Run, pairs: Sequence[int], senders: Sequence[Sequence[RowEdit]], receivers: Sequence[Receiver]
) -> list[RowEdit]:
    """Return run 3 of many paths: the input of each receiver, as an edit that carries its value.

    Args:
        run: The base run and the other ones, with `walk_hooks` recorded.
        pairs: The pair of each path.
        senders: What each sends: nodes of one stack, patched together.
        receivers: Where each ends.
    """
    known: dict[Any, _Sender] = {}
    own: list[_Sender] = []
    for pair, edits in zip(pairs, senders, strict=True):
        key = (pair, *((one.hook, one.source, one.head, one.positions.tobytes()) for one in edits))
        own.append(known.setdefault(key, _Sender.of(pair, edits)))
    # Which stack and which LayerNorms: paths that differ in these go by themselves.
    groups: dict[Any, list[int]] = {}
    for number, receiver in enumerate(receivers):
        stack, _ = receiver.reads(run.model.cfg.stacks)
        groups.setdefault((stack, receiver.freeze_layernorm, receiver.freeze_mlp), []).append(number)
    found: list[RowEdit | None] = [None] * len(own)
    for (stack, *frozen), numbers in groups.items():
        walk = Walk(run, stack, list({id(own[number]): own[number] for number in numbers}.values()), *frozen)
        wanted: dict[Read, list[int]] = {}
        for number in numbers:
            wanted.setdefault(receivers[number].reads(run.model.cfg.stacks)[1], []).append(number)
        for where, stream in walk.streams():
            for number, edit in _taken(run.model, stream, wanted.get(where, ()), own, receivers):
                found[number] = edit
    assert None not in found, "a path that does not exist"
    return [edit for edit in found if edit is not None]


def _taken(
    model: HookedBLIP, stream: Tensor, numbers: Sequence[int], own: Sequence[_Sender], receivers: Sequence[Receiver]
) -> Iterator[tuple[int, RowEdit]]:
    """Yield the edits of receivers that read at one step, from the streams there."""
    by_hook: dict[str, list[int]] = {}
    for number in numbers:
        by_hook.setdefault(receivers[number].hook, []).append(number)
    for hook, several in by_hook.items():
        # A stream is projected once, however many heads read it.
        senders = {id(own[number]): own[number] for number in several}
        sizes = [len(sender.positions) for sender in senders.values()]
        projected = _project(model, hook, torch.cat([stream[sender.lines] for sender in senders.values()]))
        parts = dict(zip(senders, projected.split(sizes), strict=True))
        for number in several:
            head, value = receivers[number].head, parts[id(own[number])]
            value = value if head is None else value[:, head]
            yield number, HookEdit(hook, own[number].positions, VALUE_GIVEN, head, value=value)


def _project(model: HookedBLIP, hook: str, stream: Float[Tensor, "line d_model"]) -> Tensor:
    """Return the activation of a hook point, from the stream that is read there: [line, ...]."""
    name = HookName.parse(hook)
    if name.layer is None:
        return stream
    block: Any = model.stack(name.stack or "").blocks[name.layer]
    module, _, leaf = name.leaf.rpartition(".")
    if leaf == "hook_pre":
        return getattr(block, module).input(stream)
    attn: Attention = getattr(block, module)
    project = {"hook_q": attn.query, "hook_k": attn.key, "hook_v": attn.value}[leaf]
    return rearrange(project(stream), "line (head d_head) -> line head d_head", head=attn.n_heads)


class Walk:
    """Run 3: streams of the base run, changed by senders, with all that is between frozen.

    Args:
        run: The base run and the other ones.
        stack: The stack of the senders.
        senders: The nodes whose output is sent.
        freeze_layernorm: Whether LayerNorms keep the base run's scale.
        freeze_mlp: Whether MLPs keep their output.
    """

    def __init__(
        self,
        run: Run,
        stack: str,
        senders: Sequence[_Sender],
        freeze_layernorm: bool = False,
        freeze_mlp: bool = True,
    ) -> None:
        self.run, self.name, self.stack = run, stack, run.model.stack(stack)
        self.freeze_layernorm, self.freeze_mlp = freeze_layernorm, freeze_mlp
        # A line is one position of one sender; those that start first stand first: the started ones are a prefix.
        ordered = sorted(senders, key=lambda sender: sender.first)
        ends = np.cumsum([len(sender.positions) for sender in ordered])
        for sender, end in zip(ordered, ends.tolist(), strict=True):
            sender.start = end - len(sender.positions)
        self.first = np.concatenate([np.full(len(sender.positions), sender.first) for sender in ordered])
        self.pairs = self._index(np.concatenate([np.full(len(one.positions), one.pair) for one in ordered]))
        self.positions = self._index(np.concatenate([sender.positions for sender in ordered]))
        self.sent: dict[tuple[int, str], list[tuple[Tensor, RowEdit]]] = {}
        for sender in ordered:
            for edit in sender.edits:
                name = HookName.parse(edit.hook)
                lines = self._index(sender.start + np.searchsorted(sender.positions, edit.positions))
                at = (-1 if name.layer is None else name.layer, name.leaf)
                self.sent.setdefault(at, []).append((lines, edit))

    def streams(self) -> Iterator[tuple[Read, Float[Tensor, "line d_model"]]]:
        """Yield the input of each module of the stack, in the order of the forward pass, for all started lines."""
        first = max(0, int(self.first.min()))
        x = self._embedded() if self.first.min() < 0 else self._at("hook_resid_pre", first, slice(0))
        blocks: Any = self.stack.blocks
        for layer in range(first, len(blocks)):
            joining = slice(len(x), int((self.first <= layer).sum()))
            x = torch.cat([x, self._at("hook_resid_pre", layer, joining)])
            x = yield from self._block(blocks[layer], layer, x)
        yield (END, OUTPUT), self._norm(self.stack.ln_final, x, len(blocks) - 1, last_hook(self.stack.steps))

    def _block(self, block: Block, layer: int, x: Tensor) -> Iterator[Any]:
        """Yield the input of each module of a block, with attention frozen; return the stream after the block."""
        going_in = norm_inputs(block.steps)
        written = x
        for step in block.steps:
            match step:
                case Apply(module):
                    x = self._norm(block[module], x, layer, going_in[module])
                case Attend(module, out, norm) | Transform(module, out, norm):
                    read = x if norm is None else self._norm(block[norm], x, layer, going_in[norm])
                    yield (layer, module), read
                    written = (
                        self._written(block, module, out, layer, len(x))
                        if isinstance(step, Attend)
                        else self._mlp_out(getattr(block, module), out, layer, read)
                    )
                case Add():
                    x = x + written
                case Stream():
                    pass
                case _:
                    assert_never(step)
        return x

    def _embedded(self) -> Tensor:
        """Return the stream before block 0, of lines whose sender is an embedding."""
        aboard = slice(0, int((self.first < 0).sum()))
        words, positions = (self._at(hook, None, aboard) for hook in EMBEDDING)
        base = words + positions
        changed = base.clone()
        for hook in EMBEDDING:
            for lines, edit in self.sent.get((-1, hook), ()):
                changed[lines] += self._difference(lines, edit)
        return self._scaled(self.stack.ln_embed, changed, base)

    def _written(self, block: Block, module: str, out_hook: str, layer: int, aboard: int) -> Tensor:
        """Return a module's output: the base run's, with the differences of the senders among its heads."""
        out = self._at(out_hook, layer, slice(0, aboard)).clone()
        for lines, edit in self.sent.get((layer, out_hook), ()):
            out[lines] += self._difference(lines, edit)
        for lines, edit in self.sent.get((layer, f"{module}.hook_z"), ()):
            W_O = getattr(block, module).W_O[[edit.head] if edit.head is not None else slice(None)]
            difference = rearrange(self._difference(lines, edit), "line ... d_head -> line (...) d_head")
            out[lines] += einsum(difference, W_O, "line head d_head, head d_head d_model -> line d_model")
        for lines, edit in self.sent.get((layer, f"{module}.hook_result"), ()):
            difference = rearrange(self._difference(lines, edit), "line ... d_model -> line (...) d_model")
            out[lines] += difference.sum(1)
        return out

    def _mlp_out(self, mlp: MLP, out_hook: str, layer: int, read: Tensor) -> Tensor:
        """Return an MLP's output: the base run's, or that of the changed stream; a sender has the other run's."""
        base = self._at(out_hook, layer, slice(0, len(read)))
        out = base.clone() if self.freeze_mlp else mlp.output(mlp.act_fn(mlp.input(read)))
        for lines, edit in self.sent.get((layer, out_hook), ()):
            out[lines] = base[lines] + self._difference(lines, edit)
        return out

    def _norm(self, norm: Any, x: Tensor, layer: int, before: str) -> Tensor:
        """Return the output of a LayerNorm on the path.

        Args:
            norm: The module.
            x: What goes in.
            layer: Its layer.
            before: The hook point of the stream that goes into it.
        """
        if not self.freeze_layernorm or not isinstance(norm, LayerNorm):
            return norm(x)
        return self._scaled(norm, x, self._at(before, layer, slice(0, len(x))))

    def _scaled(self, norm: Any, x: Tensor, base: Tensor) -> Tensor:
        """Return the output of a LayerNorm that divides by the scale of the base run's stream."""
        if not self.freeze_layernorm or not isinstance(norm, LayerNorm):
            return norm(x)
        scale = (base.var(-1, correction=0, keepdim=True) + norm.eps).sqrt()
        return (x - x.mean(-1, keepdim=True)) / scale * norm.weight + norm.bias

    def _at(self, hook: str, layer: int | None, lines: slice) -> Tensor:
        """Return the base run's values at some lines."""
        name = f"{self.name}.{hook}" if layer is None else f"{self.name}.blocks.{layer}.{hook}"
        return self.run.values("self", name)[self.pairs[lines], self.positions[lines]]

    def _difference(self, lines: Tensor, edit: RowEdit) -> Tensor:
        """Return a node's value in the other run minus its value in the base run: [line, ...]."""
        where = (self.pairs[lines], self.positions[lines])
        new, old = (self.run.values(source, edit.hook)[where] for source in (edit.source, "self"))
        return (new - old) if edit.head is None else (new - old)[:, edit.head]

    def _index(self, numbers: Index) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(numbers)).to(self.run.model.device)


class StepPaths:
    """Which parts of a BLIP send and receive; `PathRules`."""

    senders: tuple[str, ...] = (
        *EMBEDDING, "attn.hook_z", "attn.hook_result", "hook_attn_out", "cross_attn.hook_z", "cross_attn.hook_result",
        "hook_cross_attn_out", "hook_mlp_out",
    )  # fmt: skip
    receivers: tuple[str, ...] = (
        *(f"{module}.hook_{leaf}" for module in ("attn", "cross_attn") for leaf in "qkv"),
        "mlp.hook_pre",
    )
    can_freeze_layernorm: bool = True

    def __init__(self, model: HookedBLIP) -> None:
        self.model = model
        self.stacks: tuple[str, ...] = tuple(model.cfg.stacks)
        self.receiving = self.stacks
        self.refused: Mapping[str, str] = {}

    def comes_before(self, hook: str, receiver: Receiver) -> bool:
        """Return whether a sender comes before the input of a receiver, in another module."""
        sender = HookName.parse(hook)
        layer, module = receiver.reads(self.stacks)[1]
        if layer == END:
            return True
        steps = self.model.stack(sender.stack or "").steps
        points = order(steps)
        sends = (-1 if sender.layer is None else sender.layer, points.index(sender.leaf))
        return sends < (layer, points.index(reading_points(steps)[module]))

    def goes(self, stack: str, receiver: Receiver) -> bool:
        """Return whether paths go from a stack to a receiver: in it, or to the keys and values that read its output."""
        read, (layer, _) = receiver.reads(self.stacks)
        ends = self.stacks.index(HookName.parse(receiver.hook).stack or "")
        own = self.stacks.index(stack)
        return read == stack and (layer != END or ends in (own, own + 1))

    def instead(self, stack: str) -> str:
        """Return why paths of a stack go no further, and where they go."""
        following = self.stacks[self.stacks.index(stack) + 1]
        return (
            f"it would go through the cross-attention of `{following}`, which is frozen or not named; receivers of "
            f"`{stack}` are {stack}.{OUTPUT} and the keys and values of {following}.cross_attn"
        )


def walk_hooks(model: HookedBLIP, receivers: Iterable[Receiver]) -> list[str]:
    """Return the hook points of the base run that paths to these receivers need, beside the streams."""
    stacks, found = model.cfg.stacks, {}
    for name, frozen in {(one.reads(stacks)[0], one.freeze_layernorm) for one in receivers}:
        stack = model.stack(name)
        leaves = [step.out for step in sublayers(stack.steps)]
        if frozen:
            leaves += [*norm_inputs(stack.steps).values(), last_hook(stack.steps)]
        found.update(dict.fromkeys(f"{name}.blocks.{n}.{leaf}" for n in range(stack.cfg.n_layers) for leaf in leaves))
    return list(found)
