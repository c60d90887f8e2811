"""Circuits: which heads matter, and what they do."""

from typing import TYPE_CHECKING

from notice_lens._lazy import lazy

if TYPE_CHECKING:
    from notice_lens.circuits.functions import head_functions
    from notice_lens.circuits.labels import label_heads
    from notice_lens.circuits.maps import attention_maps, relative_attention
    from notice_lens.circuits.scores import score_maps


_HOMES = {
    "attention_maps": "notice_lens.circuits.maps",
    "head_functions": "notice_lens.circuits.functions",
    "label_heads": "notice_lens.circuits.labels",
    "relative_attention": "notice_lens.circuits.maps",
    "score_maps": "notice_lens.circuits.scores",
}
__all__ = ["attention_maps", "head_functions", "label_heads", "relative_attention", "score_maps"]
__getattr__, __dir__ = lazy(__name__, _HOMES)
