"""Path patching equals its definition, carried out literally: PyTorch hooks on the Hugging Face model, a path at a time.

Run 3 freezes each head and MLP of the sender's stack by hand, and reads the receiver; run 4 is a forward of its own.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch

from notice_lens.models.layer_norm import LayerNorm
from notice_lens.patching.paths import Receiver, Walk, _Sender, received
from notice_lens.patching.plan import END, OUTPUT, Patch
from wave_bench import MODELS, N_PAIRS, Bench, Row, some

DIRECTIONS = pytest.mark.parametrize("denoise", [True, False], ids=["denoise", "noise"])
CORRUPTIONS = pytest.mark.parametrize("corruption", ["image", "text"])
FREEZE = pytest.mark.parametrize(
    "freeze", [(False, True), (True, True), (False, False)], ids=["", "layernorm", "no mlp"]
)
FLOAT64, FLOAT32 = 1e-9, 1e-4
bench = cache(Bench)


def nodes(here: Bench, stack: str) -> list[str]:
    """Every head module, MLP and embedding of a stack, in the order of the forward pass."""
    modules = (
        ["attn.hook_z", "hook_mlp_out"] if stack == "vision" else ["attn.hook_z", "cross_attn.hook_z", "hook_mlp_out"]
    )
    layers = range(here.n_layers(stack))
    return [f"{stack}.hook_embed", *(f"{stack}.blocks.{layer}.{leaf}" for layer in layers for leaf in modules)]


def receivers(here: Bench, stack: str) -> list[tuple[int, str]]:
    """Everything that may end a path of a stack, with how many of its nodes come before."""
    modules = ["attn", "mlp"] if stack == "vision" else ["attn", "cross_attn", "mlp"]
    found = []
    for layer in range(here.n_layers(stack)):
        for number, module in enumerate(modules):
            own = {"attn": "qkv", "cross_attn": "q", "mlp": ["pre"]}[module]
            before = 1 + layer * len(modules) + number
            found += [(before, f"{stack}.blocks.{layer}.{module}.hook_{leaf}") for leaf in own]
    everything = 1 + here.n_layers(stack) * len(modules)
    following = here.stacks[here.stacks.index(stack) + 1 :][:1]
    across = [
        f"{one}.blocks.{layer}.cross_attn.hook_{leaf}"
        for one in following
        for layer in (0, here.n_layers(one) - 1)
        for leaf in "kv"
    ]
    return found + [(everything, name) for name in (f"{stack}.output", *across)]


def stretch(g: np.random.Generator, here: Bench, hook: str, pair: int, source: str, positions: np.ndarray) -> Patch:
    head = (
        int(g.integers(here.n_heads(hook.partition(".")[0]))) if hook.endswith("hook_z") and g.random() < 0.8 else None
    )
    return Patch(hook, positions, source, head)


def sample(here: Bench, seed: int, freeze: tuple[bool, bool]) -> list[tuple[int, list[Patch], Receiver]]:
    """One path to each receiver of each stack, of one sender or of three."""
    g = np.random.default_rng(seed)
    found = []
    for stack in here.stacks:
        for before, hook in receivers(here, stack):
            pair, source = int(g.integers(N_PAIRS)), str(g.choice(["other", "donor"]))
            several = nodes(here, stack)[:before]
            chosen = g.choice(several, size=min(len(several), int(g.choice([1, 1, 3]))), replace=False)
            positions = np.sort(some(g, here.length(stack, pair)))
            senders = [stretch(g, here, str(name), pair, source, positions) for name in chosen]
            end = hook.partition(".")[0]
            head = (
                int(g.integers(here.n_heads(end))) if hook.endswith(("_q", "_k", "_v")) and g.random() < 0.7 else None
            )
            found.append((pair, senders, Receiver(hook, head, *freeze)))
    return found


# The definition, literally


def norms(here: Bench, stack: str) -> list:
    """Hugging Face's LayerNorms of a stack, but that of the embedding."""
    modules = here.pair.hf.vision_model if stack == "vision" else here.pair.oracle.layers(stack)
    return [module for module in modules.modules() if isinstance(module, torch.nn.LayerNorm)] + (
        []
        if stack == "vision"
        else [(here.pair.hf.text_encoder if stack == "text" else here.pair.hf.text_decoder.bert).embeddings.LayerNorm]
    )


def output(here: Bench, stack: str):
    """The module whose output a stack hands on."""
    return here.pair.hf.vision_model.post_layernorm if stack == "vision" else here.pair.oracle.layers(stack)[-1]


def literal(here: Bench, pair: int, senders: Sequence[Patch], receiver: Receiver) -> torch.Tensor:
    """The logits of run 4 of one path."""
    stack = senders[0].hook.partition(".")[0]
    base = here.recorded["self"][pair][1]
    inputs = here.as_tuple("self", pair)
    taken: list[torch.Tensor] = []

    def sent(hook):
        def edit(x):
            x = x if hook.endswith("hook_embed") or ("mlp" in hook and not receiver.freeze_mlp) else base[hook].clone()
            for patch in (patch for patch in senders if patch.hook == hook):
                where = (0, patch.positions) if patch.head is None else (0, patch.positions, patch.head)
                x[where] = here.value(patch.source, hook, pair, x.shape)[where]
            return x

        return edit

    def keep(module, args, out):
        value = out[0] if isinstance(out, tuple) else out
        if value.ndim == 3:
            taken.append(value.clone())

    scales: dict[int, torch.Tensor] = {}
    handles = []
    if receiver.freeze_layernorm:
        for module in norms(here, stack):
            handles.append(
                module.register_forward_hook(
                    lambda m, args, out: (
                        scales.update({id(m): (args[0].var(-1, correction=0, keepdim=True) + m.eps).sqrt()})
                        if args[0].ndim == 3
                        else None
                    )
                )
            )
        here.pair.oracle.run(inputs, {})
        [handle.remove() for handle in handles]
        handles = [
            module.register_forward_hook(
                lambda m, args, out: (
                    (args[0] - args[0].mean(-1, keepdim=True)) / scales[id(m)] * m.weight + m.bias
                    if args[0].ndim == 3
                    else out
                )
            )
            for module in norms(here, stack)
        ]
    edits = {
        hook: sent(hook)
        for hook in nodes(here, stack)
        if not hook.endswith("hook_embed") or any(patch.hook == hook for patch in senders)
    }
    if receiver.hook.endswith(f".{OUTPUT}"):
        handles.append(output(here, stack).register_forward_hook(keep))
    else:
        edits[receiver.hook] = lambda x: (taken.append(x.clone()), x)[1]
    here.pair.oracle.run(inputs, edits)
    [handle.remove() for handle in handles]
    changed, where = (
        taken[0],
        (slice(None), slice(None)) if receiver.head is None else (slice(None), slice(None), receiver.head),
    )

    def put(x):
        x[where] = changed[where]
        return x

    if not receiver.hook.endswith(f".{OUTPUT}"):
        return here.pair.oracle.run(inputs, {receiver.hook: put})

    def hand_on(module, args, out):
        if isinstance(out, tuple):
            return (changed, *out[1:])
        return changed if out.ndim == 3 else out

    handle = output(here, stack).register_forward_hook(hand_on)
    try:
        return here.pair.oracle.run(inputs, {})
    finally:
        handle.remove()


def ours(here: Bench, paths: Sequence[tuple[int, list[Patch], Receiver]]) -> torch.Tensor:
    pairs, senders, ends = zip(*paths, strict=True)
    with torch.no_grad():
        taken = received(here.run, pairs, senders, ends)
    return here.wave([Row(pair, (patch,)) for pair, patch in zip(pairs, taken, strict=True)])[N_PAIRS:]


@DIRECTIONS
@CORRUPTIONS
@FREEZE
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
    right = Patch("text.blocks.0.cross_attn.hook_z", np.array([2]), "other", 0)
    wrong = right._replace(
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
            everyone = _Sender.of(pair, [Patch(hook, positions, "other") for hook in nodes(here, stack)])
            with torch.no_grad():
                walked = dict(Walk(here.run, stack, [everyone], False, False).streams())
                frozen = dict(Walk(here.run, stack, [everyone]).streams())
            name = {"attn": "hook_resid_pre", "cross_attn": None, "mlp": "hook_resid_mid_cross", OUTPUT: None}
            other = here.traces["other"]
            for (layer, module), stream in frozen.items():
                torch.testing.assert_close(walked[layer, module], stream, rtol=0, atol=1e-10)
                if layer == END:
                    expected = other.states[stack][pair, positions]
                elif module == "attn":
                    resid = other.activations[f"{stack}.blocks.{layer}.{name[module]}"][pair, positions]
                    expected = here.blip.stack(stack).blocks[layer].ln1(resid) if stack == "vision" else resid
                else:
                    hook, project = _projection(here, stack, layer, module)
                    expected, stream = other.activations[hook][pair, positions], project(stream)
                torch.testing.assert_close(stream, expected, rtol=0, atol=1e-10)


def _projection(here: Bench, stack: str, layer: int, module: str):
    """The first thing that is computed from what a module reads."""
    block = here.blip.stack(stack).blocks[layer]
    if module == "mlp":
        return f"{stack}.blocks.{layer}.mlp.hook_pre", block.mlp.input
    attn = block.cross_attn
    return f"{stack}.blocks.{layer}.cross_attn.hook_q", lambda x: attn.query(x).unflatten(-1, (attn.n_heads, -1))


def test_layer_norms_of_one_scale_make_direct_effects_add_up():
    """With LayerNorms that divide by a constant, the stream is a sum, and so is what it hands on."""
    here = Bench("vqa, one token", "image", True)

    class Constant(LayerNorm):
        def forward(self, x):
            return (x - x.mean(-1, keepdim=True)) / 2 * self.weight + self.bias

    for module in here.blip.modules():
        if isinstance(module, LayerNorm):
            module.__class__ = Constant
    positions = np.arange(here.length("text", 0))
    with torch.no_grad():
        senders = [_Sender.of(0, [Patch(hook, positions, "other")]) for hook in nodes(here, "text")]
        (stream,) = [x for (layer, _), x in Walk(here.run, "text", senders).streams() if layer == END]
        base, other = (here.traces[run].states["text"][0, positions] for run in ("self", "other"))
        # The read-out is linear: one weight for each dimension.
        weights = torch.linspace(-1, 1, base.shape[-1], dtype=base.dtype)
        direct = sum(((stream[sender.lines] - base) @ weights) for sender in senders)
        total = (other - base) @ weights
    torch.testing.assert_close(direct, total, rtol=0, atol=1e-10)
    assert total.abs().max() > 1e-2
