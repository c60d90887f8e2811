"""The mini world: pictures with exact masks, minimal pairs of questions, and a small BLIP trained on them."""

from notice_lens.mini.folder import mini_folder
from notice_lens.mini.generate import rows

__all__ = ["mini_folder", "rows"]
