"""Public names that are imported on first use (PEP 562), so that importing a package is quick."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(
    package: str, homes: Mapping[str, str], rooms: tuple[str, ...] = (), others: tuple[str, ...] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a package's `__getattr__` and `__dir__`.

    Args:
        package: Its name.
        homes: The module of each public name. A name is not a module of the package itself: once that is imported,
            Python would find the module under the name.
        rooms: Subpackages, imported on first use.
        others: Public names that are there already.
    """

    def get(name: str) -> Any:
        if name in homes:
            return getattr(import_module(homes[name]), name)
        if name in rooms:
            return import_module(f"{package}.{name}")
        raise AttributeError(
            f"module {package!r} has no attribute {name!r}; it has {', '.join(sorted({*homes, *rooms, *others}))}"
        )

    return get, lambda: sorted({*homes, *rooms, *others})
