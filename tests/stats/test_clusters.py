"""Clusters of pairs: which belong together, by hand, and their numbers."""

from notice_lens.stats.clusters import cluster_numbers, members

IMAGES = [("d", "a"), ("a", "b"), ("b", "a"), ("c", "e"), ("b", "x"), ("a", "d")]


def test_pairs_of_the_same_two_images_in_either_order() -> None:
    assert [own.tolist() for own in members(cluster_numbers(IMAGES, "pair"))] == [[0, 5], [1, 2], [3], [4]]
    assert cluster_numbers(IMAGES, "pair").tolist() == [0, 1, 1, 2, 3, 0]


def test_pairs_that_are_linked_by_any_image() -> None:
    assert [own.tolist() for own in members(cluster_numbers(IMAGES, "image"))] == [[0, 1, 2, 4, 5], [3]]
    assert cluster_numbers(IMAGES, "image").tolist() == [0, 0, 0, 1, 0, 0]


def test_no_pairs() -> None:
    assert cluster_numbers([], "pair").tolist() == []
    assert members([]) == []
