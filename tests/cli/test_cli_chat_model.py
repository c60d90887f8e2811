"""The commands on a chat model: the small LLaVA of the package, on pairs of the picture world."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner

from notice_lens import HookedVLM
from notice_lens.cli.commands import DEMOS, main
from notice_lens.mini import llava_folder
from notice_lens.models.by_name import load_model
from notice_lens.pairs import MinimalPairs
from notice_lens.patching import patch_heads
from notice_lens.report.data import ReportData


def ran(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pairs") / "faces"
    ran("pairs", "mini-world", "--world", "pictures", "--task", "faces", "-n", 8, "--out", folder)
    return folder


@pytest.fixture(scope="module")
def studied(pairs, tmp_path_factory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("studied")
    options = ["--corruption", "image", "--corruption", "text", "--shown", 2, "--quiet"]
    return out, ran("patch", "mini-llava", pairs, "--out", out, *options)


@pytest.mark.large
def test_a_study_of_a_chat_model_is_read_where_the_answer_is(studied, pairs):
    """Effects in the tables are those of the verb at `last`, and the page says how much the best heads carry."""
    out, printed = studied
    assert any(" heads carry " in line for line in printed.splitlines())
    heads = pd.read_csv(out / "tables" / "heads.csv")
    own = heads[heads.condition == "faces, text"].set_index(["layer", "head"]).effect
    kept = MinimalPairs.load(pairs)
    data = ReportData.load(out / "report")
    ids = [data.pairs[number].id for number in data.conditions[1].shown]
    assert data.conditions[1].role == "last"
    swept = patch_heads(HookedVLM.mini(), kept, corruption="text", progress=False)
    shown = swept.patching_effect.sel(role="last", pair=ids).values
    np.testing.assert_allclose(data.conditions[1].by_pair, shown, rtol=1e-2, atol=1e-3)
    assert len(own) == 48


def test_the_page_lays_attention_to_image_tokens_on_the_picture(studied):
    out, _ = studied
    data = ReportData.load(out / "report")
    maps = data.maps()
    assert isinstance(maps, xr.DataArray)
    assert maps.attrs["beside"] == "words and template"
    assert maps.role.values.tolist() == ["last"]
    assert float(abs(maps.sum("patch") + maps.elsewhere - 1).max()) < 0.02
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "notice-lens mini LLaVA" in page
    assert "words and template" in page


def test_models_are_loaded_by_what_their_config_says():
    assert isinstance(load_model(str(llava_folder()), "cpu"), HookedVLM)
    found = json.loads(ran("info", "mini-llava", "--json"))
    assert found["passed"]
    assert found["stacks"]["language"] == {"layers": 6, "heads": 8, "d_model": 128}


def test_the_demo_studies_both_models_one_after_the_other(tmp_path, monkeypatch):
    """Each has its own folder; JSON has both by name, and of one model the findings alone."""
    studied = []

    def instead(model, tasks, choices, out, *_, name):
        studied.append((model.cfg.name_or_path, list(tasks), out, name))
        return {"findings": [name]}

    monkeypatch.setattr("notice_lens.cli.commands.carry_out", instead)
    both = json.loads(ran("demo", "--out", tmp_path, "--pairs", 20, "--json"))
    assert list(both) == ["blip", "llava"]
    assert [out for _, _, out, _ in studied] == [tmp_path / "blip", tmp_path / "llava"]
    assert [name for *_, name in studied] == ["mini-blip (1 of 2)", "mini-llava (2 of 2)"]
    one = json.loads(ran("demo", "--model", "llava", "--model", "llava", "--out", tmp_path, "--pairs", 20, "--json"))
    assert one == {"findings": ["mini-llava"]}
    assert set(DEMOS) == {"blip", "llava", "drawn"}
    assert "[blip|llava|drawn]" in ran("demo", "--help")
