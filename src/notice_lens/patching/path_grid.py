"""The shape of a result of path patching: which paths there are, checked against the model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from notice_lens.errors import one_of
from notice_lens.models.blip.steps import EMBEDDING, OUTPUT, order, reading_points
from notice_lens.models.hook_names import HookName
from notice_lens.patching.edits import Site
from notice_lens.patching.engine.measure import Cell, CellEdit
from notice_lens.patching.engine.plan import END
from notice_lens.patching.grid import Grid, grid_of_sites
from notice_lens.patching.paths import Receiver
from notice_lens.patching.positions import Places

if TYPE_CHECKING:
    from notice_lens.models import HookedBLIP

SENDERS = (
    *EMBEDDING, "attn.hook_z", "attn.hook_result", "hook_attn_out", "cross_attn.hook_z", "cross_attn.hook_result",
    "hook_cross_attn_out", "hook_mlp_out",
)  # fmt: skip
RECEIVERS = (*(f"{module}.hook_{leaf}" for module in ("attn", "cross_attn") for leaf in "qkv"), "mlp.hook_pre")


@dataclass(frozen=True)
class Paths:
    """Which paths are patched. Built by `Paths.of`, which checks it.

    Attributes:
        senders: Sites of one stack.
        joint: Whether all of them, in all layers and heads, are sent together.
        receiver: Queries, keys, values or an MLP's input; or the name of a stack whose output it is.
        freeze_layernorm: Whether LayerNorms on the path keep the base run's scale.
        freeze_mlp: Whether MLPs on the path keep what they write.
    """

    senders: tuple[Site, ...]
    joint: bool
    receiver: Site | str
    freeze_layernorm: bool
    freeze_mlp: bool

    @classmethod
    def of(cls, model: "HookedBLIP", senders: Sequence[Site], joint: bool, receiver: Any, **freeze: bool) -> "Paths":
        """The paths.

        Args:
            model: The model.
            senders: Where they start.
            joint: See the class.
            receiver: A checked `Site`, `logits`, or `<stack>.output`.
            **freeze: See the class.

        Raises:
            ValueError: No path goes from there to there.
        """
        stacks = {site.stack for site in senders}
        if len(stacks) > 1:
            raise ValueError(f"senders of one call are in one stack; got {', '.join(sorted(stacks))}")
        for site in senders:
            if site.activation not in SENDERS:
                short = [f"{site.stack}.{name.replace('hook_', '')}" for name in SENDERS]
                raise ValueError(one_of("sender", site.name, short) + ": heads, MLPs and embeddings send")
        if not isinstance(receiver, Site):
            receiver = senders[0].stack if receiver == "logits" else str(receiver).removesuffix(f".{OUTPUT}")
        paths = cls(tuple(senders), joint, receiver, **freeze)
        paths._check(model.cfg.stacks)
        return paths

    @property
    def stack(self) -> str:
        """The senders' stack."""
        return self.senders[0].stack

    def _check(self, stacks: Sequence[str]) -> None:
        ends = self.receiver if isinstance(self.receiver, str) else self.receiver.stack
        what = f"{ends}.{OUTPUT}" if isinstance(self.receiver, str) else self.receiver.name
        stack, (layer, _) = next(self.receivers())[1].reads(stacks)
        if stack == self.stack and (layer != END or ends == stack or stacks.index(ends) == stacks.index(stack) + 1):
            return
        if stacks.index(ends) < stacks.index(self.stack):
            raise ValueError(f"no path from {self.stack} to {what}: `{ends}` comes before `{self.stack}`")
        if ends == self.stack:
            raise ValueError(
                f"no path from {self.stack} to {what}: these read `{stack}` alone; senders have to be there"
            )
        following = stacks[stacks.index(self.stack) + 1]
        raise ValueError(
            f"no path from {self.stack} to {what}: it would go through the cross-attention of `{following}`, which is "
            f"frozen or not named; receivers of `{self.stack}` are {self.stack}.{OUTPUT} and the keys and values of "
            f"{following}.cross_attn"
        )

    def receivers(self) -> Iterator[tuple[dict[str, Any], Receiver]]:
        """Every receiver with its labels."""
        freeze = (self.freeze_layernorm, self.freeze_mlp)
        if isinstance(self.receiver, str):
            yield {}, Receiver(f"{self.receiver}.{OUTPUT}", None, *freeze)
            return
        for layer in self.receiver.layers:
            for head in (None,) if self.receiver.heads is None else self.receiver.heads:
                labels = {"receiver_layer": layer, **({} if head is None else {"receiver_head": head})}
                yield labels, Receiver(self.receiver.hook(layer), head, *freeze)

    def exists(self, model: "HookedBLIP", hook: str, receiver: Receiver) -> bool:
        """Whether a sender comes before what a receiver reads, in another module."""
        steps = model.stack(self.stack).steps
        points, (layer, module) = order(steps), receiver.reads(model.cfg.stacks)[1]
        if layer == END:
            return True
        sender = HookName.parse(hook)
        sends = (-1 if sender.layer is None else sender.layer, points.index(sender.leaf))
        return sends < (layer, points.index(reading_points(steps)[module]))


def grid_of_paths(model: "HookedBLIP", paths: Paths, places: Places, answer_length: int) -> Grid:
    """Every path of some senders and receivers; where there is none, there is no cell, and the result has NaN.

    Args:
        model: The model.
        paths: Which.
        places: Positions of the pairs.
        answer_length: Positions of the longest answer.

    Raises:
        ValueError: No receiver comes after a sender.
    """
    grid = _sender_grid(model, places, paths, answer_length)
    found = list(paths.receivers())
    coords = {dim: list(dict.fromkeys(labels[dim] for labels, _ in found)) for dim in found[0][0]}
    own = {f"sender_{dim}" if dim in ("site", "layer", "head") else dim: grid.coords[dim] for dim in grid.dims}
    cells = []
    for cell in grid.cells:
        for labels, receiver in found:
            if any(paths.exists(model, edit.hook, receiver) for edit in cell.edits):
                place = (*cell.place, *(coords[dim].index(labels[dim]) for dim in coords))
                cells.append(Cell(place, cell.edits, receiver))
    if not cells:
        raise ValueError(
            f"no path from {grid.cells[0].edits[0].hook} to {found[-1][1].hook}: a receiver comes after its sender, "
            "and in another module; the order in a block is self-attention, cross-attention, MLP"
        )
    return Grid((*own, *coords), {**own, **coords}, cells)


def _sender_grid(model: "HookedBLIP", places: Places, paths: Paths, answer_length: int) -> Grid:
    """What is sent: every sender by itself, or all of them together at each label of positions."""
    if not paths.joint:
        return grid_of_sites(model, places, paths.senders, "other", answer_length, len(paths.senders) > 1)
    grids = [grid_of_sites(model, places, [site], "other", answer_length, False) for site in paths.senders]
    labels = [{dim: tuple(grid.coords[dim]) for dim in grid.dims if dim not in ("layer", "head")} for grid in grids]
    if any(one != labels[0] for one in labels):
        raise ValueError(f"senders that go together are at the same positions; got {', '.join(map(str, labels))}")
    together: dict[tuple[int, ...], list[CellEdit]] = {}
    for grid in grids:
        kept = [number for number, dim in enumerate(grid.dims) if dim in labels[0]]
        for cell in grid.cells:
            together.setdefault(tuple(cell.place[number] for number in kept), []).extend(cell.edits)
    cells = [Cell(place, tuple(edits)) for place, edits in together.items()]
    return Grid(tuple(labels[0]), {dim: list(own) for dim, own in labels[0].items()}, cells)
