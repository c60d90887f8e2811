"""Patches before the language model's blocks: in the vision tower, a Q-Former, the projector and token embeddings.

Such a patch affects everything after it: it changes what the language model is given of the image, and so all positions
from the image on. There is nothing to share, so each row is a separate forward pass, several of them in a batch.

A row's positions are those of all its tower's rows, one after the other: the tiles of a picture are rows of the tower,
and patch 3 of the second tile of 577 patches is position 580. Those of a Q-Former are its learned queries; the
question's tokens, which it may read behind them, are not patched.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from notice_lens.models.hook_names import HookName
from notice_lens.models.protocol import TABLES, axes
from notice_lens.patching.engine.causal.given import Given
from notice_lens.patching.engine.plan import HookEdit
from notice_lens.patching.engine.rows import Index

if TYPE_CHECKING:
    from notice_lens.models.vlm.hooked_vlm import HookedVLM

WAVE_STACK = "language"
"""The stack whose blocks the causal wave goes through."""
MOST_ROWS = 32
"""Rows in a batch, at most."""


def is_upstream(hook: str) -> bool:
    """Return whether a hook point is before the language model's blocks."""
    name = HookName.parse(hook)
    return name.stack != WAVE_STACK or name.layer is None


def by_example(values: Tensor, n: int, leaf: str) -> Tensor:
    """Return activations with one row for each example, [example, pos, ...]: tiles become one row of positions.

    Args:
        values: As a hook sees them, [row, pos, ...]; scores and patterns [row, head, query_pos, key_pos].
        n: How many examples there are.
        leaf: The hook point's.

    Raises:
        ValueError: Scores or patterns of a tower that sees an example in several rows.
    """
    if len(values) == n:
        return values
    if leaf.endswith(TABLES):
        raise ValueError(
            f"{leaf} of a picture in {len(values) // n} tiles: each tile has its own table, so that its positions "
            "have no keys in common; patch z, q, k or v"
        )
    return values.reshape(n, -1, *values.shape[2:])


def length_of(model: "HookedVLM", stack: str, activations: Mapping[str, Tensor]) -> int:
    """Return how many positions of a stack can be patched, by activations of one example that have them.

    Args:
        model: The model.
        stack: The stack.
        activations: By hook point, [1, pos, ...]; the stack's own, or tables whose keys are its positions.
    """
    for hook, values in activations.items():
        name = HookName.parse(hook)
        positions, keys = axes(model.cfg, name.stack or "", name.leaf)
        if stack in (positions, keys):
            axis = 1 if keys is None else 2 if stack == positions else -1
            return min(values.shape[axis], model.stack(stack).cfg.n_ctx)
    raise AssertionError(f"no activation of `{stack}` was kept")


def check_keys(model: "HookedVLM", hook: str, values: Tensor) -> None:
    """Raise ValueError if scores or patterns have keys that are not among the positions that can be patched."""
    name = HookName.parse(hook)
    keys = axes(model.cfg, name.stack or "", name.leaf)[1]
    limit = None if keys is None else model.stack(keys).cfg.n_ctx
    if limit is not None and values.shape[-1] > limit:
        raise ValueError(
            f"{hook} has {values.shape[-1]} keys, of which {limit} are learned queries and the others the question's "
            "tokens, which have no positions here; patch z, q, k or v, or the tables of cross_attn"
        )


@torch.no_grad()
def upstream_activations(
    model: "HookedVLM", inputs: Mapping[str, Any], hooks: Sequence[str], noise: Sequence[Any] = ()
) -> dict[str, Tensor]:
    """Return the activations of one example at some hook points, [1, pos, ...], under hooks that add noise."""
    if not hooks:
        return {}
    with model.hooks(noise):
        _, cache = model.run_with_cache(inputs, names_filter=list(hooks))
    for hook in hooks:
        check_keys(model, hook, cache[hook])
    return {hook: by_example(cache[hook], 1, hook) for hook in hooks}


def edit_hooks(
    rows: Sequence[Sequence[HookEdit[Index]]], sources: Mapping[str, Mapping[str, Tensor]]
) -> list[tuple[str, Any]]:
    """Return the hooks that edit each row of a batch of the same example.

    Args:
        rows: The edits of each row.
        sources: New values by source and hook point, [1, pos, ...].
    """
    by_hook: dict[str, list[tuple[int, HookEdit[Index]]]] = {}
    for number, edits in enumerate(rows):
        for edit in edits:
            by_hook.setdefault(edit.hook, []).append((number, edit))

    def patch(value: Tensor, hook: Any) -> Tensor:
        new = by_example(value, len(rows), hook.name).clone()
        for number, edit in by_hook[hook.name]:
            source = sources[edit.source][hook.name].to(new)
            index = _index(edit, new)
            new[(number, *index)] = source[(0, *index)]
        return new.reshape(value.shape)

    return [(hook, patch) for hook in by_hook]


@torch.no_grad()
def logits_of_rows(
    given: Given,
    rows: Sequence[Sequence[HookEdit[Index]]],
    sources: Mapping[str, Mapping[str, Tensor]],
    readouts: Sequence[int],
) -> Tensor:
    """Return the logits at the read-outs of rows that are patched in one forward pass, [row, answer_pos, d_vocab].

    Args:
        given: The input of the run that is patched.
        rows: The edits of each row.
        sources: New values by source and hook point, [1, pos, ...].
        readouts: Positions whose logits are read.
    """
    model, last = given.model, given.inputs["input_ids"].shape[1] - 1
    # Logits over the vocabulary are wide: those of the last position alone where nothing else is read.
    less = {"logits_to_keep": 1} if list(readouts) == [last] else {}
    # The noise comes first: what is patched at the same hook point takes its place.
    with model.hooks([*given.noise(len(rows)), *edit_hooks(rows, sources)]):
        logits = model(given.repeated(len(rows)), **less)
    return logits[:, -1:] if less else logits[:, list(readouts)]


def _index(edit: HookEdit[Index], values: Tensor) -> tuple[Any, ...]:
    """Return the index of an edit in the values of one example."""
    positions = torch.from_numpy(edit.positions).to(values.device)
    if edit.hook.endswith(TABLES):
        keys = torch.arange(values.shape[-1]) if edit.keys is None else torch.from_numpy(edit.keys)
        heads = torch.arange(values.shape[1]) if edit.head is None else torch.tensor([edit.head])
        return heads[:, None, None], positions[:, None], keys.to(values.device)
    return (positions,) if edit.head is None else (positions, edit.head)


def rows_at_once(model: "HookedVLM", inputs: Mapping[str, Any], tower: int, memory: int) -> int:
    """Return how many forward passes fit into a batch: where one takes most, at its MLP and its attention.

    Args:
        model: The model.
        inputs: Of one example.
        tower: Positions of the vision tower.
        memory: In bytes.
    """
    length, size = inputs["input_ids"].shape[1], torch.finfo(model.dtype).bits // 8
    widest = 0
    for name in model.cfg.stacks:
        cfg = model.stack(name).cfg
        positions = max(length, tower) if name != WAVE_STACK else length
        widest = max(widest, positions * (9 * cfg.d_model + 3 * cfg.d_mlp + 2 * cfg.n_heads * positions))
    return max(1, min(MOST_ROWS, memory // (size * widest)))
