"""Circuits: which heads carry the answer, in one task or in all of them, how sure that is, and what they do."""

from typing import TYPE_CHECKING

from notice_lens._lazy import lazy

if TYPE_CHECKING:
    from notice_lens.circuits.corruptions import compare_corruptions
    from notice_lens.circuits.evidence import DependentPairs, FewClusters
    from notice_lens.circuits.functions.labels import label_heads
    from notice_lens.circuits.functions.maps import attention_maps
    from notice_lens.circuits.functions.scores import head_functions
    from notice_lens.circuits.graph import circuit_graph
    from notice_lens.circuits.important import important_heads
    from notice_lens.circuits.interplay import interactions
    from notice_lens.circuits.layers import layer_profile
    from notice_lens.circuits.minimal import minimal_circuit
    from notice_lens.circuits.probabilities import paper_rule
    from notice_lens.circuits.restoration import restoration_curve
    from notice_lens.circuits.shared import shared_nodes
    from notice_lens.circuits.universal import universal_heads


_HOMES = {
    "DependentPairs": "notice_lens.circuits.evidence",
    "FewClusters": "notice_lens.circuits.evidence",
    "attention_maps": "notice_lens.circuits.functions.maps",
    "circuit_graph": "notice_lens.circuits.graph",
    "compare_corruptions": "notice_lens.circuits.corruptions",
    "head_functions": "notice_lens.circuits.functions.scores",
    "important_heads": "notice_lens.circuits.important",
    "interactions": "notice_lens.circuits.interplay",
    "label_heads": "notice_lens.circuits.functions.labels",
    "layer_profile": "notice_lens.circuits.layers",
    "minimal_circuit": "notice_lens.circuits.minimal",
    "paper_rule": "notice_lens.circuits.probabilities",
    "restoration_curve": "notice_lens.circuits.restoration",
    "shared_nodes": "notice_lens.circuits.shared",
    "universal_heads": "notice_lens.circuits.universal",
}
__all__ = [
    "DependentPairs",
    "FewClusters",
    "attention_maps",
    "circuit_graph",
    "compare_corruptions",
    "head_functions",
    "important_heads",
    "interactions",
    "label_heads",
    "layer_profile",
    "minimal_circuit",
    "paper_rule",
    "restoration_curve",
    "shared_nodes",
    "universal_heads",
]
__getattr__, __dir__ = lazy(__name__, _HOMES)
