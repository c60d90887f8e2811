"""From pairs to a report with questions that do not contain their answer, without naming a role."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from notice_lens import MinimalPairs, circuits, patching, viz
from notice_lens.cli.commands import main
from notice_lens.study import Choices
from open_questions import open_questions

QUICK: dict[str, Any] = {"n_permutations": 500, "n_bootstrap": 50}
pytestmark = pytest.mark.filterwarnings("ignore::notice_lens.circuits.evidence.FewClusters")


@pytest.fixture(scope="module")
def pairs() -> MinimalPairs:
    return open_questions(6)


@pytest.fixture(scope="module")
def effects(mini, pairs):
    return patching.patch_heads(mini, pairs, progress=False)


def test_all_words_at_once_are_the_default_of_every_verb(mini, pairs, effects):
    same = patching.patch_heads(mini, pairs, positions="all", progress=False)
    np.testing.assert_array_equal(effects.logit_diff_change, same.logit_diff_change)
    site = "text.cross_attn"
    for found in (
        effects,
        patching.patch_modules(mini, pairs, progress=False),
        patching.sweep(mini, pairs, site, progress=False),
        patching.patch_paths(mini, pairs, site, "text.output", sender_layers=1, progress=False),
        patching.attribute(mini, pairs, site, progress=False)[f"{site}.z"],
        patching.ablate(mini, pairs, site, value="zero", progress=False),
        patching.split(mini, pairs, site, layers=1, progress=False),
        patching.screen(mini, pairs, site, progress=False),
    ):
        assert "role" not in found.dims


def test_each_role_is_still_there_when_it_is_asked_for(mini, pairs, effects):
    found = patching.patch_heads(mini, pairs, positions=["all", "?"], progress=False)
    assert found["role"].values.tolist() == ["all", "?"]
    np.testing.assert_array_equal(found.logit_diff_change.sel(role="all"), effects.logit_diff_change)
    read = circuits.important_heads(found, role="all", **QUICK)
    np.testing.assert_array_equal(read.effect, circuits.important_heads(effects, **QUICK).effect)
    by_role = patching.patch_heads(mini, pairs, positions="roles", progress=False)
    assert by_role["role"].values.tolist() == ["[CLS]", "?", "[SEP]"]


def test_statistics_and_figures_need_no_role(mini, pairs, effects):
    important = circuits.important_heads(effects, **QUICK)
    assert important.attrs["role"] == circuits.layer_profile(effects, n_bootstrap=50).attrs["role"] == "all"
    named = circuits.important_heads(effects, role="all", **QUICK)
    np.testing.assert_array_equal(important.effect, named.effect)
    two = {"one": effects, "other": effects}
    assert circuits.universal_heads(two, **QUICK).attrs["role"] == "all"
    assert circuits.compare_corruptions(two, n_bootstrap=50).attrs["role"] == "all"
    drawn = [viz.heads(effects), viz.heads(effects, role="all")]
    np.testing.assert_array_equal(drawn[0].data[0]["z"], drawn[1].data[0]["z"])
    assert viz.heads(important).layout.title.text.endswith("at the role all")
    assert viz.modules(patching.patch_modules(mini, pairs, progress=False)).data


def test_maps_of_all_words_are_the_mean_over_the_questions_tokens(mini, pairs):
    maps = circuits.attention_maps(mini, pairs, maps="attention", progress=False)
    assert maps["role"].values.tolist() == ["all", "[CLS]", "?", "[SEP]"]
    _, cache = mini.run_with_cache(pairs.prepare(mini))
    pattern = cache["text.blocks.1.cross_attn.hook_pattern"]
    own = maps.weight.sel(maps="attention", role="all", layer=1)
    np.testing.assert_allclose(own, pattern.mean(2)[..., 1:].numpy(), atol=1e-6)
    assert "all words" in viz.attention(maps, pairs, 0, layer=1, head=2).layout.title.text


def test_messages_say_the_way(mini, pairs, effects):
    by_role = patching.patch_heads(mini, pairs, positions="roles", progress=False)
    way = r"do not contain their answer.*'\[CLS\]', '\?', '\[SEP\]'.*positions='all'"
    for stopped in (lambda: circuits.important_heads(by_role), lambda: viz.heads(by_role)):
        with pytest.raises(ValueError, match=way):
            stopped()
    for stopped in (lambda: circuits.important_heads(by_role, role="all"), lambda: viz.heads(by_role, role="all")):
        with pytest.raises(ValueError, match=r"role 'all' was given, but these effects are by role .*positions='all'"):
            stopped()
    with pytest.raises(
        ValueError, match="role 'noun' was given, but these effects .* all words at once; pass role='all'"
    ):
        circuits.important_heads(effects, role="noun")
    for stopped in (
        lambda: patching.patch_heads(mini, pairs, positions=["correct"], progress=False),
        lambda: circuits.attention_maps(mini, pairs, roles="correct", progress=False),
    ):
        with pytest.raises(ValueError, match=r"no role.* 'correct': these questions .* all words at once, 'all', or"):
            stopped()


def test_one_role_for_all_tasks(pairs):
    from notice_lens.pairs import mini_world

    closed = mini_world("states", 2)
    assert Choices().resolved({"states": closed}).role == "correct"
    assert Choices().resolved({"states": closed, "things": pairs}).role == "all"
    assert Choices(role="?").resolved({"things": pairs}).role == "?"


def test_patch_reports_without_a_role(pairs, tmp_path: Path):
    pairs.save(tmp_path / "pairs")
    command = ["patch", "mini", str(tmp_path / "pairs"), "--out", str(tmp_path / "out"), "--unfiltered", "--shown", "2"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert "effects are read at all words at once" in done.stderr
    index = json.loads((tmp_path / "out" / "report" / "report.json").read_text(encoding="utf-8"))
    assert index["settings"]["role"] == index["conditions"][0]["role"] == "all"
    assert index["attention"]["labels"]["role"] == ["all"]
    assert "at all words at once" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    wrong = CliRunner().invoke(main, [*command, "--role", "correct"])
    assert wrong.exit_code == 1
    assert "these questions do not contain their answer. Take all words at once, 'all'" in wrong.stderr
