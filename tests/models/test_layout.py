"""Layouts against oracles that know nothing of them: token ids, drawn regions, greedy answers, activations' shapes."""

import numpy as np
import pytest
import torch
from PIL import Image

from notice_lens.models.blip.random_blip import random_blip
from notice_lens.models.layout import Layout, Segment, coverage
from notice_lens.models.protocol import VisionLanguageModel, axes, image_stream

KINDS = ("vqa", "caption", "match")
PROMPTS = ["is the umbrellas red or bluish?", "a zebra", "caramelized apples ?"]
ANSWERS = ["red", "dark blue", "zebras"]


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return random_blip(request.param)


def grey(height=64, width=64):
    return Image.fromarray(np.full((height, width, 3), 90, np.uint8))


def prepared(model, answers=None):
    return model.prepare([grey()] * len(PROMPTS), PROMPTS, answers)


def ids_of(model, inputs):
    return [[i for i in row if i != model.cfg.pad_token_id] for row in inputs.input_ids.tolist()]


def where(row, pieces):
    """The one place of some tokens in a row."""
    found = [at for at in range(len(row)) if row[at : at + len(pieces)] == pieces]
    assert len(found) == 1
    return found[0], found[0] + len(pieces)


@pytest.mark.parametrize("word", ["umbrellas", "red", "bluish", "zebra", "caramelized", "apples"])
def test_a_word_is_where_its_tokens_are(model, word):
    inputs = prepared(model)
    layout = model.layout(inputs, PROMPTS)
    pieces = model.tokenizer(word, add_special_tokens=False)["input_ids"]
    number = next(number for number, prompt in enumerate(PROMPTS) if word in prompt)
    first = PROMPTS[number].index(word)
    row = ids_of(model, inputs)[number]
    assert layout.span(number, first, first + len(word)) == where(row, pieces)


def test_words_of_several_pieces_are_among_them(model):
    assert len(model.tokenizer("umbrellas bluish", add_special_tokens=False)["input_ids"]) > 4


def test_special_tokens_are_special_and_the_rest_is_the_prompt(model):
    inputs = prepared(model)
    layout, stack = model.layout(inputs), model.cfg.prompt_stack
    special = {model.tokenizer.cls_token_id, model.cfg.sep_token_id, model.cfg.dec_token_id}
    for number, row in enumerate(ids_of(model, inputs)):
        assert layout.length(stack, number) == len(row)
        expected = [at for at, token in enumerate(row) if token in special]
        assert layout.positions(stack, number, "special").tolist() == expected
        assert layout.positions(stack, number, "prompt").tolist() == sorted({*range(len(row))} - {*expected})
        for name, (first, last) in layout.roles[number].items():
            assert model.tokenizer.convert_ids_to_tokens(row[first:last]) in ([name], [None])


def test_question_marks_are_a_role_where_the_strings_are_known(model):
    layout = model.layout(prepared(model), PROMPTS)
    assert ["?" in roles for roles in layout.roles] == [True, False, True]
    assert not any("?" in roles for roles in model.layout(prepared(model)).roles)


@pytest.mark.parametrize("kind", ["vqa", "caption"])
def test_answers_are_where_their_tokens_are(kind):
    model = random_blip(kind)
    inputs = prepared(model, ANSWERS)
    layout, stack = model.layout(inputs), model.cfg.stacks[-1]
    rows = inputs.answer_ids if kind == "vqa" else inputs.input_ids
    for number, answer in enumerate(ANSWERS):
        at = layout.positions(stack, number, "answer")
        assert rows[number, at].tolist() == model.tokenizer(answer, add_special_tokens=False)["input_ids"]
        assert layout.length(stack, number) == int((rows[number] != model.cfg.pad_token_id).sum())


def test_a_layout_is_known_before_images_are_prepared(model):
    assert model.layout_of(PROMPTS) == model.layout(prepared(model), PROMPTS)
    if model.cfg.behaviour != "choice":
        assert model.layout_of(PROMPTS, ANSWERS) == model.layout(prepared(model, ANSWERS), PROMPTS)


def test_the_read_out_is_where_the_answer_is_predicted(model):
    inputs = prepared(model)
    layout, last = model.layout(inputs), model.cfg.stacks[-1]
    if model.cfg.behaviour != "choice":
        logits, said = model(inputs), model.greedy_ids(inputs, 1)
        behind = [0] * 3 if last != model.cfg.prompt_stack else [len(row) - 1 for row in ids_of(model, inputs)]
        found = [logits[number, at].argmax().item() for number, at in enumerate(layout.read_out)]
        ends = [token if len(own) > start else None for own, start, token in zip(said, behind, found, strict=True)]
        assert [own[start] if len(own) > start else None for own, start in zip(said, behind, strict=True)] == ends
        return
    # A choice is read from one position: a change anywhere else behind the last block changes nothing.
    hook = f"{last}.blocks.{model.stack(last).cfg.n_layers - 1}.{model.block_output(last)}"
    for at in range(layout.length(last, 0)):

        def changed(value, hook, at=at):
            value[:, at] += 1
            return value

        moved = model.run_with_hooks(inputs, fwd_hooks=[(hook, changed)])
        assert torch.equal(moved, model(inputs)) == (at != layout.read_out[0])


def drawn(box, height, width):
    """A grey picture with a white box [top, left, bottom, right] in shares, and the box's mask."""
    top, left, bottom, right = (round(share * side) for share, side in zip(box, (height, width) * 2, strict=True))
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    pixels = np.array(grey(height, width))
    pixels[mask] = 255
    return Image.fromarray(pixels), mask


@pytest.mark.parametrize("size", [(64, 64), (128, 96), (48, 200)])
@pytest.mark.parametrize("box", [(0.25, 0.5, 0.75, 1.0), (0.0, 0.0, 0.25, 0.25)])
def test_a_region_covers_the_patches_whose_embedding_changes(model, size, box):
    picture, mask = drawn(box, *size)
    embedded = [
        model.run_with_cache(model.prepare(image, "a zebra"), names_filter="vision.hook_embed")[1]["vision.hook_embed"]
        for image in (grey(*size), picture)
    ]
    change = (embedded[1] - embedded[0])[0].norm(dim=-1)
    layout = model.layout_of(["a zebra"])
    stack = image_stream(model.cfg)
    assert layout.region(stack, 0, mask).tolist() == (change > 0.4 * change.max()).tolist()


def test_images_of_another_size_have_another_grid(model):
    inputs = model.prepare([grey(), grey()], "a zebra", image_size=(48, 96))
    layout = model.layout(inputs)
    assert layout.grid("vision") == (3, 6)
    states = model.run_stack("vision", inputs)
    assert states.shape[1] == layout.longest("vision") == 19


def test_axes_have_the_lengths_of_the_activations(model):
    """Every activation's positions, and every pattern's keys, are as many as the layout says of their stacks."""
    inputs = prepared(model)
    layout, (_, cache) = model.layout(inputs), model.run_with_cache(inputs)
    for name, value in cache.items():
        stack, _, rest = name.partition(".")
        leaf = rest.split(".", 2)[2] if rest.startswith("blocks.") else rest
        own, keys = axes(model.cfg, stack, leaf)
        dims = dict(zip(model.hook_dict[name].shape.split(), value.shape, strict=True))
        pos = next(dims[word] for word in ("pos", "query_pos", "key_pos") if word in dims)
        assert pos == layout.longest(own), name
        assert dims.get("key_pos", layout.longest(own)) == layout.longest(own if keys is None else keys), name


def test_a_model_keeps_to_the_protocol(model):
    assert isinstance(model, VisionLanguageModel)
    assert model.cfg.sources == dict(zip(model.cfg.stacks[1:], model.cfg.stacks, strict=False))
    assert {hook in model.hook_dict for hook in (*model.cfg.noise_hooks, model.cfg.image_norm_hook)} == {True}
    assert f"{model.cfg.looking_site.partition('.')[2]}.hook_z" in model.activations(model.cfg.prompt_stack)


def test_prompts_have_to_be_the_inputs_own(model):
    with pytest.raises(ValueError, match="prompts of .* tokens for inputs of .*: they are not the inputs' prompts"):
        model.layout(prepared(model), ["a zebra"] * 3)


# Layouts by themselves: what decoder-only models will have


def chat(grid=(2, 3), tiles=()):
    image = Segment("image", 1, 1 + grid[0] * grid[1], grid)
    segments = [Segment("special", 0, 1), image]
    for area in tiles:
        start = segments[-1].stop
        segments += [Segment("image", start, start + 4, (2, 2), area)]
    start = segments[-1].stop
    segments += [Segment("prompt", start, start + 3), Segment("special", start + 3, start + 5)]
    return tuple(segments)


def of(*examples):
    n = len(examples)
    return Layout({"language": list(examples)}, (0,) * n, "language", ({},) * n)


def counted(mask, grid, area):
    """The share of each square by counting points, many to a pixel."""
    n = 40
    height, width = mask.shape
    shares = np.zeros(grid)
    for row in range(grid[0]):
        for column in range(grid[1]):
            down = area[0] + (area[2] - area[0]) * (row + (np.arange(n) + 0.5) / n) / grid[0]
            across = area[1] + (area[3] - area[1]) * (column + (np.arange(n) + 0.5) / n) / grid[1]
            ys, xs = np.floor(down * height).astype(int), np.floor(across * width).astype(int)
            inside = ((ys >= 0) & (ys < height))[:, None] & ((xs >= 0) & (xs < width))
            shares[row, column] = (mask[np.ix_(ys.clip(0, height - 1), xs.clip(0, width - 1))] & inside).mean()
    return shares


@pytest.mark.parametrize("area", [(0.0, 0.0, 1.0, 1.0), (0.0, 0.5, 0.5, 1.0), (-0.25, 0.0, 1.25, 1.0)])
def test_coverage_of_a_tile_or_a_padded_picture(area):
    mask = np.random.default_rng(0).random((8, 8)) < 0.5
    assert np.allclose(coverage(mask, (4, 2), area), counted(mask, (4, 2), area), atol=0.03)


def test_a_region_reaches_into_every_image_segment_that_shows_it():
    layout = of(chat(tiles=[(0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0)]))
    mask = np.zeros((12, 12), bool)
    mask[6:, 6:] = True  # the lower right quarter: the whole second tile, nothing of the first
    found = layout.region("language", 0, mask)
    assert found[11:15].all()
    assert not found[7:11].any()
    assert found[1:7].tolist() == [False, False, False, False, True, True]
    assert not found[[0, *range(15, 20)]].any()


def test_images_of_other_sizes_in_one_batch():
    layout = of(chat((2, 3)), chat((1, 2)))
    assert (layout.longest("language"), layout.length("language", 1)) == (12, 8)
    assert layout.mask("language", "image").sum(1).tolist() == [6, 2]
    assert layout.mask("language").sum(1).tolist() == [12, 8]
    assert layout.take([1]).grid("language") == (1, 2)
    with pytest.raises(ValueError, match=r"one grid for the images of all examples.*\(1, 2\).*\(2, 3\)"):
        layout.grid("language")


def test_images_without_a_grid_have_no_regions():
    layout = of((Segment("image", 0, 5), Segment("prompt", 5, 7)))
    with pytest.raises(ValueError, match="image positions 0 to 4 of `language` lie on no grid"):
        layout.region("language", 0, np.ones((4, 4), bool))
    with pytest.raises(ValueError, match="expected one grid"):
        layout.grid("language")


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        (lambda: Segment("images", 0, 1), "no kind of segment 'images'; did you mean 'image'"),
        (lambda: Segment("image", 3, 1), "from 3 to 1: expected 0 <= start <= stop"),
        (lambda: Segment("image", 0, 5, (2, 2)), "a grid of 2 x 2 for 5 positions of kind 'image'"),
        (lambda: Segment("prompt", 0, 4, (2, 2)), "a grid of 2 x 2 for 4 positions of kind 'prompt'"),
        (lambda: of((Segment("image", 0, 2), Segment("prompt", 3, 4))), "`language` leave a gap"),
        (lambda: of((Segment("image", 1, 2),)), "`language` leave a gap"),
        (lambda: Layout({"language": [()]}, (0, 1), "language", ({},)), "unequal numbers of examples"),
        (lambda: of(chat()).length("vision", 0), "no stack 'vision'"),
        (lambda: of(chat()).span(0, 0, 1), "made without the prompts' strings"),
    ],
)
def test_what_is_no_layout(segments, message, unchecked):
    with pytest.raises((ValueError, KeyError), match=message):
        segments()
