"""The result of a sweep: what it holds beside its numbers, and where they are kept while it runs."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from notice_lens import __version__
from notice_lens.pairs.noise import Noise
from notice_lens.patching.identity import fingerprint
from notice_lens.patching.options import Options
from notice_lens.patching.results import CARRIED, carried

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.models import HookedBLIP
    from notice_lens.pairs import MinimalPairs

COLUMNS = (
    "task",
    "group",
    "kind",
    "clean_prompt",
    "correct_answer",
    "incorrect_answer",
    "clean_digest",
    "corrupt_digest",
    "donor_digest",
    "donor_prompt",
)
BASELINES = ("logit_diff_clean", "logit_diff_corrupt", "answer_prob_clean", "answer_prob_corrupt", "noise_floor")
DONORS = ("logit_diff_donor", "answer_prob_donor")
"""Baselines of a sweep with the control `mismatched`: what the donor's own run says."""
ACCURACIES = ("accuracy_clean", "accuracy_corrupt")
"""Baselines of a sweep that was asked for `accuracy`."""
Arrays = dict[str, np.ndarray]


def completed(effects: "xr.Dataset", options: Options, metrics: Sequence[str]) -> "xr.Dataset":
    """A result with what follows from its numbers: normalised effects, and what is below the noise.

    Args:
        effects: The numbers, changed in place.
        options: Of the sweep.
        metrics: The built-in ones that were asked for.
    """
    sign = 1 if options.direction == "denoise" else -1
    gap = sign * (effects.logit_diff_clean - effects.logit_diff_corrupt)
    usable = gap.where((abs(gap) >= options.min_gap) & (gap != 0))
    if "patching_effect" in metrics:
        effects["patching_effect"] = effects.logit_diff_change / usable
        if "logit_diff_change_mismatched" in effects:
            effects["patching_effect_mismatched"] = effects.logit_diff_change_mismatched / usable
            effects[CARRIED] = carried(effects)[CARRIED]
    if "logit_diff_change" in effects and "self" in options.controls:
        effects["below_floor"] = abs(effects.logit_diff_change) <= effects.noise_floor
    effects.attrs["pairs_below_min_gap"] = int(usable.isnull().sum())
    return effects


def provenance(
    model: "HookedBLIP", pairs: "MinimalPairs", options: Options, metrics: Sequence[str], described: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything needed to repeat a run, in plain values.

    Args:
        model: The model.
        pairs: The pairs.
        options: Of the sweep.
        metrics: Their names.
        described: What is patched, by name: plain values, written as JSON.
    """
    noise = options.corruption
    packages = ("torch", "transformers", "transformer-lens")
    return {
        "model": model.cfg.name_or_path or "",
        "model_fingerprint": fingerprint(model),
        "kind": model.cfg.kind,
        "model_dtype": str(model.dtype),
        "pairs": pairs.fingerprint,
        "pairs_source": f"{pairs.manifest.builder}: {pairs.manifest.source}",
        **{name: json.dumps(value, default=str) for name, value in described.items()},
        "corruption": repr(noise) if isinstance(noise, Noise) else noise,
        "direction": options.direction,
        "contrast": options.contrast,
        "source": options.source,
        **({} if options.reference is None else {"reference": options.reference.fingerprint}),
        "metrics": list(metrics),
        "controls": list(options.controls),
        "min_gap": options.min_gap,
        "seed": options.seed,
        "notice_lens": __version__,
        **{package.replace("-", "_"): version(package) for package in packages},
    }


class InMemory:
    """Results that are kept in memory: what a `Store` is on disk."""

    def __init__(self, template: "xr.Dataset") -> None:
        self.result = template.copy(data={name: np.array(values) for name, values in template.data_vars.items()})
        self.done = np.zeros(template.sizes["pair"], bool)

    def __enter__(self) -> "InMemory":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def write(self, several: Sequence[int], part: "xr.Dataset") -> None:
        """Takes the numbers of some pairs."""
        for name, values in part.data_vars.items():
            self.result[name].values[np.asarray(several)] = values.values

    def load(self) -> "xr.Dataset":
        """All of them."""
        return self.result
