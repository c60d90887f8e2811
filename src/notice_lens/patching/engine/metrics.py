"""The read-out of a run in numbers: from logits to metrics, in float32 or better.

The *logit difference* is the correct answer's logit minus the foil's. Where an answer has several tokens, or the
model writes captions, it is the difference of their log-probabilities by teacher forcing (the sum over an answer's
tokens, without the closing `[SEP]`): for two answers of one token each the two are the same number. For a match it is
the logit of the correct answer minus that of the other.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from notice_lens.errors import one_of
from notice_lens.patching.engine.rows import Index

Metric = Literal["answer_prob", "prob_change", "logit_diff_change", "patching_effect", "kl", "accuracy"]
BUILT_IN_METRICS: tuple[Metric, ...] = get_args(Metric)
"""The metrics by name; `patching_effect` is made of `logit_diff_change` and the gap, when a sweep is put together."""
USUAL = BUILT_IN_METRICS[:5]
"""The default metrics of a sweep."""
TAKEN = (
    "pair", "site", "layer", "head", "role", "region", "position", "key_role", "key_region", "key_position", "variant",
    "task", "group", "kind", "clean_prompt", "correct_answer", "incorrect_answer", "contrast_answer", "clean_digest",
    "corrupt_digest", "noise_floor", "below_floor", "done", "n", "part", "node", "resampled_from",
)  # fmt: skip
"""Other variables of a result, and endings of the names of controls and baselines."""
ENDINGS = ("_mismatched", "_clean", "_corrupt")
Custom = Callable[[Tensor], Tensor]


class ReadOut(NamedTuple):
    """The metrics of some rows.

    Attributes:
        answer_prob: Probability of the correct answer, 0 to 1.
        logit_diff: The logit difference; of a teacher-forced answer its log-probability, see `combined`.
        kl: Kullback-Leibler divergence of the answer's first token from the base run to the row, in nats.
        custom: The caller's own metrics by name.
        accuracy: 1 where the model gives the correct answer, else 0, see `is_greedy`.
    """

    answer_prob: Float[Tensor, " row"]
    logit_diff: Float[Tensor, " row"]
    kl: Float[Tensor, " row"]
    custom: Mapping[str, Float[Tensor, " row"]]
    accuracy: Float[Tensor, " row"]

    def take(self, rows: Any) -> "ReadOut":
        """Return the metrics of some of the rows."""
        return ReadOut._each(lambda values: values[rows], self)

    @classmethod
    def joined(cls, parts: Sequence["ReadOut"]) -> "ReadOut":
        """Return the metrics of all rows, from those of parts of them."""
        return cls._each(lambda *values: torch.cat(values), *parts)

    @classmethod
    def _each(cls, change: Callable[..., Tensor], *read_outs: "ReadOut") -> "ReadOut":
        """Return a read-out whose metrics are each made of the same metric of some others."""
        custom = {name: change(*(one.custom[name] for one in read_outs)) for name in read_outs[0].custom}
        built_in = {
            name: change(*(getattr(one, name) for one in read_outs)) for name in cls._fields if name != "custom"
        }
        return cls(**built_in, custom=custom)


def check_metrics(metrics: Any) -> tuple[tuple[str, ...], dict[str, Custom]]:
    """Return the names of the requested built-in metrics, and the caller's own.

    Raises:
        ValueError: There is no metric of that name, or one of the caller's has a built-in name.
        TypeError: It is neither a name nor a function.
    """
    if callable(metrics):
        raise TypeError("metrics are names, or a mapping of names to functions; got a function without a name")
    if metrics is None or not len(metrics):
        raise ValueError(
            f"no metrics given; there are {', '.join(map(repr, BUILT_IN_METRICS))}, and your own functions"
        )
    own: dict[str, Any] = {}
    names: list[str] = []
    for name in [metrics] if isinstance(metrics, str) else metrics:
        function = metrics[name] if isinstance(metrics, Mapping) else None
        if function is None:
            if name not in BUILT_IN_METRICS:
                raise ValueError(
                    one_of("metric", name, BUILT_IN_METRICS) + "; a mapping of names to functions adds your own"
                )
            names.append(name)
        elif name in BUILT_IN_METRICS:
            raise ValueError(f"{name!r} is a metric already; choose another name")
        elif not isinstance(name, str) or not name:
            raise ValueError(f"metric {name!r}: a name is text")
        elif name in TAKEN or name.endswith(ENDINGS):
            raise ValueError(f"metric {name!r}: a result may have that itself; choose another name")
        elif not callable(function):
            raise TypeError(f"metric {name!r} has to be a function of logits, got {type(function).__name__}")
        else:
            own[name] = function
    return tuple(names), own


def precise(logits: Tensor) -> Tensor:
    """Return logits in float32, or as they are in float64."""
    return logits if logits.dtype == torch.float64 else logits.float()


def own_metric(name: str, function: Custom, logits: Tensor) -> Float[Tensor, " row"]:
    """Return one of the caller's metrics of each row.

    The function gets its own copy of the logits, and what it returns is copied: it may write into either, or keep them.

    Raises:
        TypeError: It returned no tensor, or one of complex numbers.
        ValueError: It did not return one finite number for each row.
    """
    value: Any = function(logits.clone())
    expected = f"{len(logits)} rows of logits {list(logits.shape)}; expected a tensor with one number a row"
    if not isinstance(value, Tensor):
        raise TypeError(f"metric {name!r} gave a {type(value).__name__} for {expected}")
    if value.is_complex() or value.layout != torch.strided:
        raise TypeError(f"metric {name!r} gave {value.dtype} ({value.layout}) for {expected}, real and dense")
    if value.shape != (len(logits),):
        raise ValueError(f"metric {name!r} gave {list(value.shape)} for {expected}")
    value = precise(value.detach()).clone()
    if wrong := int((~value.isfinite()).sum()):
        raise ValueError(
            f"metric {name!r} gave NaN or infinity for {wrong} of {expected}, since NaN means that nothing was "
            "measured; torch.nan_to_num makes numbers of them"
        )
    return value


def read_entries(
    logits: Float[Tensor, "row d_vocab"],
    log_probs: Float[Tensor, "row d_vocab"],
    correct: Int[Tensor, " row"],
    foil: Int[Tensor, " row"],
) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
    """Return probability of the correct answer and logit difference, where answers are entries of the logits.

    Args:
        logits: Of the answer's token, or of no match and match.
        log_probs: The same as log-probabilities.
        correct: The correct answer's entry.
        foil: The foil's.
    """
    own = precise(logits).gather(-1, torch.stack([correct, foil], -1))
    return log_probs.gather(-1, correct[:, None])[:, 0].exp(), own[:, 0] - own[:, 1]


def answer_log_prob(
    logits: Float[Tensor, "row answer_pos d_vocab"], target_ids: Int[Tensor, "row answer_pos"]
) -> Float[Tensor, " row"]:
    """Return the log-probability of an answer by teacher forcing, in nats; targets below 0 do not count."""
    counted = target_ids >= 0
    log_probs = precise(logits).log_softmax(-1).gather(-1, target_ids.clamp(min=0)[..., None])[..., 0]
    return (log_probs * counted).sum(-1)


def is_greedy(
    logits: Float[Tensor, "row answer_pos d_vocab"], target_ids: Int[Tensor, "row answer_pos"]
) -> Float[Tensor, " row"]:
    """Return 1 where greedy decoding begins with the answer, else 0: each token has the highest logit after the last.

    Targets below 0, such as the closing `[SEP]`, do not count.
    """
    highest = logits.argmax(-1) == target_ids
    return precise((highest | (target_ids < 0)).all(-1).to(logits.dtype))


def kl_from(
    base: Float[Tensor, "pair d_vocab"], patched: Float[Tensor, "row d_vocab"], pairs: Index
) -> Float[Tensor, " row"]:
    """Return the Kullback-Leibler divergence from the base run to the patched one: sum of p_base (log p_base - log p).

    In nats.

    Args:
        base: Log-probabilities of the base runs.
        patched: Of each row.
        pairs: The pair of each row.
    """
    found = torch.empty_like(patched[:, 0])
    # Pair by pair, as a product: neither probabilities nor base runs are copied for every row.
    for pair in np.unique(pairs):
        rows = torch.from_numpy(np.flatnonzero(pairs == pair)).to(patched.device)
        own = patched if len(rows) == len(patched) else patched[rows]
        found[rows] = (base[pair] - own) @ base[pair].exp()
    return found
