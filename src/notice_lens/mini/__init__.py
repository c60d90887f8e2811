"""The mini worlds, with exact masks and minimal pairs of questions, and the small models that were trained on them.

The drawn world is shapes and faces drawn by Pillow, the picture world emoji on grounds (`notice_lens.mini.pictures`). A
BLIP answers questions about each, and about pictures a LLaVA does too.
"""

from notice_lens.mini.folder import llava_folder, mini_folder
from notice_lens.mini.generate import rows

__all__ = ["llava_folder", "mini_folder", "rows"]
