"""Pictures of the drawn world: masks are what is really seen, at any size."""

import numpy as np
import pytest

from notice_lens.mini.drawing import Fill, FilledOutline, SoftBackground
from notice_lens.mini.generate import GROUPS, make_pair
from notice_lens.mini.picture import Picture
from notice_lens.mini.shapes import SHAPES, ellipse, unit_outline
from notice_lens.mini.stream import RandomStream
from notice_lens.mini.things import background

TASKS = tuple(GROUPS)
SOME = 30


def test_keys_of_streams_cannot_meet():
    assert RandomStream("test", "states", 1, 11).uniform() != RandomStream("test", "states", 11, 1).uniform()
    with pytest.raises(ValueError, match="holds a '/'"):
        RandomStream("test/states", 1)


def test_streams_give_the_numbers_that_they_always_gave():
    # Python promises this sequence for ever; a change here changes every picture of every user.
    stream = RandomStream("test", "states", 0, 0)
    assert [stream.below(1000) for _ in range(5)] == PINNED


PINNED = [450, 694, 47, 59, 984]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("size", [64, 96, 150])
def test_cover_adds_up_and_regions_do_not_overlap(task, size):
    for number in range(4):
        pair = make_pair(task, number)
        drawing = pair.clean.drawn(size)
        np.testing.assert_allclose(sum(drawing.cover.values()), 1, atol=1e-5)
        regions = dict(pair.row(size).clean_regions)
        if task == "faces":
            regions.pop("object")
        assert all(mask.shape == (size, size) for mask in regions.values())
        assert sum(mask.astype(int) for mask in regions.values()).max() == 1


@pytest.mark.parametrize("task", TASKS)
def test_a_mask_is_where_the_picture_changes_when_its_part_is_taken_away(task):
    for number in range(SOME):
        picture = make_pair(task, number).clean
        drawing = picture.drawn()
        for name in {part.name for part in picture.parts}:
            without = picture.without(name).drawn()
            changed = (drawing.pixels != without.pixels).any(axis=2)
            assert not changed[drawing.cover[name] == 0].any(), (number, name)
            # Half covered, and of another colour than what is behind: it has to show.
            behind = np.abs(drawing.pixels.astype(int) - without.pixels).max(axis=2)
            solid = drawing.mask([name])
            assert (behind[solid] > 0).mean() > 0.9 or not solid.any(), (number, name)


def test_cover_of_a_disc_is_its_area_at_any_size():
    plain = SoftBackground((120.0,) * 27, (0.5,) * 144, 0.0, (1.0, 1.0))
    disc = Picture(plain, (FilledOutline("disc", ellipse(30, 33, 10, 10, corners=400), Fill((255.0, 0.0, 0.0))),))
    for size in (64, 128, 100):
        area = disc.drawn(size).cover["disc"].sum() * (64 / size) ** 2
        assert area == pytest.approx(np.pi * 100, rel=0.015)
    cover = disc.drawn().cover["disc"]
    rows_of, columns = np.indices(cover.shape) + 0.5
    assert (cover * columns).sum() / cover.sum() == pytest.approx(30, abs=0.06)
    assert (cover * rows_of).sum() / cover.sum() == pytest.approx(33, abs=0.06)


def test_larger_pictures_show_the_same():
    for task in TASKS:
        pair = make_pair(task, 3)
        small = np.asarray(pair.row(64).clean_image, dtype=float)
        large = np.asarray(pair.row(256).clean_image.reduce(4), dtype=float)
        assert np.abs(small - large).mean() < 4


@pytest.mark.parametrize("shape", SHAPES)
def test_outlines_fill_their_box(shape):
    outline = unit_outline(shape)
    assert np.all(np.abs(outline) < 1.3)
    assert np.all(outline.max(axis=0) - outline.min(axis=0) > 1.5)


def test_edges_are_smooth():
    cover = make_pair("states", 0).clean.drawn().cover["object"]
    assert ((cover > 0.05) & (cover < 0.95)).sum() > 20


def test_backgrounds_differ_and_are_not_flat():
    drawn = [background(RandomStream("b", number)).draw(64) for number in range(6)]
    assert all(field.std() > 3 for field in drawn)
    assert len({field.tobytes() for field in drawn}) == 6


def test_errors_say_what_is_valid():
    with pytest.raises(ValueError, match="16 pixels or more, got 8"):
        make_pair("states", 0).clean.drawn(8)
    furry = FilledOutline("x", ellipse(30, 30, 5, 5), Fill((0.0, 0.0, 0.0), texture="furry"))
    with pytest.raises(ValueError, match="no texture 'furry'; .*'plain', 'striped'"):
        Picture(background(RandomStream("b", 0)), (furry,)).drawn()
