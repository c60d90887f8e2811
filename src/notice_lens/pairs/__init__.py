"""Minimal pairs: what they are, where they come from, and whether they are what they say."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from notice_lens.pairs.behaviour import behaviour_filter
    from notice_lens.pairs.download import download
    from notice_lens.pairs.facial_expressions import facial_expressions
    from notice_lens.pairs.minimal_pair import MinimalPair
    from notice_lens.pairs.minimal_pairs import MinimalPairs
    from notice_lens.pairs.mini_world import mini_world
    from notice_lens.pairs.mit_states import mit_states
    from notice_lens.pairs.noise import Noise
    from notice_lens.pairs.problems import PairsError
    from notice_lens.pairs.svo import svo_probes
    from notice_lens.pairs.symmetric_replacement import symmetric_replacement
