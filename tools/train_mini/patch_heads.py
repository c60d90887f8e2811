"""Naming what is in each patch: what the vision stack learns first, by heads that are thrown away at the end."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from train_mini.examples import NOTHING, PATCH_CLASSES, UNKNOWN


class PatchHeads(nn.Module):
    """One linear head for each kind of `PATCH_CLASSES`, on the vision stack's output."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(width, len(words)) for words in PATCH_CLASSES.values()])

    def forward(
        self, states: Float[Tensor, "image pos width"], labels: Int[Tensor, "image kind patch"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Sum over kinds of the mean cross-entropy, and the share of the patches of things whose shape is named right.

        Most patches show nothing; they count a twentieth, or the shapes would hardly be heard.
        """
        loss = states.new_zeros((), dtype=torch.float32)
        accuracy = loss
        for kind, (name, head) in enumerate(zip(PATCH_CLASSES, self.heads, strict=True)):
            target = labels[:, kind]
            known = target != UNKNOWN
            if not known.any():
                continue
            logits, target = head(states[:, 1:][known]).float(), target[known]
            if name == "shape":
                nothing = PATCH_CLASSES[name].index(NOTHING)
                weight = torch.ones(logits.shape[-1], device=logits.device)
                weight[nothing] = 0.05
                loss = loss + functional.cross_entropy(logits, target, weight=weight)
                accuracy = (logits.argmax(-1) == target)[target < nothing].float().mean().nan_to_num()
            else:
                loss = loss + functional.cross_entropy(logits, target)
        return loss, accuracy
