"""HookedBLIP and what it is made of."""

from notice_lens.models.blip.config import BLIPConfig, StackConfig
from notice_lens.models.blip.hooked_blip import HookedBLIP
from notice_lens.models.blip.inputs import BLIPInputs
from notice_lens.models.lens import Lens
from notice_lens.models.stack_view import LENSES

__all__ = ["LENSES", "BLIPConfig", "BLIPInputs", "HookedBLIP", "Lens", "StackConfig"]
