"""Naming patches in words: what tower and projector learn first, in the language model's own embeddings.

An image token is to lie near the embeddings of the words that name it: its noun, its look, its size. So the language
model finds the patches of "apple" by what it knows of the word, and reads "red" off them. What a thing stands near is
told through a matrix, since two nouns in one token would be mistaken for each other. Nothing of this is saved but the
weights of tower, projector and embeddings.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from train_mini.patches import UNKNOWN, naming_loss
from train_mini.picture_examples import PATCH_WORDS


class PatchWords(nn.Module):
    """The losses for naming patches.

    Args:
        width: Of the language model's stream.
        ids: The token of each word.
        scale: Factor on the products of image tokens and embeddings, so that tokens of ordinary length can be certain.
    """

    def __init__(self, width: int, ids: Mapping[str, int], scale: float):
        super().__init__()
        self.scale = scale
        self.near = nn.Linear(width, width, bias=False)
        self.told = nn.ModuleList([nn.Linear(width, len(words)) for words in list(PATCH_WORDS.values())[1:]])
        for kind, words in PATCH_WORDS.items():
            self.register_buffer(kind + "_ids", torch.tensor([ids[word] for word in words]), persistent=False)

    def forward(
        self,
        embeddings: Float[Tensor, "token width"],
        images: Float[Tensor, "image patch width"],
        labels: Int[Tensor, "image kind patch"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return the loss of naming patches, and the share of the patches of things with the right noun."""

        def logits_of(kind: str, known: Bool[Tensor, "image patch"]) -> Float[Tensor, "known word"]:
            states = self.near(images[known]) if kind == "near" else images[known]
            return self.scale * functional.linear(states, embeddings[getattr(self, kind + "_ids")])

        return naming_loss(PATCH_WORDS, labels, logits_of)

    def of_nouns(
        self, states: Float[Tensor, "image question width"], told: Int[Tensor, "image question kind"]
    ) -> Float[Tensor, ""]:
        """Return the loss for telling what a thing is like at the word that names it, inside of the language model.

        Args:
            states: The stream at that word.
            told: Numbers of words by kind, or `UNKNOWN`.
        """
        normed = functional.rms_norm(states, states.shape[-1:])
        loss = states.new_zeros(())
        for kind, head in enumerate(self.told):
            target = told[..., kind]
            known = target != UNKNOWN
            if known.any():
                loss = loss + functional.cross_entropy(head(normed[known]), target[known])
        return loss
