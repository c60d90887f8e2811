"""Ablations are what plain hooks give; what they name in planted circuits; their intervals and their messages."""

import doctest
from itertools import combinations

import numpy as np
import pytest
import torch
import xarray as xr

from conftest import make_pair
from made_up import made_up_pairs
from notice_lens import HookedBLIP
from notice_lens.pairs import MinimalPairs, mini_world
from notice_lens.patching import Edit, Site, ablate, ablation, run_variants
from notice_lens.patching.options import Options
from notice_lens.stats.intervals import ratio_of_sums
from planted import Gate, light_and_dark, planted

QUIET = {"progress": False}
COLUMNS = ("task", "kind", "clean_image", "corrupt_image", "clean_prompt", "correct_answer", "incorrect_answer")


@pytest.fixture(scope="module")
def mini64() -> HookedBLIP:
    return HookedBLIP.mini(dtype=torch.float64)


@pytest.fixture(scope="module")
def states() -> MinimalPairs:
    return mini_world("states", 4, seed=1)


@pytest.fixture(scope="module")
def others() -> MinimalPairs:
    return mini_world("states", 5, seed=2)


class Plain:
    """Ablations by HookedBLIP's own hooks, one full forward each, on values that were recorded pair by pair."""

    def __init__(self, blip, pairs, reference, partners):
        self.model, self.pairs, self.reference = blip, pairs, reference
        self.spans, self.spans_there = pairs.token_spans(blip), reference.token_spans(blip)
        ids = reference["id"]
        self.partners = [ids.index(name) for name in partners]

    def recorded(self, pair, hook):
        with torch.no_grad():
            inputs = self.model.prepare(pair.clean_image, pair.clean_prompt)
            return self.model.run_with_cache(inputs, names_filter=[hook])[1][hook][0]

    def new(self, value, number, hook, label):
        """What is put at one role's words, or at every image position."""
        if value == "resample":
            there = self.partners[number]
            found = self.recorded(self.reference[there], hook)
            return found[slice(*self.spans_there[there][label])] if label else found
        found = [self.recorded(pair, hook) for pair in self.reference]
        if label:
            words = [row[slice(*spans[label])] for row, spans in zip(found, self.spans_there, strict=True)]
            return torch.cat(words).mean(0) * (value == "mean")
        return torch.stack(found).mean(0) * (value == "mean")

    def said(self, value, number, edits):
        """The logit difference and whether the answer is right, under edits (hook, head, role)."""
        pair = self.pairs[number]
        setters = [(hook, self.setter(value, number, hook, head, label)) for hook, head, label in edits]
        with torch.no_grad():
            inputs = self.model.prepare(pair.clean_image, pair.clean_prompt)
            logits = self.model.run_with_hooks(inputs, fwd_hooks=setters)[0, -1]
        correct, incorrect = self.model.tokenizer.convert_tokens_to_ids([pair.correct_answer, pair.incorrect_answer])
        return (logits[correct] - logits[incorrect]).item(), float(logits.argmax() == correct)

    def setter(self, value, number, hook, head, label):
        new = self.new(value, number, hook, label)
        where = slice(*self.spans[number][label]) if label else slice(None)

        def setter(activation, hook):
            if head is None:
                activation[0, where] = new
            else:
                activation[0, where, head] = new[..., head, :]
            return activation

        return setter


# Against plain hooks


def test_positions_are_those_of_patch_heads(mini64, states):
    """By name, by number, all at once, and of nodes and sites that are ablated jointly."""
    options = {"value": "zero", **QUIET}
    for positions, dim in ((["correct", "noun"], "role"), ([3, 4], "position"), ("all", None)):
        site = Site.of(mini64, "text.cross_attn", layers=[1, 2], positions=positions)
        expected = ablate(mini64, states, site, **options)
        found = ablate(mini64, states, "text.cross_attn", positions=positions, **options)
        assert set(found.change_mean.dims) == {"layer", "head", *([dim] if dim else [])}
        np.testing.assert_allclose(found.logit_diff_change.isel(layer=[1, 2]), expected.logit_diff_change, atol=1e-9)
    nodes = {"two": ["text.cross_attn.L1.H3", "text.mlp.L2"]}
    edits = {"two": [Edit("text.cross_attn", 1, 3, "correct"), Edit("text.mlp_out", 2, positions="correct")]}
    expected = ablate(mini64, states, joint=edits, **options)
    found = ablate(mini64, states, joint=nodes, positions="correct", **options)
    np.testing.assert_allclose(found.logit_diff_change, expected.logit_diff_change, atol=1e-12)
    everywhere = ablate(mini64, states, joint=nodes, **options)
    assert not np.allclose(everywhere.logit_diff_change, found.logit_diff_change)
    words = {"all": [Edit("text.cross_attn", layer, head, ["noun"]) for layer in range(3) for head in range(8)]}
    expected = ablate(mini64, states, joint=words, **options)
    found = ablate(mini64, states, "text.cross_attn", joint=True, positions=["noun"], **options)
    np.testing.assert_allclose(found.logit_diff_change, expected.logit_diff_change, atol=1e-12)


def test_a_site_has_positions_of_its_own(mini64, states):
    site = Site.of(mini64, "text.cross_attn", positions=["correct"])
    for joint in (False, True):
        with pytest.raises(ValueError, match="is a Site already"):
            ablate(mini64, states, site, positions=["noun"], joint=joint, **QUIET)
    with pytest.raises(ValueError, match="role 'nuon'"):
        ablate(mini64, states, "text.cross_attn", positions=["nuon"], **QUIET)


@pytest.mark.parametrize(
    ("own", "name"),
    [
        *((True, name) for name in ("text.cross_attn", "text.mlp_out", "vision.attn")),
        (False, "text.cross_attn"),
        *(pytest.param(False, name, marks=pytest.mark.large) for name in ("text.mlp_out", "vision.attn")),
    ],
)
@pytest.mark.parametrize("value", ["mean", "resample", "zero"])
def test_every_entry_is_a_run_of_its_own(mini64, states, others, name, value, own):
    found = ablate(mini64, states, name, value=value, reference=None if own else others, seed=3, **QUIET)
    reference = states if own else others
    partners = found.resampled_from.values if value == "resample" else reference["id"][: len(states)]
    plain = Plain(mini64, states, reference, partners)
    site = Site.of(mini64, name)
    rng = np.random.default_rng(0)
    for _ in range(3):
        at = {dim: int(rng.integers(size)) for dim, size in found.logit_diff_ablated.sizes.items()}
        entry = found.isel(at)
        label = entry.role.item() if "role" in entry.coords else None
        head = int(entry["head"]) if "head" in entry.coords else None
        edit = (site.hook(int(entry.layer)), head, label)
        difference, accuracy = plain.said(value, at["pair"], [edit])
        assert entry.logit_diff_ablated.item() == pytest.approx(difference, abs=1e-9)
        assert entry.accuracy_ablated.item() == accuracy
        assert entry.logit_diff_clean.item() == pytest.approx(plain.said(value, at["pair"], [])[0], abs=1e-9)
    assert abs(found.change_mean).max() > 0.01


def test_joint_ablations_are_made_at_once(mini64, states):
    """By groups of edits and nodes, and of all of a site: each is one plain run with all hooks."""
    heads = [("text.blocks.1.cross_attn.hook_z", 2), ("text.blocks.2.cross_attn.hook_z", 5)]
    roles = list(states.token_spans(mini64)[0])
    plain = Plain(mini64, states, states, states["id"])
    groups = {
        "nodes": ["text.cross_attn.L1.H2", ("text.cross_attn", 2, 5)],
        "edits": [Edit("text.cross_attn", 1, 2), Edit("text.cross_attn", 2, 5)],
        "one": "text.cross_attn.L1.H2",
        "both kinds": (Edit("text.cross_attn", 1, 2), "text.cross_attn.L2.H5"),
        "zero": [Edit("text.cross_attn", 1, 2, source="zero"), Edit("text.cross_attn", 2, 5)],
    }
    found = ablate(mini64, states, joint=groups, **QUIET).logit_diff_ablated
    covered = [len(spans) == 6 for spans in states.token_spans(mini64)]
    assert all(covered)
    for name in ("edits", "both kinds"):
        np.testing.assert_allclose(found.sel(variant=name), found.sel(variant="nodes"), atol=1e-12)
    # Every word of these roles; the others ("is", "this", "or") have the mean of what stands at their position.
    site = Site.of(mini64, "text.cross_attn", layers=[1, 2])
    everything = ablate(mini64, states, site, joint=True, **QUIET).logit_diff_ablated.sel(variant="all")
    edits = [(hook, head, role) for hook in dict(heads) for head in range(8) for role in roles]
    assert everything[0].item() == pytest.approx(plain.said("mean", 0, edits)[0], abs=1e-9)
    assert abs(found.sel(variant="zero") - found.sel(variant="nodes")).max() > 1e-3
    whole = Site.of(mini64, "text.cross_attn", layers=[1, 2], heads=None, positions="all")
    at_once = ablate(mini64, states, [whole], joint=True, value="zero", **QUIET).logit_diff_ablated
    edits = [(hook, None, None) for hook in dict(heads)]
    zeroed = [plain.said("zero", number, edits)[0] for number in range(len(states))]
    np.testing.assert_allclose(at_once.sel(variant="all"), zeroed, atol=1e-9)


def test_the_pairs_as_their_own_reference_set(mini, states):
    for value in ("mean", "resample"):
        one = ablate(mini, states, "text.mlp_out", value=value, **QUIET)
        if value == "mean":
            other = ablate(mini, states, "text.mlp_out", value=value, reference=states, **QUIET)
            np.testing.assert_array_equal(one.logit_diff_change, other.logit_diff_change)
            assert "reference" in other.attrs
            assert "reference" not in one.attrs


# Intervals


def test_intervals_of_an_ablation_are_of_its_differences(mini, states):
    found = ablate(mini, states, "text.cross_attn", joint=True, value="resample", confidence=0.8, **QUIET)
    change, clusters = found.logit_diff_ablated - found.logit_diff_clean, np.arange(4)
    expected = ratio_of_sums(change.values.astype(float), np.ones(4), clusters, 0.8)
    for name, values in zip(("mean", "low", "high"), expected, strict=False):
        np.testing.assert_allclose(found[f"change_{name}"], values, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.accuracy_change, found.accuracy_ablated - found.accuracy_clean)
    np.testing.assert_allclose(found.accuracy_change_mean, found.accuracy_change.mean("pair"), atol=1e-7)
    assert found.accuracy_change_mean < 0
    assert found.accuracy_change_low <= found.accuracy_change_mean
    assert found.attrs["confidence"] == 0.8
    assert found.attrs["direction"] == "noise"


# Cut sets and planted circuits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("model", ["tiny vqa", "tiny caption", "tiny match", "mini"])
def test_all_cross_attention_is_a_cut_set_for_an_image_corruption(model, dtype):
    """Whatever the image says comes through z of the cross-attention that reads it: all of it is the clean answer."""
    if model == "mini":
        blip, pairs = HookedBLIP.mini(dtype=dtype), mini_world("scenes", 4, seed=2)
    else:
        kind = model.partition(" ")[2]
        blip, pairs = make_pair(kind, dtype).model, made_up_pairs(kind)
    stack = "decoder" if blip.cfg.kind == "caption" else "text"
    every = [Edit(f"{stack}.cross_attn.z", layer=layer) for layer in range(blip.cfg.n_layers[stack])]
    variants = {"all": every, "all but the last": every[:-1]}
    for direction in ("denoise", "noise"):
        found = run_variants(blip, pairs, variants, direction=direction, **QUIET)
        error = abs(found.patching_effect.sel(variant="all") - 1)
        assert error.max() <= (1e-4 if dtype == torch.float32 else 1e-9)
        assert abs(found.patching_effect.sel(variant="all but the last") - 1).max() > 1e-3


def dark() -> MinimalPairs:
    """The planted pairs with their images swapped: what heads write in the corrupted run, as clean runs."""
    pairs = light_and_dark()
    images = [[getattr(pair, f"{which}_image") for pair in pairs] for which in ("corrupt", "clean")]
    return pairs.with_column("clean_image", images[0]).with_column("corrupt_image", images[1])


HEADS = [(layer, head) for layer in range(2) for head in range(3)]
AND = {"writes": {(0, 1): 0, (1, 1): 1}, "reads": {2: 1.0}, "gates": [Gate(2, (0, 1))]}
BACKUP = {"writes": {(0, 1): 0, (1, 2): 1}, "reads": {0: 1.0, 2: 1.0}, "gates": [Gate(2, (0, 1), signs=(-1, 1))]}


def ablated_by(blip, groups, **options):
    """The share of the gap that is lost, by group, the same for every pair."""
    joint = {str(group): [("text.cross_attn", *head) for head in group] for group in groups}
    found = ablate(blip, light_and_dark(), joint=joint, **options, **QUIET)
    share = -found.logit_diff_change / (found.logit_diff_clean - found.logit_diff_corrupt)
    assert (found.change_low <= found.change_mean).all()
    return {group: share.sel(variant=str(group)).values for group in groups}


def test_a_backup_head_is_found_by_joint_ablation_alone():
    """Ablating either loses nothing; of all pairs of heads only theirs loses anything, and that is everything."""
    single = ablated_by(planted(**BACKUP), [(head,) for head in HEADS], value="resample", reference=dark())
    for lost in single.values():
        np.testing.assert_allclose(lost, 0, atol=1e-9)
    groups = list(combinations(HEADS, 2))
    for group, lost in ablated_by(planted(**BACKUP), groups, value="resample", reference=dark()).items():
        np.testing.assert_allclose(lost, float(group == ((0, 1), (1, 2))), atol=1e-9, err_msg=str(group))


def test_an_and_pair_falls_with_either():
    """Each is necessary: what holds one of them loses everything, whatever else it holds."""
    groups = [*[(head,) for head in HEADS], *combinations(HEADS, 2)]
    for group, lost in ablated_by(planted(**AND), groups, value="resample", reference=dark()).items():
        expected = float((0, 1) in group or (1, 1) in group)
        np.testing.assert_allclose(lost, expected, atol=1e-9, err_msg=str(group))


def test_the_mean_over_light_and_dark_says_neither():
    """Over the clean runs alone the mean says light, and nothing is lost; a set with both is needed."""
    blip, both = planted(**AND), MinimalPairs.from_rows([*rows_of(light_and_dark()), *rows_of(dark(), "dark")])
    groups = [(head,) for head in HEADS]
    for lost in ablated_by(blip, groups).values():
        np.testing.assert_allclose(lost, 0, atol=1e-9)
    for group, lost in ablated_by(blip, groups, reference=both).items():
        np.testing.assert_allclose(lost, float(group[0] in ((0, 1), (1, 1))), atol=0.05, err_msg=str(group))


def rows_of(pairs, name=""):
    return [{column: getattr(pair, column) for column in COLUMNS} | {"id": pair.id + name} for pair in pairs]


# Stores, docs, messages


def test_a_store_is_gone_on_with(mini, states, tmp_path, batches):
    options = {"value": "resample", "store": tmp_path / "s", **QUIET}
    first = ablate(mini, states, "text.mlp_out", **options)
    plain = ablate(mini, states, "text.mlp_out", value="resample", **QUIET)
    np.testing.assert_array_equal(first.logit_diff_change, plain.logit_diff_change)
    batches.refuse()
    xr.testing.assert_identical(ablate(mini, states, "text.mlp_out", **options), first)
    for other, name in [({"value": "zero"}, "source"), ({"seed": 1}, "seed"), ({"reference": states}, "reference")]:
        with pytest.raises(ValueError, match=name):
            ablate(mini, states, "text.mlp_out", **{**options, **other})


def test_the_example_runs():
    found = doctest.testmod(ablation)
    assert found.failed == 0
    assert found.attempted > 5


MESSAGES = [
    (("text.mlp_out",), {"value": "maen"}, ValueError, "no value of an ablation 'maen'; did you mean 'mean'?"),
    (
        ("text.mlp_out",),
        {"value": "other"},
        ValueError,
        "no value of an ablation 'other'; did you mean 'zero'? valid: 'mean'",
    ),
    (("text.mlp_out",), {"confidence": 95}, ValueError, "confidence=95: expected a number above 0 and below 1"),
    (("text.mlp_out",), {"confidence": None}, ValueError, "confidence=None: expected a number above 0"),
    (
        ("text.mlp_out",),
        {"direction": "denoise"},
        TypeError,
        "direction is not an option of an ablation: an ablation edits",
    ),
    (("text.mlp_out",), {"source": "zero"}, TypeError, "source is not an option of an ablation: value= says"),
    (("text.mlp_out",), {"controls": "mismatched"}, ValueError, "the mismatched donor controls a patch from the other"),
    (("text.mlp_out",), {"joint": "all"}, TypeError, "joint='all': expected False, True, or a mapping of names"),
    (("text.mlp_out",), {"joint": {"a": Edit("text.mlp_out", 0)}}, ValueError, "sites and groups were both given"),
    ((), {}, ValueError, "sites: name what is ablated, such as 'text.cross_attn', or give groups as joint"),
    ((), {"joint": True}, ValueError, "sites: name what is ablated jointly"),
    ((), {"joint": {}}, ValueError, "no variants given; expected a mapping of names"),
    ((), {"joint": {"a": []}}, ValueError, "variant 'a' is []; expected"),
    ((), {"joint": {"a": "text.cross_atn.L1.H3"}}, ValueError, "group 'a': node 'text.cross_atn.L1.H3': no module"),
    ((), {"joint": {"a": Edit("text.mlp_out", 9)}}, ValueError, "variant 'a': layer 9 asked for; `text` has layers 0"),
    (
        ("text.mlp_uot",),
        {},
        ValueError,
        "site 'text.mlp_uot': no activation of `text` 'mlp_uot'; did you mean 'mlp_out'",
    ),
    (("text.attn.pattern",), {}, ValueError, "source='mean' is not for scores and patterns"),
    (("text.mlp_out",), {"reference": "pairs"}, TypeError, "reference is of type str; expected MinimalPairs"),
    (("text.mlp_out",), {"layers": 1}, TypeError, "layers belong to a site: Site.of(model, name, layers=...)"),
    (("text.mlp_out",), {"metrics": "acuracy"}, ValueError, "no metric 'acuracy'; did you mean 'accuracy'?"),
]


@pytest.mark.parametrize(("sites", "options", "kind", "message"), MESSAGES, ids=[case[3][:40] for case in MESSAGES])
def test_messages(mini, states, sites, options, kind, message, unchecked):
    with pytest.raises(kind) as caught:
        ablate(mini, states, *sites, **{**QUIET, **options})
    assert str(caught.value).startswith(message)


def test_a_reference_set_that_lacks_a_word(mini, states):
    scenes = mini_world("scenes", 3, seed=0)
    with pytest.raises(ValueError, match=r"^pair '.*' has a word of the role 'verb', and the reference set has none"):
        ablate(mini, scenes, "text.mlp_out", reference=states, **QUIET)
    with pytest.raises(ValueError, match="^there are no pairs in the reference set"):
        Options.of({"reference": states[:0]})


def test_metrics_of_ones_own_come_beside(mini, states):
    site = Site.of(mini, "text.mlp_out", layers=2)
    found = ablate(mini, states, site, metrics={"top": lambda logits: logits[:, -1].max(-1).values}, **QUIET)
    assert {"top", "logit_diff_change", "accuracy_ablated"} <= set(found.data_vars)
    assert "kl" in ablate(mini, states, site, metrics="kl", **QUIET)
