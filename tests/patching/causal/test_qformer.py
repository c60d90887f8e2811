"""Patches in a Q-Former, against torch's own hooks on Hugging Face's modules; what it reads, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import tiny_vlms
from causal.test_pairs import Oracle
from hosted_pairs import made_pairs, single_tokens
from hosted_vlms import tiny_model
from notice_lens import HookedVLM, patching
from notice_lens.pairs import MinimalPairs

FAMILIES = ("blip-2", "instructblip")
RUNS = [(family, "image") for family in FAMILIES] + [("instructblip", "text")]
"""A model and what differs between its runs: BLIP-2's Q-Former reads no words."""
NAMES = {"q": "query", "k": "key", "v": "value"}
WIDTH = 8
"""Of a head."""


class At(NamedTuple):
    """A module, and which side of it an activation is on."""

    module: nn.Module
    side: str = "out"


def block(hf: Any, layer: int) -> Any:
    return hf.qformer.encoder.layer[layer]


def place(hf: Any, site: str, layer: int) -> At | None:
    """Where an activation of the Q-Former is; None in layers without it."""
    own, module = block(hf, layer), site.partition(".")[0]
    wrapper = {"attn": own.attention, "cross_attn": getattr(own, "crossattention", None)}.get(module)
    if wrapper is not None:
        leaf = site.partition(".")[2]
        return At(wrapper.output.dense, "in") if leaf == "z" else At(getattr(wrapper.attention, NAMES[leaf]))
    if module == "cross_attn" or (site in ("cross_attn_out", "resid_mid_cross") and layer % 2):
        return None
    return {
        "attn_out": lambda: At(own.attention.output.dense),
        "cross_attn_out": lambda: At(own.crossattention.output.dense),
        "mlp_out": lambda: At(own.output_query.dense),
        "mlp.pre": lambda: At(own.intermediate_query.dense),
        "mlp.post": lambda: At(own.output_query.dense, "in"),
        "resid_pre": lambda: At(own, "in"),
        "resid_mid": lambda: At(own.attention.output.LayerNorm, "in"),
        "resid_mid_cross": lambda: At(own.crossattention.output.LayerNorm, "in"),
        "resid_post": lambda: At(own.output_query.LayerNorm, "in"),
        "normalized_resid_post": lambda: At(own),
    }[site]()


@torch.no_grad()
def run(hf: Any, inputs: Any, at: At, change: Callable[[Tensor], Any]) -> Tensor:
    """The last position's logits of a run in which `change` writes on an activation, [pos, width]."""

    def changed(tensor: Tensor) -> Tensor:
        new = tensor.clone()
        change(new[0])
        return new

    handle = (
        at.module.register_forward_pre_hook(lambda _, args: (changed(args[0]), *args[1:]))
        if at.side == "in"
        else at.module.register_forward_hook(lambda _, __, out: changed(out))
    )
    try:
        return hf(**inputs).logits[0, -1]
    finally:
        handle.remove()


def value(hf: Any, inputs: Any, at: At) -> Tensor:
    kept: list[Tensor] = []
    run(hf, inputs, at, lambda own: kept.append(own.clone()))
    return kept[0]


def patched(hf: Any, inputs: Any, at: At, new: Tensor, lines: Any, columns: slice = slice(None)) -> Tensor:
    def change(own: Tensor) -> None:
        own[lines, columns] = new[lines, columns]

    return run(hf, inputs, at, change)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("module", ["attn", "cross_attn"])
@pytest.mark.parametrize(("family", "corruption"), RUNS)
def test_heads_equal_forward_passes(family: str, corruption: Any, module: str, direction: Any) -> None:
    """All queries at once, and some by themselves; a text corruption changes the words that the Q-Former reads."""
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))[:1]
    options: Any = {"corruption": corruption, "direction": direction, "progress": False}
    whole = patching.patch_heads(model, pairs, f"qformer.{module}", **options)
    queries = patching.patch_heads(model, pairs, f"qformer.{module}", positions=[0, 5], **options)
    oracle, hf, n_queries = Oracle(model, pairs[0], corruption), model.hf_model, tiny_vlms.N_QUERIES
    base, other = ("corrupt", "clean") if direction == "denoise" else ("clean", "corrupt")
    before = oracle.logit_diff(base, [], 0.0)
    gap, moved, shifted = abs(oracle.logit_diff(other, [], 0.0) - before), 0.0, 0.0
    assert whole.layer.values.tolist() == ([0, 1, 2] if module == "attn" else [0, 2])
    for which, name in ((other, "logit_diff_change"), ("donor", "logit_diff_change_mismatched")):
        for layer in whole.layer.values.tolist():
            at = place(hf, f"{module}.z", layer)
            assert at is not None
            new = value(hf, oracle.inputs[which], at)
            for head in (0, 1):
                columns = slice(head * WIDTH, (head + 1) * WIDTH)
                for lines, effects in ((slice(0, n_queries), whole), (0, queries), (5, queries)):
                    logits = patched(hf, oracle.inputs[base], at, new, lines, columns)
                    expected = float(oracle.difference(logits)) - before
                    own = effects[name].sel(layer=layer)
                    own = own if isinstance(lines, slice) else own.sel(position=lines)
                    assert own.sel(head=head).item() == pytest.approx(expected, abs=1e-9 * gap)
                    moved = max(moved, abs(expected))
                    shifted = max(shifted, abs(own.sel(head=1 - head).item() - expected))
    assert min(moved, shifted) > 1e-6 * gap, "patches that move nothing prove nothing"


SITES = (
    *("attn.q", "attn.k", "attn.v", "cross_attn.q", "attn_out", "cross_attn_out", "mlp_out", "mlp.pre", "mlp.post"),
    *("resid_pre", "resid_mid", "resid_mid_cross", "resid_post", "normalized_resid_post"),
)


@pytest.mark.parametrize("family", FAMILIES)
def test_other_sites_equal_forward_passes(family: str) -> None:
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))[:1]
    oracle, hf, at = Oracle(model, pairs[0], "image"), model.hf_model, 3
    before = oracle.logit_diff("corrupt", [], 0.0)
    gap = abs(oracle.logit_diff("clean", [], 0.0) - before)
    for name in SITES:
        with_heads = name[-2:] in (".q", ".k", ".v")
        site = patching.Site.of(model, f"qformer.{name}", positions=[at])
        found, moved = patching.sweep(model, pairs, site, progress=False).logit_diff_change, 0.0
        for layer in site.layers:
            where = place(hf, name, layer)
            assert where is not None
            columns = slice(WIDTH, 2 * WIDTH) if with_heads else slice(None)
            new = value(hf, oracle.inputs["clean"], where)
            logits = patched(hf, oracle.inputs["corrupt"], where, new, at, columns)
            expected = float(oracle.difference(logits)) - before
            own = found.sel(layer=layer, position=at)
            got = (own.sel(head=1) if with_heads else own).item()
            assert got == pytest.approx(expected, abs=1e-9 * gap), (name, layer)
            moved = max(moved, abs(expected))
        assert moved > 1e-9 * gap, name


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize(("family", "corruption"), RUNS)
def test_modules_equal_forward_passes(family: str, corruption: Any, direction: Any) -> None:
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))
    found = patching.patch_modules(
        model, pairs, "qformer", corruption=corruption, direction=direction, progress=False
    ).logit_diff_change
    hf, lines = model.hf_model, slice(0, tiny_vlms.N_QUERIES)
    base, other = ("corrupt", "clean") if direction == "denoise" else ("clean", "corrupt")
    for number, pair in enumerate(pairs):
        oracle = Oracle(model, pair, corruption)
        before = oracle.logit_diff(base, [], 0.0)
        gap = abs(oracle.logit_diff(other, [], 0.0) - before)
        for site in ("attn_out", "cross_attn_out", "mlp_out", "normalized_resid_post"):
            for layer in range(3):
                where = place(hf, site, layer)
                own = found.isel(pair=number).sel(site=f"qformer.hook_{site}", layer=layer)
                if where is None:
                    assert own.isnull().all()
                    continue
                new = value(hf, oracle.inputs[other], where)
                logits = patched(hf, oracle.inputs[base], where, new, lines)
                expected = float(oracle.difference(logits)) - before
                assert own.item() == pytest.approx(expected, abs=1e-9 * max(gap, 1e-3)), (site, layer)


@pytest.mark.parametrize("site", ["attn_scores", "pattern"])
@pytest.mark.parametrize("family", FAMILIES)
def test_tables_of_cross_attention_equal_forward_passes(family: str, site: str) -> None:
    """With a query's pattern of the clean run, z is that pattern times the corrupted run's own values."""
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))[:1]
    oracle, hf, layer, head, at = Oracle(model, pairs[0], "image"), model.hf_model, 2, 1, 3
    clean, corrupt = oracle.inputs["clean"], oracle.inputs["corrupt"]
    columns = slice(head * WIDTH, (head + 1) * WIDTH)
    where = {leaf: place(hf, f"cross_attn.{leaf}", layer) for leaf in "qkvz"}
    q, k, v = (value(hf, clean, where[leaf])[:, columns] for leaf in "qkv")  # pyright: ignore[reportArgumentType]
    pattern = (q @ k.T * WIDTH**-0.5).softmax(-1)
    torch.testing.assert_close(pattern @ v, value(hf, clean, where["z"])[:, columns])  # pyright: ignore
    values = value(hf, corrupt, where["v"])[:, columns]  # pyright: ignore[reportArgumentType]

    def change(z: Tensor) -> None:
        z[at, columns] = pattern[at] @ values

    before = oracle.logit_diff("corrupt", [], 0.0)
    expected = float(oracle.difference(run(hf, corrupt, where["z"], change))) - before  # pyright: ignore
    asked = patching.Site.of(model, f"qformer.cross_attn.{site}", layers=layer, heads=head, positions=[at])
    found = patching.sweep(model, pairs, asked, progress=False).logit_diff_change
    assert found.item() == pytest.approx(expected, abs=1e-9)
    assert abs(expected) > 1e-7


@pytest.mark.parametrize("family", FAMILIES)
def test_edits_in_qformer_and_language_model_at_once(family: str) -> None:
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))[:1]
    edits = [patching.Edit("qformer.cross_attn", 0, 1), patching.Edit("language.attn", 1, 2, "last")]
    found = patching.run_variants(model, pairs, {"both": edits, "one": edits[0]}, progress=False).logit_diff_change
    oracle, hf = Oracle(model, pairs[0], "image"), model.hf_model
    z = model.run_with_cache(oracle.inputs["clean"], names_filter=lambda name: name.endswith("attn.hook_z"))[1]

    def in_language(own: Tensor, hook: Any) -> None:
        own[0, -1, 2] = z["language.blocks.1.attn.hook_z"][0, -1, 2]

    at = place(hf, "cross_attn.z", 0)
    assert at is not None
    new = value(hf, oracle.inputs["clean"], at)
    with model.hooks([("language.blocks.1.attn.hook_z", in_language)]), model.watching():
        both = patched(hf, oracle.inputs["corrupt"], at, new, slice(None), slice(WIDTH, 2 * WIDTH))
    expected = float(oracle.difference(both)) - oracle.logit_diff("corrupt", [], 0.0)
    assert found.sel(variant="both").item() == pytest.approx(expected, abs=1e-9)
    assert abs(found.diff("variant").item()) > 1e-6


@pytest.mark.parametrize("site", ["attn.z", "cross_attn.z", "mlp_out", "normalized_resid_post"])
@pytest.mark.parametrize("family", FAMILIES)
def test_attribution_is_the_gradient_times_the_change(family: str, site: str) -> None:
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))[:1]
    oracle, hf, layer = Oracle(model, pairs[0], "image"), model.hf_model, 0
    at = place(hf, site, layer)
    assert at is not None
    kept: list[Tensor] = []

    def keep(_: Any, args: Any, out: Any = None) -> Any:
        kept.append((args[0] if at.side == "in" else out).detach().clone().requires_grad_())
        return (kept[-1], *args[1:]) if at.side == "in" else kept[-1]

    handle = at.module.register_forward_pre_hook(keep) if at.side == "in" else at.module.register_forward_hook(keep)
    with torch.enable_grad():
        total = oracle.difference(hf(**oracle.inputs["corrupt"]).logits[0, -1])
        (grad,) = torch.autograd.grad(total, kept)
    handle.remove()
    change = value(hf, oracle.inputs["clean"], at) - kept[0][0].detach()
    effects = (grad[0] * change)[: tiny_vlms.N_QUERIES].sum(0)
    expected = effects.unflatten(0, (2, WIDTH)).sum(-1) if site.endswith(".z") else effects.sum()[None]
    asked = patching.Site.of(model, f"qformer.{site}", layers=layer)
    found = patching.attribute(model, pairs, asked, neurons=False, progress=False)[asked.name].logit_diff_change
    assert found.values.reshape(-1) == pytest.approx(expected.numpy(), abs=1e-12)
    assert float(expected.abs().max()) > 1e-9 or (site, layer) == ("attn.z", 0)


def test_a_qformer_does_not_read_the_teacher_forced_answer() -> None:
    model = tiny_model("instructblip").model
    picture, question = tiny_vlms.picture(1, 56), "is this apple red ?"
    asked, answered = model.prepare(picture, question), model.prepare(picture, question, "green book")
    assert answered["input_ids"].shape[1] > asked["input_ids"].shape[1]
    for name in ("qformer_input_ids", "qformer_attention_mask"):
        assert torch.equal(asked[name], answered[name])


def test_padding_is_in_front_of_the_image_and_behind_the_qformers_words() -> None:
    model = tiny_model("instructblip").model
    prompts = ["is this apple red ?", "what colour is the book on the table ?"]
    inputs = model.prepare(tiny_vlms.picture(1, 56), prompts)
    mask, of_qformer = inputs["attention_mask"][0], inputs["qformer_attention_mask"][0]
    assert mask.tolist() == sorted(mask.tolist())
    assert 0 in mask.tolist()
    assert of_qformer.tolist() == sorted(of_qformer.tolist(), reverse=True)
    assert 0 in of_qformer.tolist()
    layout = model.layout(inputs, prompts)
    assert layout.segments("qformer", 0)[0].kind == "image"
    assert layout.length("qformer", 0) == tiny_vlms.N_QUERIES + int(of_qformer.sum())
    n_pads = int((mask == 0).sum())
    assert layout.roles[0]["image"] == (n_pads, n_pads + tiny_vlms.N_QUERIES)
    assert layout.roles[0]["bos"][0] == n_pads + tiny_vlms.N_QUERIES


def test_a_prompt_with_the_images_token_is_taken_as_it_stands() -> None:
    model = tiny_model("blip-2").model
    inputs = model.prepare(tiny_vlms.picture(1, 56), "<image>a man runs")
    words = model.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
    assert words.count("<image>") == tiny_vlms.N_QUERIES
    assert "".join(words[tiny_vlms.N_QUERIES :]) == "▁a▁man▁runs"


@pytest.mark.parametrize("family", FAMILIES)
def test_what_has_no_positions_is_refused(family: str) -> None:
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))[:1]
    with pytest.raises(ValueError, match="positions of `qformer` lie on no grid here; take 'all', 'each' or numbers"):
        patching.patch_heads(model, pairs, "qformer.cross_attn", positions="regions", progress=False)
    with pytest.raises(ValueError, match=r"position 8 asked for; there are 0 to 7"):
        patching.patch_heads(model, pairs, "qformer.attn", positions=[8], progress=False)
    with pytest.raises(ValueError, match=r"layer 1 asked for; `qformer` has layers 0, 2"):
        patching.patch_heads(model, pairs, "qformer.cross_attn", layers=1, progress=False)
    for verb in (patching.patch_heads, lambda *args, **options: patching.attribute(*args, neurons=False, **options)):
        if family == "blip-2":
            verb(model, pairs, "qformer.attn.pattern", progress=False)
            continue
        with pytest.raises(ValueError, match=r"keys, of which 8 are learned queries and the others the question's"):
            verb(model, pairs, "qformer.attn.pattern", progress=False)


@pytest.mark.parametrize("family", [*FAMILIES, "mllama"])
def test_pairs_with_regions_are_patched_where_image_positions_lie_on_no_grid(family: str) -> None:
    """Regions that nobody asks for are in nobody's way; those that are asked for are refused with the reason."""
    model = tiny_model(family).model
    mask = torch.zeros(56, 56, dtype=torch.bool).numpy()
    mask[:, :28] = True
    clean, corrupt = (tiny_vlms.picture(seed, 56) for seed in (1, 2))
    answers = dict(zip(("correct_answer", "incorrect_answer"), single_tokens(model), strict=True))
    row = {
        "id": "halves", "task": "states", "clean_image": clean, "clean_prompt": "is this apple red ?",
        "corrupt_image": corrupt, "clean_regions": {"object": mask}, "roles": {"object": "apple"}, **answers,
    }  # fmt: skip
    pairs = MinimalPairs.from_rows([row], progress=False)
    plain = MinimalPairs.from_rows(
        [{name: value for name, value in row.items() if name != "clean_regions"}], progress=False
    )
    options: Any = {"positions": ["object", "image" if family != "mllama" else "bos", "last"], "progress": False}
    found, expected = (patching.patch_heads(model, some, **options).logit_diff_change for some in (pairs, plain))
    assert found.equals(expected)
    with pytest.raises(ValueError, match="positions of `language` lie on no grid here"):
        patching.patch_heads(model, pairs, positions="regions", progress=False)
    with pytest.raises(ValueError, match="no role 'image:object'; did you mean 'object'"):
        patching.patch_heads(model, pairs, positions=["image:object"], progress=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_language_model_in_half_precision_beside_a_qformer_in_float32(family: str, tmp_path: Path) -> None:
    """As transformers loads them; effects stay near those of float64."""
    folder, effects = tiny_vlms.write(family, tmp_path), []
    for dtype in (torch.float16, torch.float64):
        model = HookedVLM.from_pretrained(folder, dtype=dtype)
        assert model.dtype == dtype
        learned: Tensor = model.hf_model.query_tokens  # pyright: ignore
        assert learned.dtype == (torch.float32 if dtype == torch.float16 else dtype)
        assert model.check(progress=False).passed
        pairs = made_pairs(single_tokens(model))[:1]
        found = [patching.patch_heads(model, pairs, site, progress=False) for site in ("language.attn", "qformer.attn")]
        effects.append([own.logit_diff_change.values for own in found])
    for half, exact in zip(*effects, strict=True):
        assert abs(half - exact).max() < 0.05 * abs(effects[1][0]).max()


def test_words_cannot_be_halfway_for_a_qformer() -> None:
    model = tiny_model("instructblip").model
    pairs: MinimalPairs = made_pairs(single_tokens(model))[:1]
    site = patching.Site.of(model, "language.attn", layers=0)
    with pytest.raises(ValueError, match="path='inputs' moves pixels and embedded words, and the Q-Former reads"):
        patching.attribute(model, pairs, site, integrated_gradients=2, path="inputs", corruption="text", progress=False)


def test_language_models_that_cannot_be_hooked_are_refused_by_name() -> None:
    import transformers

    vision, qformer = tiny_vlms.VISION, {**tiny_vlms.QFORMER, "vocab_size": 50}
    t5 = transformers.T5Config(d_model=32, d_ff=64, num_layers=2, num_heads=4, d_kv=8, vocab_size=60)
    late = transformers.OPTConfig(**tiny_vlms.OPT, vocab_size=60, do_layer_norm_before=False)
    for text, message in (
        (t5, r"T5ForConditionalGeneration \('t5'\) is an encoder-decoder: .* such as OPT and Llama"),
        (late, r"OPTForCausalLM \('opt'\) normalises after its additions \(`do_layer_norm_before` is False\)"),
    ):
        config = transformers.Blip2Config(
            vision_config=vision, qformer_config=qformer, text_config=text, num_query_tokens=4, image_token_index=59
        )
        with pytest.raises(ValueError, match=message):
            HookedVLM.from_hf(transformers.Blip2ForConditionalGeneration(config))
    hf, _ = tiny_vlms.make("blip-2")
    del hf.query_tokens
    with pytest.raises(ValueError, match=r"has a Q-Former, and no learned queries for it \(`query_tokens`\)"):
        HookedVLM.from_hf(hf)
