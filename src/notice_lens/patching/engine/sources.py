"""Sources of edits that are computed from recorded runs: zeros, and z with one half from another run.

What a head gives at a position, `hook_z`, is its pattern there times the values that it reads. So two runs make four of
it: that of the base run, that of the other run, the other run's pattern with the base run's values (`pattern`: the head
looks elsewhere, and reads the values there), and the base run's pattern with the other run's values (`values`: it looks
where it looked, and reads something else).
"""

from collections.abc import Iterator, Mapping

from torch import Tensor

from notice_lens.patching.engine.attention import mixed

HALF_SOURCES = ("pattern", "values")
"""Sources of `hook_z` that take one half of it from the other run."""


class Constant(Mapping[str, Tensor]):
    """One number in the shape of recorded activations.

    Args:
        like: The activations.
        number: The number: 0, or minus infinity for scores that are cut.
    """

    def __init__(self, like: Mapping[str, Tensor], number: float = 0.0) -> None:
        self.like, self.number = like, number

    def __getitem__(self, name: str) -> Tensor:
        like = self.like[name]
        return like.new_full((), self.number).expand(like.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.like)

    def __len__(self) -> int:
        return len(self.like)


class Mixed(Mapping[str, Tensor]):
    """The patterns of one run times the values of another, by the name of `hook_z`; computed on access.

    Args:
        patterns: The activations of the run that says where heads look.
        values: Those of the run whose values they read.
    """

    def __init__(self, patterns: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
        self.patterns, self.values_read = patterns, values
        self.known: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.known:
            pattern, v = ingredients(name)
            self.known[name] = mixed(self.patterns[pattern], self.values_read[v])
        return self.known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.known)

    def __len__(self) -> int:
        return len(self.known)


def computed(base: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Mapping[str, Tensor]]:
    """Return the sources that are computed from the activations of the base run and of the other one."""
    return {
        "zero": Constant(base),
        "cut": Constant(base, float("-inf")),
        "pattern": Mixed(other, base),
        "values": Mixed(base, other),
    }


def ingredients(hook: str) -> tuple[str, str]:
    """Return the hook points that a `hook_z` is computed from: its pattern and its values."""
    module = hook.removesuffix("hook_z")
    return f"{module}hook_pattern", f"{module}hook_v"
