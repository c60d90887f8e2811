"""A pretended GPU: tensors that say they are on another device and are computed on the CPU, with a GPU's rules.

It needs no GPU and gives real numbers, so whole sweeps run on it. (Fake tensors of torch have no numbers, and a CPU
build of torch cannot even slice those on `cuda`.) The device is called `meta`, the one besides the CPU that every build
of torch knows. Two faults that no CPU shows are found:

- **Mixed devices.** An operation on a tensor of the device and another one on the CPU raises, as on a real GPU.
  Indices and numbers without an axis may be on the CPU.
- **Hidden synchronisations.** Whatever waits for a value of the device (`.item()`, `bool(tensor)`, `.cpu()`,
  `nonzero`, a mask as an index) is written down, with the functions that were running.

Limits: no kernels of CUDA, hence no word on their numbers, their memory or their speed; no gradients.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("meta")
aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
"""Their second argument may be on the CPU."""
WAITING = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default, aten.masked_select.default,
    aten._unique2.default, aten.unique_dim.default, aten.bincount.default, aten.repeat_interleave.Tensor,
}  # fmt: skip
"""Operations whose result the host has to wait for."""


class OnGPU(Tensor):
    """A tensor of the pretended device.

    Attributes:
        inner: Its numbers, on the CPU.
    """

    inner: Tensor
    is_meta = False  # pyright: ignore -- weights without numbers are told by it
    is_cuda = True  # pyright: ignore

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnGPU":
        found = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=GPU,
        )
        found.inner = inner
        return found

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(_listed(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_listed(index), value)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"can't convert {GPU} device type tensor to numpy")

    def __repr__(self) -> str:
        return f"OnGPU({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} on a tensor of the pretended device while it is off")


class Wait(NamedTuple):
    """One synchronisation.

    Attributes:
        operation: Its name.
        running: The functions that were running, the innermost first.
    """

    operation: str
    running: tuple[str, ...]


class PretendGPU(TorchDispatchMode):
    """Computes on the pretended device while it is on.

    Attributes:
        waits: The synchronisations so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[Wait] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        assert all(isinstance(one, OnGPU) or one.device != GPU for one in tensors), f"{func}: a tensor without numbers"
        here = any(isinstance(one, OnGPU) for one in tensors)
        device = kwargs.get("device")
        there = here if device is None else torch.device(device) == GPU
        if func is aten._fused_sdp_choice.default:
            return 0  # attention by products: its kernels are CUDA's own
        if here:
            self._check(func, args, tensors)
            leaves_device = func in COPIES and (func is aten.copy_.default and not isinstance(args[0], OnGPU))
            by_mask = func in INDEXED and any(
                isinstance(one, OnGPU) and one.dtype in (torch.bool, torch.uint8) for one in args[1]
            )
            if func in WAITING or by_mask or leaves_device or not there:
                self.waits.append(Wait(str(func), _running()))
        found = func(*tree_map(_inner, args), **self._on_cpu(kwargs))
        if func._schema.name.endswith("_") and "::_" not in func._schema.name and tensors:
            return args[0]
        if "out" in kwargs:
            return kwargs["out"]
        return tree_map(_outer, found) if there else found

    @staticmethod
    def _on_cpu(kwargs: dict[str, Any]) -> dict[str, Any]:
        own = tree_map(_inner, kwargs)
        return {**own, "device": torch.device("cpu")} if own.get("device") is not None else own

    @staticmethod
    def _check(func: Any, args: Any, tensors: list[Tensor]) -> None:
        """Raise RuntimeError where tensors of both devices meet."""
        if func in COPIES:
            return
        if func in INDEXED:
            tensors = [args[0], *args[2:3]]
            if not isinstance(args[0], OnGPU) and any(isinstance(one, OnGPU) for one in args[1]):
                raise RuntimeError(f"{func}: indices on {GPU} of a tensor on the CPU")
        strangers = [one for one in tensors if not isinstance(one, OnGPU) and one.ndim]
        if strangers and len(strangers) < len(tensors):
            shapes = ", ".join(f"{list(one.shape)} on {one.device}" for one in tensors)
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, got {shapes}")


def _listed(index: Any) -> Any:
    """Return an index with lists as tensors on the CPU; torch would put them on the device without the mode."""
    if isinstance(index, tuple):
        return tuple(map(_listed, index))
    return torch.tensor(index) if isinstance(index, list) else index


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, OnGPU) else value


def _outer(value: Any) -> Any:
    return OnGPU(value) if isinstance(value, Tensor) and not isinstance(value, OnGPU) else value


def _running() -> tuple[str, ...]:
    """Return the names of the running functions of the package, the innermost first."""
    found, frame = [], sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if "/notice_lens/" in code.co_filename:
            found.append(f"{code.co_filename.partition('/notice_lens/')[2]}:{frame.f_lineno} {code.co_qualname}")
        frame = frame.f_back
    return tuple(found)


def moved(model: nn.Module) -> nn.Module:
    """Put a model's weights and buffers on the pretended device, in place, and return it."""
    new: dict[nn.Parameter, nn.Parameter] = {}  # one for weights that are tied
    with PretendGPU():
        for module in model.modules():
            for name, weight in module._parameters.items():
                if weight is not None:
                    if weight not in new:
                        new[weight] = nn.Parameter(OnGPU(weight.detach()), requires_grad=False)
                    module._parameters[name] = new[weight]
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = OnGPU(buffer)
    return model


def _made_there(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return `torch.tensor` or the like, made on the CPU and copied: torch would make them before any mode sees it."""

    def made(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        if not isinstance(data, Tensor):
            data = tree_map(lambda one: one.item() if isinstance(one, OnGPU) else one, data)
        found = data if isinstance(data, OnGPU) else make(data, *args, **kwargs)
        return found if device is None else found.to(device)

    return made


@contextmanager
def pretended() -> Iterator[PretendGPU]:
    """Turn the pretended device on for the length of a `with` block."""
    with ExitStack() as stack:
        for name in ("tensor", "as_tensor"):
            stack.enter_context(mock.patch.object(torch, name, _made_there(getattr(torch, name))))
        yield stack.enter_context(PretendGPU())
