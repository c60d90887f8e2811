"""Corruptions: what replaces the clean run's image or words in the corrupted run.

A corruption is `image` (another picture), `text` (other words: symmetric token replacement) or a `Noise`. Results keep
it as a string, of noise its `repr`.
"""

import re
from typing import Any, Literal

from notice_lens.models.hook_names import IMAGE_ONLY, HookName

Which = Literal["clean", "corrupt", "donor"]
INPUTS_BY_CORRUPTION: dict[str, tuple[Which, Which]] = {"image": ("corrupt", "clean"), "text": ("clean", "corrupt")}
"""The image and the prompt of the corrupted run."""
CORRUPTIONS = tuple(INPUTS_BY_CORRUPTION)
_NOISE = re.compile(r"Noise\(hook='(?P<hook>[^']*)'")
"""The `repr` of noise at a hook point; that of the image's default has none."""


def replaces_words(corruption: Any) -> bool:
    """Return whether the corrupted run has another prompt, so that pairs need one."""
    return (
        isinstance(corruption, str)
        and corruption in INPUTS_BY_CORRUPTION
        and INPUTS_BY_CORRUPTION[corruption][1] == "corrupt"
    )


def changes_words(corruption: Any) -> bool:
    """Return whether runs differ in their words and not in their images: other words, or noise on them.

    Args:
        corruption: `image`, `text`, a `Noise`, or the string of one that a result has.
    """
    if replaces_words(corruption):
        return True
    noise = _NOISE.match(str(corruption))
    return noise is not None and HookName.parse(noise["hook"]).stack not in IMAGE_ONLY
