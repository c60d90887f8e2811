"""Attribution patching: what every patch of every site would do, to first order, from two runs and one gradient.

1. The base run and the other run go forward once; of each the stream before every block is kept.
2. The logit difference of the base run is differentiated, block by block from the answer back to the image, with regard
   to every activation (`notice_lens.patching.gradient.backward`).
3. A patch of a cell changes the logit difference by about the sum over the cell of gradient times (other - base)
   (`notice_lens.patching.gradient.first_order`); of queries, keys and scores the softmax is computed again
   (`notice_lens.patching.gradient.softmax`).

With `integrated_gradients=n` the gradient is a mean over points on the way from the base run to the other
(`gradient/integrated.py`): by default each layer of a site moves by itself, on the straight line between its
activations, and the effects of its cells sum to what patching the whole layer does; with `path="inputs"` everything
moves along with the embeddings, and effects over any cut of the model sum to the change from the one run to the other.
A way through the softmax needs no correction of it.

It is an estimate: verify what it finds, `patching.screen` does.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from notice_lens.errors import one_of
from notice_lens.models.in_use import one_thread_at_a_time, outside_inference_mode
from notice_lens.patching.edits import TABLES, Site, check_model
from notice_lens.patching.engine.measure import budget
from notice_lens.patching.engine.pair_batch import Batch, Context, Setting
from notice_lens.patching.gradient.backward import Backward
from notice_lens.patching.gradient.first_order import Members, effects
from notice_lens.patching.gradient.integrated import PATHS, Step, input_way, site_way, tangent
from notice_lens.patching.gradient.recompute import EMBEDDING, Blocks
from notice_lens.patching.gradient.result import SiteResult
from notice_lens.patching.gradient.targets import NEURONS, Target, wanted
from notice_lens.patching.options import Options
from notice_lens.patching.provenance import Arrays

if TYPE_CHECKING:
    from notice_lens.models import HookedBLIP
    from notice_lens.pairs import MinimalPairs
    from notice_lens.patching.results import SiteTree

MOST_PAIRS = 64
"""Pairs that are differentiated together, at most."""
NOT_HERE = {
    "metrics": "a gradient is of one number: the logit difference",
    "controls": "the self-patch is exactly 0, and a donor has a difference of its own",
    "source": "attribution patches in the other run",
}
ATTENTION = ("hook_q", "hook_k", "hook_v", "hook_z")
log = logging.getLogger("notice_lens.patching")


@one_thread_at_a_time
@outside_inference_mode
def attribute(
    model: "HookedBLIP",
    pairs: "MinimalPairs",
    sites: Any = None,
    *,
    positions: Any = None,
    neurons: bool | None = None,
    integrated_gradients: Any = 0,
    path: Any = "site",
    attention_correction: bool = True,
    **options: Any,
) -> "SiteTree":
    """What every patch would do, to first order: all sites of all stacks from two forwards and one backward.

    An estimate. `sweep` gives the exact numbers of a site, `screen` those of the cells that an estimate picks.

        found = patching.attribute(model, pairs)                          # an xarray.DataTree, a group for each site
        found["text.cross_attn.z"].logit_diff_change                     # pair, layer, head, role
        patching.aggregate(found["vision.attn"].to_dataset())            # layer, head

    Args:
        model: The model. Hooks on it are refused.
        pairs: Validated for it here.
        sites: One or several of `Site.of(model, ...)`, or their names; None takes q, k, v and z of every attention,
            what attention and MLP write, neurons together, and the stream before and behind each block, of every stack.
        positions: Of sites given by name: `roles`, `regions`, `each`, `all`, or some by name or number; None as in
            `patch_heads`.
        neurons: Whether `mlp.pre` and `mlp.post` have a dimension `neuron`; None: where they were asked for.
        integrated_gradients: Steps of the way from the base run to the other, 1 or more; 0 takes the gradient at the
            base run.
        path: The way: `site` (each layer of each site by itself) or `inputs` (all along with the embeddings).
        attention_correction: Whether queries, keys and scores go through the softmax as they are (see
            `notice_lens.patching.gradient.softmax`), and not along its tangent. Integrated gradients need none.
        **options: As `sweep`, without `metrics`, `controls` and `source`. `store` is a folder, with a store for each
            site in it; sites can be added to it later.

    Returns:
        A group for each site, by its name (`text.cross_attn.hook_z`; shorter ones find it), laid out as a sweep of the
        site: `pair`, then `layer`, `head` and those of the positions, and `neuron`. Variables are `logit_diff_change`,
        `patching_effect` and the baselines; `attrs["method"]` is `attribution`.

    Raises:
        ValueError: A site or an option is not what it has to be, or hooks are on the model.
        TypeError: There is no option of that name, or not here.
        PairsError: The pairs do not hold for this model.
    """
    for name in options:
        if name in NOT_HERE:
            valid = [field.name for field in fields(Options) if field.name not in NOT_HERE]
            raise TypeError(f"{name} is no option of attribution: {NOT_HERE[name]}; options: {', '.join(valid)}")
    chosen = Options.of({**options, "metrics": ("logit_diff_change", "patching_effect"), "controls": ()})
    steps = _steps(integrated_gradients)
    if path not in PATHS:
        raise ValueError(one_of("path", path, PATHS))
    method = {
        "method": "attribution",
        "integrated_gradients": steps,
        "path": path if steps else "",
        "attention_correction": bool(attention_correction) and not steps,
    }
    check_model(model)
    _check_folder(chosen.store)
    found = _sites(model, pairs, sites, positions, neurons)
    return Attribution(SiteResult.several(model, pairs, chosen, found, method), steps, path).run()


def default_sites(model: "HookedBLIP", positions: Any = None, pairs: "MinimalPairs | None" = None) -> list[Site]:
    """Every site that is attributed to where none is named.

    Args:
        model: The model.
        positions: As `attribute`.
        pairs: As `Site.of`.
    """
    found = []
    for stack in model.cfg.stacks:
        modules = ["attn"] if stack == "vision" else ["attn", "cross_attn"]
        block = "hook_resid_post" if stack == "vision" else "hook_normalized_resid_post"
        names = ["hook_resid_pre"]
        for module in modules:
            names += [*(f"{module}.{leaf}" for leaf in ATTENTION), f"hook_{module}_out"]
        found += [f"{stack}.{name}" for name in (*names, "mlp.hook_post", "hook_mlp_out", block)]
    return [Site.of(model, name, positions=positions, pairs=pairs) for name in found]


def _sites(
    model: "HookedBLIP", pairs: "MinimalPairs", sites: Any, positions: Any, neurons: bool | None
) -> list[tuple[Site, bool]]:
    """The sites asked for, each with whether its neurons have a dimension."""
    if sites is None:
        return [(site, bool(neurons)) for site in default_sites(model, positions, pairs)]
    several = list(sites) if isinstance(sites, list | tuple) else [sites]
    if not several:
        raise ValueError("no sites given; a site is, for instance, 'text.cross_attn', and None takes all")
    if positions is not None and any(isinstance(site, Site) for site in several):
        raise ValueError("positions are for sites given by name; give those of a Site when it is built")
    found = [
        Site.of(model, site) if isinstance(site, Site) else Site.of(model, site, positions=positions, pairs=pairs)
        for site in several
    ]
    names = [site.name for site in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"site {name} comes {names.count(name)} times; each has one group in the result")
    return [(site, site.activation in NEURONS and neurons is not False) for site in found]


def _steps(asked: Any) -> int:
    if not isinstance(asked, int) or isinstance(asked, bool) or asked < 0:
        raise ValueError(f"integrated_gradients={asked!r}: expected a number of steps, 1 or more, or 0 for none")
    return asked


def _check_folder(folder: Any) -> None:
    """A store of attribution is a folder of stores: inside of another store they would be lost on its readers."""
    if folder is not None and (Path(folder).is_file() or (Path(folder) / "zarr.json").exists()):
        what = "a file" if Path(folder).is_file() else "a store of something else"
        raise FileExistsError(f"{folder} is {what}; attribution writes a store for each site into a folder of its own")


class Attribution:
    """One attribution over pairs.

    Args:
        results: Of every site.
        steps: Of the way from the base run to the other; 0 for the gradient at the base run.
        path: Which way; see `notice_lens.patching.gradient.integrated`.
    """

    def __init__(self, results: Sequence[SiteResult], steps: int, path: str) -> None:
        self.results, self.steps, self.path = list(results), steps, path
        self.first = self.results[0]
        self.model, self.options = self.first.model, self.first.options
        self.whole: list[str] = []

    def run(self) -> "SiteTree":
        """The result."""
        from tqdm.auto import tqdm

        from notice_lens.patching.results import SiteTree

        first, quiet = self.first, not self.options.progress
        at_a_time = self._pairs_that_fit()
        for result in self.results:
            result.pairs_at_a_time = at_a_time
        with ExitStack() as opened, torch.no_grad():
            kept = [opened.enter_context(result.kept()) for result in self.results]
            bar = opened.enter_context(tqdm(total=len(first.pairs), desc="attribution", unit=" pairs", disable=quiet))
            for several in first.batches():
                left = [number for number, own in enumerate(kept) if not own.done[several].all()]
                if left:
                    draws = [self._draw(several, left, setting) for setting in first.settings]
                    for place, number in enumerate(left):
                        part = self.results[number].part(several, [draw[place] for draw in draws])
                        # A store that was begun with another plan may have some of these pairs already.
                        new = np.flatnonzero(~kept[number].done[several])
                        kept[number].write([several[pair] for pair in new], part.isel(pair=new))
                bar.update(len(several))
            groups = {own.name: own.completed(at.load()) for own, at in zip(self.results, kept, strict=True)}
        return SiteTree.of(groups, {name: value for name, value in first.attrs().items() if name != "sites"})

    def _draw(self, several: list[int], left: Sequence[int], setting: Setting) -> list[Arrays]:
        """The numbers of some pairs, for one draw of the noise.

        Args:
            several: Which pairs.
            left: Which of the sites.
            setting: What is done.
        """
        try:
            return self._attributed(several, left, setting)
        except torch.OutOfMemoryError:
            if len(several) == 1:
                raise
            torch.cuda.empty_cache()
            log.warning("out of memory with %d pairs at a time; going on with half as many", len(several))
        middle = len(several) // 2
        halves = [self._draw(part, left, setting) for part in (several[:middle], several[middle:])]
        return [
            {name: np.concatenate([one[name], two[name]]) for name in one} for one, two in zip(*halves, strict=True)
        ]

    def _attributed(self, several: list[int], left: Sequence[int], setting: Setting) -> list[Arrays]:
        """The same at once."""
        first = self.first
        pairs, contrast = first.pairs.select(several), [first.contrast[number] for number in several]
        batch = Batch(
            self.model,
            pairs,
            contrast,
            setting,
            Blocks(self.model).recorded,
            (),
            (),
            donors=False,
            of_others=self.whole,
        )
        contexts = list(batch.runs())
        results = [self.results[number] for number in left]
        arrays, members = [result.zeros(contexts) for result in results], Members(contexts, first.places, several)
        for step in self._steps([result.target for result in results], contexts, setting.direction):
            for found in Backward(self.model, contexts, step.at, step.towards, step.wanted):
                for number in step.targets:
                    target = results[number].target
                    if target.has(found.stack, found.layer):
                        layer = [] if found.layer == EMBEDDING else [target.coords["layer"].index(found.layer)]
                        effect = effects(target, found, members).double().cpu().numpy()
                        arrays[number]["logit_diff_change"][:, *layer] += effect
        return arrays

    def _steps(self, targets: Sequence[Target], contexts: Sequence[Context], direction: str) -> Iterator[Step]:
        """The gradients to take."""
        base = [context.run.base for context in contexts]
        other = [context.clean if direction == "denoise" else context.corrupt for context in contexts]
        if not self.steps:
            return tangent(targets, base, other)
        way = site_way if self.path == "site" else input_way
        return way(Blocks(self.model), targets, base, other, self.steps)

    def _pairs_that_fit(self) -> int:
        """How many pairs go at a time: streams of the runs stay, and one block has its activations and its graph.

        Where there is room for one pair's activations of all blocks too, those of the other run are kept from its
        forward pass, and its blocks need not be run again.
        """
        size, limit = torch.finfo(self.model.dtype).bits // 8, budget(self.model, self.options.memory)
        blockwise = size * self._entries_blockwise()
        whole = wanted(result.target for result in self.results)
        kept = blockwise + size * sum(self._width(stack, name) for (stack, _), names in whole.items() for name in names)
        if kept <= limit:
            self.whole = [
                f"{stack}.blocks.{layer}.{name}"
                for (stack, layer), names in whole.items() if layer != EMBEDDING
                for name in names if not name.endswith(TABLES)
            ]  # fmt: skip
        return int(np.clip(limit // (kept if self.whole else blockwise), 1, MOST_PAIRS))

    def _lengths(self) -> dict[str, int]:
        """Positions of each stack."""
        first = self.first
        text = max(first.places.tokens)
        answer = first.answer_length + (text if self.model.cfg.kind == "caption" else 0)
        return {"vision": first.places.patches, "text": text, "decoder": answer}

    def _width(self, stack: str, name: str) -> int:
        """Entries of an activation of one pair, at most."""
        cfg, lengths = self.model.stack(stack).cfg, self._lengths()
        keys = name.startswith("cross_attn") and name.endswith(("hook_k", "hook_v"))
        return (max(lengths.values()) if keys else lengths[stack]) * (cfg.d_mlp if name in NEURONS else cfg.d_model)

    def _entries_blockwise(self) -> int:
        """What one pair takes while blocks are run again one by one, in numbers."""
        streams, widest, lengths = 0, 0, self._lengths()
        for stack in self.model.cfg.stacks:
            cfg, pos = self.model.stack(stack).cfg, lengths[stack]
            tables = sum(result.target.site.stack == stack and result.target.leaf in TABLES for result in self.results)
            streams += (3 if self.steps else 2) * cfg.n_layers * pos * cfg.d_model
            keys = max(lengths.values())
            widest = max(widest, pos * (24 * cfg.d_model + 6 * cfg.d_mlp) + 3 * tables * cfg.n_heads * pos * keys)
        return streams + widest
