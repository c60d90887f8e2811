import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from notice_lens import HookedBLIP
from notice_lens.pairs import mini_world
from notice_lens.pairs.distance import closest, distances, picture_states


def images(n: int) -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(n)]


def test_states_are_the_means_over_patches(vqa):
    some = images(5)
    pixels = vqa.model.prepare(some, "is it?").pixel_values
    theirs = vqa.hf.vision_model(pixel_values=pixels).last_hidden_state.detach()
    torch.testing.assert_close(picture_states(vqa.model, some, progress=False), theirs[:, 1:].mean(1))


def test_batches_do_not_matter(vqa):
    some = images(5)
    whole = picture_states(vqa.model, some, progress=False)
    torch.testing.assert_close(picture_states(vqa.model, some, batch_size=2, progress=False), whole)
    assert picture_states(vqa.model, [], progress=False).shape == (0, whole.shape[1])


def test_no_gradients_and_no_hooks_are_left(vqa):
    assert not picture_states(vqa.model, images(1), progress=False).requires_grad
    assert not vqa.model.vision.hook_embed.fwd_hooks


def test_cosine_distances():
    a = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    b = torch.tensor([[3.0, 0.0], [-1.0, 0.0], [1.0, 1.0]])
    expected = torch.tensor([[0.0, 2.0, 1 - 0.5**0.5], [1.0, 1.0, 1 - 0.5**0.5]])
    torch.testing.assert_close(distances(a, b), expected)


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))
def test_closest_are_one_to_one_and_nearest_first(seed: int, n: int, m: int, times: int):
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn(n, 3, generator=g), torch.randn(m, 3, generator=g)
    found = closest(a, b, times)
    assert len(found) == min(n, m, times)
    assert len({i for i, _ in found}) == len({j for _, j in found}) == len(found)
    cost = [distances(a, b)[i, j].item() for i, j in found]
    assert cost == sorted(cost)


def test_closest_finds_the_same_pictures_again():
    a = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([3, 1, 7, 0, 6, 2, 5, 4])
    assert sorted((j, i) for i, j in closest(a, a[order], 8)) == list(enumerate(order.tolist()))


def test_model_without_a_processor(vqa):
    with pytest.raises(ValueError, match="this model has no processor"):
        picture_states(HookedBLIP.from_hf(vqa.hf), images(1))


def test_batch_size_that_is_none(vqa):
    with pytest.raises(ValueError, match="batch_size=0: expected 1 or more"):
        picture_states(vqa.model, images(1), batch_size=0)


def test_minimality_by_hand(mini):
    pairs = mini_world("states", 12)
    found = pairs.minimality(mini, batch_size=5, progress=False)
    assert found["id"].tolist() == pairs["id"]
    clean = picture_states(mini, [pair.clean_image for pair in pairs], progress=False)
    corrupt = picture_states(mini, [pair.corrupt_image for pair in pairs], progress=False)
    apart = distances(clean, corrupt).numpy()
    others = [n for n, group in enumerate(pairs["group"]) if group == pairs["group"][3] and n != 3]
    row = found.iloc[3]
    assert row["distance"] == pytest.approx(apart[3, 3], abs=1e-5)
    assert row["random"] == pytest.approx(apart[3, others].mean(), abs=1e-5)
    assert row["closer_than"] == (apart[3, others] > apart[3, 3]).mean()
    # The mini world's pairs differ in one meaning and in nothing else.
    assert found["closer_than"].mean() > 0.9
    alone = pairs[:1].minimality(mini, progress=False)
    assert alone["distance"].notna().all()
    assert alone[["random", "closer_than"]].isna().all(axis=None)
