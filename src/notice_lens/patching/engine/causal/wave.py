"""The causal wave: the read-out of many patched runs of a decoder, exactly, in a few forward passes.

Patching layer l at position p changes nothing below l, and nothing at positions that cannot see p. So a patched run
needs its *suffix* alone (the positions that a change can reach), from layer l on. Everything else, the image among it,
is the base run's, and its keys and values are shared by all.

1. The base run is recorded, and the run that new values come from (`record.py`).
2. Variants whose edits reach the same positions form a cohort (`plan.py`); the suffix is the closure of the recorded
   masks, and only those of its positions are computed from which the read-out can still be reached (`reach.py`).
3. Layer by layer, all rows go through Hugging Face's own block (`replay.py`), and the variants of that layer join: in
   their first block only where they differ from the base run, which for most patches is one position.
4. What the last block writes at the read-out goes through norm and head, in parts.

For a model of L layers, a patch costs the blocks above it, at its suffix: on average L / 2 blocks of one position for a
patch at the last token, where a forward pass has L blocks of all positions.

Limits: dropout (the model has to be in eval mode), recurrent mixers, keys shared across layers. `check.py` compares a
few patches with full forward passes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from notice_lens.patching.engine.causal.plan import DecoderVariant, cohorts, entry, first_layer
from notice_lens.patching.engine.causal.record import Record
from notice_lens.patching.engine.causal.replay import Replay, TokenBlock, ValueSource
from notice_lens.patching.engine.causal.trim import trimmed

AFTER_Z = {
    "hook_z", "hook_attn_out", "hook_resid_mid", "mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post",
    "hook_mlp_out", "hook_resid_post",
}  # fmt: skip
"""Edits after attention: z is the base run's, except where it is edited itself."""


@dataclass
class _Rows:
    """The rows of one cohort on their way up.

    Attributes:
        reached: Positions that their edits can reach, [pos].
        joining: Variants by the layer in which they join.
        variants: Those that have joined, in the order of the rows.
        hidden: What the last block wrote, [row, position, d_model], at those positions that are still needed.
    """

    reached: Tensor
    joining: dict[int, list[int]]
    variants: list[int] = field(default_factory=list)
    hidden: Tensor | None = None


class CausalWave:
    """Patched runs of one base run.

    Args:
        base: The run that is patched.
        variants: The edits of each patched run.
        sources: Where new values come from, by name.
        memory: Bytes that rows may take.
    """

    def __init__(
        self, base: Record, variants: Sequence[DecoderVariant], sources: Mapping[str, ValueSource], memory: int
    ) -> None:
        self.base, self.variants, self.memory = base, trimmed(base, variants, sources), memory
        self.replay = Replay(base, self.variants, sources)

    def readouts(
        self, advance: Callable[[int], object] = lambda _: None
    ) -> Float[Tensor, "variant answer_pos d_model"]:
        """Return the last block's output at the read-outs of every variant.

        Args:
            advance: Called with the number of variants that are done.
        """
        base = self.base
        at = torch.tensor(base.readouts)
        result = base.out[-1][at].repeat(len(self.variants), 1, 1)
        with self.replay.ready():
            for some in self._loads():
                for rows in self._through(some):
                    if rows.hidden is not None and rows.hidden.shape[1]:
                        # Read-outs that a cohort cannot reach are the base run's.
                        reached = rows.reached[at].nonzero()[:, 0]
                        result[torch.tensor(rows.variants)[:, None], reached] = rows.hidden
                advance(sum(len(found) for rows in some for found in rows.joining.values()))
        return result

    def _loads(self) -> Iterator[list[_Rows]]:
        """Split the variants into loads whose rows fit into memory together."""
        load: list[_Rows] = []
        # Half of the memory is for the rows, half for what one block writes on the way.
        left = self.memory // 2
        for cohort in cohorts(self.base, self.variants):
            if not cohort.reached[list(self.base.readouts)].any():
                continue  # nothing that a read-out depends on
            each = max(1, int(cohort.reached.sum()) * self._bytes_of_position())
            waiting = cohort.variants
            while waiting:
                fit = max(1, left // each)
                # Rather a new load than a cohort cut into more than two pieces.
                if load and fit < len(waiting) // 2:
                    yield load
                    load, left = [], self.memory // 2
                    continue
                load.append(_Rows(cohort.reached, self._by_layer(waiting[:fit])))
                left -= min(fit, len(waiting)) * each
                waiting = waiting[fit:]
                if left < each:
                    yield load
                    load, left = [], self.memory // 2
        if load:
            yield load

    def _by_layer(self, variants: Sequence[int]) -> dict[int, list[int]]:
        joining: dict[int, list[int]] = {}
        for number in variants:
            joining.setdefault(first_layer(self.variants[number]), []).append(number)
        return joining

    def _bytes_of_position(self) -> int:
        """Bytes of the stream that a row keeps from block to block, for each of its positions."""
        stream = self.base.resid[0]
        return 3 * stream.shape[-1] * stream.element_size()  # what went in, what came out, and both put together

    def _through(self, load: list[_Rows]) -> list[_Rows]:
        """Take rows through all blocks."""
        for layer in range(min(min(rows.joining) for rows in load), len(self.base.decoder.layers)):
            segments: list[tuple[_Rows, TokenBlock]] = []
            for rows in load:
                segments += [(rows, segment) for segment in self._segments(rows, layer)]
            outputs = self.replay.blocks(layer, [segment for _, segment in segments], self.memory)
            for rows in load:
                own = [(segment, out) for (of, segment), out in zip(segments, outputs, strict=True) if of is rows]
                self._gather(rows, layer, own)
        return load

    def _segments(self, rows: _Rows, layer: int) -> list[TokenBlock]:
        """Return the rows that are there already, and those that join, as segments of a layer."""
        base = self.base
        going_in, read = base.needed[layer] & rows.reached, base.needed[layer + 1] & rows.reached
        found = []
        if rows.hidden is not None:
            between = base.between(layer - 1)
            hidden = rows.hidden if between is None else rows.hidden + between[going_in]
            found.append(TokenBlock(rows.variants, _numbers(going_in), _numbers(read), hidden))
        groups: dict[tuple[bool, bytes], tuple[Tensor, list[int]]] = {}
        for number in rows.joining.get(layer, []):
            variant = self.variants[number]
            changed = entry(base, variant, rows.reached) & base.needed[layer]
            given = all(edit.leaf in AFTER_Z for edit in variant if edit.layer == layer)
            groups.setdefault((given, changed.numpy().tobytes()), (changed, []))[1].append(number)
        for (given, _), (changed, numbers) in groups.items():
            hidden = base.resid[layer][changed][None].expand(len(numbers), -1, -1)
            found.append(TokenBlock(numbers, _numbers(changed), _numbers(changed & read), hidden, given))
        return found

    def _gather(self, rows: _Rows, layer: int, own: list[tuple[TokenBlock, Tensor]]) -> None:
        """Put together what the rows that were there and those that joined have after a block."""
        base = self.base
        read = base.needed[layer + 1] & rows.reached
        at = _numbers(read)
        found = []
        for segment, out in own:
            if len(segment.read) < len(at):
                # Where a row that joined does not differ yet, it has what the base run has.
                whole = base.out[layer][at].repeat(len(segment.variants), 1, 1)
                whole[:, torch.isin(at, segment.read)] = out
                out = whole
            found.append(out)
        if own:
            rows.variants = [number for segment, _ in own for number in segment.variants]
            rows.hidden = torch.cat(found) if len(found) > 1 else found[0]


def _numbers(mask: Tensor) -> Tensor:
    return mask.nonzero()[:, 0]
