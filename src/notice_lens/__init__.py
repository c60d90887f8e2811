"""notice-lens: how BLIP thinks, by causal mediation with real counterfactuals.

Importing the package is quick: everything heavy is imported when it is first used.
"""

from typing import TYPE_CHECKING

from notice_lens._lazy import lazy

if TYPE_CHECKING:
    from notice_lens.models import BLIPInputs, HookedBLIP, Lens
    from notice_lens.models.vlm import HookedVLM
    from notice_lens.pairs import MinimalPairs

__version__ = "0.1.0"
_HOMES = {
    "HookedBLIP": "notice_lens.models",
    "HookedVLM": "notice_lens.models.vlm",
    "BLIPInputs": "notice_lens.models",
    "Lens": "notice_lens.models",
    "MinimalPairs": "notice_lens.pairs",
}
__all__ = ["BLIPInputs", "HookedBLIP", "HookedVLM", "Lens", "MinimalPairs", "__version__"]
__getattr__, __dir__ = lazy(__name__, _HOMES, ("__version__",))
