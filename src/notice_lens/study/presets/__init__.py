"""Presets: published designs that one command repeats from a data folder, conceptually.

A `Preset` is data (the paper, its checkpoint, role, metric and rules, what differs from it) and two functions: one
reads a folder, the other carries the design out. `notice-lens replicate NAME` does what is common to all:

1. The folder is read, and pairs are made for the model.
2. The plan is written before anything runs: model, pairs, role, metric, the paper's rule and ours, and what differs.
   Where the folder has another plan already, nothing runs: a plan must not change after a look at the results.
3. The design is carried out; a run that was stopped resumes from its stores.
4. Tables are written as CSV files, and the paper's rule is printed beside ours.

Agreement supports a paper's claim; disagreement does not refute its numbers, since prompts, pairs and tests differ.

Experimental: tested on made-up folders of the published layouts and on small models only, and may change.
"""

from notice_lens.errors import one_of
from notice_lens.study.presets.cross_modal_flow import CROSS_MODAL_FLOW
from notice_lens.study.presets.notice import NOTICE_BLIP, NOTICE_LLAVA
from notice_lens.study.presets.preset import Outcome, Preset, PresetRun
from notice_lens.study.presets.vision_default import VISION_DEFAULT

PRESETS = {preset.name: preset for preset in (NOTICE_BLIP, NOTICE_LLAVA, VISION_DEFAULT, CROSS_MODAL_FLOW)}
"""The presets by name."""
__all__ = ["PRESETS", "Outcome", "Preset", "PresetRun", "preset_of"]


def preset_of(name: str) -> Preset:
    """Return a preset by name. Raises ValueError, with the nearest name, if no preset has that name."""
    if name not in PRESETS:
        raise ValueError(one_of("preset", name, PRESETS))
    return PRESETS[name]
