"""Gaussian noise on a hosted model's embeddings, against Hugging Face's modules with torch's own hooks on them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from causal.test_pairs import FAMILIES, Oracle, layers_of, made_pairs, single_tokens
from forward_oracle import Patch, activations, logits
from hosted_vlms import LIBRARY_WARNINGS, tiny_model
from notice_lens import HookedVLM, patching
from notice_lens.pairs import MinimalPairs, Noise

pytestmark = LIBRARY_WARNINGS
HOOKS = {"image": "projector.hook_out", "words": "language.hook_embed"}


class Noisy:
    """Runs of a pair with noise on the output of one of Hugging Face's modules."""

    def __init__(self, model: HookedVLM, pairs: MinimalPairs, number: int, where: str, noise: Noise) -> None:
        self.model, self.pair, self.oracle = model, pairs[number], Oracle(model, pairs[number], "image")
        self.inputs, self.noise, self.where = self.oracle.inputs["clean"], noise, where
        words = where == "words"
        self.module: nn.Module = model.hf_model.get_input_embeddings() if words else model.projector.module
        values = torch.cat([self._embedded(pair).flatten(0, -2)[self._places(pair)] for pair in pairs])
        self.std = float(values.std(correction=0))

    def _prepared(self, pair: Any) -> Any:
        return self.model.prepare(pair.clean_image, pair.clean_prompt)

    def _places(self, pair: Any) -> Any:
        """Return the positions that the noise goes to."""
        if self.where == "image":
            return slice(None)
        layout = self.model.layout(self._prepared(pair), [pair.clean_prompt])
        return torch.from_numpy(layout.positions("language", 0, "prompt"))

    def _embedded(self, pair: Any) -> Tensor:
        kept: list[Tensor] = []
        handle = self.module.register_forward_hook(lambda *args: kept.append(_tensor(args[-1])))
        with torch.no_grad():
            self.model.hf_model(**self._prepared(pair))
        handle.remove()
        return kept[0]

    def add(self, output: Any) -> Any:
        """Return a module's output with the noise of the pair."""
        values = _tensor(output)
        flat = values.reshape(-1, values.shape[-1]).clone()
        drawn = self.noise.draw(self.pair.id, 0, flat.shape).to(flat)
        where = self._places(self.pair)
        flat[where] += self.noise.scale * self.std * drawn[where]
        new = flat.reshape(values.shape)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    @contextmanager
    def corrupted(self) -> Iterator[None]:
        handle = self.module.register_forward_hook(lambda *args: self.add(args[-1]))
        try:
            yield
        finally:
            handle.remove()

    def run(self, noisy: bool, what: Callable[[], Any]) -> Any:
        if not noisy:
            return what()
        with self.corrupted():
            return what()

    def logit_diff(self, noisy: bool, patches: list[Patch], values: Any) -> float:
        at_last = self.run(noisy, lambda: logits(self.model.hf_model, self.inputs, patches, values))
        return float(self.oracle.difference(at_last))


def _tensor(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize(
    ("family", "where"),
    [*((family, "image") for family in FAMILIES), *((family, "words") for family in ("llava", "qwen2_5_vl", "gemma3"))],
)
def test_heads_under_noise_equal_forward_passes(family: str, where: str, direction: str) -> None:
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))
    noise = Noise(None if where == "image" else HOOKS[where], scale=1.0, samples=1, seed=3)
    effects = patching.patch_heads(
        model, pairs, positions=["last"], corruption=noise, direction=direction, controls=(), progress=False
    )  # pyright: ignore
    assert HOOKS[where] in effects.attrs["corruption"]
    base = direction == "denoise"  # the noisy run is patched, or patched from
    for number in range(len(pairs)):
        noisy, one = Noisy(model, pairs, number, where, noise), effects.isel(pair=number)
        values = {"z": noisy.run(not base, lambda own=noisy: activations(model.hf_model, own.inputs, "z"))}
        clean, corrupt = (noisy.logit_diff(which, [], 0.0) for which in (False, True))
        gap, before = abs(clean - corrupt), corrupt if base else clean
        assert gap > 1e-6
        assert float(one.logit_diff_clean) == pytest.approx(clean, abs=1e-9 * max(gap, 1))
        assert float(one.logit_diff_corrupt) == pytest.approx(corrupt, abs=1e-9 * max(gap, 1))
        for layer in layers_of(model, effects)[:2]:
            patch = [Patch("z", layer, (noisy.oracle.length() - 1,), 2)]
            expected = noisy.logit_diff(base, patch, values) - before
            found = float(one.logit_diff_change.sel(layer=layer, head=2, role="last"))
            assert found == pytest.approx(expected, abs=1e-9 * max(gap, 1))


@pytest.mark.parametrize("family", ["llava", "llava_next", "mllama"])
def test_patches_in_front_of_the_language_model_keep_or_replace_the_noise(family: str) -> None:
    """The tower is the same in both runs, so a patch there does nothing; a clean projector takes all noise away."""
    model = tiny_model(family).model
    pairs = made_pairs(single_tokens(model))
    quiet: Any = {"corruption": Noise(scale=1.0, samples=1), "controls": (), "progress": False}
    tower = patching.patch_heads(model, pairs, "vision.attn", positions="all", layers=0, **quiet)
    assert float(abs(tower.patching_effect).max()) < 1e-9
    whole = patching.sweep(model, pairs, patching.Site.of(model, "projector.hook_out"), **quiet)
    assert whole.patching_effect.values.ravel() == pytest.approx(1.0, abs=1e-9)
