"""Both worlds: a pair follows from its number, words are one token, and nothing gives the answer away."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest

from hash_seeds import printed_by_hash_seed
from notice_lens.mini import rows, vocabulary
from notice_lens.mini.generate import WORLDS, make_pair, pairs
from train_mini.llava import vocabulary as llava_vocabulary
from train_mini.measure import words_alone

TASKS = [(world, task) for world in WORLDS for task in WORLDS[world].groups]
TOKENIZERS = {
    "drawn": vocabulary.processor().tokenizer,
    "pictures": llava_vocabulary.processor().tokenizer,
}

FINGERPRINT = """
import hashlib, json
from notice_lens.mini import rows
from notice_lens.mini.generate import WORLDS
def digest(world, task):
    made = hashlib.sha256()
    for row in rows(task, 12, seed=3, world=world):
        for image in (row.clean_image, row.corrupt_image, row.donor_image):
            made.update(image.tobytes())
        for mask in (*row.clean_regions.values(), *row.corrupt_regions.values()):
            made.update(mask.tobytes())
        made.update(repr((row.id, row.clean_prompt, row.corrupt_prompt, row.donor_prompt, row.roles)).encode())
    return made.hexdigest()
print(json.dumps([digest(world, task) for world in WORLDS for task in WORLDS[world].groups]))
"""


def test_the_same_seed_gives_the_same_bytes_in_another_process():
    digests = [json.loads(printed) for printed in printed_by_hash_seed(FINGERPRINT)]
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == len(TASKS)


@pytest.mark.parametrize(("world", "task"), TASKS)
def test_a_pair_depends_on_its_number_alone(world, task):
    in_a_row = list(rows(task, 8, seed=1, world=world))[7]
    alone = make_pair(task, 7, seed=1, world=world).row()
    assert in_a_row.clean_image.tobytes() == alone.clean_image.tobytes()
    assert (in_a_row.id, in_a_row.clean_prompt) == (alone.id, alone.clean_prompt)


@pytest.mark.parametrize("world", WORLDS)
def test_splits_and_seeds_share_no_picture(world):
    digests = [
        hashlib.sha256(row.clean_image.tobytes()).hexdigest()
        for split in ("train", "validation", "test")
        for seed in (0, 1, 10, -1)
        for task in WORLDS[world].groups
        for row in rows(task, 6, seed=seed, split=split, world=world)
    ]
    assert len(set(digests)) == len(digests)


def test_pairs_are_numbered():
    assert make_pair("faces", 4, seed=9, split="validation").id == "validation-faces-9-4"
    assert make_pair("faces", 4, seed=9, world="pictures").id == "pictures-test-faces-9-4"


def test_wrong_names_are_refused():
    with pytest.raises(ValueError, match="no task 'state'; did you mean 'states'"):
        make_pair("state", 0)
    with pytest.raises(ValueError, match="no split 'tests'; did you mean 'test'"):
        make_pair("states", 0, split="tests")
    with pytest.raises(ValueError, match="no world 'picture'; did you mean 'pictures'"):
        make_pair("states", 0, world="picture")
    with pytest.raises(ValueError, match="0 or more, got -1"):
        make_pair("states", -1)


@pytest.mark.parametrize(("world", "task"), TASKS)
def test_questions_of_a_pair_are_equally_long_and_answers_are_one_token(world, task):
    tokenizer = TOKENIZERS[world]
    for pair in pairs(task, 120, seed=5, world=world):
        asked = [pair.question, pair.corrupt_question, pair.donor_question]
        asked += [pair.control_question] if pair.control_question else []
        assert len({len(tokenizer(question.text).input_ids) for question in asked}) == 1, pair.id
        for word in (pair.question.answer, pair.incorrect, pair.donor_question.answer, *pair.question.options):
            assert len(tokenizer.tokenize(word)) == 1
        assert pair.question.text != pair.corrupt_question.text != pair.donor_question.text


@pytest.mark.parametrize(("world", "task"), TASKS)
def test_groups_orders_and_answers_are_balanced(world, task):
    some = list(pairs(task, 600, seed=2, world=world))
    assert len(set(Counter(pair.group for pair in some).values())) == 1
    for group in WORLDS[world].groups[task]:
        of_group = [pair for pair in some if pair.group == group]
        assert np.mean([pair.question.options[0] == pair.question.answer for pair in of_group]) == 0.5
        answers = Counter(pair.question.answer for pair in of_group)
        wrong = Counter(pair.incorrect for pair in of_group)
        expected = len(of_group) / len(answers)
        # Six standard deviations of a count: balanced, whatever the seed.
        for word in answers:
            if world == "drawn":
                assert abs(answers[word] - expected) < 6 * expected**0.5 + 1, (word, answers)
            most = max(answers[word], wrong[word]) if world == "pictures" else expected
            assert abs(answers[word] - wrong[word]) < 6 * (2 * most) ** 0.5, (word, answers, wrong)


@pytest.mark.parametrize(("world", "task"), TASKS)
def test_words_alone_do_not_tell_the_answer(world, task):
    # 250 pairs: three standard deviations are nine and a half points. The docs have the figure on more.
    assert abs(words_alone(task, 250, world=world) - 0.5) < 0.095


@pytest.mark.parametrize("world", WORLDS)
def test_vocabulary_has_every_word_as_one_token(world):
    tokenizer, words = TOKENIZERS[world], vocabulary if world == "drawn" else llava_vocabulary
    pieces = words.word_pieces()
    assert len(set(pieces)) == len(pieces) > 1100
    for word in words.answer_words() if world == "drawn" else words.world_words():
        assert tokenizer.tokenize(word) == [word]
    unusual = tokenizer.tokenize("Is the zebra's 3rd xylophone left of a naive purple-ish qat?")
    assert tokenizer.unk_token not in unusual


def test_start_tokens_of_the_mini_blip():
    tokenizer = TOKENIZERS["drawn"]
    pieces = vocabulary.word_pieces()
    assert (tokenizer.bos_token, tokenizer.convert_tokens_to_ids("[ENC]")) == ("[DEC]", pieces.index("[ENC]"))


def test_the_quick_tokenizer_of_the_mini_llava_is_the_tokenizer():
    tokenizer, tokens = TOKENIZERS["pictures"], llava_vocabulary.tokens("is the heart red?")
    assert tokenizer("Is the heart red?").input_ids[1:] == tokens
    assert tokenizer.decode(tokens) == "is the heart red?"
