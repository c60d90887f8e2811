"""The parts of a BLIP in a TransformerBridge for which TransformerLens has no component.

TransformerLens puts a component in the place of each of Hugging Face's modules, and has one ready for most of BLIP's.
Five need their own, since otherwise numbers would be wrong without a word:

1. *Attention of the text stacks.* Hugging Face's `BlipTextAttention` drops the mask of its source, so that a padded
   question is looked at by the decoder, padding included; and scores and patterns that are handed on after the fact
   cannot be edited. Here attention is computed between its hook points, and the source's mask counts.
2. *Attention of the image encoder.* TransformerLens's component for fused projections is causal; a ViT is not.
3. *Blocks of the image encoder.* TransformerLens's hook point in their middle is beside the stream, and its blocks
   give back a tuple where they are called with the stream alone, as BLIP's encoder calls them.
4. *Word embeddings.* Hugging Face adds the positions to them in place, after the hook point has shown them.
5. *The last LayerNorm of the image encoder.* Hugging Face runs it a second time on the class token alone, which would
   overwrite what was cached of the first.
"""

from types import SimpleNamespace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge.generalized_components import (
    AttentionBridge,
    BlockBridge,
    EmbeddingBridge,
    JointQKVAttentionBridge,
    LinearBridge,
    MLPBridge,
    NormalizationBridge,
)
from transformer_lens.model_bridge.generalized_components.base import CloneOutputUnderGradMixin, GeneralizedComponent
from transformers import EncoderDecoderCache

_INPUT_FORKS = ("hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input")


def norm(name: str, config: Any) -> NormalizationBridge:
    """Return a LayerNorm that runs Hugging Face's own."""
    return NormalizationBridge(name=name, config=config, use_native_layernorm_autograd=True)


class BLIPTextAttentionBridge(AttentionBridge):
    """Self-attention or cross-attention of a text stack, with the LayerNorm that follows the addition.

    It stands for a `BlipTextAttention`: `o.hook_out` is what the heads write, and `hook_out` the stream after it was
    added and normalised.
    """

    supports_split_qkv_fork = False

    def __init__(self, name: str, config: Any, crosses: bool = False):
        parts = {"q": "self.query", "k": "self.key", "v": "self.value", "o": "output.dense"}
        super().__init__(
            name,
            config,
            submodules={own: LinearBridge(name=theirs) for own, theirs in parts.items()},
            is_cross_attention=crosses,
            is_causal=False,  # the decoder's mask comes from Hugging Face
        )

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Return the stream after attention, [batch, pos, d_model], and the pattern, [batch, head, query_pos, key_pos].

        Args:
            hidden_states: The stream, [batch, pos, d_model].
            attention_mask: What may be looked at: of the source in cross-attention, else of the stream; additive,
                [batch, 1, query_pos or 1, key_pos].
            encoder_hidden_states: What cross-attention looks at, [batch, key_pos, d_source].
            past_key_values: Hugging Face's cache, while it generates.
            **kwargs: Not used, as in Hugging Face's own.
        """
        hf: Any = self.original_component
        states = self.hook_in(hidden_states)
        q = self._heads(self.q(states))
        k, v = self._keys_and_values(
            states if encoder_hidden_states is None else encoder_hidden_states, past_key_values
        )
        scores = torch.matmul(q, k.transpose(-1, -2)) / q.shape[-1] ** 0.5
        if attention_mask is not None:
            scores = self._apply_reconstruct_attention_mask(scores, attention_mask, k.shape[-2], q.shape[-2])
        pattern = self.hook_pattern(self._masked_softmax(self.hook_attn_scores(scores)))
        z = torch.matmul(hf.self.dropout(pattern), v)
        written = self.o(rearrange(z, "batch head pos d_head -> batch pos (head d_head)"))
        stream = hf.output.LayerNorm(hf.output.dropout(written) + hidden_states)
        return self.hook_out(stream), pattern

    def _heads(self, projected: Tensor) -> Tensor:
        n_heads = self._get_n_heads()
        return rearrange(projected, "batch pos (head d_head) -> batch head pos d_head", head=n_heads)

    def _keys_and_values(self, states: Tensor, cache: Any) -> tuple[Tensor, Tensor]:
        """Keys and values of the states, and of what came before them where Hugging Face keeps a cache."""
        hf: Any = self.original_component
        layer = hf.self.layer_idx
        both = isinstance(cache, EncoderDecoderCache)
        own = cache
        if both:
            own = cache.cross_attention_cache if self.is_cross_attention else cache.self_attention_cache
            if self.is_cross_attention and cache.is_updated.get(layer):
                return own.layers[layer].keys, own.layers[layer].values
        k, v = self._heads(self.k(states)), self._heads(self.v(states))
        if own is not None:
            k, v = own.update(k, v, layer)
        if both and self.is_cross_attention:
            cache.is_updated[layer] = True
        return k, v


class BLIPVisionAttentionBridge(JointQKVAttentionBridge):
    """Self-attention of the image encoder: queries, keys and values are thirds of one projection."""

    def __init__(self, name: str, config: Any):
        super().__init__(
            name,
            config,
            split_qkv_matrix=_thirds,
            submodules={"o": LinearBridge(name="projection")},
        )
        self.is_causal = False


def _thirds(attention: Any) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    """Queries, keys and values of a fused projection as layers of their own, which share its memory."""
    fused = attention.qkv
    weights, biases = fused.weight.detach().chunk(3), fused.bias.detach().chunk(3)
    layers = []
    for weight, bias in zip(weights, biases, strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
        layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
        layers.append(layer)
    q, k, v = layers
    return q, k, v


class BLIPBlockBridge(BlockBridge):
    """A block of BLIP, with the hook points of TransformerLens's own blocks.

    Args:
        name: Of Hugging Face's list of layers.
        config: Of the stack.
        submodules: Its parts.
        aliases: Hook points that are elsewhere than TransformerLens expects them: all of them after a LayerNorm that
            follows an addition.
    """

    def __init__(self, name: str, config: Any, submodules: dict[str, GeneralizedComponent], aliases: dict[str, str]):
        super().__init__(name, config, submodules, aliases, mlp_reads_resid_directly=bool(aliases))
        self.hook_aliases = {name: at for name, at in self.hook_aliases.items() if name not in _INPUT_FORKS}
        if "hook_mlp_in" in aliases:
            # TransformerLens's own would fire before a LayerNorm that is not the MLP's.
            del self.hook_mlp_in
            self._hook_registry.pop("hook_mlp_in")


def text_block(name: str, config: Any, self_attention: str) -> BLIPBlockBridge:
    """Return a block of BERT with cross-attention: a LayerNorm follows each addition.

    Args:
        name: Of Hugging Face's list of layers.
        config: Of the text stacks.
        self_attention: What TransformerLens calls self-attention there: `attn` in encoders, `self_attn` in decoders.
    """
    mlp: dict[str, GeneralizedComponent] = {
        "in": LinearBridge(name="intermediate.dense"),
        "out": LinearBridge(name="output.dense"),
    }
    return BLIPBlockBridge(
        name,
        config,
        submodules={
            self_attention: BLIPTextAttentionBridge("attention", config),
            "ln1": norm("attention.output.LayerNorm", config),
            "cross_attn": BLIPTextAttentionBridge("crossattention", config, crosses=True),
            "ln2": norm("crossattention.output.LayerNorm", config),
            "mlp": MLPBridge(name=None, config=config, submodules=mlp),
            "ln3": norm("output.LayerNorm", config),
        },
        aliases={
            "hook_attn_out": f"{self_attention}.o.hook_out",
            "hook_resid_mid": "ln1.hook_in",
            "hook_cross_attn_out": "cross_attn.o.hook_out",
            "hook_resid_mid_cross": "ln2.hook_in",
            "hook_mlp_in": "mlp.in.hook_in",
            "hook_mlp_out": "mlp.out.hook_out",
            "hook_resid_post": "ln3.hook_in",
            "hook_normalized_resid_post": "ln3.hook_out",
        },
    )


class BLIPVisionBlockBridge(BLIPBlockBridge):
    """A block of the image encoder: each sublayer reads a normalised copy of the stream and adds to it.

    TransformerLens takes `hook_resid_mid` to be the input of the second LayerNorm, which the stream passes by: a tensor
    that a hook returns there would reach the MLP alone.
    """

    def __init__(self, name: str, config: Any):
        mlp: dict[str, GeneralizedComponent] = {"in": LinearBridge(name="fc1"), "out": LinearBridge(name="fc2")}
        parts = {
            "ln1": norm("layer_norm1", config),
            "attn": BLIPVisionAttentionBridge("self_attn", config),
            "ln2": norm("layer_norm2", config),
            "mlp": MLPBridge(name="mlp", config=config, submodules=mlp),
        }
        super().__init__(name, config, parts, {})
        del self.hook_aliases["hook_resid_mid"]
        self.hook_resid_mid = HookPoint()

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """Return the stream after this block, [batch, pos, d_model]."""
        self._maybe_wire_capture_hooks()
        stream = self.hook_in(hidden_states)
        stream = self.hook_resid_mid(stream + self.attn(hidden_states=self.ln1(stream), **kwargs)[0])
        return self.hook_out(stream + self.mlp(self.ln2(stream)))


class BLIPVisionEncoderBridge(GeneralizedComponent):
    """The image encoder; `hook_out` is the states that the question looks at."""

    def __init__(self, name: str, config: Any):
        vision = config.vision_config
        d_head = vision.hidden_size // vision.num_attention_heads
        own = SimpleNamespace(
            n_heads=vision.num_attention_heads, d_model=vision.hidden_size, d_head=d_head, eps=vision.layer_norm_eps
        )
        super().__init__(
            name,
            config,
            submodules={
                "embeddings": GeneralizedComponent(name="embeddings"),
                "encoder_layers": BLIPVisionBlockBridge("encoder.layers", own),
                "post_layernorm": OnceNormBridge("post_layernorm", own, use_native_layernorm_autograd=True),
            },
        )

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> Any:
        """Return Hugging Face's output for preprocessed images, [batch, 3, height, width]."""
        assert self.original_component is not None, "set by TransformerLens before anything runs"
        output = self.original_component(pixel_values=self.hook_in(pixel_values), **kwargs)
        output.last_hidden_state = self.hook_out(output.last_hidden_state)
        return output


class OnceNormBridge(NormalizationBridge):
    """A LayerNorm whose hook points see the stream, and not the class token that goes through it once more."""

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """Return the normalised states, [batch, pos, d_model] with hook points, [batch, d_model] without."""
        if hidden_states.ndim == 2 and self.original_component is not None:
            return self.original_component(hidden_states)
        return super().forward(hidden_states, **kwargs)


class WordEmbeddingBridge(CloneOutputUnderGradMixin, EmbeddingBridge):
    """Word embeddings that what comes after cannot write into."""
