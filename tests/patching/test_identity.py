"""What a store answers for: each setting, weight and line of a metric's code that moves a number."""

import ctypes
import functools
import hashlib
import importlib
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from computed_batches import Batches
from hash_seeds import printed_by_hash_seed
from notice_lens import HookedBLIP
from notice_lens.pairs import mini_world
from notice_lens.patching import Site, sweep
from notice_lens.patching.identity import fingerprint, metric_codes, model_settings


@pytest.fixture
def own() -> HookedBLIP:
    """A model that a test may change."""
    return HookedBLIP.mini()


def last_weight(own: HookedBLIP) -> None:
    with torch.no_grad():
        own.decoder.word_embedding.weight[-1, -1] += 1e-3


def through_data(own: HookedBLIP) -> None:
    own.text.blocks[1].attn.query.bias.data[3] += 1e-3  # torch's version counter does not see it


def through_numpy(own: HookedBLIP) -> None:
    own.vision.blocks[0].ln1.weight.detach().numpy()[17] = 0.5


@pytest.mark.parametrize("change", [last_weight, through_data, through_numpy])
def test_any_weight_changes_the_fingerprint(own: HookedBLIP, change: Callable[[HookedBLIP], None]) -> None:
    before = fingerprint(own)
    assert fingerprint(own) == before == fingerprint(HookedBLIP.mini())
    change(own)
    assert fingerprint(own) != before


def test_weights_are_digested_once(own: HookedBLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(own)
    monkeypatch.setattr("notice_lens.patching.identity.hashlib.sha256", _refuse_large(10_000_000))
    assert fingerprint(own) == before


def _refuse_large(limit: int) -> Any:
    real = hashlib.sha256

    def made(data: Any = b"") -> Any:
        assert len(data) < limit
        return real(data)

    return made


def enc_token(own: HookedBLIP) -> None:
    own.enc_token = True


def epsilon(own: HookedBLIP) -> None:
    assert own.cfg.text is not None
    own.cfg = replace(own.cfg, text=replace(own.cfg.text, eps=1e-6))


def activation(own: HookedBLIP) -> None:
    own.cfg = replace(own.cfg, vision=replace(own.cfg.vision, act_fn="quick_gelu"))


def mean_of_images(own: HookedBLIP) -> None:
    own.processor.image_processor.image_mean = [0.5, 0.5, 0.5]


def resampling(own: HookedBLIP) -> None:
    own.processor.image_processor.resample = 0


def vocabulary(own: HookedBLIP) -> None:
    own.tokenizer.add_tokens(["blurple"])


NAMED = {
    enc_token: "model_settings.enc_token is False there and True here",
    epsilon: "model_settings.config.text.eps is 1e-12 there and 1e-06 here",
    activation: "model_settings.config.vision.act_fn is 'gelu' there and 'quick_gelu' here",
    mean_of_images: "model_settings.image_processor.image_mean[0] is 0.48145466 there and 0.5 here",
    resampling: "model_settings.image_processor.resample is 3 there and 0 here",
    vocabulary: "model_settings.tokenizer is '",
}


@pytest.mark.parametrize("change", NAMED)
def test_a_setting_that_moves_numbers_is_named_by_the_store(
    own: HookedBLIP, change: Callable[[HookedBLIP], None], tmp_path: Path
) -> None:
    pairs, site = mini_world("states", 2, seed=1), Site.of(own, "text.cross_attn", layers=2, heads=[1])
    options = {"store": tmp_path / "s", "metrics": ["kl"], "controls": (), "progress": False}
    sweep(own, pairs, site, **options)
    before = fingerprint(own)
    own.tokenizer(["a", "longer row"], padding=True)  # leaves a trace in the tokenizer, and moves no number
    assert fingerprint(own) == before
    sweep(own, pairs, site, **options)
    change(own)
    assert fingerprint(own) != before
    with pytest.raises(ValueError, match="is the store of another sweep: ") as caught:
        sweep(own, pairs, site, **options)
    assert NAMED[change] in str(caught.value)
    assert "\n" not in str(caught.value)


# Metrics


INDEX = 3
SCALES = {"a": 1.0}


def helper(logits: Tensor) -> Tensor:
    return logits[:, -1].amax(-1)


@dataclass
class Chosen:
    """A metric with state."""

    index: int

    def __call__(self, logits: Tensor) -> Tensor:
        return self.read(logits)

    def read(self, logits: Tensor) -> Tensor:
        return logits[:, -1, self.index]


def closure(index: Any) -> Callable[[Tensor], Tensor]:
    return lambda logits: logits[:, -1, index]


def default(index: int) -> Callable[[Tensor], Tensor]:
    def metric(logits: Tensor, index: int = index) -> Tensor:
        return logits[:, -1, index]

    return metric


def weighted(weight: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda logits: logits[:, -1] @ weight


def compiled_text(text: str) -> Callable[[Tensor], Tensor]:
    """A function without a source."""
    return eval(text, {"torch": torch})


ON_ONE_LINE = [lambda logits: logits[:, -1, 5], lambda logits: logits[:, -1, 6]]
DIFFERENT: dict[str, tuple[Any, Any]] = {
    "closure": (closure(1), closure(2)),
    "closure_of_lists": (closure([1, {2}]), closure([1, {3}])),
    "default": (default(1), default(2)),
    "partial": (functools.partial(torch.select, dim=1, index=0), functools.partial(torch.select, dim=1, index=-1)),
    "bound": (Chosen(1).read, Chosen(2).read),
    "object": (Chosen(1), Chosen(2)),
    "tensor": (weighted(torch.zeros(3)), weighted(torch.tensor([0.0, 1e-9, 0.0]))),
    "array": (closure(np.arange(3)), closure(np.arange(3.0))),
    "one_line": tuple(ON_ONE_LINE),
    "no_source": (compiled_text("lambda x: x[:, -1, 0]"), compiled_text("lambda x: x[:, -1, 1]")),
    "library": (torch.nn.Softmax(-1), torch.nn.Softmax(0)),
    "ufunc": (closure(np.add), closure(np.multiply)),
    "of_tensors": (closure(Tensor.sum), closure(Tensor.mean)),
    "nested": (lambda x: [row[0] for row in x], lambda x: [row[1] for row in x]),
    "wrapped": (torch.no_grad()(closure(1)), torch.no_grad()(closure(2))),
    "mapped": (torch.vmap(lambda row: row.sum()), torch.vmap(lambda row: row.mean())),
    "cached": (functools.cache(closure(1)), functools.cache(closure(2))),
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_functions_that_differ_have_other_codes(mini: HookedBLIP, kind: str) -> None:
    one, other = (metric_codes({"m": function}, mini)["m"] for function in DIFFERENT[kind])
    assert one
    assert other
    assert one != other
    assert metric_codes({"m": DIFFERENT[kind][0]}, mini)["m"] == one


def test_the_same_function_made_anew_has_its_code(mini: HookedBLIP) -> None:
    for make in (closure, default, Chosen):
        assert metric_codes({"m": make(1)}, mini) == metric_codes({"m": make(1)}, mini)
    words = closure({"red", "green", "blue", "grey"})
    code = metric_codes({"m": words}, mini)["m"]
    assert code == metric_codes({"m": closure({"grey", "blue", "green", "red"})}, mini)["m"] != ""
    assert code == metric_codes({"m": closure(set("red green blue grey".split()))}, mini)["m"]


def test_globals_and_what_they_call_are_read(mini: HookedBLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    def metric(logits: Tensor) -> Tensor:
        return helper(logits) * INDEX * SCALES["a"]

    codes = [metric_codes({"m": metric}, mini)["m"]]
    module = sys.modules[__name__]
    monkeypatch.setattr(module, "INDEX", 4)
    codes.append(metric_codes({"m": metric}, mini)["m"])
    monkeypatch.setitem(SCALES, "a", 2.0)
    codes.append(metric_codes({"m": metric}, mini)["m"])
    monkeypatch.setattr(module, "helper", lambda logits: logits[:, -1].amin(-1))
    codes.append(metric_codes({"m": metric}, mini)["m"])
    assert all(codes)
    assert len(set(codes)) == 4


def test_a_module_of_the_callers_is_read(mini: HookedBLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    codes = []
    for number in (1, 2):
        name = f"callers_metrics{number}"
        (tmp_path / f"{name}.py").write_text(f"import math\nSCALE = {number}\n\ndef f(x):\n    return x * SCALE\n")
        space = {"theirs": importlib.import_module(name)}
        codes.append(metric_codes({"m": eval("lambda x: theirs.f(x)", space)}, mini)["m"])
    assert all(codes)
    assert codes[0] != codes[1]


def test_a_code_is_the_same_in_another_process(mini: HookedBLIP) -> None:
    text = """if True:
        import torch
        from notice_lens import HookedBLIP
        from notice_lens.patching.identity import metric_codes
        words = {"red", "green", "blue", "grey"}
        model = HookedBLIP.mini()
        class M:
            scale = frozenset("abc")
            def __call__(self, logits):
                return torch.softmax(logits[:, -1], -1)[:, len(words)] if "x" in {"x", "y"} else model.tokenizer
        print(metric_codes({"m": M()}, model)["m"])"""
    said = printed_by_hash_seed(text)
    assert said[0].strip()
    assert said[0] == said[1]


UNTOLD: dict[str, Any] = {
    "generator": closure(number for number in range(3)),
    "lock": closure(threading.Lock()),
    "of C": closure(ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(abs)),
}


@pytest.mark.parametrize("kind", UNTOLD)
def test_a_metric_that_cannot_be_told_is_written_and_not_gone_on_with(
    mini: HookedBLIP, kind: str, tmp_path: Path
) -> None:
    held = UNTOLD[kind]

    def metric(logits: Tensor) -> Tensor:
        assert held is not None
        return logits[:, -1, 0]

    pairs, site = mini_world("states", 2, seed=1), Site.of(mini, "text.cross_attn", layers=2, heads=[1])
    options = {"store": tmp_path / "s", "metrics": {"mine": metric}, "controls": (), "progress": False}
    with pytest.warns(UserWarning, match="metric 'mine' .*cannot be resumed if this sweep is stopped"):
        assert sweep(mini, pairs, site, **options).mine.notnull().all()
    with pytest.raises(ValueError, match="metric 'mine' .*cannot be told from another.*name another folder"):
        sweep(mini, pairs, site, **options)
    sweep(mini, pairs, site, metrics={"mine": metric}, controls=(), progress=False)


def test_another_metric_of_the_same_name_does_not_go_on(mini: HookedBLIP, tmp_path: Path, batches: Batches) -> None:
    pairs, site = mini_world("states", 4, seed=1), Site.of(mini, "text.cross_attn", layers=2, heads=[1])
    batches.stop_after(1)
    options = {"store": tmp_path / "s", "controls": (), "progress": False, "memory": 1}
    with pytest.raises(KeyboardInterrupt):
        sweep(mini, pairs, site, metrics={"mine": closure(5)}, **options)
    batches.go_on()
    with pytest.raises(ValueError, match="another sweep: metric_code.mine is .*; name another folder"):
        sweep(mini, pairs, site, metrics={"mine": closure(6)}, **options)
    assert sweep(mini, pairs, site, metrics={"mine": closure(5)}, **options).mine.notnull().all()


def test_settings_are_plain_and_have_no_place(mini: HookedBLIP) -> None:
    found = model_settings(mini)
    assert found["config"]["text"]["eps"] == 1e-12
    assert "name_or_path" not in found["config"]
