"""BLIP as a TransformerBridge: Hugging Face's logits, HookedBLIP's activations, and the same numbers of patching."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformer_lens import patching as tl_patching
from transformer_lens.factories import architecture_adapter_factory as adapters
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources.transformers import source as booting
from transformers import BlipForQuestionAnswering

import notice_lens
from conftest import Pair, make_pair, relative_error
from notice_lens import HookedBLIP, circuits, patching, study, viz
from notice_lens import pairs as pairs_room
from notice_lens.mini import mini_folder
from notice_lens.models import BLIPInputs, BridgeLens
from notice_lens.models.blip.bridge.adapter import BLIPArchitectureAdapter
from notice_lens.models.stack_view import LENSES
from notice_lens.pairs import MinimalPairs, mini_world
from oracle import Oracle

ROOT = Path(__file__).parents[3]
ARCHITECTURE = "BlipForQuestionAnswering"
CROSSES = tuple(name for name in LENSES if name.endswith("cross_attn"))


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    notice_lens.register()


def boot(folder: Path, dtype: torch.dtype = torch.float64) -> Any:
    return TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=dtype)


@dataclass(frozen=True)
class Bridged:
    """A bridge and a HookedBLIP of the same folder, with the inputs of pairs."""

    bridge: Any
    model: HookedBLIP
    pairs: MinimalPairs
    clean: BLIPInputs
    corrupted: BLIPInputs

    def lens(self, name: str, inputs: BLIPInputs, **options: Any) -> BridgeLens:
        return BridgeLens(self.bridge, name, **as_keywords(inputs), **options)

    def metric(self, logits: Tensor) -> Tensor:
        """The mean logit difference of the pairs."""
        right, wrong = (
            torch.tensor([self.model.tokenizer.convert_tokens_to_ids(answer) for answer in self.pairs[column]])
            for column in ("correct_answer", "incorrect_answer")
        )
        rows = torch.arange(len(right))
        return (logits[rows, 0, right] - logits[rows, 0, wrong]).mean()


def as_keywords(inputs: BLIPInputs) -> dict[str, Any]:
    given = {"input_ids": inputs.input_ids, "pixel_values": inputs.pixel_values, "decoder_input_ids": inputs.answer_ids}
    return {**given, "attention_mask": inputs.attention_mask}


@pytest.fixture(scope="module")
def bridged() -> Bridged:
    """The embedded model, which answers, in float64."""
    model = HookedBLIP.mini(dtype=torch.float64)
    pairs = mini_world("states", 3, seed=0)
    clean, corrupted = pairs.prepare(model), pairs.prepare(model, image="corrupt")
    return Bridged(boot(mini_folder()), model, pairs, clean, corrupted)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Pair]:
    """A bridge of a random checkpoint in a folder, and the pair of models whose weights it has."""
    folder, pair = tmp_path_factory.mktemp("blip"), make_pair("vqa")
    pair.hf.save_pretrained(folder)
    pair.model.processor.save_pretrained(folder)
    return boot(folder, torch.float32), pair


def test_logits_are_hugging_faces(tiny: tuple[Any, Pair]) -> None:
    bridge, pair = tiny
    inputs = pair.inputs(batch=3, answer_length=4)
    expected = Oracle(pair.hf, "vqa").logits(inputs.pixel_values, inputs.input_ids, inputs.answer_ids)
    with torch.no_grad():
        got = bridge(inputs.input_ids, pixel_values=inputs.pixel_values, decoder_input_ids=inputs.answer_ids)
    assert got.shape == (3, 4, pair.hf.config.text_config.vocab_size)
    assert relative_error(got, expected) <= 1e-5


@pytest.mark.parametrize("world", ["drawn", "pictures"])
def test_logits_of_the_embedded_models_are_hugging_faces(world: str) -> None:
    folder = mini_folder(world)
    pairs, model = mini_world("states", 2, seed=0, world=world), HookedBLIP.mini(world)
    inputs, bridge = pairs.prepare(model), boot(folder, torch.float32)
    hf = BlipForQuestionAnswering.from_pretrained(folder, dtype=torch.float32).eval()
    start = torch.full_like(inputs.input_ids[:, :1], hf.decoder_start_token_id)
    with torch.no_grad():
        image = hf.vision_model(pixel_values=inputs.pixel_values).last_hidden_state
        question = hf.text_encoder(input_ids=inputs.input_ids, encoder_hidden_states=image)[0]
        expected = hf.text_decoder(input_ids=start, encoder_hidden_states=question).logits
        got = bridge(inputs.input_ids, pixel_values=inputs.pixel_values)  # [DEC] alone is the default
    assert relative_error(got, expected) <= 1e-5


def test_padding_changes_nothing(bridged: Bridged) -> None:
    """Hugging Face's own forward pass lets the decoder look at padding, since the mask gets lost on the way."""
    picture = bridged.pairs[0].clean_image
    questions = ["what?", "is this circle green or purple?", "what colour?"]
    together = bridged.model.prepare(picture, questions)
    assert 0 < together.attention_mask.float().mean() < 1
    with torch.no_grad():
        alone = [bridged.bridge(**bare(bridged.model.prepare(picture, question))) for question in questions]
        padded, unmasked = (
            bridged.bridge(**bare(together)),
            bridged.bridge(**{**bare(together), "attention_mask": None}),
        )
        hosted = bridged.model(together)
    torch.testing.assert_close(padded, torch.cat(alone), rtol=0, atol=1e-10)
    torch.testing.assert_close(padded, hosted, rtol=0, atol=1e-10)
    assert (unmasked - padded).abs().max() > 1e-3


def bare(inputs: BLIPInputs) -> dict[str, Any]:
    """As a bridge's forward pass names them."""
    given = as_keywords(inputs)
    return {"input": given.pop("input_ids"), **{name: value for name, value in given.items() if value is not None}}


@pytest.mark.parametrize(
    ("name", "axis"), [*((name, "query") for name in LENSES), *((name, "source") for name in CROSSES)]
)
def test_every_hook_point_has_the_activation_of_hooked_blip(bridged: Bridged, name: str, axis: str) -> None:
    ours = bridged.model.lens(name, bridged.clean, axis=axis)
    theirs = bridged.lens(name, bridged.clean, axis=axis)
    assert theirs.tokens.shape == ours.tokens.shape
    _, expected = ours.run_with_cache(ours.tokens)
    _, got = theirs.run_with_cache(theirs.tokens)
    wanted = [key for key in expected if key.startswith("blocks.")]
    assert set(wanted) <= set(got)
    assert len(wanted) >= (2 if axis == "source" else 15) * len(theirs.blocks)
    for key in wanted:
        seen = expected[key] > torch.finfo(torch.float64).min / 2  # scores where the decoder must not look
        torch.testing.assert_close(got[key][seen], expected[key][seen], rtol=1e-9, atol=1e-9, msg=key)


def test_embeddings_are_seen_before_positions_are_added_in_place(bridged: Bridged) -> None:
    _, expected = bridged.model.run_with_cache(bridged.clean)
    with torch.no_grad():
        _, got = bridged.bridge.run_with_cache(
            bridged.clean.input_ids,
            pixel_values=bridged.clean.pixel_values,
            attention_mask=bridged.clean.attention_mask,
        )
    for theirs, ours in {
        "embed.hook_out": "text.hook_embed",
        "decoder_embed.hook_out": "decoder.hook_embed",
        "vision_encoder.post_layernorm.hook_normalized": "vision.ln_final.hook_normalized",  # not of [CLS] once more
    }.items():
        torch.testing.assert_close(got[theirs], expected[ours], rtol=1e-9, atol=1e-9, msg=theirs)


def turned(activation: Tensor, hook: Any) -> Tensor:
    """Turn the activation around, at half its size, which a LayerNorm does not undo."""
    return activation.flip(-1) * 0.5


@pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale/hook_normalized:UserWarning")
@pytest.mark.parametrize("name", LENSES)
def test_an_edit_changes_the_logits_as_in_hooked_blip(bridged: Bridged, name: str) -> None:
    ours, theirs = bridged.model.lens(name, bridged.clean), bridged.lens(name, bridged.clean)
    with torch.no_grad():
        unedited = theirs(theirs.tokens)
        for full in (key for key in ours.hook_dict if key.startswith("blocks.1.") and key in theirs.full_names):
            if full.endswith(("hook_result", "hook_q_input", "hook_k_input", "hook_v_input")):
                continue
            expected = ours.run_with_hooks(ours.tokens, fwd_hooks=[(full, turned)])
            got = theirs.run_with_hooks(theirs.tokens, fwd_hooks=[(full, turned)])
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-9, msg=full)
            # One token of an answer has nothing else to look at, so its scores cannot matter.
            inert = name == "decoder.attn" and full.endswith(("hook_q", "hook_k", "hook_attn_scores"))
            assert inert or (got - unedited).abs().max() > 1e-7, full


HELPERS = {
    "text.cross_attn": ("attn_head_out_all_pos", "attn_head_pattern_all_pos", "resid_pre", "mlp_out"),
    "text.attn": ("attn_head_k_all_pos",),
    "vision.attn": ("attn_head_v_all_pos",),
    "decoder.cross_attn": ("attn_head_out_by_pos",),
}
MORE_HELPERS = {
    "text.cross_attn": ("attn_head_q_all_pos", "resid_mid", "attn_out"),
    "text.attn": ("attn_head_out_all_pos", "attn_head_v_all_pos"),
    "vision.attn": ("attn_head_pattern_all_pos",),
    "decoder.cross_attn": ("attn_head_pattern_by_pos",),
}


@pytest.mark.parametrize(
    ("name", "helper"),
    [(name, helper) for name in HELPERS for helper in HELPERS[name]]
    + [pytest.param(name, helper, marks=pytest.mark.large) for name in MORE_HELPERS for helper in MORE_HELPERS[name]],
)
def test_the_helpers_of_transformer_lens_give_the_numbers_of_our_lens(bridged: Bridged, name: str, helper: str) -> None:
    patch: Callable[..., Tensor] = getattr(tl_patching, f"get_act_patch_{helper}")
    found = []
    for make in (bridged.model.lens, bridged.lens):
        clean, corrupted = make(name, bridged.clean), make(name, bridged.corrupted)
        with torch.no_grad():
            _, cache = clean.run_with_cache(clean.tokens)
            found.append(patch(corrupted, corrupted.tokens, cache, bridged.metric))
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-6)
    assert found[0].std() > 1e-3


@pytest.mark.parametrize("site", ["text.cross_attn", "vision.attn"])
def test_they_give_the_numbers_of_our_sweep(bridged: Bridged, site: str) -> None:
    clean, corrupted = bridged.lens(site, bridged.clean), bridged.lens(site, bridged.corrupted)
    with torch.no_grad():
        _, cache = clean.run_with_cache(clean.tokens)
        patched = tl_patching.get_act_patch_attn_head_out_all_pos(corrupted, corrupted.tokens, cache, bridged.metric)
        change = patched - bridged.metric(corrupted(corrupted.tokens))
    effects = patching.patch_heads(
        bridged.model, bridged.pairs, site, positions="all", controls=(), metrics="logit_diff_change", progress=False
    )
    expected = effects.logit_diff_change.mean("pair").values
    np.testing.assert_allclose(change.numpy(), expected, rtol=0, atol=1e-5)


def test_hugging_face_generates_through_the_bridge(bridged: Bridged) -> None:
    hf = BlipForQuestionAnswering.from_pretrained(mini_folder(), dtype=torch.float64).eval()
    given = {"input_ids": bridged.clean.input_ids, "pixel_values": bridged.clean.pixel_values, "max_new_tokens": 5}
    assert bridged.bridge.original_model.generate(**given).equal(hf.generate(**given))


def test_what_a_bridge_of_blip_cannot_do_is_refused(bridged: Bridged) -> None:
    given = bare(bridged.clean)
    with pytest.raises(NotImplementedError, match="does not support TransformerBridge's shifted causal loss"):
        bridged.bridge(**given, return_type="loss")
    with pytest.raises(Exception, match="enerat"):
        bridged.bridge.generate(given["input"])
    with pytest.raises(Exception, match="ompatibility"):
        bridged.bridge.enable_compatibility_mode()


def test_from_hf_takes_the_bridges_model(bridged: Bridged) -> None:
    model = HookedBLIP.from_hf(bridged.bridge.original_model, bridged.bridge.processor)
    with torch.no_grad():
        assert model(bridged.clean).equal(bridged.model(bridged.clean))
        # The bridge is as it was: its logits, and hooks that fire.
        lens = bridged.lens("text.attn", bridged.clean)
        assert "blocks.0.attn.hook_z" in lens.run_with_cache()[1]


# Refusals


VERBS: dict[str, Callable[..., Any]] = {
    "sweep": lambda bridge, pairs: patching.sweep(bridge, pairs, "text.cross_attn"),
    "patch_inputs": lambda bridge, pairs: patching.patch_inputs(bridge, None, None, "text.cross_attn", metric=len),  # pyright: ignore
    "patch_heads": lambda bridge, pairs: patching.patch_heads(bridge, pairs),
    "patch_modules": lambda bridge, pairs: patching.patch_modules(bridge, pairs),
    "knockout": lambda bridge, pairs: patching.knockout(bridge, pairs),
    "logit_lens": lambda bridge, pairs: patching.logit_lens(bridge, pairs),
    "run_variants": lambda bridge, pairs: patching.run_variants(bridge, pairs, {"none": []}),
    "pairs_of_heads": lambda bridge, pairs: patching.pairs_of_heads(bridge, pairs, ["text.cross_attn.L1.H3"]),
    "patch_paths": lambda bridge, pairs: patching.patch_paths(bridge, pairs, "text.cross_attn", "text.output"),
    "attribute": lambda bridge, pairs: patching.attribute(bridge, pairs),
    "screen": lambda bridge, pairs: patching.screen(bridge, pairs),
    "ablate": lambda bridge, pairs: patching.ablate(bridge, pairs, "text.cross_attn"),
    "faithfulness": lambda bridge, pairs: patching.faithfulness(bridge, pairs, ["text.cross_attn.L1.H3"]),
    "split": lambda bridge, pairs: patching.split(bridge, pairs),
    "restoration_curve": lambda bridge, pairs: circuits.restoration_curve(bridge, pairs),
    "minimal_circuit": lambda bridge, pairs: circuits.minimal_circuit(bridge, pairs),
    "circuit_graph": lambda bridge, pairs: circuits.circuit_graph(bridge, pairs, ["text.cross_attn.L1.H3"]),
    "head_functions": lambda bridge, pairs: circuits.head_functions(bridge, pairs),
    "label_heads": lambda bridge, pairs: circuits.label_heads(bridge, pairs, None, heads=[]),  # pyright: ignore
    "attention_maps": lambda bridge, pairs: circuits.attention_maps(bridge, pairs),
    "viz.lens": lambda bridge, pairs: viz.lens(bridge, pairs),
    "behaviour_filter": lambda bridge, pairs: pairs_room.behaviour_filter(bridge, pairs),
    "run_study": lambda bridge, pairs: study.run_study(bridge, {"states": pairs}, Path("nowhere")),
    "validate": lambda bridge, pairs: pairs.validate(bridge),
    "prepare": lambda bridge, pairs: pairs.prepare(bridge),
    "HookedBLIP.from_hf": lambda bridge, pairs: HookedBLIP.from_hf(bridge),
    "HookedVLM.from_hf": lambda bridge, pairs: notice_lens.HookedVLM.from_hf(bridge),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.usefixtures("unchecked")
def test_a_verb_says_what_to_write_for_a_bridge(bridged: Bridged, verb: str) -> None:
    with pytest.raises(TypeError) as refused:
        VERBS[verb](bridged.bridge, bridged.pairs)
    assert "TransformerBridge" in str(refused.value)
    assert "HookedBLIP.from_hf(bridge.original_model, bridge.processor)" in str(refused.value)


def test_a_lens_needs_a_bridge_of_blip_and_a_name_that_it_has(bridged: Bridged) -> None:
    given = as_keywords(bridged.clean)
    with pytest.raises(TypeError, match="expected a TransformerBridge of BlipForQuestionAnswering, got a HookedBLIP"):
        BridgeLens(bridged.model, "text.attn", **given)
    with pytest.raises(ValueError, match="no lens 'text.cross'; did you mean 'text.cross_attn'"):
        bridged.lens("text.cross", bridged.clean)
    with pytest.raises(ValueError, match="looks at its own positions"):
        bridged.lens("text.attn", bridged.clean, axis="source")
    lens = bridged.lens("text.cross_attn", bridged.clean)
    with pytest.raises(KeyError, match="on the lens with axis='source'"):
        lens.run_with_hooks(fwd_hooks=[("blocks.0.attn.hook_k", turned)])
    with pytest.raises(KeyError, match=r"no hook point 'blocks.0.attn.hook_zz' .*nearest: blocks.0.attn.hook_z"):
        bridged.lens("text.attn", bridged.clean).run_with_hooks(fwd_hooks=[("blocks.0.attn.hook_zz", turned)])
    with pytest.raises(ValueError, match=r"bound to tokens of shape \[3, 9\]"):
        lens(lens.tokens[:, :4])


# Registering


def test_registering_again_changes_nothing() -> None:
    before = (booting.get_hf_model_class_for_architecture, dict(adapters.SUPPORTED_ARCHITECTURES))
    notice_lens.register()
    assert (booting.get_hf_model_class_for_architecture, dict(adapters.SUPPORTED_ARCHITECTURES)) == before
    assert booting.get_hf_model_class_for_architecture("GPT2LMHeadModel").__name__ == "AutoModelForCausalLM"
    assert booting.get_hf_model_class_for_architecture("LlavaForConditionalGeneration").__name__ != before[0](
        ARCHITECTURE
    )


def test_the_entry_point_names_the_adapter() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    module, _, name = declared["transformer_lens.architectures"][ARCHITECTURE].partition(":")
    assert getattr(import_module(module), name) is BLIPArchitectureAdapter


SCRIPT = """
import sys, warnings
sys.path.insert(0, {folder!r})
warnings.simplefilter("error")
from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory as factory
from transformer_lens.model_bridge import TransformerBridge
from notice_lens import register
folder, said = {weights!r}, []
try:
    TransformerBridge.boot_transformers(folder, device="cpu")
except ValueError as error:
    said.append(str(error)[:48])
for _ in range(2):
    register()
    said.append(type(TransformerBridge.boot_transformers(folder, device="cpu").adapter).__name__)
said.append(factory._adapters["BlipForQuestionAnswering"].__name__)
print(said)
"""


def test_the_entry_point_alone_is_not_asked_by_the_booting_code_and_registering_beside_it_warns_of_nothing(
    tmp_path: Path,
) -> None:
    """TransformerLens 4.3 decides whether it knows an architecture before it looks for entry points."""
    if not entry_points(group="transformer_lens.architectures", name=ARCHITECTURE):
        # The package runs from a folder that was not installed since the entry point is there.
        info = tmp_path / "entry_points_of_notice_lens-0.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: entry_points_of_notice_lens\nVersion: 0.0\n")
        home = f"{BLIPArchitectureAdapter.__module__}:BLIPArchitectureAdapter"
        (info / "entry_points.txt").write_text(f"[transformer_lens.architectures]\n{ARCHITECTURE} = {home}\n")
    script = SCRIPT.format(folder=str(tmp_path), weights=str(mini_folder()))
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ast.literal_eval(ran.stdout.splitlines()[-1]) == [
        "Could not determine supported architecture from ",
        *["BLIPArchitectureAdapter"] * 3,
    ]
