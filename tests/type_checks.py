"""Types and shapes of arguments and results are checked while tests run, at little cost.

jaxtyping's import hook puts a check around every function, which compares shapes among arguments and result and takes
some 30 microseconds a call. Three functions in four say nothing of shapes; beartype alone checks these, in one. Checks
are built when a function is called for the first time: a test calls few of them.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, ForwardRef, Literal, get_args, get_origin

import jaxtyping
from beartype import beartype

with_shapes = jaxtyping.jaxtyped


def install(package: str) -> None:
    """Check the functions of a package that is not imported yet."""
    jaxtyping.jaxtyped = checked
    jaxtyping.install_import_hook([package], "beartype.beartype")


def checked(decorated: Any = None, *, typechecker: Any) -> Any:
    """Return a function, or a data class, that checks its calls: what jaxtyping's hook decorates with."""
    again = functools.partial(checked, typechecker=typechecker)
    if decorated is None:
        return again
    if inspect.isclass(decorated):
        if (
            dataclasses.is_dataclass(decorated)
            and "__init__" in vars(decorated)
            and not _has_fields_of_others(decorated)
        ):
            decorated.__init__ = again(decorated.__init__)
        return decorated
    if isinstance(decorated, classmethod | staticmethod):
        return type(decorated)(again(decorated.__func__))
    if isinstance(decorated, property):
        return property(*(one and again(one) for one in (decorated.fget, decorated.fset, decorated.fdel)))
    if not inspect.isfunction(decorated):
        return with_shapes(decorated, typechecker=typechecker)
    return _when_called(decorated, typechecker)


def _has_fields_of_others(kind: type) -> bool:
    """Whether fields come from a library, which may say `torch.FloatTensor` of any floating numbers."""
    package = kind.__module__.partition(".")[0]
    return any(dataclasses.is_dataclass(base) and base.__module__.partition(".")[0] != package for base in kind.__mro__)


def _when_called(function: Callable[..., Any], typechecker: Any) -> Callable[..., Any]:
    built: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        if not built:
            shaped = any(map(_says_shapes, function.__annotations__.values()))
            built.append(with_shapes(function, typechecker=typechecker) if shaped else beartype(function))
        return built[0](*args, **kwargs)

    return call


def _says_shapes(annotation: Any) -> bool:
    """Whether an annotation has an array's shape, or a name that only jaxtyping leaves unread."""
    if isinstance(annotation, str | ForwardRef):
        return True
    if get_origin(annotation) is Literal:
        return False
    if inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    parts = annotation if isinstance(annotation, list) else get_args(annotation)
    return any(map(_says_shapes, parts))
