"""Head functions on attention that is known, and on the mini model."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from PIL import Image
from scipy.stats import false_discovery_control

from known_attention import DIMS, HEADS, LAYERS, SIDE, attention, boxes, found
from notice_lens import circuits
from notice_lens.circuits.functions.maps import relative_attention
from notice_lens.circuits.functions.scores import score_maps
from notice_lens.models import HookedBLIP
from notice_lens.pairs import MinimalPairs, mini_world

N = 60
FLAT = np.full(SIDE * SIDE, 1 / SIDE**2)


def test_who_attends_exactly_and_who_attends_to_the_rest():
    masks, weight = boxes(N), attention(N)
    weight[:, 0, 0, 2] = masks / masks.sum(-1, keepdims=True)
    weight[:, 0, 1, 5] = ~masks / (~masks).sum(-1, keepdims=True)
    scores = score_maps(weight, {"object": masks})
    exact, rest = (scores.isel(role=0, region=0).sel(layer=layer, head=head) for layer, head in ((0, 2), (1, 5)))
    for name in ("auroc", "pointing", "iou", "attention_inside"):
        assert exact[name] == pytest.approx(1)
        assert rest[name] < 0.12
    assert rest.auroc == pytest.approx(0)
    assert found(scores, "segmentation") == {(0, 2)}
    assert found(scores, "avoidance") == {(1, 5)}
    assert scores.testable.item() == ""
    assert scores.n_pairs.item() == N


def test_who_does_nothing_beside_four_that_look_is_called_nothing():
    masks, weight = boxes(N, seed=3), attention(N, seed=3)
    looking = {(0, 0), (0, 3), (1, 1), (1, 6)}
    for layer, head in looking:
        weight[:, 0, layer, head] = masks / masks.sum(-1, keepdims=True)
    uniform = [(0, 1), (1, 2)]
    for layer, head in uniform:
        weight[:, 0, layer, head] = FLAT
    scores = score_maps(weight, {"object": masks})
    assert found(scores, "segmentation") == looking
    assert found(scores, "avoidance") == set()
    # Relative to the mean of all heads, the uniform heads look as if they shunned the object, each and every time.
    relative = relative_attention(weight)
    assert float(abs(relative.sum(["layer", "head"])).max()) < 1e-12
    for layer, head in uniform:
        own = relative.sel(layer=layer, head=head)[:, 0].values
        assert ((own * masks).sum(-1) < 0).all()
        assert scores.q_avoidance.sel(layer=layer, head=head).item() > 0.5
    with pytest.raises(ValueError, match="negative weights; attention relative to the mean of heads is for display"):
        score_maps(relative, {"object": masks})


def test_a_habit_of_place_is_no_segmentation():
    masks, weight = boxes(N, seed=4), attention(N, seed=4)
    usual = masks.mean(0) ** 2
    weight[:, 0, 0, 0] = usual / usual.sum() + 1e-3 * weight[:, 0, 0, 0].values
    scores = score_maps(weight, {"object": masks})
    assert scores.auroc.values[0, 0, 0, 0] > 0.65
    assert scores.auroc_null.values[0, 0, 0, 0] == pytest.approx(scores.auroc.values[0, 0, 0, 0], abs=0.03)
    assert (0, 0) not in found(scores, "segmentation")


def test_looking_at_one_thing_is_not_shunning_the_next():
    one, other = boxes(N, seed=5), boxes(N, seed=6)
    other &= ~one
    weight = attention(N, seed=5)
    weight[:, 0, 0, 0] = one / one.sum(-1, keepdims=True)
    scores = score_maps(weight, {"object": one, "distractor": other})
    assert scores.auroc.sel(region="object")[0, 0, 0] == pytest.approx(1)
    assert scores.auroc.sel(region="distractor")[0, 0, 0] == pytest.approx(0.5)
    assert found(scores, "segmentation") == {(0, 0)}
    assert found(scores, "avoidance") == set()


def shunned(n: int, seed: int) -> tuple[xr.DataArray, np.ndarray, np.ndarray]:
    """Maps in which one head shuns a patch of high norm that is somewhere outside the region; norms; masks."""
    rng = np.random.default_rng(seed)
    masks, weight = boxes(n, seed), attention(n, seed)
    norms = rng.uniform(8, 12, masks.shape)
    for pair in range(n):
        place = rng.choice(np.flatnonzero(~masks[pair]))
        norms[pair, place] = 50
        weight[pair, 0, 1, 4, place] = 0
    weight[:, 0, 0, 2] = masks / masks.sum(-1, keepdims=True)
    weight[:, 0, 0, 1] = FLAT
    return weight, norms, masks


def test_who_shuns_an_outlier_is_called_so_alone():
    weight, norms, masks = shunned(N, 7)
    scores = score_maps(weight, {"object": masks}, norms)
    assert found(scores, "outlier") == {(1, 4)}
    assert found(scores, "segmentation") == {(0, 2)}
    assert scores.outlier_attention.values[0, 1, 4] == 0
    assert scores.outlier_expected.values[0, 1, 4] == pytest.approx(1, abs=0.1)
    assert scores.outlier_attention.values[0, 0, 1] == pytest.approx(1)
    assert scores.outlier_mass.values[0, 0, 1] == pytest.approx(1 / SIDE**2)
    assert scores.ordinary_mass.values[0, 0, 1] == pytest.approx((SIDE**2 - 5) / SIDE**2)
    assert scores.outlier.values.sum() == scores.n_pairs_outlier.item() == N
    assert scores.testable_outlier.item() == ""


def test_outliers_inside_a_region_are_none():
    weight, norms, masks = shunned(N, 8)
    scores = score_maps(weight, {"object": masks}, np.where(masks, 99.0, 10.0))
    assert not scores.outlier.any()
    assert scores.testable_outlier.item() == "no outlier patches"
    assert scores.q_outlier.isnull().all()
    lower = score_maps(weight, {"object": masks}, norms, outlier_factor=1.05)
    assert lower.outlier.sum() > N


def test_a_head_that_shuns_corners_does_not_mind_the_norm():
    weight, _, masks = shunned(N, 9)
    rng = np.random.default_rng(9)
    norms = np.full(masks.shape, 10.0)
    corner = [0, SIDE - 1, SIDE * (SIDE - 1), SIDE**2 - 1]
    for pair in range(N):
        norms[pair, rng.choice(corner)] = 50
    weight[:, 0, 1, 4, corner] = weight[:, 0, 1, 4, corner] * 1e-3
    scores = score_maps(weight, {"object": masks}, norms)
    assert scores.outlier_attention.values[0, 1, 4] < 0.02
    assert found(scores, "outlier") == set()


def test_what_cannot_be_tested_says_why():
    weight, masks = attention(20, roles=2), boxes(20)
    weight[:, 1] = np.nan
    same = np.repeat(masks[:1], 20, axis=0)
    few = masks & (np.arange(20) < 9)[:, None]
    scores = score_maps(weight, {"same": same, "few": few, "none": masks & False})
    assert scores.testable.sel(role="role0").values.tolist() == [
        "the masks are the same in all images", "9 independent images; a test needs 15", "no regions",
    ]  # fmt: skip
    assert (scores.testable.sel(role="role1") == "no regions").all()
    assert scores.n_pairs.values.tolist() == [[20, 9, 0], [0, 0, 0]]
    assert scores.q_segmentation.isnull().all()
    assert scores.auroc.sel(role="role0", region="same").notnull().all()
    fixed = np.full(masks.shape, 10.0)
    fixed[:, 0] = 50
    away = {"object": np.roll(masks, 1, axis=0) & (np.arange(SIDE**2) > 0)}
    assert score_maps(weight, away, fixed).testable_outlier.values[0] == (
        "the outliers are at the same places in all images"
    )


def test_false_discoveries_are_controlled_over_all_tests_at_once():
    weight, norms, masks = shunned(N, 11)
    scores = score_maps(weight, {"object": masks, "other": np.roll(masks, 3, axis=-1)}, norms)
    names = ("segmentation", "avoidance", "outlier")
    p = np.concatenate([scores[f"p_{name}"].values.ravel() for name in names])
    assert p.size == LAYERS * HEADS * 5
    q = np.concatenate([scores[f"q_{name}"].values.ravel() for name in names])
    assert q == pytest.approx(false_discovery_control(p))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"weight": attention(5).isel(role=0)},
            "maps have the dimensions pair, layer, head, patch; expected pair, role",
        ),
        ({"regions": {"object": boxes(4)}}, r"region 'object' is \(4, 36\); expected \(pair, patch\) \(5, 36\)"),
        ({"norms": np.ones((5, 3))}, r"norms are \(5, 3\); expected \(pair, patch\) \(5, 36\)"),
        ({"clusters": [0, 1]}, "2 labels of clusters for 5 pairs"),
    ],
)
def test_messages(change: dict, message: str):
    given = {"weight": attention(5), "regions": {"object": boxes(5)}, **change}
    with pytest.raises(ValueError, match=message):
        score_maps(**given)


# On a model


@pytest.fixture(scope="module")
def pairs() -> MinimalPairs:
    return mini_world("states", 24, seed=3)


@pytest.fixture(scope="module")
def maps(mini: HookedBLIP, pairs: MinimalPairs) -> xr.Dataset:
    return circuits.attention_maps(mini, pairs, batch_size=10, progress=False)


def test_head_functions_are_the_scores_of_the_maps(mini: HookedBLIP, pairs: MinimalPairs, maps: xr.Dataset):
    functions = circuits.head_functions(mini, pairs, roles=["correct", "?"], progress=False)
    assert functions.auroc.dims == ("maps", "role", "region", "layer", "head")
    assert functions.region.values.tolist() == ["object", "distractor"]
    again = circuits.head_functions(mini, pairs, roles=["correct", "?"], attention=maps)
    xr.testing.assert_allclose(functions, again, atol=1e-5)
    own = maps.sel(maps="value_weighted", role=["?"])
    found = pairs.patch_masks(mini)
    masks = {name: np.stack([mask[name].numpy()[1:] for mask in found]) for name in ("object", "distractor")}
    scores = score_maps(own.weight, masks, own.norm)
    chosen = functions.sel(maps="value_weighted", role=["?"])
    assert chosen.auroc.values == pytest.approx(scores.auroc.values)
    share = own.elsewhere / (own.elsewhere + own.weight.sum("patch"))
    assert chosen.elsewhere.values == pytest.approx(share.mean("pair").values)
    assert (functions.testable_outlier == "no outlier patches").all()
    assert functions.attrs["pairs"] == pairs.fingerprint
    assert functions.attrs["task"] == "states"


def test_the_mini_model_finds_objects(mini: HookedBLIP, pairs: MinimalPairs, maps: xr.Dataset):
    functions = circuits.head_functions(mini, pairs, roles="correct", maps="attention", attention=maps)
    assert functions.q_segmentation.sel(region="object").min() < 1e-4
    assert functions.auroc.sel(region="object").max() > 0.9


def test_pairs_of_the_same_images_are_one(mini: HookedBLIP, pairs: MinimalPairs):
    once = circuits.head_functions(mini, pairs, roles="correct", maps="attention", progress=False)
    twice = pairs.select([*range(24), *range(24)])
    doubled = circuits.head_functions(mini, twice, roles="correct", maps="attention", progress=False)
    assert doubled.p_segmentation.values == pytest.approx(once.p_segmentation.values, rel=1e-3)
    assert doubled.n_pairs.sel(region="object").item() == 48


def test_pairs_without_regions(mini: HookedBLIP):
    picture = Image.new("RGB", (64, 64), "red")
    row = {
        "id": "a", "task": "t", "clean_image": picture, "corrupt_image": Image.new("RGB", (64, 64), "blue"),
        "clean_prompt": "is this circle red or blue?", "correct_answer": "red", "incorrect_answer": "blue",
    }  # fmt: skip
    functions = circuits.head_functions(mini, MinimalPairs.from_rows([row]), progress=False)
    assert functions.sizes["region"] == 0
    assert functions.role.values.tolist() == ["all", "[CLS]", "?", "[SEP]"]
    assert functions.q_segmentation.size == 0
    assert (functions.testable_outlier == "no outlier patches").all()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"regions": ["objekt"]}, "no region of these pairs 'objekt'; did you mean 'object'"),
        ({"roles": ["corect"]}, "no role of these pairs 'corect'; did you mean 'correct'"),
        ({"maps": "value"}, "no kind of map 'value'; did you mean 'value_weighted'"),
        ({"site": "decoder.cross_attn"}, "does not look from words at the image; in this model 'text.cross_attn' does"),
        ({"site": "text.attn"}, "does not look from words at the image"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_messages_of_models(mini: HookedBLIP, pairs: MinimalPairs, asked: dict, message: str):
    with pytest.raises(ValueError, match=message):
        circuits.head_functions(mini, pairs, progress=False, **asked)


def test_maps_of_other_pairs_are_refused(mini: HookedBLIP, pairs: MinimalPairs, maps: xr.Dataset):
    with pytest.raises(ValueError, match="the attention maps are of 24 other pairs than the 3 given"):
        circuits.head_functions(mini, pairs[:3], attention=maps)
    with pytest.raises(ValueError, match="no role of these attention maps 'verb'"):
        circuits.head_functions(mini, pairs, roles="verb", attention=maps)


def test_public_names():
    assert set(circuits.__all__) <= set(dir(circuits))
    folder = Path(circuits.__file__).parent
    assert not {path.stem for path in folder.glob("*.py")} & set(circuits.__all__)
    assert DIMS[-1] == "patch"
