"""Carries out a sweep: batches of pairs, their rows, and one labelled result."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from notice_lens import __version__
from notice_lens.models.names import HookName
from notice_lens.pairs.noise import Noise
from notice_lens.pairs.tokens import pieces
from notice_lens.patching.batch import Batch, Context, Setting, contrasted, contrasts
from notice_lens.patching.grid import Grid
from notice_lens.patching.means import Means
from notice_lens.patching.measure import MATCHED, MISMATCHED, SELF, Row, measure, numbers
from notice_lens.patching.memory import bytes_per_row, rows_that_fit
from notice_lens.patching.metrics import check_metrics
from notice_lens.patching.options import Options
from notice_lens.patching.places import Places

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.models import HookedBLIP
    from notice_lens.pairs import MinimalPairs
    from notice_lens.patching.store import Store

MOST_PAIRS = 64
"""Pairs that are encoded together, at most."""
COLUMNS = (
    "task",
    "group",
    "kind",
    "clean_prompt",
    "correct_answer",
    "incorrect_answer",
    "clean_digest",
    "corrupt_digest",
)
BASELINES = ("logit_diff_clean", "logit_diff_corrupt", "answer_prob_clean", "answer_prob_corrupt", "noise_floor")
Arrays = dict[str, np.ndarray]


class Sweep:
    """One sweep over pairs.

    Args:
        blip: The model.
        pairs: The pairs.
        options: Everything but what is patched.
        make_grid: The grid, from places and the length of the longest answer.
        described: What is patched, in plain values.

    Raises:
        ValueError: There are hooks on the model, or pairs lack what the corruption needs.
    """

    def __init__(
        self,
        blip: "HookedBLIP",
        pairs: "MinimalPairs",
        options: Options,
        make_grid: Callable[[Places, int], Grid],
        described: Any,
    ) -> None:
        _refuse_hooks(blip)
        self.blip, self.options = blip, options
        self.names, self.custom = check_metrics(options.metrics)
        check_pairs(pairs, options)
        self.pairs = pairs.validate(blip)
        self.places = Places(blip, self.pairs)
        self.contrast = contrasts(blip, self.pairs, options.corruption, options.contrast)
        self.grid = make_grid(self.places, self._longest_answer())
        self.described = described
        self.mismatched = "mismatched" in options.controls
        self.with_donors = self.mismatched or "donor" in self.grid.sources
        metrics = [name for name in ("answer_prob", "prob_change", "logit_diff_change", "kl") if name in self._needed()]
        self.metrics = [*metrics, *self.custom]
        self.rows_at_a_time = self._fit(max(self.places.tokens))
        rows = max(1, len(self.grid.cells) * (1 + self.mismatched))
        self.pairs_at_a_time = int(np.clip(self.rows_at_a_time // rows, 1, MOST_PAIRS))

    def _needed(self) -> set[str]:
        needed = set(self.names)
        return needed | {"logit_diff_change"} if "patching_effect" in needed else needed

    def _longest_answer(self) -> int:
        if self.blip.cfg.kind == "match":
            return 1
        lengths = {
            len(pieces(self.blip.tokenizer, answer)) for answer in {*self.pairs["correct_answer"], *self.contrast}
        }
        return 1 if lengths <= {1} and self.blip.cfg.kind == "vqa" else max(lengths, default=0) + 1

    @torch.no_grad()
    def run(self) -> "xr.Dataset":
        """The result."""
        from tqdm import tqdm

        size, quiet = len(self.grid.cells), not self.options.progress
        with (
            self._kept() as kept,
            tqdm(total=len(self.pairs) * size, desc="patching", unit=" patches", disable=quiet) as bar,
        ):
            for several in self._batches():
                if not kept.done[several].all():
                    arrays = [self._batch(several, setting) for setting in self._settings]
                    kept.write(several, self._raw(several, self._averaged(arrays)))
                bar.update(len(several) * size)
            return self._completed(kept.load())

    def _kept(self) -> "InMemory | Store":
        """Where results go: a store on disk, which goes on where it stopped, or memory."""
        from notice_lens.patching.store import Store

        template = self._raw(list(range(len(self.pairs))), None)
        if self.options.store is None:
            return InMemory(template)
        store = Store.open(self.options.store, template, self.attrs())
        # The plan of a store that is gone on with: other batches would round otherwise.
        plan = store.load().attrs
        self.rows_at_a_time, self.pairs_at_a_time = int(plan["rows_at_a_time"]), int(plan["pairs_at_a_time"])
        return store

    @cached_property
    def _settings(self) -> list[Setting]:
        """What is done: once, or once for each draw of the noise."""
        noise = self.options.corruption
        if not isinstance(noise, Noise):
            return [Setting(noise, self.options.direction, self.custom)]
        std = noise.std(self.blip, self.pairs)
        return [Setting(noise, self.options.direction, self.custom, sample, std) for sample in range(noise.samples)]

    @cached_property
    def _means(self) -> Means | None:
        """Mean activations, where edits take their values from them."""
        return Means(self.blip, self.pairs, self.places, self.grid.hooks) if "mean" in self.grid.sources else None

    def _batches(self) -> Iterator[list[int]]:
        """Pairs that are run together: of one length of question, as many as their variants fit into the budget."""
        by_length: dict[int, list[int]] = defaultdict(list)
        for number, length in enumerate(self.places.tokens):
            by_length[length].append(number)
        for several in by_length.values():
            for start in range(0, len(several), self.pairs_at_a_time):
                yield several[start : start + self.pairs_at_a_time]

    def _streams(self) -> list[str]:
        """The stacks that variants pass through: from the first that is edited on."""
        edited = [HookName.parse(hook).stack for hook in self.grid.hooks]
        stacks = self.blip.cfg.stacks
        return list(stacks[min(stacks.index(stack) for stack in edited if stack) :])

    def _fit(self, tokens: int) -> int:
        """How many variants fit into the budget."""
        answer = self._longest_answer()
        lengths = {"vision": self.places.patches, "text": tokens, "decoder": answer}
        if self.blip.cfg.kind == "caption":
            lengths["decoder"] = tokens + answer
        passed = {stack: lengths[stack] for stack in self._streams()}
        d_vocab = 2 if self.blip.cfg.kind == "match" else self.blip.decoder.cfg.d_vocab or 0
        return rows_that_fit(self.blip, self.options.memory, bytes_per_row(self.blip, passed, d_vocab))

    def _batch(self, several: list[int], setting: Setting) -> Arrays:
        """The numbers of some pairs."""
        means = self._means
        batch = Batch(
            self.blip,
            self.pairs.select(several),
            [self.contrast[number] for number in several],
            setting,
            self.grid.hooks,
            self._streams(),
            self.with_donors,
        )
        contexts = list(batch.runs(None if means is None else lambda like: means.of(several, like)))
        arrays = {name: np.full((len(several), *shape), np.nan) for name, shape in self._shapes().items()}
        self._baselines(contexts, arrays)
        rows = list(self._rows(batch, contexts, several))
        for measured in measure(contexts, self.places, several, rows, self.rows_at_a_time):
            found = numbers(measured)
            for number, row in enumerate(measured.rows):
                if row.role == SELF:
                    change = abs(found["logit_diff_change"][number])
                    arrays["noise_floor"][row.pair] = np.fmax(arrays["noise_floor"][row.pair], change)
                    continue
                behind = "" if row.role == MATCHED else "_mismatched"
                for name in self.metrics:
                    arrays[name + behind][(row.pair, *row.cell.place)] = found[name][number]
        return arrays

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Every array of a result, the pair left out."""
        behind = ["", "_mismatched"] if self.mismatched else [""]
        shapes = {name + ending: self.grid.shape for name in self.metrics for ending in behind}
        return {**shapes, **dict.fromkeys(BASELINES, ())}

    def _rows(self, batch: Batch, contexts: Sequence[Context], several: Sequence[int]) -> Iterator[Row]:
        """Every row of a batch: each cell of each pair that has it, and its donor, with its controls."""
        for pair in range(len(several)):
            tested: set[tuple[str, ...]] = set()
            for cell in self.grid.cells:
                row = Row(pair, cell, MATCHED)
                if any(row.patches(context, self.places, several) is None for context in contexts):
                    continue
                sources = {edit.source for edit in cell.edits}
                if "donor" in sources and not batch.has_donor[pair]:
                    continue
                yield row
                if self.mismatched and batch.has_donor[pair] and "other" in sources:
                    yield Row(pair, cell, MISMATCHED)
                hooks = tuple(edit.hook for edit in cell.edits)
                if "self" in self.options.controls and hooks not in tested:
                    tested.add(hooks)
                    yield Row(pair, cell, SELF)

    @staticmethod
    def _baselines(contexts: Sequence[Context], arrays: Arrays) -> None:
        """What the two unpatched runs say."""
        everyone = np.arange(len(contexts[0].batch.pairs))
        for which in ("clean", "corrupt"):
            said = contrasted([context.say_logits(getattr(context, which).logits, everyone) for context in contexts])
            arrays[f"logit_diff_{which}"][:] = said.logit_diff.cpu().numpy()
            arrays[f"answer_prob_{which}"][:] = said.answer_prob.cpu().numpy()

    @staticmethod
    def _averaged(draws: Sequence[Arrays]) -> Arrays:
        """The mean over draws of noise; of the noise floor the largest."""
        if len(draws) == 1:
            return draws[0]
        mean = {name: np.mean([draw[name] for draw in draws], axis=0) for name in draws[0]}
        return {**mean, "noise_floor": np.max([draw["noise_floor"] for draw in draws], axis=0)}

    # The result

    def _raw(self, several: list[int], arrays: Arrays | None) -> "xr.Dataset":
        """Arrays of some pairs with their names.

        Args:
            several: Which pairs.
            arrays: Their numbers; None for a template without any, which takes no room.
        """
        import xarray as xr

        dtype = np.dtype(self.options.dtype or ("float64" if self.blip.dtype == torch.float64 else "float32"))
        labels = self.grid.coords.items()
        coords: dict[str, Any] = {dim: np.array(own, dtype=_dtype(own)) for dim, own in labels}
        for column, values in self._columns.items():
            own = np.array([values[number] for number in several], dtype=object)
            coords["pair" if column == "id" else column] = ("pair", own)
        variables = {}
        for name, shape in self._shapes().items():
            full = (len(several), *shape)
            values = np.broadcast_to(np.array(np.nan, dtype), full) if arrays is None else arrays[name].astype(dtype)
            variables[name] = (("pair",) if name in BASELINES else ("pair", *self.grid.dims), values)
        plan = {"rows_at_a_time": self.rows_at_a_time, "pairs_at_a_time": self.pairs_at_a_time}
        return xr.Dataset(variables, coords=coords, attrs={**self.attrs(), **plan})

    @cached_property
    def _columns(self) -> dict[str, list[Any]]:
        """Columns of the pairs that a result has as coordinates."""
        return {**{column: self.pairs[column] for column in ("id", *COLUMNS)}, "contrast_answer": self.contrast}

    def _completed(self, effects: "xr.Dataset") -> "xr.Dataset":
        """The result with what follows from its numbers: normalised effects, what is below the noise."""
        sign = 1 if self.options.direction == "denoise" else -1
        gap = sign * (effects.logit_diff_clean - effects.logit_diff_corrupt)
        usable = gap.where((abs(gap) >= self.options.min_gap) & (gap != 0))
        if "patching_effect" in self.names:
            effects["patching_effect"] = effects.logit_diff_change / usable
            if self.mismatched:
                effects["patching_effect_mismatched"] = effects.logit_diff_change_mismatched / usable
        if "logit_diff_change" in effects and "self" in self.options.controls:
            effects["below_floor"] = abs(effects.logit_diff_change) <= effects.noise_floor
        effects.attrs["pairs_below_min_gap"] = int(usable.isnull().sum())
        effects.attrs["pairs_without_donor"] = self._without_donor() if self.mismatched else 0
        return effects

    def _without_donor(self) -> int:
        column = "donor_prompt" if Setting(self.options.corruption).by_text else "donor_digest"
        return sum(value is None for value in self.pairs[column])

    def attrs(self) -> dict[str, Any]:
        """Everything needed to repeat the run, in plain values."""
        return dict(self._attrs)

    @cached_property
    def _attrs(self) -> dict[str, Any]:
        options = self.options
        noise = options.corruption
        return {
            "model": self.blip.cfg.name_or_path or "",
            "model_fingerprint": fingerprint(self.blip),
            "kind": self.blip.cfg.kind,
            "model_dtype": str(self.blip.dtype),
            "pairs": self.pairs.fingerprint,
            "pairs_source": f"{self.pairs.manifest.builder}: {self.pairs.manifest.source}",
            "sites": json.dumps(self.described, default=str),
            "corruption": repr(noise) if isinstance(noise, Noise) else noise,
            "direction": options.direction,
            "contrast": options.contrast,
            "source": options.source,
            "metrics": [*self.names, *self.custom],
            "controls": list(options.controls),
            "min_gap": options.min_gap,
            "seed": options.seed,
            "notice_lens": __version__,
            **{
                package.replace("-", "_"): version(package) for package in ("torch", "transformers", "transformer-lens")
            },
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


def fingerprint(blip: "HookedBLIP") -> str:
    """What tells models apart by their weights: a hash of up to a thousand values of each tensor, evenly spread."""
    found = hashlib.blake2b(digest_size=16)
    for name, value in blip.state_dict().items():
        flat = value.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // 1000)].double().cpu().numpy()
        found.update(f"{name} {tuple(value.shape)}".encode() + some.tobytes())
    return found.hexdigest()


def _refuse_hooks(blip: "HookedBLIP") -> None:
    """A sweep runs a forward pass of its own: hooks of the caller would be passed by, so they are refused."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    watched = [
        name or "the model itself"
        for name, module in blip.named_modules()
        if any(getattr(module, own) for own in kinds)
    ]
    if watched:
        raise ValueError(
            f"there are hooks on the model, at {', '.join(watched[:3])}: a sweep runs its own forward pass, which "
            "would pass them by; remove them first (blip.reset_hooks() removes those of hook points)"
        )


def check_pairs(pairs: Any, options: Options) -> None:
    """Raises where pairs are none, or lack what the corruption needs."""
    from notice_lens.pairs import MinimalPairs

    if not isinstance(pairs, MinimalPairs):
        raise TypeError(f"pairs are of type {type(pairs).__name__}; expected MinimalPairs, see MinimalPairs.from_rows")
    if not len(pairs):
        dropped = f" ({len(pairs.dropped)} were dropped, see pairs.dropped)" if len(pairs.dropped) else ""
        raise ValueError(f"there are no pairs to patch{dropped}")
    if options.corruption == "text":
        lacking = [name for name, value in zip(pairs["id"], pairs["corrupt_prompt"], strict=True) if value is None]
        if lacking:
            raise ValueError(
                f"{len(lacking)} of {len(pairs)} pairs have no corrupt_prompt, such as {lacking[0]!r}; "
                "symmetric_replacement writes them, corruption='image' needs none"
            )


def _dtype(labels: Sequence[Any]) -> Any:
    return object if any(isinstance(label, str) for label in labels) else int
