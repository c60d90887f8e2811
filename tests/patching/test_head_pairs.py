"""All pairs of heads in both directions are what run_variants says, one call for all."""

import numpy as np
import pytest

from notice_lens.pairs import mini_world
from notice_lens.patching import Edit, pairs_of_heads, patch_heads, run_variants

HEADS = ["text.cross_attn.L2.H2", ("text.cross_attn", 1, 4), "text.attn.L0.H1", "text.mlp.L2"]
EDITS = [
    Edit("text.cross_attn.z", 2, 2, "correct"), Edit("text.cross_attn.z", 1, 4, "correct"),
    Edit("text.attn.z", 0, 1, "correct"), Edit("text.mlp_out", 2, None, "correct"),
]  # fmt: skip
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def effects(mini):
    return pairs_of_heads(mini, mini_world("states", 3, seed=2), HEADS, positions="correct", **QUIET)


def test_every_entry_is_that_of_its_edits(mini, effects):
    pairs = mini_world("states", 3, seed=2)
    assert effects.node.values.tolist() == [
        "text.cross_attn.L2.H2", "text.cross_attn.L1.H4", "text.attn.L0.H1", "text.mlp.L2"
    ]  # fmt: skip
    variants = {f"{i} {j}": [EDITS[i], EDITS[j]] if i != j else EDITS[i] for i in range(4) for j in range(i, 4)}
    for direction in ("denoise", "noise"):
        expected = run_variants(mini, pairs, variants, direction=direction, controls=(), **QUIET)
        for name in ("logit_diff_change", "patching_effect"):
            own = effects[name].sel(direction=direction)
            for i in range(4):
                for j in range(4):
                    entry = expected[name].sel(variant=f"{min(i, j)} {max(i, j)}")
                    np.testing.assert_allclose(own[:, i, j], entry, atol=2e-5)
        np.testing.assert_allclose(effects.logit_diff_clean, expected.logit_diff_clean, atol=1e-5)


def test_the_diagonal_is_patch_heads(mini, effects):
    pairs = mini_world("states", 3, seed=2)
    alone = patch_heads(mini, pairs, positions=["correct"], direction="noise", controls=(), **QUIET)
    diagonal = effects.logit_diff_change.sel(direction="noise").values[:, [0, 1], [0, 1]]
    np.testing.assert_allclose(diagonal, alone.logit_diff_change.values[:, [2, 1], [2, 4], 0], atol=2e-5)


def test_a_store_is_gone_on_with(mini, tmp_path):
    pairs, options = mini_world("states", 2, seed=2), {"store": tmp_path / "found", **QUIET}
    first = pairs_of_heads(mini, pairs, HEADS[:2], **options)
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == ["denoise.zarr", "noise.zarr"]
    again = pairs_of_heads(mini, pairs, HEADS[:2], **options)
    np.testing.assert_array_equal(first.logit_diff_change, again.logit_diff_change)


def test_messages(mini, pairs, unchecked):
    with pytest.raises(ValueError, match="heads: expected two or more, got 1; patch_heads is for one"):
        pairs_of_heads(mini, pairs, ["text.cross_attn.L1.H3"])
    with pytest.raises(ValueError, match="L9.H3.*has layers 0 to 2; the nearest is 'text.cross_attn.L2.H3'"):
        pairs_of_heads(mini, pairs, ["text.cross_attn.L9.H3", "text.cross_attn.L1.H3"])
    with pytest.raises(ValueError, match="is in the circuit 2 times"):
        pairs_of_heads(mini, pairs, ["text.cross_attn.L1.H3", ("text.cross_attn", 1, 3)])
    with pytest.raises(ValueError, match="no direction 'denoisee'; did you mean 'denoise'"):
        pairs_of_heads(mini, pairs, HEADS[:2], directions=["denoisee"])
    with pytest.raises(ValueError, match="expected 'denoise', 'noise' or both, each once"):
        pairs_of_heads(mini, pairs, HEADS[:2], directions=[])
    with pytest.raises(ValueError, match="role 'corect'"):
        pairs_of_heads(mini, pairs, HEADS[:2], positions="corect", **QUIET)
    with pytest.raises(TypeError, match="the model comes first"):
        pairs_of_heads(pairs, mini, HEADS[:2])
