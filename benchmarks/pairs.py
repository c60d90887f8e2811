"""Seconds, memory and pairs of the builders that read folders: `python benchmarks/pairs.py [pairs]`.

Pictures are small; with photographs decoding takes most of the time.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

NOUNS = "apple bag bear bottle box bread bridge building car cat chair clock coat cup dog door fence garden".split()
ADJECTIVES = "bright dark clear dull large small broken bent rough smooth wet dry wrinkled rusty".split()
EMOTIONS = "angry disgust fear happy neutral sad surprise".split()
VOCABULARY = Path(__file__).parents[1] / "tests" / "data" / "bert" / "vocab.txt"


def make(root: Path, folders: list[str], pictures: int, side: int = 64) -> None:
    """Folders of noise: as many pictures in all, evenly spread."""
    random = np.random.default_rng(0)
    for i in range(pictures):
        folder = root / folders[i % len(folders)]
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((side, side)).save(folder / f"{i}.jpg")


def measure(name: str, root: Path) -> None:
    """Prints a line about one builder, in a process of its own: memory is the most that it ever took."""
    from transformers.models.bert.tokenization_bert import BertTokenizer

    from notice_lens.pairs import facial_expressions, mit_states

    tokenizer = BertTokenizer(vocab=str(VOCABULARY))
    build = {"mit_states": mit_states, "facial_expressions": facial_expressions}[name]
    before, start = _megabytes(), time.perf_counter()
    built = build(root, tokenizer, progress=False)
    took = time.perf_counter() - start
    print(f"{name}: {len(built):,} pairs in {took:.1f} s; {_megabytes():.0f} MB, {before:.0f} MB of it before")


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Makes the folders in a temporary directory and measures each builder."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    folders = {
        "mit_states": [f"{adjective} {noun}" for noun in NOUNS for adjective in ADJECTIVES],
        "facial_expressions": [f"{split}/{emotion}" for split in ("train", "test") for emotion in EMOTIONS],
    }
    for name, labels in folders.items():
        with tempfile.TemporaryDirectory() as place:
            make(Path(place), labels, 2 * pairs)
            process = multiprocessing.get_context("spawn").Process(target=measure, args=(name, Path(place)))
            process.start()
            process.join()


if __name__ == "__main__":
    main()
