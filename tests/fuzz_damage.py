"""Damage to the files of `fuzz_readers.py`: to their bytes, and to values of their JSON."""

import json
import random
from collections.abc import Iterator
from typing import Any

NASTY_TEXT = (
    "", " ", "\x00", "\ud800", "é" * 300, "x" * 100_000, "../" * 40 + "etc/passwd", "/dev/null", "NaN", "null", "-1",
    "1e999", "=1+1", "\x1b[2J", "a\nb", '"', "'", "[", "{}", "0" * 5000, "\u202e", "CON", "😀",
)  # fmt: skip
NASTY_NUMBERS = (
    0,
    -1,
    1,
    2,
    255,
    2**31,
    2**63 - 1,
    2**63,
    -(2**63),
    10**30,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
)
NASTY_BYTES = (
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"[" * 5000, b'{"a":' * 2000, b"\x1f\x8b", b"PK\x03\x04",
    b"%!PS-Adobe", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", b"\r", b"\n" * 200, b'"',
    b"," * 300, b"9" * 400, b"-",
)  # fmt: skip


def damage(content: bytes, rng: random.Random) -> bytes:
    """The content with one to three faults: of its JSON where it is that, else of its bytes."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        try:
            content = _damaged_json(content, rng) if rng.random() < 0.7 else _damaged_bytes(content, rng)
        except (ValueError, RecursionError):  # it is no JSON
            content = _damaged_bytes(content, rng)
    return content


def _damaged_bytes(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    end = min(len(content), start + rng.choice((1, 2, 4, 16, 256, 10**9)))
    replacement = rng.choice(
        (
            b"",
            rng.choice(NASTY_BYTES),
            bytes(rng.randrange(256) for _ in range(rng.choice((1, 4, 8)))),
            content[start:end] * rng.choice((2, 2, 50)),
            str(rng.choice(NASTY_NUMBERS)).encode(),
            rng.choice(NASTY_TEXT).encode("utf-8", "surrogatepass"),
        )
    )
    return content[:start] + replacement + content[end:]


def _damaged_json(content: bytes, rng: random.Random) -> bytes:
    """One value of a JSON document, or of JSON lines, replaced, taken away, doubled or wrapped."""
    parts = content.splitlines() if b"\n{" in content[:2000] else [content]
    lines = [json.loads(part) for part in parts]
    document = {"root": lines}
    places = list(_places(document))
    parent, key = rng.choice(places)
    value = parent[key]
    choice = rng.randrange(6)
    if choice == 0:
        del parent[key]
    elif choice == 1:
        parent[key] = rng.choice(NASTY_TEXT)
    elif choice == 2:
        parent[key] = rng.choice(NASTY_NUMBERS)
    elif choice == 3:
        parent[key] = rng.choice((None, True, False, [], {}, [value], {"a": value}, [value] * 3, str(value)))
    elif choice == 4:
        other_parent, other_key = rng.choice(places)
        parent[key] = json.loads(json.dumps(other_parent[other_key]))
    elif isinstance(parent, dict):
        parent[rng.choice(NASTY_TEXT)] = value
    else:
        parent.append(value)
    root = document.get("root")
    return "\n".join(json.dumps(line) for line in (root if isinstance(root, list) else [root])).encode()


def _places(node: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """Every container with every key in it, from the root on."""
    items: Any = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in list(items)[:200]:
        yield node, key
        if depth < 12:
            yield from _places(value, depth + 1)
