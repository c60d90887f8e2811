"""The mini worlds, with exact masks and minimal pairs of questions, and the small models that were trained on them.

The drawn world is shapes and faces drawn by Pillow, and a BLIP answers questions about it; the picture world is emoji
on grounds (`notice_lens.mini.pictures`), and a LLaVA answers.
"""

from notice_lens.mini.folder import llava_folder, mini_folder
from notice_lens.mini.generate import rows

__all__ = ["llava_folder", "mini_folder", "rows"]
