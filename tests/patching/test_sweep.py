"""Sweeps: every entry is what one full, plain run of its own says."""

import numpy as np
import pytest
import torch

from conftest import make_pair
from made_up import made_up_pairs
from notice_lens import HookedBLIP
from notice_lens.models.blip.inputs import BLIPInputs
from notice_lens.pairs import MinimalPairs, mini_world
from notice_lens.patching import Edit, patch_heads, patch_modules, run_variants, sweep
from notice_lens.patching.edits import Site


@pytest.fixture(scope="module")
def mini64() -> HookedBLIP:
    return HookedBLIP.mini(dtype=torch.float64)


@pytest.fixture(scope="module")
def states() -> MinimalPairs:
    return mini_world("states", 6, seed=1)


class Plain:
    """One pair, run plainly: HookedBLIP's own hooks, a full forward each."""

    def __init__(self, model, pair, corruption, direction, contrast):
        self.model, self.pair, self.contrast = model, pair, contrast
        which = {"image": ("corrupt", "clean"), "text": ("clean", "corrupt")}[corruption]
        mismatched = {"image": ("donor", "clean"), "text": ("clean", "donor")}[corruption]
        runs = {"clean": ("clean", "clean"), "corrupt": which, "donor": mismatched}
        self.base, self.other = ("corrupt", "clean") if direction == "denoise" else ("clean", "corrupt")
        self.runs = runs

    def inputs(self, run, spoken) -> BLIPInputs:
        image, prompt = self.runs[run]
        return self.model.prepare(getattr(self.pair, f"{image}_image"), getattr(self.pair, f"{prompt}_prompt"), spoken)

    def spoken(self):
        single = all(
            len(self.model.tokenizer(answer, add_special_tokens=False)["input_ids"]) == 1
            for answer in (self.pair.correct_answer, self.contrast)
        )
        if self.model.cfg.kind == "match" or (self.model.cfg.kind == "vqa" and single):
            return [None]
        return [self.pair.correct_answer, self.contrast]

    def logit_diff(self, run, source="other", edits=()):
        """The logit difference of a run with edits (hook, positions, head, keys), taken from another run."""
        values = []
        for spoken in self.spoken():
            inputs = self.inputs(run, spoken)
            source_run = {"other": self.other, "donor": "donor", "base": self.base}.get(source, self.other)
            names = [edit[0] for edit in edits]
            with torch.no_grad():
                _, cache = self.model.run_with_cache(self.inputs(source_run, spoken), names_filter=names or None)
                hooks = [(name, self._setter(cache[name], *where, zero=source == "zero")) for name, *where in edits]
                logits = self.model.run_with_hooks(inputs, fwd_hooks=hooks)[0]
            values.append(self._say(logits, inputs, spoken))
        return values[0] if len(values) == 1 else values[0] - values[1]

    @staticmethod
    def _setter(new, positions, head=None, keys=None, zero=False):
        def setter(value, hook):
            new_ = torch.zeros_like(new) if zero else new
            heads = slice(None) if head is None else head
            if keys is not None:
                for position in positions:
                    value[0, heads, position, keys] = new_[0, heads, position, keys]
            elif value.ndim == 4:
                value[0, positions, heads] = new_[0, positions, heads]
            else:
                value[0, positions] = new_[0, positions]
            return value

        return setter

    def _say(self, logits, inputs, spoken):
        tokenizer = self.model.tokenizer
        if self.model.cfg.kind == "match":
            right = int(self.pair.correct_answer == "match")
            return (logits[right] - logits[1 - right]).item()
        if spoken is None:
            correct, contrast = tokenizer.convert_tokens_to_ids([self.pair.correct_answer, self.contrast])
            return (logits[-1, correct] - logits[-1, contrast]).item()
        ids = tokenizer(spoken, add_special_tokens=False)["input_ids"]
        start = 0 if self.model.cfg.kind == "vqa" else inputs.input_ids.shape[1] - len(ids) - 1
        log_probs = logits.log_softmax(-1)
        return sum(log_probs[start + place, token].item() for place, token in enumerate(ids))


CASES = [
    ("vqa", "text.cross_attn", "roles"), ("vqa", "text.cross_attn.pattern", "all"), ("vqa", "text.attn.k", "each"),
    ("vqa", "vision.attn", "regions"), ("vqa", "vision.resid_post", "all"), ("vqa", "text.resid_mid_cross", "roles"),
    ("vqa", "text.cross_attn.v", "regions"), ("vqa", "text.attn.result", "each"), ("vqa", "decoder.cross_attn", "all"),
    ("vqa", "decoder.cross_attn.k", "roles"), ("vqa", "text.hook_embed", "each"), ("vqa", "decoder.mlp.post", "each"),
    ("caption", "decoder.cross_attn", "all"), ("caption", "decoder.attn", "each"),
    ("caption", "vision.attn_out", "all"),
    ("match", "text.cross_attn", "each"), ("match", "text.normalized_resid_post", "all"),
    ("match", "vision.attn.q", "regions"),
]  # fmt: skip


@pytest.fixture(scope="module")
def models():
    return {kind: make_pair(kind, torch.float64).model for kind in ("vqa", "caption", "match")}


def positions_of(pairs, model, number, site, label):
    """The positions of a label, by hand."""
    if isinstance(label, str) and site.positions == "regions":
        return np.flatnonzero(pairs.patch_masks(model)[number][label].numpy())
    if isinstance(label, str):
        start, end = pairs.token_spans(model)[number][label]
        return np.arange(start, end)
    return np.array([label])


WAYS = (("image", "denoise"), ("text", "noise"))


@pytest.mark.parametrize(
    ("kind", "name", "positions", "corruption", "direction", "n_entries"),
    [(*case, *WAYS[number % 2], 4) for number, case in enumerate(CASES)]
    + [pytest.param(*case, *way, 10, marks=pytest.mark.large) for case in CASES for way in WAYS],
)
def test_every_entry_is_a_run_of_its_own(models, kind, name, positions, corruption, direction, n_entries):
    model, pairs = models[kind], made_up_pairs(kind)
    site = Site.of(model, name, positions=positions)
    effects = sweep(model, pairs, site, corruption=corruption, direction=direction, progress=False)
    rng = np.random.default_rng(0)
    found = np.argwhere(effects.logit_diff_change.notnull().values)
    assert len(found)
    gap = abs(effects.logit_diff_clean - effects.logit_diff_corrupt).max().item()
    for place in found[rng.choice(len(found), min(n_entries, len(found)), replace=False)]:
        at = dict(zip(effects.logit_diff_change.dims, place.tolist(), strict=True))
        number, labels = at["pair"], {dim: effects[dim].values[n] for dim, n in at.items() if dim != "pair"}
        plain = Plain(model, pairs[number], corruption, direction, effects.contrast_answer.values[number])
        labels = {dim: label.item() if isinstance(label, np.generic) else label for dim, label in labels.items()}
        hook, head = site.hook(labels.get("layer")), labels.get("head")
        label = next((labels[dim] for dim in ("role", "region", "position") if dim in labels), None)
        results = []
        for run, source in ((plain.base, "other"), (plain.base, "donor")):
            where = slice(None) if label is None else positions_of(pairs, model, number, site, label)
            keys = slice(None) if name.endswith("pattern") else None
            if keys is not None and label is None:
                where = range(model.prepare(pairs[number].clean_image, pairs[number].clean_prompt).input_ids.shape[1])
            model.set_use_attn_result(name.endswith("result"))
            results.append(plain.logit_diff(run, source, [(hook, where, head, keys)]))
            model.set_use_attn_result(False)
        base = plain.logit_diff(plain.base)
        assert effects.logit_diff_change.values[tuple(place)] == pytest.approx(results[0] - base, abs=1e-9 * gap)
        mismatched = effects.logit_diff_change_mismatched.values[tuple(place)]
        assert mismatched == pytest.approx(results[1] - base, abs=1e-9 * gap)
        assert effects[f"logit_diff_{'corrupt' if direction == 'denoise' else 'clean'}"].values[
            number
        ] == pytest.approx(base)
    assert effects.noise_floor.max() < 1e-9 * gap


def test_shuffled_pairs_and_small_chunks_give_the_same(mini64, states):
    whole = patch_heads(mini64, states, progress=False)
    shuffled = patch_heads(mini64, states.shuffle(1), progress=False, memory=3 * 10**6)
    assert shuffled.pair.values.tolist() != whole.pair.values.tolist()
    for name in whole.data_vars:
        if name in ("noise_floor", "below_floor"):
            continue
        ours = shuffled[name].sel(pair=whole.pair)
        ours = ours.sel(role=whole.role) if "role" in ours.dims else ours
        np.testing.assert_allclose(ours, whole[name], atol=1e-9)


def test_all_positions_of_the_residual_give_the_clean_answer_where_they_must(mini64, states):
    for stack, corruption, layers in (("vision", "image", "all"), ("text", "text", "all"), ("text", "image", "last")):
        for direction in ("denoise", "noise"):
            effects = patch_modules(
                mini64, states, stack, positions="all", corruption=corruption, direction=direction, progress=False
            )
            block = effects.patching_effect.isel(site=-1)
            block = block.isel(layer=[-1]) if layers == "last" else block
            np.testing.assert_allclose(block, 1.0, atol=1e-9)
    early = patch_modules(mini64, states, "text", positions="all", progress=False).patching_effect.isel(
        site=-1, layer=0
    )
    assert (abs(early - 1) > 0.01).any()


def test_a_self_patch_is_zero_in_both_directions(mini64, states):
    for direction in ("denoise", "noise"):
        effects = patch_heads(mini64, states, direction=direction, progress=False)
        assert 0 <= effects.noise_floor.max() < 1e-10
        np.testing.assert_array_equal(effects.below_floor, abs(effects.logit_diff_change) <= effects.noise_floor)


def key_to_zero(k, hook):
    k[0, 1, 0] = 0
    return k


def test_variants_join_their_edits(models):
    model, pairs = models["vqa"], made_up_pairs("vqa")
    joint = [
        Edit("text.cross_attn.z", layer=1, head=2, positions="noun"),
        Edit("text.attn.k", layer=2, head=0, positions=1, source="zero"),
        Edit("vision.attn.z", layer=0, head=1, positions="object", source="donor"),
    ]
    effects = run_variants(model, pairs, {"one": joint[0], "all": joint}, progress=False)
    assert effects.logit_diff_change.dims == ("pair", "variant")
    for number in range(len(pairs)):
        plain = Plain(model, pairs[number], "image", "denoise", pairs[number].incorrect_answer)
        where = [np.arange(*pairs.token_spans(model)[number]["noun"]), np.array([1])]
        where.append(np.flatnonzero(pairs.patch_masks(model)[number]["object"].numpy()))
        base = plain.logit_diff("corrupt")
        one = plain.logit_diff("corrupt", "other", [("text.blocks.1.cross_attn.hook_z", where[0], 2)])
        assert effects.logit_diff_change.values[number, 0] == pytest.approx(one - base, abs=1e-9)
        values = []
        for spoken in plain.spoken():
            inputs = plain.inputs("corrupt", spoken)
            names = ["text.blocks.1.cross_attn.hook_z", "vision.blocks.0.attn.hook_z"]
            with torch.no_grad():
                _, clean = model.run_with_cache(plain.inputs("clean", spoken), names_filter=names)
                _, donor = model.run_with_cache(plain.inputs("donor", spoken), names_filter=names)
                hooks = [
                    (names[0], plain._setter(clean[names[0]], where[0], 2)),
                    ("text.blocks.2.attn.hook_k", key_to_zero),
                    (names[1], plain._setter(donor[names[1]], where[2], 1)),
                ]  # fmt: skip
                values.append(plain._say(model.run_with_hooks(inputs, fwd_hooks=hooks)[0], inputs, spoken))
        together = values[0] if len(values) == 1 else values[0] - values[1]
        assert effects.logit_diff_change.values[number, 1] == pytest.approx(together - base, abs=1e-9)
