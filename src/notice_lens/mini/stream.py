"""Random draws that depend on a key alone, and never on the platform, the NumPy version or what was drawn before.

`random.Random` seeded with a text hashes it with SHA-512, and promises the same `random()` forever. So the key
`test/states/0/17` is a separate stream: splits cannot meet, whatever seed a user picks, and sample 17 can be drawn
without the 16 before it.
"""

import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


class RandomStream:
    """A stream of random draws that depends on its key alone.

    Args:
        *key: Parts of the key. Text may not hold a `/`, so that different parts never make the same key.
    """

    def __init__(self, *key: str | int):
        if any("/" in part for part in key if isinstance(part, str)):
            raise ValueError(f"a part of a stream's key holds a '/': {key}")
        self._random = random.Random("/".join(str(part) for part in key))

    def uniform(self, low: float | int = 0.0, high: float | int = 1.0) -> float:
        """Return a number from `low` up to, and without, `high`."""
        return low + (high - low) * self._random.random()

    def below(self, bound: int) -> int:
        """Return a whole number from 0 to `bound` - 1."""
        return int(self._random.random() * bound)

    def coin(self, probability: float = 0.5) -> bool:
        """True with this probability."""
        return self._random.random() < probability

    def choice(self, items: Sequence[Item]) -> Item:
        """Return one of the items."""
        return items[self.below(len(items))]

    def sample(self, items: Sequence[Item], count: int) -> list[Item]:
        """Return `count` different items in random order."""
        pool = list(items)
        if count > len(pool):
            raise ValueError(f"{count} of {len(pool)} items asked for")
        for place in range(count):
            other = place + self.below(len(pool) - place)
            pool[place], pool[other] = pool[other], pool[place]
        return pool[:count]

    def numbers(self, count: int) -> list[float]:
        """Return `count` numbers from 0 up to 1."""
        return [self._random.random() for _ in range(count)]
