"""The transformer blocks that BLIP is made of: a list of steps (`steps.py`), and the forward pass that carries it out.

Hook names are TransformerLens's: the pre-LayerNorm block of GPT-2 for the vision stack; for the text stacks its
BertBlock (LayerNorm after each residual addition, `hook_normalized_resid_post` the block's output) with the
cross-attention of its T5Block. There, `hook_resid_mid`, `hook_resid_mid_cross` and `hook_resid_post` are the stream
*before* the LayerNorm that follows.
"""

from typing import assert_never

from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers.activations import ACT2FN

from notice_lens.models.blip.attention import Attention, KeyValues
from notice_lens.models.blip.config import StackConfig
from notice_lens.models.blip.layer_norm import LayerNorm
from notice_lens.models.blip.steps import STEPS_BY_NORMALIZATION, Add, Apply, Attend, Steps, Stream, Transform
from notice_lens.models.hooks import CopyingHookPoint


class MLP(nn.Module):
    """Two linear layers with an activation between."""

    def __init__(self, cfg: StackConfig):
        super().__init__()
        self.input = nn.Linear(cfg.d_model, cfg.d_mlp)
        self.output = nn.Linear(cfg.d_mlp, cfg.d_model)
        self.act_fn = ACT2FN[cfg.act_fn]
        self.hook_pre = CopyingHookPoint("batch pos d_mlp")
        self.hook_post = CopyingHookPoint("batch pos d_mlp")

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """Return the neurons' output to the stream."""
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


class Block(nn.Module):
    """A block: the modules and hook points that its steps name, and the forward pass through them.

    Args:
        cfg: Of the stack; its `normalization` says which steps a block has.
        steps: The steps, where they are others.

    Attributes:
        steps: The block's steps, in order.
    """

    steps: Steps
    attn: Attention
    cross_attn: Attention
    mlp: MLP

    def __init__(self, cfg: StackConfig, steps: Steps | None = None):
        super().__init__()
        self.steps = STEPS_BY_NORMALIZATION[cfg.normalization] if steps is None else steps
        for step in self.steps:
            match step:
                case Stream(hook) | Add(hook):
                    self.add_module(hook, CopyingHookPoint("batch pos d_model"))
                case Apply(module):
                    self.add_module(module, LayerNorm(cfg.d_model, cfg.eps))
                case Attend(module, out, norm, crosses):
                    self._add_norm(norm, cfg)
                    d_source, causal = (cfg.d_source, False) if crosses else (None, cfg.causal)
                    self.add_module(module, Attention(cfg.d_model, cfg.n_heads, d_source, causal))
                    self.add_module(out, CopyingHookPoint("batch pos d_model"))
                case Transform(module, out, norm):
                    self._add_norm(norm, cfg)
                    self.add_module(module, MLP(cfg))
                    self.add_module(out, CopyingHookPoint("batch pos d_model"))
                case _:
                    assert_never(step)

    def _add_norm(self, name: str | None, cfg: StackConfig) -> None:
        if name is not None:
            self.add_module(name, LayerNorm(cfg.d_model, cfg.eps))

    def forward(
        self,
        stream: Float[Tensor, "batch pos d_model"],
        mask: Bool[Tensor, "batch 1 1 pos"] | None = None,
        source: Float[Tensor, "source_batch key_pos d_source"] | KeyValues | None = None,
        source_mask: Bool[Tensor, "source_batch 1 1 key_pos"] | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """Return the stream after this block.

        Args:
            stream: The stream before it.
            mask: Positions that self-attention may look at.
            source: States, or keys and values, that cross-attention looks at; None in blocks without it.
            source_mask: Positions of the source that it may look at.
        """
        written = stream
        for step in self.steps:
            match step:
                case Stream(hook):
                    stream = self[hook](stream)
                case Apply(module):
                    stream = self[module](stream)
                case Attend(module, out, norm, crosses):
                    seen = (source, source_mask) if crosses else (None, mask)
                    # The LayerNorm goes along: split inputs are copied for each head before it.
                    written = self[out](self[module](stream, *seen, norm=None if norm is None else self[norm]))
                case Transform(module, out, norm):
                    written = self[out](self[module](stream if norm is None else self[norm](stream)))
                case Add(hook):
                    stream = self[hook](stream + written)
                case _:
                    assert_never(step)
        return stream

    def __getitem__(self, name: str) -> nn.Module:
        """The module or hook point of that name."""
        return self._modules[name]  # pyright: ignore[reportReturnType] -- made above, never None
