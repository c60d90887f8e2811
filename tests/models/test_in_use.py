"""A model is used by one thread at a time, and Ctrl-C leaves nothing behind on it."""

import contextlib
import copy
import dis
import pickle
import random
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformer_lens

import notice_lens
from conftest import make_small_pair
from made_up import made_up_pairs
from notice_lens import patching
from notice_lens.models import in_use
from notice_lens.models.blip.attention import Attention
from notice_lens.patching.engine.runs import attn_results
from notice_lens.patching.gradient.backward import weights_at_rest

Z = "text.blocks.1.cross_attn.hook_z"
PATTERN = "decoder.blocks.0.cross_attn.hook_pattern"


@pytest.fixture
def small():
    return make_small_pair()


@pytest.fixture(autouse=True)
def gradients_as_before():
    """An interrupt may come as torch's own `no_grad` ends: gradients then stay off for whoever comes next."""
    before = torch.is_grad_enabled()
    yield
    torch.set_grad_enabled(before)


@pytest.fixture
def quick_switches():
    """Threads take turns after some ten microseconds instead of five milliseconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def zero(activation, hook):
    return activation * 0


def with_block(model, inputs):
    with model.hooks([(Z, zero)]):
        return model(inputs)


def through_a_lens(model, inputs):
    lens = model.lens("text.cross_attn", inputs)
    return lens.run_with_hooks(lens.tokens, fwd_hooks=[("blocks.1.attn.hook_z", zero)])


def split_inputs(model, inputs):
    with attn_results(model, ["text.blocks.0.attn.hook_result"]):
        return model.run_with_cache(inputs, names_filter=["text.blocks.0.attn.hook_result"])[1].cache_dict


CALLS: dict[str, Callable[..., Any]] = {
    "forward": lambda model, inputs: model(inputs),
    "run_with_hooks": lambda model, inputs: model.run_with_hooks(inputs, fwd_hooks=[(Z, zero)]),
    "run_with_cache": lambda model, inputs: model.run_with_cache(inputs, names_filter=[Z, PATTERN])[1].cache_dict,
    "hooks": with_block,
    "lens": through_a_lens,
    "results": split_inputs,
}


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[name], expected[name]) for name in expected)
    return torch.equal(found, expected)


@pytest.mark.large
@torch.no_grad()
def test_a_thousand_interleaved_calls_of_two_threads_are_right(small, quick_switches):
    inputs = [small.inputs(seed=seed) for seed in (1, 2)]
    expected = [{name: call(small.model, own) for name, call in CALLS.items()} for own in inputs]

    @torch.no_grad()
    def in_a_thread(number: int) -> list[str]:
        order = random.Random(number).choices(list(CALLS), k=500)
        return [name for name in order if not same(CALLS[name](small.model, inputs[number]), expected[number][name])]

    with ThreadPoolExecutor(2) as threads:
        wrong = list(threads.map(in_a_thread, (0, 1)))
    assert wrong == [[], []]
    assert clean(small.model)


@pytest.mark.parametrize("verb", ["sweep", "attribute", "generate"])
def test_others_see_neither_hooks_nor_switches_of_a_long_use(small, quick_switches, verb):
    pairs, inputs = made_up_pairs("vqa"), small.inputs(seed=1)
    verbs = {
        "sweep": lambda: patching.sweep(small.model, pairs, "text.attn.result", progress=False).patching_effect.values,
        "attribute": lambda: (
            (
                patching.attribute(small.model, pairs, "vision.attn", progress=False)["vision.attn.z"].logit_diff_change
            ).values
        ),
        "generate": lambda: small.model.generate(pairs[0].clean_image, ["is this red?", "is it?"], max_new_tokens=3),
    }
    expected, logits = verbs[verb](), small.model(inputs)
    stop, wrong = threading.Event(), []

    def disturb() -> None:
        while not stop.is_set():
            seen = with_block(small.model, inputs)
            plain = small.model(inputs)
            wrong.extend([torch.equal(seen, logits), not torch.equal(plain, logits), not plain.requires_grad])

    other = threading.Thread(target=disturb)
    other.start()
    found = [verbs[verb]() for _ in range(3)]
    stop.set()
    other.join()
    assert not any(wrong)
    assert all((one == expected).all() if verb != "generate" else one == expected for one in found)
    assert clean(small.model)


def test_a_thread_that_waits_too_long_is_refused(small, monkeypatch):
    monkeypatch.setattr(in_use, "PATIENCE", 0.05)
    inputs = small.inputs()
    uses = [*(partial(call, small.model, inputs) for call in CALLS.values())]
    uses += [
        partial(small.model.set_use_attn_result, True),
        partial(small.model.add_hook, Z, zero),
        small.model.reset_hooks,
    ]
    with ThreadPoolExecutor(1) as other, small.model.hooks([(Z, zero)]):
        for use in uses:
            with pytest.raises(RuntimeError, match=r"in use by the thread 'MainThread'.*copy\.deepcopy\(model\)"):
                other.submit(use).result()
        # Inputs can be prepared meanwhile, and the thread that has the model may use it as it likes.
        image = torch.zeros(3, 32, 32, dtype=torch.uint8)
        assert other.submit(small.model.prepare, image, "is this red?").result().pixel_values.shape == (1, 3, 32, 32)
        small.model.run_with_hooks(inputs, fwd_hooks=[(Z, zero)])
        assert list(small.model.list_hooks()) == [Z]
    with ThreadPoolExecutor(1) as other:
        assert torch.equal(other.submit(with_block, small.model, inputs).result(), with_block(small.model, inputs))


def test_a_copy_is_used_by_itself(small):
    copied = [copy.deepcopy(small.model), pickle.loads(pickle.dumps(small.model))]
    inputs = small.inputs()
    logits = small.model(inputs)
    with ThreadPoolExecutor(1) as other, small.model.hooks([(Z, zero)]):
        for one in copied:
            assert torch.equal(other.submit(one, inputs).result(), logits)


# Ctrl-C


def clean(model) -> bool:
    """Nothing on the model: read from the modules themselves, since asking the model would clean it."""
    hooked = [module for module in model.modules() if module._forward_hooks or module._backward_hooks]
    listed = [point for point in model.hook_dict.values() if point.fwd_hooks or point.bwd_hooks]
    switches = [module.use_attn_result for module in model.modules() if isinstance(module, Attention)]
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    with ThreadPoolExecutor(1) as other:
        free = other.submit(lambda: model.in_use._lock.acquire(blocking=False) and model.in_use._lock.release() is None)
        held = not free.result()
    return not (held or hooked or listed or any(switches) or frozen or model.is_caching or model.context_level)


def hooked_block(model) -> None:
    with model.hooks([(Z, zero), (PATTERN, zero)], bwd_hooks=[(Z, zero)]):
        pass


def nested_blocks(model) -> None:
    with attn_results(model, ["hook_result"]), model.hooks([(Z, zero)], clear_contexts=True), weights_at_rest(model):
        pass


def caching(model) -> None:
    model.run_with_cache(None, names_filter=[Z])


def of_a_lens(model, lens) -> None:
    with lens.hooks([("blocks.1.attn.hook_z", zero)]):
        pass


PACKAGES = (notice_lens, transformer_lens)
WATCHED = (contextlib.__file__, torch.utils.hooks.__file__, *(str(Path(own.__file__).parent) for own in PACKAGES))


class Interrupter:
    """Raises KeyboardInterrupt at the n-th place where Python would: behind a call, a jump back, or on entering.

    Python looks for signals at no others (ceval.c: CALL, JUMP_BACKWARD, RESUME), so that going through all of them is
    every Ctrl-C that there can be.
    """

    def __init__(self, number: int = 0) -> None:
        self.number, self.seen = number, 0

    def _place(self) -> None:
        self.seen += 1
        if self.seen == self.number:
            raise KeyboardInterrupt

    def trace(self, frame: Any, event: str, arg: Any) -> Any:
        if not frame.f_code.co_filename.startswith(WATCHED):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        checks = {
            i.offset for i in dis.get_instructions(frame.f_code) if i.opname.startswith(("CALL", "JUMP_BACKWARD"))
        }
        before: list[int] = []

        def of_frame(frame: Any, event: str, arg: Any) -> Any:
            if event == "opcode":
                checked = bool(before) and before[-1] in checks
                before.append(frame.f_lasti)
                if checked:
                    self._place()
            return of_frame

        self._place()
        return of_frame

    def interrupts(self, use: Callable[[], Any]) -> bool:
        """Return whether the use was interrupted."""
        before = sys.gettrace()
        sys.settrace(self.trace)
        try:
            use()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False


def clean_after(model, interrupter: Interrupter, use: Callable[[], Any]) -> bool:
    interrupter.interrupts(use)
    return clean(model)


USES = {"hooks": hooked_block, "nested": nested_blocks, "cache": caching, "lens": of_a_lens}


# Python ignores what is raised while it collects a generator, a KeyboardInterrupt too, and says so.
SWALLOWED = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@SWALLOWED
@pytest.mark.parametrize("name", USES)
def test_an_interrupt_at_any_point_leaves_the_model_clean(small, monkeypatch, name):
    model, use = small.model, partial(USES[name], small.model)
    if name == "lens":
        use = partial(use, model.lens("text.cross_attn", small.inputs()))
    monkeypatch.setattr(type(model), "forward", lambda self, inputs: torch.zeros(1, 1))
    monkeypatch.setattr(type(model), "make_cache", lambda *args: None)
    places = Interrupter()
    assert not places.interrupts(use)
    assert places.seen > 50
    # All of them; of long uses, which set a switch on every weight, some 120.
    numbers = range(1, places.seen + 1, max(1, places.seen // 120))
    left = [number for number in numbers if not clean_after(model, Interrupter(number), use)]
    assert not left, f"{len(left)} of {places.seen} places"


@pytest.mark.parametrize("next_use", ["list_hooks", "reset_hooks", "forward"])
def test_what_a_second_interrupt_leaves_is_undone_before_the_next_use(small, monkeypatch, next_use):
    model, inputs, undo = small.model, small.inputs(), in_use.Changes.undo
    logits, breaks = model(inputs), [KeyboardInterrupt, KeyboardInterrupt]

    def broken_off(changes):
        if breaks:
            raise breaks.pop()
        undo(changes)

    monkeypatch.setattr(in_use.Changes, "undo", broken_off)
    with pytest.raises(KeyboardInterrupt):
        nested_blocks(model)
    assert not clean(model), "the clean-up was broken off twice"
    found = model(inputs) if next_use == "forward" else getattr(model, next_use)()
    assert clean(model)
    assert next_use != "forward" or torch.equal(found, logits)
    assert not model.list_hooks()


@SWALLOWED
def test_hooks_that_stay_are_attached_all_or_none(small):
    """`add_hook` and `reset_hooks_end=False`: an interrupt takes off what there is, and never a part of it."""
    model = small.model
    use = partial(model.add_hook, lambda name: name in (Z, PATTERN), zero)
    places = Interrupter()
    places.interrupts(use)
    model.reset_hooks()
    for number in range(1, places.seen + 1):
        Interrupter(number).interrupts(use)
        assert len(model.list_hooks()) in (0, 2)
        model.reset_hooks()


@SWALLOWED
def test_a_thousand_real_interrupts(small):
    """Signals at random times, also while torch runs; whatever was interrupted, the next run is right."""
    model, inputs = small.model, small.inputs()
    pairs = made_up_pairs("vqa", 1)
    attribute = partial(patching.attribute, model, pairs, "text.attn", progress=False)
    expected, draws = model(inputs), random.Random(0)
    armed, interrupted = [False], 0

    def on_alarm(*_: Any) -> None:
        if armed[0]:
            armed[0] = False
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        for number in range(1000):
            use = attribute if number % 25 == 0 else partial(draws.choice([*CALLS.values()]), model, inputs)
            longest = 0.05 if number % 25 == 0 else 0.004
            try:
                armed[0] = True
                signal.setitimer(signal.ITIMER_REAL, draws.uniform(1e-5, longest))
                use()
                armed[0] = False
            except KeyboardInterrupt:
                interrupted += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert clean(model), f"interrupt {number}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 300
    assert torch.equal(model(inputs), expected)
