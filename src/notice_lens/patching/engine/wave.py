"""The wavefront: every patch of a sweep in one growing, exact, batched forward pass.

The usual loop runs the whole model once for each patch. Almost all of that work is the same every time: below the patch
everything equals the base run, and the image is the same throughout. So one pass is sent through the network in which
the batch grows. The base run starts alone. Where a variant (a set of edits to one pair's run) has its first edit, it
joins as a copy of the base row with that edit; after the last block every variant is active, and one read-out reads
them all. Each variant is the same computation as a separate full run: nothing is approximated.

    block 3   base ──────────────┬─ variants of block 3 join
    block 4   base, variants of 3 ──────────┬─ variants of block 4 join
    ...                                              read-out: logits of all

Between two attention steps, what happens at one position depends on that position alone. So the tensors of the wave
have one *line* for each position of each row: [line, d_model] (rows.py).

1. A variant joins with the positions that it changes, and only these are computed up to the next self-attention.
2. There, queries, keys and values of all its other positions are the base row's; from there on it has all positions.
3. Cross-attention reads keys and values that were projected once for each image, for all variants together.
4. A variant that changed an earlier stack has its own source. Its few queries are then multiplied through the
   key weights, and its mixed states through the value weights, instead of projecting every state of the source
   (`folded_attention`): the same sums in another order.
5. Self-attention over a single position is its value: its queries and keys are never computed.

What is edited where is a `Plan` (plan.py); where edits come from, and the base run, is a `Run` (runs.py).
"""

from collections.abc import Iterator, Sequence
from typing import Any, assert_never

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from notice_lens.models.blip.attention import Attention, KeyValues, causal_mask
from notice_lens.models.blip.blocks import MLP, Block
from notice_lens.models.blip.steps import EMBEDDING, OUTPUT, Add, Apply, Attend, Stream, Transform, inside
from notice_lens.patching.engine.attention import attend, edited_attention, fused_attention, neurons_in_parts
from notice_lens.patching.engine.plan import END, Assignment, EditedHeads, Plan
from notice_lens.patching.engine.rows import Index, RaggedRows
from notice_lens.patching.engine.runs import Run

NUMBERS_INSIDE = 16 * 2**20
"""Numbers that edited heads of attention take at a time, at most."""


class Wave:
    """One pass of the variants of a plan over the base run of some pairs.

    Args:
        run: The base run, and the runs that edits take their values from.
        plan: Which variant is edited where.
    """

    def __init__(self, run: Run, plan: Plan) -> None:
        self.run = run
        self.plan = plan
        self.model = run.model

    def encode(self) -> Float[Tensor, "own_row key_pos d_source"] | None:
        """Return the states that the last stack reads, of all variants that change them; None where none does."""
        own = None
        for stack in self.model.cfg.stacks[:-1]:
            own = _StackWave(self, stack, own).states()
        return own

    def read_out(self, own: Float[Tensor, "own_row key_pos d_source"] | None) -> Float[Tensor, "row pos d_model"]:
        """Return the states after the last stack: of the base rows, pair by pair, and then of all variants.

        Args:
            own: The states that `encode` returned.
        """
        states = _StackWave(self, self.model.cfg.stacks[-1], own).states(everything=True)
        assert states is not None, "the base rows are always there"
        return states


class _StackWave:
    """The wave in one stack.

    Rows are numbered: those of the base run first, pair by pair, then the variants in the order of the plan.

    Args:
        wave: The wave.
        name: The stack.
        own: The sources of the rows that changed an earlier stack, in their order.
    """

    def __init__(self, wave: Wave, name: str, own: Float[Tensor, "row key_pos d_source"] | None) -> None:
        self.run, self.pair_of, self.name, self.own = wave.run, wave.plan.pair_of, name, own
        self.stack: Any = wave.run.model.stack(name)
        self.schedule = wave.plan.schedule(name)
        self.mask, self.source_mask = wave.run.masks(name)
        self.layer = -1

    def states(self, everything: bool = False) -> Float[Tensor, "row pos d_model"] | None:
        """Return the states after the stack, of the variants that are active, or None.

        Args:
            everything: Return all rows instead: the base rows and all variants, those too that changed nothing here.
        """
        if not everything and not len(self.schedule.active):
            return None
        # Below the first edit every row is the base row: the wave starts from its recorded stream.
        first = self.schedule.first_layer
        resid = self.run.resid_pre(self.name, first)
        n_base, pos = resid.shape[:2]
        self.rows = RaggedRows(self.pair_of, n_base, pos, resid.device)
        x = rearrange(resid, "row pos d_model -> (row pos) d_model")
        if any(layer < 0 for layer, _ in self.schedule.joins):
            x = self._embedded()
        for layer, block in enumerate(self.stack.blocks[first:], start=first):
            self.layer = layer
            x = self._block(block, x)
        # Where first is END, rows join at the output alone: no block runs, and what was recorded is normalised already.
        self.layer = END
        (x,) = self._pass(OUTPUT, x if first == END else self.stack.ln_final(x))
        # A row that never had a self-attention in this stack after it joined still lacks positions.
        x = rearrange(self.rows.complete()(x), "(row pos) d_model -> row pos d_model", pos=pos)
        return x[self.rows.slots(np.arange(len(self.pair_of)) if everything else self.schedule.active)]

    # A block: the steps of models/blip/steps.py; at every step rows may join, and are edited

    def _embedded(self) -> Tensor:
        """Return the stream before block 0, with edits of the embeddings."""
        self.layer = -1
        embed, positions = (
            rearrange(self.run.values("self", f"{self.name}.{hook}"), "row pos d_model -> (row pos) d_model")
            for hook in EMBEDDING
        )
        # The two summands change places, so that each can be edited while the other one waits beside it.
        embed, positions = self._pass(EMBEDDING[0], embed, positions)
        positions, embed = self._pass(EMBEDDING[1], positions, embed)
        return self.stack.ln_embed(embed + positions)

    def _block(self, block: Block, stream: Tensor) -> Tensor:
        # `written` is what the last sublayer added; rows that join between the two need their lines of both.
        written = stream
        for step in block.steps:
            match step:
                case Stream(hook):
                    (stream,) = self._pass(hook, stream)
                case Apply(module):
                    stream = block[module](stream)
                case Attend(module, out, norm, crosses):
                    attn = getattr(block, module)
                    read = stream if norm is None else block[norm](stream)
                    attend_to = self._cross_attention if crosses else self._self_attention
                    z, stream = attend_to(attn, module, read, stream)
                    written, stream = self._written(attn, module, z, stream)
                    written, stream = self._pass(out, written, stream)
                case Transform(module, out, norm):
                    read = stream if norm is None else block[norm](stream)
                    written, stream = self._mlp(getattr(block, module), module, read, stream)
                    written, stream = self._pass(out, written, stream)
                case Add(hook):
                    (stream,) = self._pass(hook, stream + written)
                case _:
                    assert_never(step)
        return stream

    def _written(self, attn: Attention, module: str, z: Tensor, *live: Tensor) -> tuple[Tensor, ...]:
        """Return the heads' output; where a head's result is edited, the difference that the edit makes is added.

        Results of single heads [line, head, d_model] are wide: they are computed for the edited lines alone.
        """
        z, *live_ = self._pass(f"{module}.hook_z", z, *live)
        out = attn.output(rearrange(z, "line head d_head -> line (head d_head)"))
        out, z, *live_ = self._join(f"{module}.hook_result", out, z, *live_)
        found = [self._looked_up(f"{module}.hook_result", edits) for edits in self._edits(f"{module}.hook_result")]
        if found:
            edited = np.unique(np.concatenate([lines for lines, _, _ in found]))
            at = self.rows.index(edited)
            result = einsum(z[at], attn.W_O, "line head d_head, head d_head d_model -> line head d_model")
            wrote = result.sum(1)
            for lines, heads, new in found:
                result[self.rows.lines(np.searchsorted(edited, lines), heads)] = new
            out[at] += result.sum(1) - wrote
        return out, *live_

    def _mlp(self, mlp: MLP, module: str, read: Tensor, live: Tensor) -> tuple[Tensor, ...]:
        """Return the neurons' output; if no row joins or is edited between the two products, in parts."""
        before, behind = f"{module}.hook_pre", f"{module}.hook_post"
        tables = (self.schedule.joins, self.schedule.edits)
        if not any((self.layer, step) in table for step in (before, behind) for table in tables):
            return neurons_in_parts(mlp, read), live
        pre, live = self._pass(before, mlp.input(read), live)
        post, live = self._pass(behind, mlp.act_fn(pre), live)
        return mlp.output(post), live

    # Attention: here positions mix, so rows get all their positions, and queries find their keys

    def _self_attention(self, attn: Attention, module: str, read: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """Return z [line, head, d_head] of all positions of all rows, and the stream likewise."""
        # Rows whose edit is inside of this attention join here: complete() copies all their positions from the base.
        joining = self.schedule.joins.get((self.layer, inside(module)))
        if joining is not None:
            self.rows.activate(joining.rows)
        edited = self.schedule.inside.get((self.layer, module))
        # Over a single position the pattern is 1, whatever queries and keys are.
        alone = self.rows.pos == 1 and edited is None
        projections = [attn.value] if alone else [attn.query, attn.key, attn.value]
        projected = [self._heads(attn, project(read)) for project in projections]
        complete = self.rows.complete()
        x, *projected = (complete(value) for value in (x, *projected))
        for name, value in zip("qkv"[-len(projected) :], projected, strict=True):
            self._edit(f"{module}.hook_{name}", value)
        if alone:
            return projected[0], x
        q, k, v = (rearrange(value, "(row pos) ... -> row pos ...", pos=self.rows.pos) for value in projected)
        mask = self._own_mask(attn.causal)
        z = fused_attention(q, k, v, mask)
        # The fused kernel shows no scores: heads that are edited inside are computed again, step by step.
        if edited is not None:
            for part in self._parts(edited, self.rows.pos, self.rows.pos, attn.d_head):
                rows = self.rows.index(self.rows.where[edited.rows[part], 0] // self.rows.pos)
                heads = self.rows.index(edited.heads[part])
                own = None if mask is None else (mask if len(mask) == 1 else mask[rows])[:, 0]
                z[rows, :, heads] = self._edited(
                    module, edited, part, q[rows, :, heads], (k[rows, :, heads], v[rows, :, heads]), own
                )
        return rearrange(z, "row pos head d_head -> (row pos) head d_head"), x

    def _cross_attention(self, attn: Attention, module: str, read: Tensor, mid: Tensor) -> tuple[Tensor, ...]:
        """Return z [line, head, d_head] of all lines, and the stream likewise.

        No position mixes with another one here, so that rows keep the positions that they have.
        """
        q, mid = self._pass(f"{module}.hook_q", self._heads(attn, attn.query(read)), mid)
        q, mid = self._join(inside(module), q, mid)
        z = torch.empty_like(q)
        kv = self.run.key_values(self.name, self.layer)
        # All queries of a pair, whichever row they are of, look at the same image: one product for each pair.
        by_pair = self.rows.by_pair(~np.isin(self.rows.row, self.schedule.arriving), len(kv.k))
        answers = fused_attention(q[by_pair.table], kv.k, kv.v, self.source_mask)
        z[by_pair.lines] = rearrange(answers, "pair line head d_head -> (pair line) head d_head")[by_pair.columns]
        # Rows that changed the earlier stack attend to their own states.
        if self.own is not None:
            lines = self.rows.index(self.rows.where[self.schedule.arriving])
            pairs = self.rows.index(self.pair_of[self.schedule.arriving])
            mask = None if self.source_mask is None else self.source_mask[pairs]
            z[lines] = attend(attn, q[lines], self.own, mask)
        edited = self.schedule.inside.get((self.layer, module))
        if edited is not None:
            for part in self._parts(edited, self.rows.pos, kv.k.shape[1], attn.d_head):
                self._edit_crossing(attn, module, edited, part, q, kv, z)
        return z, mid

    def _edit_crossing(
        self, attn: Attention, module: str, edited: EditedHeads, part: slice, q: Tensor, kv: KeyValues, z: Tensor
    ) -> None:
        """Compute some edited heads of cross-attention again, and write them into `z`."""
        rows, heads = edited.rows[part], self.rows.index(edited.heads[part])
        # Rows have joined with unequal numbers of positions: the shorter ones are filled up with a line of any row.
        where = self.rows.where[rows]
        counts = (where >= 0).sum(1)
        filled = np.arange(counts.max()) < counts[:, None]
        table = np.zeros(filled.shape, dtype=np.int64)
        table[filled] = where[where >= 0]
        pairs = self.rows.index(self.pair_of[rows])
        mask = None if self.source_mask is None else self.source_mask[pairs][:, 0]
        new = self._edited(
            module, edited, part, q[self.rows.index(table), heads[:, None]],
            self._keys_and_values(attn, kv, rows, heads), mask,
        )  # fmt: skip
        line, query = np.nonzero(filled)
        line, query = self.rows.index(line), self.rows.index(query)
        z[self.rows.index(table[filled]), heads[line]] = new[line, query]

    def _keys_and_values(self, attn: Attention, shared: KeyValues, rows: Index, heads: Tensor) -> tuple[Tensor, Tensor]:
        """Return copies of the keys and values that some heads of some rows look at, each [head, key_pos, d_head]."""
        pairs = self.rows.index(self.pair_of[rows])
        k, v = shared.k[pairs, :, heads], shared.v[pairs, :, heads]
        arrived = np.flatnonzero(np.isin(rows, self.schedule.arriving)) if self.own is not None else ()
        if self.own is not None and len(arrived):
            # Heads of one row share its states: they are projected once.
            at, sources = np.unique(np.searchsorted(self.schedule.arriving, rows[arrived]), return_inverse=True)
            own = attn.project_source(self.own[self.rows.index(at)])
            lines, sources = self.rows.index(np.asarray(arrived)), self.rows.index(sources)
            k[lines], v[lines] = own.k[sources, :, heads[lines]], own.v[sources, :, heads[lines]]
        return k, v

    def _edited(
        self, module: str, edited: EditedHeads, part: slice, q: Tensor, kv: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> Float[Tensor, "head query_pos d_head"]:
        """Return z of some of the heads that are edited inside."""
        rows, heads = edited.rows[part], edited.heads[part]
        # The number of each position among the queries that its row has: rows are ragged, edits name positions.
        query_of = np.cumsum(self.rows.where[rows] >= 0, axis=1) - 1

        def edit(leaf: str, value: Tensor) -> Tensor:
            for one in edited.edits:
                chosen = np.flatnonzero((one.heads >= part.start) & (one.heads < part.stop))
                if one.leaf != leaf or not len(chosen):
                    continue
                lines = one.heads[chosen] - part.start
                of = [self.pair_of[rows[lines]][:, None], heads[lines][:, None], one.positions[None]]
                if leaf in ("hook_k", "hook_v"):
                    to, of = [lines[:, None], one.positions[None]], [of[0], of[2], of[1]]
                else:
                    keys = np.arange(value.shape[-1]) if one.keys is None else one.keys
                    to = [lines[:, None, None], query_of[lines][:, one.positions][..., None], keys]
                    of = [*(index[..., None] for index in of), keys]
                if one.given is not None:
                    new = one.given[self.rows.index(chosen)]
                else:
                    source = self.run.values(one.source, f"{self.name}.blocks.{self.layer}.{module}.{leaf}")
                    new = source[tuple(map(self.rows.index, of))]
                value[tuple(map(self.rows.index, to))] = new
            return value

        return edited_attention(q, *kv, mask, edit)

    def _parts(self, edited: EditedHeads, queries: int, keys: int, d_head: int) -> Iterator[slice]:
        """Yield edited heads some at a time: each takes copies of its queries, keys and values, and its scores."""
        each = queries * d_head + 2 * keys * d_head + 3 * queries * keys
        size = max(1, NUMBERS_INSIDE // each)
        for start in range(0, len(edited.rows), size):
            yield slice(start, min(start + size, len(edited.rows)))

    # Joining and editing

    def _pass(self, step: str, value: Tensor, *live: Tensor) -> tuple[Tensor, ...]:
        """Pass a step of the forward pass: rows join as copies of their base rows, then `value` is edited.

        Args:
            step: Its hook point, without stack and layer.
            value: The activation of this step, [line, ...].
            live: Activations that later steps need too, such as the stream.
        """
        value, *others = self._join(step, value, *live)
        self._edit(step, value)
        return value, *others

    def _join(self, step: str, *live: Tensor) -> tuple[Tensor, ...]:
        joins = self.schedule.joins.get((self.layer, step))
        if joins is None:
            return live
        copied = self.rows.join(joins.rows, joins.positions)
        return tuple(torch.cat([value, value[copied]]) for value in live)

    def _edit(self, step: str, value: Tensor) -> None:
        # In place: rows that are edited have joined, so that `value` is a copy, and no recorded run is written to.
        for assignment in self._edits(step):
            lines, heads, new = self._looked_up(step, assignment)
            value[self.rows.lines(lines, heads)] = new

    def _edits(self, step: str) -> Sequence[Assignment]:
        return self.schedule.edits.get((self.layer, step), ())

    def _looked_up(self, step: str, assignment: Assignment) -> tuple[Index, Index | None, Tensor]:
        """Return the lines and heads that are edited, and their new values."""
        lines = self.rows.of(assignment.rows, assignment.positions)
        if assignment.given is not None:
            return lines, assignment.heads, assignment.given
        hook = f"{self.name}.{step}" if self.layer < 0 else f"{self.name}.blocks.{self.layer}.{step}"
        values, heads = self.run.values(assignment.source, hook), assignment.heads
        pairs = self.rows.index(self.pair_of[assignment.rows])
        return lines, heads, values[(pairs, *self.rows.lines(assignment.positions, heads))]

    def _own_mask(self, causal: bool) -> Bool[Tensor, "row_or_1 1 query_or_1 key_pos"] | None:
        """Return a mask of the positions of the active rows that they may attend to."""
        mask = None if self.mask is None else self.mask[self.rows.index(self.pair_of[self.rows.active])]
        return causal_mask(mask, self.rows.pos, self.rows.device) if causal else mask

    @staticmethod
    def _heads(attn: Attention, x: Tensor) -> Tensor:
        return rearrange(x, "line (head d_head) -> line head d_head", head=attn.n_heads)
