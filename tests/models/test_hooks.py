"""Hook points: every one fires, has its shape, is causal; names that do not exist explain themselves."""

import pytest
import torch

from conftest import Pair, make_pair, relative_error
from notice_lens.models.describe import INERT_WITH_ONE_ANSWER_TOKEN
from notice_lens.models.hook_names import HookName
from notice_lens.models.hooks import CopyingHookPoint

SWITCHES = ("use_attn_result", "use_split_qkv_input")


@pytest.fixture(params=["vqa", "caption", "match"])
def with_switches(request):
    pair = make_pair(request.param)
    for switch in SWITCHES:
        getattr(pair.model, f"set_{switch}")(True)
    return pair


def expected_shape(pair: Pair, name: str, batch: int, length: int, answer_length: int) -> tuple[int, ...]:
    """The documented words, as numbers."""
    parsed = HookName.parse(name)
    stack = pair.model.stack(parsed.stack)
    pos = {"vision": 17, "text": length, "decoder": length if pair.kind == "caption" else answer_length}[parsed.stack]
    key_pos, d_source = pos, stack.cfg.d_model
    if ".cross_attn." in name:
        key_pos = 17 if parsed.stack == "text" or pair.kind == "caption" else length
        d_source = stack.cfg.d_source
    sizes = {"batch": batch, "pos": pos, "query_pos": pos, "key_pos": key_pos, "head": stack.cfg.n_heads, "1": 1}
    sizes |= {"d_model": 96, "d_head": 16, "d_mlp": 192, "d_source": d_source}
    shape = [sizes[word] for word in pair.model.hook_dict[name].shape.split()]
    if parsed.stack == "vision" and parsed.leaf.startswith("ln1.") and stack.blocks[0].attn.use_split_qkv_input:
        shape.insert(2, stack.cfg.n_heads)
    return tuple(shape)


def answer_length(pair: Pair, n: int) -> int | None:
    return n if pair.kind == "vqa" else None


def test_every_hook_point_fires_with_its_documented_shape(with_switches):
    pair = with_switches
    inputs = pair.inputs(batch=2, length=8, answer_length=answer_length(pair, 3))
    with torch.no_grad():
        _, cache = pair.model.run_with_cache(inputs)
    assert set(cache.keys()) == set(pair.model.hook_dict)
    shapes = {name: tuple(activation.shape) for name, activation in cache.items()}
    assert shapes == {name: expected_shape(pair, name, 2, 8, 3) for name in shapes}


LARGE = pytest.mark.large


@pytest.mark.parametrize(
    ("with_switches", "answer_tokens"),
    [
        pytest.param("vqa", 1, marks=LARGE),
        ("vqa", 2),
        pytest.param("caption", 1, marks=LARGE),
        pytest.param("match", 1, marks=LARGE),
    ],
    indirect=["with_switches"],
)
def test_every_hook_point_is_causal(with_switches, answer_tokens):
    """A change at a hook point changes the logits and nothing that was computed before."""
    pair = with_switches
    inputs = pair.inputs(answer_length=answer_length(pair, answer_tokens), length=max(answer_tokens, 3))
    logits, order, before = record_in_order(pair, inputs)
    for name in one_layer_each(pair):
        parsed = HookName.parse(name)
        inert = (
            parsed.stack == "decoder"
            and pair.kind == "vqa"
            and answer_tokens == 1
            and parsed.leaf in INERT_WITH_ONE_ANSWER_TOKEN
        )
        changed, _, after = record_in_order(pair, inputs, changing=name)
        if inert:
            assert relative_error(changed, logits) < 1e-5, f"{name} was thought to be inert"
        else:
            assert relative_error(changed, logits) > 1e-4, f"{name} changes nothing"
        earlier = order[: order.index(name)]
        assert all(torch.equal(after[other], before[other]) for other in earlier), f"{name} changes what comes before"


def one_layer_each(pair: Pair) -> list[str]:
    """Every hook point of layer 1, and those of no layer."""
    return [name for name in pair.model.hook_dict if HookName.parse(name).layer in (None, 1)]


def record_in_order(pair: Pair, inputs, changing: str | None = None):
    """The logits, the order in which hook points fired first, and what passed there (before the change).

    Hook points of layer 1 and of no layer: of every kind there is one.
    """
    order: list[str] = []
    found: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(0)

    def record(activation, hook):
        if hook.name not in found:
            order.append(hook.name)
            found[hook.name] = activation.clone()
        if hook.name == changing:
            noise = torch.rand(activation.shape, generator=generator) + 0.5
            # Masked scores are the lowest number there is; they are no measure of size.
            return activation + noise * activation[activation.abs() < 1e9].abs().mean()
        return None

    with torch.no_grad():
        logits = pair.model.run_with_hooks(inputs, fwd_hooks=[(name, record) for name in one_layer_each(pair)])
    return logits, order, found


def test_masked_keys_are_inert(vqa):
    """A key that the mask hides changes nothing, nor does a constant along a row of scores (trap: inert hooks)."""
    inputs = vqa.inputs(length=6)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    padded = {"pixel_values": inputs.pixel_values, "input_ids": inputs.input_ids, "attention_mask": mask}

    def change_masked(activation, hook):
        activation[:, 4:] += 10
        return activation

    name = "decoder.blocks.1.cross_attn.hook_k"
    with torch.no_grad():
        logits = vqa.model(padded)
        changed = vqa.model.run_with_hooks(padded, fwd_hooks=[(name, change_masked)])
        shifted = vqa.model.run_with_hooks(
            padded, fwd_hooks=[("text.blocks.1.cross_attn.hook_attn_scores", lambda scores, hook: scores + 3)]
        )
    assert relative_error(changed, logits) < 1e-6
    assert relative_error(shifted, logits) < 1e-5


def test_layer_of_a_hook_point(vqa):
    assert vqa.model.hook_dict["text.blocks.3.cross_attn.hook_z"].layer() == 3
    with pytest.raises(ValueError, match=r"'vision.hook_embed' belongs to no layer"):
        vqa.model.hook_dict["vision.hook_embed"].layer()


def test_a_setter_in_place_changes_nothing_else(vqa):
    """Two hooks at one point: what the first has kept is not what the second writes on, and nor is the stream."""
    kept = []

    def keep(activation, hook):
        kept.append(activation)

    def zero_in_place(activation, hook):
        activation[:] = 0

    name = "text.blocks.1.hook_resid_mid_cross"
    with torch.no_grad():
        logits = vqa.model(vqa.inputs())
        changed = vqa.model.run_with_hooks(vqa.inputs(), fwd_hooks=[(name, keep), (name, zero_in_place)])
        again = vqa.model(vqa.inputs())
    assert kept[0].abs().max() > 0
    assert kept[0].is_contiguous()
    assert relative_error(changed, logits) > 1e-3, "a setter that writes in place and returns nothing has its effect"
    assert torch.equal(again, logits)


def test_a_captured_embedding_is_not_corrupted_later(vqa):
    """Hugging Face adds positions to the word embedding in place."""
    inputs = vqa.inputs()
    _, cache = vqa.model.run_with_cache(inputs, names_filter="text.hook_embed")
    assert torch.equal(cache["text.hook_embed"], vqa.hf.text_encoder.embeddings.word_embeddings(inputs.input_ids))


def test_hooks_do_not_survive_an_exception_and_the_callers_stay(vqa):
    model = vqa.model
    mine = []
    model.add_hook("text.hook_embed", lambda activation, hook: mine.append(hook.name))

    def broken(activation, hook):
        raise RuntimeError("broken hook")

    with pytest.raises(RuntimeError, match="broken hook"):
        model.run_with_hooks(vqa.inputs(), fwd_hooks=[("text.blocks.0.hook_attn_out", broken)])
    assert list(model.list_hooks()) == ["text.hook_embed"]
    with model.hooks(fwd_hooks=[("text.hook_pos_embed", lambda activation, hook: None)]):
        lens = model.lens("text.cross_attn", vqa.inputs())
        lens.run_with_hooks(lens.tokens, fwd_hooks=[("blocks.0.attn.hook_z", lambda activation, hook: None)])
        assert list(model.list_hooks()) == ["text.hook_embed", "text.hook_pos_embed"]
    assert list(model.list_hooks()) == ["text.hook_embed"]
    assert mine
    model.reset_hooks()
    assert not model.list_hooks()


def test_nothing_is_attached_where_one_name_is_wrong(vqa):
    nothing = lambda activation, hook: None  # noqa: E731
    with pytest.raises(KeyError, match="no hook point"):
        vqa.model.run_with_hooks(vqa.inputs(), fwd_hooks=[("text.hook_embed", nothing), ("text.hook_embd", nothing)])
    assert not vqa.model.list_hooks()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text.blocks.3.cross_atn.hook_z", r"nearest: text.blocks.3.cross_attn.hook_z"),
        ("text.blocks.4.attn.hook_z", r"layer 4 asked for; `text` has layers 0 to 3"),
        ("blocks.1.attn.hook_z", r"names start with a stack; nearest: vision.blocks.1.attn.hook_z, text.blocks"),
        ("nonsense", r"no hook point 'nonsense'; for example vision.hook_embed"),
        ("", r"no hook point ''"),
    ],
)
def test_an_unknown_name_explains_itself(vqa, name, message):
    nothing = lambda activation, hook: None  # noqa: E731
    for run in (
        lambda: vqa.model.run_with_hooks(vqa.inputs(), fwd_hooks=[(name, nothing)]),
        lambda: vqa.model.run_with_cache(vqa.inputs(), names_filter=name),
        lambda: vqa.model.run_with_cache(vqa.inputs(), names_filter=["text.hook_embed", name]),
        lambda: vqa.model.add_hook(name, nothing),
        lambda: vqa.model.add_caching_hooks(name),
    ):
        with pytest.raises(KeyError, match=message):
            run()
    assert not vqa.model.list_hooks()


def test_a_stack_that_is_not_there_explains_itself(caption):
    with pytest.raises(KeyError, match="this model has the stacks `vision`, `decoder`; nearest: decoder.blocks.0"):
        caption.model.run_with_cache(caption.inputs(), names_filter="text.blocks.0.attn.hook_z")
    with pytest.raises(KeyError, match="no stack 'text': a model of kind 'caption' has vision, decoder"):
        caption.model.stack("text")


def test_a_predicate_that_matches_nothing_raises(vqa):
    with pytest.raises(KeyError, match="matches none of the .* hook points, which are called vision.hook_embed"):
        vqa.model.run_with_cache(vqa.inputs(), names_filter=lambda name: "hook_zz" in name)


def test_an_empty_filter_raises(vqa):
    with pytest.raises(KeyError, match="matches none of the"):
        vqa.model.run_with_cache(vqa.inputs(), names_filter=[])
    with pytest.raises(KeyError, match="no hook point 'nonsense'"):
        vqa.model.list_hooks("nonsense")


def test_gradients_into_a_cache_are_refused(vqa):
    with pytest.raises(ValueError, match=r"incl_bwd needs a scalar output, .*: attach hooks\(bwd_hooks=...\)"):
        vqa.model.run_with_cache(vqa.inputs(), incl_bwd=True)


def test_a_hook_that_is_switched_off_says_how_to_switch_it_on(vqa):
    with pytest.raises(ValueError, match=r"fires only with use_attn_result: call set_use_attn_result\(True\) first"):
        vqa.model.run_with_cache(vqa.inputs(), names_filter="text.blocks.0.attn.hook_result")
    with pytest.raises(ValueError, match="fires only with use_split_qkv_input"):
        vqa.model.run_with_cache(vqa.inputs(), names_filter=lambda name: name.endswith("hook_q_input"))
    _, cache = vqa.model.run_with_cache(vqa.inputs(), names_filter=lambda name: "text.blocks.0.attn" in name)
    assert "text.blocks.0.attn.hook_z" in cache
    assert "text.blocks.0.attn.hook_result" not in cache


def test_gradients_reach_backward_hooks(vqa):
    gradients = {}

    def keep(gradient, hook):
        gradients[hook.name] = gradient

    name = "vision.blocks.0.attn.hook_z"
    with vqa.model.hooks(bwd_hooks=[(name, keep)]):
        vqa.model(vqa.inputs())[0, 0, 7].backward()
    vqa.model.zero_grad()
    assert gradients[name].shape == (1, 17, 6, 16)
    assert gradients[name].abs().max() > 0
    assert not vqa.model.list_hooks()


def test_hook_names_are_unique_and_every_point_has_words(pair):
    points = list(pair.model.hook_dict.values())
    assert len({id(point) for point in points}) == len(points)
    assert all(isinstance(point, CopyingHookPoint) and point.shape for point in points)
    assert all(point.name == name for name, point in pair.model.hook_dict.items())
