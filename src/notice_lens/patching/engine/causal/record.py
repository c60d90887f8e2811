"""One recorded run of a Hugging Face vision-language model: everything that patched runs share.

A single forward pass of the whole model, image included, in which each block is watched: what it was given (the stream,
and arguments such as rotary embeddings), and the keys, values, mask and z of its attention. What a model adds to the
stream between two blocks (Qwen3-VL's deep visual features) is the next block's input less this block's output.
"""

import inspect
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from notice_lens.models.vlm.attention import (
    attention_by,
    explicit_attention,
    mask_of,
    refuse_unknown_steps,
    unchanged,
)
from notice_lens.patching.engine.causal.decoder import Decoder
from notice_lens.patching.engine.causal.reach import SeenKeys, needed

DROPPED = ("hidden_states", "past_key_values", "past_key_value", "use_cache", "attention_mask", "cache_position")
"""Arguments of a block that belong to one run as a whole, and are not replayed."""
WATCHED = ("hook_rot_q", "hook_rot_k", "hook_v", "hook_z", "hook_attn_scores", "hook_pattern")
"""Activations that are read inside the attention function."""
STREAM = ("hook_resid_pre", "hook_resid_post")


@dataclass
class Attended:
    """The attention of one layer in a recorded run.

    Attributes:
        keys: After the rotary embedding, [kv_head, key_pos, d_head].
        values: [kv_head, key_pos, d_head].
        z: [pos, head, d_head].
        seen: Which query sees which key.
        bias: What a mask adds to the scores where it is neither 0 nor "unseen"; None as a rule.
        scaling: Factor of the scores.
        softcap: Of the scores, or None.
    """

    keys: Tensor
    values: Tensor
    z: Tensor
    seen: SeenKeys
    bias: Tensor | None
    scaling: float
    softcap: float | None


@dataclass
class Record:
    """One run, recorded. Positions are those of the decoder's stream, of one example.

    Attributes:
        decoder: The decoder that ran.
        readouts: The positions whose logits give the answer, one for each of its tokens.
        resid: What each block was given, [pos, d_model].
        out: What each block wrote, [pos, d_model].
        arguments: What else each block was given.
        attended: The attention of each layer.
        values: Activations by layer and leaf, [pos, ...].
        logits: At the read-outs, [answer_pos, d_vocab].
        capped: Whether the logits went through the soft cap of the config.
    """

    decoder: Decoder
    readouts: tuple[int, ...]
    resid: list[Tensor] = field(default_factory=list)
    out: list[Tensor] = field(default_factory=list)
    arguments: list[dict[str, Any]] = field(default_factory=list)
    attended: dict[int, Attended] = field(default_factory=dict)
    values: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    capped: bool = False

    @property
    def length(self) -> int:
        """The number of positions of the stream."""
        return self.resid[0].shape[0]

    @cached_property
    def masks(self) -> list[SeenKeys]:
        """The mask of each layer, true where a query sees a key, on the CPU; one tensor for layers that share it."""
        own = [self.attended[number].seen for number in range(len(self.decoder.layers))]
        copies = {id(seen): seen.cpu() for seen in {id(seen): seen for seen in own}.values()}
        return [copies[id(seen)] for seen in own]

    @cached_property
    def seen(self) -> list[SeenKeys | None]:
        """The masks among positions of the stream, on the CPU; None in cross-attention."""
        crosses = zip(self.masks, self.decoder.is_cross, strict=True)
        return [None if is_cross else mask for mask, is_cross in crosses]

    @cached_property
    def needed(self) -> list[Tensor]:
        """Positions that the read-outs depend on; see `reach.needed`."""
        return needed(self.seen, self.readouts, self.length)

    def between(self, layer: int) -> Tensor | None:
        """Return the features that the model adds to the stream after a layer, [pos, d_model]; None for none."""
        if layer + 1 == len(self.resid) or self.resid[layer + 1] is self.out[layer]:
            return None
        return self.resid[layer + 1] - self.out[layer]

    def value(self, leaf: str, layer: int) -> Tensor:
        """Return an activation of a layer, [pos, ...]; [head, query_pos, key_pos] for scores and patterns."""
        if leaf == "hook_resid_pre":
            return self.resid[layer]
        if leaf == "hook_resid_post":
            return self.out[layer]
        if leaf == "hook_z":
            return self.attended[layer].z
        if leaf in ("hook_rot_k", "hook_v"):
            own = self.attended[layer].keys if leaf == "hook_rot_k" else self.attended[layer].values
            return own.transpose(0, 1)
        kept = self.values[layer, leaf]
        return kept.unflatten(-1, (-1, self.attended[layer].keys.shape[-1])) if leaf in ("hook_q", "hook_k") else kept


@torch.no_grad()
def record(
    decoder: Decoder, inputs: Mapping[str, Any], leaves: Collection[str] = (), readouts: Sequence[int] | None = None
) -> Record:
    """Run the model on one example and record it.

    Args:
        decoder: Of the model.
        inputs: As a Hugging Face processor gives them, of one example.
        leaves: Activations to record beside the stream, keys, values and z, such as `hook_q` and `mlp.hook_post`.
        readouts: Positions whose logits are read, in ascending order; None reads those of the last one.

    Raises:
        ValueError: The model computes something that patched runs could not repeat; the message names it.
    """
    run = Record(decoder, (last_position(inputs),) if readouts is None else tuple(readouts))
    watcher = _Watcher(run, [leaf for leaf in leaves if leaf in WATCHED])
    with ExitStack() as hooks:
        watcher.attach(hooks, [leaf for leaf in leaves if leaf not in (*WATCHED, *STREAM)])
        with attention_by(decoder.hf, dict.fromkeys(decoder.layer_of, watcher.attend)):
            output = decoder.hf(**inputs, use_cache=False, **_only_last(decoder.hf, run.readouts, inputs))
    for number, layer in enumerate(decoder.layers):
        if number not in run.attended or len(run.resid) != len(decoder.layers):
            raise ValueError(
                f"layer {number} ({type(layer).__name__}) attended to nothing by way of transformers' attention "
                "interface: a recurrent mixer, or cross-attention without an image"
            )
    run.logits = output.logits[0, -1:] if output.logits.shape[1] == 1 else output.logits[0, list(run.readouts)]
    run.capped = _is_capped(run)
    return run


def last_position(inputs: Mapping[str, Any]) -> int:
    """Return the last position that is not padding."""
    mask = inputs.get("attention_mask")
    length = inputs["input_ids"].shape[1]
    return length - 1 if mask is None else int(mask[0].nonzero()[-1])


def _only_last(hf: nn.Module, readouts: Sequence[int], inputs: Mapping[str, Any]) -> dict[str, int]:
    """Logits of the last position alone, where the model can and where that is the only read-out."""
    can = "logits_to_keep" in inspect.signature(hf.forward).parameters and "logits_to_keep" not in inputs
    return {"logits_to_keep": 1} if can and list(readouts) == [inputs["input_ids"].shape[1] - 1] else {}


def _is_capped(run: Record) -> bool:
    """Return whether the logits are capped; raise where they are neither the head's nor its capped ones."""
    last = run.out[-1][list(run.readouts)]
    tolerance = 100 * torch.finfo(run.logits.dtype).eps * max(1.0, float(run.logits.abs().max()))
    for capped in (False, True):
        if float((run.decoder.logits(last, capped) - run.logits).abs().max()) <= tolerance:
            return capped
    raise ValueError(
        f"{type(run.decoder.hf).__name__}: its logits are not head(norm(last block's output)), with or without a soft "
        "cap; the causal wave would give other numbers than the model"
    )


class _Watcher:
    """The hooks on a model while it is recorded."""

    def __init__(self, run: Record, leaves: Collection[str]) -> None:
        self.run, self.leaves = run, leaves
        self.masks: dict[tuple[int, bool, int, int], tuple[Any, SeenKeys, Tensor | None]] = {}
        self.written: tuple[Tensor, int] | None = None

    def attach(self, hooks: ExitStack, leaves: Collection[str]) -> None:
        for number, layer in enumerate(self.run.decoder.layers):
            hooks.callback(layer.register_forward_pre_hook(self.given, with_kwargs=True).remove)
            hooks.callback(layer.register_forward_hook(self.gave).remove)
            for leaf in leaves:
                keep = _Keep(self.run, number, leaf)
                hooks.callback(self.run.decoder.place(number, leaf).attach(keep).remove)

    def given(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        stream = args[0] if args else kwargs["hidden_states"]
        if stream.shape[0] != 1:
            raise ValueError(f"expected the inputs of one example, got {stream.shape[0]}")
        # The very tensor that the block before wrote, unless something was added in between, perhaps in place.
        written = self.written is not None and self.written[0] is stream and self.written[1] == stream._version
        self.run.resid.append(self.run.out[-1] if written else stream[0])
        named = dict(zip(inspect.signature(layer.forward).parameters, args, strict=False)) | kwargs
        self.run.arguments.append({name: value for name, value in named.items() if name not in DROPPED})

    def gave(self, _: nn.Module, args: Any, output: Any) -> None:
        stream = output[0] if isinstance(output, tuple) else output
        self.written = (stream, stream._version)
        self.run.out.append(stream[0].clone())

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Compute a layer's attention as SDPA does, and keep what patched runs need."""
        refuse_unknown_steps(module, kwargs)
        layer = self.run.decoder.layer_of[module]
        if layer in self.run.attended:
            raise ValueError(f"layer {layer} attends twice; expected one attention in a decoder block")
        scaling, softcap = kwargs.get("scaling"), kwargs.get("softcap")
        mask = mask_of(module, query, key, attention_mask, kwargs.get("is_causal"))
        if softcap is None:
            z = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)[0]
        else:
            z = explicit_attention(query, key, value, mask, scaling=scaling, softcap=softcap)[0]
        if "hook_attn_scores" in self.leaves or "hook_pattern" in self.leaves:
            explicit_attention(query, key, value, mask, scaling=scaling, softcap=softcap, watch=self._tables(layer))
        if "hook_rot_q" in self.leaves:
            self.run.values[layer, "hook_rot_q"] = query[0].transpose(0, 1)
        seen, bias = self._seen(mask, attention_mask, query.shape[2], key.shape[2], query.device)
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        self.run.attended[layer] = Attended(key[0], value[0], z[0], seen, bias, scaling, softcap)
        return z, None

    def _tables(self, layer: int) -> Any:
        def watch(stage: str, tensor: Tensor) -> Tensor:
            if f"hook_{stage}" in self.leaves and stage in ("attn_scores", "pattern"):
                self.run.values[layer, f"hook_{stage}"] = tensor[0]
            return tensor

        return watch if self.leaves else unchanged

    def _seen(self, mask: Any, given: Any, n_query: int, n_key: int, device: Any) -> tuple[SeenKeys, Tensor | None]:
        """Return a mask as booleans; one tensor for all layers that were given the same mask."""
        # By the tensor that came in: a mask made here is new in each layer. It is kept, so that its id stays its own.
        which = (id(given), mask is None, n_query, n_key)
        if which not in self.masks:
            self.masks[which] = (given, *_read_mask(mask, n_query, n_key, device))
        return self.masks[which][1:]


def _read_mask(mask: Tensor | None, n_query: int, n_key: int, device: Any) -> tuple[SeenKeys, Tensor | None]:
    if mask is None:
        return torch.ones(n_query, n_key, dtype=torch.bool, device=device), None
    while mask.dim() > 2:
        if mask.shape[0] != 1:
            raise ValueError(f"attention with a mask of shape {tuple(mask.shape)}: expected one mask for all heads")
        mask = mask[0]
    mask = mask.expand(n_query, n_key)
    if mask.dtype == torch.bool:
        return mask, None
    seen = mask > torch.finfo(mask.dtype).min / 2
    return seen, (mask if bool((mask[seen] != 0).any()) else None)


class _Keep:
    """Keeps an activation of a layer, [pos, ...], in a record."""

    def __init__(self, run: Record, layer: int, leaf: str) -> None:
        self.run, self.layer, self.leaf = run, layer, leaf

    def __call__(self, tensor: Float[Tensor, "1 pos width"]) -> Tensor:
        self.run.values[self.layer, self.leaf] = tensor[0].clone()
        return tensor
