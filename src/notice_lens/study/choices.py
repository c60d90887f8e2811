"""The choices that a study fixes before it runs, and the checks before anything is patched.

Role, metric and rules are chosen before effects are seen; chosen after, the best of many is taken for the truth.
Invalid settings raise before any patching starts.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from notice_lens.circuits.important import Rules
from notice_lens.errors import one_of
from notice_lens.pairs import MinimalPairs, Noise
from notice_lens.pairs.corruption import CORRUPTIONS
from notice_lens.pairs.roles import ALL, CORRECT, as_mapping, missing_role
from notice_lens.patching import Site
from notice_lens.patching.results import DIRECTIONS

if TYPE_CHECKING:
    from notice_lens.models.protocol import VisionLanguageModel

METRIC = "logit_diff_change"
"""The metric of all statistics: logits see heads that argue against the answer, probabilities saturate."""
FEWEST_FLIPS = 10_000


@dataclass(frozen=True)
class Choices:
    """The choices of a study, fixed before it runs.

    Attributes:
        site: Whose heads are patched; empty is the model's default, its attention from words to the image.
        corruptions: Of `image`, `text`, and `Noise(...)` as a baseline: it is compared with, but is not a condition.
        role: At which words effects are read; `all` patches all positions at once. None takes the model's: of a chat
            model `last`, where its answer is read out; of BLIP `correct`, or `all` where the questions of a task have
            no such role (`resolved`).
        direction: `denoise` or `noise`.
        control: Whether heads are ranked by matched minus mismatched; None: under an image corruption, where there are
            donors. False where pairs share donors and these would link them all.
        smallest_effect: The smallest effect of interest, as a share of what `share_of` names.
        alpha: Error rate over heads, between 0 and 1.
        at_least: In how many conditions a universal head matters; `all`, or a number.
        filtered: Whether pairs that the model does not answer are dropped.
        labelled: Heads of each task that are cut to see what they do, at most.
        shown: Pairs of each condition in the report.
        random_orders: Random orders of heads beside the curve of what the best heads carry together.
        seed: Of all that is drawn.

    Raises:
        ValueError: A choice is invalid, or no condition would be left.
    """

    site: str = ""
    corruptions: tuple[Any, ...] = CORRUPTIONS
    role: str | None = None
    direction: str = "denoise"
    control: bool | None = None
    smallest_effect: float = 0.02
    alpha: float = 0.05
    at_least: int | Literal["all"] = "all"
    filtered: bool = True
    labelled: int = 8
    shown: int = 24
    random_orders: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        Rules(smallest_effect=self.smallest_effect, alpha=self.alpha, seed=self.seed)
        if self.direction not in DIRECTIONS:
            raise ValueError(one_of("direction", self.direction, DIRECTIONS))
        for one in self.corruptions:
            if not isinstance(one, Noise) and one not in CORRUPTIONS:
                raise ValueError(one_of("corruption", one, CORRUPTIONS) + ", or Noise(...)")
        names = [corruption_name(one) for one in self.corruptions]
        if len(set(names)) < len(names):
            raise ValueError(f"corruptions {', '.join(names)} asked for; expected each once")
        if not {*CORRUPTIONS} & set(names):
            raise ValueError("noise is a baseline beside corruptions of images or questions: ask for one of these too")

    def resolved(self, tasks: Mapping[str, MinimalPairs], model: "VisionLanguageModel | None" = None) -> "Choices":
        """Return these choices with a role: one for all tasks, so that their heads can be compared.

        Args:
            tasks: Pairs by task.
            model: Whose default site and role are taken where none is chosen; None takes BLIP's role.
        """
        if model is not None:
            positions = model.cfg.default_positions
            role = self.role if isinstance(positions, str) or self.role is not None else positions[0]
            return replace(self, site=self.site or model.cfg.default_site, role=role).resolved(tasks)
        if self.role is not None:
            return self
        named = all(any(CORRECT in as_mapping(roles) for roles in pairs["roles"]) for pairs in tasks.values())
        return replace(self, role=CORRECT if named else ALL)

    def rules(self, role: str | None, heads: int, conditions: int = 1) -> dict[str, Any]:
        """Return the options of the statistics.

        Args:
            role: At which effects are read.
            heads: That the error rate is over.
            conditions: That a universal head could be in.
        """
        # Enough sign flips for the smallest p to pass false-discovery control over all heads.
        needed = math.ceil(heads * conditions / self.alpha)
        shared = {"smallest_effect": self.smallest_effect, "alpha": self.alpha, "seed": self.seed}
        read = {"role": role, "metric": METRIC, "control": self.control}
        return {**read, "n_permutations": max(FEWEST_FLIPS, needed), **shared}


def corruption_name(corruption: Any) -> str:
    """Return `image`, `text` or `noise`."""
    return "noise" if isinstance(corruption, Noise) else str(corruption)


def check_before(model: "VisionLanguageModel", tasks: Mapping[str, MinimalPairs], choices: Choices) -> Site:
    """Return the site, if the study can be carried out on it.

    Args:
        model: The model.
        tasks: Pairs by task.
        choices: Of the study.

    Raises:
        ValueError: There are no pairs, no such site or role, or more conditions are required than there are.
        PairsError: Pairs do not hold for this model.
    """
    if not tasks:
        raise ValueError("no pairs: a study needs those of one task at least")
    site = Site.of(model, choices.site, positions=ALL if choices.role == ALL else "roles")
    if site.heads is None:
        raise ValueError(f"site {choices.site!r} has no heads; one that has some is {model.cfg.default_site}")
    conditions = len(tasks) * sum(one in CORRUPTIONS for one in choices.corruptions)
    if choices.at_least != "all" and (not isinstance(choices.at_least, int) or not 1 <= choices.at_least <= conditions):
        raise ValueError(
            f"at_least={choices.at_least!r}: expected 'all' or a number from 1 to the {conditions} conditions asked for"
        )
    for task, pairs in tasks.items():
        spans = pairs.validate(model).token_spans(model)
        known = list(dict.fromkeys(role for own in spans for role in own))
        if choices.role not in (ALL, *known):
            raise ValueError(missing_role(str(choices.role), known, f"role of the task {task!r}"))
    return site
