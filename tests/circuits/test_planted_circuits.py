"""Nine circuits that were planted by hand, and what the public verbs say of them: planted and said side by side.

Models are those of `planted`: a cross-attention head writes the sign of the picture (light or dark) to a channel of its
own, and the logit difference is a function of channels that is known. Nothing is drawn but pictures and words.
"""

from itertools import combinations

import numpy as np
import pytest

from notice_lens import circuits, patching
from notice_lens.pairs import MinimalPairs
from planted import WORDS, Gate, Majority, light_and_dark, plant_backup, plant_class_token, planted

EXACT = 1e-4
N = 16
QUIET = {"progress": False}


def name(head, module="text.cross_attn"):
    return f"{module}.L{head[0]}.H{head[1]}"


def together(model, heads, pairs=None):
    """What is said of all pairs of heads: kind and the head that it is about, by the numbers of the two heads."""
    names = [head if isinstance(head, str) else name(head) for head in heads]
    effects = patching.pairs_of_heads(model, light_and_dark(n=N) if pairs is None else pairs, names, **QUIET)
    found = circuits.interactions(effects)
    assert found.attrs["clusters"] == N
    couples = combinations(range(len(names)), 2)
    return found, {
        couple: (str(kind), names.index(about) if about else None)
        for couple, kind, about in zip(couples, found.kind.values, found.about.values, strict=True)
    }


def important(model, pairs=None, control=None, **options):
    """The heads that are called important, with their effects."""
    pairs = light_and_dark(n=N) if pairs is None else pairs
    effects = patching.patch_heads(model, pairs, positions="all", **QUIET, **options)
    found = circuits.important_heads(effects, role="all", control=control)
    return {
        (int(layer), int(head)): float(found.effect.values[layer, head])
        for layer, head in np.argwhere(found.significant.values)
    }


def test_a_single_head():
    """Planted: L0.H1 alone speaks. L1.H0 speaks where nobody listens."""
    model = planted({(0, 1): 0, (1, 0): 1}, {0: 1.0})
    assert important(model) == pytest.approx({(0, 1): 1.0}, abs=EXACT)
    _, said = together(model, [(0, 1), (1, 0), (1, 2)])
    assert said == {(0, 1): ("single", 0), (0, 2): ("single", 0), (1, 2): ("nothing", None)}


@pytest.mark.parametrize("pair", [((1, 0), (1, 2)), ((0, 1), (1, 1))], ids=["one layer", "two layers"])
@pytest.mark.parametrize("either", [False, True], ids=["AND", "OR"])
def test_an_and_and_an_or(either, pair):
    """Planted: the answer is (first AND second), or (first OR second), by a gate in the last MLP."""
    model = planted({pair[0]: 0, pair[1]: 1}, {2: 1.0}, [Gate(2, (0, 1), either)])
    found, said = together(model, pair)
    assert said == {(0, 1): ("OR" if either else "AND", None)}
    expected = [-1, 1] if either else [1, -1]
    np.testing.assert_allclose(found.interaction[0], expected, atol=EXACT)
    np.testing.assert_allclose(found.joint[0], 1, atol=EXACT)
    alone = float(either)
    for single in (found.first_alone, found.second_alone):
        np.testing.assert_allclose(single[0], [alone, 1 - alone], atol=EXACT)


@pytest.mark.parametrize("either", [False, True], ids=["AND", "OR"])
def test_an_and_and_an_or_of_three_are_so_by_their_pairs(either):
    """Planted: the answer is all of three heads, or any of them. Two of three do not yet restore, or lose, it."""
    heads = [(0, 0), (0, 2), (1, 1)]
    model = planted({head: channel for channel, head in enumerate(heads)}, {3: 1.0}, [Gate(3, (0, 1, 2), either)])
    found, said = together(model, heads)
    assert set(said.values()) == {("OR" if either else "AND", None)}
    silent = found.joint.sel(direction="noise" if either else "denoise")
    np.testing.assert_allclose(silent, 0, atol=EXACT)


@pytest.mark.parametrize("turned", [False, True])
def test_a_backup_through_attention(turned):
    """Planted: L0.H0 speaks; L1.H1 looks at the picture where L0.H0 does not say "light", and says twice as much."""
    model = planted({(0, 0): 0, (1, 1): 1}, {0: 1.0, 1: 2.0, 2: 0.0})
    plant_backup(model, (1, 1), told=0, writes=1, idle=2)
    heads = [(1, 1), (0, 0)] if turned else [(0, 0), (1, 1)]
    found, said = together(model, heads)
    assert said == {(0, 1): ("backup", heads.index((1, 1)))}
    first = found.second_alone if turned else found.first_alone
    # Alone the first restores all, and its loss costs nothing; both together cost all.
    np.testing.assert_allclose(first[0], [1, 0], atol=EXACT)
    np.testing.assert_allclose(found.joint[0], 1, atol=EXACT)
    np.testing.assert_allclose(found.interaction[0], [-0.5, 0.5], atol=EXACT)


def test_a_negative_head():
    """Planted: the answer is twice L0.H0 minus L1.H1."""
    model = planted({(0, 0): 0, (1, 1): 1}, {0: 2.0, 1: -1.0})
    assert important(model) == pytest.approx({(0, 0): 2.0, (1, 1): -1.0}, abs=EXACT)
    found, said = together(model, [(0, 0), (1, 1)])
    assert said == {(0, 1): ("negative", 1)}
    np.testing.assert_allclose(found.interaction, 0, atol=EXACT)


def test_two_heads_that_add_up():
    """Planted: the answer is the sum of L0.H0 and L1.H1."""
    model = planted({(0, 0): 0, (1, 1): 1}, {0: 1.0, 1: 1.0})
    assert together(model, [(0, 0), (1, 1)])[1] == {(0, 1): ("independent", None)}


def test_a_majority_of_three():
    """Planted: the answer is what two or three of three heads say. No single patch shows anything, either way."""
    heads = [(0, 0), (0, 2), (1, 1)]
    model = planted({head: number for number, head in enumerate(heads)}, {3: 1.0}, [Majority(3, (0, 1, 2))])
    assert important(model) == {}
    # The donor is as dark as the corrupted run: against noising it leaves nothing to be carried.
    assert important(model, direction="noise", control=False) == {}
    found, said = together(model, [*heads, (1, 2)])
    assert {couple: own for couple, own in said.items() if 3 not in couple} == dict.fromkeys(
        [(0, 1), (0, 2), (1, 2)], ("majority", None)
    )
    assert {own for couple, own in said.items() if 3 in couple} == {("nothing", None)}
    named = found.kind.values == "majority"
    np.testing.assert_allclose(found.joint.values[named], 1, atol=EXACT)
    np.testing.assert_allclose(found.interaction.values[named], 1, atol=EXACT)


def test_a_vision_head_tells_the_class_token_and_a_text_head_reads_it_there():
    """Planted: vision L0.H1 writes at the class token, text L1.H2 reads it there; nobody else looks at the picture."""
    model, pairs = planted({(1, 2): 0}, {0: 1.0}), light_and_dark(n=N)
    plant_class_token(model, (0, 1), (1, 2))
    assert important(model, pairs) == pytest.approx({(1, 2): 1.0}, abs=EXACT)
    assert important(model, pairs, site="vision.attn") == pytest.approx({(0, 1): 1.0}, abs=EXACT)
    where = patching.aggregate(patching.patch_heads(model, pairs, "vision.attn", positions="each", **QUIET))
    np.testing.assert_allclose(where.values[0, 1], [1, 0, 0, 0, 0], atol=EXACT)
    paths = patching.aggregate(
        patching.patch_paths(model, pairs, "vision.attn", "text.cross_attn.v", positions="all", controls=(), **QUIET)
    )
    named = paths.stack(path=paths.dims)
    assert [tuple(label) for label in named.path.values[named.values > 0.5]] == [(0, 1, 1, 2)]
    _, said = together(model, [name((0, 1), "vision.attn"), name((1, 2))], pairs)
    assert said == {(0, 1): ("series", None)}


# Tasks that are told apart by a word at the position that is read.


def words(sign):
    """Words whose first channel has this sign, so that a gate can tell tasks apart."""
    model = planted({}, {0: 1.0})
    table = model.text.word_embedding.weight[:, 2 * WORDS[0]]
    known = ["apple", "ball", "bear", "boat", "book", "cake", "car", "cat", "chair", "clock", "cup", "dog", "fish"]
    ids = model.tokenizer.convert_tokens_to_ids(known)
    return [word for word, number in zip(known, ids, strict=True) if table[number] == sign]


def task(own_words, first):
    pairs = light_and_dark(n=N + first, prompts=[f"what is {word} on it?" for word in own_words])
    return MinimalPairs.from_dataset(pairs.dataset.select(range(first, N + first)))


def test_heads_by_task():
    """Planted: L0.H1 speaks in questions of the one task, L1.H0 in those of the other, by a word that gates read."""
    gates = [Gate(2, (0, WORDS[0])), Gate(3, (1, WORDS[0]), signs=(1, -1))]
    model = planted({(0, 1): 0, (1, 0): 1}, {2: 1.0, 3: 1.0}, gates)
    tasks = {"first": task(words(1), 0), "second": task(words(-1), N)}
    assert important(model, tasks["first"]) == pytest.approx({(0, 1): 1.0}, abs=EXACT)
    assert important(model, tasks["second"]) == pytest.approx({(1, 0): 1.0}, abs=EXACT)
    conditions = {own: patching.patch_heads(model, pairs, positions="all", **QUIET) for own, pairs in tasks.items()}
    assert not circuits.universal_heads(conditions, role="all").universal.any()
    either = circuits.universal_heads(conditions, role="all", at_least=1).universal
    assert np.argwhere(either.values).tolist() == [[0, 1], [1, 0]]


def test_a_head_that_speaks_for_and_against_is_not_universal():
    """Planted: L0.H1 has +1, -1 and +1 of the gap in three tasks; in the second L1.H0 has +2."""
    gates = [Gate(2, (0, WORDS[0])), Gate(3, (1, WORDS[0]), signs=(1, -1)), Gate(4, (0, WORDS[0]), signs=(1, -1))]
    model = planted({(0, 1): 0, (1, 0): 1}, {2: 1.0, 3: 2.0, 4: -1.0}, gates)
    some = words(1)
    tasks = {"one": task(some[::2], 0), "two": task(words(-1), N), "three": task(some[1::2], 2 * N)}
    conditions = {own: patching.patch_heads(model, pairs, positions="all", **QUIET) for own, pairs in tasks.items()}
    effects = {
        own: float(circuits.important_heads(condition, role="all").effect[0, 1])
        for own, condition in conditions.items()
    }
    assert effects == pytest.approx({"one": 1.0, "two": -1.0, "three": 1.0}, abs=EXACT)
    assert not circuits.universal_heads(conditions, role="all").universal.any()
