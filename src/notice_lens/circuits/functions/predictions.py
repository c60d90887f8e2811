"""What a label of a head predicts when the head is cut, with its sign.

The names are those of *What Do VLMs NOTICE?* (arXiv 2406.16320; its published version says object detection, object
suppression and outlier suppression), which gives them by looking at attention maps. Attention alone says where a head
looks, and not whether that does anything. Here a name has to predict as well what happens to the logit difference *l*
of the clean run, correct answer minus contrast, when the head's attention is cut:

| | its attention | cut | and the whole head |
| --- | --- | --- | --- |
| implicit segmentation | falls on the region | *inside* the region lowers *l* | ablated: *l* falls |
| object inhibition | shuns the region | *outside* the region raises *l* | ablated: *l* rises |
| outlier inhibition | shuns outliers | of what is left *at outliers* raises *l* | ablated: *l* falls |

- A head that segments hands on what it sees in the region, and the region is what the answer is about. Without it the
  right answer loses; cutting what it sees elsewhere must cost less.
- A head that inhibits the object works against what the object says. It does so by what it takes from elsewhere, since
  it hardly looks at the object. So without that, and without the head, the object weighs more, and the object speaks
  for the right answer; what little it takes from inside must matter less. The sign of the ablation is what tells it
  from a head that does its part by looking at the context.
- A head that inhibits outliers is useful, and is so because it keeps away from what would harm: what it still takes
  from outliers harms, unit of attention for unit more than what it takes from other patches outside the regions.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

SEGMENTATION, INHIBITION, OUTLIERS = "implicit segmentation", "object inhibition", "outlier inhibition"
KINDS = (SEGMENTATION, INHIBITION, OUTLIERS)
TESTS = ("cut", "contrast", "peers", "ablation")
SCORES = {SEGMENTATION: "segmentation", INHIBITION: "avoidance", OUTLIERS: "outlier"}
"""What the attention of a head with each label shows, as `score_maps` names it."""


class Changes(NamedTuple):
    """Changes of the logit difference when heads of one layer are cut, by pair.

    Attributes:
        inside: Attention cut inside the region, or at outliers.
        outside: Attention cut at all other patches, or at all others outside the regions.
        ablated: The head ablated.
    """

    inside: Float[np.ndarray, "pair head"]
    outside: Float[np.ndarray, "pair head"]
    ablated: Float[np.ndarray, "pair head"]

    def take(self, pairs: Float[np.ndarray, " pair"] | np.ndarray) -> "Changes":
        """Those of some pairs."""
        return Changes(*(own[pairs] for own in self))


def agreements(
    kind: str, changes: Changes, head: int, masses: tuple[np.ndarray, np.ndarray] | None = None
) -> Float[np.ndarray, "test pair"]:
    """What a label predicts to be above zero, by pair, in logits; the rows are `TESTS`.

    - `cut`: the change on the cut side, turned so that what is predicted is positive.
    - `contrast`: outside minus inside, the cut inside lowering *l* more (or raising it less) than the one outside. Of
      outliers inside minus outside, each per unit of attention, since a head that shuns them has little of it there.
    - `peers`: that minus its mean over the other heads of the layer. Any head loses something where the object is.
    - `ablation`: the change by ablation, turned likewise.

    Attention is cut as it is, and not per unit, where the label says that the head looks at one side and not the other:
    that it has more attention there is part of the claim.

    Args:
        kind: The label.
        changes: Of all heads of the layer.
        head: Its number in the layer.
        masses: Of outliers: mean attention at outliers and at other patches outside the regions, by head.
    """
    inside, outside, ablated = changes
    if kind == OUTLIERS:
        at, beside = masses if masses is not None else (np.ones(inside.shape[1]), np.ones(inside.shape[1]))
        contrast = inside / np.maximum(at, LEAST) - outside / np.maximum(beside, LEAST)
    else:
        contrast = outside - inside
    peers = contrast[:, head] - np.delete(contrast, head, axis=1).mean(1)
    cut = {SEGMENTATION: -inside, INHIBITION: outside, OUTLIERS: inside}[kind][:, head]
    ablation = (ablated if kind == INHIBITION else -ablated)[:, head]
    return np.stack([cut, contrast[:, head], peers, ablation])


LEAST = 1e-4
"""Share of attention below which a head has none to cut; per unit of less, rounding would speak."""
