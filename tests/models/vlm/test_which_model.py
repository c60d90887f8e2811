"""The tables of docs/which_model.md say what the code does: families that are tested, found, and refused."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

import tiny_vlms
from hosted_pairs import FAMILIES as TINY
from hosted_pairs import PROMPTS, single_tokens
from hosted_vlms import LIBRARY_WARNINGS, tiny_model
from notice_lens import HookedVLM, circuits, patching
from notice_lens.models.vlm import families
from notice_lens.models.vlm.anatomy import model_parts
from notice_lens.pairs import MinimalPairs

pytestmark = LIBRARY_WARNINGS
PAGE = (Path(__file__).parents[3] / "docs" / "which_model.md").read_text(encoding="utf-8")
REFUSED = {
    "florence2": "encoder-decoder",
    "qwen3_5": "a recurrent mixer",
    "fuyu": "no vision tower found",
    "lfm2_vl": "no `ln_final` found",
    "llama4": "no `ln_final` found",
    "gemma4": "no `projector` found",
    "janus": "no `projector` found",
    "deepseek_vl": "no `projector` found",
    "kosmos-2": "no `projector` found",
    "ovis2": "no `projector` found",
    "paddleocr_vl": "no `projector` found",
}
"""Model types that the page calls refused, and what is said of them."""


def rows(heading: str) -> dict[str, list[str]]:
    """Return the table below a heading: the other cells of a row by its model type."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.+\|$", section, re.M)]
    return {cell[1].strip("`"): [cell[0], *cell[2:]] for cell in cells[2:]}


TESTED, PARTS_FOUND = rows("Families that are tested"), rows("Untested families whose parts are found")


def pair_with_region(model: HookedVLM) -> MinimalPairs:
    """Return one pair with a region, a quarter of the picture."""
    correct, foil = single_tokens(model)
    clean, corrupt = (tiny_vlms.picture(seed, 56) for seed in (1, 2))
    quarter = np.zeros((56, 56), bool)
    quarter[:28, :28] = True
    row = {
        "id": "pair", "task": "states", "clean_image": clean, "corrupt_image": corrupt, "clean_prompt": PROMPTS[0],
        "correct_answer": correct, "incorrect_answer": foil, "roles": {"object": "apple"},
        "clean_regions": {"thing": quarter}, "corrupt_regions": {"thing": quarter},
    }  # fmt: skip
    return MinimalPairs.from_rows([row], progress=False)


def agrees(said: str, verb: Any) -> None:
    """Check that a verb runs where the page says yes, and is refused where it says no."""
    if said == "yes":
        verb()
        return
    assert said.startswith("no")
    with pytest.raises(ValueError, match="no paths from|on no grid|one grid"):
        verb()


def test_every_tested_family_is_in_the_table() -> None:
    assert set(TESTED) == set(families.FAMILIES) | {"glm4v"}
    assert set(TESTED) == set(TINY)
    for model_type, family in families.FAMILIES.items():
        assert family.tested
        assert TESTED[model_type][0].startswith(family.name)


@pytest.mark.parametrize("family", TINY)
def test_a_row_says_what_runs_on_a_family(family: str) -> None:
    name, picture, by_size, regions, maps, from_tower = TESTED[family]
    model = tiny_model(family).model
    pairs = pair_with_region(model)
    assert model.cfg.image_sizes_matter == (by_size == "yes")
    places = [one for one in pairs.layout(model).segments("language", 0) if one.kind == "image"]
    is_tiled, has_grid = len(places) > 1, places[0].grid is not None
    kind = "one grid" if has_grid else "learned queries"
    is_cross = model.cfg.looking_site == "language.cross_attn"
    assert picture.startswith("tiles" if is_tiled else "no tokens" if is_cross else kind), name
    options: dict[str, Any] = {"layers": 0, "controls": (), "progress": False}
    agrees(regions, lambda: patching.patch_heads(model, pairs, positions="regions", **options))
    agrees(maps, lambda: circuits.attention_maps(model, pairs, progress=False))
    agrees(from_tower, lambda: patching.patch_paths(model, pairs, "vision.attn", sender_layers=0, progress=False))


def without_weights(model_type: str) -> Any:
    """Return a model of a type's default config on the meta device, with three layers where the config allows it."""
    config: Any = CONFIG_MAPPING[model_type](**({"vision_config": {}} if model_type == "gemma4" else {}))
    for part in (config.get_text_config(), getattr(config, "vision_config", None)):
        for name in ("num_hidden_layers", "depth"):
            if model_type in PARTS_FOUND and hasattr(part, name):
                setattr(part, name, 3)
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


@pytest.mark.parametrize("model_type", PARTS_FOUND)
def test_the_parts_of_an_untested_family_of_the_table_are_found(model_type: str) -> None:
    assert model_type not in families.FAMILIES  # so that its first sweep is compared with forward passes
    model = HookedVLM.from_hf(without_weights(model_type))
    assert {"vision.blocks.1.attn.hook_z", "language.blocks.2.attn.hook_z", "projector.hook_out"} <= set(
        model.hook_dict
    )
    has_neurons = "language.blocks.2.mlp.hook_post" in model.hook_dict
    assert has_neurons == ("experts" not in PARTS_FOUND[model_type][1])


@pytest.mark.parametrize(("model_type", "message"), REFUSED.items())
def test_what_the_page_calls_refused_is_refused_with_the_reason(model_type: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model_parts(without_weights(model_type))


def test_a_model_made_without_its_vision_tower_says_so() -> None:
    """Gemma 4's default config has no vision tower, and transformers gives None for it."""
    with torch.device("meta"):
        blind = AutoModelForImageTextToText.from_config(CONFIG_MAPPING["gemma4"]())
    with pytest.raises(ValueError, match="no vision tower found in Gemma4ForConditionalGeneration"):
        model_parts(blind)
