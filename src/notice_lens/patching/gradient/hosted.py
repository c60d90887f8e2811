"""Gradients through the modules of a hosted model: one forward pass with its graph, and one backward pass.

1. The run to differentiate goes forward with a hook at every activation that is asked for. A hook's value is a copy
   that the model continues from, so autograd gives the gradient at exactly what a patch would replace.
2. The other run goes forward without a graph.
3. Where effects go through the softmax, attention keeps its steps in both runs (`KeptSteps`): queries and keys as they
   meet, scores, pattern.

Pairs go one by one, as in the causal engine. The graph of a whole pass is in memory at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from notice_lens.models.protocol import axes
from notice_lens.models.vlm.attention import KeptSteps, Stage, scores_of_heads
from notice_lens.models.vlm.inputs import QFORMER_INPUTS
from notice_lens.patching.engine.causal.given import Given
from notice_lens.patching.engine.causal.reading import UnpatchedRun, answer_reading, forced_answers
from notice_lens.patching.engine.causal.upstream import check_keys
from notice_lens.patching.engine.metrics import ReadOut
from notice_lens.patching.engine.pair_batch import Setting
from notice_lens.patching.engine.read_out import AnswerReading
from notice_lens.patching.engine.rows import Index
from notice_lens.patching.gradient.backward import SIGNS, weights_at_rest
from notice_lens.patching.gradient.block_gradients import BlockGradients
from notice_lens.patching.gradient.softmax import AttentionAtBase, Tables
from notice_lens.patching.gradient.targets import EMBEDDING_LAYER, Target

if TYPE_CHECKING:
    from notice_lens.models.vlm.hooked_vlm import HookedVLM
    from notice_lens.patching.prepare import Prepared

WORDS_IN = "language.hook_embed"
"""Where words are embedded."""
QUERIES_AND_KEYS: tuple[Stage, ...] = ("rot_q", "rot_k")
TABLES_OF_BASE: tuple[Stage, ...] = ("attn_scores", "pattern")
"""Steps of attention that are kept of both runs, and those that are kept of the run that is differentiated alone."""
Place = tuple[str, int]
"""A stack and a layer."""
AttentionAt = tuple[str, int, str]
"""A stack, a layer, and which attention of the block: `attn` or `cross_attn`."""


class HostedGradients:
    """The gradients of an attribution; a `GradientSource`.

    Args:
        prepared: The pairs.
        targets: The sites.
        steps: Of the way from the base run to the other; 0 for the gradient at the base run.
        path: The way: `site` or `inputs`.
    """

    def __init__(self, prepared: "Prepared", targets: Sequence[Target], steps: int, path: str) -> None:
        self.prepared, self.steps, self.path = prepared, steps, path

    @staticmethod
    def pairs_at_once() -> int:
        """Return 1: padding would move positions."""
        return 1

    def batch(self, pairs: list[int], targets: Sequence[Target], setting: Setting) -> "HostedBatch":
        """Return one pair, to differentiate with respect to some of the sites."""
        (number,) = pairs
        return HostedBatch(self, number, list(targets), setting)


class HostedBatch:
    """One pair; a `GradientBatch`.

    Args:
        of: Of the attribution.
        number: Of the pair.
        targets: The sites.
        setting: The corruption.
    """

    def __init__(self, of: HostedGradients, number: int, targets: Sequence[Target], setting: Setting) -> None:
        prepared = of.prepared
        self.model = cast("HookedVLM", prepared.model)
        self.steps, self.path, self.targets = of.steps, of.path, targets
        pair, foil = prepared.pairs[number], prepared.foils[number]
        names = ("clean", "corrupt") if setting.direction == "noise" else ("corrupt", "clean")
        self.runs = [
            HostedRuns(self.model, pair, foil, answer, setting, names)
            for answer in forced_answers(self.model, pair, foil)
        ]
        self.hooks, self.corrected = _hooks(targets), _corrected(targets)
        for run in self.runs:
            run.other = run.endpoints[1].passed(self.hooks, self.corrected)
            for hook, values in run.other.values.items():
                check_keys(self.model, hook, values)

    def by_block(self) -> Iterator[tuple[Sequence[int], BlockGradients]]:
        """Yield the gradients of each block, and the numbers of the targets that they are for."""
        ways = {"site": self._along_sites, "inputs": self._along_inputs}
        with weights_at_rest(self.model):
            yield from ways[self.path]() if self.steps else self._tangent()

    def _tangent(self) -> Iterator[tuple[Sequence[int], BlockGradients]]:
        for number, run in enumerate(self.runs):
            base = run.differentiated(run.endpoints[0], SIGNS[number], self.hooks, self.corrected)
            run.base = base.logits
            yield from self._at_every_block(number, base, run.other, base.grads)

    def _along_sites(self) -> Iterator[tuple[Sequence[int], BlockGradients]]:
        """Each layer of each site moves by itself; see `integrated.site_way`."""
        for number, run in enumerate(self.runs):
            start = run.endpoints[0].passed(self.hooks)
            run.base = start.logits
            for at, target in enumerate(self.targets):
                for layer in target.layers:
                    hook = _hook(target, layer)
                    for step in range(self.steps):
                        here, there = start.values[hook], run.other.values[hook]
                        put = {hook: _between(here, there, (step + 0.5) / self.steps)}
                        moved = run.differentiated(run.endpoints[0].with_replaced(put), SIGNS[number], [hook])
                        change = {hook: _change(there, here) / self.steps}
                        yield (
                            [at],
                            _block_gradients(number, (target.site.stack, layer), moved.values, moved.grads, change),
                        )

    def _along_inputs(self) -> Iterator[tuple[Sequence[int], BlockGradients]]:
        """Everything moves along with pixels and embedded words; see `integrated.input_way`."""
        for number, run in enumerate(self.runs):
            words = [end.passed([WORDS_IN]).values[WORDS_IN] for end in run.endpoints]
            before: Passed | None = None
            for step in range(self.steps + 1):
                share = step / self.steps
                put = {WORDS_IN: _between(words[0], words[1], share)}
                way = run.endpoints[0].interpolated(run.endpoints[1], share).with_replaced(put)
                after = run.differentiated(way, SIGNS[number], self.hooks)
                if before is None:
                    run.base = after.logits
                else:
                    mean = {hook: (before.grads[hook] + after.grads[hook]) / 2 for hook in self.hooks}
                    yield from self._at_every_block(number, before, after, mean)
                before = after

    def _at_every_block(
        self, number: int, base: "Passed", other: "Passed", grads: Mapping[str, Tensor]
    ) -> Iterator[tuple[Sequence[int], BlockGradients]]:
        everyone = range(len(self.targets))
        places = dict.fromkeys((target.site.stack, layer) for target in self.targets for layer in target.layers)
        for place in places:
            hooks = [hook for hook in self.hooks if _place(hook) == place]
            change = {hook: _change(other.values[hook], base.values[hook]) for hook in hooks}
            attention = {
                at[2]: StepsAtBase.of(base.steps[at], other.steps[at], base.pattern_grads[at])
                for at in self.corrected
                if at[:2] == place
            }
            yield everyone, _block_gradients(number, place, base.values, grads, change, attention)


def _hooks(targets: Sequence[Target]) -> list[str]:
    """Return the hook points that are differentiated or whose values are needed."""
    return list(dict.fromkeys(_hook(target, layer) for target in targets for layer in target.layers))


def _corrected(targets: Sequence[Target]) -> list[AttentionAt]:
    """Return the attention modules whose softmax is computed again."""
    modules = [
        (target.site.stack, layer, target.module) for target in targets for layer in target.layers if target.corrected
    ]
    return list(dict.fromkeys(modules))


@dataclass
class Passed:
    """A pass of a run: what was kept of it.

    Attributes:
        values: By hook point, as hooks see them.
        logits: At the read-outs, [1, answer_pos, d_vocab].
        steps: Of attention, by module.
        grads: By hook point, where the pass was differentiated.
        pattern_grads: At the patterns of those modules.
    """

    values: dict[str, Tensor]
    logits: Tensor
    steps: dict[AttentionAt, KeptSteps]
    grads: dict[str, Tensor] = field(default_factory=dict)
    pattern_grads: dict[AttentionAt, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class WayPoint:
    """A run, or a point on the way between two.

    Attributes:
        given: What the run is given.
        inputs: Of Hugging Face's forward; those of `given`, or between two.
        noise: Share of the noise that is added, where the run is noisy.
        put: Activations that are replaced, by hook point.
        readouts: Positions whose logits are read.
    """

    given: Given
    inputs: Mapping[str, Any]
    noise: float
    put: Mapping[str, Tensor]
    readouts: range

    def with_replaced(self, put: Mapping[str, Tensor]) -> "WayPoint":
        """Return the run with activations replaced."""
        return WayPoint(self.given, self.inputs, self.noise, {**self.put, **put}, self.readouts)

    def interpolated(self, other: "WayPoint", share: float) -> "WayPoint":
        """Return a point on the way to another run: its pixels, and its noise, are between both.

        Raises:
            ValueError: A Q-Former reads other words in the other run, which cannot be between.
        """
        if any(
            not torch.equal(self.inputs[name], other.inputs[name]) for name in QFORMER_INPUTS if name in self.inputs
        ):
            raise ValueError(
                "path='inputs' moves pixels and embedded words, and the Q-Former reads the words of the question too, "
                "which are others in the two runs: take path='site', or corruption='image'"
            )
        inputs = {
            name: _between(own, other.inputs[name], share)
            if isinstance(own, Tensor) and own.is_floating_point()
            else own
            for name, own in self.inputs.items()
        }
        noisy = self.given if self.given.noisy else other.given
        noise = (1 - share) * self.noise + share * other.noise
        return WayPoint(noisy, inputs, noise, self.put, self.readouts)

    def hooks(self) -> list[Any]:
        """Return the hooks that make the run what it is."""
        noisy = [
            (hook, _share_of_hook(change, self.noise)) for hook, change in self.given.noise() if hook not in self.put
        ]
        return [*noisy, *((hook, _replacing(value)) for hook, value in self.put.items())]

    @torch.no_grad()
    def passed(self, hooks: Sequence[str], corrected: Sequence[AttentionAt] = ()) -> Passed:
        """Run it without a graph, and keep what is asked for."""
        return self.run(hooks, corrected)

    def run(self, hooks: Sequence[str], corrected: Sequence[AttentionAt]) -> Passed:
        """Run it, and keep what is asked for."""
        model, values = self.given.model, dict[str, Tensor]()

        def keep(value: Tensor, hook: Any) -> None:
            if torch.is_grad_enabled() and not value.requires_grad:
                value.requires_grad_()
            values[hook.name] = value

        first, length = self.readouts[0], self.inputs["input_ids"].shape[1]
        wanted = (*QUERIES_AND_KEYS, *TABLES_OF_BASE) if torch.is_grad_enabled() else QUERIES_AND_KEYS
        steps = {at: model.block(at[0], at[1]).attentions()[at[2]].steps for at in corrected}
        with model.in_use.held() as changes, model.hooks([*self.hooks(), *((hook, keep) for hook in hooks)]):
            for own in steps.values():
                changes.set(own, "kept", {})
                changes.set(own, "wanted", wanted)
            logits = model(self.inputs, logits_to_keep=length - first)
            kept = {at: KeptSteps((), own.kept, own.scaling, own.softcap) for at, own in steps.items()}
        return Passed(values, logits[:, first - length :][:, : len(self.readouts)], kept)


class HostedRuns:
    """The unpatched runs of one pair, with one of its answers teacher-forced or none; `PairRuns`.

    Args:
        model: The model.
        pair: The pair.
        foil: What its correct answer is compared with.
        answer: The teacher-forced answer, or None.
        setting: The corruption.
        names: Of the base run and of the other.
    """

    def __init__(
        self,
        model: "HookedVLM",
        pair: Any,
        foil: str,
        answer: str | None,
        setting: Setting,
        names: tuple[str, str],
    ) -> None:
        self.endpoints: list[WayPoint] = []
        for name in names:
            given = Given.of(model, pair, setting, name, answer)
            first = model.layout(given.inputs, [given.prompt]).read_out[0]
            n_answer = 1 if answer is None else len(model.answer_ids(given.prompt, answer))
            readouts = range(first, first + n_answer)
            self.endpoints.append(WayPoint(given, given.inputs, float(given.noisy), {}, readouts))
        self.reading: AnswerReading = answer_reading(model, pair, foil, answer, setting)
        self.other = Passed({}, torch.empty(0), {})
        """The pass of the other run."""
        self.names = names
        self.base: Tensor | None = None
        """Logits of the base run, once a pass had them."""

    @property
    def has_donor(self) -> np.ndarray:
        """Boolean, [pair]: no mismatched run is needed."""
        return np.zeros(1, bool)

    @property
    def unpatched(self) -> Mapping[str, UnpatchedRun]:
        """The runs as they are: `clean` and `corrupt`."""
        if self.base is None:
            self.base = self.endpoints[0].passed([]).logits
        return dict(zip(self.names, (UnpatchedRun(self.base), UnpatchedRun(self.other.logits)), strict=True))

    def real_length(self, stack: str, pair: int) -> int:
        """Return how many positions of a stack can be patched; of an image's, all that were kept."""
        model = self.endpoints[0].given.model
        if stack == "language":
            return self.endpoints[0].readouts[0] + 1
        limit = model.stack(stack).cfg.n_ctx
        for hook, value in self.other.values.items():
            positions, keys = axes(model.cfg, _place(hook)[0], _leaf(hook))
            if positions == stack:
                return min(limit, value.shape[0] * value.shape[1 if keys is None else 2])
            if keys == stack:
                return min(limit, value.shape[-1])
        queries = next(steps.kept["rot_q"] for at, steps in self.other.steps.items() if at[0] == stack)
        return min(limit, len(queries) * queries.shape[1])

    def read_logits(self, logits: Tensor, pairs: Index, base: Tensor | None = None) -> ReadOut:
        """Return the metrics of rows from their logits; see `AnswerReading.metrics`."""
        return self.reading.metrics(logits, pairs, base)

    def differentiated(
        self, point: WayPoint, sign: float, hooks: Sequence[str], corrected: Sequence[AttentionAt] = ()
    ) -> Passed:
        """Run a point with its graph and differentiate the logit difference with respect to what was kept."""
        with torch.enable_grad():
            run = point.run(hooks, corrected)
            total = sign * self.read_logits(run.logits, np.zeros(1, np.int64)).logit_diff.sum()
        to = [*run.values.values(), *(steps.kept["pattern"] for steps in run.steps.values())]
        if total.requires_grad:
            grads = torch.autograd.grad(total, to, allow_unused=True, materialize_grads=True)
        else:  # what is kept is not on the way to the logits, such as a layer of the tower that is not read
            grads = tuple(torch.zeros_like(one) for one in to)
        run.grads = dict(zip(run.values, grads, strict=False))
        run.pattern_grads = dict(zip(run.steps, grads[len(run.values) :], strict=True))
        run.values = {hook: value.detach() for hook, value in run.values.items()}
        for steps in run.steps.values():
            steps.kept = {stage: value.detach() for stage, value in steps.kept.items()}
        run.logits = run.logits.detach()
        return run


@dataclass
class StepsAtBase:
    """The attention of one block of a hosted model; an `AttentionAtBase`.

    Scores are patched by what the new queries and keys add to them, so masks and biases stay as they are. All of it is
    in float32 at least: rounded to half precision, a key that nobody patched would have an effect.

    Attributes:
        q, k: Queries and keys as they meet in the run that is differentiated, [row, pos, head, d_head].
        other_q, other_k: Those of the other run.
        tables: Scores and pattern of the first run.
        grad: The gradient at its pattern, [row, head, query_pos, key_pos].
        scaling, softcap: Of the scores.
    """

    q: Tensor
    k: Tensor
    other_q: Tensor
    other_k: Tensor
    tables: Tables
    grad: Tensor
    scaling: float | None
    softcap: float | None

    @classmethod
    def of(cls, base: KeptSteps, other: KeptSteps, grad: Tensor) -> "StepsAtBase":
        """Return the attention of a block from its steps in both runs."""
        scores = _wide(base.kept["attn_scores"])
        scores = scores.clamp(min=torch.finfo(scores.dtype).min)
        (q, k), (other_q, other_k) = (
            [_wide(steps.kept[stage]) for stage in QUERIES_AND_KEYS] for steps in (base, other)
        )
        tables = Tables(scores, scores.softmax(-1))
        return cls(q, k, other_q, other_k, tables, _wide(grad), base.scaling, base.softcap)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Rows, query heads, queries, keys."""
        rows, heads, queries, keys = self.grad.shape
        return rows, heads, queries, keys

    @property
    def n_kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.k.shape[2]

    def unpatched(self, some: slice) -> tuple[Tables, Tensor]:
        """Return the tables of some rows, and the gradient at their pattern."""
        return Tables(self.tables.scores[some], self.tables.pattern[some]), self.grad[some]

    def patched(self, some: slice, queries: bool, keys: bool) -> Tensor:
        """Return the scores of some rows with the other run's queries, keys or both."""
        new = self._scores(self.other_q if queries else self.q, self.other_k if keys else self.k, some)
        return self.tables.scores[some] + (new - self._scores(self.q, self.k, some))

    def _scores(self, q: Tensor, k: Tensor, some: slice) -> Tensor:
        return scores_of_heads(q[some].transpose(1, 2), k[some].transpose(1, 2), self.scaling, self.softcap)


def _block_gradients(
    number: int,
    place: Place,
    values: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    changes: Mapping[str, Tensor],
    attention: Mapping[str, AttentionAtBase] | None = None,
) -> BlockGradients:
    """Return what a gradient gives of one block, by hook points without stack and layer."""

    def own(by_hook: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {_leaf(hook): value for hook, value in by_hook.items() if _place(hook) == place}

    wide = {leaf: _wide(grad) for leaf, grad in own(grads).items()}
    return BlockGradients(number, *place, own(values), wide, own(changes), attention or {})


def _hook(target: Target, layer: int) -> str:
    prefix = target.site.stack if layer == EMBEDDING_LAYER else f"{target.site.stack}.blocks.{layer}"
    return f"{prefix}.{target.activation}"


def _place(hook: str) -> Place:
    stack, _, rest = hook.partition(".")
    return (stack, int(rest.split(".")[1])) if rest.startswith("blocks.") else (stack, EMBEDDING_LAYER)


def _leaf(hook: str) -> str:
    _, _, rest = hook.partition(".")
    return rest.split(".", 2)[2] if rest.startswith("blocks.") else rest


def _wide(tensor: Tensor) -> Tensor:
    """Return the tensor in float32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _change(there: Tensor, here: Tensor) -> Tensor:
    """Return the difference; nothing where both are minus infinity, as masked scores are."""
    there, here = _wide(there), _wide(here)
    return torch.where(there == here, torch.zeros_like(here), there - here)


def _between(here: Tensor, there: Tensor, share: float) -> Tensor:
    """Return what is between; masked scores stay as they are."""
    return torch.where(there == here, here, here.lerp(there, share))


def _replacing(new: Tensor) -> Any:
    """Return a hook that replaces an activation."""
    return lambda value, hook: new.to(value).reshape(value.shape)


def _share_of_hook(change: Any, share: float) -> Any:
    """Return a hook that does a share of what another does."""
    if share == 1:
        return change

    def hook_of_a_share(value: Tensor, hook: Any) -> Tensor:
        before = value.clone()
        changed = change(value, hook=hook)
        return before + share * ((value if changed is None else changed) - before)

    return hook_of_a_share
