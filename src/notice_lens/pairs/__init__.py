"""Minimal pairs: building, reading, checking and saving them."""

from typing import TYPE_CHECKING

from notice_lens._lazy import lazy

if TYPE_CHECKING:
    from notice_lens.pairs.behaviour import behaviour_filter
    from notice_lens.pairs.builders.facial_expressions import facial_expressions
    from notice_lens.pairs.builders.mini_world import mini_world
    from notice_lens.pairs.builders.mit_states import mit_states
    from notice_lens.pairs.builders.svo import svo_probes
    from notice_lens.pairs.minimal_pairs import MinimalPairs
    from notice_lens.pairs.noise import Noise
    from notice_lens.pairs.problems import PairsError
    from notice_lens.pairs.token_replacement import symmetric_replacement
    from notice_lens.pairs.web.downloader import download

_HOMES = {
    "MinimalPairs": "notice_lens.pairs.minimal_pairs",
    "PairsError": "notice_lens.pairs.problems",
    "Noise": "notice_lens.pairs.noise",
    "behaviour_filter": "notice_lens.pairs.behaviour",
    "symmetric_replacement": "notice_lens.pairs.token_replacement",
    "download": "notice_lens.pairs.web.downloader",
    "mini_world": "notice_lens.pairs.builders.mini_world",
    "svo_probes": "notice_lens.pairs.builders.svo",
    "mit_states": "notice_lens.pairs.builders.mit_states",
    "facial_expressions": "notice_lens.pairs.builders.facial_expressions",
}
__all__ = [
    "MinimalPairs",
    "Noise",
    "PairsError",
    "behaviour_filter",
    "download",
    "facial_expressions",
    "mini_world",
    "mit_states",
    "svo_probes",
    "symmetric_replacement",
]
__getattr__, __dir__ = lazy(__name__, _HOMES)
