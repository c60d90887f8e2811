"""The wavefront: every patch of a sweep in one growing, exact, batched forward pass.

The usual loop runs the whole model once for each patch. Almost all of that work is the same every time: below the patch
everything equals the base run, and the image is the same throughout. So one pass is sent through the network in which
the batch grows. The base run starts alone. Where a variant (a set of edits to one pair's run) has its first edit, it
joins as a copy of the base row with that edit; behind the last block every variant is aboard, and one read-out reads
them all. Each variant is the same computation as a full run of its own: nothing is approximated.

    block 3   base ──────────────┬─ variants of block 3 join
    block 4   base, variants of 3 ──────────┬─ variants of block 4 join
    ...                                              read-out: logits of all

Between two attention steps, what happens at one position depends on that position alone. So the tensors of the wave
have one line a *cell*, which is one position of one row: [cell, d_model].

1. A variant joins with the positions that it changes, and only these are computed up to the next self-attention.
2. There, queries, keys and values of all its other positions are the base row's; from there on it has all positions.
3. Cross-attention reads keys and values that were projected once for each image, for all variants together.
4. A variant that changed an earlier stack brings a source of its own. Its few queries are then multiplied through the
   key weights, and its mixed states through the value weights, instead of projecting every state of the source
   (`folded_attention`): the same sums in another order.
5. Self-attention over a single position is its value: its queries and keys are never computed.

What is edited where is a `Plan` (plan.py); where edits come from, and the base run, is a `Run` (runs.py).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from notice_lens.models.attention import Attention, KeyValues, causal_mask
from notice_lens.models.blocks import MLP, PostNormBlock, PreNormBlock
from notice_lens.patching.cells import Cells, Index
from notice_lens.patching.mixing import attend, edited_attention, fused_attention, neurons_in_parts, table_edits
from notice_lens.patching.plan import END, NEURONS, OUTPUT, Edits, Patch, Plan
from notice_lens.patching.runs import Run


class Wave:
    """One pass of the variants of a plan over the base run of some pairs.

    Args:
        run: The base run, and the runs that edits take their values from.
        plan: Which variant is edited where.
    """

    def __init__(self, run: Run, plan: Plan) -> None:
        self.run = run
        self.plan = plan
        self.blip = run.blip

    def encode(self) -> Float[Tensor, "own_row key_pos d_source"] | None:
        """The states that the last stack reads, of all variants that change them; None where none does."""
        own = None
        for stack in self.blip.cfg.stacks[:-1]:
            own = _StackWave(self, stack, own).states()
        return own

    def read_out(self, own: Float[Tensor, "own_row key_pos d_source"] | None) -> Float[Tensor, "row pos d_model"]:
        """The states behind the last stack: of the base rows, pair by pair, and then of all variants.

        Args:
            own: What `encode` gave.
        """
        states = _StackWave(self, self.blip.cfg.stacks[-1], own).states(everything=True)
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
        self.stack: Any = wave.run.blip.stack(name)
        self.steps = wave.plan.steps(name)
        self.mask, self.source_mask = wave.run.masks(name)
        self.layer = -1

    def states(self, everything: bool = False) -> Float[Tensor, "row pos d_model"] | None:
        """The states behind the stack, of the variants that are aboard; None where there are none.

        Args:
            everything: All rows instead: the base rows and all variants, those that changed nothing too.
        """
        if not everything and not len(self.steps.aboard):
            return None
        first = self.steps.first_layer
        resid = self.run.resid_pre(self.name, first)
        n_base, pos = resid.shape[:2]
        self.cells = Cells(self.pair_of, n_base, pos, resid.device)
        x = rearrange(resid, "row pos d_model -> (row pos) d_model")
        if any(layer < 0 for layer, _ in self.steps.joins):
            x = self._embedded()
        for layer, block in enumerate(self.stack.blocks[first:], start=first):
            self.layer = layer
            x = self._pre_norm(block, x) if isinstance(block, PreNormBlock) else self._post_norm(block, x)
        self.layer = END
        (x,) = self._at(OUTPUT, x if first == END else self.stack.ln_final(x))
        x = rearrange(self.cells.spread()(x), "(row pos) d_model -> row pos d_model", pos=pos)
        return x[self.cells.slots(np.arange(len(self.pair_of)) if everything else self.steps.aboard)]

    # The blocks, step by step as in models/blocks.py; at every step rows may join, and are edited

    def _embedded(self) -> Tensor:
        """The stream before block 0, with edits of the embeddings."""
        self.layer = -1
        embed, positions = (
            rearrange(self.run.values("self", f"{self.name}.{hook}"), "row pos d_model -> (row pos) d_model")
            for hook in ("hook_embed", "hook_pos_embed")
        )
        embed, positions = self._at("hook_embed", embed, positions)
        positions, embed = self._at("hook_pos_embed", positions, embed)
        return embed + positions if self.name == "vision" else self.stack.ln_embed(embed + positions)

    def _pre_norm(self, block: PreNormBlock, x: Tensor) -> Tensor:
        (x,) = self._at("hook_resid_pre", x)
        z, x = self._self_attention(block.attn, block.ln1(x), x)
        attn_out, x = self._written(block.attn, "attn", z, x)
        attn_out, x = self._at("hook_attn_out", attn_out, x)
        (mid,) = self._at("hook_resid_mid", x + attn_out)
        mlp_out, mid = self._mlp(block.mlp, block.ln2(mid), mid)
        (post,) = self._at("hook_resid_post", mid + mlp_out)
        return post

    def _post_norm(self, block: PostNormBlock, x: Tensor) -> Tensor:
        (x,) = self._at("hook_resid_pre", x)
        z, x = self._self_attention(block.attn, x, x)
        attn_out, x = self._written(block.attn, "attn", z, x)
        attn_out, x = self._at("hook_attn_out", attn_out, x)
        (mid,) = self._at("hook_resid_mid", x + attn_out)
        z, mid = self._cross_attention(block.cross_attn, block.ln1(mid))
        attn_out, mid = self._written(block.cross_attn, "cross_attn", z, mid)
        attn_out, mid = self._at("hook_cross_attn_out", attn_out, mid)
        (mid,) = self._at("hook_resid_mid_cross", mid + attn_out)
        mid = block.ln2(mid)
        mlp_out, mid = self._mlp(block.mlp, mid, mid)
        (post,) = self._at("hook_resid_post", mid + mlp_out)
        (post,) = self._at("hook_normalized_resid_post", block.ln3(post))
        return post

    def _written(self, attn: Attention, module: str, z: Tensor, *live: Tensor) -> tuple[Tensor, ...]:
        """What the heads write; where a head's result is edited, the difference to what it wrote is added."""
        z, *live_ = self._at(f"{module}.hook_z", z, *live)
        out = attn.output(rearrange(z, "cell head d_head -> cell (head d_head)"))
        out, z, *live_ = self._join(f"{module}.hook_result", out, z, *live_)
        found = [self._looked_up(f"{module}.hook_result", edits) for edits in self._edits(f"{module}.hook_result")]
        if found:
            edited = np.unique(np.concatenate([cells for cells, _, _ in found]))
            at = self.cells.index(edited)
            result = einsum(z[at], attn.W_O, "line head d_head, head d_head d_model -> line head d_model")
            wrote = result.sum(1)
            for cells, heads, new in found:
                result[self.cells.lines(np.searchsorted(edited, cells), heads)] = new
            out[at] += result.sum(1) - wrote
        return out, *live_

    def _mlp(self, mlp: MLP, normalized: Tensor, live: Tensor) -> tuple[Tensor, ...]:
        if not any((self.layer, step) in table for step in NEURONS for table in (self.steps.joins, self.steps.edits)):
            return self._at("hook_mlp_out", neurons_in_parts(mlp, normalized), live)
        pre, live = self._at(NEURONS[0], mlp.input(normalized), live)
        post, live = self._at(NEURONS[1], mlp.act_fn(pre), live)
        return self._at("hook_mlp_out", mlp.output(post), live)

    # Attention: here positions mix, so rows get all their positions, and queries find their keys

    def _self_attention(self, attn: Attention, normalized: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """Z [cell, head, d_head] of all positions of all rows, and the stream likewise."""
        inside = self.steps.joins.get((self.layer, "attn.inside"))
        if inside is not None:
            self.cells.board(inside.rows)
        special = self.steps.special.get((self.layer, "attn"), {})
        alone = self.cells.pos == 1 and not special
        projections = [attn.value] if alone else [attn.query, attn.key, attn.value]
        projected = [self._heads(attn, project(normalized)) for project in projections]
        spread = self.cells.spread()
        x, *projected = (spread(value) for value in (x, *projected))
        for name, value in zip("qkv"[-len(projected) :], projected, strict=True):
            self._edit(f"attn.hook_{name}", value)
        if alone:
            return projected[0], x
        q, k, v = (rearrange(value, "(row pos) ... -> row pos ...", pos=self.cells.pos) for value in projected)
        mask = self._own_mask(attn.causal)
        z = fused_attention(q, k, v, mask)
        for row, patches in special.items():
            at = [int(self.cells.where[row, 0]) // self.cells.pos]
            own = mask if mask is None or len(mask) == 1 else mask[at]
            z[at] = self._explicit(q[at], KeyValues(k[at], v[at]), own, row, patches)
        return rearrange(z, "row pos head d_head -> (row pos) head d_head"), x

    def _cross_attention(self, attn: Attention, mid: Tensor) -> tuple[Tensor, ...]:
        """Z [cell, head, d_head] of all cells, and the stream likewise."""
        q, mid = self._at("cross_attn.hook_q", self._heads(attn, attn.query(mid)), mid)
        q, mid = self._join("cross_attn.inside", q, mid)
        z = torch.empty_like(q)
        kv = self.run.key_values(self.name, self.layer)
        by_pair = self.cells.by_pair(~np.isin(self.cells.row, self.steps.arriving), len(kv.k))
        answers = fused_attention(q[by_pair.table], kv.k, kv.v, self.source_mask)
        z[by_pair.cells] = rearrange(answers, "pair line head d_head -> (pair line) head d_head")[by_pair.lines]
        if self.own is not None:
            cells = self.cells.index(self.cells.where[self.steps.arriving])
            pairs = self.cells.index(self.pair_of[self.steps.arriving])
            mask = None if self.source_mask is None else self.source_mask[pairs]
            z[cells] = attend(attn, q[cells], self.own, mask)
        for row, patches in self.steps.special.get((self.layer, "cross_attn"), {}).items():
            cells = self.cells.index(self.cells.where[row][self.cells.where[row] >= 0])
            mask = None if self.source_mask is None else self.source_mask[[self.pair_of[row]]]
            own = self._keys_and_values(attn, kv, row)
            z[cells] = self._explicit(q[cells][None], own, mask, row, patches)[0]
        return z, mid

    def _keys_and_values(self, attn: Attention, shared: KeyValues, row: int) -> KeyValues:
        """Keys and values that one row looks at, to be edited."""
        if self.own is not None and row in self.steps.arriving:
            return attn.project_source(self.own[[int(np.searchsorted(self.steps.arriving, row))]])
        pair = int(self.pair_of[row])
        return KeyValues(shared.k[[pair]].clone(), shared.v[[pair]].clone())

    def _explicit(
        self, q: Tensor, kv: KeyValues, mask: Tensor | None, row: int, patches: list[Patch]
    ) -> Float[Tensor, "1 query_pos head d_head"]:
        """Z of one row whose scores or pattern, or keys or values of cross-attention, are edited."""
        pair = int(self.pair_of[row])
        place = np.cumsum(self.cells.where[row] >= 0) - 1  # of each position among the row's queries
        edits = table_edits(
            patches, lambda patch: self.run.values(patch.source, patch.hook)[pair], place, q.shape[2], kv.k.shape[1]
        )
        return edited_attention(q, kv, mask, edits)

    # Joining and editing

    def _at(self, step: str, value: Tensor, *live: Tensor) -> tuple[Tensor, ...]:
        """A step of the forward pass: rows join as copies of their base rows, then `value` is edited.

        Args:
            step: Its hook point, without stack and layer.
            value: What is there, [cell, ...].
            live: What later steps need too.
        """
        value, *others = self._join(step, value, *live)
        self._edit(step, value)
        return value, *others

    def _join(self, step: str, *live: Tensor) -> tuple[Tensor, ...]:
        joins = self.steps.joins.get((self.layer, step))
        if joins is None:
            return live
        copied = self.cells.join(joins.rows, joins.positions)
        return tuple(torch.cat([value, value[copied]]) for value in live)

    def _edit(self, step: str, value: Tensor) -> None:
        # In place: rows that are edited have joined, so `value` is the wave's own and no recorded run's.
        for edits in self._edits(step):
            cells, heads, new = self._looked_up(step, edits)
            value[self.cells.lines(cells, heads)] = new

    def _edits(self, step: str) -> Sequence[Edits]:
        return self.steps.edits.get((self.layer, step), ())

    def _looked_up(self, step: str, edits: Edits) -> tuple[Index, Index | None, Tensor]:
        """The cells and heads that are edited, and their new values."""
        cells = self.cells.of(edits.rows, edits.positions)
        if edits.given is not None:
            return cells, edits.heads, edits.given
        hook = f"{self.name}.{step}" if self.layer < 0 else f"{self.name}.blocks.{self.layer}.{step}"
        values = self.run.values(edits.source, hook)
        new = values[(self.cells.index(self.pair_of[edits.rows]), *self.cells.lines(edits.positions, edits.heads))]
        return cells, edits.heads, new

    def _own_mask(self, causal: bool) -> Bool[Tensor, "row_or_1 1 query_or_1 key_pos"] | None:
        """Which positions of their own the rows that are aboard may look at."""
        mask = None if self.mask is None else self.mask[self.cells.index(self.pair_of[self.cells.aboard])]
        return causal_mask(mask, self.cells.pos, self.cells.device) if causal else mask

    @staticmethod
    def _heads(attn: Attention, x: Tensor) -> Tensor:
        return rearrange(x, "cell (head d_head) -> cell head d_head", head=attn.n_heads)
