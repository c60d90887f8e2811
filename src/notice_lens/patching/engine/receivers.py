"""The ends of paths, and what an engine says about paths through its model."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from notice_lens.models.blip.steps import OUTPUT
from notice_lens.models.hook_names import HookName
from notice_lens.patching.engine.plan import END

Read = tuple[int, str]
"""A layer, and who reads there: `attn`, `cross_attn`, `mlp`; after the last block `output`."""


class Receiver(NamedTuple):
    """The end of a path.

    Attributes:
        hook: Queries, keys or values, what goes into an MLP's neurons (`mlp.hook_pre`), or `<stack>.output`.
        head: The head; None for all heads, and for modules without heads.
        freeze_layernorm: Whether LayerNorms on the path keep the base run's scale.
        freeze_mlp: Whether MLPs on the path keep what they write; else they read the changed stream.
    """

    hook: str
    head: int | None = None
    freeze_layernorm: bool = False
    freeze_mlp: bool = True

    def reads(self, stacks: Sequence[str]) -> tuple[str, Read]:
        """Return the stack whose stream it reads, and where; keys and values of cross-attention read another one."""
        name = HookName.parse(self.hook)
        assert name.stack is not None, "receivers are checked"
        module, _, leaf = name.leaf.rpartition(".")
        if module == "cross_attn" and leaf in ("hook_k", "hook_v"):
            return stacks[stacks.index(name.stack) - 1], (END, OUTPUT)
        return name.stack, ((END, OUTPUT) if name.layer is None else (name.layer, module))


@runtime_checkable
class PathRules(Protocol):
    """Which parts of a model send and receive.

    Attributes:
        stacks: In which senders may be, in the order of the forward pass.
        receiving: In which receivers may be, beside the outputs of `stacks`.
        senders: Activations that send.
        receivers: Activations that receive, beside the outputs of the stacks.
        refused: Why nothing sends in a stack, by stack.
        can_freeze_layernorm: Whether LayerNorms on a path can keep the base run's scale.
    """

    stacks: tuple[str, ...]
    receiving: tuple[str, ...]
    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    refused: Mapping[str, str]
    can_freeze_layernorm: bool

    def comes_before(self, hook: str, receiver: Receiver) -> bool:
        """Return whether a sender comes before the input of a receiver, in another module."""
        ...

    def goes(self, stack: str, receiver: Receiver) -> bool:
        """Return whether paths go from a stack to a receiver."""
        ...

    def instead(self, stack: str) -> str:
        """Return why paths of a stack go no further, and where they go, for a message."""
        ...
