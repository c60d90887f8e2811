"""A site's group of a tree goes wherever a result goes; a whole tree says which group to take."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import made_results
from notice_lens import circuits, patching, viz
from notice_lens.patching.results import SiteTree


@pytest.fixture
def effects() -> xr.Dataset:
    ids = [f"pair {number}" for number in range(20)]
    found = made_results.swept(pd.DataFrame({"id": ids, "task": "states"}))
    digests = {
        name: ("pair", [f"{name} of {one}" for one in ids])
        for name in ("clean_digest", "corrupt_digest", "donor_digest")
    }
    return found.assign_coords(digests)


@pytest.fixture
def tree(effects) -> SiteTree:
    groups = {"text.cross_attn.hook_z": effects, "text.attn.hook_z": effects.assign_attrs(direction="noise")}
    return SiteTree.of(groups, {"method": "attribution"})


def test_means_take_a_group(tree, effects):
    group = tree["text.cross_attn.z"]
    assert isinstance(group, xr.DataTree)
    xr.testing.assert_identical(patching.aggregate(group), patching.aggregate(effects))
    xr.testing.assert_identical(patching.carried(group), patching.carried(effects))
    xr.testing.assert_identical(patching.mediation(group), patching.mediation(effects))


def test_figures_and_statistics_take_a_group(tree, effects):
    group = tree["text.cross_attn"]
    drawn, expected = viz.heads(group), viz.heads(effects)
    assert drawn.to_json() == expected.to_json()
    found, expected = (circuits.important_heads(one, n_permutations=199, n_bootstrap=99) for one in (group, effects))
    np.testing.assert_array_equal(found["p"], expected["p"])


def test_a_whole_tree_says_to_take_one_of_its_groups(tree):
    message = r"a tree of 2 sites was given; take one of them, such as effects\['text\.cross_attn\.hook_z'\]"
    for use in (patching.aggregate, patching.carried, patching.mediation, viz.heads, circuits.important_heads):
        with pytest.raises(TypeError, match=message):
            use(tree)
