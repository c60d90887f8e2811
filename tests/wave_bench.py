"""Recorded runs for the wave, and the same variants one by one on the Hugging Face model.

Three pairs whose questions have unequal lengths. The wave gets them in one padded batch; the oracle (PyTorch hooks
on the Hugging Face model, one full forward a variant) runs each pair alone and unpadded, and reads `other` and `donor`
from recordings of its own. `zero` and `mean` are made up numbers, the same for both.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from torch import Tensor

from conftest import Pair, make_pair
from notice_lens.models import BLIPInputs
from notice_lens.patching.engine.plan import HookEdit, Plan
from notice_lens.patching.engine.runs import Run, Trace, trace
from notice_lens.patching.engine.wave import Wave

LENGTHS = (5, 8, 6)
ANSWERS = (3, 2, 3)
N_PAIRS = len(LENGTHS)
RECORDED = ("self", "other", "donor")
SOURCES = (*RECORDED, "zero", "mean")

_ATTENTION = ("hook_q", "hook_k", "hook_v", "hook_attn_scores", "hook_pattern", "hook_z", "hook_result")
_VISION = (
    *(f"attn.{leaf}" for leaf in _ATTENTION), "hook_resid_pre", "hook_attn_out", "hook_resid_mid",
    "mlp.hook_pre", "mlp.hook_post", "hook_mlp_out", "hook_resid_post",
)  # fmt: skip
_TEXT = (
    *_VISION, *(f"cross_attn.{leaf}" for leaf in _ATTENTION), "hook_cross_attn_out", "hook_resid_mid_cross",
    "hook_normalized_resid_post",
)  # fmt: skip
LEAVES = {"vision": _VISION, "text": _TEXT, "decoder": _TEXT}
EMBEDDINGS = ("hook_embed", "hook_pos_embed")
MODELS = {"vqa": "vqa", "vqa, one token": "vqa", "caption": "caption", "match": "match"}


@cache
def make_model(kind: str, dtype: torch.dtype = torch.float64) -> Pair:
    """Unequal numbers of layers, heads and (where the class allows it) widths, so that none passes for another."""
    vision = {"num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32}
    text = {"num_hidden_layers": 3, "num_attention_heads": 3}
    if kind != "vqa":
        vision["hidden_size"] = text["encoder_hidden_size"] = 64
    return make_pair(kind, dtype, text=text, vision=vision)


@dataclass(frozen=True)
class Row:
    """One variant of one pair."""

    pair: int
    patches: tuple[HookEdit, ...]


class Bench:
    """A model with pairs, a base run and the runs that edits come from.

    Args:
        model: One of `MODELS`.
        corruption: `image` or `text`.
        denoise: Whether the base run is the corrupted one; else it is the clean one.
    """

    def __init__(
        self, model: str, corruption: str = "image", denoise: bool = True, dtype: torch.dtype = torch.float64
    ) -> None:
        self.name, self.kind, self.pair = model, MODELS[model], make_model(MODELS[model], dtype)
        self.model, self.dtype = self.pair.model, dtype
        self.stacks = self.model.cfg.stacks
        self.answers = ANSWERS if model == "vqa" else None
        clean, corrupt, donor = self._inputs(0), self._inputs(0), self._inputs(2)
        for ours, theirs in zip(corrupt, self._inputs(1), strict=True):
            if corruption == "image":
                ours["pixel_values"] = theirs["pixel_values"]
            else:
                ours["input_ids"][:, 2:4] = theirs["input_ids"][:, 2:4]
        base, other = (corrupt, clean) if denoise else (clean, corrupt)
        self.alone = {"self": base, "other": other, "donor": donor}

    def _inputs(self, seed: int) -> list[dict[str, Tensor]]:
        """What each pair runs on alone."""
        g = torch.Generator().manual_seed(seed)
        d_vocab, size = self.pair.hf.config.text_config.vocab_size, self.model.cfg.image_size
        first = self.model.cfg.dec_token_id
        found = []
        for i, length in enumerate(LENGTHS):
            inputs = {
                "pixel_values": torch.randn(1, 3, size, size, generator=g).to(self.dtype),
                "input_ids": torch.randint(5, d_vocab, (1, length), generator=g),
            }
            if self.answers:
                inputs["answer_ids"] = torch.randint(5, d_vocab, (1, self.answers[i]), generator=g)
                inputs["answer_ids"][0, 0] = first
            found.append(inputs)
        return found

    def padded(self, run: str) -> BLIPInputs:
        """One batch of all pairs."""
        singles = self.alone[run]
        together = {"pixel_values": torch.cat([single["pixel_values"] for single in singles])}
        for name in [name for name in ("input_ids", "answer_ids") if name in singles[0]]:
            columns = [single[name][0] for single in singles]
            together[name] = torch.nn.utils.rnn.pad_sequence(columns, batch_first=True)
        mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
        return BLIPInputs(**together, attention_mask=mask.long())

    def length(self, stack: str, pair: int | None = None) -> int:
        """Positions of a stack: of one pair, or of the padded batch."""
        if stack == "vision":
            return self.model.vision.cfg.n_ctx
        if stack == "text" or self.kind == "caption":
            return max(LENGTHS) if pair is None else LENGTHS[pair]
        if self.answers is None:
            return 1
        return max(self.answers) if pair is None else self.answers[pair]

    def n_keys(self, hook: str, pair: int) -> int:
        """Positions that an attention module looks at."""
        stack = hook.partition(".")[0]
        cross = ".cross_attn." in hook
        return self.length(self.stacks[self.stacks.index(stack) - 1] if cross else stack, pair)

    def n_places(self, hook: str, pair: int) -> int:
        """Positions that a patch of this hook can name: those of keys and values are the source's."""
        keys = hook.endswith(("hook_k", "hook_v"))
        return self.n_keys(hook, pair) if keys else self.length(hook.partition(".")[0], pair)

    def n_layers(self, stack: str) -> int:
        return self.model.cfg.n_layers[stack]

    def n_heads(self, stack: str) -> int:
        return self.model.stack(stack).cfg.n_heads

    def hooks(self, stack: str) -> list[str]:
        """Every hook of a stack that can be edited."""
        layers = range(self.n_layers(stack))
        return [f"{stack}.{leaf}" for leaf in EMBEDDINGS] + [
            f"{stack}.blocks.{layer}.{leaf}" for layer in layers for leaf in LEAVES[stack]
        ]

    @cached_property
    def every_hook(self) -> list[str]:
        return [hook for stack in self.stacks for hook in self.hooks(stack)]

    # What the wave says

    @cached_property
    def traces(self) -> dict[str, Trace]:
        """The recorded runs."""
        self.model.set_use_attn_result(True)
        try:
            with torch.no_grad():
                return {name: trace(self.model, self.padded(name), self.every_hook) for name in RECORDED}
        finally:
            self.model.set_use_attn_result(False)

    @cached_property
    def made_up(self) -> dict[str, dict[str, Tensor]]:
        """Sources that are no runs: [pair, ...] like the recorded ones, `mean` the same for every pair."""
        recorded = self.traces["donor"].activations
        return {
            "zero": {hook: torch.zeros_like(value) for hook, value in recorded.items()},
            "mean": {hook: (value / N_PAIRS).sum(0, keepdim=True).expand_as(value) for hook, value in recorded.items()},
        }

    @cached_property
    def run(self) -> Run:
        others = {name: self.traces[name].activations for name in ("other", "donor")}
        return Run(self.model, self.traces["self"], {**others, **self.made_up})

    def plan(self, rows: Sequence[Row]) -> Plan:
        return Plan(self.run.shapes, [row.pair for row in rows], [row.patches for row in rows], N_PAIRS)

    @torch.no_grad()
    def states(self, rows: Sequence[Row], run: Run | None = None) -> Tensor:
        """The last stack's states [base rows and variants, pos, d_model] by the wave."""
        wave = Wave(run or self.run, self.plan(rows))
        return wave.read_out(wave.encode())

    @torch.no_grad()
    def wave(self, rows: Sequence[Row], run: Run | None = None) -> Tensor:
        """Logits [base rows and variants, ...] by the wave."""
        return self.model.head(self.states(rows, run))

    # What the oracle says

    def as_tuple(self, run: str, pair: int) -> tuple:
        single = self.alone[run][pair]
        return single["pixel_values"], single["input_ids"], single.get("answer_ids")

    @cached_property
    def recorded(self) -> dict[str, list[tuple[Tensor, dict[str, Tensor]]]]:
        """Logits and activations of every run of every pair, alone."""
        return {
            run: [self.pair.oracle.record(self.as_tuple(run, pair), self.every_hook) for pair in range(N_PAIRS)]
            for run in RECORDED
        }

    def gap(self, pair: int) -> float:
        """The largest difference between the logits of the two unpatched runs."""
        return (self.recorded["self"][pair][0] - self.recorded["other"][pair][0]).abs().max().item()

    def value(self, source: str, hook: str, pair: int, shape: torch.Size) -> Tensor:
        if source in RECORDED:
            return self.recorded[source][pair][1][hook]
        return self.made_up[source][hook][[pair]][tuple(slice(n) for n in shape)]

    def oracle(self, row: Row) -> Tensor:
        """The logits of one variant, by a full forward of its own."""
        assert self.recorded  # before the hooks of this run are there
        hooks = dict.fromkeys(patch.hook for patch in row.patches)
        return self.pair.oracle.run(self.as_tuple("self", row.pair), {hook: self.edit_of(row, hook) for hook in hooks})

    def edit_of(self, row: Row, hook: str) -> Callable[[Tensor], Tensor]:
        """What a variant does at one hook point, one patch after the other."""

        def edit(activation: Tensor) -> Tensor:
            for patch in (patch for patch in row.patches if patch.hook == hook):
                value = self.value(patch.source, hook, row.pair, activation.shape)
                for where in places(patch, activation.shape):
                    activation[where] = value[where]
            if hook.startswith("decoder.") and hook.endswith((".attn.hook_attn_scores", ".attn.hook_pattern")):
                # Whatever a source has in the future of a position, the wave never lets it look there.
                future = torch.ones(activation.shape[-2:], dtype=torch.bool).triu(1)
                nothing = 0.0 if hook.endswith("pattern") else torch.finfo(activation.dtype).min
                activation = activation.masked_fill(future, nothing)
            return activation

        return edit

    # One against the other

    def errors(self, rows: Sequence[Row], logits: Tensor | None = None) -> np.ndarray:
        """Of each row, the largest difference to the oracle, in gaps."""
        found = (self.wave(rows) if logits is None else logits)[N_PAIRS:]
        return np.array(
            [self.distance(row.pair, ours, self.oracle(row)) for row, ours in zip(rows, found, strict=True)]
        )

    def effects(self, rows: Sequence[Row], logits: Tensor) -> np.ndarray:
        """Of each row, the largest difference to the base run, in gaps."""
        found = logits[N_PAIRS:]
        base = self.recorded["self"]
        return np.array(
            [self.distance(row.pair, ours, base[row.pair][0]) for row, ours in zip(rows, found, strict=True)]
        )

    def distance(self, pair: int, ours: Tensor, theirs: Tensor) -> float:
        """Largest difference, in gaps, where there is no padding; `theirs` [1, ...] is not padded."""
        real = ours if ours.ndim == 1 else ours[: theirs.shape[1]]
        assert real.shape == theirs.shape[1:]
        distance = (real - theirs[0]).abs().max().item() / self.gap(pair)
        return distance if np.isfinite(distance) else float("inf")

    # Variants

    def sample(self, g: np.random.Generator, hook: str, pair: int, source: str) -> HookEdit:
        """An edit of this hook: single positions, several or all; one head or all; some keys or all."""
        leaf = hook.rsplit(".", 1)[1]
        stack = hook.partition(".")[0]
        by_head = leaf in _ATTENTION and g.random() < 0.6
        by_key = leaf in ("hook_attn_scores", "hook_pattern") and g.random() < 0.6
        return HookEdit(
            hook,
            some(g, self.n_places(hook, pair)),
            source,
            int(g.integers(self.n_heads(stack))) if by_head else None,
            some(g, self.n_keys(hook, pair)) if by_key else None,
        )


def some(g: np.random.Generator, n: int) -> np.ndarray:
    """Some of n numbers: as often one as several or all of them, in any order."""
    how_many = (1, int(g.integers(1, n + 1)), n)[g.integers(3)]
    return g.permutation(n)[:how_many].astype(np.int64)


def places(patch: HookEdit, shape: torch.Size) -> Iterable[tuple]:
    """Where a patch is in an activation of one pair, number by number."""
    scores = patch.hook.endswith(("hook_attn_scores", "hook_pattern"))
    everything = slice(None)
    head = everything if patch.head is None else patch.head
    for position in patch.positions.tolist():
        if not scores:
            yield (0, position) if len(shape) == 3 else (0, position, head)
        elif patch.keys is None:
            yield (0, head, position)
        else:
            yield from ((0, head, position, key) for key in patch.keys.tolist())
