"""The behaviour filter: pairs that the model answers as intended.

What a patch restores means nothing where the clean run is wrong to begin with, or where the corruption does not change
the answer. The filter reads as much of an answer as the metrics do, so that no pair is dropped for words that no metric
looks at, and its reasons name the part of the answer that they are about.
"""

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

import torch

from notice_lens.errors import one_of
from notice_lens.models.in_use import one_thread_at_a_time, outside_inference_mode
from notice_lens.pairs.corruption import INPUTS_BY_CORRUPTION, Which, replaces_words
from notice_lens.pairs.io.records import MATCH_ANSWERS
from notice_lens.pairs.minimal_pairs import MinimalPairs
from notice_lens.pairs.problems import FIRST_TOKEN, Problem
from notice_lens.pairs.tokens import same_answer
from notice_lens.progress import bar

if TYPE_CHECKING:
    from notice_lens.models.protocol import Behaviour, VisionLanguageModel
    from notice_lens.pairs.minimal_pair import MinimalPair

AnswerPart = Literal["first_token", "whole"]

CLEAN_WRONG = "the clean run answers wrongly"
CLEAN_FIRST_TOKEN_ONLY = "the clean run's first token is right, its whole answer is not"
STILL_CORRECT = "the corrupted run still answers correctly"
STILL_BEGINS = "the corrupted run's answer still begins as the correct one does"
NOT_INCORRECT = "the corrupted run answers something else than the incorrect answer"
INCORRECT_FIRST_TOKEN_ONLY = "the corrupted run's first token is the incorrect answer's, its whole answer is not"
SAYS_NOTHING = "the corrupted run answers nothing"
JUDGED_BY: dict["Behaviour", str] = {
    "greedy": "the greedy answer",
    "likeliest": "the likeliest of a pair's answers",
    "choice": "the larger logit",
}
MAX_TOKENS = 20
"""The most tokens of a greedy answer that are read."""


class Reply(NamedTuple):
    """An answer of the model: as text, and as the ids of the tokens that it said."""

    text: str
    ids: list[int]


@one_thread_at_a_time
@outside_inference_mode
@torch.no_grad()
def behaviour_filter(
    model: "VisionLanguageModel",
    pairs: MinimalPairs,
    corruption: Literal["image", "text"] = "image",
    *,
    require: Literal["other", "any"] = "other",
    answer: AnswerPart | None = None,
    batch_size: int = 32,
    progress: bool = True,
) -> MinimalPairs:
    """Keep the pairs whose clean run is answered correctly and whose corrupted run is answered otherwise.

    The answer of a run is what the model's `cfg.behaviour` says: the greedy one, the likeliest of the pair's answers
    (captions), or that of the larger logit (matches). Where the answer to a corrupted prompt was not known, the model's
    own becomes `corrupt_answer`.

    Args:
        model: The model.
        pairs: Validated for it, or they are now.
        corruption: `image` or `text`; filter twice for both.
        require: For an image corruption, `other`: the corrupted run gives the incorrect answer; or `any`: anything but
            the correct one. For a text corruption it is always `any`.
        answer: How much of a greedy answer has to be the expected one. None reads as many tokens as the expected answer
            has, which is what the metrics read: the first token of answers of one token, all tokens of longer ones; the
            model may go on after them. `first_token` reads the first token alone. `whole` reads the greedy answer to
            its end. Captions and matches are always judged by what their metrics read, so there it stays None.
        batch_size: Pairs a forward.
        progress: Whether to show a progress bar.

    Returns:
        The pairs that are left. `dropped` has the others, `manifest` counts them by reason.

    Raises:
        ValueError: There is no such corruption, `require` or `answer`, or pairs without a corrupted prompt.
        PairsError: The pairs do not hold for this model.
    """
    _check(model, pairs, corruption, require, answer, batch_size)
    pairs = pairs.validate(model)
    other = not replaces_words(corruption) and require == "other"
    problems: list[Problem] = []
    own_answers: list[str] = []
    image, prompt = INPUTS_BY_CORRUPTION[corruption]
    with bar(progress, f"behaviour, {corruption} corruption", total=len(pairs), unit="pairs") as shown:
        for start in range(0, len(pairs), batch_size):
            part = pairs[start : start + batch_size]
            clean, corrupt = _replies(model, part), _replies(model, part, image, prompt)
            for pair, before, after in zip(part, clean, corrupt, strict=True):
                reason = _Judge(model, pair, answer).reason(before, after, other)
                if reason:
                    detail = (
                        f"clean run: {before.text!r} ({pair.correct_answer!r} is correct); "
                        f"corrupted run: {after.text!r}"
                    )
                    problems.append(Problem(pair.id, reason, detail))
            own_answers += [_as_read(model.tokenizer, after, answer) for after in corrupt]
            shown.update(len(part))
    if replaces_words(corruption):
        known = [given or own or None for given, own in zip(pairs["corrupt_answer"], own_answers, strict=True)]
        pairs = pairs.with_column("corrupt_answer", known)
    settings = {
        "corruption": corruption,
        "require": require,
        "answer": answer,
        "model": model.cfg.name_or_path,
        "of": len(pairs),
    }
    return pairs.without(problems, "behaviour_filter", settings)


def _check(
    model: "VisionLanguageModel", pairs: object, corruption: str, require: str, answer: str | None, batch_size: int
) -> None:
    if not isinstance(pairs, MinimalPairs):
        raise TypeError(f"behaviour_filter takes a model and then pairs; got {type(pairs).__name__} for the pairs")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: expected 1 or more")
    if corruption not in INPUTS_BY_CORRUPTION:
        raise ValueError(one_of("corruption", corruption, INPUTS_BY_CORRUPTION))
    if require not in ("other", "any"):
        raise ValueError(one_of("require", require, ("other", "any")))
    if answer is not None and answer not in get_args(AnswerPart):
        raise ValueError(one_of("answer", answer, get_args(AnswerPart)) + "; None reads what the metrics read")
    if answer is not None and model.cfg.behaviour != "greedy":
        raise ValueError(
            f"answer={answer!r} is for models that are judged by their greedy answer; this one is judged by "
            f"{JUDGED_BY[model.cfg.behaviour]}"
        )


class _Judge(NamedTuple):
    """The rules of the filter for one pair."""

    model: "VisionLanguageModel"
    pair: "MinimalPair"
    answer: AnswerPart | None

    def reason(self, before: Reply, after: Reply, require_other: bool) -> str | None:
        """Return why the pair does not pass; None where it does."""
        correct, incorrect = self.pair.correct_answer, self.pair.incorrect_answer
        if not self._says(before, correct):
            return CLEAN_FIRST_TOKEN_ONLY if self._begins(before, correct) else CLEAN_WRONG
        if self._says(after, correct):
            return STILL_CORRECT if same_answer(self.model.tokenizer, after.text, correct) else STILL_BEGINS
        if not after.ids:
            return SAYS_NOTHING
        if require_other:
            if self._says(after, incorrect):
                return None
            return INCORRECT_FIRST_TOKEN_ONLY if self._begins(after, incorrect) else NOT_INCORRECT
        return FIRST_TOKEN if self._begins(after, correct) else None

    def _says(self, reply: Reply, expected: str) -> bool:
        """Return whether the reply is an answer, as far as it is read."""
        if self.model.cfg.behaviour != "greedy" or self.answer == "whole":
            return same_answer(self.model.tokenizer, reply.text, expected)
        wanted = self.model.answer_ids(self.pair.clean_prompt, expected)
        read = 1 if self.answer == "first_token" else len(wanted)
        return reply.ids[:read] == wanted[:read]

    def _begins(self, reply: Reply, expected: str) -> bool:
        """Return whether the first token is that of an answer; a choice is not made in tokens."""
        if self.model.cfg.behaviour == "choice":
            return False
        return reply.ids[:1] == self.model.answer_ids(self.pair.clean_prompt, expected)[:1]


def _as_read(tokenizer: Any, reply: Reply, answer: AnswerPart | None) -> str:
    """Return the reply, or its first token alone where nothing else is read."""
    return tokenizer.decode(reply.ids[:1]).strip() if answer == "first_token" else reply.text


def answers(
    model: "VisionLanguageModel", pairs: MinimalPairs, image: Which = "clean", prompt: Which = "clean"
) -> list[str]:
    """Return the model's answers in one run over pairs; see `behaviour_filter` for what counts as an answer.

    Args:
        model: The model.
        pairs: Of its kind.
        image: `clean`, `corrupt` or `donor`.
        prompt: `clean`, `corrupt` or `donor`.
    """
    return [reply.text for reply in _replies(model, pairs, image, prompt)]


def _replies(
    model: "VisionLanguageModel", pairs: MinimalPairs, image: Which = "clean", prompt: Which = "clean"
) -> list[Reply]:
    if model.cfg.behaviour == "greedy":
        said = model.greedy_ids(pairs.prepare(model, image, prompt), MAX_TOKENS)
        texts = model.tokenizer.batch_decode(said, skip_special_tokens=True)
        return [Reply(text.strip(), ids) for text, ids in zip(texts, said, strict=True)]
    texts = (_likeliest if model.cfg.behaviour == "likeliest" else _matches)(model, pairs, image, prompt)
    prompts = pairs["clean_prompt"]
    return [Reply(text, model.answer_ids(prompt, text)) for prompt, text in zip(prompts, texts, strict=True)]


def _likeliest(model: "VisionLanguageModel", pairs: MinimalPairs, image: Which, prompt: Which) -> list[str]:
    candidates = ["correct", "incorrect", "corrupt"]
    known = torch.tensor([answer is not None for answer in pairs["corrupt_answer"]])
    # Where none is known, another one stands in its place and never wins.
    stand_in = [a or b for a, b in zip(pairs["corrupt_answer"], pairs["correct_answer"], strict=True)]
    filled = pairs.with_column("corrupt_answer", stand_in)
    scores = []
    for candidate in candidates:
        # Models that are judged so have it; see `protocol.Behaviour`.
        scores.append(cast("Any", model).answer_log_probs(filled.prepare(model, image, prompt, candidate)))
    scores[-1] = scores[-1].masked_fill(~known.to(scores[-1].device), -torch.inf)
    best = torch.stack(scores).argmax(0).tolist()
    return [pairs[number][f"{candidates[choice]}_answer"] for number, choice in enumerate(best)]


def _matches(model: "VisionLanguageModel", pairs: MinimalPairs, image: Which, prompt: Which) -> list[str]:
    names = (MATCH_ANSWERS["incorrect_answer"], MATCH_ANSWERS["correct_answer"])
    return [names[choice] for choice in model(pairs.prepare(model, image, prompt)).argmax(-1).tolist()]
