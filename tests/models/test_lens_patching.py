"""TransformerLens's own patching, unmodified, on the lenses, against PyTorch hooks on the Hugging Face model.

Left out, with the reason:

- `get_act_patch_attn_head_{k,v}_*` on the query view of a cross-attention lens: keys and values have the source's
  positions; they run on the source view (tested here).
- `get_act_patch_attn_head_pattern_dest_src_pos` on a cross-attention lens: the helper walks the source along
  `tokens.shape[-1]`, so it covers only the first few of the source's positions; it runs on the self-attention lenses.
- the `*_every` helpers on a cross-attention lens: they include keys and values; they run on the self-attention lenses.
- `get_act_patch_direct_path` on post-LayerNorm stacks: refused by `set_use_split_qkv_input`.
"""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from transformer_lens import patching

from conftest import Pair, as_tuple, make_small_pair

STREAMS = ("resid_pre", "resid_mid", "attn_out", "mlp_out")
HEADS = {
    "attn_head_out_by_pos": "z",
    "attn_head_out_all_pos": "z",
    "attn_head_q_by_pos": "q",
    "attn_head_q_all_pos": "q",
    "attn_head_pattern_by_pos": "pattern",
    "attn_head_pattern_all_pos": "pattern",
}
KEYS = {
    "attn_head_k_by_pos": "k",
    "attn_head_k_all_pos": "k",
    "attn_head_v_by_pos": "v",
    "attn_head_v_all_pos": "v",
}
N_CELLS = 8


@pytest.fixture(scope="module")
def small() -> Pair:
    return make_small_pair()


def full_name(lens: str, activation: str, layer: int) -> str:
    """The full hook of TransformerLens's short name, written out by hand."""
    stack, attn = lens.split(".")
    cross = attn == "cross_attn"
    leaf = {
        "resid_pre": "hook_resid_pre",
        "resid_mid": "hook_resid_mid_cross" if cross else "hook_resid_mid",
        "attn_out": "hook_cross_attn_out" if cross else "hook_attn_out",
        "mlp_out": "hook_mlp_out",
    }.get(activation, f"{attn}.hook_{activation}")
    return f"{stack}.blocks.{layer}.{leaf}"


def corrupt(inputs, corruption: str, pair: Pair):
    other = pair.inputs(batch=2, length=6, answer_length=2, seed=1)
    if corruption == "image":
        return replace(inputs, pixel_values=other.pixel_values)
    ids = inputs.input_ids.clone()
    ids[:, 2:4] = other.input_ids[:, 2:4]
    return replace(inputs, input_ids=ids)


def logit_difference(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, -1, 7] - logits[:, -1, 11]


class Case:
    """A clean and a corrupted run of a model, on a lens and by the oracle."""

    def __init__(self, pair: Pair, lens: str, corruption: str, axis: str = "query"):
        self.pair, self.lens_name = pair, lens
        self.clean_inputs = pair.inputs(batch=2, length=6, answer_length=2)
        self.corrupt_inputs = corrupt(self.clean_inputs, corruption, pair)
        clean = pair.model.lens(lens, self.clean_inputs, axis)
        self.lens = pair.model.lens(lens, self.corrupt_inputs, axis)
        with torch.no_grad():
            logits, self.cache = clean.run_with_cache(clean.tokens)
            self.gap = logit_difference(logits) - logit_difference(self.lens(self.lens.tokens))

    def sweep(self, name: str, **options) -> patching.PatchingResult:
        with torch.no_grad():
            return getattr(patching, f"get_act_patch_{name}")(
                self.lens, self.lens.tokens, self.cache, logit_difference, reduce="none", baseline=True, **options
            )

    def oracle(self, activation: str, index: list[int], row_of) -> torch.Tensor:
        """One cell by the oracle; `row_of` picks what the index means in a [batch, ...] activation."""
        name = full_name(self.lens_name, activation, index[0])
        _, clean = self.pair.oracle.record(as_tuple(self.clean_inputs), [name])

        def patch(activation: torch.Tensor) -> torch.Tensor:
            patched = activation.clone()
            where = (slice(None), *row_of(index[1:]))
            patched[where] = clean[name][where]
            return patched

        return logit_difference(self.pair.oracle.run(as_tuple(self.corrupt_inputs), {name: patch}))

    def check(self, name: str, activation: str, row_of) -> None:
        result = self.sweep(name)
        cells = result.index_df.sample(min(N_CELLS, len(result.index_df)), random_state=0)
        for index in cells.to_numpy().tolist():
            expected = self.oracle(activation, index, row_of)
            error = (result.values[tuple(index)] - expected).abs() / self.gap.abs()
            assert error.max() <= 1e-5, f"{name} at {index}: off by {error.max():.1e} of the gap"
        baseline = logit_difference(self.pair.oracle.logits(*as_tuple(self.corrupt_inputs)))
        assert torch.allclose(result.baseline.double(), baseline, rtol=1e-5)


def rows_of(name: str):
    """Where an index is in a [batch, ...] activation: as it is, but for a head of [batch, pos, head] everywhere."""
    if name.endswith("all_pos") and "pattern" not in name:
        return lambda index: (slice(None), *index)
    return lambda index: index


@pytest.mark.parametrize(
    ("lens", "corruption"),
    [
        ("text.cross_attn", "image"), ("text.attn", "text"), ("vision.attn", "image"), ("decoder.cross_attn", "text"),
        ("decoder.attn", "image"),
        *(
            pytest.param(*other, marks=pytest.mark.large)
            for other in (("text.cross_attn", "text"), ("text.attn", "image"), ("vision.attn", "text"),
                          ("decoder.cross_attn", "image"), ("decoder.attn", "text"))
        ),
    ],
)  # fmt: skip
def test_every_helper_equals_the_oracle(small, lens, corruption):
    case = Case(small, lens, corruption)
    for activation in STREAMS:
        case.check(activation, activation, rows_of(activation))
    for name, activation in HEADS.items():
        case.check(name, activation, rows_of(name))
    if lens.endswith(".attn"):
        for name, activation in KEYS.items():
            case.check(name, activation, rows_of(name))


@pytest.mark.parametrize("corruption", ["image", "text"])
@pytest.mark.parametrize("lens", ["text.cross_attn", "decoder.cross_attn"])
def test_keys_and_values_on_the_axis_where_they_live(small, lens, corruption):
    case = Case(small, lens, corruption, axis="source")
    assert case.lens.tokens.shape == ((2, 5) if lens == "text.cross_attn" else (2, 6))
    for name, activation in KEYS.items():
        case.check(name, activation, rows_of(name))


@pytest.mark.parametrize("lens", ["text.attn", "vision.attn"])
def test_single_entries_of_a_self_attention_pattern(small, lens):
    case = Case(small, lens, "image")
    entries = pd.DataFrame(
        [[1, 2, 0, 3], [0, 1, 4, 4], [0, 0, 3, 2]], columns=["layer", "head_index", "dest_pos", "src_pos"]
    )
    with torch.no_grad():
        result = patching.generic_activation_patch(
            case.lens,
            case.lens.tokens,
            case.cache,
            logit_difference,
            patching.layer_head_dest_src_pos_pattern_patch_setter,
            "pattern",
            index_df=entries,
            reduce="none",
        )
    for value, index in zip(result.values, entries.to_numpy().tolist(), strict=True):
        expected = case.oracle("pattern", index, lambda rest: rest)
        assert ((value - expected) / case.gap).abs().max() <= 1e-5


def test_the_helpers_for_every_activation_at_once(small):
    case = Case(small, "text.attn", "image")
    every = case.sweep("attn_head_all_pos_every")
    assert every.patch_type_names == ["out", "q", "k", "v", "pattern"]
    assert torch.equal(every.values[2], case.sweep("attn_head_k_all_pos").values)
    blocks = case.sweep("block_every")
    assert torch.equal(blocks.values[1], case.sweep("attn_out").values)


def test_a_scalar_sweep_is_the_mean_of_the_examples(small):
    case = Case(small, "text.cross_attn", "image")
    with torch.no_grad():
        plain = patching.get_act_patch_attn_head_out_all_pos(
            case.lens, case.lens.tokens, case.cache, lambda logits: logit_difference(logits).mean()
        )
    assert plain.shape == (2, 3)
    assert torch.allclose(plain, case.sweep("attn_head_out_all_pos").mean(), atol=1e-6)


def test_the_neighbouring_token_layer_or_head_would_be_noticed(small):
    """The comparison above is worth something: the cell next door is another number."""
    case = Case(small, "text.cross_attn", "image")
    here = case.oracle("z", [0, 2, 1], lambda rest: rest)
    for other in ([0, 3, 1], [1, 2, 1], [0, 2, 2]):
        there = case.oracle("z", other, lambda rest: rest)
        assert ((here - there) / case.gap).abs().max() > 1e-4, other


@pytest.mark.parametrize(
    ("lens", "axis", "name"),
    [
        ("text.cross_attn", "source", "attn_head_k_by_pos"),
        ("decoder.cross_attn", "source", "attn_head_v_all_pos"),
        ("text.cross_attn", "query", "attn_head_out_by_pos"),
    ],
)
def test_a_cell_does_not_depend_on_the_cell_before_it(small, lens, axis, name):
    case = Case(small, lens, "image", axis)
    source = [(keys.clone(), values.clone()) for keys, values in case.lens.source]
    forwards = case.sweep(name)
    order = forwards.index_df.iloc[::-1].reset_index(drop=True)
    sweep = getattr(patching, f"get_act_patch_{name}")
    with torch.no_grad():
        backwards = patching.generic_activation_patch(
            case.lens,
            case.lens.tokens,
            case.cache,
            logit_difference,
            sweep.keywords["patch_setter"],
            sweep.keywords["activation_name"],
            index_df=order,
            reduce="none",
        )
    assert torch.equal(backwards.values.flip(0).reshape(forwards.values.shape), forwards.values)
    for (keys, values), (keys_now, values_now) in zip(source, case.lens.source, strict=True):
        assert torch.equal(keys, keys_now)
        assert torch.equal(values, values_now)


def test_hook_points_keep_their_names(small):
    names = {name: point.name for name, point in small.model.hook_dict.items()}
    case = Case(small, "text.cross_attn", "image")
    case.sweep("attn_head_out_all_pos")
    assert {name: point.name for name, point in small.model.hook_dict.items()} == names
    assert names == {name: name for name in names}
    assert not small.model.list_hooks()


@pytest.mark.parametrize("component", ["q", "k", "v"])
def test_the_direct_path_helper_on_the_vision_stack(small, component):
    """One vision head into the input of a later one, against a hand-made edge on the Hugging Face model."""
    case = Case(small, "vision.attn", "image")
    with torch.no_grad():
        _, corrupted = case.lens.run_with_cache(case.lens.tokens)
        results = patching.get_act_patch_direct_path(
            case.lens,
            case.lens.tokens,
            case.cache,
            corrupted,
            lambda logits: logit_difference(logits).mean(),
            src_layer=0,
            src_head=2,
            component=component,
            verbose=False,
        )
    z = [cache["z", 0][:, :, 2] for cache in (case.cache, corrupted)]
    delta = (z[0] - z[1]) @ case.lens.blocks[0].attn.W_O[2]
    expected = direct_path_by_hand(case, delta, layer=1, head=0, component=component)
    assert abs(results[1, 0] - expected.mean()) / case.gap.abs().mean() <= 1e-5
    assert not case.lens.cfg.use_split_qkv_input
    assert not any(block.attn.use_split_qkv_input for block in small.model.vision.blocks)


def direct_path_by_hand(case: Case, delta, layer: int, head: int, component: str) -> torch.Tensor:
    block = case.pair.hf.vision_model.encoder.layers[layer]
    streams = []

    def keep_stream(module, args):
        streams.append(args[0])

    def change(module, args, out):
        third = "qkv".index(component)
        moved = module(block.layer_norm1(streams[-1] + delta)).chunk(3, -1)[third]
        thirds = [part.unflatten(-1, (3, 32)).clone() for part in out.chunk(3, -1)]
        thirds[third][:, :, head] = moved.unflatten(-1, (3, 32))[:, :, head]
        return torch.cat([part.flatten(-2) for part in thirds], -1)

    first = block.register_forward_pre_hook(keep_stream)
    # The hook calls the projection again; it must not fire for that call.
    handles = [block.self_attn.qkv.register_forward_hook(lambda *args: change_once(*args))]
    busy = []

    def change_once(module, args, out):
        if busy:
            return None
        busy.append(True)
        changed = change(module, args, out)
        busy.clear()
        return changed

    try:
        with torch.no_grad():
            return logit_difference(case.pair.oracle.logits(*as_tuple(case.corrupt_inputs)))
    finally:
        first.remove()
        handles[0].remove()
