"""Models larger than a card: weights that accelerate keeps on disk or in memory, and weights of four bits.

An offloaded weight is on the meta device between two calls of its module. The oracle is the same checkpoint, loaded
whole: every number has to be the same, to the last bit as a rule.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import xarray as xr

import tiny_vlms
from hosted_pairs import made_pairs, single_tokens
from notice_lens import HookedVLM, patching
from notice_lens.models.offloading import numbers_of
from notice_lens.pairs import MinimalPairs
from notice_lens.patching import Site
from notice_lens.patching.engine.causal.check import check_patches
from notice_lens.patching.engine.causal.decoder import Decoder
from notice_lens.patching.engine.causal.record import record

QUIET: dict[str, Any] = {"progress": False}
TOWER = "vision.attn.z"
WORDS: dict[str, Any] = {"positions": ["object", "last"], **QUIET}
VERBS: dict[str, Callable[[HookedVLM, MinimalPairs], xr.Dataset]] = {
    "wave": lambda model, pairs: patching.patch_heads(model, pairs, controls=("self", "mismatched"), **WORDS),
    "modules": lambda model, pairs: patching.patch_modules(model, pairs, **WORDS),
    "tower": lambda model, pairs: patching.patch_heads(model, pairs, "vision.attn", positions="all", **QUIET),
    "paths": lambda model, pairs: patching.patch_paths(
        model, pairs, Site.of(model, "language.attn", positions=["object", "last"]), **QUIET
    ),
    "attribution": lambda model, pairs: patching.attribute(model, pairs, TOWER, **QUIET)[TOWER].to_dataset(),
}


def loaded(folder: Path, processor: Any, device_map: Any = None, **options: Any) -> HookedVLM:
    return HookedVLM.from_pretrained(folder, dtype="float64", processor=processor, device_map=device_map, **options)


@pytest.fixture(scope="module", params=["llava, a half", "llava, all", "qwen2_5_vl, all"])
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[HookedVLM, HookedVLM]:
    """A model loaded whole, and the same with a half of its weights, or all of them, on disk."""
    family, _, how_much = request.param.partition(", ")
    folder, disk = (tmp_path_factory.mktemp(name) for name in ("checkpoint", "offloaded"))
    hf, processor = tiny_vlms.make(family)
    hf.double().save_pretrained(folder)
    whole = loaded(folder, processor)
    half = sum(weight.nbytes for weight in whole.hf_model.parameters()) // 2
    where: dict[str, Any] = {"device_map": {"": "disk"}}
    if how_much == "a half":
        where = {"device_map": "auto", "max_memory": {"cpu": half}}
    away = loaded(folder, processor, **where, offload_folder=disk)
    share = sum(weight.is_meta for weight in away.hf_model.parameters()) / len(list(away.hf_model.parameters()))
    assert share == 1 if how_much == "all" else 0.2 < share < 0.8
    return whole, away


@pytest.mark.parametrize("verb", VERBS)
def test_offloaded_weights_give_the_numbers_of_a_model_loaded_whole(
    models: tuple[HookedVLM, HookedVLM], verb: str
) -> None:
    whole, away = models
    pairs = made_pairs(single_tokens(whole))
    expected, found = (VERBS[verb](model, pairs) for model in (whole, away))
    assert float(abs(expected.logit_diff_change).max()) > 1e-3, "patches that move nothing prove nothing"
    xr.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_an_offloaded_model_is_known_as_the_same_model(models: tuple[HookedVLM, HookedVLM]) -> None:
    whole, away = models
    pairs = made_pairs(single_tokens(whole))
    one, two = (patching.patch_heads(model, pairs, layers=[2], **WORDS) for model in models)
    assert one.model_fingerprint == two.model_fingerprint
    assert whole.device == away.device == torch.device("cpu")


def test_what_needs_a_matrix_says_that_it_is_offloaded(models: tuple[HookedVLM, HookedVLM]) -> None:
    _, away = models
    with pytest.raises(ValueError, match=r"unembedding.*offloaded.*on a device that holds it"):
        patching.logit_lens(away, made_pairs(single_tokens(away)), **QUIET)
    with pytest.raises(ValueError, match="offloaded"):
        away.block("language", 2).attention.W_O  # noqa: B018 -- looking is what fails


def test_weights_that_are_nowhere_are_named() -> None:
    hf, _ = tiny_vlms.make("llava")
    with pytest.raises(ValueError, match=r"lm_head.weight.*meta device.*load it with from_pretrained"):
        numbers_of(hf.to("meta"), "lm_head.weight")


def test_patches_of_a_model_in_four_bits_are_those_of_its_own_forward_pass(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="weights of four bits need bitsandbytes")
    import transformers

    tiny = tiny_vlms.llava()
    # Packed for a CPU, weights are in blocks of 32 rows.
    tiny.config.vision_config.update({"hidden_size": 64, "intermediate_size": 64})
    tiny.config.text_config.update({"hidden_size": 64, "num_key_value_heads": 4, "head_dim": 16})
    hf, processor = tiny_vlms.make(tiny)
    hf.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    config = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    try:
        model = HookedVLM.from_pretrained(
            tmp_path, dtype="float32", processor=processor, quantization_config=config, device_map="cpu"
        )
    except (RuntimeError, ImportError, ValueError) as error:
        pytest.skip(f"bitsandbytes does not quantise on this CPU: {error}")
    decoder = Decoder.of(model)
    assert decoder.blocks[0].attn.o.weight.dtype == torch.uint8
    base, other = (
        record(decoder, model.prepare(tiny_vlms.picture(seed, 56), "is this apple red ?")) for seed in (1, 2)
    )
    inputs = model.prepare(tiny_vlms.picture(1, 56), "is this apple red ?")
    assert max(one.apart for one in check_patches(inputs, base, other, n=8)) < 1e-4
    with pytest.raises(ValueError, match="quantised"):
        model.block("language", 0).attention.W_O  # noqa: B018
    found = patching.patch_heads(model, made_pairs(single_tokens(model)), controls=("self",), **WORDS)
    assert float(abs(found.logit_diff_change).max()) > 1e-3
