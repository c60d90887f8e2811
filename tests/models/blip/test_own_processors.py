"""A processor of the user's own: words that the tokenizer has and the weights have not are found."""

import copy

import pytest
import torch

from notice_lens import HookedBLIP
from notice_lens.models.blip.random_blip import processor, random_hf, save_random_checkpoint


@pytest.fixture
def vqa_folder(tmp_path):
    return save_random_checkpoint(tmp_path / "checkpoint", "vqa")


def test_a_processor_of_ones_own(vqa_folder, tmp_path):
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    mine, elsewhere = processor(), tmp_path / "processor"
    expected = HookedBLIP.from_pretrained(vqa_folder).generate(image, "is this red?")
    mine.save_pretrained(elsewhere)
    for file in vqa_folder.glob("*token*"):
        file.unlink()
    assert HookedBLIP.from_pretrained(vqa_folder).processor is None
    assert HookedBLIP.from_pretrained(vqa_folder, processor=mine).processor is mine
    assert HookedBLIP.from_pretrained(vqa_folder, processor=elsewhere).generate(image, "is this red?") == expected
    with pytest.raises(TypeError, match=r"processor is a BertTokenizer; expected a BlipProcessor"):
        HookedBLIP.from_pretrained(vqa_folder, processor=mine.tokenizer)
    with pytest.raises(FileNotFoundError, match=r"nowhere.*there is no tokenizer.json"):
        HookedBLIP.from_pretrained(vqa_folder, processor=tmp_path / "nowhere")


def test_words_added_to_the_tokenizer_alone_are_found(vqa_folder, tmp_path):
    longer = processor()
    longer.tokenizer.add_tokens(["florble", "gnarf"])
    with pytest.raises(ValueError, match=r"has 267 words and the model's embedding 265: florble, gnarf have no embedd"):
        HookedBLIP.from_pretrained(vqa_folder, processor=longer)
    with pytest.raises(ValueError, match="florble, gnarf have no embedding"):
        HookedBLIP.from_hf(random_hf(tokenizer=processor().tokenizer), longer)
    model = HookedBLIP.from_pretrained(vqa_folder)
    model.tokenizer.add_tokens(["zzyzx"])
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    for question, answer in (("is this zzyzx?", "red"), ("is this red?", "zzyzx")):
        with pytest.raises(ValueError, match="has a word 'zzyzx' that the model has no embedding for"):
            model.prepare(image, question, answer)


def test_a_word_in_the_place_of_dec_is_found(bert):
    """Published tokenizers end where the model's [DEC] begins: an added word would read [DEC]'s embedding."""
    published = random_hf(tokenizer=processor().tokenizer, text={"vocab_size": 30_524, "bos_token_id": 30_522})
    mine = processor()
    mine.tokenizer = bert
    assert HookedBLIP.from_hf(published, mine).cfg.dec_token_id == len(bert)
    mine.tokenizer = copy.deepcopy(bert)
    mine.tokenizer.add_tokens(["florble"])
    with pytest.raises(ValueError, match="florble has no embedding"):
        HookedBLIP.from_hf(published, mine)
