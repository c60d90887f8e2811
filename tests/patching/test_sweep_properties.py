"""Properties of sweeps: sources, metrics, gaps, donors, noise, contrasts, stores, long answers."""

import numpy as np
import pytest
import torch
from transformer_lens import patching as transformer_lens_patching

from conftest import make_pair, make_small_pair
from made_up import made_up_pairs, noise_picture
from notice_lens import HookedBLIP
from notice_lens.pairs import MinimalPairs, Noise
from notice_lens.patching import Edit, patch_heads, run_variants, sweep
from notice_lens.patching.edits import Site

EXACT = 1e-9
DIRECTIONS = pytest.mark.parametrize("direction", ["denoise", "noise"])
Z = "text.blocks.1.cross_attn.hook_z"


@pytest.fixture(scope="module")
def model() -> HookedBLIP:
    return make_small_pair().model


def rows(**same) -> list[dict]:
    """Three pairs with answers of one token, whose nouns are one, two and one words; `same` goes to every row."""
    found = []
    for number, (prompt, noun) in enumerate(
        [
            ("is the dog red or green?", "dog"),
            ("is the big dog red or green?", "big dog"),
            ("is it red or green?", "it"),
        ]
    ):
        found.append(
            {
                "id": f"p{number}", "task": "made up", "kind": "vqa", "roles": {"noun": noun},
                "clean_image": noise_picture(3 * number), "corrupt_image": noise_picture(3 * number + 1),
                "donor_image": noise_picture(3 * number + 2), "clean_prompt": prompt,
                "corrupt_prompt": prompt.replace("red or green", "old or new"), "correct_answer": "red",
                "incorrect_answer": "green", "corrupt_answer": "old", **same,
            }
        )  # fmt: skip
    return found


@pytest.fixture(scope="module")
def pairs() -> MinimalPairs:
    return MinimalPairs.from_rows(rows())


def entries(model, *words):
    return model.tokenizer.convert_tokens_to_ids(list(words))


def logit_diff(model, logits, contrast="green"):
    correct, other = entries(model, "red", contrast)
    return (logits[:, -1, correct] - logits[:, -1, other]).item()


def clean_run(model, pair, corrupt=False, hooks=()):
    """The logits of one pair by itself."""
    image = pair.corrupt_image if corrupt else pair.clean_image
    with torch.no_grad():
        return model.run_with_hooks(model.prepare(image, pair.clean_prompt), fwd_hooks=list(hooks))


def z_of(model, pair, corrupt=False):
    image = pair.corrupt_image if corrupt else pair.clean_image
    with torch.no_grad():
        return model.run_with_cache(model.prepare(image, pair.clean_prompt), names_filter=[Z])[1][Z]


def set_to(values, positions, head):
    """A hook that sets one head at some positions; values [pos, d_head] or [d_head]."""

    def setter(z, hook):
        z = z.clone()
        z[0, positions, head] = values
        return z

    return setter


# Where edits take their values from


@DIRECTIONS
def test_the_mean_of_a_role_is_over_all_its_tokens_of_all_clean_runs(model, pairs, direction):
    effects = patch_heads(model, pairs, layers=1, positions="roles", source="mean", direction=direction, progress=False)
    spans = [slice(*found["noun"]) for found in pairs.token_spans(model)]
    assert [span.stop - span.start for span in spans] == [1, 2, 1]
    mean = torch.cat([z_of(model, pair)[0, span] for pair, span in zip(pairs, spans, strict=True)]).mean(0)
    for number, (pair, span) in enumerate(zip(pairs, spans, strict=True)):
        corrupt = direction == "denoise"
        base = logit_diff(model, clean_run(model, pair, corrupt))
        for head in range(3):
            hooks = [(Z, set_to(mean[head], span, head))]
            patched = logit_diff(model, clean_run(model, pair, corrupt, hooks))
            found = effects.logit_diff_change.sel(role="noun").values[number, 0, head]
            assert found == pytest.approx(patched - base, abs=EXACT)
            assert abs(found) > 1e-6
    assert effects.logit_diff_change_mismatched.isnull().all()


def test_the_mean_of_any_other_token_is_of_its_position(model, pairs):
    effects = patch_heads(model, pairs, layers=1, positions=[1], source="mean", progress=False)
    mean = torch.stack([z_of(model, pair)[0, 1] for pair in pairs]).mean(0)
    for number, pair in enumerate(pairs):
        base = logit_diff(model, clean_run(model, pair, True))
        patched = logit_diff(model, clean_run(model, pair, True, [(Z, set_to(mean[2], 1, 2))]))
        assert effects.logit_diff_change.values[number, 0, 2, 0] == pytest.approx(patched - base, abs=EXACT)


@DIRECTIONS
def test_zero(model, pairs, direction):
    effects = patch_heads(model, pairs, positions="all", source="zero", direction=direction, progress=False)
    corrupt = direction == "denoise"
    for number, pair in enumerate(pairs):
        base = logit_diff(model, clean_run(model, pair, corrupt))
        for head in range(3):
            patched = logit_diff(model, clean_run(model, pair, corrupt, [(Z, set_to(0.0, slice(None), head))]))
            assert effects.logit_diff_change.values[number, 1, head] == pytest.approx(patched - base, abs=EXACT)


def test_the_mean_of_a_position_of_an_answer_is_over_the_answers_that_have_it():
    """Of three answers two have a second token; the third's padding is no part of the mean."""
    model, pairs = make_pair("vqa", torch.float64).model, made_up_pairs("vqa")
    hook = "decoder.blocks.1.cross_attn.hook_z"
    site = Site.of(model, "decoder.cross_attn.z", layers=1, heads=[2], positions="each")
    effects = sweep(model, pairs, site, source="mean", progress=False)
    found = []
    for pair in pairs:
        inputs = model.prepare(pair.clean_image, pair.clean_prompt, pair.correct_answer)
        length = 1 + len(model.tokenizer(pair.correct_answer, add_special_tokens=False)["input_ids"])
        with torch.no_grad():
            found.append(model.run_with_cache(inputs, names_filter=[hook])[1][hook][0, :length, 2])
    for position in range(2):
        mean = torch.stack([z[position] for z in found if len(z) > position]).mean(0)
        for number, pair in enumerate(pairs):
            hooks = [(hook, set_to(mean, position, 2))]
            if effects.logit_diff_change[number].isnull().values[0, 0, position]:
                continue
            says = [
                [
                    said(model, pair, "corrupt", answer, fwd_hooks)
                    for answer in (pair.correct_answer, pair.incorrect_answer)
                ]
                for fwd_hooks in ([], hooks)
            ]
            change = (says[1][0] - says[1][1]) - (says[0][0] - says[0][1])
            assert effects.logit_diff_change.values[number, 0, 0, position] == pytest.approx(change, abs=EXACT)
            assert abs(change) > 1e-6


def said(model, pair, which, answer, hooks):
    """The log-probability of an answer, read in one pass."""
    ids = model.tokenizer(answer, add_special_tokens=False)["input_ids"]
    inputs = model.prepare(getattr(pair, f"{which}_image"), pair.clean_prompt, answer)
    with torch.no_grad():
        log_probs = model.run_with_hooks(inputs, fwd_hooks=hooks)[0].log_softmax(-1)
    return sum(log_probs[place, token].item() for place, token in enumerate(ids))


# Metrics


def test_a_metric_of_ones_own_equals_the_built_in_one_that_it_copies(model, pairs):
    correct, other = entries(model, "red", "green")
    metrics = {
        "logit_diff_change": None,
        "answer_prob": None,
        "level": lambda logits: logits[:, -1, correct] - logits[:, -1, other],
        "prob": lambda logits: logits[:, -1].softmax(-1)[:, correct],
    }
    effects = patch_heads(model, pairs, metrics=metrics, progress=False)
    assert {"level", "level_mismatched", "prob", "prob_mismatched"} <= set(effects.data_vars)
    assert "patching_effect" not in effects
    assert "kl" not in effects
    for ending in ("", "_mismatched"):
        change = effects["level" + ending] - effects.logit_diff_corrupt
        np.testing.assert_allclose(change, effects["logit_diff_change" + ending], atol=EXACT)
        np.testing.assert_allclose(effects["prob" + ending], effects["answer_prob" + ending], atol=EXACT)
    alone = patch_heads(model, pairs, metrics={"level": metrics["level"]}, progress=False)
    np.testing.assert_allclose(alone.level, effects.level, atol=EXACT)
    assert "logit_diff_change" not in alone


@pytest.mark.parametrize("min_gap", [0.0, 1e-3])
def test_a_pair_without_a_gap_has_no_effect_and_is_counted(model, min_gap):
    """The corrupted image is the clean one: nothing over nothing is NaN, and something over nothing as well."""
    found = rows()
    found[1]["corrupt_image"] = found[1]["clean_image"]
    pairs = MinimalPairs.from_rows(found)
    for source in ("other", "zero"):
        effects = patch_heads(model, pairs, positions="all", min_gap=min_gap, source=source, progress=False)
        assert effects.logit_diff_clean[1] == pytest.approx(effects.logit_diff_corrupt[1].item(), abs=1e-12)
        assert effects.patching_effect[1].isnull().all(), source
        assert not np.isinf(effects.patching_effect).any()
        assert not np.isinf(effects.patching_effect_mismatched).any()
        assert effects.patching_effect[[0, 2]].notnull().all()
        assert effects.logit_diff_change.notnull().all()
        assert effects.attrs["pairs_below_min_gap"] == 1
    gaps = abs(effects.logit_diff_clean - effects.logit_diff_corrupt).values
    effects = patch_heads(model, pairs, positions="all", min_gap=float(gaps[[0, 2]].mean()), progress=False)
    assert effects.attrs["pairs_below_min_gap"] == 2
    np.testing.assert_array_equal(effects.patching_effect.isnull().all(["layer", "head"]), gaps < gaps[[0, 2]].mean())


# Donors


def without_donor() -> MinimalPairs:
    found = rows()
    found[1]["donor_image"] = None
    return MinimalPairs.from_rows(found)


def test_a_pair_without_a_donor_is_empty_there_and_counted(model, pairs):
    whole = patch_heads(model, pairs, positions="all", progress=False)
    effects = patch_heads(model, without_donor(), positions="all", progress=False)
    assert effects.attrs["pairs_without_donor"] == 1
    assert whole.attrs["pairs_without_donor"] == 0
    for name in ("logit_diff_change", "patching_effect", "kl", "answer_prob"):
        assert effects[f"{name}_mismatched"][1].isnull().all(), name
        assert effects[f"{name}_mismatched"][[0, 2]].notnull().all(), name
        np.testing.assert_allclose(effects[name], whole[name], atol=EXACT)


@pytest.mark.parametrize("controls", [("self", "mismatched"), ()])
def test_an_edit_from_a_donor_that_is_not_there_is_empty(model, pairs, controls):
    variants = {
        "donor": Edit("text.cross_attn.z", layer=1, head=0, source="donor"),
        "other": Edit("text.cross_attn.z", layer=1, head=0),
    }
    whole = run_variants(model, pairs, variants, controls=controls, progress=False).logit_diff_change
    assert whole.notnull().all()
    lacking = run_variants(model, without_donor(), variants, controls=controls, progress=False).logit_diff_change
    np.testing.assert_array_equal(lacking.isnull(), [[False, False], [True, False], [False, False]])
    np.testing.assert_allclose(lacking[[0, 2]], whole[[0, 2]], atol=EXACT)
    matched = patch_heads(model, pairs, layers=1, heads=0, positions="all", progress=False)
    np.testing.assert_allclose(whole[:, 0], matched.logit_diff_change_mismatched[:, 0, 0], atol=EXACT)
    nobody = MinimalPairs.from_rows(rows(donor_image=None))
    lacking = run_variants(model, nobody, variants, controls=controls, progress=False).logit_diff_change
    np.testing.assert_array_equal(lacking.isnull(), [[True, False]] * 3)


# Noise as a corruption


@pytest.mark.parametrize("hook", ["vision.hook_embed", "text.hook_embed"])
@DIRECTIONS
def test_draws_of_noise_are_averaged(model, pairs, hook, direction):
    noise = Noise(hook, scale=1.0, samples=3, seed=4)
    effects = patch_heads(
        model, pairs, layers=1, positions="all", corruption=noise, direction=direction, progress=False
    )
    std = noise.std(model, pairs)
    for number, pair in enumerate(pairs):
        inputs = model.prepare(pair.clean_image, pair.clean_prompt)
        clean = logit_diff(model, clean_run(model, pair))
        corrupted, changes = [], []
        for sample in range(3):
            noisy = noise.hooks(model, inputs, [pair.id], std, sample)
            found = {}
            with torch.no_grad():
                model.run_with_hooks(inputs, fwd_hooks=[*noisy, (Z, lambda z, hook, found=found: found.update(z=z))])
            corrupted.append(logit_diff(model, clean_run(model, pair, hooks=noisy)))
            if direction == "denoise":
                edit, base = [*noisy, (Z, set_to(z_of(model, pair)[0, :, 1], slice(None), 1))], corrupted[-1]
            else:
                edit, base = [(Z, set_to(found["z"][0, :, 1], slice(None), 1))], clean
            changes.append(logit_diff(model, clean_run(model, pair, hooks=edit)) - base)
        assert np.ptp(changes) > 1e-6
        assert effects.logit_diff_clean.values[number] == pytest.approx(clean, abs=EXACT)
        assert effects.logit_diff_corrupt.values[number] == pytest.approx(np.mean(corrupted), abs=EXACT)
        assert effects.logit_diff_change.values[number, 0, 1] == pytest.approx(np.mean(changes), abs=EXACT)
        sign = 1 if direction == "denoise" else -1
        assert effects.patching_effect.values[number, 0, 1] == pytest.approx(
            sign * np.mean(changes) / (clean - np.mean(corrupted)), abs=1e-7
        )


# What the correct answer is compared with


def test_contrasts_of_a_text_corruption(model, pairs):
    auto = patch_heads(model, pairs, corruption="text", progress=False)
    incorrect = patch_heads(model, pairs, corruption="text", contrast="incorrect", progress=False)
    assert auto.contrast_answer.values.tolist() == ["old"] * 3
    assert incorrect.contrast_answer.values.tolist() == ["green"] * 3
    for number, pair in enumerate(pairs):
        for effects, contrast in ((auto, "old"), (incorrect, "green")):
            with torch.no_grad():
                corrupt = model(model.prepare(pair.clean_image, pair.corrupt_prompt))
            clean = clean_run(model, pair)
            assert effects.logit_diff_clean.values[number] == pytest.approx(logit_diff(model, clean, contrast))
            assert effects.logit_diff_corrupt.values[number] == pytest.approx(logit_diff(model, corrupt, contrast))
    np.testing.assert_allclose(auto.answer_prob, incorrect.answer_prob, atol=EXACT)
    np.testing.assert_allclose(auto.kl, incorrect.kl, atol=EXACT)
    assert (abs(auto.logit_diff_change - incorrect.logit_diff_change).max() > 1e-3).item()
    image = patch_heads(model, pairs, contrast="auto", progress=False)
    assert image.contrast_answer.values.tolist() == ["green"] * 3


# Stores


def counting(forward, calls, name):
    def counted(*args, **kwargs):
        calls.append(name)
        return forward(*args, **kwargs)

    return counted


@pytest.mark.parametrize("corruption", ["image", "text", Noise(samples=2)], ids=["image", "text", "noise"])
@pytest.mark.parametrize("source", ["other", "mean"])
def test_a_store_has_what_memory_has_and_a_second_call_does_nothing(
    model, pairs, tmp_path, source, corruption, monkeypatch
):
    options = {"source": source, "corruption": corruption, "layers": 1, "progress": False}
    in_memory = patch_heads(model, pairs, **options)
    stored = patch_heads(model, pairs, store=tmp_path / "effects.zarr", **options)
    calls: list[str] = []
    counted = ("vision.patch_embedding", "text.word_embedding", "decoder.word_embedding", "head")
    for name in counted:
        # Hooks would be refused, so it is the modules' own forward that counts.
        module = model.get_submodule(name)
        monkeypatch.setattr(module, "forward", counting(module.forward, calls, name))
    again = patch_heads(model, pairs, store=tmp_path / "effects.zarr", **options)
    assert not calls
    patch_heads(model, pairs, **options)
    assert set(calls) == set(counted)
    for other in (stored, again):
        assert set(other.variables) == set(in_memory.variables)
        assert other.attrs == in_memory.attrs
        for name in in_memory.variables:
            np.testing.assert_array_equal(other[name].values, in_memory[name].values, err_msg=name)


# Answers of several tokens


@pytest.mark.parametrize("kind", ["vqa", "caption"])
def test_long_answers_are_compared_by_their_log_probabilities(kind):
    model, pairs = make_pair(kind, torch.float64).model, made_up_pairs(kind)
    effects = sweep(model, pairs, Site.of(model, "decoder.mlp_out", layers=0, positions="all"), progress=False)
    for number, pair in enumerate(pairs):
        for which in ("clean", "corrupt"):
            said = [log_prob(model, pair, which, getattr(pair, f"{side}_answer")) for side in ("correct", "incorrect")]
            found = effects[f"logit_diff_{which}"].values[number]
            assert found == pytest.approx(said[0] - said[1], abs=EXACT)
            assert effects[f"answer_prob_{which}"].values[number] == pytest.approx(np.exp(said[0]), rel=1e-6)


def log_prob(model, pair, which, answer) -> float:
    """Token by token, each behind what has been said so far: one forward pass a token."""
    tokenizer = model.tokenizer
    total, image = 0.0, getattr(pair, f"{which}_image")
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    inputs = model.prepare(image, pair.clean_prompt)
    said = [model.cfg.dec_token_id] if model.cfg.kind == "vqa" else inputs.input_ids[0].tolist()
    for token in ids:
        so_far = torch.tensor([said])
        told = {"answer_ids": so_far} if model.cfg.kind == "vqa" else {"input_ids": so_far}
        with torch.no_grad():
            logits = model({"pixel_values": inputs.pixel_values, "input_ids": inputs.input_ids, **told})
        total += logits[0, -1].log_softmax(-1)[token].item()
        said.append(token)
    return total


@pytest.mark.parametrize("hook", ["vision.hook_embed", "decoder.hook_embed"])
def test_noise_on_captions_is_there_whatever_is_said(hook):
    """Both answers are read behind the same noise, which goes to the words of the prompt and to no answer."""
    model, pairs = make_pair("caption", torch.float64).model, made_up_pairs("caption")
    noise = Noise(hook, scale=1.0, samples=1)
    effects = patch_heads(model, pairs, "decoder.attn", positions="all", corruption=noise, progress=False)
    std = noise.std(model, pairs)
    for number, pair in enumerate(pairs):
        prompt = model.prepare(pair.clean_image, pair.clean_prompt)
        places = noise.noisy(model, prompt)[0]
        said = []
        for answer in (pair.correct_answer, pair.incorrect_answer):
            ids = model.tokenizer(answer, add_special_tokens=False)["input_ids"]
            inputs = model.prepare(pair.clean_image, pair.clean_prompt, answer)
            n = len(places)

            def add(value, hook, pair=pair, places=places, n=n):
                value = value.clone()
                drawn = noise.draw(pair.id, 0, value.shape[1:]).to(value)
                value[0, :n] += std * drawn[:n] * places[:, None]
                return value

            with torch.no_grad():
                log_probs = model.run_with_hooks(inputs, fwd_hooks=[(hook, add)])[0].log_softmax(-1)
            start = prompt.input_ids.shape[1] - 1
            said.append(sum(log_probs[start + place, token].item() for place, token in enumerate(ids)))
        assert effects.logit_diff_corrupt.values[number] == pytest.approx(said[0] - said[1], abs=EXACT)


# The usual loop


def test_every_entry_is_what_the_usual_loop_says(model, pairs):
    """TransformerLens's own helper on a lens, one forward pass a patch."""
    effects = patch_heads(model, pairs, positions="each", progress=False)
    correct, other = entries(model, "red", "green")
    pair = pairs[1]
    clean, corrupt = (
        model.lens("text.cross_attn", model.prepare(image, pair.clean_prompt))
        for image in (pair.clean_image, pair.corrupt_image)
    )
    with torch.no_grad():
        _, cache = clean.run_with_cache(clean.tokens)
        result = transformer_lens_patching.get_act_patch_attn_head_out_by_pos(
            corrupt,
            corrupt.tokens,
            cache,
            lambda logits: logits[:, -1, correct] - logits[:, -1, other] - effects.logit_diff_corrupt.values[1],
            reduce="none",
        )
    expected = result.values[..., 0].numpy()  # [layer, pos, head], in float32
    found = effects.logit_diff_change[1].transpose("layer", "position", "head").values
    assert expected.shape == found.shape
    gap = abs(effects.logit_diff_clean - effects.logit_diff_corrupt).values[1]
    np.testing.assert_allclose(found, expected, atol=1e-6 * gap)
    assert abs(found - np.roll(found, 1, axis=1)).max() > 1e-3 * gap
    assert abs(found).max() > 1e-2 * gap
