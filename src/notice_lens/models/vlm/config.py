"""The config of a hosted model: everything known about it before it runs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from notice_lens.models.hook_names import IMAGE_STACK, QFORMER
from notice_lens.models.layout import SegmentKind
from notice_lens.models.vlm.anatomy import BlockParts, ModelParts, QFormerBlockParts

NO_LIMIT = 10**9
"""The number of positions of a model whose config names none."""
NO_SETTINGS = ("_name_or_path", "name_or_path", "transformers_version", "architectures")
"""Entries of Hugging Face's config that move no number."""


@dataclass(frozen=True)
class StackSizes:
    """The sizes of the vision tower, the Q-Former, the projector or the language model; 0 where a stack has none.

    Attributes:
        name: `vision`, `qformer`, `projector` or `language`.
        n_layers: Blocks.
        n_heads: Heads of queries in a layer.
        n_key_value_heads: Heads of keys and values in a layer.
        norm_over_heads: Whether one norm goes over the queries, or keys, of all heads of a layer together.
        d_model: Width of the stream.
        d_head: Width of a head.
        d_mlp: Width of the MLP; 0 where its neurons cannot be told apart, as in a mixture of experts.
        d_vocab: Tokens in the vocabulary; None for images.
        n_ctx: The most positions; of a Q-Former its learned queries, which are patched, and not the question's tokens.
        causal: True for the language model, whatever blocks of image positions see of each other.
    """

    name: str
    n_layers: int
    n_heads: int
    n_key_value_heads: int
    norm_over_heads: bool
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int | None
    n_ctx: int
    causal: bool


@dataclass(frozen=True)
class VLMConfig:
    """The config of a hosted model: a `ModelConfig`, see `notice_lens.models.protocol`.

    Hugging Face's own config is `model.config`.

    Attributes:
        language: The sizes of the language model, whose stream holds image, prompt and answer in one row.
        vision: Those of the vision tower. Positions are the patches of all its rows, a picture's tiles among them.
        projector: Those of what the language model is given of the image.
        qformer: Sizes of the Q-Former between tower and projector; None for a model without one.
        looking_site: The attention that looks from words at the image.
        image_sizes_matter: Whether the number of image positions depends on the picture's size.
        name_or_path: The origin of the weights; empty for an in-memory model.
        hf: Hugging Face's config in plain values, since a store has to know every setting that moves a number.
    """

    language: StackSizes
    vision: StackSizes
    projector: StackSizes
    looking_site: str
    image_sizes_matter: bool
    name_or_path: str
    hf: dict[str, Any] = field(repr=False)
    qformer: StackSizes | None = None
    prompt_stack: str = "language"
    default_positions: tuple[str, ...] = ("last",)
    noise_hooks: tuple[str, ...] = ("projector.hook_out", "language.hook_embed")
    image_norm_hook: str = "language.blocks.0.hook_resid_pre"
    behaviour: Literal["greedy"] = "greedy"
    pair_kinds: tuple[str, ...] = ("vqa",)

    @property
    def default_site(self) -> str:
        """The attention that is patched by default: that of the words, as in most studies."""
        return "language.attn"

    @property
    def stacks(self) -> tuple[str, ...]:
        """The stacks in their order."""
        return (IMAGE_STACK, *(() if self.qformer is None else (QFORMER,)), "projector", "language")

    @property
    def sources(self) -> dict[str, str]:
        """The stack that cross-attention reads: the tower for a Q-Former, for the language model the projector."""
        read = {} if self.qformer is None else {QFORMER: IMAGE_STACK}
        return {**read, "language": "projector"} if self.looking_site.endswith("cross_attn") else read

    @property
    def streams(self) -> dict[str, tuple[SegmentKind, ...]]:
        """The kinds of positions of each stack: the language model has all of them in one row."""
        of_image: dict[str, tuple[SegmentKind, ...]] = dict.fromkeys(self.stacks, ("image",))
        return {**of_image, "language": ("image", "prompt", "answer")}

    @property
    def d_read_out(self) -> int:
        """Logits at the read-out: the vocabulary."""
        assert self.language.d_vocab is not None, "a language model has a vocabulary"
        return self.language.d_vocab

    def __getattr__(self, name: str) -> Any:
        """Return a size of the language model, which people write without its name: `cfg.n_heads`."""
        if name in StackSizes.__dataclass_fields__:
            return getattr(self.language, name)
        raise AttributeError(f"{type(self).__name__} has no {name!r}; Hugging Face's config is model.config")


def config_of(parts: ModelParts, config: Any, image_sizes_matter: bool) -> VLMConfig:
    """Return the config of a hosted model.

    Args:
        parts: Of the model.
        config: Hugging Face's.
        image_sizes_matter: As of `VLMConfig`.
    """
    text = config.get_text_config()
    n_ctx = getattr(text, "max_position_embeddings", None) or NO_LIMIT
    language = _sizes("language", parts.language, text.vocab_size, n_ctx, causal=True)
    vision = _sizes(IMAGE_STACK, parts.vision, None, NO_LIMIT, causal=False)
    projector = StackSizes("projector", 0, 0, 0, False, language.d_model, 0, 0, None, NO_LIMIT, causal=False)
    qformer = None
    if parts.qformer is not None:
        qformer = _sizes(QFORMER, parts.qformer.blocks, None, parts.qformer.n_queries, causal=False)
    crosses = any(block.attn.is_cross for block in parts.language)
    plain = {name: value for name, value in config.to_dict().items() if name not in NO_SETTINGS}
    return VLMConfig(
        language=language,
        vision=vision,
        projector=projector,
        looking_site="language.cross_attn" if crosses else "language.attn",
        image_sizes_matter=image_sizes_matter,
        name_or_path=str(getattr(config, "name_or_path", "") or ""),
        hf=json.loads(json.dumps(plain, default=str)),
        qformer=qformer,
    )


def _sizes(
    name: str,
    blocks: Sequence[BlockParts] | Sequence[QFormerBlockParts],
    d_vocab: int | None,
    n_ctx: int,
    causal: bool,
) -> StackSizes:
    attention, down = blocks[0].attn, blocks[0].mlp.down
    return StackSizes(
        name=name,
        n_layers=len(blocks),
        n_heads=attention.n_heads,
        n_key_value_heads=attention.n_kv_heads,
        norm_over_heads=attention.norm_over_heads,
        d_model=int(getattr(attention.o, "out_features", attention.n_heads * attention.d_head)),
        d_head=attention.d_head,
        d_mlp=0 if down is None else int(getattr(down, "in_features", 0)),
        d_vocab=d_vocab,
        n_ctx=n_ctx,
        causal=causal,
    )
