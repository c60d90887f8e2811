"""Attribution patching: the first-order effect of every patch of every site, from two runs and one gradient.

1. The base run and the other run go forward once.
2. The logit difference of the base run is differentiated with respect to every activation: block by block from the
   answer back to the image (`notice_lens.patching.gradient.backward`), or by one backward pass through Hugging Face's
   modules (`notice_lens.patching.gradient.hosted`).
3. A patch of a cell changes the logit difference by about the sum over the cell of gradient times (other - base)
   (`notice_lens.patching.gradient.first_order`); of queries, keys and scores the softmax is computed again
   (`notice_lens.patching.gradient.softmax`).

With `integrated_gradients=n` the gradient is a mean over points on the way from the base run to the other
(`gradient/integrated.py`): by default each layer of a site moves separately, on the straight line between its
activations, and the effects of its cells sum to what patching the whole layer does; with `path="inputs"` everything
moves along with the embeddings, and effects over any cut of the model sum to the change from the one run to the other.
A way through the softmax needs no correction of it.

It is an estimate: verify what it finds, `patching.screen` does.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch

from notice_lens.errors import one_of
from notice_lens.models.in_use import one_thread_at_a_time, outside_inference_mode
from notice_lens.patching.edits import Site, check_model
from notice_lens.patching.engine.measure import baselines
from notice_lens.patching.engine.memory import Arrays, by_halves
from notice_lens.patching.engine.pair_batch import Setting
from notice_lens.patching.engine.protocol import Chunks, engine_of
from notice_lens.patching.gradient.first_order import Members, effects
from notice_lens.patching.gradient.integrated import PATHS, IntegrationPath
from notice_lens.patching.gradient.targets import EMBEDDING_LAYER, HEAD_HOOKS, NEURONS, Target
from notice_lens.patching.options import AttributionOptions, Options, PositionSpec, refuse_fixed
from notice_lens.patching.prepare import Prepared, prepare
from notice_lens.patching.writer import ResultWriter, averaged, with_effects
from notice_lens.progress import bar

if TYPE_CHECKING:
    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs
    from notice_lens.patching.results import SiteTree

FIXED_BY_ATTRIBUTE = {
    "metrics": "a gradient is of one number: the logit difference",
    "controls": "the self-patch is exactly 0, and a donor has its own difference",
    "source": "attribution patches in the other run",
}


@one_thread_at_a_time
@outside_inference_mode
def attribute(
    model: "VisionLanguageModel",
    pairs: "MinimalPairs",
    sites: str | Site | Sequence[str | Site] | None = None,
    *,
    positions: PositionSpec | None = None,
    neurons: bool | None = None,
    integrated_gradients: int = 0,
    path: IntegrationPath = "site",
    attention_correction: bool = True,
    **options: "Unpack[AttributionOptions]",
) -> "SiteTree":
    """Estimate every patch to first order: all sites of all stacks from two forwards and one backward.

    An estimate. `sweep` gives the exact numbers of a site, `screen` those of the cells that an estimate picks.

        found = patching.attribute(model, pairs)                          # an xarray.DataTree, a group for each site
        found["text.cross_attn.z"].logit_diff_change                     # pair, layer, head, role
        patching.aggregate(found["vision.attn"].to_dataset())            # layer, head

    Args:
        model: The model. Hooks on it are refused.
        pairs: Validated for it here.
        sites: One or several of `Site.of(model, ...)`, or their names; None takes q, k, v and z of every attention,
            what attention and MLP write, neurons together, and the stream before and after each block, of every stack,
            and what a projector gives.
        positions: Of sites given by name: `roles`, `regions`, `each`, `all`, or some by name or number; None as in
            `patch_heads`.
        neurons: Whether `mlp.pre` and `mlp.post` have a dimension `neuron`; None: if they were named.
        integrated_gradients: Steps of the way from the base run to the other, 1 or more; 0 takes the gradient at the
            base run.
        path: The way: `site` (each layer of each site separately) or `inputs` (all along with the embeddings).
        attention_correction: Whether queries, keys and scores go through the softmax as they are (see
            `notice_lens.patching.gradient.softmax`), and not along its tangent. Integrated gradients need none. Queries
            and keys in front of a norm over all heads (InternVL's tower) go along the tangent in any case.
        **options: As `sweep`, without `metrics`, `controls` and `source`. `store` is a folder, with a store for each
            site in it; sites can be added to it later.

    Returns:
        A group for each site, by its name (`text.cross_attn.hook_z`; shorter ones find it), laid out as a sweep of the
        site: `pair`, then `layer`, `head` and those of the positions, and `neuron`. Variables are `logit_diff_change`,
        `patching_effect` and the baselines; `attrs["method"]` is `attribution`.

    Raises:
        ValueError: A site or an option is invalid, or hooks are on the model.
        TypeError: There is no option of that name, or not here.
        PairsError: The pairs do not hold for this model.
    """
    refuse_fixed(options, FIXED_BY_ATTRIBUTE, "attribution")
    chosen = Options.of({**options, "metrics": ("logit_diff_change", "patching_effect"), "controls": ()})
    steps = _steps(integrated_gradients)
    if path not in PATHS:
        raise ValueError(one_of("path", path, PATHS))
    corrected = bool(attention_correction) and not steps
    method = {
        "method": "attribution",
        "integrated_gradients": steps,
        "path": path if steps else "",
        "attention_correction": corrected,
    }
    check_model(model)
    _check_folder(chosen.store)
    checked = _sites(model, pairs, sites, positions, neurons)
    prepared = prepare(model, pairs, chosen)
    targets = [Target.of(prepared, site, by_neuron, corrected) for site, by_neuron in checked]
    return Attribution(prepared, targets, method).run()


def default_sites(
    model: "VisionLanguageModel", positions: Any = None, pairs: "MinimalPairs | None" = None
) -> list[Site]:
    """Return every site that is attributed to by default.

    Args:
        model: The model.
        positions: As `attribute`.
        pairs: As `Site.of`.
    """
    found = []
    for stack in model.cfg.stacks:
        modules = [module for module in model.sublayers(stack) if module != "mlp"]
        names = ["hook_resid_pre"]
        for module in modules:
            names += [*(f"{module}.{leaf}" for leaf in HEAD_HOOKS), f"hook_{module}_out"]
        names += ["mlp.hook_post", "hook_mlp_out", model.block_output(stack), "hook_out"]
        there = model.activations(stack)
        found += [f"{stack}.{name}" for name in names if name in there]
    return [Site.of(model, name, positions=positions, pairs=pairs) for name in found]


def _sites(
    model: "VisionLanguageModel", pairs: "MinimalPairs", sites: Any, positions: Any, neurons: bool | None
) -> list[tuple[Site, bool]]:
    """The requested sites, each with whether its neurons have a dimension."""
    if sites is None:
        return [(site, bool(neurons)) for site in default_sites(model, positions, pairs)]
    several = list(sites) if isinstance(sites, list | tuple) else [sites]
    if not several:
        raise ValueError("no sites given; expected sites such as 'text.cross_attn', or None for all")
    if positions is not None and any(isinstance(site, Site) for site in several):
        raise ValueError("positions are for sites given by name; give those of a Site when it is built")
    found = [
        Site.of(model, site) if isinstance(site, Site) else Site.of(model, site, positions=positions, pairs=pairs)
        for site in several
    ]
    names = [site.name for site in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"site {name} is given {names.count(name)} times; each has one group in the result")
    return [(site, site.activation in NEURONS and neurons is not False) for site in found]


def _steps(asked: Any) -> int:
    if not isinstance(asked, int) or isinstance(asked, bool) or asked < 0:
        raise ValueError(f"integrated_gradients={asked!r}: expected a number of steps, 1 or more, or 0 for none")
    return asked


def _check_folder(folder: Any) -> None:
    """Refuse a folder that is a store: attribution writes a store for each site, which its readers would miss."""
    if folder is not None and (Path(folder).is_file() or (Path(folder) / "zarr.json").exists()):
        what = "a file" if Path(folder).is_file() else "a store of something else"
        raise FileExistsError(f"{folder} is {what}; attribution writes a store for each site into a new folder")


class Attribution:
    """One attribution over pairs.

    Args:
        prepared: The pairs.
        targets: The sites, with how their results are laid out.
        method: Attributes of the result beside those of a sweep.
    """

    def __init__(self, prepared: Prepared, targets: Sequence[Target], method: Mapping[str, Any]) -> None:
        self.prepared, self.targets, self.method = prepared, list(targets), method
        steps, path = int(method["integrated_gradients"]), str(method["path"])
        self.gradients = engine_of(prepared.model).gradients(prepared, self.targets, steps, path)
        folder = prepared.options.store
        self.writers = [
            ResultWriter(
                prepared, target.grid, {"sites": [asdict(target.site)]},
                None if folder is None else Path(folder) / target.site.name, method=method,
            )
            for target in self.targets
        ]  # fmt: skip

    def run(self) -> "SiteTree":
        """Attribute to every site and return a tree of their results."""
        from notice_lens.patching.results import SiteTree

        prepared = self.prepared
        if all(writer.is_parted for writer in self.writers):
            parts = {target.site.name: one.gathered() for target, one in zip(self.targets, self.writers, strict=True)}
            return SiteTree.of(parts, {**prepared.provenance, **self.method})
        chunks = Chunks(1, self.gradients.pairs_at_once())
        shown = bar(prepared.options.progress, "attribution", total=len(prepared.own), unit="pairs")
        with shown, ExitStack() as stack, torch.no_grad():
            opened = [stack.enter_context(writer.opened(chunks)) for writer in self.writers]
            results, chunks = [one for one, _ in opened], opened[0][1]
            for batch in prepared.batches(chunks.pairs):
                left = [number for number, one in enumerate(results) if not one.is_done(batch).all()]
                if left:
                    draws = [self.compute_batch(batch, left, setting) for setting in prepared.settings]
                    for at, number in enumerate(left):
                        arrays = averaged([draw[at] for draw in draws])
                        # A store that was begun with other chunks may have some of these pairs already.
                        new = np.flatnonzero(~results[number].is_done(batch))
                        part = self.writers[number].labelled(batch, arrays).isel(pair=new)
                        results[number].write([batch[pair] for pair in new], part)
                shown.update(len(batch))
            groups = {
                target.site.name: with_effects(one.load()) for target, one in zip(self.targets, results, strict=True)
            }
        return SiteTree.of(groups, {**prepared.provenance, **self.method})

    def compute_batch(self, pairs: list[int], left: Sequence[int], setting: Setting) -> list[Arrays]:
        """Return the numbers of some pairs at some of the sites; of half of them where memory runs out."""

        def compute(some: list[int]) -> Arrays:
            found = self._attributed(some, left, setting)
            return {f"{number} {name}": array for number, one in enumerate(found) for name, array in one.items()}

        arrays = by_halves(compute, pairs)
        return [
            {name.partition(" ")[2]: array for name, array in arrays.items() if name.partition(" ")[0] == str(number)}
            for number in range(len(left))
        ]

    def _attributed(self, pairs: list[int], left: Sequence[int], setting: Setting) -> list[Arrays]:
        targets = [self.targets[number] for number in left]
        batch = self.gradients.batch(pairs, targets, setting)
        members, arrays = Members(batch.runs, self.prepared.positions, pairs), list[Arrays]()
        for number in left:
            own = self.writers[number].empty(len(pairs))
            arrays.append({**own, "logit_diff_change": np.zeros_like(own["logit_diff_change"])})
        for numbers, found in batch.by_block():
            for number in numbers:
                target = targets[number]
                if target.has(found.stack, found.layer):
                    layer = [] if found.layer == EMBEDDING_LAYER else [target.coords["layer"].index(found.layer)]
                    effect = effects(target, found, members).double().cpu().numpy()
                    arrays[number]["logit_diff_change"][:, *layer] += effect
        # Now the runs have passed: what they answered needs no pass of its own.
        unpatched = baselines(batch.runs)
        return [own | {name: values for name, values in unpatched.items() if name in own} for own in arrays]
