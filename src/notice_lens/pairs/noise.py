"""The Gaussian baseline: the clean run with noise on its embeddings, on the same pairs.

It is what causal tracing corrupts with (Meng et al., arXiv 2202.05262): three standard deviations of the embeddings.
Noise depends on seed, pair and sample alone, not on batches, so the same pair always gets the same noise.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from notice_lens.errors import one_of, whole_number
from notice_lens.models.hook_names import HookName
from notice_lens.models.protocol import EMBEDDINGS

if TYPE_CHECKING:
    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs.minimal_pairs import MinimalPairs


@dataclass(frozen=True)
class Noise:
    """Gaussian noise as a corruption.

    Attributes:
        hook: Where it is added, one of the model's `cfg.noise_hooks`: the embedded image (`vision.hook_embed` in BLIP,
            `projector.hook_out` in a chat model) or the embedded words of the prompt (`text.hook_embed`, of captions
            `decoder.hook_embed`; `language.hook_embed`). None takes the model's embedded image.
        scale: Its size, in standard deviations of the embeddings over the data set.
        samples: How many draws are averaged within a pair.
        seed: Of the draws.

    Raises:
        ValueError: A field is out of range.
    """

    hook: str | None = None
    scale: float = 3.0
    samples: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.hook is not None and self.hook not in EMBEDDINGS:
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
        noise = self.at(model)
        count, total, squares = 0, 0.0, 0.0
        for start in range(0, len(pairs), batch_size):
            some = pairs[start : start + batch_size]
            inputs = some.prepare(model)
            noisy = noise.noisy(model, inputs, some["clean_prompt"])
            embedded = noise._embed(model, inputs)
            values = (embedded if noisy is None else embedded[noisy]).double()
            count += values.numel()
            total += values.sum().item()
            squares += (values**2).sum().item()
        if not count:
            raise ValueError(f"{len(pairs)} pairs have no position that noise at {noise.hook} goes to")
        return max(squares / count - (total / count) ** 2, 0.0) ** 0.5

    def at(self, model: "VisionLanguageModel") -> "Noise":
        """Return this noise with the model's own hook where none was named.

        Raises:
            ValueError: This model embeds nothing there that changes from pair to pair.
        """
        if self.hook is None:
            return replace(self, hook=model.cfg.noise_hooks[0])
        if self.hook not in model.cfg.noise_hooks:
            kinds, valid = " and ".join(map(repr, model.cfg.pair_kinds)), " or ".join(model.cfg.noise_hooks)
            raise ValueError(f"a model of kind {kinds} takes noise at {valid}, not {self.hook}")
        return self

    def _embed(self, model: "VisionLanguageModel", inputs: Any) -> Float[Tensor, "row pos d_model"]:
        """Return the embeddings at the hook, without what can be left out of the forward pass."""
        found: dict[str, Tensor] = {}
        assert self.hook is not None, "see `at`"
        with model.hooks([(self.hook, lambda value, hook: found.update(value=value))]):
            model.embeddings(str(HookName.parse(self.hook).stack), inputs)
        return found["value"]

    def noisy(
        self, model: "VisionLanguageModel", inputs: Any, prompts: Sequence[str] | None = None
    ) -> Bool[Tensor, "batch pos"] | None:
        """Return the positions that receive noise: those of the image, or of the prompt, without special ones.

        None stands for all: behind a projector there is nothing but the image.

        Args:
            model: The model.
            inputs: Of the clean run.
            prompts: The prompts' strings, which tell a chat model's words from its template.

        Raises:
            ValueError: This model takes no noise there.
        """
        hook = self.at(model).hook
        assert hook is not None, "see `at`"
        stack, layout = str(HookName.parse(hook).stack), model.layout(inputs, prompts)
        if stack not in layout.stacks:
            return None
        kind = "image" if hook == model.cfg.noise_hooks[0] else "prompt"  # the image's embeddings come first
        return torch.from_numpy(layout.mask(stack, kind)).to(model.device)

    def hooks(
        self,
        model: "VisionLanguageModel",
        inputs: Any,
        ids: Sequence[str],
        std: float,
        sample: int,
        prompts: Sequence[str] | None = None,
    ) -> list[tuple[str, Callable[..., Tensor]]]:
        """Forward hooks that add one draw: `model.run_with_hooks(inputs, fwd_hooks=noise.hooks(...))`.

        Args:
            model: The model.
            inputs: Of the clean run; an answer after them gets no noise.
            ids: The pairs' ids, in the order of the batch.
            std: What `std` gives.
            sample: Which draw, 0 to `samples` - 1.
            prompts: As of `noisy`.
        """
        n = len(model.layout(inputs))
        if isinstance(ids, str) or len(ids) != n:
            raise ValueError(f"{n} pairs in the batch, and ids {ids!r}; expected the id of each")
        noise = self.at(model)
        assert noise.hook is not None, "see `at`"
        places = noise.noisy(model, inputs, prompts)

        def add(value: Float[Tensor, "row pos d_model"], hook: Any) -> Float[Tensor, "row pos d_model"]:
            own = _by_example(value, n)
            drawn = torch.stack([self.draw(name, sample, own.shape[1:]) for name in ids]).to(own)
            if places is not None:  # a caption's answer follows its prompt
                drawn = drawn * F.pad(places, (0, own.shape[1] - places.shape[1]))[..., None]
            return (own + self.scale * std * drawn).reshape(value.shape)

        return [(noise.hook, add)]

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


def _by_example(values: Float[Tensor, "row pos d_model"], n: int) -> Float[Tensor, "batch all_pos d_model"]:
    """Return embeddings with one row for each example: a picture may be several rows, its tiles.

    Raises:
        ValueError: Pictures of unequal sizes are one row together.
    """
    if values.shape[:-1].numel() % n or len(values) % n:
        raise ValueError(f"the pictures of {n} examples have unequal numbers of positions; add noise to one at a time")
    return values.reshape(n, -1, values.shape[-1])
