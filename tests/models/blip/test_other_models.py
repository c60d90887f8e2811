"""Models and names that are not ours to load: adapters, wrappers, models without plain weights, misspelt names."""

import pytest
import torch

from made_up import made_up_pairs
from notice_lens import HookedBLIP, patching
from notice_lens.models.blip.random_blip import random_hf, save_random_checkpoint


@pytest.fixture
def vqa_folder(tmp_path):
    return save_random_checkpoint(tmp_path / "checkpoint", "vqa")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("blip-vqa-base", "Salesforce/blip-vqa-base"),
        ("BLIP-VQA-capfilt-large", "Salesforce/blip-vqa-capfilt-large"),
        ("blip-image-captioning-bse", "Salesforce/blip-image-captioning-base"),
        ("salesforce/blip-itm-base-coc", "Salesforce/blip-itm-base-coco"),
    ],
)
def test_a_name_close_to_a_published_one_is_guessed(name, meant):
    with pytest.raises(FileNotFoundError, match=f"did you mean {meant}"):
        HookedBLIP.from_pretrained(name)
    with pytest.raises(FileNotFoundError) as error:
        HookedBLIP.from_pretrained("gpt2")
    assert "did you mean" not in str(error.value)


def test_adapters_alone_are_no_model(vqa_folder):
    (vqa_folder / "config.json").rename(vqa_folder / "adapter_config.json")
    with pytest.raises(FileNotFoundError, match=r"adapters and not a model: load their base model, merge them"):
        HookedBLIP.from_pretrained(vqa_folder)


class PeftModel(torch.nn.Module):
    """As peft wraps a model."""

    def __init__(self, base_model):
        super().__init__()
        self.base_model = base_model


class PeftModelForSeq2Seq(PeftModel):
    pass


class Lora(torch.nn.Module):
    """As peft puts adapters into a model."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer, self.lora_A = base_layer, torch.nn.ModuleDict({"default": torch.nn.Linear(2, 2)})


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, on importing its compiler
@pytest.mark.parametrize(
    ("wrap", "cause", "way_out"),
    [
        (torch.compile, "OptimizedModule", "model._orig_mod"),
        (torch.nn.DataParallel, "DataParallel", "model.module"),
        (PeftModel, "PeftModel", r"model.merge_and_unload\(\)"),
        (PeftModelForSeq2Seq, "PeftModel", r"model.merge_and_unload\(\)"),
    ],
)
def test_a_wrapped_model_says_how_to_unwrap_it(vqa, wrap, cause, way_out):
    with pytest.raises(TypeError, match=rf"wrapped in {cause}: .* Give {way_out} instead"):
        HookedBLIP.from_hf(wrap(vqa.hf), vqa.model.processor)
    if wrap is not torch.compile:
        with pytest.raises(TypeError, match=rf"wrapped in {cause}"):
            patching.sweep(wrap(vqa.model), made_up_pairs("vqa"), "text.attn", progress=False)


def test_a_model_without_plain_weights_says_so():
    with_adapters = random_hf()
    with_adapters.text_encoder.pooler = Lora(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"adapters in it, such as text_encoder.pooler.base_layer.weight: merge them"):
        HookedBLIP.from_hf(with_adapters)
    with pytest.raises(ValueError, match=r"\d+ of \d+ weights are on the meta device, .*without device_map"):
        HookedBLIP.from_hf(random_hf().to("meta"))
    offloaded = random_hf()
    offloaded.text_decoder.to("meta")
    with pytest.raises(ValueError, match=r"weights are on the meta device, .* such as text_decoder"):
        HookedBLIP.from_hf(offloaded)
    quantised = random_hf()
    quantised.itm = torch.nn.ParameterDict(
        {"weight": torch.nn.Parameter(torch.zeros(3, 1, dtype=torch.uint8), requires_grad=False)}
    )
    with pytest.raises(ValueError, match=r"weights are quantised, such as itm.weight: .* without quantization_config"):
        HookedBLIP.from_hf(quantised)
