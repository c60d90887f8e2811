"""Signatures as a user can call them: options that code collects by `**options: Unpack[...]` as keywords of their own.

Type checkers and editors read `Unpack[SweepOptions]`; Sphinx prints it as it stands, which tells a reader nothing. So
the reference asks `expanded` for the signature, which puts a keyword with type and default in place of each option.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, get_type_hints

from sphinx.util.typing import stringify_annotation

OPTION_SETS = ("notice_lens.patching.options", "notice_lens.circuits.important")
"""Modules that have the sets of options."""
OTHER_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "ablate": {"controls": "self", "metrics": ()},
    "faithfulness": {"controls": "self"},
    "split": {"controls": "self"},
}
"""Defaults by verb that are not those of a sweep; tests/test_reference.py compares them with what a call uses."""
UNPACK = re.compile(r"(?:Unpack\[|\*<class ')(?:[\w.]+\.)?(\w+)")
MODULES = re.compile(r"\b(?!(?:torch|numpy)\.[a-z])(?:[a-z_]\w*\.)+(?=[A-Za-z_])")
"""The modules in front of a name in a written type; `torch.dtype` keeps its own, since `dtype` alone is many things."""


def expanded(function: Callable[..., Any]) -> inspect.Signature:
    """Return a function's signature with each option of an unpacked set as a keyword.

    Options that a verb decides itself, which its module lists as `FIXED_BY_...`, are left out.

    Args:
        function: Any function, method or class.

    Raises:
        ValueError: The package has no set of options of the name that is unpacked.
    """
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    if not parameters or parameters[-1].kind is not inspect.Parameter.VAR_KEYWORD:
        return signature
    found = UNPACK.search(str(parameters[-1].annotation))
    if found is None:
        return signature
    written = {parameter.name for parameter in parameters}
    types, defaults = option_set(found[1])
    defaults = {**defaults, **OTHER_DEFAULTS.get(function.__name__, {})}
    decided = {name for fixed in _fixed(function) for name in fixed}
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=types[name])
        for name in types
        if name not in written | decided
    ]
    return signature.replace(parameters=[*parameters[:-1], *options])


def _fixed(function: Callable[..., Any]) -> list[Mapping[str, str]]:
    """Return the options that a function's module says it decides."""
    of_module = vars(import_module(function.__module__)).items()
    return [value for name, value in of_module if name.startswith("FIXED_BY_")]


def option_set(name: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the types and the defaults of a set of options by the name of its `TypedDict`."""
    for module in map(import_module, OPTION_SETS):
        if (options := getattr(module, name, None)) is not None:
            return _types(options), _defaults(module)
    raise ValueError(f"no set of options {name} in {' or '.join(OPTION_SETS)}")


def _types(options: type) -> Mapping[str, Any]:
    from notice_lens.pairs import MinimalPairs

    return get_type_hints(options, localns={"MinimalPairs": MinimalPairs})


def _defaults(module: Any) -> Mapping[str, Any]:
    """Return defaults by name: of `Options`, or of the function whose options the set is."""
    source = module.Options if hasattr(module, "Options") else module.important_heads
    return {name: one.default for name, one in inspect.signature(source).parameters.items()}


def written(signature: inspect.Signature) -> str:
    """Return a signature as it is printed: types by their short names, literals in full, no return type."""
    parts: list[str] = []
    keywords = False
    for parameter in signature.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not keywords:
            parts.append("*")
            keywords = True
        keywords |= parameter.kind is inspect.Parameter.VAR_POSITIONAL
        parts.append(_parameter(parameter))
    return f"({', '.join(parts)})"


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    text = f"{stars}{parameter.name}"
    if parameter.annotation is not inspect.Parameter.empty:
        text += f": {_type(parameter.annotation)}"
    if parameter.default is not inspect.Parameter.empty:
        text += f" = {_value(parameter.default)}"
    return text


def _type(annotation: Any) -> str:
    """Return a type in words: `Literal['image', 'text'] | Noise`, without modules and quotes around names."""
    if isinstance(annotation, str):
        return MODULES.sub("", annotation)
    return MODULES.sub("", stringify_annotation(annotation, "fully-qualified-except-typing"))


def _value(default: Any) -> str:
    """Return a default as code; of an object whose code would be an address, three dots."""
    return "..." if " at 0x" in repr(default) else repr(default)


def on_signature(app: Any, what: str, name: str, of: Any, options: Any, signature: Any, returns: Any) -> Any:
    """Answer Sphinx's `autodoc-process-signature` with the expanded signature, and without the type of the result."""
    if what not in ("function", "method", "class", "exception") or signature is None:
        return None
    try:
        return written(expanded(of)), ""
    except (TypeError, ValueError):
        return None
