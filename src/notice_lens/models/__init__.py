"""Models with hook points: the protocol that the rest of the package works with, and HookedBLIP.

A model is imported when it is first asked for: the protocol and the layout need neither torch's nor TransformerLens's
models.
"""

from typing import TYPE_CHECKING

from notice_lens._lazy import lazy

if TYPE_CHECKING:
    from notice_lens.models.blip.config import BLIPConfig, StackConfig
    from notice_lens.models.blip.hooked_blip import HookedBLIP
    from notice_lens.models.blip.inputs import BLIPInputs
    from notice_lens.models.layout import Layout, Segment
    from notice_lens.models.lens import Lens
    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.models.stack_view import LENSES

_HOMES = {
    "HookedBLIP": "notice_lens.models.blip.hooked_blip",
    "BLIPInputs": "notice_lens.models.blip.inputs",
    "BLIPConfig": "notice_lens.models.blip.config",
    "StackConfig": "notice_lens.models.blip.config",
    "Lens": "notice_lens.models.lens",
    "LENSES": "notice_lens.models.stack_view",
    "Layout": "notice_lens.models.layout",
    "Segment": "notice_lens.models.layout",
    "VisionLanguageModel": "notice_lens.models.protocol",
}
__all__ = [
    "LENSES",
    "BLIPConfig",
    "BLIPInputs",
    "HookedBLIP",
    "Layout",
    "Lens",
    "Segment",
    "StackConfig",
    "VisionLanguageModel",
]
__getattr__, __dir__ = lazy(__name__, _HOMES)
