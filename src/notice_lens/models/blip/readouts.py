"""The read-outs: from the last states to logits."""

from jaxtyping import Float
from torch import Tensor, nn
from transformers.activations import ACT2FN

from notice_lens.models.blip.config import StackConfig


class AnswerHead(nn.Module):
    """Logits of the next token at every position of the decoder (BERT's language-modelling head)."""

    def __init__(self, cfg: StackConfig):
        super().__init__()
        assert cfg.d_vocab is not None, "a decoder has a vocabulary"
        self.dense = nn.Linear(cfg.d_model, cfg.d_model)
        self.act_fn = ACT2FN[cfg.act_fn]
        self.ln = nn.LayerNorm(cfg.d_model, cfg.eps)
        self.unembed = nn.Linear(cfg.d_model, cfg.d_vocab)

    def forward(self, states: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_vocab"]:
        """`logits[:, i]` predicts the token after position i."""
        return self.unembed(self.ln(self.act_fn(self.dense(states))))


class MatchHead(nn.Module):
    """Two logits from the first token: the text does not match the image, it does."""

    def __init__(self, cfg: StackConfig):
        super().__init__()
        self.match = nn.Linear(cfg.d_model, 2)

    def forward(self, states: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch 2"]:
        """Logits of no match (0) and match (1)."""
        return self.match(states[:, 0])
