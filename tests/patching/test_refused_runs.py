"""Variants, pairs, models and stores that a sweep refuses, and what it leaves on them."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import xarray as xr

from conftest import make_pair
from made_up import made_up_pairs
from notice_lens import HookedBLIP
from notice_lens.pairs import MinimalPairs, Noise, mini_world
from notice_lens.pairs.problems import Problem
from notice_lens.patching import Edit, Site, patch_heads, run_variants, sweep
from notice_lens.patching.options import Options
from notice_lens.patching.prepare import check_pairs
from notice_lens.patching.store.store import Store
from refusals import says

# Variants

EDITS: list[tuple[Any, str]] = [
    (Edit("text.attn"), "variant 'one': an edit of text.attn.hook_z needs a layer, 0 to 2"),
    (Edit("text.attn", 3), "variant 'one': layer 3 asked for; `text` has layers 0 to 2"),
    (Edit("text.attn", [0, 1]), "variant 'one': layer [0, 1] asked for; an edit of text.attn is in one layer, given"),
    (Edit("text.attn", 0, [1, 2]), "variant 'one': head [1, 2] asked for; an edit of text.attn is in one head, given"),
    (Edit("text.attn", 0, 8), "variant 'one': head 8 asked for; `text` has heads 0 to 7"),
    (Edit("text.mlp_out", 0, 1), "variant 'one': heads [1] asked for; text.hook_mlp_out has no heads"),
    (Edit("vision.embed", 0), "variant 'one': layers 0 asked for; vision.hook_embed is before the first layer"),
    (Edit("text.mpl_out", 0), "variant 'one': site 'text.mpl_out': no activation of `text` 'mpl_out'; did you mean 'm"),
    (Edit("text.attn", 0, positions="nuon"), "variant 'one': text.attn.hook_z: no role 'nuon'; did you mean 'noun'?"),
    (Edit("vision.attn", 0, positions="sky"), "variant 'one': vision.attn.hook_z: no region 'sky'; valid: 'object'"),
    (Edit("text.attn", 0, positions=99), "variant 'one': text.attn.hook_z: position 99 asked for; there are 0 to 8"),
    (Edit("text.attn", 0, keys="noun"), "variant 'one': keys are for scores and patterns; text.attn.hook_z has"),
    (
        Edit("text.cross_attn.pattern", 0, keys="objet"),
        "variant 'one': keys of text.cross_attn.hook_pattern: no region 'objet'; did you mean 'object'?",
    ),
    (Edit("text.attn", 0, source="donr"), "variant 'one': no source 'donr'; did you mean 'donor'? valid: 'other', 'z"),
    ([], "variant 'one' is []; expected a mapping of names to one or more Edits"),
    (["text.attn"], "variant 'one' is ['text.attn']; expected a mapping of names to one or more Edits"),
    (None, "variant 'one' is None; expected a mapping of names to one or more Edits"),
]


@pytest.mark.parametrize(("edits", "message"), EDITS, ids=lambda value: str(value)[:50])
def test_edits_that_are_not_there(model: HookedBLIP, pairs: MinimalPairs, edits: Any, message: str, unchecked) -> None:
    with pytest.raises(ValueError, match=says(message)):
        run_variants(model, pairs, {"one": edits}, progress=False)


def test_variants_that_are_none(model: HookedBLIP, pairs: MinimalPairs, unchecked) -> None:
    edit = Edit("text.attn", 0)
    with pytest.raises(TypeError, match=says("variants are of type list; expected a mapping of names to one or more")):
        run_variants(model, pairs, [edit])
    with pytest.raises(ValueError, match=says("no variants given; expected a mapping of names to one or more Edits")):
        run_variants(model, pairs, {})
    with pytest.raises(TypeError, match=says("variant 3: a name is text; expected a mapping of names")):
        run_variants(model, pairs, {3: edit})
    with pytest.raises(TypeError, match=says("source belongs to the edits of variants: Edit(..., source=...)")):
        run_variants(model, pairs, {"one": edit}, source="zero")


# Pairs


def test_no_pairs(model: HookedBLIP, pairs: MinimalPairs) -> None:
    with pytest.raises(ValueError, match=says("there are no pairs to patch")):
        patch_heads(model, pairs[:0])


def test_pairs_that_are_none() -> None:
    with pytest.raises(
        TypeError, match=says("pairs are of type list; expected MinimalPairs, see MinimalPairs.from_rows")
    ):
        check_pairs([1, 2], Options())


def test_pairs_that_were_dropped(model: HookedBLIP, pairs: MinimalPairs) -> None:
    none = pairs.without([Problem(name, "another reason", "of ours") for name in pairs["id"]], "a test")
    with pytest.raises(ValueError, match=says("there are no pairs to patch (2 were dropped, see pairs.dropped)")):
        patch_heads(model, none)


def test_donors_of_another_length() -> None:
    columns = ("id", "task", "clean_prompt", "corrupt_prompt", "donor_prompt", "correct_answer", "incorrect_answer")
    images = ("clean_image", "corrupt_image", "donor_image")
    rows = [
        {column: pair.record[column] for column in columns} | {image: getattr(pair, image) for image in images}
        for pair in made_up_pairs("vqa")
    ]
    rows[1]["donor_prompt"] += " red"
    with pytest.raises(ValueError, match="clean_prompt 'is .*' has 7 tokens, donor_prompt 'where .* red' 8"):
        sweep(make_pair("vqa").model, MinimalPairs.from_rows(rows), "text.attn", corruption="text", progress=False)


def test_pairs_of_another_kind() -> None:
    with pytest.raises(ValueError, match="the pair is of kind 'caption', the model 'vqa'"):
        sweep(make_pair("vqa").model, made_up_pairs("caption"), "text.attn", progress=False)


def test_pairs_without_a_corrupted_prompt(model: HookedBLIP) -> None:
    faces = mini_world("states", 3, seed=1)
    rows = [{**pair.record, "clean_image": pair.clean_image, "corrupt_image": pair.corrupt_image} for pair in faces]
    kept = ("id", "task", "clean_image", "corrupt_image", "clean_prompt", "correct_answer", "incorrect_answer")
    bare = MinimalPairs.from_rows([{column: row[column] for column in kept} for row in rows])
    message = f"3 of 3 pairs have no corrupt_prompt, such as {bare['id'][0]!r}; symmetric_replacement writes them, corr"
    with pytest.raises(ValueError, match=says(message)):
        sweep(model, bare, "text.attn", corruption="text", progress=False)


# Models


def hooked_points(model: HookedBLIP) -> list[str]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return [name for name, module in model.named_modules() if any(getattr(module, kind) for kind in kinds)]


def test_hooks_on_the_model_are_refused(model: HookedBLIP, pairs: MinimalPairs) -> None:
    message = "there are hooks on the model, at text.blocks.1.hook_mlp_out: a sweep runs its own forward pass, which"
    with model.hooks([("text.blocks.1.hook_mlp_out", lambda value, hook: None)]):
        with pytest.raises(ValueError, match=says(message)):
            patch_heads(model, pairs)
        assert hooked_points(model) == ["text.blocks.1.hook_mlp_out"]
    handle = model.text.blocks[0].register_forward_hook(lambda *_: None)
    try:
        with pytest.raises(ValueError, match=says("there are hooks on the model, at text.blocks.0: a sweep runs its")):
            patch_heads(model, pairs)
    finally:
        handle.remove()


@pytest.mark.parametrize("corruption", ["image", Noise(samples=1)])
@pytest.mark.parametrize("calls", [0, 1, 2, 3])
def test_nothing_is_left_on_the_model_by_an_exception(
    model: HookedBLIP, pairs: MinimalPairs, corruption: Any, calls: int, tmp_path: Path
) -> None:
    left = [calls]

    def breaks(logits: torch.Tensor) -> torch.Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("of the caller's own")
        return logits[:, 0, 0]

    site = Site.of(model, "text.attn.result", layers=0, heads=0, positions=["noun"])
    options: dict[str, Any] = {"corruption": corruption, "memory": 1, "progress": False}
    with pytest.raises(RuntimeError, match="of the caller's own"):
        sweep(model, pairs, site, metrics={"mine": breaks}, store=tmp_path / "s", **options)
    assert hooked_points(model) == []
    assert not any(getattr(module, "use_attn_result", False) for module in model.modules())
    left[0] = calls
    with pytest.raises(RuntimeError, match="of the caller's own"):  # its lock is free, too
        sweep(model, pairs, site, metrics={"mine": breaks}, store=tmp_path / "s", **options)
    left[0] = 10**6
    sweep(model, pairs, site, metrics={"mine": breaks}, **options)


def test_an_exception_in_a_recorded_run_leaves_nothing_on_the_model(
    model: HookedBLIP, pairs: MinimalPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: Any) -> Any:
        raise RuntimeError("within a block")

    last = model.text.blocks[-1]
    monkeypatch.setattr(type(last.mlp), "forward", breaks)
    for source in ("other", "mean"):
        with pytest.raises(RuntimeError, match="within a block"):
            sweep(model, pairs, "text.attn.result", source=source, corruption=Noise(samples=1), progress=False)
        assert hooked_points(model) == []
        assert not any(getattr(module, "use_attn_result", False) for module in model.modules())


def test_switches_of_the_model_change_nothing(pairs: MinimalPairs) -> None:
    model = HookedBLIP.mini()
    plain = patch_heads(model, pairs, layers=1, progress=False)
    model.set_use_attn_result(True)
    model.set_use_split_qkv_input(True)
    model.train()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    switched = patch_heads(model, pairs, layers=1, progress=False)
    xr.testing.assert_allclose(switched.drop_vars("below_floor"), plain.drop_vars("below_floor"), atol=1e-4)
    assert all(module.use_attn_result for module in model.modules() if hasattr(module, "use_attn_result"))


# Stores


@pytest.fixture(scope="module")
def stored(model: HookedBLIP, pairs: MinimalPairs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "heads.zarr"
    patch_heads(model, pairs, layers=1, store=path, progress=False)
    return path


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"corruption": "text"}, "corruption is 'image' there and 'text' here"),
    ({"direction": "noise"}, "direction is 'denoise' there and 'noise' here"),
    ({"contrast": "incorrect"}, "contrast is 'auto' there and 'incorrect' here"),
    ({"source": "zero"}, "source is 'other' there and 'zero' here"),
    (
        {"metrics": ["kl"]},
        "metrics is ['answer_prob', 'prob_change', 'logit_diff_change', 'patching_effect', 'kl'] there",
    ),
    ({"controls": ["self"]}, "controls is ['self', 'mismatched'] there and ['self'] here"),
    ({"min_gap": 0.5}, "min_gap is 0.001 there and 0.5 here"),
    ({"seed": 1}, "seed is 0 there and 1 here"),
    ({"dtype": "float64"}, "variables.answer_prob.dtype is 'float32' there and 'float64' here"),
    ({"layers": 2}, "sites[0].layers[0] is 1 there and 2 here"),
    ({"heads": [0]}, "sites[0].heads is [0, 1, 2, 3, 4, 5, 6, 7] there and [0] here"),
    ({"positions": ["noun"]}, "sites[0].positions is 'roles' there and ['noun'] here"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=lambda value: str(value)[:30])
def test_a_store_of_other_settings(
    model: HookedBLIP, pairs: MinimalPairs, stored: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match="is the store of another sweep: .*" + re.escape(message)):
        patch_heads(model, pairs, store=stored, progress=False, **{"layers": 1, **options})


def test_a_store_of_other_pairs_or_another_model(pairs: MinimalPairs, stored: Path) -> None:
    model = HookedBLIP.mini()
    other = mini_world("states", 2, seed=2)
    with pytest.raises(ValueError, match=f"another sweep: pair.labels.0. is '.*' there and {other['id'][0]!r} here"):
        patch_heads(model, other, layers=1, store=stored, progress=False)
    with torch.no_grad():
        model.text.blocks[0].mlp.output.weight += 0.01
    with pytest.raises(ValueError, match="another sweep: model_fingerprint is '.*' there"):
        patch_heads(model, pairs, layers=1, store=stored, progress=False)


def test_a_folder_that_is_no_store(model: HookedBLIP, pairs: MinimalPairs, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=re.escape(str(tmp_path))):
        patch_heads(model, pairs, layers=1, store=tmp_path, progress=False)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_store_that_somebody_writes_to(model: HookedBLIP, pairs: MinimalPairs, stored: Path) -> None:
    whole = patch_heads(model, pairs, layers=1, progress=False)
    folder = stored.parent / "open.zarr"
    with (
        Store.open(folder, whole[["kl"]], {}),
        pytest.raises(RuntimeError, match="is writing to this store; wait for it"),
    ):
        patch_heads(model, pairs, layers=1, store=folder, progress=False)
