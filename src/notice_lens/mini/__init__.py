"""The mini world: pictures with exact masks, questions about them in minimal pairs, a small BLIP trained on them."""

from notice_lens.mini.drawing import draw
from notice_lens.mini.folder import mini_folder
from notice_lens.mini.generate import GROUPS, make_pair, pairs, rows
from notice_lens.mini.pair import Pair, Row

__all__ = ["GROUPS", "Pair", "Row", "draw", "make_pair", "mini_folder", "pairs", "rows"]
