"""The two kinds of transformer block that BLIP is made of.

Hook names are TransformerLens's: the pre-LayerNorm block of GPT-2 for the vision stack; for the text stacks its
BertBlock (LayerNorm after each residual addition, `hook_normalized_resid_post` the block's output) with the
cross-attention of its T5Block. There, `hook_resid_mid`, `hook_resid_mid_cross` and `hook_resid_post` are the stream
*before* the LayerNorm that follows.
"""

from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers.activations import ACT2FN

from notice_lens.models.attention import Attention, KeyValues
from notice_lens.models.config import StackConfig
from notice_lens.models.hook_point import BLIPHookPoint
from notice_lens.models.layer_norm import LayerNorm


class MLP(nn.Module):
    """Two linear layers with an activation between."""

    def __init__(self, cfg: StackConfig):
        super().__init__()
        self.input = nn.Linear(cfg.d_model, cfg.d_mlp)
        self.output = nn.Linear(cfg.d_mlp, cfg.d_model)
        self.act_fn = ACT2FN[cfg.act_fn]
        self.hook_pre = BLIPHookPoint("batch pos d_mlp")
        self.hook_post = BLIPHookPoint("batch pos d_mlp")

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """What the neurons write to the stream."""
        return self.output(self.hook_post(self.act_fn(self.hook_pre(self.input(x)))))

    @property
    def W_in(self) -> Float[Tensor, "d_model d_mlp"]:
        """Input weights, a column for each neuron."""
        return self.input.weight.T

    @property
    def b_in(self) -> Float[Tensor, " d_mlp"]:
        """Input biases."""
        return self.input.bias

    @property
    def W_out(self) -> Float[Tensor, "d_mlp d_model"]:
        """Output weights: what neuron n writes is `post[..., n] * W_out[n]`."""
        return self.output.weight.T

    @property
    def b_out(self) -> Float[Tensor, " d_model"]:
        """Output bias."""
        return self.output.bias


class PreNormBlock(nn.Module):
    """A block of the vision stack: each sublayer reads a normalised copy and adds to the stream."""

    def __init__(self, cfg: StackConfig):
        super().__init__()
        self.hook_resid_pre = BLIPHookPoint("batch pos d_model")
        self.ln1 = LayerNorm(cfg.d_model, cfg.eps)
        self.attn = Attention(cfg.d_model, cfg.n_heads)
        self.hook_attn_out = BLIPHookPoint("batch pos d_model")
        self.hook_resid_mid = BLIPHookPoint("batch pos d_model")
        self.ln2 = LayerNorm(cfg.d_model, cfg.eps)
        self.mlp = MLP(cfg)
        self.hook_mlp_out = BLIPHookPoint("batch pos d_model")
        self.hook_resid_post = BLIPHookPoint("batch pos d_model")

    def forward(
        self,
        resid_pre: Float[Tensor, "batch pos d_model"],
        mask: Bool[Tensor, "batch 1 1 pos"] | None = None,
        source: None = None,
        source_mask: None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """The stream after this block. There is no cross-attention, so no source."""
        resid_pre = self.hook_resid_pre(resid_pre)
        attn_out = self.hook_attn_out(self.attn(resid_pre, mask=mask, norm=self.ln1))
        resid_mid = self.hook_resid_mid(resid_pre + attn_out)
        mlp_out = self.hook_mlp_out(self.mlp(self.ln2(resid_mid)))
        return self.hook_resid_post(resid_mid + mlp_out)


class PostNormBlock(nn.Module):
    """A block of the text and decoder stacks: self-attention, cross-attention, MLP, each followed by LayerNorm."""

    def __init__(self, cfg: StackConfig):
        super().__init__()
        self.hook_resid_pre = BLIPHookPoint("batch pos d_model")
        self.attn = Attention(cfg.d_model, cfg.n_heads, causal=cfg.causal)
        self.hook_attn_out = BLIPHookPoint("batch pos d_model")
        self.hook_resid_mid = BLIPHookPoint("batch pos d_model")
        self.ln1 = LayerNorm(cfg.d_model, cfg.eps)
        self.cross_attn = Attention(cfg.d_model, cfg.n_heads, d_source=cfg.d_source)
        self.hook_cross_attn_out = BLIPHookPoint("batch pos d_model")
        self.hook_resid_mid_cross = BLIPHookPoint("batch pos d_model")
        self.ln2 = LayerNorm(cfg.d_model, cfg.eps)
        self.mlp = MLP(cfg)
        self.hook_mlp_out = BLIPHookPoint("batch pos d_model")
        self.hook_resid_post = BLIPHookPoint("batch pos d_model")
        self.ln3 = LayerNorm(cfg.d_model, cfg.eps)
        self.hook_normalized_resid_post = BLIPHookPoint("batch pos d_model")

    def forward(
        self,
        resid_pre: Float[Tensor, "batch pos d_model"],
        mask: Bool[Tensor, "batch 1 1 pos"] | None = None,
        source: Float[Tensor, "source_batch key_pos d_source"] | KeyValues | None = None,
        source_mask: Bool[Tensor, "source_batch 1 1 key_pos"] | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """The normalised stream after this block.

        Args:
            resid_pre: The stream before it.
            mask: Positions that self-attention may look at.
            source: States, or keys and values, that cross-attention looks at.
            source_mask: Positions of the source that it may look at.
        """
        resid_pre = self.hook_resid_pre(resid_pre)
        attn_out = self.hook_attn_out(self.attn(resid_pre, mask=mask))
        resid_mid = self.hook_resid_mid(resid_pre + attn_out)
        normalized_mid = self.ln1(resid_mid)
        cross_attn_out = self.hook_cross_attn_out(self.cross_attn(normalized_mid, source, source_mask))
        resid_mid_cross = self.hook_resid_mid_cross(normalized_mid + cross_attn_out)
        normalized_cross = self.ln2(resid_mid_cross)
        mlp_out = self.hook_mlp_out(self.mlp(normalized_cross))
        resid_post = self.hook_resid_post(normalized_cross + mlp_out)
        return self.hook_normalized_resid_post(self.ln3(resid_post))
