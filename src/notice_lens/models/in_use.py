"""One thread at a time uses a model, and nothing that a use changed outlives it.

Hooks and switches are state of the model: a thread that runs it while another one has hooks on it gets the other one's
numbers. So every run, every `hooks` block and every sweep holds the model, and another thread waits. And they are state
that Ctrl-C may leave behind, since Python raises `KeyboardInterrupt` between any two steps, those of a clean-up
included. Three rules keep the model clean:

1. An undo is written down *before* the change that it undoes, and may run twice (`Changes`).
2. The lock is taken by a `with` statement on the lock itself, which no interrupt can split.
3. What is left all the same, after a second Ctrl-C during the clean-up of the first, is undone before anybody uses the
   model again.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from typing import Any, Literal, ParamSpec, TypeVar

import torch

from notice_lens.models.bridge import refuse_bridge
from notice_lens.models.hooks import AliasPoint, CopyingHookPoint

P = ParamSpec("P")
T = TypeVar("T")
Undo = Callable[[], None]

PATIENCE = 60.0
"""Seconds that a thread waits for a model before it is refused."""


class Changes:
    """The changes that one use has made to a model, and how each is undone."""

    def __init__(self) -> None:
        self._undos: list[Undo] = []

    def at_end(self, undo: Undo) -> None:
        """Call `undo` when the use ends. It may be called twice."""
        self._undos.append(undo)

    def set(self, target: Any, name: str, value: Any) -> None:
        """Set an attribute until the use ends."""
        self.at_end(partial(setattr, target, name, getattr(target, name)))
        setattr(target, name, value)

    def attach(
        self,
        point: CopyingHookPoint | AliasPoint,
        hook: Callable[..., Any],
        direction: Literal["fwd", "bwd"],
        **how: Any,
    ) -> Undo:
        """Attach a hook until the use ends, and return its undo; `how` are options of `add_hook`."""
        added: list[Any] = []
        undo = partial(_detach, point, added, point.attached_ids())
        self.at_end(undo)
        added.append(point.add_hook(hook, direction, **how))
        return undo

    def keep(self, undos: list[Undo]) -> None:
        """Make some of the changes last."""
        self._undos = [undo for undo in self._undos if not any(undo is kept for kept in undos)]

    def undo(self) -> None:
        """Undo every change, the last one first."""
        while self._undos:
            self._undos[-1]()
            self._undos.pop()


def _detach(point: CopyingHookPoint | AliasPoint, added: list[Any], before: set[int]) -> None:
    """Remove a hook, or, if attaching it was interrupted, everything that was not there before."""
    if added:
        point.discard(added[0])
    else:
        point.discard_all_but(before)


class InUse:
    """The lock of a model, and the changes to it while it is held."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._open: list[Changes] = []
        self._holder = ""

    def __reduce__(self) -> tuple[type["InUse"], tuple[()]]:
        # A copy of a model is not in use.
        return InUse, ()

    @contextmanager
    def held(self) -> Iterator[Changes]:
        """Hold the model for this thread, and at the end undo what was changed through the `Changes`.

        Raises:
            RuntimeError: Another thread has not let go of the model for `PATIENCE` seconds.
        """
        outermost = self._wait()
        with self._lock:
            if outermost:
                self._holder = threading.current_thread().name
                self._undo_leftovers()
            changes = Changes()
            self._open.append(changes)
            try:
                yield changes
            finally:
                try:
                    changes.undo()
                finally:
                    changes.undo()  # once more, where Ctrl-C broke off the first time
                    self._open.remove(changes)

    def _wait(self) -> bool:
        """Wait until no other thread holds the model. Return whether this thread did not hold it already."""
        if self._is_mine():
            return False
        try:
            if not self._lock.acquire(timeout=PATIENCE):
                raise RuntimeError(
                    f"the model is in use by the thread {self._holder!r}, which has kept it for {PATIENCE:.0f} s: "
                    "one thread at a time uses a model, and a `with model.hooks(...)` block holds it to its end. Wait "
                    "until that thread is done, or give each thread a copy.deepcopy(model)"
                )
        finally:
            # `held` takes it by `with`; twice, since Ctrl-C may break off the first.
            try:
                self._let_go()
            finally:
                self._let_go()
        return True

    def _let_go(self) -> None:
        if self._is_mine():
            self._lock.release()

    def _is_mine(self) -> bool:
        """Return whether this thread holds the model; the lock itself knows, whatever was interrupted."""
        return self._lock._is_owned()  # pyright: ignore[reportAttributeAccessIssue]

    def _undo_leftovers(self) -> None:
        for changes in self._open:
            changes.undo()
        self._open.clear()


def one_thread_at_a_time(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function whose first argument is a model, or its argument `model`: it holds the model while it runs.

    Modes of the caller that would change numbers or devices do not reach the function: autocast and a default device.
    A TransformerBridge in its place is refused with what to write; anything else is left to the function to refuse.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        model: Any = args[0] if args else kwargs.get("model")
        in_use = getattr(model, "in_use", None)
        if not isinstance(in_use, InUse):
            refuse_bridge(model)
            return function(*args, **kwargs)
        with in_use.held(), without_modes():
            return function(*args, **kwargs)

    return run


def outside_inference_mode(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function that makes its own tensors for autograd: it leaves the caller's `torch.inference_mode`."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        if not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    return run


@contextmanager
def without_modes() -> Iterator[None]:
    """Leave autocast, and put new tensors on the CPU, from where they go to the model."""
    with ExitStack() as modes:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                modes.enter_context(torch.autocast(device, enabled=False))
        # torch 2.7's get_default_device does not see a block of `with torch.device(...)`.
        if torch.empty(0).device != torch.device("cpu"):
            modes.enter_context(torch.device("cpu"))
        yield
