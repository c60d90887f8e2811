"""The identity of a sweep apart from its options, in comparable values: the model and the code of metrics.

A model is known by the digest of all its weights and by every setting of its config, its image processor and its
tokenizer. A function is known by what it runs and reads: byte code, constants, defaults, closure, the globals that it
names, and these in their turn, down to libraries, which are known by name and version. Where something cannot be read
like that (a compiled function, an open file), a metric has no identity, and a store that was begun with it is not
resumed.
"""

import copyreg
import dis
import functools
import hashlib
import json
import pickle
import platform
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from notice_lens.models.offloading import numbers_of

if TYPE_CHECKING:
    from notice_lens.models.protocol import VisionLanguageModel

LIBRARIES = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
OWN = Path(__file__).parents[1]
UNREAD = """__dict__ __weakref__ __doc__ __module__ __firstlineno__ __static_attributes__ _abc_impl __dataclass_fields__
__dataclass_params__""".split()
"""Attributes of a class that say nothing of what it does beside the others."""
EXACT = (bool, int, float, complex, str, bytes, type(None), type(...))
_weights: "WeakKeyDictionary[Any, tuple[Any, str]]" = WeakKeyDictionary()


def fingerprint(model: "VisionLanguageModel") -> str:
    """Return a digest of everything of a model that moves its numbers: all weights, and all of `model_settings`."""
    described = json.dumps([_weights_digest(model), model_settings(model)], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()[:32]


@functools.cache
def installed_version(package: str) -> str:
    """Return the version of an installed package; reading it takes milliseconds."""
    return version(package)


def model_settings(model: "VisionLanguageModel") -> dict[str, Any]:
    """Return the settings that move a model's numbers as plain values: config, processor, precision."""
    config = {
        name: value
        for name, value in asdict(cast("Any", model.cfg)).items()
        if name not in ("name_or_path", "revision")
    }
    processor = model.processor
    found = {"config": config, **model.settings, "matmul": torch.get_float32_matmul_precision()}
    if processor is not None:
        found["image_processor"] = json.loads(json.dumps(processor.image_processor.to_dict(), default=str))
        found["tokenizer"] = _tokenizer_digest(processor.tokenizer)
    return found


def metric_codes(metrics: Mapping[str, Any], model: "VisionLanguageModel") -> dict[str, str]:
    """Return a digest of each of the caller's metrics; empty if no metric has a reliable one.

    Args:
        metrics: Functions by name.
        model: The model of the sweep, which a metric may refer to: it is compared by itself.
    """
    parts = (model.processor, *(getattr(model.processor, name, None) for name in ("tokenizer", "image_processor")))
    known = {id(model): "model", **{id(part): "part of the model" for part in parts if part is not None}}
    return {name: code_digest(function, known) for name, function in metrics.items()}


def _weights_digest(model: "VisionLanguageModel") -> str:
    """Return the SHA-256 of all weights. It is kept until a weight is changed, which a sum over their bits tells."""
    module = cast("torch.nn.Module", model)
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    state = [(name, tensor.shape, tensor.dtype, *_changes(tensor)) for name, tensor in tensors.items()]
    if model not in _weights or _weights[model][0] != state:
        found = hashlib.sha256()
        for name, tensor in tensors.items():
            found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            found.update(_bits(numbers_of(module, name)).cpu().numpy().data)
        _weights[model] = (state, found.hexdigest())
    return _weights[model][1]


def _changes(tensor: Tensor) -> tuple[int, ...]:
    """Return values that an in-place change of a tensor alters: torch's counter, which misses `.data`, and two sums."""
    if tensor.is_meta:  # kept elsewhere by accelerate, which only reads it
        return (tensor._version,)
    bits = _bits(tensor)
    words = len(bits) // 8 * 8
    sums = int(bits[:words].view(torch.int64).sum()), int(bits[words:].sum())
    return (-1 if tensor.is_inference() else tensor._version, *sums)


def _bits(tensor: Tensor) -> Tensor:
    """Return a copy of a tensor's bits as bytes."""
    return tensor.detach().clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8)


def _tokenizer_digest(tokenizer: Any) -> str:
    """Return the SHA-256 of a tokenizer: rules and vocabulary, without how it fills up, which calls change."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    described = json.loads(backend.to_str()) if backend is not None else {"vocabulary": tokenizer.get_vocab()}
    described |= {"padding": None, "truncation": None, "class": type(tokenizer).__name__}
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return hashlib.sha256(json.dumps([described, special], sort_keys=True).encode()).hexdigest()


def code_digest(function: Any, known: Mapping[int, str] | None = None) -> str:
    """Return a digest of what a function does; empty where that cannot be told.

    Args:
        function: The function, or an object that holds some.
        known: Names of objects, by id, that are compared by themselves.
    """
    found = _Digest(known or {})
    try:
        found.add(function)
    except Exception:  # whatever an object raises that does not want to be read
        return ""
    return f"{found.sum.hexdigest()[:32]}, Python {'.'.join(platform.python_version_tuple()[:2])}"


class _Digest:
    """The digest of a value and of all that it refers to.

    Args:
        known: Names of objects, by id, that are not read.
    """

    def __init__(self, known: Mapping[int, str]) -> None:
        self.sum = hashlib.sha256()
        self._seen: dict[int, Any] = dict(known)
        self._alive: list[Any] = []

    def add(self, value: Any) -> None:
        """Add a value. Raises TypeError, or what it raises itself, where it cannot be read."""
        if type(value) in EXACT:
            return self._put(type(value).__qualname__, repr(value))
        if type(value) in (set, frozenset):
            return self._put("set", *sorted(self._apart(item) for item in value))
        if type(value) in (list, tuple, dict):
            items = list(value.items()) if type(value) is dict else value
            self._put(type(value).__qualname__, str(len(items)))
            return self._all(*items)
        if id(value) in self._seen:
            return self._put("again", str(self._seen[id(value)]))
        self._seen[id(value)] = len(self._seen)
        self._alive.append(value)  # or another object could get its id
        self._add_object(value)

    def _add_object(self, value: Any) -> None:
        if isinstance(value, Tensor | np.ndarray):
            plain = value if isinstance(value, np.ndarray) else _bits(value).cpu().numpy()
            self._put(str(value.dtype), str(tuple(value.shape)))
            return self.add(plain.tolist() if plain.dtype.hasobject else plain.tobytes())
        if isinstance(value, CodeType):
            return self._all(
                value.co_code, value.co_exceptiontable, value.co_consts, value.co_names, value.co_freevars,
                value.co_argcount, value.co_kwonlyargcount, value.co_flags,
            )  # fmt: skip
        if isinstance(value, ModuleType):
            return self._put("module", value.__name__, _version(value.__name__))
        if isinstance(value, FunctionType | type) and (library := _library(value, value.__qualname__)):
            return self._put(library, value.__qualname__)
        if isinstance(value, FunctionType):
            cells = [_content(cell) for cell in value.__closure__ or ()]
            self._all(value.__code__, value.__defaults__, value.__kwdefaults__, cells, vars(value))
            return self._all(*_globals_of(value))
        if isinstance(value, MethodType):
            return self._all(value.__func__, value.__self__)
        if hasattr(type(value), "__get__") and hasattr(value, "__wrapped__"):  # such as staticmethod, functools.cache
            return self._all(type(value).__name__, value.__wrapped__)
        if isinstance(value, property):
            return self._all("property", value.fget, value.fset, value.fdel)
        if isinstance(value, type):
            own = sorted((name, item) for name, item in vars(value).items() if name not in UNREAD)
            return self._all(value.__qualname__, value.__bases__, *own)
        reduce = copyreg.dispatch_table.get(type(value))
        reduced = value.__reduce_ex__(4) if reduce is None else reduce(value)
        if not isinstance(reduced, str):
            return self._all(*(list(part) if isinstance(part, Iterator) else part for part in reduced))
        if not (library := _library(value, reduced)):
            raise TypeError(f"{reduced} is compiled")
        self._put(library, reduced)

    def _all(self, *values: Any) -> None:
        for value in values:
            self.add(value)

    def _apart(self, value: Any) -> str:
        """Return the digest of one item of a set: sets have no order."""
        found = _Digest(self._seen)
        found.add(value)
        return found.sum.hexdigest()

    def _put(self, *texts: str) -> None:
        for text in texts:
            self.sum.update(f"{len(text)}:{text}".encode("utf-8", "surrogatepass"))


def _content(cell: Any) -> Any:
    """Return the content of a closure's cell; Ellipsis if it has no value yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return ...


def _globals_of(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the globals that a function names, with those that it names of the caller's own modules."""
    codes, steps = [function.__code__], list[dis.Instruction]()
    for code in codes:
        steps += dis.get_instructions(code)
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    names = dict.fromkeys(step.argval for step in steps if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    found = [(name, function.__globals__[name]) for name in names if name in function.__globals__]
    for name, value in found:
        yield name, value
        if isinstance(value, ModuleType) and not _is_library(value):
            inside = {own: vars(value)[own] for code in codes for own in code.co_names if own in vars(value)}
            known = {id(item) for _, item in found}
            found += [(f"{name}.{own}", item) for own, item in inside.items() if id(item) not in known]


def _library(value: Any, name: str) -> str:
    """Return the library that has a value under a name, and its version; empty where none has."""
    module = sys.modules.get(pickle.whichmodule(value, name))  # pyright: ignore[reportAttributeAccessIssue]
    try:
        found = functools.reduce(getattr, name.split("."), module)
    except AttributeError:  # it is of a function's own scope
        return ""
    if module is None or found is not value or not _is_library(module):
        return ""
    return f"{module.__name__.partition('.')[0]} {_version(module.__name__)}"


def _is_library(module: ModuleType) -> bool:
    """Return whether a module is of an installed package, of Python or of this package, told apart by versions."""
    # A compiled part of a library may have no file.
    package = sys.modules.get(module.__name__.partition(".")[0], module)
    file = getattr(module, "__file__", None) or getattr(package, "__file__", None)
    if file is None:
        return package.__name__ in sys.builtin_module_names
    return any(Path(file).is_relative_to(folder) for folder in (*LIBRARIES, OWN))


def _version(module: str) -> str:
    return str(getattr(sys.modules.get(module.partition(".")[0]), "__version__", ""))
