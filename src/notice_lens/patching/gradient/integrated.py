"""Integration paths: the ways from the base run to the other along which gradients are taken.

- `tangent`: at the base run alone. One gradient for all sites.
- `site_way`: one layer of one site moves on the straight line from its activations in the base run to those in the
  other; everything before it stays, and everything after it follows. The mean gradient times the change (integrated
  gradients, Sundararajan et al., arXiv 1703.01365, of activations as in Marks et al., arXiv 2403.19647) sums over the
  cells of the layer to what patching all of them at once does, at every site. Midpoint rule; `steps` gradients for each
  layer of each site.
- `input_way`: the embeddings of patches and words move on the straight line between the two runs, and all activations
  follow. A cell gets the integral of its gradient along its own way (conductance, Dhamdhere et al., arXiv 1805.12233)
  by the trapezoidal rule: sum over k of (gradient k + gradient k+1) / 2 times (activation k+1 - activation k). Over
  every cut (cells through which all of the change has to pass, in whatever layers) effects sum to the change from the
  base run to the other. `steps` + 1 gradients for all sites. A joint change is split among the cells that bring it
  about: no estimate of what one patch does alone, where cells work together.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor

from notice_lens.patching.engine.runs import Trace, trace
from notice_lens.patching.gradient.recompute import Blocks, RunsByAnswer
from notice_lens.patching.gradient.targets import Target, wanted

IntegrationPath = Literal["site", "inputs"]
PATHS: tuple[IntegrationPath, ...] = get_args(IntegrationPath)


@dataclass(frozen=True)
class GradientStep:
    """One gradient to take.

    Attributes:
        at: The run that is differentiated.
        towards: The change of an activation, as a sum of weight times what it is in a run.
        targets: Numbers of the targets that it is for.
        wanted: Hook points to record, by stack and layer.
    """

    at: RunsByAnswer
    towards: Sequence[tuple[float, RunsByAnswer]]
    targets: Sequence[int]
    wanted: Mapping[tuple[str, int], list[str]]


def tangent(targets: Sequence[Target], base: RunsByAnswer, other: RunsByAnswer) -> Iterator[GradientStep]:
    """The gradient at the base run.

    Args:
        targets: The activations that attributions are of.
        base: The base run.
        other: The run that is patched in.
    """
    yield GradientStep(base, [(1.0, other), (-1.0, base)], range(len(targets)), wanted(targets))


def site_way(
    blocks: Blocks, targets: Sequence[Target], base: RunsByAnswer, other: RunsByAnswer, steps: int
) -> Iterator[GradientStep]:
    """Yield gradients for every layer of every site separately; arguments as `tangent`, and `steps` gradients each."""
    for number, target in enumerate(targets):
        stack, name = target.site.stack, target.activation
        for layer in target.layers:
            ends = [
                [blocks.activations(run, stack, layer, target.needs)[name] for run in node] for node in (base, other)
            ]
            for step in range(steps):
                share = (step + 0.5) / steps
                put = [{name: here.lerp(there, share)} for here, there in zip(*ends, strict=True)]
                at = blocks.moved(base, stack, layer, put)
                change = [(1 / steps, other), (-1 / steps, base)]
                yield GradientStep(at, change, [number], {(stack, layer): target.needs})


def input_way(
    blocks: Blocks, targets: Sequence[Target], base: RunsByAnswer, other: RunsByAnswer, steps: int
) -> Iterator[GradientStep]:
    """Yield gradients for all sites at once, along the embeddings; arguments as `site_way`."""
    before, at = base, base
    for step in range(steps + 1):
        after = other
        if step < steps - 1:
            after = _between(blocks, base, other, (step + 1) / steps)
        yield GradientStep(at, [(0.5, after), (-0.5, before)], range(len(targets)), wanted(targets))
        before, at = at, after


def _between(blocks: Blocks, base: RunsByAnswer, other: RunsByAnswer, share: float) -> RunsByAnswer:
    """Return the run on embeddings at this share of the way from the base run's to the other's."""
    found: list[Trace] = []
    for here, there in zip(base, other, strict=True):
        hooks = []
        for stack in blocks.model.cfg.stacks:
            name = f"{stack}.hook_embed"
            hooks.append((name, _replaced(here.activations[name].lerp(there.activations[name], share))))
        upstream = found[0] if found else None
        found.append(trace(blocks.model, here.inputs, blocks.recorded, hooks, upstream))
    return found


def _replaced(new: Tensor) -> Any:
    """Return a hook that replaces an activation."""
    return lambda _, hook: new
