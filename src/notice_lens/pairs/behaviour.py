"""The behaviour filter: pairs that the model answers as they mean it to.

What a patch restores means nothing where the clean run is wrong to begin with, or where the corruption does not change
the answer.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from notice_lens.models.answers import answer_log_probs, greedy
from notice_lens.models.names import one_of
from notice_lens.pairs.minimal_pairs import MinimalPairs
from notice_lens.pairs.problems import FIRST_TOKEN, Problem
from notice_lens.pairs.records import MATCH_ANSWERS
from notice_lens.pairs.tokens import pieces, same_answer

if TYPE_CHECKING:
    from notice_lens.models import HookedBLIP

CLEAN_WRONG = "the clean run answers wrongly"
STILL_CORRECT = "the corrupted run still answers correctly"
NOT_INCORRECT = "the corrupted run answers something else than the incorrect answer"
SAYS_NOTHING = "the corrupted run answers nothing"
RUNS = {"image": ("corrupt", "clean"), "text": ("clean", "corrupt")}
"""Which image and which prompt the corrupted run has."""


@torch.no_grad()
def behaviour_filter(
    blip: Any,
    pairs: Any,
    corruption: str = "image",
    *,
    require: str = "other",
    batch_size: int = 32,
    progress: bool = True,
) -> MinimalPairs:
    """The pairs whose clean run is answered correctly and whose corrupted run is answered otherwise.

    What counts as an answer: the greedy one (`vqa`), the likeliest of the pair's answers (`caption`), the larger logit
    (`match`). Where the answer to a corrupted prompt was not known, the model's own becomes `corrupt_answer`.

    Args:
        blip: The model.
        pairs: Validated for it, or they are now.
        corruption: `image` or `text`; filter twice for both.
        require: For an image corruption, `other`: the corrupted run gives the incorrect answer; or `any`: anything but
            the correct one. For a text corruption it is always `any`.
        batch_size: Pairs a forward.
        progress: Whether to show a progress bar.

    Returns:
        The pairs that are left. `dropped` has the others, `manifest` counts them by reason.

    Raises:
        ValueError: There is no such corruption or `require`, or pairs without a corrupted prompt.
        PairsError: The pairs do not hold for this model.
    """
    from tqdm.auto import tqdm

    _check(pairs, corruption, require, batch_size)
    pairs = pairs.validate(blip)
    found: list[Problem] = []
    said: list[str] = []
    image, prompt = RUNS[corruption]
    with tqdm(total=len(pairs), desc=f"behaviour, {corruption} corruption", unit="pair", disable=not progress) as bar:
        for start in range(0, len(pairs), batch_size):
            part = pairs[start : start + batch_size]
            clean, corrupt = answers(blip, part), answers(blip, part, image, prompt)
            for pair, before, after in zip(part, clean, corrupt, strict=True):
                reason = _judge(pair, before, after, corruption == "image" and require == "other", blip.tokenizer)
                if reason:
                    detail = f"clean run: {before!r} ({pair.correct_answer!r} is correct); corrupted run: {after!r}"
                    found.append(Problem(pair.id, reason, detail))
            said += corrupt
            bar.update(len(part))
    if corruption == "text":
        known = [answer or own or None for answer, own in zip(pairs["corrupt_answer"], said, strict=True)]
        pairs = pairs.with_column("corrupt_answer", known)
    settings = {"corruption": corruption, "require": require, "model": blip.cfg.name_or_path}
    return pairs.without(found, "behaviour_filter", settings)


def _check(pairs: Any, corruption: str, require: str, batch_size: int) -> None:
    if not isinstance(pairs, MinimalPairs):
        raise TypeError(f"behaviour_filter takes a model and then pairs; got {type(pairs).__name__} for the pairs")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: expected 1 or more")
    if corruption not in RUNS:
        raise ValueError(one_of("corruption", corruption, RUNS))
    if require not in ("other", "any"):
        raise ValueError(one_of("require", require, ("other", "any")))


def _judge(pair: Any, before: str, after: str, require_other: bool, tokenizer: Any) -> str | None:
    """Why a pair does not pass; None where it does."""
    if not same_answer(tokenizer, before, pair.correct_answer):
        return CLEAN_WRONG
    if same_answer(tokenizer, after, pair.correct_answer):
        return STILL_CORRECT
    if not after:
        return SAYS_NOTHING
    if require_other:
        return None if same_answer(tokenizer, after, pair.incorrect_answer) else NOT_INCORRECT
    if pair.kind != "match" and pieces(tokenizer, after)[:1] == pieces(tokenizer, pair.correct_answer)[:1]:
        return FIRST_TOKEN
    return None


def answers(blip: "HookedBLIP", pairs: MinimalPairs, image: str = "clean", prompt: str = "clean") -> list[str]:
    """What the model answers in one run over pairs; see `behaviour_filter` for what counts as an answer.

    Args:
        blip: The model.
        pairs: Of its kind.
        image: `clean`, `corrupt` or `donor`.
        prompt: `clean`, `corrupt` or `donor`.
    """
    how: dict[str, Callable[..., list[str]]] = {"vqa": _greedy, "caption": _likeliest, "match": _matches}
    return how[blip.cfg.kind](blip, pairs, image, prompt)


def _greedy(blip: "HookedBLIP", pairs: MinimalPairs, image: str, prompt: str) -> list[str]:
    return greedy(blip, pairs.prepare(blip, image, prompt), max_new_tokens=20)


def _likeliest(blip: "HookedBLIP", pairs: MinimalPairs, image: str, prompt: str) -> list[str]:
    candidates = ["correct", "incorrect", "corrupt"]
    known = torch.tensor([answer is not None for answer in pairs["corrupt_answer"]])
    # Where none is known, another one stands in its place and never wins.
    stand_in = [a or b for a, b in zip(pairs["corrupt_answer"], pairs["correct_answer"], strict=True)]
    filled = pairs.with_column("corrupt_answer", stand_in)
    scores = []
    for candidate in candidates:
        inputs = filled.prepare(blip, image, prompt, candidate)
        assert inputs.target_ids is not None, "answers were given"
        scores.append(answer_log_probs(blip(inputs), inputs.target_ids))
    scores[-1] = scores[-1].masked_fill(~known.to(scores[-1].device), -torch.inf)
    best = torch.stack(scores).argmax(0).tolist()
    return [pairs[number][f"{candidates[choice]}_answer"] for number, choice in enumerate(best)]


def _matches(blip: "HookedBLIP", pairs: MinimalPairs, image: str, prompt: str) -> list[str]:
    names = (MATCH_ANSWERS["incorrect_answer"], MATCH_ANSWERS["correct_answer"])
    return [names[choice] for choice in blip(pairs.prepare(blip, image, prompt)).argmax(-1).tolist()]
