"""From the logits of rows to their metrics: whose answer is read, where, and against which foil."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from notice_lens.patching.engine.metrics import (
    Custom,
    ReadOut,
    answer_log_prob,
    is_greedy,
    kl_from,
    own_metric,
    precise,
    read_entries,
)
from notice_lens.patching.engine.rows import Index

Entries = Callable[[], tuple[Tensor, Tensor]]


class AnswerReading:
    """The answers of some pairs, as their logits are read.

    Args:
        entries: Gives the entries of the logits that stand for the correct answer and for the foil, [pair] each; asked
            for where no answer is teacher-forced.
        targets: The token that each logit has to predict where an answer is teacher-forced, [pair, answer_pos]; below 0
            where none is asked for. None where the first token's logits tell both answers.
        custom: The caller's own metrics by name.
    """

    def __init__(
        self, entries: Entries, targets: Int[Tensor, "pair answer_pos"] | None, custom: Mapping[str, Custom]
    ) -> None:
        self._look_up, self.targets, self.custom = entries, targets, custom

    @cached_property
    def entries(self) -> tuple[Tensor, Tensor]:
        """The entries of the logits that stand for the correct answer and for the foil, [pair] each."""
        return self._look_up()

    def metrics(self, logits: Tensor, pairs: Index, base: Tensor | None = None) -> ReadOut:
        """Return the metrics of rows.

        Args:
            logits: [row, answer_pos, d_vocab], or [row, 2] of matches.
            pairs: The pair of each row.
            base: Log-probabilities of the base runs' first tokens [pair, d_vocab]; None leaves `kl` at 0.
        """
        index = torch.from_numpy(pairs).to(logits.device)
        custom = {name: own_metric(name, function, logits) for name, function in self.custom.items()}
        first = self.first_token(logits, pairs)
        kl = torch.zeros_like(first[:, 0]) if base is None else kl_from(base, first, pairs)
        if self.targets is not None:
            targets = self.targets.to(index.device)[index]
            log_prob = answer_log_prob(logits, targets)
            return ReadOut(
                answer_prob=log_prob.exp(),
                logit_diff=log_prob,
                kl=kl,
                custom=custom,
                accuracy=is_greedy(logits, targets),
            )
        correct, foils = (own.to(index.device) for own in self.entries)
        at_answer = logits if logits.ndim == 2 else logits[:, -1]
        accuracy = is_greedy(at_answer[:, None], correct[index][:, None])
        answer_prob, logit_diff = read_entries(at_answer, first, correct[index], foils[index])
        return ReadOut(answer_prob=answer_prob, logit_diff=logit_diff, kl=kl, custom=custom, accuracy=accuracy)

    def first_token(self, logits: Tensor, pairs: Index) -> Float[Tensor, "row d_vocab"]:
        """Return log-probabilities of the answer's first token; of a match, of no match and match."""
        if logits.ndim == 2:
            return precise(logits).log_softmax(-1)
        if self.targets is None:
            return precise(logits[:, -1]).log_softmax(-1)
        start = (self.targets.to(logits.device)[torch.from_numpy(pairs).to(logits.device)] >= 0).int().argmax(-1)
        return precise(logits[torch.arange(len(start), device=start.device), start]).log_softmax(-1)


def combined(read_outs: Sequence[ReadOut]) -> ReadOut:
    """Return one read-out of both answers: probability and accuracy of the correct one, and the logit difference."""
    if len(read_outs) == 1:
        return read_outs[0]
    correct, foil = read_outs
    return correct._replace(logit_diff=correct.logit_diff - foil.logit_diff)
