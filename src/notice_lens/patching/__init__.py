"""Activation patching: which activations carry the answer."""

from typing import TYPE_CHECKING

from notice_lens._lazy import lazy

if TYPE_CHECKING:
    from notice_lens.patching.ablation import ablate
    from notice_lens.patching.attribution import attribute
    from notice_lens.patching.circuit_scores import faithfulness
    from notice_lens.patching.edits import Edit, Site
    from notice_lens.patching.head_pairs import pairs_of_heads
    from notice_lens.patching.inputs import patch_inputs
    from notice_lens.patching.knockouts import knockout
    from notice_lens.patching.lenses import logit_lens
    from notice_lens.patching.paths import patch_paths
    from notice_lens.patching.pattern_vs_values import split
    from notice_lens.patching.results import aggregate, carried, mediation
    from notice_lens.patching.screening import screen
    from notice_lens.patching.sweeps import patch_heads, patch_modules, run_variants, sweep
    from notice_lens.patching.writer import gather


_HOMES = {
    "Edit": "notice_lens.patching.edits",
    "Site": "notice_lens.patching.edits",
    "ablate": "notice_lens.patching.ablation",
    "aggregate": "notice_lens.patching.results",
    "attribute": "notice_lens.patching.attribution",
    "carried": "notice_lens.patching.results",
    "faithfulness": "notice_lens.patching.circuit_scores",
    "gather": "notice_lens.patching.writer",
    "knockout": "notice_lens.patching.knockouts",
    "logit_lens": "notice_lens.patching.lenses",
    "mediation": "notice_lens.patching.results",
    "pairs_of_heads": "notice_lens.patching.head_pairs",
    "patch_inputs": "notice_lens.patching.inputs",
    "patch_heads": "notice_lens.patching.sweeps",
    "patch_modules": "notice_lens.patching.sweeps",
    "patch_paths": "notice_lens.patching.paths",
    "run_variants": "notice_lens.patching.sweeps",
    "screen": "notice_lens.patching.screening",
    "split": "notice_lens.patching.pattern_vs_values",
    "sweep": "notice_lens.patching.sweeps",
}
__all__ = [
    "Edit",
    "Site",
    "ablate",
    "aggregate",
    "attribute",
    "carried",
    "faithfulness",
    "gather",
    "knockout",
    "logit_lens",
    "mediation",
    "pairs_of_heads",
    "patch_heads",
    "patch_inputs",
    "patch_modules",
    "patch_paths",
    "run_variants",
    "screen",
    "split",
    "sweep",
]
__getattr__, __dir__ = lazy(__name__, _HOMES)
