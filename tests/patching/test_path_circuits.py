"""Path patching describes planted circuits as their construction says, and names nothing else; see `planted`."""

import numpy as np
import pytest

from notice_lens.patching import Edit, Site, patch_paths, run_variants
from planted import COPIED, READ, Gate, light_and_dark, planted

EXACT = 1e-9
DIRECTIONS = pytest.mark.parametrize("direction", ["denoise", "noise"])
QUIET = {"progress": False, "controls": ()}


def named(found, least: float = 0.5) -> set[tuple]:
    """Labels of the paths that restore (or destroy) at least so much; all others do nothing."""
    size = abs(found.patching_effect).max("pair")
    cells = size.stack(path=size.dims).dropna("path")
    large = cells >= least
    assert (cells.values[~large.values] <= EXACT).all()
    return {tuple(label) for label in cells.path.values[large.values]}


@DIRECTIONS
def test_two_heads_in_series(direction):
    """The first writes at one word; the second reads it there by its values, and alone tells the decoder."""
    model = planted({(0, 1): 0}, {1: 1.0}, copies={(1, 2): (0, 1)})
    pairs, options = light_and_dark(), {"direction": direction, **QUIET}
    sender = Site.of(model, "text.cross_attn", positions="each")
    assert named(patch_paths(model, pairs, sender, "text.attn.v", **options)) == {(0, 1, COPIED, 1, 2)}
    for receiver in ("text.attn.q", "text.attn.k", "text.cross_attn.q", "text.mlp.pre", "text.output"):
        assert named(patch_paths(model, pairs, sender, receiver, **options)) == set()
    reader = Site.of(model, "text.attn", positions="each")
    assert named(patch_paths(model, pairs, reader, "text.output", **options)) == {(1, 2, READ)}
    assert named(patch_paths(model, pairs, reader, "text.mlp.pre", **options)) == set()


@pytest.mark.parametrize(
    ("direction", "alone"), [("denoise", set()), ("noise", {(0, 1, 1), (1, 1, 1)})], ids=["denoise", "noise"]
)
def test_an_and_pair_meets_in_an_mlp(direction, alone):
    """Each path into the gate is necessary and not sufficient; together they are both. Past the MLP there is no way."""
    model = planted({(0, 1): 0, (1, 1): 1}, {2: 1.0}, [Gate(2, (0, 1))])
    pairs, options = light_and_dark(), {"direction": direction, "positions": "all", **QUIET}
    assert named(patch_paths(model, pairs, "text.cross_attn", "text.mlp.pre", **options)) == alone
    together = patch_paths(model, pairs, "text.cross_attn", "text.mlp.pre", joint=True, **options)
    np.testing.assert_allclose(together.patching_effect.sel(receiver_layer=1), 1, atol=EXACT)
    assert named(patch_paths(model, pairs, "text.cross_attn", "text.output", **options)) == set()
    live = patch_paths(model, pairs, "text.cross_attn", "text.output", joint=True, freeze_mlp=False, **options)
    np.testing.assert_allclose(live.patching_effect, 1, atol=EXACT)
    assert named(patch_paths(model, pairs, "text.mlp_out", "text.output", **options)) == {(1,)}


def test_a_backup_head_takes_over_when_the_first_is_ablated():
    """The first speaks by itself, and shuts the gate of its backup; neither is necessary, both together are."""
    model = planted({(0, 1): 0, (1, 2): 1}, {0: 1.0, 2: 1.0}, [Gate(2, (0, 1), signs=(-1, 1))])
    pairs, options = light_and_dark(), {"direction": "noise", "positions": "all", **QUIET}
    # Its direct path is all of the answer, as long as nobody stands in ...
    assert named(patch_paths(model, pairs, "text.cross_attn", "text.output", **options)) == {(0, 1)}
    # ... and by the gate's path the backup, told of its silence, brings the answer back: the opposite sign.
    told = patch_paths(model, pairs, "text.cross_attn", "text.mlp.pre", receiver_layers=1, **options)
    np.testing.assert_allclose(told.patching_effect.sel(sender_layer=0, sender_head=1), -1, atol=EXACT)
    assert named(told) == {(0, 1, 1)}
    # So neither is necessary by itself, and both are together.
    edits = [Edit("text.cross_attn", 0, 1), Edit("text.cross_attn", 1, 2)]
    found = run_variants(
        model, pairs, {"first": edits[0], "backup": edits[1], "both": edits}, direction="noise", **QUIET
    )
    expected = np.broadcast_to([0, 0, 1], found.patching_effect.shape)
    np.testing.assert_allclose(found.patching_effect, expected, atol=EXACT)
