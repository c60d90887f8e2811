"""notice-lens: how vision-language models think, by causal mediation with real counterfactuals.

Importing the package is quick: everything heavy is imported when it is first used, the subpackages included, so that
`notice_lens.patching` is there, and under Tab, after `import notice_lens`.
"""

from typing import TYPE_CHECKING

from notice_lens._lazy import lazy

if TYPE_CHECKING:
    from notice_lens import circuits, cluster, mini, models, pairs, patching, report, stats, study, viz
    from notice_lens.models import HookedBLIP, HookedVLM
    from notice_lens.models.bridge import register
    from notice_lens.pairs import MinimalPairs

__version__ = "0.2.0"
_HOMES = {
    "HookedBLIP": "notice_lens.models",
    "HookedVLM": "notice_lens.models",
    "MinimalPairs": "notice_lens.pairs",
    "register": "notice_lens.models.bridge",
}
_ROOMS = ("circuits", "cluster", "mini", "models", "pairs", "patching", "report", "stats", "study", "viz")
__all__ = [
    "HookedBLIP",
    "HookedVLM",
    "MinimalPairs",
    "__version__",
    "circuits",
    "cluster",
    "mini",
    "models",
    "pairs",
    "patching",
    "register",
    "report",
    "stats",
    "study",
    "viz",
]
__getattr__, __dir__ = lazy(__name__, _HOMES, _ROOMS, ("__version__",))
