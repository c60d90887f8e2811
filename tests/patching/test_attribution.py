"""Attribution against finite differences, exact sweeps of small changes, literal softmaxes and what it sums to."""

import numpy as np
import pytest
import torch
import xarray as xr

from conftest import make_small_pair
from made_up import made_up_pairs, noise_picture
from notice_lens import HookedBLIP
from notice_lens.pairs import MinimalPairs, Noise, mini_world
from notice_lens.patching import Site, aggregate, attribute, sweep
from notice_lens.patching.attribution import default_sites

DIRECTIONS = pytest.mark.parametrize("direction", ["denoise", "noise"])
SMALL = 1e-6  # of the standard deviation of an embedding
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def model() -> HookedBLIP:
    return make_small_pair().model


@pytest.fixture(scope="module")
def pairs() -> MinimalPairs:
    return mini_world("states", 4, seed=1)


# Against other ways to the same number


@pytest.mark.parametrize(
    ("kind", "direction", "stack"),
    [("vqa", "denoise", "vision"), ("caption", "denoise", "decoder"), ("match", "noise", "vision"),
     pytest.param("vqa", "noise", "text", marks=pytest.mark.large),
     pytest.param("caption", "noise", "vision", marks=pytest.mark.large)],
)  # fmt: skip
def test_a_small_change_has_the_effect_that_a_sweep_measures(kind, direction, stack):
    """A corruption a millionth of the embeddings' size is all first order, at every site, for answers of any length."""
    model, pairs = make_small_pair(kind).model, made_up_pairs(kind)
    options = {"corruption": Noise(f"{stack}.hook_embed", SMALL, samples=1), "direction": direction, **QUIET}
    last = model.cfg.stacks[-1]
    tables = [f"{stack}.attn.{leaf}" for leaf in ("pattern", "attn_scores")]
    tables += [f"{last}.cross_attn.{leaf}" for leaf in ("pattern", "attn_scores", "result")]
    positions = "each" if kind == "caption" else None
    sites = [*default_sites(model, positions), *(Site.of(model, name) for name in (*tables, f"{stack}.embed"))]
    found = attribute(model, pairs, sites, neurons=False, **options)
    alike = {}
    for site in sites:
        alike.setdefault(found[site.name].logit_diff_change.dims, []).append(site)
    scale = max(np.nanmax(abs(own.logit_diff_change)) for own in found.children.values())
    alive = 0
    for some in alike.values():
        exact = sweep(model, pairs, some, with_sites=True, controls=(), metrics="logit_diff_change", **options)
        for site in some:
            measured = exact.logit_diff_change.sel(site=site.name, drop=True)
            measured = measured.sel({dim: found[site.name][dim] for dim in measured.dims})
            np.testing.assert_allclose(found[site.name].logit_diff_change, measured, rtol=0, atol=1e-3 * scale)
            alive += bool(abs(measured).max() > 0.02 * scale)
    assert alive >= 8, "most sites are on the way"


def literal(model, pair, kind="clean"):
    inputs = model.prepare(getattr(pair, f"{kind}_image"), pair.clean_prompt)
    return inputs, dict(model.run_with_cache(inputs)[1].items())


def difference(model, inputs, pair, hooks=()):
    """The logit difference of a run with hooks, on plain logits."""
    right, wrong = model.tokenizer.convert_tokens_to_ids([pair.correct_answer, pair.incorrect_answer])
    logits = model.run_with_hooks(inputs, fwd_hooks=list(hooks))[0, -1]
    return logits[right] - logits[wrong]


PROBES = [
    ("vision.attn.hook_z", 1, (slice(None), 2)),
    ("vision.attn.hook_k", 0, (slice(None), 1)),
    ("text.attn.hook_q", 1, (4, 0)),
    ("text.cross_attn.hook_v", 0, (slice(None), 1)),
    ("text.cross_attn.hook_k", 1, (slice(None), 2)),
    ("text.cross_attn.hook_z", 1, (3, 0)),
    ("text.hook_mlp_out", 0, (4,)),
    ("text.hook_resid_mid_cross", 1, (4,)),
    ("decoder.cross_attn.hook_q", 1, (slice(None), 1)),
    ("decoder.mlp.hook_pre", 0, (slice(None),)),
]


@pytest.mark.parametrize(("site", "layer", "place"), PROBES, ids=[probe[0] for probe in PROBES])
def test_gradients_agree_with_finite_differences(model, site, layer, place):
    """Central differences in float64 along other - base in one cell, by hooks on the whole model."""
    pairs = MinimalPairs.from_rows([row(0)])
    pair, step = pairs[0], 1e-4
    base, at = literal(model, pair, "corrupt")
    _, other = literal(model, pair)
    name = site.replace(".", f".blocks.{layer}.", 1)
    change = torch.zeros_like(at[name])
    change[0][place] = (other[name] - at[name])[0][place]
    with torch.no_grad():
        up, down = (
            difference(model, base, pair, [(name, lambda value, hook, by=by: value + by * change)])
            for by in (step, -step)
        )
    expected = ((up - down) / (2 * step)).item()
    positions = "all" if place[0] == slice(None) else [place[0]]
    heads = [place[1]] if len(place) > 1 else "each"
    asked = Site.of(model, site, layers=layer, heads=heads, positions=positions)
    found = attribute(model, pairs, asked, attention_correction=False, neurons=False, **QUIET)[site]
    assert abs(expected) > 1e-6
    assert found.logit_diff_change.item() == pytest.approx(expected, rel=1e-5)


def row(number):
    return {
        "id": f"p{number}", "task": "made up", "clean_image": noise_picture(2 * number),
        "corrupt_image": noise_picture(2 * number + 1), "clean_prompt": "is the dog red or green?",
        "correct_answer": "red", "incorrect_answer": "green",
    }  # fmt: skip


def softmaxed(model, leaf):
    """For cells of text.cross_attn in layer 1: gradient at the pattern times its change, with loops and autograd."""
    pair = MinimalPairs.from_rows([row(0)])[0]
    inputs, at = literal(model, pair, "corrupt")
    _, other = literal(model, pair)
    prefix = "text.blocks.1.cross_attn.hook_"
    kept = {}

    def keep(value, hook):
        kept["pattern"] = value.requires_grad_()
        return value

    value = difference(model, inputs, pair, [(prefix + "pattern", keep)])
    (grad,) = torch.autograd.grad(value, kept["pattern"])
    q, k = at[prefix + "q"], at[prefix + "k"]

    def effect(q, k, scores=None):
        table = torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5 if scores is None else scores
        return (grad * (table.softmax(-1) - at[prefix + "pattern"])).sum((-1, -2))[0]

    n_queries, n_keys = q.shape[1], k.shape[1]
    cells = []
    for place in range(n_queries if leaf == "q" else n_keys):
        if leaf == "attn_scores":
            by_query = []
            for query in range(n_queries):
                scores = at[prefix + "attn_scores"].clone()
                scores[:, :, query, place] = other[prefix + "attn_scores"][:, :, query, place]
                by_query.append(effect(q, k, scores))
            cells.append(torch.stack(by_query, -1))
            continue
        new = {"q": q.clone(), "k": k.clone()}
        new[leaf][:, place] = other[prefix + leaf][:, place]
        cells.append(effect(new["q"], new["k"]))
    return torch.stack(cells, -1).detach().numpy()


@pytest.mark.parametrize("leaf", ["q", "k", "attn_scores"])
@pytest.mark.parametrize("sharp", [1.0, 40.0, 4000.0])
def test_the_softmax_is_computed_again(leaf, sharp):
    """Each query, key and score by itself, also where the softmax is saturated, against a table for each cell."""
    model = make_small_pair().model
    with torch.no_grad():
        model.text.blocks[1].cross_attn.query.weight.mul_(sharp)
    keys = {"keys": "each"} if leaf == "attn_scores" else {}
    site = Site.of(model, f"text.cross_attn.{leaf}", layers=1, positions="each", **keys)
    found = attribute(model, MinimalPairs.from_rows([row(0)]), site, **QUIET)[site.name]
    expected = softmaxed(model, leaf)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(found.logit_diff_change[0, 0], expected, rtol=0, atol=1e-9 * abs(expected).max())
    plain = attribute(model, MinimalPairs.from_rows([row(0)]), site, attention_correction=False, **QUIET)[site.name]
    assert abs(plain.logit_diff_change[0, 0] - expected).max() > 1e-3 * abs(expected).max()


@pytest.mark.parametrize("leaf", ["k", "attn_scores"])
def test_keys_one_at_a_time_are_sets_of_one(mini, pairs, leaf):
    """Two formulas: one for each key by itself, one for sets."""
    spec = {"positions": "all", "keys": "each"} if leaf == "attn_scores" else {"positions": "each"}
    dim = "key_position" if leaf == "attn_scores" else "position"
    each = attribute(mini, pairs, Site.of(mini, f"text.attn.{leaf}", **spec), **QUIET)[f"text.attn.{leaf}"]
    sets = {**spec, ("keys" if leaf == "attn_scores" else "positions"): "roles"}
    roles = attribute(mini, pairs, Site.of(mini, f"text.attn.{leaf}", **sets), **QUIET)[f"text.attn.{leaf}"]
    first = each.logit_diff_change.isel({dim: 0})
    cls = roles.logit_diff_change.sel({dim.replace("position", "role"): "[CLS]"})
    np.testing.assert_allclose(first, cls, atol=1e-5)


def test_all_of_them_at_once_are_no_sum(mini, pairs):
    """Patching all keys is patching the table; keys one at a time are not that."""
    all_keys = attribute(mini, pairs, Site.of(mini, "text.attn.k", positions="all"), **QUIET)["text.attn.k"]
    each = attribute(mini, pairs, Site.of(mini, "text.attn.k", positions="each"), **QUIET)["text.attn.k"]
    assert abs(all_keys.logit_diff_change - each.logit_diff_change.sum("position")).max() > 0.01


# What it sums to


@pytest.mark.parametrize(
    ("site", "direction"),
    [("vision.resid_pre", "noise"), ("text.cross_attn.q", "denoise"), ("text.attn.pattern", "noise"),
     pytest.param("text.mlp.post", "denoise", marks=pytest.mark.large),
     pytest.param("text.cross_attn.attn_scores", "denoise", marks=pytest.mark.large)],
)  # fmt: skip
def test_integrated_gradients_of_a_layer_sum_to_its_patch(mini, pairs, site, direction):
    """Within 1 % at 32 steps: all cells of a layer to what patching all of the layer does."""
    few, layers = pairs[:1], [1]
    parts = attribute(
        mini,
        few,
        Site.of(mini, site, layers=layers, positions="each"),
        integrated_gradients=32,
        direction=direction,
        **QUIET,
    )[site]
    at_once = Site.of(mini, site, layers=layers, heads=None if "attn" in site else "each", positions="all")
    whole = sweep(mini, few, at_once, controls=(), direction=direction, **QUIET).logit_diff_change
    cells = [dim for dim in parts.logit_diff_change.dims if dim not in ("pair", "layer")]
    gap = abs(parts.logit_diff_clean - parts.logit_diff_corrupt)
    assert (abs(parts.logit_diff_change.sum(cells) - whole) <= 0.01 * np.maximum(gap, abs(whole))).all()


@pytest.mark.parametrize(
    ("kind", "site", "of"),
    [
        ("vqa", "vision.resid_pre", {"layers": [1]}),
        ("caption", "vision.embed", {}),
        pytest.param("vqa", "vision.embed", {}, marks=pytest.mark.large),
        pytest.param("caption", "vision.resid_pre", {"layers": [1]}, marks=pytest.mark.large),
    ],
)
def test_integrated_gradients_of_answers_of_several_tokens(kind, site, of):
    """The decoder says two answers one after the other; both see what moved below."""
    model, pairs = make_small_pair(kind).model, made_up_pairs(kind)
    parts = attribute(model, pairs, Site.of(model, site, positions="each", **of), integrated_gradients=32, **QUIET)[
        site
    ]
    whole = sweep(model, pairs, Site.of(model, site, positions="all", **of), controls=(), **QUIET).logit_diff_change
    change, gap = parts.logit_diff_change.sum("position"), abs(parts.logit_diff_clean - parts.logit_diff_corrupt)
    assert (abs(change - whole) <= 0.01 * np.maximum(gap, abs(whole))).all()
    assert (abs(whole) > 0.1 * gap).any()


CUTS = [
    ("vision.resid_post", {"layers": 2}, "image", "site"),
    ("text.cross_attn.z", {}, "image", "inputs"),
    ("text.normalized_resid_post", {"layers": 2}, "text", "inputs"),
]
MORE_CUTS = [
    ("vision.resid_pre", {"layers": 0}, "image", "inputs"),
    ("text.resid_pre", {"layers": 0}, "text", "site"),
]


@pytest.mark.parametrize(
    ("site", "of", "corruption", "path"), [*CUTS, *(pytest.param(*cut, marks=pytest.mark.large) for cut in MORE_CUTS)]
)
def test_integrated_gradients_over_a_cut_sum_to_the_change(mini, pairs, site, of, corruption, path):
    """Within 1 % at 32 steps. Heads' z of several layers lie on no line; along the embeddings they are a cut."""
    asked = Site.of(mini, site, positions="each", **of)
    options = {"corruption": corruption, "integrated_gradients": 32, "path": path, **QUIET}
    found = attribute(mini, pairs[:2], asked, **options)[site]
    total = found.logit_diff_change.sum([dim for dim in found.logit_diff_change.dims if dim != "pair"])
    gap = found.logit_diff_clean - found.logit_diff_corrupt
    assert (abs(total - gap) <= 0.01 * abs(gap)).all()
    plain = attribute(mini, pairs[:2], asked, corruption=corruption, **QUIET)[site].logit_diff_change
    assert (abs(plain.sum([dim for dim in plain.dims if dim != "pair"]) - gap) > 0.01 * abs(gap)).any()


# The result


def test_it_is_laid_out_as_a_sweep_is(mini, pairs):
    found = attribute(mini, pairs, **QUIET)
    assert list(found.children) == [site.name for site in default_sites(mini)]
    for name in ("text.cross_attn.hook_z", "vision.hook_attn_out", "decoder.cross_attn.hook_k"):
        exact = sweep(mini, pairs[:1], name, controls=(), metrics=("logit_diff_change", "patching_effect"), **QUIET)
        own = found[name].to_dataset()
        assert set(own.data_vars) == set(exact.data_vars)
        for variable in exact.data_vars:
            assert own[variable].dims == exact[variable].dims
            assert own[variable].dtype == exact[variable].dtype
        xr.testing.assert_allclose(own.isel(pair=[0]).logit_diff_clean, exact.logit_diff_clean)
        assert exact.attrs.keys() - own.attrs.keys() == set()
        assert own.attrs["method"] == "attribution"
        assert aggregate(own).dims == exact.logit_diff_change.dims[1:]
    assert found.attrs["method"] == "attribution"
    assert "method" not in exact.attrs


def test_sites_are_found_as_they_are_written(mini, pairs):
    found = attribute(mini, pairs[:1], ["text.cross_attn", "text.mlp.post"], **QUIET)
    for name in ("text.cross_attn", "text.cross_attn.z", "text.cross_attn.hook_z"):
        assert found[name].logit_diff_change.dims == ("pair", "layer", "head", "role")
    assert found["text.mlp.post/logit_diff_clean"].dims == ("pair",)
    with pytest.raises(KeyError, match=r"no site 'text\.cros_attn'; did you mean 'text\.cross_attn\.hook_z'\?"):
        found["text.cros_attn"]


def test_neurons_sum_to_the_layer(mini, pairs):
    one_by_one = attribute(mini, pairs, "text.mlp.post", **QUIET)["text.mlp.post"].logit_diff_change
    together = attribute(mini, pairs, "text.mlp.post", neurons=False, **QUIET)["text.mlp.post"].logit_diff_change
    assert one_by_one.dims == ("pair", "layer", "role", "neuron")
    assert one_by_one.sizes["neuron"] == mini.cfg.text.d_mlp
    np.testing.assert_allclose(one_by_one.sum("neuron", skipna=False), together, atol=1e-4)
    assert together.dims == ("pair", "layer", "role")


def test_every_position_of_every_site(mini, pairs):
    each = attribute(mini, pairs, positions="each", **QUIET)
    together = attribute(mini, pairs, positions="all", **QUIET)
    assert each["vision.attn.k"].logit_diff_change.sizes["position"] == 65
    for site in default_sites(mini):
        if not site.name.endswith(("attn.hook_k",)):
            parts, whole = each[site.name].logit_diff_change, together[site.name].logit_diff_change
            np.testing.assert_allclose(parts.sum("position"), whole, atol=2e-4)


def test_batches_do_not_matter(mini, pairs):
    sites = ["text.cross_attn", "text.attn.k"]
    one, many = (attribute(mini, pairs, sites, memory=memory, **QUIET) for memory in (1, None))
    for site in sites:
        np.testing.assert_allclose(one[site].logit_diff_change, many[site].logit_diff_change, atol=1e-5)
        assert one[site].attrs["pairs_at_a_time"] == 1
        assert many[site].attrs["pairs_at_a_time"] > 1


def test_the_model_stays_as_it_was(mini, pairs, monkeypatch):
    mini.head.unembed.weight.requires_grad_(False)
    before = [parameter.requires_grad for parameter in mini.parameters()]
    attribute(mini, pairs[:1], "text.cross_attn", **QUIET)
    assert [parameter.requires_grad for parameter in mini.parameters()] == before
    monkeypatch.setattr("notice_lens.patching.attribution.effects", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        attribute(mini, pairs[:1], "text.cross_attn", **QUIET)
    assert [parameter.requires_grad for parameter in mini.parameters()] == before
    assert not any(point.watched for point in mini.hook_dict.values())
    assert all(parameter.grad is None for parameter in mini.parameters())
    mini.head.unembed.weight.requires_grad_(True)


def test_the_weights_are_read_once_for_all_sites(mini, pairs, monkeypatch):
    read = []
    monkeypatch.setattr("notice_lens.patching.prepare.fingerprint", lambda model: read.append(model) or "digest")
    found = attribute(mini, pairs[:1], ["text.cross_attn", "vision.attn"], **QUIET)
    assert read == [mini]
    assert {own.attrs["model_fingerprint"] for own in (found, *found.children.values())} == {"digest"}


# Stores


def test_a_broken_attribution_goes_on(mini, pairs, tmp_path, batches):
    """With the plan of its store, pairs that are done are not computed again, and the numbers are the same."""
    sites, folder = ["text.cross_attn", "text.mlp_out"], tmp_path / "found"
    batches.stop_after(2)
    with pytest.raises(KeyboardInterrupt):
        attribute(mini, pairs, sites, store=folder, memory=1, **QUIET)
    batches.go_on()
    resumed = attribute(mini, pairs, sites, store=folder, **QUIET)
    assert sorted(map(tuple, batches.begun)) == [(0,), (1,), (2,), (3,)]
    unbroken = attribute(mini, pairs, sites, memory=1, **QUIET)
    for site in sites:
        xr.testing.assert_identical(resumed[site].to_dataset(), unbroken[site].to_dataset())
    batches.begun.clear()
    more = attribute(mini, pairs, [*sites, "text.attn"], store=folder, **QUIET)
    assert len(batches.begun) == 4, "the new site alone"
    xr.testing.assert_identical(more["text.mlp_out"].to_dataset(), unbroken["text.mlp_out"].to_dataset())
    with pytest.raises(ValueError, match=r"attention_correction is True there and False here"):
        attribute(mini, pairs, sites, store=folder, attention_correction=False, **QUIET)


# Messages

MESSAGES = [
    ({"sites": "text.cross_atn"}, ValueError, "site 'text.cross_atn': no activation of `text` 'cross_atn'; did you"),
    ({"sites": []}, ValueError, "no sites given; expected sites such as 'text.cross_attn', or None for all"),
    ({"sites": ["text.attn", "text.attn.z"]}, ValueError, "site text.attn.hook_z is given 2 times; each has one group"),
    ({"positions": "roles"}, ValueError, "vision.hook_resid_pre: roles are words of the question, and these are image"),
    ({"integrated_gradients": -1}, ValueError, "integrated_gradients=-1: expected a number of steps, 1 or more, or 0"),
    ({"integrated_gradients": True}, ValueError, "integrated_gradients=True: expected a number of steps"),
    ({"path": "input"}, ValueError, "no path 'input'; did you mean 'inputs'? valid: 'site', 'inputs'"),
    ({"controls": ()}, TypeError, "controls is not an option of attribution: the self-patch is exactly 0"),
    ({"metrics": "kl"}, TypeError, "metrics is not an option of attribution: a gradient is of one number: the logit"),
    (
        {"source": "zero"},
        TypeError,
        "source is not an option of attribution: attribution patches in the other run; options",
    ),
    ({"directoin": "noise"}, TypeError, "no option 'directoin'; did you mean 'direction'?"),
    ({"layers": [1]}, TypeError, "layers belong to a site: Site.of(model, name, layers=...)"),
    ({"corruption": "txt"}, ValueError, "no corruption 'txt'; did you mean 'text'?"),
]


@pytest.mark.parametrize(("given", "error", "message"), MESSAGES, ids=[str(given[0]) for given in MESSAGES])
def test_messages(mini, pairs, given, error, message, unchecked):
    with pytest.raises(error) as found:
        attribute(mini, pairs, **{**given, **QUIET})
    assert str(found.value).startswith(message)


def test_positions_belong_to_names(mini, pairs):
    with pytest.raises(
        ValueError, match="positions are for sites given by name; give those of a Site when it is built"
    ):
        attribute(mini, pairs, Site.of(mini, "text.attn"), positions="all", **QUIET)


def test_hooks_are_refused(mini, pairs):
    with (
        mini.hooks([("text.hook_embed", lambda value, hook: None)]),
        pytest.raises(ValueError, match="there are hooks"),
    ):
        attribute(mini, pairs, "text.attn", **QUIET)


def test_a_store_of_a_sweep_is_left_alone(mini, pairs, tmp_path):
    sweep(mini, pairs[:1], Site.of(mini, "text.attn", layers=0, heads=0), store=tmp_path / "s", **QUIET)
    before = sorted(path.name for path in (tmp_path / "s").iterdir())
    with pytest.raises(FileExistsError, match="is a store of something else; attribution writes a store for each site"):
        attribute(mini, pairs, "text.attn", store=tmp_path / "s", **QUIET)
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == before
    (tmp_path / "f").write_text("")
    with pytest.raises(FileExistsError, match="is a file"):
        attribute(mini, pairs, "text.attn", store=tmp_path / "f", **QUIET)
