"""The Gaussian baseline: the clean run with noise on its embeddings, on the same pairs.

It is what causal tracing corrupts with (Meng et al., arXiv 2202.05262): three standard deviations of the embeddings.
Noise depends on seed, pair and sample alone, not on batches, so the same pair always gets the same noise.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from notice_lens.errors import one_of, whole_number
from notice_lens.models.protocol import EMBEDDINGS

if TYPE_CHECKING:
    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs.minimal_pairs import MinimalPairs


@dataclass(frozen=True)
class Noise:
    """Gaussian noise as a corruption.

    Attributes:
        hook: Where it is added, one of the model's `cfg.noise_hooks`: the embedded image patches (`vision.hook_embed`)
            or the embedded words of the prompt (`text.hook_embed`; `decoder.hook_embed` for BLIP's captions).
        scale: Its size, in standard deviations of the embeddings over the data set.
        samples: How many draws are averaged within a pair.
        seed: Of the draws.

    Raises:
        ValueError: A field is out of range.
    """

    hook: str = "vision.hook_embed"
    scale: float = 3.0
    samples: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.hook not in EMBEDDINGS:
            raise ValueError(one_of("hook for noise", self.hook, EMBEDDINGS))
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"scale={self.scale}: expected standard deviations, above 0")
        whole_number("samples", self.samples, 1)
        whole_number("seed", self.seed)

    @torch.no_grad()
    def std(self, model: "VisionLanguageModel", pairs: "MinimalPairs", *, batch_size: int = 32) -> float:
        """The standard deviation of the clean embeddings over all pairs, their positions and dimensions.

        Positions are those that noise goes to: patches without the class token, words without special tokens.

        Args:
            model: The model.
            pairs: The data set.
            batch_size: Pairs a forward.
        """
        self.check(model)
        count, total, squares = 0, 0.0, 0.0
        for start in range(0, len(pairs), batch_size):
            inputs = pairs[start : start + batch_size].prepare(model)
            values = self._embed(model, inputs)[self.noisy(model, inputs)].double()
            count += values.numel()
            total += values.sum().item()
            squares += (values**2).sum().item()
        if not count:
            raise ValueError(f"{len(pairs)} pairs have no position that noise at {self.hook} goes to")
        return max(squares / count - (total / count) ** 2, 0.0) ** 0.5

    def check(self, model: "VisionLanguageModel") -> None:
        """Raise ValueError if this model embeds nothing there that changes from pair to pair."""
        if self.hook not in model.cfg.noise_hooks:
            kinds, valid = " and ".join(map(repr, model.cfg.pair_kinds)), " or ".join(model.cfg.noise_hooks)
            raise ValueError(f"a model of kind {kinds} takes noise at {valid}, not {self.hook}")

    @property
    def stack(self) -> str:
        """The stack whose embeddings it is added to."""
        return self.hook.partition(".")[0]

    def _embed(self, model: "VisionLanguageModel", inputs: Any) -> Float[Tensor, "batch pos d_model"]:
        """The embeddings at the hook, without the rest of the forward pass."""
        found: dict[str, Tensor] = {}
        with model.hooks([(self.hook, lambda value, hook: found.update(value=value))]):
            model.embed(self.stack, inputs)
        return found["value"]

    def noisy(self, model: "VisionLanguageModel", inputs: Any) -> Bool[Tensor, "batch pos"]:
        """Return the positions that receive noise: those of the image, or of the prompt, without special ones."""
        kind = "image" if self.hook == model.cfg.noise_hooks[0] else "prompt"  # the image's embeddings come first
        return torch.from_numpy(model.layout(inputs).mask(self.stack, kind)).to(model.device)

    def hooks(
        self, model: "VisionLanguageModel", inputs: Any, ids: Sequence[str], std: float, sample: int
    ) -> list[tuple[str, Callable[..., Tensor]]]:
        """Forward hooks that add one draw: `model.run_with_hooks(inputs, fwd_hooks=noise.hooks(...))`.

        Args:
            model: The model.
            inputs: Of the clean run; an answer after them gets no noise.
            ids: The pairs' ids, in the order of the batch.
            std: What `std` gives.
            sample: Which draw, 0 to `samples` - 1.
        """
        if isinstance(ids, str) or len(ids) != len(inputs):
            raise ValueError(f"{len(inputs)} pairs in the batch, and ids {ids!r}; expected the id of each")
        places = self.noisy(model, inputs)

        def add(value: Float[Tensor, "batch pos d_model"], hook: Any) -> Float[Tensor, "batch pos d_model"]:
            drawn = torch.stack([self.draw(name, sample, value.shape[1:]) for name in ids]).to(value)
            # A caption's answer follows its prompt.
            noisy = F.pad(places, (0, value.shape[1] - places.shape[1]))
            return value + self.scale * std * drawn * noisy[..., None]

        return [(self.hook, add)]

    def draw(self, name: str, sample: int, shape: Sequence[int]) -> Float[Tensor, "pos d_model"]:
        """Standard normal numbers that depend on seed, pair and sample alone.

        Args:
            name: The pair's id.
            sample: Which draw.
            shape: (pos, d_model); more positions draw the same numbers at the first ones.
        """
        key = hashlib.sha256(f"{self.seed}/{name}/{sample}".encode()).digest()
        generator = np.random.default_rng(int.from_bytes(key[:16], "big"))
        return torch.from_numpy(generator.standard_normal(tuple(shape), dtype=np.float32))
