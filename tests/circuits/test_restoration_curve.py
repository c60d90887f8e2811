"""The restoration curve against joint patches made by hand, and of planted models whose curve is known."""

import numpy as np
import pytest

from notice_lens import HookedBLIP, HookedVLM, circuits, patching
from notice_lens.circuits.joint import halves, matched, nodes_at
from notice_lens.pairs import Noise, mini_world
from notice_lens.stats.clusters import clusters_of
from planted import Gate, light_and_dark, planted

QUIET = {"progress": False}
EXACT = 1e-4


def sizes_to(share, curve, direction):
    """The smallest number of heads with this share."""
    values = curve.share.sel(direction=direction)
    return int(curve["size"].values[np.argmax(values.values >= share)])


def test_one_head_that_carries_all_is_the_whole_curve():
    """Planted: L0.H1 alone speaks."""
    curve = circuits.restoration_curve(planted({(0, 1): 0}, {0: 1.0}), light_and_dark(n=8), n_random=5, **QUIET)
    np.testing.assert_allclose(curve.share, [[0, *[1] * 6]] * 2, atol=EXACT)
    np.testing.assert_allclose(curve.turned, [[0, *[1] * 6]] * 2, atol=EXACT)
    assert {str(row[0]) for row in curve.order.values} == {"text.cross_attn.L0.H1"}


@pytest.mark.parametrize("either", [False, True], ids=["AND", "OR"])
def test_an_and_restores_with_both_and_an_or_is_lost_with_both(either):
    """Planted: the answer is L0.H1 AND L1.H2, or L0.H1 OR L1.H2; the ranks need both directions to find both."""
    model = planted({(0, 1): 0, (1, 2): 1}, {2: 1.0}, [Gate(2, (0, 1), either)])
    curve = circuits.restoration_curve(model, light_and_dark(n=8), n_random=0, **QUIET)
    for row in curve.order.values:
        assert {*row[:2]} == {"text.cross_attn.L0.H1", "text.cross_attn.L1.H2"}
    assert sizes_to(0.5, curve, "denoise") == (1 if either else 2)
    assert sizes_to(0.5, curve, "noise") == (2 if either else 1)
    assert curve.random.isnull().all()


def test_the_mismatched_donor_carries_what_it_shows():
    """Planted: L0.H1 says light or dark; a light donor restores all, a dark one nothing."""
    model = planted({(0, 1): 0}, {0: 1.0})
    for light in (False, True):
        curve = circuits.restoration_curve(model, light_and_dark(light, n=6), sizes=[1], n_random=0, **QUIET)
        np.testing.assert_allclose(curve.mismatched, [0, float(light)], atol=EXACT)


@pytest.fixture(scope="module")
def mini():
    return HookedBLIP.mini(), mini_world("states", n=14, seed=3)


@pytest.mark.large
def test_every_pair_is_scored_by_the_order_of_the_other_half(mini):
    """The same joint patches by run_variants, pair by pair, with ranks from single patches of the other half."""
    model, pairs = mini
    curve = circuits.restoration_curve(model, pairs, sizes=[3, 24], n_random=0, seed=5, **QUIET)
    singles = {
        direction: patching.patch_heads(
            model, pairs, positions="all", direction=direction, controls=(), **QUIET
        ).logit_diff_change
        for direction in ("denoise", "noise")
    }
    worth = (singles["denoise"] - singles["noise"]).values.reshape(len(pairs), -1)
    for number in range(len(pairs)):
        others = curve.scored_in.values != curve.scored_in.values[number]
        best = np.argsort(-worth[others].sum(0))[:3]
        edits = [patching.Edit("text.cross_attn.z", int(one // 8), int(one % 8)) for one in best]
        for which, direction in enumerate(("denoise", "noise")):
            own = patching.run_variants(
                model, pairs[[number]], {"best": edits}, direction=direction, controls=(), **QUIET
            )
            expected = (1, -1)[which] * float(own.logit_diff_change[0, 0])
            assert float(curve.change[which, 1, number]) == pytest.approx(expected, abs=1e-3)
    gap = curve.gap.values
    np.testing.assert_allclose(curve.share[:, 1], curve.change[:, 1].sum("pair") / gap.sum(), rtol=1e-6)
    np.testing.assert_allclose(curve.share.sel(size=24), 1, atol=1e-3)
    assert (curve.share_low <= curve.share + 1e-9).all()
    assert (curve.share <= curve.share_high + 1e-9).all()


def test_effects_of_a_sweep_rank_heads_at_its_words(mini):
    model, pairs = mini
    effects = patching.patch_heads(model, pairs, positions=["noun", "correct"], controls=(), **QUIET)
    curve = circuits.restoration_curve(model, pairs, effects, sizes=[2], n_random=3, **QUIET)
    assert curve.attrs["n_nodes"] == 48
    change = effects.logit_diff_change.stack(node=("layer", "head", "role")).values
    for half in (0, 1):
        others = curve.scored_in.values != half
        layer, head, role = effects.logit_diff_change.stack(node=("layer", "head", "role")).node.values[
            change[others].sum(0).argmax()
        ]
        assert curve.order.values[half][0] == f"text.cross_attn.L{layer}.H{head}@{role}"


def test_a_word_that_a_pair_lacks_changes_nothing_in_it():
    """`verb` and `subject` are in some questions alone; each pair is patched at the words that it has."""
    model, pairs = HookedBLIP.mini(), mini_world("scenes", n=6, seed=1)
    effects = patching.patch_heads(model, pairs, positions=["verb", "subject"], controls=(), **QUIET)
    lacking = effects.logit_diff_change.isnull().any(("layer", "head"))
    assert lacking.any()
    curve = circuits.restoration_curve(model, pairs, effects, sizes=[7, 48], n_random=2, **QUIET)
    assert curve.share.notnull().all()
    assert curve.random.notnull().all()
    for number in range(len(pairs)):
        words = [str(role) for role in lacking.role.values if not lacking.sel(role=role)[number]]
        edits = [patching.Edit("text.cross_attn.z", layer, positions=words) for layer in range(3)]
        own = patching.run_variants(model, pairs[[number]], {"all": edits}, controls=(), **QUIET)
        expected = float(own.logit_diff_change[0, 0])
        assert float(curve.change.sel(direction="denoise", size=48)[number]) == pytest.approx(expected, abs=1e-3)


def test_a_pair_with_no_word_of_any_node_keeps_its_gap():
    model, pairs = HookedBLIP.mini(), mini_world("scenes", n=6, seed=1)
    effects = patching.patch_heads(model, pairs, positions=["verb"], controls=(), **QUIET)
    without = effects.logit_diff_change.isnull().all(("layer", "head", "role")).values
    curve = circuits.restoration_curve(model, pairs, effects, sizes=[24], n_random=0, **QUIET)
    assert without.any()
    assert not curve.change.values[..., without].any()
    expected = (effects.logit_diff_clean - effects.logit_diff_corrupt).values
    np.testing.assert_allclose(curve.gap, expected, atol=1e-4)
    assert float(curve.share[0, -1]) == pytest.approx(float(curve.change[0, -1].sum()) / expected.sum(), rel=1e-4)


def test_the_mini_llava_has_a_curve_by_the_same_call():
    """Joint patches at the last token, by hand, of the half that did not rank them."""
    model, pairs = HookedVLM.mini(), mini_world("faces", n=6, seed=2, world="pictures")
    curve = circuits.restoration_curve(model, pairs, positions=["last"], sizes=[5, 48], n_random=0, **QUIET)
    for half in (0, 1):
        edits = []
        for name in curve.order.values[half][:5]:
            _, layer, head = str(name).rsplit(".", 2)
            edits.append(patching.Edit("language.attn.z", int(layer[1:]), int(head[1:]), positions=["last"]))
        there = np.flatnonzero(curve.scored_in.values == half)
        own = patching.run_variants(model, pairs[there.tolist()], {"best": edits}, controls=(), **QUIET)
        np.testing.assert_allclose(
            curve.change.sel(direction="denoise", size=5)[there], own.logit_diff_change[:, 0], atol=1e-3
        )


def test_every_small_number_of_heads_is_patched_and_some_of_the_large_ones():
    from notice_lens.circuits.restoration import curve_sizes

    assert curve_sizes(None, 24) == [*range(13), 14, 17, 20, 24]
    assert curve_sizes(None, 5) == [0, 1, 2, 3, 4, 5]
    large = curve_sizes(None, 1024)
    assert large[-1] == 1024
    assert len(large) < 45
    assert curve_sizes([3, 1], 5) == [0, 1, 3]


def test_halves_share_no_image():
    labels = np.array([0, 0, 0, 1, 2, 2, 3, 4, 4, 5])
    digests = [f"image {label}" for label in labels]
    pairs = {"clean_digest": digests, "corrupt_digest": digests}
    one, other = halves(pairs, seed=0)
    assert sorted([*one, *other]) == list(range(10))
    assert abs(len(one) - len(other)) <= 1
    assert not {*labels[one]} & {*labels[other]}
    together = {"clean_digest": ["a"] * 4, "corrupt_digest": ["b"] * 4}
    assert len({*clusters_of(together)}) == 1
    with pytest.raises(ValueError, match="4 pairs are linked by shared images to one cluster"):
        halves(together, seed=0)


def test_random_orders_have_as_many_of_each_layer_at_every_size():
    model = HookedBLIP.mini()
    nodes = nodes_at(model, None, "all")
    order = np.random.default_rng(0).permutation(len(nodes)).tolist()
    drawn = matched(order, nodes, np.random.default_rng(1))
    assert sorted(drawn) == sorted(order)
    assert drawn != order
    for size in range(len(order)):
        assert sorted(nodes[n].alike for n in drawn[:size]) == sorted(nodes[n].alike for n in order[:size])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sizes": [25]}, ValueError, "size 25 asked for; there are 24 nodes"),
        ({"sizes": [0]}, ValueError, "sizes"),
        ({"nodes": "text.cross_atn"}, ValueError, "text.cross_attn"),
        ({"direction": "noise"}, TypeError, "restoration_curve decides it itself"),
        ({"n_random": -1}, ValueError, "n_random"),
        (
            {"positions": "roles"},
            ValueError,
            "positions='roles': a joint patch is made at all of its positions at once",
        ),
        ({"positions": ["nuon"]}, ValueError, "'nuon'; did you mean 'noun'"),
    ],
)
def test_what_cannot_be_is_said(mini, options, error, message):
    model, pairs = mini
    with pytest.raises(error, match=message):
        circuits.restoration_curve(model, pairs, **{**QUIET, **options})


def test_effects_of_other_pairs_are_refused(mini):
    model, pairs = mini
    effects = patching.patch_heads(model, pairs[:3], positions="all", controls=(), **QUIET)
    with pytest.raises(ValueError, match="effects are of other pairs"):
        circuits.restoration_curve(model, pairs, effects, **QUIET)
    noise = patching.patch_heads(model, pairs, positions="all", controls=(), corruption=Noise(samples=1), **QUIET)
    with pytest.raises(ValueError, match=r"pass the same noise as corruption=Noise\("):
        circuits.restoration_curve(model, pairs, noise, **QUIET)
    modules = patching.patch_modules(model, pairs, positions="all", controls=(), **QUIET)
    with pytest.raises(ValueError, match="expected the result of patching.patch_heads"):
        circuits.restoration_curve(model, pairs, modules, **QUIET)
