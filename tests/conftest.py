import os

# Read when the hub's library is imported: no test may look for a network.
os.environ["HF_HUB_OFFLINE"] = "1"

import type_checks

type_checks.install("notice_lens")

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from hypothesis import settings

from computed_batches import Batches, before_each_batch
from notice_lens import HookedBLIP
from notice_lens.models import BLIPInputs
from notice_lens.models.blip.random_blip import processor, random_hf
from notice_lens.pairs import MinimalPairs, mini_world
from oracle import Oracle
from pair_rows import picture
from picture_server import Server, serving
from tiny_vlms import FAMILIES

torch.set_num_threads(1)
# Other processes may have the machine: how long an example takes says nothing about the code.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
KINDS = ("vqa", "caption", "match")
LIKE_ANOTHER = {
    "vipllava": "llava", "llava_onevision": "llava_next", "qwen2_vl": "qwen2_5_vl", "glm4v": "qwen2_5_vl",
    "smolvlm": "idefics3", "blip-2": "instructblip",
}  # fmt: skip
"""Families that go the way of another one through the code: what is tested on every family is tested on these by
`make test-large`."""
REPRESENTATIVES = {"llava", "gemma3", "qwen3_vl", "mllama", "instructblip"}
"""One family of each kind of language model: causal; with windows, and blocks of the image that see themselves; with
features of the image in several layers; with cross-attention; behind a Q-Former. `make test` compares patched runs of
these with forward passes, `make test-large` those of all other families."""
EXACT = Path(__file__).parent / "patching" / "causal"
"""The tests that compare patched runs of hosted models with forward passes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests of families as large that are like another one, or that others stand for."""
    for item in items:
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        families = {value for value in parameters if isinstance(value, str) and value in FAMILIES}
        if families & LIKE_ANOTHER.keys() or (families - REPRESENTATIVES and EXACT in item.path.parents):
            item.add_marker("large")


@dataclass
class Pair:
    """A Hugging Face model and its port, with two inputs that they can run on."""

    kind: str
    hf: Any
    model: HookedBLIP

    @property
    def oracle(self) -> Oracle:
        return Oracle(self.hf, self.kind)

    def inputs(self, batch: int = 1, length: int = 9, answer_length: int | None = None, seed: int = 0) -> BLIPInputs:
        """Noise images and random tokens: no padding, so that Hugging Face is right too."""
        g = torch.Generator().manual_seed(seed)
        dtype, d_vocab = self.model.dtype, self.hf.config.text_config.vocab_size
        size = self.model.cfg.image_size
        answer = None
        if answer_length is not None:
            answer = torch.randint(5, d_vocab, (batch, answer_length), generator=g)
            answer[:, 0] = self.model.cfg.dec_token_id
        return BLIPInputs(
            pixel_values=torch.randn(batch, 3, size, size, generator=g).to(dtype),
            input_ids=torch.randint(5, d_vocab, (batch, length), generator=g),
            answer_ids=answer,
        )


def make_pair(kind: str, dtype: torch.dtype = torch.float32, size: str = "tiny", **config: Any) -> Pair:
    tiny = processor(image_size=config.get("vision", {}).get("image_size", 64))
    hf = random_hf(kind, size, tokenizer=tiny.tokenizer if size == "tiny" else None, **config).to(dtype)
    return Pair(kind, hf, HookedBLIP.from_hf(hf, tiny))


def make_small_pair(kind: str = "vqa", dtype: torch.dtype = torch.float64) -> Pair:
    """Two layers of three heads, four patches: for sweeps over everything."""
    few = {"num_hidden_layers": 2, "num_attention_heads": 3}
    return make_pair(kind, dtype, text=few, vision={**few, "image_size": 32})


@pytest.fixture(scope="session")
def mini() -> HookedBLIP:
    """The trained model that ships with the package."""
    return HookedBLIP.mini()


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Batches:
    """The batches that sweeps and attributions compute from here on."""
    batches = Batches()
    before_each_batch(batches.happened, monkeypatch.setattr)
    return batches


@pytest.fixture(scope="module")
def model() -> HookedBLIP:
    """The same, a module's own: its hooks may be looked at."""
    return HookedBLIP.mini()


@pytest.fixture(scope="module")
def pairs() -> MinimalPairs:
    """Two pairs that the trained model can be asked about."""
    return mini_world("states", 2, seed=1)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions as users call them: types are checked at every call in tests alone."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with `0.png` to `5.png`."""
    for number in range(6):
        picture(number).save(tmp_path / f"{number}.png")
    return tmp_path


@pytest.fixture(scope="session")
def bert() -> Any:
    """A tokenizer with BERT's own 30,522 word pieces, which BLIP's text side uses."""
    from transformers.models.bert.tokenization_bert import BertTokenizer

    words = (Path(__file__).parent / "data" / "bert" / "vocab.txt").read_text(encoding="utf-8").split()
    return BertTokenizer(vocab={word: number for number, word in enumerate(words)})


@pytest.fixture(scope="session", params=KINDS)
def pair(request: pytest.FixtureRequest) -> Pair:
    return make_pair(request.param)


@pytest.fixture(scope="session")
def vqa() -> Pair:
    return make_pair("vqa")


@pytest.fixture(scope="session")
def caption() -> Pair:
    return make_pair("caption")


@pytest.fixture(scope="session")
def match() -> Pair:
    return make_pair("match")


def as_tuple(inputs: BLIPInputs) -> tuple:
    """What the oracle takes."""
    return inputs.pixel_values, inputs.input_ids, inputs.answer_ids


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference over the largest magnitude."""
    return ((ours - theirs).detach().abs().max() / theirs.detach().abs().max()).item()


@pytest.fixture
def server() -> Iterator[Server]:
    """A web server whose answers the test writes."""
    with serving() as found:
        yield found


@pytest.fixture
def get(server: Server, tmp_path: Path) -> Callable[..., Any]:
    """Downloads paths of the server by id into `images`, fast and silently."""
    from notice_lens.pairs import download

    def get(paths: dict[str, str], **settings: Any) -> Any:
        defaults = {"progress": False, "retries": 1, "read_timeout": 0.4, "max_seconds": 5.0, "allow_private": True}
        settings = defaults | settings
        return download({id: server.url(path) for id, path in paths.items()}, tmp_path / "images", **settings)

    return get
