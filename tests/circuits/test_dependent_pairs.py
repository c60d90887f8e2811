"""Pairs that share images or donors: one piece of evidence by default in every statistic, and results say so."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from notice_lens import patching
from notice_lens.circuits import (
    DependentPairs,
    FewClusters,
    compare_corruptions,
    important_heads,
    layer_profile,
    universal_heads,
)  # fmt: skip
from notice_lens.circuits.condition import read_condition
from notice_lens.circuits.evidence import partitions_of
from notice_lens.pairs import MinimalPairs, mini_world
from notice_lens.stats.clusters import clusters_of, effective
from notice_lens.stats.synthetic import synthetic_effects

QUICK: dict[str, Any] = {"role": None, "n_permutations": 999, "n_bootstrap": 100}
HUNDRED = np.arange(100)
IMAGES: dict[str, Any] = {"of_cluster": 0.0, "skewness": 0.0, "of_shared": 0.6, "spread": 0.08}
FOURS = {
    "clean images": {"clean_digest": HUNDRED // 4},
    "corrupted images": {"corrupt_digest": HUNDRED // 4},
    "donors": {"donor_digest": HUNDRED // 4},
}


def numbers(effects: xr.Dataset, cluster: Any = "shared", control: bool | None = None) -> np.ndarray:
    return partitions_of([read_condition(effects, None, control=control)], cluster)[0][0]


def named(effects: xr.Dataset, **columns: list[Any]) -> xr.Dataset:
    """Effects whose pairs have these images."""
    return effects.assign_coords({name: ("pair", np.array(own, object)) for name, own in columns.items()})


def chain(corruption: str = "image") -> xr.Dataset:
    """Four pairs: two of one picture; a third whose donor is a picture of the second; a fourth by itself."""
    effects = synthetic_effects(np.zeros((1, 2)), 4, restored=0.0).assign_attrs(corruption=corruption)
    return named(
        effects,
        clean_digest=["a", "a", "c", "d"],
        corrupt_digest=["p", "q", "r", "s"],
        donor_digest=["u", "v", "q", None],
        donor_prompt=["is it?", "was it?", "is it?", "may it?"],
    )


@pytest.mark.parametrize("shared", FOURS.values(), ids=FOURS)
def test_nothing_is_found_where_pairs_share_images(shared: dict[str, Any]) -> None:
    """Twenty runs of 24 heads without an effect: 0.1 called a head in most of them."""
    found = []
    for seed in range(20):
        effects = synthetic_effects(np.zeros((4, 6)), 100, shared=shared, seed=seed, **IMAGES)
        table = important_heads(effects, smallest_effect=0.0, **QUICK)
        assert (table.attrs["pairs"], table.attrs["clusters"]) == (100, 25)
        assert table.attrs["effective_clusters"] == 25
        found.append(bool(table.significant.any()))
    assert np.mean(found) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 20)


def test_intervals_hold_where_pairs_share_images() -> None:
    truth, covered = np.linspace(-0.1, 0.3, 48).reshape(4, 12), []
    shared = {"clean_digest": np.arange(160) // 4}
    for seed in range(8):
        effects = synthetic_effects(truth, 160, shared=shared, seed=seed, **IMAGES)
        table = important_heads(effects, **{**QUICK, "n_permutations": 39, "n_bootstrap": 400})
        covered.append(((table.low <= truth) & (truth <= table.high)).mean().item())
    assert np.mean(covered) >= 0.92


def test_sharing_is_followed_through_any_number_of_steps() -> None:
    assert numbers(chain()).tolist() == [0, 0, 0, 1]
    assert numbers(chain(), control=False).tolist() == [0, 0, 1, 2]
    ring = named(chain(), donor_digest=["r", "s", "u", "p"])
    assert numbers(ring).tolist() == [0, 0, 0, 0]


def test_a_donor_counts_where_it_enters_the_number() -> None:
    # Under a corruption of the question the donor is a question, and only where heads are ranked by the difference.
    assert numbers(chain("text")).tolist() == [0, 0, 1, 2]
    assert numbers(chain("text"), control=True).tolist() == [0, 0, 0, 1]
    assert numbers(chain("Noise(hook='text.hook_embed')"), control=True).tolist() == [0, 0, 0, 1]
    assert numbers(chain("Noise(hook='vision.hook_embed')"), control=True).tolist() == [0, 0, 0, 1]


def test_four_donors_leave_no_p_and_the_way_out_is_said() -> None:
    effects = synthetic_effects(np.full((2, 3), 0.1), 80, shared={"donor_digest": np.arange(80) % 4}, **IMAGES)
    with pytest.warns(FewClusters, match=r"4 clusters of pairs \(80 pairs\).*without, there are 80.*control=False"):
        table = important_heads(effects, **QUICK)
    assert table.q.isnull().all()
    assert not table.significant.any()
    matched = important_heads(effects, control=False, **QUICK)
    assert matched.significant.all()
    assert matched.attrs["clusters"] == 80


def test_a_few_large_clusters_count_as_few() -> None:
    sizes = np.repeat(np.arange(20), [60, *[2] * 19])
    assert effective(sizes) == pytest.approx(98**2 / (60**2 + 19 * 4))
    effects = synthetic_effects(np.full((2, 3), 0.1), 98, shared={"clean_digest": sizes}, **IMAGES)
    with pytest.warns(FewClusters, match=r"20 clusters of pairs \(98 pairs\), of such different sizes .* count as 2.6"):
        assert important_heads(effects, **QUICK).p.isnull().all()


@pytest.mark.parametrize("cluster", ["pair", "image", "noun", ("image", "noun")])
def test_another_choice_is_warned_of_where_pairs_share_something(cluster: Any) -> None:
    effects = synthetic_effects(np.zeros((1, 2)), 100, shared=FOURS["donors"], **IMAGES)
    effects = effects.assign_coords(noun=("pair", HUNDRED % 50))
    with pytest.warns(DependentPairs, match=r"25 images or donors are shared by .* \(100 pairs, .*25 by cluster='sh"):
        important_heads(effects, cluster=cluster, **QUICK)


@pytest.mark.parametrize("cluster", ["pair", "donor_digest", ("pair", "donor_digest")])
def test_a_choice_that_keeps_them_together_is_not_warned_of(cluster: Any) -> None:
    if cluster == "pair":
        assert len(np.unique(numbers(synthetic_effects(np.zeros((1, 2)), 20), cluster))) == 20
        return
    effects = synthetic_effects(np.zeros((1, 2)), 100, shared=FOURS["donors"], **IMAGES)
    assert important_heads(effects, cluster=cluster, **QUICK).attrs["clusters"] == 25


def test_a_result_that_does_not_name_its_donors_is_clustered_by_what_it_has() -> None:
    old = synthetic_effects(np.zeros((1, 2)), 40, restored=0.4).drop_vars(["donor_digest", "logit_diff_donor"])
    with pytest.warns(DependentPairs, match="do not say which donors pairs share .*control=False"):
        table = important_heads(old, **QUICK)
    assert (table.attrs["clusters"], table.attrs["share_of"]) == (40, "the gap")


def test_every_statistic_clusters_so() -> None:
    shared = {"clean_digest": np.arange(80) // 4, "donor_digest": np.arange(80) // 4}
    image = synthetic_effects(np.full((2, 3), 0.1), 80, shared=shared, of_cluster=0.0)
    text = image.drop_vars("donor_digest").assign_attrs(corruption="text")
    text = named(text, clean_digest=[f"picture {number // 2}" for number in range(80)], donor_prompt=[None] * 80)
    # Each condition as by itself, whatever else its pairs share in other conditions.
    conditions = {"image": image, "text": text}
    assert universal_heads(conditions, **QUICK).clusters.values.tolist() == [20, 40]
    assert layer_profile(image, role=None, n_bootstrap=20).attrs["clusters"] == 20
    # What pairs share under one corruption counts for the comparison with the other.
    same = {
        "image": image,
        "text": image.assign_attrs(corruption="text").assign_coords(donor_prompt=image.donor_digest),
    }
    compared = compare_corruptions(same, n_permutations=99, n_bootstrap=20)
    assert (compared.attrs["pairs"], compared.attrs["clusters"]) == (80, 20)


def test_pairs_and_sweeps_say_what_pairs_share(mini: Any) -> None:
    pairs = mini_world("states", 4, seed=1)
    assert clusters_of(pairs).tolist() == [0, 1, 2, 3]
    effects = patching.patch_heads(mini, pairs, layers=2, heads=[0], progress=False)
    assert effects.donor_digest.values.tolist() == pairs["donor_digest"]
    assert effects.donor_prompt.values.tolist() == pairs["donor_prompt"]
    # A picture in two pairs, once as the clean one: what its heads do is one piece of evidence.
    first, second = (dict(pair.record) for pair in list(pairs)[:2])
    linked = MinimalPairs.from_rows([first, {**second, "corrupt_image": first["clean_image"]}], on_error="drop")
    assert clusters_of(linked).tolist() == [0, 0]
