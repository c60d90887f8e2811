"""The wave against PyTorch hooks on the Hugging Face model, one full forward a variant (wave_bench.py, oracle.py).

Errors are the largest difference of logits over the largest difference between the two unpatched runs' logits.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations

import numpy as np
import pytest
import torch

from conftest import relative_error
from notice_lens.models.blip.steps import POST_NORM, PRE_NORM, order
from notice_lens.patching.engine.attention import folded_attention, folding_pays, fused_attention
from notice_lens.patching.engine.plan import HookEdit
from notice_lens.patching.engine.runs import Run, trace
from wave_bench import EMBEDDINGS, LEAVES, LENGTHS, MODELS, N_PAIRS, RECORDED, SOURCES, Bench, Row

TOLERANCE = 1e-9
DIRECTIONS = pytest.mark.parametrize("denoise", [True, False], ids=["denoise", "noise"])
CORRUPTIONS = pytest.mark.parametrize("corruption", ["image", "text"])
EVERY_MODEL = pytest.mark.parametrize("model", MODELS)
# With one answer token the decoder's self-attention has one key: its pattern is 1 whatever queries and keys are.
INERT_AT_ONE_TOKEN = {f"decoder.attn.{leaf}" for leaf in ("hook_q", "hook_k", "hook_attn_scores")}

bench = cache(Bench)


def check(bench: Bench, rows: Sequence[Row], logits: torch.Tensor | None = None, tolerance: float = TOLERANCE) -> None:
    """Every row equals its own full forward."""
    errors = bench.errors(rows, logits)
    wrong = "\n".join(f"{errors[i]:.1e} {rows[i]}" for i in np.argsort(-errors)[:8])
    assert errors.max() <= tolerance, f"{(errors > tolerance).sum()} of {len(rows)} rows are off:\n{wrong}"


def shuffled(g: np.random.Generator, rows: Sequence[Row]) -> list[Row]:
    """Rows of all pairs mixed, and unequal in number."""
    return [rows[i] for i in g.permutation(len(rows))]


def activations(bench: Bench) -> dict[str, list[str]]:
    """Every activation of every stack, with its hooks, layer by layer."""
    found = {f"{stack}.{leaf}": [f"{stack}.{leaf}"] for stack in bench.stacks for leaf in EMBEDDINGS}
    for stack in bench.stacks:
        for leaf in LEAVES[stack]:
            layers = range(bench.n_layers(stack))
            found[f"{stack}.{leaf}"] = [f"{stack}.blocks.{layer}.{leaf}" for layer in layers]
    return found


def one_of_each(bench: Bench, seed: int, sources: Sequence[str] = SOURCES) -> list[tuple[str, Row]]:
    """Every activation edited from each of these sources, somewhere."""
    g = np.random.default_rng(seed)
    found = []
    for activation, hooks in activations(bench).items():
        for source in sources:
            pair = int(g.choice(N_PAIRS, p=[0.5, 0.3, 0.2]))
            found.append((activation, Row(pair, (bench.sample(g, str(g.choice(hooks)), pair, source),))))
    return [found[i] for i in g.permutation(len(found))]


def joint(bench: Bench, g: np.random.Generator, hooks: Sequence[str], n: int) -> Row:
    """Several edits of one row, in any order."""
    pair = int(g.integers(N_PAIRS))
    chosen = g.choice(hooks, size=min(n, len(hooks)), replace=False)
    return Row(pair, tuple(bench.sample(g, str(hook), pair, str(g.choice(SOURCES))) for hook in chosen))


# Single edits


def test_every_point_of_a_block_is_patched_here():
    for stack, steps in (("vision", PRE_NORM), ("text", POST_NORM), ("decoder", POST_NORM)):
        points = {point for point in order(steps) if "hook_" in point} - set(EMBEDDINGS)
        assert points == set(LEAVES[stack]), "a hook point of a step has its place in wave_bench.py and oracle.py"


@DIRECTIONS
@CORRUPTIONS
@EVERY_MODEL
def test_every_activation_from_every_source(model, corruption, denoise):
    here = bench(model, corruption, denoise)
    sources = SOURCES if denoise and corruption == "image" else SOURCES[1:]
    cells = one_of_each(here, len(corruption) + denoise, sources)
    if model == "vqa, one token":  # the stacks before the decoder are the same with any number of answer tokens
        cells = [cell for i, cell in enumerate(cells) if cell[0].startswith("decoder.") or i % 4 == 0]
    rows = [row for _, row in cells]
    logits = here.wave(rows)
    check(here, rows, logits)
    effects = here.effects(rows, logits)
    for (activation, row), effect in zip(cells, effects, strict=True):
        if row.patches[0].source == "self":
            assert effect <= TOLERANCE, f"{activation}: a self-patch changed the run by {effect:.1e}"


@EVERY_MODEL
def test_every_activation_matters(model):
    """The comparison is worth something: edits change the logits by far more than its tolerance."""
    largest: dict[str, float] = {}
    here = bench(model, "image", True)
    cells = one_of_each(here, 6, SOURCES[1:])
    effects = here.effects([row for _, row in cells], here.wave([row for _, row in cells]))
    for (activation, _), effect in zip(cells, effects, strict=True):
        largest[activation] = max(effect, largest.get(activation, 0))
    inert = {activation for activation, effect in largest.items() if effect < 1e-3}
    assert inert == (INERT_AT_ONE_TOKEN if model == "vqa, one token" else set())


@EVERY_MODEL
def test_the_neighbouring_position_layer_or_head_would_be_noticed(model):
    here = bench(model, "image", True)
    for activation, hooks in activations(here).items():
        leaf = activation.split(".", 1)[1]
        if leaf in EMBEDDINGS or (model == "vqa, one token" and activation in INERT_AT_ONE_TOKEN):
            continue
        by_head = leaf.startswith(("attn.", "cross_attn."))
        n = here.n_places(hooks[0], 0)
        positions = np.arange(max(1, n - 1))
        patch = HookEdit(hooks[0], positions, "zero", 1 if by_head else None)
        others = [replace(patch, hook=hooks[1])]
        others += [replace(patch, positions=positions + 1)] if n > 1 else []
        others += [replace(patch, head=0)] if by_head else []
        here_, *elsewhere = here.wave([Row(0, (found,)) for found in (patch, *others)])[N_PAIRS:]
        oracle = here.oracle(Row(0, (patch,)))
        assert here.distance(0, here_, oracle) <= TOLERANCE
        for other, logits in zip(others, elsewhere, strict=True):
            assert here.distance(0, logits, oracle) > 1e4 * TOLERANCE, f"{other} passes for {patch}"


def test_in_single_precision():
    here = bench("vqa", "image", True, torch.float32)
    cells = one_of_each(here, 0, SOURCES[1:4])
    check(here, [row for _, row in cells], tolerance=1e-4)


# Joint edits


@DIRECTIONS
@EVERY_MODEL
def test_edits_across_stacks_and_blocks(model, denoise):
    here, g = bench(model, "image", denoise), np.random.default_rng(1)
    rows = [joint(here, g, here.every_hook, int(g.integers(2, 7))) for _ in range(40)]
    for stacks in (here.stacks[:1], here.stacks[-1:], here.stacks[-2:], here.stacks):
        for _ in range(8):  # one or two edits of each of these stacks
            parts = [joint(here, g, here.hooks(stack), int(g.integers(1, 3))).patches for stack in stacks]
            pair = int(g.integers(N_PAIRS))
            patches = [patch for part in parts for patch in part]
            rows.append(Row(pair, tuple(here.sample(g, patch.hook, pair, patch.source) for patch in patches)))
    check(here, shuffled(g, rows))


@pytest.mark.parametrize("stack", ["vision", "text"])
def test_any_two_steps(stack):
    """Of a block and the beginning of the next one, at positions of their own; the decoder's blocks are the text's."""
    here, g = bench("match", "text", True), np.random.default_rng(12)
    steps = [hook for hook in here.hooks(stack) if ".blocks.0." in hook] + [f"{stack}.blocks.1.hook_resid_pre"]
    rows = []
    for first, second in combinations(steps, 2):
        pair = int(g.integers(N_PAIRS))
        one, other = (here.sample(g, hook, pair, str(g.choice(SOURCES[1:]))) for hook in (first, second))
        order = g.permutation(min(here.n_places(hook, pair) for hook in (first, second)))
        rows.append(Row(pair, (replace(one, positions=order[:2]), replace(other, positions=order[2:]))))
    check(here, rows)


@EVERY_MODEL
def test_edits_in_one_block(model):
    """Of one block, any steps; of those in which positions mix, all together too."""
    here, g = bench(model, "text", True), np.random.default_rng(2)
    rows = []
    for stack in here.stacks:
        for layer in range(here.n_layers(stack)):
            block = [hook for hook in here.hooks(stack) if f".blocks.{layer}." in hook]
            rows += [joint(here, g, block, int(g.integers(2, 5))) for _ in range(4)]
            inside = [hook for hook in block if "attn.hook_" in hook]
            rows += [joint(here, g, inside, int(g.integers(2, 8))) for _ in range(4)]
            # An embedding and something of the first block: two layers by name, one before any positions mix.
            rows += [joint(here, g, [f"{stack}.hook_embed", hook], 2) for hook in block[:: 8 if layer else 2]]
    check(here, shuffled(g, rows))


@EVERY_MODEL
def test_the_order_in_which_edits_are_given_is_irrelevant(model):
    here, g = bench(model, "image", False), np.random.default_rng(3)
    rows = [joint(here, g, here.every_hook, 4) for _ in range(25)]
    backwards = [replace(row, patches=row.patches[::-1]) for row in rows]
    assert torch.equal(here.wave(rows), here.wave(backwards))


@EVERY_MODEL
def test_one_hook_from_several_sources(model):
    """At different positions or heads; where they overlap, the later edit holds."""
    here, g = bench(model, "text", True), np.random.default_rng(4)
    rows = []
    for hooks in activations(here).values():
        for how in ("apart", "overlapping"):
            pair, hook = int(g.integers(N_PAIRS)), str(g.choice(hooks))
            first, second, third = (here.sample(g, hook, pair, str(s)) for s in g.permutation(SOURCES)[:3])
            if how == "apart":
                n = here.n_places(hook, pair)
                cut = int(g.integers(1, n)) if n > 1 else 1
                order = g.permutation(n)
                first, second = (
                    replace(part, positions=at) for part, at in ((first, order[:cut]), (second, order[cut:]))
                )
                rows.append(Row(pair, (first, second) if n > 1 else (first,)))
            else:
                rows.append(Row(pair, (first, second, third)))
                rows.append(Row(pair, (second, replace(third, source=first.source), first)))
    check(here, shuffled(g, rows))


@EVERY_MODEL
def test_all_heads_but_one(model):
    """All heads from one run and then one of them from another; elsewhere in the plan the same two, turned round."""
    here = bench(model, "image", True)
    rows = []
    for hook in (hook for hook in here.every_hook if ".blocks.1." in hook and "attn.hook_" in hook):
        positions = np.arange(here.n_places(hook, 2))
        every, one = HookEdit(hook, positions, "other"), HookEdit(hook, positions, "self", 1)
        again = replace(one, source="other")
        rows += [Row(2, found) for found in ((one,), (every, one), (one, every), (every, one, again))]
    check(here, rows)


# Rows


@EVERY_MODEL
def test_a_row_without_edits_is_the_base_run(model):
    here, g = bench(model, "image", True), np.random.default_rng(5)
    rows = [Row(pair, ()) for pair in (2, 0, 0, 1)]
    edited = [joint(here, g, here.every_hook, 2) for _ in range(4)]
    mixed = [rows[0], edited[0], edited[1], rows[1], rows[2], edited[2], rows[3], edited[3]]
    states = here.states(mixed)
    for row, found in zip(mixed, states[N_PAIRS:], strict=True):
        if not row.patches:
            assert torch.equal(found, states[row.pair])
    check(here, mixed)
    assert torch.equal(here.states(rows)[N_PAIRS:], here.states([])[[2, 0, 0, 1]])


@DIRECTIONS
@EVERY_MODEL
def test_base_rows_are_the_base_run(model, denoise):
    here, g = bench(model, "image", denoise), np.random.default_rng(6)
    for n in (0, 12):
        logits = here.wave([joint(here, g, here.every_hook, 2) for _ in range(n)])
        for pair in range(N_PAIRS):
            assert here.distance(pair, logits[pair], here.recorded["self"][pair][0]) <= TOLERANCE


@EVERY_MODEL
def test_rows_of_one_pair_alone(model):
    here, g = bench(model, "text", False), np.random.default_rng(7)
    rows = [row for row in (joint(here, g, here.every_hook, 2) for _ in range(30)) if row.pair == 1]
    check(here, rows)


@pytest.mark.parametrize("size", [1, 2, 5])
@EVERY_MODEL
def test_in_parts_as_all_at_once(model, size):
    here, g = bench(model, "image", True), np.random.default_rng(8)
    rows = [joint(here, g, here.every_hook, int(g.integers(1, 4))) for _ in range(20)]
    together = here.wave(rows)[N_PAIRS:]
    parts = [here.wave(rows[start : start + size])[N_PAIRS:] for start in range(0, len(rows), size)]
    gap = min(map(here.gap, range(N_PAIRS)))
    assert (torch.cat(parts) - together).abs().max() <= 1e-12 * gap


@EVERY_MODEL
def test_the_wave_starts_where_the_first_row_joins(model):
    """Nothing below is computed or needed: the base run has been recorded from there on only."""
    here, g = bench(model, "image", True), np.random.default_rng(9)
    stack = here.stacks[-1]
    for first in range(here.n_layers(stack)):
        hooks = [hook for hook in here.hooks(stack) if f".blocks.{first}." in hook]
        later = [
            hook
            for layer in range(first, here.n_layers(stack))
            for hook in here.hooks(stack)
            if f".blocks.{layer}." in hook
        ]
        rows = [joint(here, g, hooks, 1) for _ in range(8)] + [joint(here, g, later, 2) for _ in range(8)]
        assert here.plan(rows).schedule(stack).first_layer == first
        names = [f"{stack}.blocks.{first}.hook_resid_pre"]
        with torch.no_grad():
            base = trace(here.model, here.padded("self"), names)
        sources = {name: here.traces[name].activations for name in RECORDED}
        check(here, rows, here.wave(rows, Run(here.model, base, {**sources, **here.made_up})))


@EVERY_MODEL
def test_recorded_runs_stay_as_they_are(model):
    """Edits are written in place, into tensors of the wave's own."""
    here, g = Bench(model), np.random.default_rng(10)
    before = {
        (name, hook): value.clone() for name, found in here.traces.items() for hook, value in found.activations.items()
    }
    states = {stack: value.clone() for stack, value in here.traces["self"].states.items()}
    rows = [row for _, row in one_of_each(here, 3)]
    rows += [joint(here, g, here.every_hook, 3) for _ in range(20)]
    first = here.wave(rows)
    assert all(torch.equal(here.traces[name].activations[hook], value) for (name, hook), value in before.items())
    assert all(torch.equal(here.traces["self"].states[stack], value) for stack, value in states.items())
    assert torch.equal(here.wave(rows), first)


# Padding


@EVERY_MODEL
def test_padding_is_never_looked_at(model):
    """Whatever a source has there: scores of 0, or a pattern's mean over questions of unequal length."""
    here = bench(model, "image", True)
    short = int(np.argmin(LENGTHS))
    rows = []
    for hook in here.every_hook:
        if hook.endswith(("hook_attn_scores", "hook_pattern")):
            queries = np.arange(here.length(hook.split(".")[0], short))
            sources = ("zero", "mean") if hook.endswith("hook_pattern") else ("zero",)
            rows += [Row(short, (HookEdit(hook, queries, source),)) for source in sources]
    check(here, rows)


@pytest.mark.parametrize("model", ["vqa", "vqa, one token", "match"])
def test_edits_of_padding_change_nothing(model):
    """Not even where all positions of the batch are named: those of the longest question."""
    here = bench(model, "image", True)
    rows = []
    for hook in (
        hook for hook in here.hooks("text") if "cross_attn.hook_k" not in hook and "cross_attn.hook_v" not in hook
    ):
        rows.append(Row(0, (HookEdit(hook, np.arange(LENGTHS[0], max(LENGTHS)), "donor"),)))
    assert here.effects(rows, here.wave(rows)).max() <= TOLERANCE


# Recording


@EVERY_MODEL
def test_a_recorded_run_says_what_the_model_says(model):
    here = bench(model, "image", True)
    with torch.no_grad():
        logits = here.model(here.padded("self"))
    found = here.traces["self"]
    assert relative_error(found.logits, logits) <= 1e-12
    assert list(found.states) == list(here.stacks)
    assert set(found.activations) == set(here.every_hook)
    assert not here.model.list_hooks()


def test_other_answers_to_the_same_question():
    """Vision and text are taken over; rows that change them are told in the decoder alone."""
    here = bench("vqa", "image", True)
    inputs = replace(here.padded("self"), answer_ids=None)  # [DEC] alone
    names = [hook for hook in here.every_hook if not hook.endswith("hook_result")]
    with torch.no_grad():
        found = trace(here.model, inputs, names, upstream=here.traces["self"])
        expected = trace(here.model, inputs, names)
    assert found.states["text"] is here.traces["self"].states["text"]
    for hook in names:
        assert relative_error(found.activations[hook], expected.activations[hook]) <= 1e-12, hook
    assert relative_error(found.logits, expected.logits) <= 1e-12
    assert here.traces["self"].activations["decoder.hook_embed"].shape[1] == 3, "the run taken over is as it was"


@pytest.mark.parametrize("at", ["vision.hook_embed", "text.hook_embed"])
def test_a_base_run_with_noise_on_its_embeddings(at):
    here, g = bench("vqa", "image", True), np.random.default_rng(11)
    added = torch.randn(here.traces["self"].activations[at].shape, generator=torch.Generator().manual_seed(0)).double()
    here.model.set_use_attn_result(True)
    with torch.no_grad():
        base = trace(here.model, here.padded("self"), here.every_hook, [(at, lambda value, hook: value + added)])
    here.model.set_use_attn_result(False)
    run = Run(here.model, base, {"other": here.traces["other"].activations})
    rows = [joint(here, g, [hook for hook in here.every_hook if hook != at], 1) for _ in range(40)]
    rows = [Row(row.pair, tuple(replace(patch, source="other") for patch in row.patches)) for row in rows]
    logits = here.wave(rows, run)
    plain = here.pair.oracle

    class Noisy:
        """The oracle with the noise of one pair, which stands there before any edit."""

        def __init__(self, pair: int) -> None:
            self.pair = pair

        def run(self, inputs: tuple, edits: dict) -> torch.Tensor:
            noise = added[[self.pair]]
            return plain.run(inputs, {at: lambda value: value + noise[:, : value.shape[1]], **edits})

    for row, found in zip(rows, logits[N_PAIRS:], strict=True):
        (patch,) = row.patches
        edit = here.edit_of(row, patch.hook)
        assert here.recorded
        expected = Noisy(row.pair).run(here.as_tuple("self", row.pair), {patch.hook: edit})
        assert here.distance(row.pair, found, expected) <= TOLERANCE, row


# Attention folded into the query


@pytest.mark.parametrize("masked", [False, True])
def test_folding_keys_and_values_away_changes_no_number(masked):
    here, g = bench("match", "image", True), torch.Generator().manual_seed(0)
    attn = here.model.text.blocks[0].cross_attn
    q = torch.randn(4, 3, attn.n_heads, attn.d_head, generator=g).double()
    states = torch.randn(4, 7, 64, generator=g).double()
    mask = (torch.arange(7) < torch.tensor([7, 3, 1, 5])[:, None])[:, None, None] if masked else None
    with torch.no_grad():
        folded = folded_attention(attn, q, states, mask)
        projected = fused_attention(q, *attn.project_source(states), mask)
    assert relative_error(folded, projected) <= 1e-12


def test_both_ways_of_reading_an_own_source_are_taken_here():
    """Few queries are folded (the decoder's), many are not (the question's, of few patches)."""
    here = bench("vqa", "image", True)
    text, decoder = (here.model.stack(stack).blocks[0].cross_attn for stack in ("text", "decoder"))
    assert folding_pays(decoder, here.length("decoder"), here.length("text"))
    assert not folding_pays(text, here.length("text"), here.length("vision"))
