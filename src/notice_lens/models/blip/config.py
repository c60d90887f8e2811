"""The parts of a BLIP, read from its Hugging Face config with every field accounted for."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from transformers.activations import ACT2FN

from notice_lens.errors import one_of
from notice_lens.models.layout import SegmentKind

Kind = Literal["vqa", "caption", "match"]

# Which stacks run, in this order, for each Hugging Face class.
STACKS_BY_CLASS: dict[str, tuple[Kind, tuple[str, ...]]] = {
    "BlipForQuestionAnswering": ("vqa", ("vision", "text", "decoder")),
    "BlipForConditionalGeneration": ("caption", ("vision", "decoder")),
    "BlipForImageTextRetrieval": ("match", ("vision", "text")),
}


@dataclass(frozen=True)
class StackConfig:
    """One stack: `vision` (pre-LayerNorm), `text` or `decoder` (post-LayerNorm with cross-attention).

    Attributes:
        name: `vision`, `text` or `decoder`.
        n_layers: Blocks in the stack.
        n_heads: Attention heads a layer, as the checkpoint says (never assumed).
        d_model: Width of the residual stream.
        d_head: Width of a head; `n_heads * d_head == d_model`.
        d_mlp: Width of the MLP.
        act_fn: The MLP's activation, by Hugging Face's name.
        eps: The LayerNorms' epsilon.
        n_ctx: Positions that there are embeddings for.
        d_vocab: Tokens in the vocabulary; None for images.
        d_source: Width of the states that cross-attention reads; None in a stack without cross-attention.
        normalization: `pre` or `post`: LayerNorm before each sublayer, or after each residual addition.
        causal: Whether a position sees earlier ones only.
    """

    name: str
    n_layers: int
    n_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    act_fn: str
    eps: float
    n_ctx: int
    d_vocab: int | None = None
    d_source: int | None = None
    normalization: Literal["pre", "post"] = "post"
    causal: bool = False

    @property
    def n_key_value_heads(self) -> int:
        """Heads of keys and values: as many as of queries."""
        return self.n_heads

    @property
    def norm_over_heads(self) -> bool:
        """Always false, since BLIP norms neither queries nor keys."""
        return False

    def check_layer(self, layer: int) -> int:
        """The layer, counted from the front. Raises IndexError where the stack has no such layer."""
        return self._check("layer", layer, self.n_layers)

    def check_head(self, head: int) -> int:
        """The head, counted from the front. Raises IndexError where a layer has no such head."""
        return self._check("head", head, self.n_heads)

    def _check(self, what: str, index: int, n: int) -> int:
        if not -n <= index < n:
            raise IndexError(f"{what} {index} asked for; `{self.name}` has {what}s 0 to {n - 1}")
        return index % n


@dataclass(frozen=True)
class BLIPConfig:
    """A whole model: one config per stack, and the tokens that the decoder needs.

    Attributes:
        kind: `vqa` (question answering), `caption` or `match` (image-text matching).
        stacks: The stacks that run, in order.
        vision: The image encoder.
        text: The question encoder; None for `caption`.
        decoder: The answer decoder; None for `match`.
        image_size: Side of the square image, in pixels.
        patch_size: Side of a patch, in pixels.
        dec_token_id: `[DEC]`, which every answer starts from.
        sep_token_id: `[SEP]`, which closes it.
        pad_token_id: What fills up shorter rows.
        name_or_path: Where the weights came from; empty for an in-memory model.
        revision: The hub's commit, where there is one.
    """

    kind: Kind
    stacks: tuple[str, ...]
    vision: StackConfig
    text: StackConfig | None
    decoder: StackConfig | None
    image_size: int
    patch_size: int
    dec_token_id: int
    sep_token_id: int
    pad_token_id: int
    name_or_path: str = ""
    revision: str | None = None

    @property
    def n_layers(self) -> dict[str, int]:
        """Layers of each stack that there is."""
        return {stack: getattr(self, stack).n_layers for stack in self.stacks}

    # What the stacks are for: `ModelConfig` of the model protocol.

    @property
    def sources(self) -> dict[str, str]:
        """By stack with cross-attention, the stack whose states it reads: the one before it."""
        return dict(zip(self.stacks[1:], self.stacks, strict=False))

    @property
    def prompt_stack(self) -> str:
        """The stack that reads the prompt: the question encoder, or the decoder of captions."""
        return "text" if self.text is not None else "decoder"

    @property
    def streams(self) -> dict[str, tuple[SegmentKind, ...]]:
        """By stack, the kinds of positions that its stream holds beside special ones."""
        decoder: tuple[SegmentKind, ...] = ("answer",) if self.text is not None else ("prompt", "answer")
        held: dict[str, tuple[SegmentKind, ...]] = {"vision": ("image",), "text": ("prompt",), "decoder": decoder}
        return {stack: held[stack] for stack in self.stacks}

    @property
    def looking_site(self) -> str:
        """The attention from words to the image: the cross-attention of the stack behind the image encoder."""
        return f"{self.prompt_stack}.cross_attn"

    @property
    def default_site(self) -> str:
        """The attention that is patched where nothing else is asked for."""
        return self.looking_site

    @property
    def default_positions(self) -> str:
        """The words of the question by role."""
        return "roles"

    @property
    def noise_hooks(self) -> tuple[str, ...]:
        """The embeddings that noise may be added to: patches, and the prompt's words."""
        return ("vision.hook_embed", f"{self.prompt_stack}.hook_embed")

    @property
    def image_norm_hook(self) -> str:
        """The hook point whose norm tells outlier patches: the image's stream behind its last block."""
        return f"vision.blocks.{self.vision.n_layers - 1}.hook_resid_post"

    @property
    def behaviour(self) -> Literal["greedy", "likeliest", "choice"]:
        """The kind of answer: a caption continues freely, so there the answers in question are compared."""
        answered: dict[Kind, Literal["greedy", "likeliest", "choice"]]
        answered = {"vqa": "greedy", "caption": "likeliest", "match": "choice"}
        return answered[self.kind]

    @property
    def pair_kinds(self) -> tuple[str, ...]:
        """The kinds of minimal pairs that the model reads."""
        return (self.kind,)

    @property
    def d_read_out(self) -> int:
        """Logits at the read-out: the vocabulary, or no match and match."""
        return 2 if self.decoder is None else self.decoder.d_vocab or 0

    @property
    def image_sizes_matter(self) -> bool:
        """Always False: every picture is resized to the model's size, so layouts do not need it."""
        return False


def read_config(
    hf_config: Any,
    hf_class: str,
    *,
    written: Mapping[str, Any] | None = None,
    name_or_path: str | None = None,
    revision: str | None = None,
) -> BLIPConfig:
    """Our config of a Hugging Face `BlipConfig`.

    Args:
        hf_config: The config.
        hf_class: Name of the model class, one of `STACKS_BY_CLASS`.
        written: What `config.json` says, where there is one; fields that only the library knows are its own business.
        name_or_path: Where it came from, if not the config itself knows.
        revision: The hub's branch, tag or commit that was asked for.

    Raises:
        ValueError: The class is not one of the three that are ported, or a field is not known or has a value that
            would silently compute something else.
    """
    if hf_class not in STACKS_BY_CLASS:
        raise ValueError(f"{hf_class} is not ported; HookedBLIP loads {', '.join(STACKS_BY_CLASS)}")
    kind, stacks = STACKS_BY_CLASS[hf_class]
    vision, text = hf_config.vision_config, hf_config.text_config
    _account_for_fields(hf_config, vision, text, written)
    if "auto_map" in (hf_config.to_dict() if written is None else written):
        warnings.warn(
            f"the config names code of the checkpoint's own (auto_map), which is not run: it is loaded as {hf_class}",
            stacklevel=3,
        )
    if kind == "vqa" and text.hidden_size != vision.hidden_size:
        raise ValueError(
            f"the text stacks are {text.hidden_size} wide and the image encoder {vision.hidden_size}: in question "
            "answering the decoder's cross-attention is built for the image's width and reads the question"
        )
    image_size, patch_size = _side(vision.image_size), _side(vision.patch_size)
    text_stack = {
        **_shared_fields(text),
        "n_ctx": text.max_position_embeddings,
        "d_vocab": text.vocab_size,
        "d_source": text.encoder_hidden_size,
    }
    if text.hidden_size == 768 and text.num_attention_heads != 12:
        warnings.warn(
            f"the text stack has {text.num_attention_heads} heads of size {768 // text.num_attention_heads}; published "
            "BLIP checkpoints of width 768 have 12 of size 64. Hugging Face's default is 8, so a config without "
            "num_attention_heads computes something else than was trained.",
            stacklevel=3,
        )
    return BLIPConfig(
        kind=kind,
        stacks=stacks,
        vision=StackConfig(
            name="vision",
            **_shared_fields(vision),
            n_ctx=(image_size // patch_size) ** 2 + 1,
            normalization="pre",
        ),
        text=StackConfig(name="text", **text_stack) if "text" in stacks else None,
        decoder=StackConfig(name="decoder", **text_stack, causal=True) if "decoder" in stacks else None,
        image_size=image_size,
        patch_size=patch_size,
        dec_token_id=text.bos_token_id,
        sep_token_id=text.sep_token_id,
        pad_token_id=text.pad_token_id,
        name_or_path=name_or_path or getattr(hf_config, "_name_or_path", "") or "",
        revision=getattr(hf_config, "_commit_hash", None) or revision,
    )


def _shared_fields(config: Any) -> dict[str, Any]:
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(
            f"hidden_size {config.hidden_size} is no multiple of num_attention_heads {config.num_attention_heads}"
        )
    return {
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "d_model": config.hidden_size,
        "d_head": config.hidden_size // config.num_attention_heads,
        "d_mlp": config.intermediate_size,
        "act_fn": config.hidden_act,
        "eps": config.layer_norm_eps,
    }


def _side(size: Any) -> int:
    """The side of a square given as a number or a pair."""
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise ValueError(f"image and patch sizes must be square, got {size}")
    return sides.pop()


# Fields that change nothing in an evaluation forward: sizes of parts that are not ported, initialisation, dropout
# (no effect in evaluation), and labels of training.
_WITHOUT_EFFECT = {
    "projection_dim",
    "image_text_hidden_size",
    "logit_scale_init_value",
    "initializer_range",
    "initializer_factor",
    "attention_dropout",
    "dropout",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "label_smoothing",
    "use_cache",
    "tie_word_embeddings",
    "eos_token_id",
    "model_type",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "architectures",
    "_name_or_path",
    "_commit_hash",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "attn_implementation",
    "auto_map",
}
_READ = {
    "config": {"vision_config", "text_config"},
    "vision_config": {
        *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("image_size", "patch_size", "hidden_act", "layer_norm_eps", "num_channels"),
    },
    "text_config": {
        *("hidden_size", "encoder_hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("max_position_embeddings", "vocab_size", "hidden_act", "layer_norm_eps", "is_decoder"),
        *("bos_token_id", "pad_token_id", "sep_token_id", "position_embedding_type"),
    },
}
# What older transformers wrote into every config: generation defaults and bookkeeping that BLIP never reads.
_LEGACY = set(
    """add_cross_attention bad_words_ids begin_suppress_tokens chunk_size_feed_forward cross_attention_hidden_size
    decoder_start_token_id diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
    exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id id2label
    is_encoder_decoder label2id length_penalty max_length min_length no_repeat_ngram_size num_beam_groups num_beams
    num_return_sequences output_attentions output_hidden_states output_scores prefix problem_type pruned_heads
    remove_invalid_values repetition_penalty return_dict return_dict_in_generate suppress_tokens
    task_specific_params temperature tf_legacy_loss tie_encoder_decoder tokenizer_class top_k top_p torchscript
    typical_p use_bfloat16 bos_token_id pad_token_id sep_token_id eos_token_id is_decoder""".split()
)


_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
# Far above any BLIP, and small enough for a model of that size to be described.
_LARGEST = {"num_hidden_layers": 1000, "patch_size": 10_000, "image_size": 10_000}


def _check_sizes(part: str, config: Any, fields: tuple[str, ...]) -> None:
    """Raise ValueError for an invalid size or an unknown activation."""
    for field in fields:
        value, most = getattr(config, field), _LARGEST.get(field, 10_000_000)
        sizes = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(size, int) and 1 <= size <= most for size in sizes):
            raise ValueError(f"{part}.{field} is {value!r}; expected a whole number from 1 to {most:,}")
    if config.hidden_act not in ACT2FN:
        raise ValueError(one_of(f"{part}.hidden_act", config.hidden_act, ACT2FN))


def _fields_set(config: Any, written: Mapping[str, Any] | None) -> set[str]:
    """Return the fields that a config sets: all that is not the library's own default, which new versions add to."""
    defaults = type(config)().to_dict()
    values = config.to_dict() if written is None else written
    return {name for name, value in values.items() if value is not None and value != defaults.get(name)}


def _account_for_fields(whole: Any, vision: Any, text: Any, written: Mapping[str, Any] | None) -> None:
    """Refuse a field that nothing here knows, or a value that the port does not compute.

    Args:
        whole: Hugging Face's config.
        vision: Its part for the image encoder.
        text: Its part for the text stacks.
        written: What `config.json` says; None where there is no file.
    """
    if getattr(whole, "quantization_config", None):
        raise ValueError(
            "the checkpoint is quantised (config has a quantization_config): hook points need plain weights, so load "
            "the checkpoint that it was made from"
        )
    for part, config in (("config", whole), ("vision_config", vision), ("text_config", text)):
        own = written if written is None or part == "config" else written.get(part, {})
        unknown = _fields_set(config, own) - _READ[part] - _WITHOUT_EFFECT - _LEGACY
        if unknown:
            raise ValueError(
                f"{part} has fields that are not accounted for: {', '.join(sorted(unknown))}. They might change "
                "what the model computes; remove them from config.json if they do not."
            )
    if getattr(vision, "num_channels", 3) != 3:
        raise ValueError(f"vision_config.num_channels is {vision.num_channels}; BLIP reads 3 (red, green, blue)")
    if not text.is_decoder:
        raise ValueError("text_config.is_decoder is false: Hugging Face then builds no cross-attention to the image")
    _check_sizes("vision_config", vision, (*_SIZES, "patch_size", "image_size"))
    _check_sizes("text_config", text, (*_SIZES, "encoder_hidden_size", "max_position_embeddings", "vocab_size"))
    for token in ("bos_token_id", "sep_token_id", "pad_token_id"):
        value = getattr(text, token)
        if not isinstance(value, int) or not 0 <= value < text.vocab_size:
            raise ValueError(f"text_config.{token} is {value}; expected the id of a token, 0 to {text.vocab_size - 1}")
    if getattr(text, "position_embedding_type", "absolute") != "absolute":
        raise ValueError(f"position_embedding_type is {text.position_embedding_type!r}; BLIP's is 'absolute'")
    if any(getattr(config, "pruned_heads", None) for config in (vision, text)):
        raise ValueError("pruned_heads is not empty; heads cannot be pruned by the config")
