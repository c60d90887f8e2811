"""Path patching equals its definition, literally: PyTorch hooks on the Hugging Face model, one path at a time.

Run 3 freezes each head and MLP of the sender's stack by hand, and reads the receiver; run 4 is a forward of its own.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from notice_lens.models.blip.layer_norm import LayerNorm
from notice_lens.patching.engine.path_walk import Receiver, Walk, _Sender, received
from notice_lens.patching.engine.plan import END, OUTPUT, HookEdit
from wave_bench import MODELS, N_PAIRS, Bench, Row, some

CORRUPTIONS = pytest.mark.parametrize("corruption", ["image", "text"])
AS_IS, FROZEN_LAYERNORM, LIVE_MLP = (False, True), (True, True), (False, False)
WAYS = [
    ("image", True, AS_IS), ("text", False, AS_IS),
    *(pytest.param(*way, AS_IS, marks=pytest.mark.large) for way in (("image", False), ("text", True))),
    ("image", True, FROZEN_LAYERNORM), ("text", False, FROZEN_LAYERNORM), ("image", True, LIVE_MLP),
]  # fmt: skip
FLOAT64, FLOAT32 = 1e-9, 1e-4
bench = cache(Bench)


MODULES = {"vision": ("attn", "mlp"), "text": ("attn", "cross_attn", "mlp"), "decoder": ("attn", "cross_attn", "mlp")}


def nodes(here: Bench, stack: str) -> list[str]:
    """Every head module, MLP and embedding of a stack, in the order of the forward pass."""
    writes = ["hook_mlp_out" if module == "mlp" else f"{module}.hook_z" for module in MODULES[stack]]
    layers = range(here.n_layers(stack))
    return [f"{stack}.hook_embed", *(f"{stack}.blocks.{layer}.{leaf}" for layer in layers for leaf in writes)]


def receivers(here: Bench, stack: str) -> list[tuple[int, str]]:
    """Everything that may end a path of a stack, with how many of its nodes come before."""
    modules, found = MODULES[stack], []
    for layer in range(here.n_layers(stack)):
        for number, module in enumerate(modules):
            leaves = {"attn": "qkv", "cross_attn": "q", "mlp": ["pre"]}[module]
            before = 1 + layer * len(modules) + number
            found += [(before, f"{stack}.blocks.{layer}.{module}.hook_{leaf}") for leaf in leaves]
    ends = [f"{stack}.output"]
    for following in here.stacks[here.stacks.index(stack) + 1 :][:1]:
        layers = (0, here.n_layers(following) - 1)
        ends += [f"{following}.blocks.{layer}.cross_attn.hook_{leaf}" for layer in layers for leaf in "kv"]
    return found + [(1 + here.n_layers(stack) * len(modules), end) for end in ends]


def sample(here: Bench, seed: int, freeze: tuple[bool, bool]) -> list[tuple[int, list[HookEdit], Receiver]]:
    """One path to each receiver of each stack, of one sender or of three."""
    g = np.random.default_rng(seed)

    def a_head(hook: str, often: float) -> int | None:
        with_heads = hook.endswith(("_z", "_q", "_k", "_v")) and g.random() < often
        return int(g.integers(here.n_heads(hook.partition(".")[0]))) if with_heads else None

    found = []
    for stack in here.stacks:
        for before, hook in receivers(here, stack):
            pair, source = int(g.integers(N_PAIRS)), str(g.choice(["other", "donor"]))
            several = nodes(here, stack)[:before]
            chosen = g.choice(several, size=min(len(several), int(g.choice([1, 1, 3]))), replace=False)
            positions = np.sort(some(g, here.length(stack, pair)))
            senders = [HookEdit(str(name), positions, source, a_head(str(name), 0.8)) for name in chosen]
            found.append((pair, senders, Receiver(hook, a_head(hook, 0.7), *freeze)))
    return found


# The definition, literally


def norms(here: Bench, stack: str) -> list[nn.LayerNorm]:
    """Hugging Face's LayerNorms of a stack."""
    if stack == "vision":
        whole = here.pair.hf.vision_model
    else:
        whole = here.pair.hf.text_encoder if stack == "text" else here.pair.hf.text_decoder.bert
    return [module for module in whole.modules() if isinstance(module, nn.LayerNorm)]


def output(here: Bench, stack: str) -> nn.Module:
    """The last module of a stack."""
    return here.pair.hf.vision_model.post_layernorm if stack == "vision" else here.pair.oracle.layers(stack)[-1]


def run(here: Bench, pair: int, edits: dict, hooks: Sequence[tuple[nn.Module, Callable]] = ()) -> torch.Tensor:
    """The logits of the base run with edits, and with hooks on modules for whatever has three axes."""

    def guarded(hook: Callable) -> Callable:
        return lambda m, args, out: hook(m, args, out) if args[0].ndim == 3 else None

    handles = [module.register_forward_hook(guarded(hook)) for module, hook in hooks]
    try:
        return here.pair.oracle.run(here.as_tuple("self", pair), edits)
    finally:
        for handle in handles:
            handle.remove()


def frozen_norms(here: Bench, pair: int, stack: str) -> list[tuple[nn.Module, Callable]]:
    """Hooks that make LayerNorms divide by the base run's scale."""
    scales = {}

    def keep(m, args, out):
        scales[m] = (args[0].var(-1, correction=0, keepdim=True) + m.eps).sqrt()

    def divide(m, args, out):
        return (args[0] - args[0].mean(-1, keepdim=True)) / scales[m] * m.weight + m.bias

    run(here, pair, {}, [(norm, keep) for norm in norms(here, stack)])
    return [(norm, divide) for norm in norms(here, stack)]


def literal(here: Bench, pair: int, senders: Sequence[HookEdit], receiver: Receiver) -> torch.Tensor:
    """The logits of run 4 of one path."""
    stack = senders[0].hook.partition(".")[0]
    base = here.recorded["self"][pair][1]
    taken: list[torch.Tensor] = []

    def node(hook: str) -> Callable:
        def edit(x):
            free = hook.endswith("hook_embed") or ("mlp" in hook and not receiver.freeze_mlp)
            x = x if free else base[hook].clone()
            for patch in (patch for patch in senders if patch.hook == hook):
                where = (0, patch.positions) if patch.head is None else (0, patch.positions, patch.head)
                x[where] = here.value(patch.source, hook, pair, x.shape)[where]
            return x

        return edit

    def whole(out):
        return out[0] if isinstance(out, tuple) else out

    hooks = frozen_norms(here, pair, stack) if receiver.freeze_layernorm else []
    edits = {hook: node(hook) for hook in nodes(here, stack)}
    at_end = receiver.hook.endswith(f".{OUTPUT}")
    if at_end:
        hooks.append((output(here, stack), lambda m, args, out: taken.append(whole(out).clone())))
    else:
        edits[receiver.hook] = lambda x: taken.append(x.clone()) or x
    run(here, pair, edits, hooks)
    if at_end:
        handed_on = taken[0]
        hand_on = lambda m, args, out: (handed_on, *out[1:]) if isinstance(out, tuple) else handed_on  # noqa: E731
        return run(here, pair, {}, [(output(here, stack), hand_on)])
    where = (slice(None), slice(None), slice(None) if receiver.head is None else receiver.head)[: taken[0].ndim]

    def put(x):
        x[where] = taken[0][where]
        return x

    return run(here, pair, {receiver.hook: put})


def ours(here: Bench, paths: Sequence[tuple[int, list[HookEdit], Receiver]]) -> torch.Tensor:
    pairs, senders, ends = zip(*paths, strict=True)
    with torch.no_grad():
        taken = received(here.run, pairs, senders, ends)
    return here.wave([Row(pair, (patch,)) for pair, patch in zip(pairs, taken, strict=True)])[N_PAIRS:]


@pytest.mark.parametrize(("corruption", "denoise", "freeze"), WAYS)
@pytest.mark.parametrize("model", MODELS)
def test_every_path_equals_its_definition(model, corruption, denoise, freeze):
    here = bench(model, corruption, denoise)
    paths = sample(here, seed=len(model) + 2 * denoise + 4 * freeze[0], freeze=freeze)
    assert here.recorded
    found = ours(here, paths)
    moved = 0
    for (pair, senders, receiver), logits in zip(paths, found, strict=True):
        expected = literal(here, pair, senders, receiver)
        assert here.distance(pair, logits, expected) <= FLOAT64, (senders, receiver)
        moved += here.distance(pair, logits, here.recorded["self"][pair][0]) > 1e-4
    assert moved >= len(paths) / 4


@pytest.mark.parametrize("model", ["vqa, one token", "match"])
def test_paths_in_float32(model):
    here = Bench(model, "image", True, torch.float32)
    paths = sample(here, seed=3, freeze=(False, True))
    for (pair, senders, receiver), logits in zip(paths, ours(here, paths), strict=True):
        assert here.distance(pair, logits, literal(here, pair, senders, receiver)) <= FLOAT32, (senders, receiver)


@pytest.mark.parametrize("mutant", ["position", "layer", "head"])
def test_a_path_from_next_door_is_another_one(mutant):
    here = bench("vqa, one token", "image", True)
    right = HookEdit("text.blocks.0.cross_attn.hook_z", np.array([2]), "other", 0)
    wrong = replace(
        right,
        positions=np.array([3]) if mutant == "position" else right.positions,
        hook=right.hook.replace("0", "1") if mutant == "layer" else right.hook,
        head=1 if mutant == "head" else 0,
    )
    receiver = Receiver("text.output")
    (logits,) = ours(here, [(0, [wrong], receiver)])
    assert here.distance(0, logits, literal(here, 0, [right], receiver)) > 1e-3


@CORRUPTIONS
@pytest.mark.parametrize("model", MODELS)
def test_all_senders_together_give_the_other_runs_input(model, corruption):
    """What all nodes before a receiver write is all that it takes in."""
    here = bench(model, corruption, True)
    for stack in here.stacks:
        for pair in range(N_PAIRS):
            positions = np.arange(here.length(stack, pair))
            everyone = _Sender.of(pair, [HookEdit(hook, positions, "other") for hook in nodes(here, stack)])
            with torch.no_grad():
                walked = dict(Walk(here.run, stack, [everyone], False, False).streams())
                frozen = dict(Walk(here.run, stack, [everyone]).streams())
            other = here.traces["other"]
            for (layer, module), stream in frozen.items():
                torch.testing.assert_close(walked[layer, module], stream, rtol=0, atol=1e-10)
                if layer == END:
                    expected = other.states[stack][pair, positions]
                elif module == "attn":
                    resid = other.activations[f"{stack}.blocks.{layer}.hook_resid_pre"][pair, positions]
                    expected = here.model.stack(stack).blocks[layer].ln1(resid) if stack == "vision" else resid
                else:
                    hook, project = _projection(here, stack, layer, module)
                    expected, stream = other.activations[hook][pair, positions], project(stream)
                torch.testing.assert_close(stream, expected, rtol=0, atol=1e-10)


def _projection(here: Bench, stack: str, layer: int, module: str):
    """The first thing that is computed from what a module reads."""
    block = here.model.stack(stack).blocks[layer]
    if module == "mlp":
        return f"{stack}.blocks.{layer}.mlp.hook_pre", block.mlp.input
    attn = block.cross_attn
    return f"{stack}.blocks.{layer}.cross_attn.hook_q", lambda x: attn.query(x).unflatten(-1, (attn.n_heads, -1))


def test_layer_norms_of_one_scale_make_direct_effects_add_up():
    """With LayerNorms that divide by a constant, the stream is a sum of what all blocks add, up to its end."""
    here = Bench("vqa, one token", "image", True)
    here.model = copy.deepcopy(here.model)  # other tests have the same model

    class Constant(LayerNorm):
        def forward(self, x):
            return (x - x.mean(-1, keepdim=True)) / 2 * self.weight + self.bias

    for module in here.model.modules():
        if isinstance(module, LayerNorm):
            module.__class__ = Constant
    positions = np.arange(here.length("text", 0))
    with torch.no_grad():
        senders = [_Sender.of(0, [HookEdit(hook, positions, "other")]) for hook in nodes(here, "text")]
        (stream,) = [x for (layer, _), x in Walk(here.run, "text", senders).streams() if layer == END]
        base, other = (here.traces[run].states["text"][0, positions] for run in ("self", "other"))
        # The read-out is linear: one weight for each dimension.
        weights = torch.linspace(-1, 1, base.shape[-1], dtype=base.dtype)
        direct = sum(((stream[sender.lines] - base) @ weights) for sender in senders)
        total = (other - base) @ weights
    torch.testing.assert_close(direct, total, rtol=0, atol=1e-10)
    assert total.abs().max() > 1e-2
