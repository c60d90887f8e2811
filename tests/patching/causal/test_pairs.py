"""The verbs that take pairs, on a hosted model of every family, against a forward pass a patch by torch's own hooks."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

import tiny_vlms
from attention_oracle import changed_attention
from forward_oracle import Patch, activations, decoder_of, logits
from hosted_pairs import FAMILIES, LONG, PROMPTS, made_pairs, single_tokens
from hosted_vlms import LIBRARY_WARNINGS, tiny_model
from notice_lens import HookedVLM, circuits, patching
from notice_lens.pairs import MinimalPairs, behaviour_filter

pytestmark = LIBRARY_WARNINGS


class Oracle:
    """Runs of one pair on Hugging Face's model, prepared without the package's prompts: by `HookedVLM.prepare`."""

    def __init__(self, model: HookedVLM, pair: Any, corruption: str) -> None:
        self.model, self.pair = model, pair
        donor = (pair.donor_image or pair.clean_image, pair.clean_prompt)
        donor = (pair.clean_image, pair.donor_prompt) if corruption == "text" else donor
        other = (pair.clean_image, pair.corrupt_prompt)
        other = other if corruption == "text" else (pair.corrupt_image, pair.clean_prompt)
        self.inputs = {"clean": model.prepare(pair.clean_image, pair.clean_prompt), "corrupt": model.prepare(*other)}
        self.inputs["donor"] = model.prepare(*donor)
        answers = (pair.correct_answer, pair.incorrect_answer)
        self.correct, self.foil = (model.answer_ids(pair.clean_prompt, answer)[0] for answer in answers)

    def logit_diff(self, which: str, patches: list[Patch], values: Any) -> float:
        return float(self.difference(logits(self.model.hf_model, self.inputs[which], patches, values)))

    def difference(self, at_last: Tensor) -> Tensor:
        return at_last[self.correct] - at_last[self.foil]

    def length(self) -> int:
        return self.inputs["clean"]["input_ids"].shape[1]


def layers_of(model: HookedVLM, effects: xr.Dataset) -> list[int]:
    return [int(layer) for layer in effects.layer]


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("corruption", ["image", "text"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_head_at_the_last_token_equals_a_forward_pass(family: str, corruption: str, direction: str) -> None:
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))
    effects = patching.patch_heads(model, pairs, corruption=corruption, direction=direction, progress=False)  # pyright: ignore
    base, other = ("corrupt", "clean") if direction == "denoise" else ("clean", "corrupt")
    for number, pair in enumerate(pairs):
        oracle = Oracle(model, pair, corruption)
        values = {which: {"z": activations(model.hf_model, oracle.inputs[which], "z")} for which in (other, "donor")}
        clean, corrupt = (oracle.logit_diff(which, [], 0.0) for which in ("clean", "corrupt"))
        gap, before = abs(clean - corrupt), corrupt if direction == "denoise" else clean
        one = effects.isel(pair=number)
        assert float(one.logit_diff_clean) == pytest.approx(clean, abs=1e-9 * gap)
        assert float(one.logit_diff_corrupt) == pytest.approx(corrupt, abs=1e-9 * gap)
        moved = 0.0
        for layer in layers_of(model, effects):
            for head in (0, 3):
                patch = [Patch("z", layer, (oracle.length() - 1,), head)]
                for which, name in ((other, "logit_diff_change"), ("donor", "logit_diff_change_mismatched")):
                    expected = oracle.logit_diff(base, patch, values[which]) - before
                    found = float(one[name].sel(layer=layer, head=head, role="last"))
                    assert found == pytest.approx(expected, abs=1e-9 * gap)
                    moved = max(moved, abs(expected))
        assert moved > 0.01 * gap, "patches that move nothing prove nothing"
        assert float(one.noise_floor) <= 1e-9 * gap


@pytest.mark.parametrize("family", FAMILIES)
def test_words_image_and_modules_equal_forward_passes(family: str) -> None:
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))
    heads = patching.patch_heads(model, pairs, positions=["object", "image"], progress=False)
    outs = patching.patch_modules(model, pairs, positions=["object", "last"], progress=False)
    for number, pair in enumerate(pairs):
        oracle = Oracle(model, pair, "image")
        layout = model.layout(oracle.inputs["clean"], [pair.clean_prompt])
        places = {"last": (layout.read_out[0],), "object": tuple(range(*pairs.token_spans(model)[number]["object"]))}
        places["image"] = tuple(range(*layout.roles[0]["image"]))
        sites = {"z": heads, **dict.fromkeys(("attn_out", "mlp_out", "resid_post"), outs)}
        values = {site: activations(model.hf_model, oracle.inputs["clean"], site) for site in sites}
        before = oracle.logit_diff("corrupt", [], 0.0)
        gap = abs(oracle.logit_diff("clean", [], 0.0) - before)
        for site, effects in sites.items():
            own = effects.isel(pair=number).logit_diff_change
            if site != "z":
                own = own.sel(
                    site=next(name for name in effects.site.values if name.endswith(site) and _has(own, name))
                )
            for layer in (
                int(one) for one in own.layer[~own.isnull().all([dim for dim in own.dims if dim != "layer"])]
            ):
                for role in effects.role.values.tolist():
                    head = 1 if site == "z" else None
                    patch = [Patch(site, layer, places[role], head)]
                    expected = oracle.logit_diff("corrupt", patch, values) - before
                    found = own.sel(layer=layer, role=role)
                    found = float(found.sel(head=head) if head is not None else found)
                    assert found == pytest.approx(expected, abs=1e-9 * gap), (site, layer, role)


def _has(values: xr.DataArray, name: str) -> bool:
    return not bool(values.sel(site=name).isnull().all())


@pytest.mark.parametrize("shift", [{"layer": 1}, {"head": 1}], ids=["layer", "head"])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3"])
def test_a_neighbouring_cell_would_be_found(family: str, shift: dict[str, int]) -> None:
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))
    effects = patching.patch_heads(model, pairs, progress=False)
    oracle = Oracle(model, pairs[0], "image")
    values = {"z": activations(model.hf_model, oracle.inputs["clean"], "z")}
    patch = [Patch("z", 1, (oracle.length() - 1,), 1)]
    before = oracle.logit_diff("corrupt", [], 0.0)
    found = effects.logit_diff_change.isel(pair=0, role=0)
    neighbour = float(found.sel(layer=1 + shift.get("layer", 0), head=1 + shift.get("head", 0)))
    assert abs(oracle.logit_diff("corrupt", patch, values) - before - neighbour) > 1e-6


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "gemma3", "paligemma", "mllama"])
def test_answers_of_several_tokens_are_teacher_forced(family: str) -> None:
    model, pairs = tiny_model(family).model, made_pairs(("red apple", "green book"))[:1]
    pair = pairs[0]
    effects = patching.patch_heads(model, pairs, progress=False, controls=())
    hf, said = (
        model.hf_model,
        {answer: model.answer_ids(pair.clean_prompt, answer) for answer in ("red apple", "green book")},
    )
    assert min(map(len, said.values())) > 1

    def log_probs(image: Any, patch: tuple[int, int] | None) -> float:
        found = []
        for answer, ids in said.items():
            prompt = model.prepare(image, pair.clean_prompt)
            inputs = model.prepare(image, pair.clean_prompt, answer)
            start = prompt["input_ids"].shape[1]
            assert inputs["input_ids"][0, start : start + len(ids)].tolist() == ids
            patches, values = [], 0.0
            if patch is not None:
                clean = model.prepare(pair.clean_image, pair.clean_prompt, answer)
                values = {"z": activations(hf, clean, "z")}
                patches = [Patch("z", patch[0], (start - 1,), patch[1])]
            with _all_logits(hf, inputs, patches, values) as every:
                found.append(float(every[start - 1 : start - 1 + len(ids)].log_softmax(-1)[range(len(ids)), ids].sum()))
        return found[0] - found[1]

    clean, corrupt = (log_probs(image, None) for image in (pair.clean_image, pair.corrupt_image))
    assert effects.logit_diff_clean.item() == pytest.approx(clean, abs=1e-9)
    for layer in layers_of(model, effects)[:2]:
        expected = log_probs(pair.corrupt_image, (layer, 2)) - corrupt
        assert effects.logit_diff_change.sel(layer=layer, head=2).item() == pytest.approx(expected, abs=1e-9)


class _all_logits:
    """The logits of every position of a patched run."""

    def __init__(self, hf: Any, inputs: Any, patches: list[Patch], values: Any) -> None:
        whole: list[Tensor] = []
        handle = hf.register_forward_hook(lambda *args: whole.append(args[-1].logits[0]))
        logits(hf, inputs, patches, values)
        handle.remove()
        self.found = whole[-1]

    def __enter__(self) -> Tensor:
        return self.found

    def __exit__(self, *_: object) -> None:
        return None


@pytest.mark.parametrize("source", ["zero", "mean", "resample"])
def test_sources_without_the_other_run(source: str) -> None:
    model, pairs = tiny_model("llava").model, _three_pairs()
    effects = patching.patch_heads(model, pairs, source=source, progress=False, controls=())  # pyright: ignore
    runs = [model.prepare(pair.clean_image, pair.clean_prompt) for pair in pairs]
    clean = [activations(model.hf_model, run, "z") for run in runs]
    for number, pair in enumerate(pairs):
        if source == "zero":
            values: Any = 0.0
        elif source == "mean":
            values = {"z": [torch.stack(own).mean(0) for own in zip(*clean, strict=True)]}
        else:
            example = pairs["id"].index(str(effects.resampled_from.values[number]))
            values = {"z": clean[example]}
        oracle = Oracle(model, pair, "image")
        before = oracle.logit_diff("corrupt", [], 0.0)
        for layer, head in ((0, 1), (2, 3)):
            patch = [Patch("z", layer, (oracle.length() - 1,), head)]
            expected = oracle.logit_diff("corrupt", patch, values) - before
            found = float(effects.logit_diff_change.isel(pair=number).sel(layer=layer, head=head, role="last"))
            assert found == pytest.approx(expected, abs=1e-9)


def _three_pairs() -> MinimalPairs:
    rows = [
        {
            "id": f"pair {number}", "task": "states", "clean_image": tiny_vlms.picture(number, 56),
            "corrupt_image": tiny_vlms.picture(20 + number, 56), "clean_prompt": PROMPTS[0], "correct_answer": "red",
            "incorrect_answer": "green", "roles": {"object": "apple"},
        }
        for number in range(3)
    ]  # fmt: skip
    return MinimalPairs.from_rows(rows, progress=False)


def test_a_store_is_resumed_with_the_same_numbers(tmp_path: Any) -> None:
    model, pairs = tiny_model("qwen2_5_vl").model, made_pairs()
    in_memory = patching.patch_heads(model, pairs, progress=False)
    stored = patching.patch_heads(model, pairs, store=tmp_path / "sweep.zarr", progress=False)
    again = patching.patch_heads(model, pairs, store=tmp_path / "sweep.zarr", progress=False)
    for name in in_memory.data_vars:
        np.testing.assert_array_equal(
            stored[name].transpose(*in_memory[name].dims).values, in_memory[name].values, err_msg=str(name)
        )
        np.testing.assert_array_equal(again[name].values, stored[name].values, err_msg=str(name))


def test_key_value_heads_are_counted_by_themselves() -> None:
    model, pairs = tiny_model("llava").model, made_pairs()
    keys = patching.patch_heads(model, pairs, "language.attn.k", progress=False)
    assert keys.sizes["head"] == model.cfg.n_key_value_heads < model.cfg.n_heads
    with pytest.raises(ValueError, match="key-value head 3 asked for; `language` has key-value heads 0 to 1"):
        patching.patch_heads(model, pairs, "language.attn.k", heads=3, progress=False)


def test_pictures_of_unequal_numbers_of_positions_are_named_or_dropped() -> None:
    model = tiny_model("qwen2_vl").model
    rows = [
        {
            "id": f"pair {number}", "task": "states", "clean_image": tiny_vlms.picture(number, 56),
            "corrupt_image": tiny_vlms.picture(20 + number, 56).resize((width, 56)), "clean_prompt": PROMPTS[0],
            "correct_answer": "red", "incorrect_answer": "green",
        }
        for number, width in enumerate((56, 168))
    ]  # fmt: skip
    pairs = MinimalPairs.from_rows(rows, progress=False)
    with pytest.raises(
        ValueError, match=r"clean_image of 56 x 56 pixels has \d+ image positions, corrupt_image of 168"
    ):
        patching.patch_heads(model, pairs, progress=False)
    kept = pairs.validate(model, on_error="drop")
    assert kept["id"] == ["pair 0"]
    assert kept.manifest.dropped == {"pictures of unequal numbers of image positions": 1}


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "gemma3", "paligemma"])
def test_regions_are_image_tokens_of_the_language_model(family: str) -> None:
    """A mask of the left half of the picture is the left half of the grid, also where a word has the region's name."""
    model = tiny_model(family).model
    mask = np.zeros((56, 56), bool)
    mask[:, :28] = True
    rows = [
        {
            "id": "halves", "task": "states", "clean_image": tiny_vlms.picture(1, 56), "clean_prompt": PROMPTS[0],
            "corrupt_image": tiny_vlms.picture(2, 56), "clean_regions": {"object": mask, "right": ~mask},
            "roles": {"object": "apple"},
            **dict(zip(("correct_answer", "incorrect_answer"), single_tokens(model), strict=True)),
        }
    ]  # fmt: skip
    pairs = MinimalPairs.from_rows(rows, progress=False)
    effects = patching.patch_heads(model, pairs, positions="regions", progress=False)
    oracle = Oracle(model, pairs[0], "image")
    segment = next(one for one in model.layout(oracle.inputs["clean"]).segments("language", 0) if one.kind == "image")
    assert segment.grid is not None
    grid = np.arange(segment.start, segment.stop).reshape(segment.grid)
    half = segment.grid[1] // 2
    places = {"object": tuple(grid[:, :half].ravel().tolist()), "right": tuple(grid[:, half:].ravel().tolist())}
    assert sum(map(len, places.values())) == len(segment)
    values = {"z": activations(model.hf_model, oracle.inputs["clean"], "z")}
    before = oracle.logit_diff("corrupt", [], 0.0)
    for region, positions in places.items():
        for layer, head in ((0, 1), (1, 2)):
            expected = oracle.logit_diff("corrupt", [Patch("z", layer, positions, head)], values) - before
            found = effects.logit_diff_change.sel(layer=layer, head=head, region=region).item()
            assert found == pytest.approx(expected, abs=1e-9)
    # By name a word comes first, and the region has `image:` in front of it.
    named = patching.patch_heads(model, pairs, positions=["object", "image:object", "right"], progress=False)
    by_role = named.logit_diff_change
    np.testing.assert_array_equal(by_role.sel(role="image:object"), effects.logit_diff_change.sel(region="object"))
    word = tuple(range(*pairs.token_spans(model)[0]["object"]))
    expected = oracle.logit_diff("corrupt", [Patch("z", 0, word, 1)], values) - before
    assert by_role.sel(layer=0, head=1, role="object").item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_unequal_prompts_answers_as_each_by_itself(family: str) -> None:
    model = tiny_model(family).model
    pictures, prompts = [tiny_vlms.picture(seed, 56) for seed in (1, 2)], [PROMPTS[0], LONG[0]]
    together = model.greedy_ids(model.prepare(pictures, prompts), 5)
    alone = [model.greedy_ids(model.prepare(*one), 5)[0] for one in zip(pictures, prompts, strict=True)]
    assert together == alone


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("mllama", "glm4v")])
def test_the_stream_half_way_and_the_linear_neurons_equal_forward_passes(family: str) -> None:
    """Half-way through a block the stream is what came in and what attention wrote: the oracle changes the latter."""
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))[:1]
    gated = hasattr(model.block("language", 0).mlp, "hook_pre_linear")  # OPT has no gate
    names = ("language.resid_mid", "language.mlp.pre_linear" if gated else "language.mlp.pre")
    sites = [patching.Site.of(model, name, positions=["object", "last"]) for name in names]
    found = patching.sweep(model, pairs, sites, progress=False)
    oracle, hf = Oracle(model, pairs[0], "image"), model.hf_model
    clean, corrupt = oracle.inputs["clean"], oracle.inputs["corrupt"]
    before = oracle.logit_diff("corrupt", [], 0.0)
    gap = abs(oracle.logit_diff("clean", [], 0.0) - before)
    going_in, wrote = ({run: activations(hf, run_inputs, site) for run, run_inputs in oracle.inputs.items()}
                       for site in ("resid_pre", "attn_out"))  # fmt: skip
    neurons = _linear_neurons(hf, clean) if gated else activations(hf, clean, "mlp.pre")
    spans = pairs.token_spans(model)[0]
    for layer in range(model.cfg.n_layers):
        for role in ("object", "last"):
            at = tuple(range(*spans[role]))
            half_way = going_in["clean"][layer] + wrote["clean"][layer] - going_in["corrupt"][layer]
            values = {"attn_out": {layer: half_way}}
            expected = oracle.logit_diff("corrupt", [Patch("attn_out", layer, at)], values) - before
            own = found.logit_diff_change.isel(pair=0).sel(layer=layer, role=role)
            assert float(own.sel(site="language.hook_resid_mid")) == pytest.approx(expected, abs=1e-9 * gap)
            patched = (
                oracle.difference(_with_neurons(hf, corrupt, layer, at, neurons[layer]))
                if gated
                else oracle.logit_diff("corrupt", [Patch("mlp.pre", layer, at)], {"mlp.pre": neurons})
            )
            expected = float(patched) - before
            linear = "language.mlp.hook_pre_linear" if gated else "language.mlp.hook_pre"
            assert float(own.sel(site=linear)) == pytest.approx(expected, abs=1e-9 * gap)


def _up(block: Any) -> tuple[Any, slice]:
    """Where an MLP's linear half is written, and in which columns."""
    if hasattr(block.mlp, "up_proj"):
        return block.mlp.up_proj, slice(None)
    width = block.mlp.down_proj.in_features
    return block.mlp.gate_up_proj, slice(width, 2 * width)


@torch.no_grad()
def _linear_neurons(hf: Any, inputs: Any) -> list[Tensor]:
    kept: list[Tensor] = []
    places = [_up(block) for block in decoder_of(hf).layers]
    handles = [
        module.register_forward_hook(lambda _, args, out, columns=columns: kept.append(out[..., columns].clone()))
        for module, columns in places
    ]
    hf(**inputs)
    for handle in handles:
        handle.remove()
    return kept


@torch.no_grad()
def _with_neurons(hf: Any, inputs: Any, layer: int, at: tuple[int, ...], new: Tensor) -> Tensor:
    module, columns = _up(decoder_of(hf).layers[layer])

    def patch(_: Any, args: Any, out: Tensor) -> Tensor:
        out = out.clone()
        for position in at:
            out[:, position, columns] = new[:, position]
        return out

    handle = module.register_forward_hook(patch)
    found = hf(**inputs).logits[0, -1]
    handle.remove()
    return found


def test_queries_of_cross_attention_equal_forward_passes() -> None:
    model = tiny_model("mllama").model
    pairs = made_pairs(single_tokens(model))[:1]
    found = patching.patch_heads(model, pairs, "language.cross_attn.q", corruption="text", progress=False)
    oracle = Oracle(model, pairs[0], "text")
    values = {"q": _cross_queries(model.hf_model, oracle.inputs["clean"])}
    before = oracle.logit_diff("corrupt", [], 0.0)
    for layer in (int(one) for one in found.layer):
        for head in range(model.cfg.n_heads):
            patch = [Patch("q", layer, (oracle.length() - 1,), head)]
            expected = oracle.logit_diff("corrupt", patch, values) - before
            assert found.logit_diff_change.sel(layer=layer, head=head).item() == pytest.approx(expected, abs=1e-9)


@torch.no_grad()
def _cross_queries(hf: Any, inputs: Any) -> dict[int, Tensor]:
    kept: dict[int, Tensor] = {}
    handles = [
        block.cross_attn.q_proj.register_forward_hook(lambda _, args, out, n=n: kept.update({n: out.clone()}))
        for n, block in enumerate(decoder_of(hf).layers)
        if hasattr(block, "cross_attn")
    ]
    hf(**inputs)
    for handle in handles:
        handle.remove()
    return kept


@pytest.mark.parametrize(("site", "stage"), [("attn_scores", "scores"), ("pattern", "pattern")])
def test_tables_of_cross_attention_equal_attention_written_out(site: str, stage: str) -> None:
    model = tiny_model("mllama").model
    pairs = made_pairs(single_tokens(model))[:1]
    found = patching.patch_heads(model, pairs, f"language.cross_attn.{site}", progress=False)
    oracle, kept = Oracle(model, pairs[0], "image"), {}

    def keep(layer: int, at: str, tensor: Tensor) -> Tensor:
        if at == stage:
            kept[layer] = tensor.clone()
        return tensor

    with changed_attention(model.hf_model, keep):
        oracle.logit_diff("clean", [], 0.0)
    before = oracle.logit_diff("corrupt", [], 0.0)
    for layer in (int(one) for one in found.layer):
        for head in (0, 3):

            def change(at_layer: int, at: str, tensor: Tensor, asked: tuple[int, int] = (layer, head)) -> Tensor:
                if at_layer == asked[0] and at == stage:
                    tensor = tensor.clone()
                    tensor[asked[1], -1] = kept[at_layer][asked[1], -1]
                return tensor

            with changed_attention(model.hf_model, change):
                expected = oracle.logit_diff("corrupt", [], 0.0) - before
            assert found.logit_diff_change.sel(layer=layer, head=head).item() == pytest.approx(expected, abs=1e-9)
    assert float(abs(found.logit_diff_change).max()) > 1e-6


def test_ablations_filter_and_statistics_run_on_hosted_models() -> None:
    """Ablated heads equal forward passes with zeros; the other verbs give what they give of BLIP."""
    model = tiny_model("qwen2_5_vl").model
    pairs = made_pairs(single_tokens(model))
    ablated = patching.ablate(model, pairs, "language.attn", value="zero", progress=False)
    for number, pair in enumerate(pairs):
        oracle = Oracle(model, pair, "image")
        before = oracle.logit_diff("clean", [], 0.0)
        patch = [Patch("z", 1, (oracle.length() - 1,), 2)]
        expected = oracle.logit_diff("clean", patch, 0.0) - before
        found = ablated.logit_diff_change.isel(pair=number).sel(layer=1, head=2, role="last")
        assert float(found) == pytest.approx(expected, abs=1e-9)
    parts = patching.split(model, pairs, "language.attn", layers=1, progress=False)
    whole = patching.patch_heads(model, pairs, layers=1, progress=False)
    np.testing.assert_allclose(
        parts.logit_diff_change.sel(part="both").squeeze("layer").values,
        whole.logit_diff_change.squeeze("layer").values,
        atol=1e-9,
    )
    kept = behaviour_filter(model, pairs, progress=False)
    assert len(kept) + sum(kept.manifest.dropped.values()) == len(pairs)
    effects = {
        which: patching.patch_heads(model, pairs, corruption=which, progress=False) for which in ("image", "text")
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", circuits.FewClusters)
        important = circuits.important_heads(effects["image"])
        universal = circuits.universal_heads({f"states, {which}": own for which, own in effects.items()})
    assert dict(important.sizes) == {"layer": 3, "head": 4}
    assert universal.sizes["condition"] == 2
