"""What one run of a pair is given: its inputs, and the noise on its embeddings where noise is the corruption."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from notice_lens.pairs.noise import Noise
from notice_lens.patching.engine.pair_batch import Setting

if TYPE_CHECKING:
    from notice_lens.models.vlm.hooked_vlm import HookedVLM
    from notice_lens.pairs.minimal_pair import MinimalPair


@dataclass(frozen=True)
class Given:
    """The input of one run of a pair.

    Attributes:
        model: The model.
        inputs: Of Hugging Face's forward, one example.
        prompt: The prompt's string.
        pair: The pair's id, which noise depends on.
        setting: The corruption.
        noisy: Whether the noise is added.
    """

    model: "HookedVLM"
    inputs: Mapping[str, Any]
    prompt: str
    pair: str
    setting: Setting
    noisy: bool

    @classmethod
    def of(cls, model: "HookedVLM", pair: "MinimalPair", setting: Setting, which: str, answer: str | None) -> "Given":
        """Return what the clean, corrupted or donor run of a pair is given.

        Args:
            model: The model.
            pair: The pair.
            setting: The corruption.
            which: `clean`, `corrupt` or `donor`.
            answer: The teacher-forced answer, or None.
        """
        image, prompt = setting.inputs_of(which)
        words = pair[f"{prompt}_prompt"] or pair.clean_prompt
        inputs = dict(model.prepare(getattr(pair, f"{image}_image"), words, answer))
        return cls(model, inputs, words, pair.id, setting, setting.is_noisy(which))

    def repeated(self, n: int) -> dict[str, Any]:
        """Return the inputs of a batch of the same example."""
        return {name: torch.cat([own] * n) if isinstance(own, Tensor) else own for name, own in self.inputs.items()}

    def noise(self, n: int = 1) -> list[Any]:
        """Return the hooks that add the noise to a batch of the same example; none where there is no noise."""
        noise = self.setting.corruption
        if not self.noisy or not isinstance(noise, Noise):
            return []
        inputs, ids, prompts = self.repeated(n), [self.pair] * n, [self.prompt] * n
        return noise.hooks(self.model, inputs, ids, self.setting.noise_std, self.setting.sample, prompts)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add the noise to runs of Hugging Face's own model, for the length of a `with` block."""
        hooks = self.noise()
        if not hooks:
            yield
            return
        with self.model.hooks(hooks), self.model.watching():
            yield
