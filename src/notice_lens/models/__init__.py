"""Models with hook points: the protocol that the rest of the package works with, and HookedBLIP.

A model is imported on first use: the protocol and the layout need neither torch's nor TransformerLens's models.
"""

from typing import TYPE_CHECKING

from notice_lens._lazy import lazy

if TYPE_CHECKING:
    from notice_lens.models.blip.bridge.lens import BridgeLens
    from notice_lens.models.blip.hooked_blip import HookedBLIP
    from notice_lens.models.blip.inputs import BLIPInputs
    from notice_lens.models.layout import Layout
    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.models.vlm import HookedVLM

_HOMES = {
    "BridgeLens": "notice_lens.models.blip.bridge.lens",
    "HookedBLIP": "notice_lens.models.blip.hooked_blip",
    "HookedVLM": "notice_lens.models.vlm",
    "BLIPInputs": "notice_lens.models.blip.inputs",
    "Layout": "notice_lens.models.layout",
    "VisionLanguageModel": "notice_lens.models.protocol",
}
__all__ = [
    "BLIPInputs",
    "BridgeLens",
    "HookedBLIP",
    "HookedVLM",
    "Layout",
    "VisionLanguageModel",
]
__getattr__, __dir__ = lazy(__name__, _HOMES)
