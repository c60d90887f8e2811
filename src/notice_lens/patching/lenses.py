"""The logit lens: what the answer's logit is after each block, and which parts write it at the read-out.

    reading = patching.logit_lens(model, pairs)
    reading.answer_prob                    # pair, run, blocks, role
    reading.head_logit_diff                # pair, run, layer, head: direct logit attribution

The lens reads; it changes nothing. What it shows is where an answer can be read off, not what brings it about: patch
for that.
"""

import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from notice_lens.models.in_use import one_thread_at_a_time, outside_inference_mode
from notice_lens.pairs.roles import LAST
from notice_lens.patching.edits import check_model
from notice_lens.patching.engine.protocol import engine_of
from notice_lens.patching.options import Options
from notice_lens.patching.prepare import Prepared, prepare
from notice_lens.progress import bar

if TYPE_CHECKING:
    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs
    from notice_lens.pairs.noise import Noise

READ_RUNS = ("clean", "corrupt")


@one_thread_at_a_time
@outside_inference_mode
def logit_lens(
    model: "VisionLanguageModel",
    pairs: "MinimalPairs",
    *,
    roles: "str | list[str] | None" = None,
    corruption: "Literal['image', 'text'] | Noise" = "image",
    contrast: Literal["auto", "incorrect"] = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """Read answer and foil off the stream after each block, and split the logit difference among heads and MLPs.

    The stream goes through the final norm and the unembedding as it is, with nothing trained (the logit lens,
    nostalgebraist, 2020); of answers of several tokens the first is read.

    Args:
        model: A model whose blocks add to a stream that one final norm reads: any `HookedVLM`.
        pairs: Validated for it here.
        roles: Which roles and regions of the pairs to read at, several positions of one averaged; None takes all of
            them, the `image` tokens together, and `last`, from which the answer is given.
        corruption: `image`, `text` or `Noise(...)`: what the run `corrupt` is; of noise the mean over its draws.
        contrast: `auto` or `incorrect`: what the foil is, as of `sweep`.
        progress: Whether to show a bar.

    Returns:
        Dimensions `pair`, `run` (clean, corrupt), `blocks` (how many the stream has passed, from 0) and `role`:
        `answer_logit`, `foil_logit`, `answer_prob`, `foil_prob` (0 to 1), and `logit_diff`; NaN where a pair lacks the
        role. At `last`, in logits of the logit difference, with the final norm's scale given: `head_logit_diff` [pair,
        run, layer, head], `mlp_logit_diff` [pair, run, layer], `embed_logit_diff` and `rest_logit_diff` (biases,
        features added between blocks), which add up to the difference after the last block, before a soft cap.

    Raises:
        ValueError: The model has no such stream, or its unembedding is quantised; there is no such role; an option is
            invalid.
        PairsError: The pairs do not hold for this model.
    """
    check_model(model)
    options = Options.of({"corruption": corruption, "contrast": contrast, "progress": progress, "controls": ()})
    read_stream = engine_of(model).stream_reader(model)
    prepared = prepare(model, pairs, options)
    names = _roles(prepared, roles)
    _warn_of_equal_tokens(prepared)
    read: dict[str, list[Any]] = {}
    with bar(progress, "logit lens", total=len(prepared.pairs), unit="pairs") as shown:
        for number in range(len(prepared.pairs)):
            for name, values in _of_pair(prepared, read_stream, number, names).items():
                read.setdefault(name, []).append(values)
            shown.update(1)
    return _dataset(prepared, read, names)


def _warn_of_equal_tokens(prepared: Prepared) -> None:
    """Warn where answer and foil begin with the same token: the lens reads no other, so they never differ."""
    prompts, answers = prepared.pairs["clean_prompt"], (prepared.pairs["correct_answer"], prepared.foils)
    correct, foils = (prepared.model.answer_entries(prompts, own) for own in answers)
    same = int((correct == foils).sum())
    if same:
        warnings.warn(
            f"in {same} of {len(prompts)} pairs answer and foil begin with the same token, the only one that a lens "
            "reads: their logit difference is 0 throughout",
            stacklevel=5,
        )


def _roles(prepared: Prepared, asked: Any) -> list[str]:
    positions, stream = prepared.positions, prepared.model.cfg.prompt_stack
    if asked is None:
        return list(dict.fromkeys([*positions.names(stream), "image", LAST]))
    names = [asked] if isinstance(asked, str) else list(asked)
    positions.labels(tuple(names), stream, "roles", prepared.patchable(stream))
    return names


def _of_pair(prepared: Prepared, read_stream: Any, number: int, names: list[str]) -> dict[str, np.ndarray]:
    """Return what both runs of a pair say, by variable, [run, ...]; of noise the mean over its draws."""
    model, pair = prepared.model, prepared.pairs[number]
    said = (pair.correct_answer, prepared.foils[number])
    entries = tuple(int(model.answer_entries([pair.clean_prompt], [one])[0]) for one in said)
    length, stream = prepared.positions.tokens[number], model.cfg.prompt_stack
    groups = [prepared.positions.of(number, name, stream, length).tolist() for name in names]
    draws = [
        _arrays([read_stream(pair, setting, which, entries, groups) for which in READ_RUNS])
        for setting in prepared.settings
    ]
    return {name: np.mean([draw[name] for draw in draws], axis=0) for name in draws[0]}


def _arrays(runs: list[Any]) -> dict[str, np.ndarray]:
    found = {
        "answer_logit": [run.logits[..., 0] for run in runs],
        "foil_logit": [run.logits[..., 1] for run in runs],
        "answer_prob": [run.probs[..., 0] for run in runs],
        "foil_prob": [run.probs[..., 1] for run in runs],
        "head_logit_diff": [run.heads for run in runs],
        "mlp_logit_diff": [run.mlps for run in runs],
    }
    arrays = {name: np.stack([value.double().numpy() for value in values]) for name, values in found.items()}
    return arrays | {
        "embed_logit_diff": np.array([run.embed for run in runs]),
        "rest_logit_diff": np.array([run.rest for run in runs]),
    }


def _dataset(prepared: Prepared, read: dict[str, list[Any]], names: list[str]) -> xr.Dataset:
    dims = {
        "answer_logit": ("blocks", "role"),
        "head_logit_diff": ("layer", "head"),
        "mlp_logit_diff": ("layer",),
        "embed_logit_diff": (),
        "rest_logit_diff": (),
    }
    dims |= dict.fromkeys(("foil_logit", "answer_prob", "foil_prob"), dims["answer_logit"])
    variables = {
        name: (("pair", "run", *dims[name]), np.stack(values).astype(prepared.dtype)) for name, values in read.items()
    }
    found = xr.Dataset(variables, coords={"pair": prepared.columns["id"], "run": list(READ_RUNS), "role": names})
    numbered = {dim: np.arange(found.sizes[dim]) for dim in ("blocks", "layer", "head")}
    columns = {name: ("pair", values) for name, values in prepared.columns.items() if name != "id"}
    found = found.assign_coords({**numbered, **columns})
    found["logit_diff"] = found.answer_logit - found.foil_logit
    return found.assign_attrs({**prepared.provenance, "method": "logit lens"})
