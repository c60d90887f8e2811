"""What TransformerLens's own bridge does on vision-language models: "What a bare bridge does here" of the docs.

A bridge is booted from the tiny checkpoints, offline. `boot_transformers` runs pip where a processor wants torchvision,
which is not let through here; the check that refuses Qwen and GLM-4V without torchvision is passed over, since their
modules do not need it.
"""

import subprocess
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import patching
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter
from transformers import AutoModelForImageTextToText

import tiny_vlms
from hosted_vlms import LIBRARY_WARNINGS, QUESTION, Tiny, tiny_model
from notice_lens.patching import patch_inputs

pytestmark = LIBRARY_WARNINGS
INSIDE = ("llava", "llava_next", "llava_onevision", "gemma3", "idefics3")
"""The bridge computes attention of the language model itself."""
DELEGATED = ("qwen2_5_vl", "qwen3_vl", "glm4v")
"""It leaves attention to Hugging Face's module, and shows the pattern afterwards."""
REFUSED = ("qwen2_vl", "paligemma", "smolvlm", "internvl", "mllama")
READ_BLOCK = {"llava": 1, "llava_next": 1, "llava_onevision": 2}
"""The block of the tower whose output the projector is given."""


Installers = list[list[str]]
"""The commands that booting would have run."""


@dataclass(frozen=True)
class Bridged:
    """A bridge, and the same model hosted here."""

    family: str
    bridge: Any
    tiny: Tiny
    folder: Path

    def logits(self, inputs: Any, hooks: list[tuple[str, Callable]] | None = None) -> Tensor:
        """The bridge's, with everything that the processor gives."""
        rest = {name: value for name, value in inputs.items() if name != "input_ids"}
        with torch.no_grad():
            return self.bridge.run_with_hooks(inputs["input_ids"], fwd_hooks=hooks or [], **rest)

    def cache(self, inputs: Any) -> Any:
        rest = {name: value for name, value in inputs.items() if name != "input_ids"}
        with torch.no_grad():
            return self.bridge.run_with_cache(inputs["input_ids"], **rest)[1]

    def hosted_moves(self, name: str) -> bool:
        """Whether zeros at a hook point of the hosted model change the logits."""
        with torch.no_grad():
            edited = self.tiny.model.run_with_hooks(self.tiny.clean, fwd_hooks=[(name, zero)])
            return bool((edited - self.tiny.model(self.tiny.clean)).abs().max() > 1e-4)


def zero(activation: Tensor, hook: Any) -> Tensor:
    return torch.zeros_like(activation)


def write_zero(activation: Tensor, hook: Any) -> None:
    activation.zero_()


def booted(folder: Path, installers: Installers, *, check: bool = False) -> Any:
    """Return a bridge; processes that booting starts are noted, and not started: they change the environment."""

    def note(command: list[str], *_: Any, **__: Any) -> None:
        installers.append(command)
        raise RuntimeError("no installer runs in tests")

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(subprocess, "Popen", note)
        if not check:
            patch.setattr(ArchitectureAdapter, "_check_required_libraries", lambda _: None)
        return TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=torch.float64)


@pytest.fixture(scope="module")
def bridged(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bridged]:
    """Bridges by family, each booted once."""
    made: dict[str, Bridged] = {}

    def get(family: str) -> Bridged:
        if family not in made:
            folder = tiny_vlms.write(family, tmp_path_factory.mktemp(family))
            try:
                bridge = booted(folder, [])
            except (ValueError, ImportError) as error:
                pytest.skip(f"no bridge of {family}: {str(error)[:80]}")
            made[family] = Bridged(family, bridge, tiny_model(family), folder)
        return made[family]

    return get


def difference(logits: Tensor) -> Tensor:
    return logits[..., 7] - logits[..., 9]


def metric(logits: Tensor) -> Tensor:
    return difference(logits[0, -1])


@pytest.mark.parametrize("family", [*INSIDE, *DELEGATED])
def test_with_everything_handed_over_it_computes_the_model(bridged: Callable, family: str) -> None:
    """A bridge that is given the picture is right, and so are patches of heads in `run_with_hooks`."""
    it = bridged(family)
    clean, corrupted = it.tiny.clean, it.tiny.corrupted
    hf = AutoModelForImageTextToText.from_pretrained(it.folder, dtype=torch.float64, attn_implementation="eager")
    with torch.no_grad():
        assert torch.equal(it.logits(clean), hf.eval()(**clean).logits)
    found = patch_inputs(it.tiny.model, clean, corrupted, metric=difference, positions=[3, -1], progress=False)
    values = it.cache(clean)
    gap = abs(float(found.metric_clean - found.metric_corrupted))
    for layer, head, position in ((0, 0, 3), (0, 3, -1), (1, 2, -1), (1, 1, 3)):

        def put(z: Tensor, hook: Any, head: int = head, position: int = position) -> None:
            z[:, position, head] = values[hook.name][:, position, head]

        number = metric(it.logits(corrupted, [(f"blocks.{layer}.attn.hook_z", put)]))
        cell = found.metric.sel(layer=layer, head=head, position=position % clean["input_ids"].shape[1])
        # Hugging Face's eager attention, which a bridge needs, takes its softmax in float32.
        assert abs(float(number) - float(cell)) < 1e-4 * gap


@pytest.mark.parametrize("family", [*INSIDE, *DELEGATED])
def test_transformer_lens_patching_leaves_the_picture_out(bridged: Callable, family: str) -> None:
    """Without a warning: other pictures give the same numbers, of a model that sees none."""
    it = bridged(family)
    third = it.tiny.model.prepare(tiny_vlms.picture(3, 56), QUESTION)
    pictures = (it.tiny.corrupted, third)
    values = it.cache(it.tiny.clean)
    with torch.no_grad():
        blind = float(metric(it.bridge(third["input_ids"])))
        one, other = (
            patching.get_act_patch_attn_head_out_all_pos(it.bridge, inputs["input_ids"], values, metric)
            for inputs in pictures
        )
        _, unseen = it.bridge.run_with_cache(third["input_ids"])
        nothing = patching.get_act_patch_attn_head_out_all_pos(it.bridge, third["input_ids"], unseen, metric)
    assert one.std() > 0.1
    assert torch.equal(one, other)
    torch.testing.assert_close(nothing, torch.full_like(nothing, blind), atol=0, rtol=1e-6)
    lenses = [it.tiny.model.lens("language.attn", inputs) for inputs in pictures]
    _, seen = it.tiny.model.lens("language.attn", it.tiny.clean).run_with_cache(lenses[0].tokens)
    right = [patching.get_act_patch_attn_head_out_all_pos(lens, lens.tokens, seen, metric) for lens in lenses]
    assert (right[0] - right[1]).abs().min() > 1e-3
    assert all((one - numbers).abs().max() > 0.5 for numbers in right)


@pytest.mark.parametrize(
    "name",
    ["resid_pre", "resid_mid", "attn_out", "mlp_out", *(f"attn_head_{head}_all_pos" for head in ("q", "k", "v"))],
)
def test_so_do_the_other_sweeps(bridged: Callable, name: str) -> None:
    """Patched from a run without a picture into one without, nothing changes: none comes from elsewhere."""
    it = bridged("llava")
    ids = it.tiny.corrupted["input_ids"]
    with torch.no_grad():
        blind, unseen = it.bridge.run_with_cache(ids)
        found = getattr(patching, f"get_act_patch_{name}")(it.bridge, ids, unseen, metric)
    torch.testing.assert_close(found, torch.full_like(found, float(metric(blind))), atol=0, rtol=1e-6)
    assert abs(float(metric(blind)) - float(metric(it.logits(it.tiny.corrupted)))) > 0.1


@pytest.mark.parametrize("family", DELEGATED)
@pytest.mark.parametrize("leaf", ["hook_pattern", "hook_attn_scores"])
def test_edits_of_patterns_are_discarded(bridged: Callable, family: str, leaf: str) -> None:
    """With a warning if a tensor is returned, and without one if it is written to. Scores are behind the softmax."""
    it = bridged(family)
    name = f"blocks.1.attn.{leaf}"
    with pytest.warns(UserWarning, match="The edit is discarded"):
        edited = it.logits(it.tiny.clean, [(name, zero)])
    assert torch.equal(edited, it.logits(it.tiny.clean))
    assert torch.equal(it.logits(it.tiny.clean, [(name, write_zero)]), edited)
    assert it.hosted_moves("language." + name)
    values = it.cache(it.tiny.clean)
    assert torch.equal(values["blocks.1.attn.hook_attn_scores"], values["blocks.1.attn.hook_pattern"])
    sums = values["blocks.1.attn.hook_attn_scores"].sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums), atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", DELEGATED)
def test_a_sweep_of_patterns_is_one_number(bridged: Callable, family: str) -> None:
    """Without a warning, since TransformerLens's patching writes to the tensor."""
    it = bridged(family)
    values, ids = it.cache(it.tiny.clean), it.tiny.corrupted["input_ids"]
    with torch.no_grad():
        found = patching.get_act_patch_attn_head_pattern_all_pos(it.bridge, ids, values, metric)
    assert found.max() == found.min()
    lens = it.tiny.model.lens("language.attn", it.tiny.corrupted)
    _, seen = it.tiny.model.lens("language.attn", it.tiny.clean).run_with_cache(lens.tokens)
    assert patching.get_act_patch_attn_head_pattern_all_pos(lens, lens.tokens, seen, metric).std() > 1e-4


@pytest.mark.parametrize("family", DELEGATED)
@pytest.mark.parametrize("leaf", ["hook_rot_q", "hook_rot_k"])
def test_rotated_queries_and_keys_are_hooks_that_never_fire(bridged: Callable, family: str, leaf: str) -> None:
    """Neither an error nor a warning."""
    it = bridged(family)
    name, fired = f"blocks.1.attn.{leaf}", []

    def note(activation: Tensor, hook: Any) -> Tensor:
        fired.append(hook.name)
        return torch.zeros_like(activation)

    assert name in it.bridge.hook_dict
    assert torch.equal(it.logits(it.tiny.clean, [(name, note)]), it.logits(it.tiny.clean))
    assert not fired
    assert it.hosted_moves("language." + name)


@pytest.mark.parametrize("family", DELEGATED)
def test_what_each_head_writes_is_refused(bridged: Callable, family: str) -> None:
    with pytest.raises(NotImplementedError, match="use_attn_result"):
        bridged(family).bridge.set_use_attn_result(True)
    model = tiny_model(family).model
    model.set_use_attn_result(True)
    try:
        _, cache = model.run_with_cache(tiny_model(family).clean, names_filter="language.blocks.1.attn.hook_result")
    finally:
        model.set_use_attn_result(False)
    assert cache["language.blocks.1.attn.hook_result"].shape[2] == 4


@pytest.mark.parametrize("family", INSIDE)
@pytest.mark.parametrize("leaf", ["hook_pattern", "hook_attn_scores", "hook_rot_q", "hook_rot_k"])
def test_elsewhere_attention_of_the_language_model_can_be_edited(bridged: Callable, family: str, leaf: str) -> None:
    """So that the table says no more than what holds."""
    it = bridged(family)
    edited = it.logits(it.tiny.clean, [(f"blocks.1.attn.{leaf}", zero)])
    assert (edited - it.logits(it.tiny.clean)).abs().max() > 0.1


@pytest.mark.parametrize("family", [*INSIDE, *DELEGATED])
def test_keys_and_values_are_not_expanded(bridged: Callable, family: str) -> None:
    values = bridged(family).cache(tiny_model(family).clean)
    assert values["blocks.1.attn.hook_k"].shape[2] == values["blocks.1.attn.hook_v"].shape[2] == 2


@pytest.mark.parametrize("family", INSIDE)
@pytest.mark.parametrize("leaf", ["hook_pattern", "hook_attn_scores"])
def test_edits_of_the_towers_patterns_are_discarded(bridged: Callable, family: str, leaf: str) -> None:
    it = bridged(family)
    with pytest.warns(UserWarning, match="The edit is discarded"):
        edited = it.logits(it.tiny.clean, [(f"vision_encoder.encoder_layers.0.attn.{leaf}", zero)])
    assert torch.equal(edited, it.logits(it.tiny.clean))
    written = it.logits(it.tiny.clean, [(f"vision_encoder.encoder_layers.0.attn.{leaf}", write_zero)])
    assert torch.equal(written, edited)
    assert it.hosted_moves(f"vision.blocks.0.attn.{leaf}")


@pytest.mark.parametrize("family", READ_BLOCK)
def test_edits_of_the_towers_block_that_is_read_do_nothing(bridged: Callable, family: str) -> None:
    """Without a warning: transformers has recorded the block's output before the bridge's hook runs."""
    it, block = bridged(family), READ_BLOCK[family]
    plain = it.logits(it.tiny.clean)
    inside = it.logits(it.tiny.clean, [(f"vision_encoder.encoder_layers.{block}.hook_mlp_out", zero)])
    assert (inside - plain).abs().max() > 1e-3
    edited = it.logits(it.tiny.clean, [(f"vision_encoder.encoder_layers.{block}.hook_resid_post", zero)])
    assert torch.equal(edited, plain)
    assert it.hosted_moves(f"vision.blocks.{block}.hook_resid_post")


@pytest.mark.parametrize("family", [*INSIDE, *DELEGATED])
def test_edits_of_the_towers_output_do_nothing(bridged: Callable, family: str) -> None:
    """Without a warning, but on Gemma 3 and Idefics3; the projector's output can be edited."""
    it = bridged(family)
    plain = it.logits(it.tiny.clean)
    same = torch.equal(it.logits(it.tiny.clean, [("vision_encoder.hook_out", zero)]), plain)
    assert same == (family not in ("gemma3", "idefics3"))
    edited = it.logits(it.tiny.clean, [("vision_projector.hook_out", zero)])
    assert (edited - plain).abs().max() > 1e-3


@pytest.mark.parametrize("family", DELEGATED)
def test_these_towers_have_no_heads(bridged: Callable, family: str) -> None:
    """Of Qwen's, attention as a whole has hooks; of GLM-4V's, not even blocks."""
    it = bridged(family)
    tower = {name for name in it.bridge.hook_dict if name.startswith("vision_encoder.")}
    assert not [name for name in tower if name.endswith(("hook_q", "hook_z", "hook_pattern"))]
    assert any(".blocks.0." in name for name in tower) == (family != "glm4v")
    assert it.hosted_moves("vision.blocks.0.attn.hook_z")


@pytest.mark.parametrize("family", REFUSED)
def test_these_families_cannot_be_booted(family: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Could not determine supported architecture"):
        booted(tiny_vlms.write(family, tmp_path / family), [])


NO_TORCHVISION = pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")


@NO_TORCHVISION
def test_booting_installs_torchvision(tmp_path: Path) -> None:
    """LLaVA-OneVision's processor reads videos too, with torchvision: booting runs pip to get it."""
    installers: Installers = []
    booted(tiny_vlms.write("llava_onevision", tmp_path / "llava_onevision"), installers, check=True)
    assert [command[-3:-1] for command in installers] == [["install", "torchvision"]]


@NO_TORCHVISION
@pytest.mark.parametrize("family", DELEGATED)
def test_without_torchvision_these_are_refused(family: str, tmp_path: Path) -> None:
    installers: Installers = []
    with pytest.raises(ImportError, match="torchvision"):
        booted(tiny_vlms.write(family, tmp_path / family), installers, check=True)
    assert not installers
