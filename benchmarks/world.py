"""How long a thousand pictures of the mini world take at 64 pixels, on one core: `python benchmarks/world.py`."""

import time
from collections.abc import Callable, Iterable

from notice_lens.mini import rows
from notice_lens.mini.generate import GROUPS
from notice_lens.mini.pair import Task
from train_mini.blip.examples import Examples


def seconds(make: Callable[[], Iterable[object]], rounds: int = 3) -> float:
    """Return the seconds of the quickest of several rounds."""
    found = []
    for _ in range(rounds):
        start = time.process_time()
        for _ in make():
            pass
        found.append(time.process_time() - start)
    return min(found)


def main() -> None:
    """Print a line for each kind of sample."""
    for task in GROUPS:
        took = seconds(lambda task=task: _pairs(task))
        print(f"{task}: 1,000 pairs (three pictures and two sets of masks each) in {took:.2f} s")
    took = seconds(lambda: [Examples(0).batch(0, 1000)])
    print(f"training: 1,000 pictures with 8 questions and patch labels each in {took:.2f} s")


def _pairs(task: Task) -> Iterable[object]:
    return rows(task, 1000)


if __name__ == "__main__":
    main()
