"""A hook point under another name, for views that must not rename the model's own."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from transformer_lens.hook_points import HookPoint, LensHandle

from notice_lens.models.hook_names import HookName


class CopyingHookPoint(HookPoint):
    """A hook point whose forward hooks each get a copy of the activation.

    The hook points of every model here are of this class. It differs from TransformerLens's in three ways. It reports
    its layer although its name starts with a stack. It knows the axes of the activation, in words. And every forward
    hook gets a private, contiguous copy: a setter that writes in place changes what comes after, as in TransformerLens,
    and nothing else (not the keys that many runs share, not what another hook has cached).

    Args:
        shape: Axis words, for instance `"batch pos head d_head"`.
    """

    def __init__(self, shape: str):
        super().__init__()
        self.shape = shape

    @property
    def watched(self) -> bool:
        """Return whether a forward or backward hook is attached."""
        return bool(self._forward_hooks or self._backward_hooks)

    def layer(self) -> int:
        """Return the layer of this hook point. Raises ValueError if it belongs to no layer."""
        layer = HookName.parse(self.name or "").layer
        if layer is None:
            raise ValueError(f"hook point {self.name!r} belongs to no layer")
        return layer

    def add_hook(
        self,
        hook: Callable[..., Any],
        dir: Literal["fwd", "bwd"] = "fwd",
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
        alias_names: list[str] | None = None,
    ) -> LensHandle:
        """Attach a hook, as in TransformerLens; a forward hook gets its own copy."""
        attached = _on_private_copy(hook) if dir == "fwd" else hook
        handle = super().add_hook(attached, dir, is_permanent, level, prepend, alias_names)
        handle.user_hook = hook
        return handle

    def attached_ids(self) -> set[int]:
        """Return torch's ids of the hooks that are attached."""
        return {*self._forward_hooks, *self._backward_hooks}

    def discard_all_but(self, ids: set[int]) -> None:
        """Remove every hook but those with these of torch's ids, half-attached ones included."""
        for attached in (self._forward_hooks, self._backward_hooks):
            for number in [number for number in attached if number not in ids]:
                attached.pop(number, None)
        self.fwd_hooks = [handle for handle in self.fwd_hooks if handle.hook.id in ids]
        self.bwd_hooks = [handle for handle in self.bwd_hooks if handle.hook.id in ids]

    def discard(self, handle: LensHandle) -> None:
        """Remove this one hook; every other one stays."""
        handle.hook.remove()
        self.fwd_hooks = [other for other in self.fwd_hooks if other is not handle]
        self.bwd_hooks = [other for other in self.bwd_hooks if other is not handle]


def _on_private_copy(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Give the hook a copy to write on; if it returns nothing, the model computes with the copy."""

    def on_copy(activation: Tensor, hook: Any) -> Any:
        private = activation.clone(memory_format=torch.contiguous_format)
        result = user_hook(private, hook=hook)
        return private if result is None else result

    user_hook = hook
    return on_copy


class AliasPoint:
    """A hook point under another name: all that is attached, listed or removed here is the model's hook point's.

    Args:
        alias: The name that hooks are told.
        target: The model's hook point.
    """

    def __init__(self, alias: str, target: CopyingHookPoint):
        self.name = alias
        self.target = target
        self.shape = target.shape
        self._attached: list[LensHandle] = []

    def __repr__(self) -> str:
        return f"AliasPoint({self.name!r} of {self.target!r})"

    @property
    def fwd_hooks(self) -> list[LensHandle]:
        """The forward hooks that were attached under this name and still are."""
        return [handle for handle in self.target.fwd_hooks if _is_in(handle, self._attached)]

    @property
    def bwd_hooks(self) -> list[LensHandle]:
        """The backward hooks that were attached under this name and still are."""
        return [handle for handle in self.target.bwd_hooks if _is_in(handle, self._attached)]

    @property
    def ctx(self) -> dict:
        """The storage that hooks of the hook point share."""
        return self.target.ctx

    def clear_context(self) -> None:
        """Empty the storage."""
        self.target.clear_context()

    def layer(self) -> int:
        """The layer of the hook point."""
        return self.target.layer()

    def add_hook(
        self,
        hook: Callable[..., Any],
        dir: Literal["fwd", "bwd"] = "fwd",
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
    ) -> LensHandle:
        """Attach a hook, which is told this name."""
        handle = self.target.add_hook(hook, dir, is_permanent, level, prepend, [self.name])
        self._attached.append(handle)
        return handle

    def attached_ids(self) -> set[int]:
        """Return torch's ids of all hooks of the hook point."""
        return self.target.attached_ids()

    def discard_all_but(self, ids: set[int]) -> None:
        """Remove every hook of the hook point but those with these of torch's ids."""
        self.target.discard_all_but(ids)

    def discard(self, handle: LensHandle) -> None:
        """Remove this one hook; every other one stays."""
        self.target.discard(handle)
        self._attached = [other for other in self._attached if other is not handle]

    def has_hooks(
        self,
        dir: Literal["fwd", "bwd", "both"] = "both",
        including_permanent: bool = True,
        level: int | None = None,
    ) -> bool:
        """Return whether hooks were attached under this name and still are."""
        return bool(self._matching(dir, including_permanent, level))

    def remove_hooks(
        self,
        dir: Literal["fwd", "bwd", "both"] = "fwd",
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """Remove hooks that were attached under this name; the model's own stay."""
        for handle in self._matching(dir, including_permanent, level):
            self.discard(handle)

    def _matching(self, dir: str, including_permanent: bool, level: int | None) -> list[LensHandle]:
        handles = (self.fwd_hooks if dir != "bwd" else []) + (self.bwd_hooks if dir != "fwd" else [])
        return [
            handle
            for handle in handles
            if (including_permanent or not handle.is_permanent) and level in (None, handle.context_level)
        ]


def _is_in(handle: LensHandle, handles: list[LensHandle]) -> bool:
    return any(handle is other for other in handles)
