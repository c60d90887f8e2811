"""The model protocol: all that the rest of the package may know about a model.

Nothing outside `models/` and `patching/engine/` asks which family a model is, what its stacks are called or how its
inputs are put together. It asks for what is below, and a new family is a new implementation of it. Three things say
what a model is:

- `ModelConfig`, what is known before anything runs: the stacks in order, and which of them does what;
- `TextReader`, what the tokenizer decides: tokens, answers in context, and the layout of prompts;
- `VisionLanguageModel`, both of these and the model itself.

`HookedBLIP` has the stacks `vision`, `text` and `decoder`; a decoder-only model has `vision` and `language`, whose
stream holds image, prompt, special and answer positions in one row.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from notice_lens.models.hook_names import STACKS
from notice_lens.models.layout import Layout, SegmentKind

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int
    from torch import Tensor

Behaviour = Literal["greedy", "likeliest", "choice"]
"""A model's answer: the `greedy` one, the `likeliest` of the answers in question (by the model's `answer_log_probs`),
or a `choice` between two logits that stand for no words (image-text matching)."""
SPECIAL_ROLES = ("[CLS]", "[DEC]", "[SEP]", "?", "bos", "image", "last")
"""Names of `Layout.roles` over all families: no role of a pair may be called so."""
EMBEDDINGS = ("projector.hook_out", *(f"{stack}.hook_embed" for stack in STACKS if stack != "projector"))
"""The hook points at which models embed images or words; `ModelConfig.noise_hooks` names those that take noise."""
TABLES = ("hook_attn_scores", "hook_pattern")
"""Activations with a query axis and a key axis."""


@runtime_checkable
class AnyStackConfig(Protocol):
    """The sizes of one stack."""

    @property
    def name(self) -> str:
        """The prefix of the names of its hook points."""
        ...

    @property
    def n_layers(self) -> int:
        """Blocks."""
        ...

    @property
    def n_heads(self) -> int:
        """Heads of queries in a layer."""
        ...

    @property
    def n_key_value_heads(self) -> int:
        """Heads of keys and values in a layer; fewer than `n_heads` with grouped queries."""
        ...

    @property
    def norm_over_heads(self) -> bool:
        """Whether one norm goes over the queries, or keys, of all heads of a layer together."""
        ...

    @property
    def d_model(self) -> int:
        """Width of the stream."""
        ...

    @property
    def d_head(self) -> int:
        """Width of a head."""
        ...

    @property
    def d_mlp(self) -> int:
        """Width of the MLP."""
        ...

    @property
    def d_vocab(self) -> int | None:
        """Tokens in the vocabulary; None for images."""
        ...

    @property
    def n_ctx(self) -> int:
        """The most positions that the stack can have."""
        ...

    @property
    def causal(self) -> bool:
        """True where a position sees itself and earlier ones only."""
        ...


@runtime_checkable
class ModelConfig(Protocol):
    """The part of a model that is known before anything runs."""

    @property
    def stacks(self) -> tuple[str, ...]:
        """The stacks that run, in order; the last one is read out."""
        ...

    @property
    def sources(self) -> Mapping[str, str]:
        """By stack with cross-attention, the stack whose states it reads."""
        ...

    @property
    def streams(self) -> Mapping[str, tuple[SegmentKind, ...]]:
        """By stack, the kinds of positions that its stream holds beside special ones."""
        ...

    @property
    def prompt_stack(self) -> str:
        """The stack whose stream holds the prompt."""
        ...

    @property
    def default_site(self) -> str:
        """The attention that is patched by default, such as `text.cross_attn`."""
        ...

    @property
    def default_positions(self) -> str | tuple[str, ...]:
        """The positions among words that are patched by default: `roles`, or some by name."""
        ...

    @property
    def looking_site(self) -> str:
        """The attention that looks from words at the image: `text.cross_attn`, `language.attn`."""
        ...

    @property
    def noise_hooks(self) -> tuple[str, ...]:
        """The embeddings that noise may be added to: of the image first, then of the words."""
        ...

    @property
    def image_norm_hook(self) -> str:
        """The hook point whose norm tells outliers among the image positions that `looking_site` looks at."""
        ...

    @property
    def behaviour(self) -> Behaviour:
        """The kind of answer that the model is judged by."""
        ...

    @property
    def pair_kinds(self) -> tuple[str, ...]:
        """The kinds of minimal pairs that the model reads, of `vqa`, `caption` and `match`."""
        ...

    @property
    def d_read_out(self) -> int:
        """Logits at the read-out: the vocabulary, or 2 for a choice."""
        ...

    @property
    def image_sizes_matter(self) -> bool:
        """True where the number of image positions depends on the picture's size, so that layouts need sizes."""
        ...

    @property
    def name_or_path(self) -> str:
        """The origin of the weights; empty for an in-memory model."""
        ...


@runtime_checkable
class TextReader(Protocol):
    """The decisions of a model's tokenizer; a bare tokenizer is wrapped into one (`models/blip/layout.py`)."""

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer."""
        ...

    def answer_ids(self, prompt: str, answer: str) -> list[int]:
        """Return the tokens of an answer as they follow the prompt, without any closing token."""
        ...

    def layout_of(
        self,
        prompts: Sequence[str],
        answers: Sequence[str] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> Layout:
        """Return the layout that inputs will have, without preparing images.

        A stack whose positions depend on more than the picture's size may be left out; see `image_length`.

        Args:
            prompts: The prompts.
            answers: The answer to teacher-force after each; None for none.
            sizes: Height and width of each picture in pixels, where `ModelConfig.image_sizes_matter`.
        """
        ...


@runtime_checkable
class VisionLanguageModel(TextReader, Protocol):
    """A model with hook points that reads an image and a prompt."""

    @property
    def cfg(self) -> ModelConfig:
        """The config."""
        ...

    @property
    def device(self) -> "torch.device":
        """The device of the weights."""
        ...

    @property
    def dtype(self) -> "torch.dtype":
        """The dtype of the weights."""
        ...

    @property
    def processor(self) -> Any:
        """Hugging Face's processor, or None."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings outside of config and processor that change results, in plain values."""
        ...

    @property
    def hook_dict(self) -> Mapping[str, Any]:
        """Every hook point by its full name."""
        ...

    @property
    def in_use(self) -> Any:
        """The lock that holds the model for one thread at a time."""
        ...

    def stack(self, name: str) -> Any:
        """Return a stack, whose `cfg` is an `AnyStackConfig`. Raises KeyError for an unknown name."""
        ...

    def activations(self, stack: str) -> tuple[str, ...]:
        """Return the activations of a stack that can be patched, in the order of the forward pass."""
        ...

    def sublayers(self, stack: str) -> tuple[str, ...]:
        """Return the modules that write to the stream: `attn`, `cross_attn`, `mlp`, in their order."""
        ...

    def block_output(self, stack: str) -> str:
        """Return the hook point that a block's output passes, without stack and layer."""
        ...

    def attention_of(self, name: str) -> Any:
        """Return the attention module that a hook point belongs to; it has `W_O` [head, d_head, d_model]."""
        ...

    def preprocess(self, images: Any) -> Any:
        """Return images as `prepare` takes them too, so that they are resized and normalised once for many runs."""
        ...

    def prepare(self, images: Any, prompts: Any, answers: Any = ..., /) -> Any:
        """Return the inputs of images, prompts and teacher-forced answers, on the model's device."""
        ...

    def layout(self, inputs: Any, prompts: Sequence[str] | None = None) -> Layout:
        """Return the layout of prepared inputs; with the prompts' strings, also the positions of their words."""
        ...

    def teacher_forced(self, prompts: Sequence[str], answers: Sequence[str]) -> bool:
        """Return whether answers have to be in the inputs to be measured; otherwise the read-out alone tells them."""
        ...

    def answer_entries(self, prompts: Sequence[str], answers: Sequence[str]) -> 'Int[Tensor, " answer"]':
        """Return the entry of the read-out's logits that stands for each answer: its first token, or the choice."""
        ...

    def greedy_ids(self, inputs: Any, max_new_tokens: int) -> list[list[int]]:
        """Return the tokens of each greedy answer, without the closing one."""
        ...

    def embeddings(self, name: str, inputs: Any) -> "Tensor":
        """Return the embeddings of one stack, [row, pos, d_model], through the hooks on them."""
        ...

    def image_length(self, stack: str, image: Any) -> int:
        """Return how many positions a picture has in a stack that no layout describes, such as a tower of tiles."""
        ...

    def mean_image_states(self, images: Any) -> 'Float[Tensor, "image d_model"]':
        """Return the mean over image positions of what the image stack gives for each picture, float32."""
        ...

    def run_with_cache(self, *args: Any, **kwargs: Any) -> "tuple[Tensor, Any]":
        """Return the logits and the activations of a run."""
        ...

    def run_with_hooks(self, *args: Any, **kwargs: Any) -> "Tensor":
        """Return the logits of a run with hooks."""
        ...

    def hooks(self, *args: Any, **kwargs: Any) -> Any:
        """Attach hooks for the length of a `with` block."""
        ...

    def __call__(self, inputs: Any) -> "Tensor":
        """Return the logits."""
        ...


def axes(cfg: ModelConfig, stack: str, activation: str) -> tuple[str, str | None]:
    """Return the stacks whose positions an activation has, and whose its keys are.

    Args:
        cfg: Of the model.
        stack: The activation's stack.
        activation: Without stack and layer, such as `cross_attn.hook_pattern`.

    Returns:
        The stack whose positions the activation has: its own, but for keys and values of cross-attention, which are
        those of the stack that is read. Of scores and patterns also the stack of their keys; None for all others.
    """
    module, _, leaf = activation.rpartition(".")
    keys = cfg.sources[stack] if module == "cross_attn" else stack
    if leaf in TABLES:
        return stack, keys
    return (keys if leaf in ("hook_k", "hook_v") else stack), None


def image_stream(cfg: ModelConfig) -> str:
    """Return the stack whose image positions words look at: the image's own, or a stream that holds words too."""
    stack, _, module = cfg.looking_site.partition(".")
    keys = axes(cfg, stack, f"{module}.hook_pattern")[1]
    assert keys is not None, "patterns have keys"
    return keys
