"""Naming what is in each patch: what the vision stack learns first, by heads that are thrown away at the end."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from train_mini.blip.examples import PATCH_CLASSES
from train_mini.patches import naming_loss


class PatchHeads(nn.Module):
    """One linear head for each kind of `PATCH_CLASSES`, on the vision stack's output."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = nn.ModuleDict({kind: nn.Linear(width, len(words)) for kind, words in PATCH_CLASSES.items()})

    def forward(
        self, states: Float[Tensor, "image pos width"], labels: Int[Tensor, "image kind patch"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return the loss of naming patches, and the share of the patches of things whose shape is named right."""
        return naming_loss(PATCH_CLASSES, labels, lambda kind, known: self.heads[kind](states[:, 1:][known]))
