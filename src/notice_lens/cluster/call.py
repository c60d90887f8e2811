"""One call of a verb that is divided among workers, as data that can be sent to them, and the worker itself.

    call = Call("patch_heads", "mini-llava", {}, pairs_folder, 120, store, 8, {"positions": ["last"]}, threads=1)
    Worker(call).run(3)                    # in any process: part 3 of 8, into its own store in the folder `store`

A part that its worker finished leaves a *receipt* beside the store: the digest of the call. A part whose store is
complete and whose receipt is of the same call needs no worker. Every other part gets one, and there its store decides,
as in any sweep: it is begun, resumed, read, or refused as that of another sweep.
"""

import inspect
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from notice_lens import __version__
from notice_lens.errors import check_choice, in_words, one_of
from notice_lens.files import replacing
from notice_lens.models.by_name import BUNDLED, ModelOptions, load_model
from notice_lens.patching.options import Options
from notice_lens.patching.store.parts import name_of, pairs_done, pairs_of_part

if TYPE_CHECKING:
    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs

Verb = Literal[
    "sweep", "patch_heads", "patch_modules", "patch_paths", "run_variants", "split", "knockout", "ablate", "attribute"
]
DECIDED = {
    "store": "it is an argument of submit itself",
    "part": "submit divides the pairs; say parts=",
    "progress": "workers show no bars; wait(progress=...) does",
}
"""Options of verbs that are not the caller's here, with the reason."""
EXAMPLE_OF_MODEL = "a name, a folder, or a function without arguments that returns the hooked model"


@dataclass(frozen=True)
class Call:
    """A verb with all its arguments, divided into parts.

    Attributes:
        verb: Its name in `notice_lens.patching`.
        model: What a worker loads: a name, a folder, or a function.
        model_options: Of `from_pretrained`.
        pairs: The folder of the saved pairs.
        n_pairs: How many there are.
        store: The folder of the parts.
        parts: How many there are.
        options: Of the verb. A reference set is a folder of saved pairs.
        threads: Of torch in a worker.
        digest: Of everything that decides the numbers; empty where that cannot be told.
    """

    verb: str
    model: Any
    model_options: ModelOptions
    pairs: Path
    n_pairs: int
    store: Path
    parts: int
    options: dict[str, Any]
    threads: int
    digest: str = ""

    @property
    def folder(self) -> Path:
        """The folder for everything but numbers, beside the store: pairs, logs, receipts."""
        return folder_beside(self.store)

    def pairs_done(self, part: int) -> int:
        """Return how many pairs of a part are done; of an attribution, at all of its sites."""
        name = name_of((part, self.parts))
        if self.verb != "attribute":
            return pairs_done(self.store / name)
        sites = [one / name for one in self.store.iterdir() if (one / name).is_dir()] if self.store.is_dir() else []
        return min(map(pairs_done, sites), default=0)

    def size(self, part: int) -> int:
        """Return how many pairs a part has."""
        return len(pairs_of_part(self.n_pairs, (part, self.parts)))

    def receipt(self, part: int) -> Path:
        """Return the file that says whose a finished part is."""
        return self.folder / f"{name_of((part, self.parts))}.receipt"

    def is_finished(self, part: int) -> bool:
        """Return whether a part is complete, and a worker finished it for this very call."""
        receipt = self.receipt(part)
        known = bool(self.digest) and receipt.is_file() and receipt.read_text(encoding="utf-8") == self.digest
        return known and self.pairs_done(part) == self.size(part)

    def error_file(self, part: int) -> Path:
        """Return the file with the traceback of a part, which is there if it raised something."""
        return self.folder / f"{name_of((part, self.parts))}.error.txt"

    def load_model(self) -> "VisionLanguageModel":
        """Return the model."""
        return load_model(str(self.model), **self.model_options) if _is_name(self.model) else self.model()


class Worker:
    """Computes parts of a call, one after another; the model and the pairs are loaded once.

    Args:
        call: The call.
    """

    def __init__(self, call: Call) -> None:
        self.call = call

    def run(self, part: int) -> str:
        """Compute a part, and return what was raised, in a line; empty if nothing was.

        The traceback goes to `Call.error_file`.
        """
        import torch

        call, log = self.call, self.call.error_file(part)
        if call.is_finished(part):  # by a job that was interrupted later
            return ""
        log.unlink(missing_ok=True)
        try:
            torch.set_num_threads(call.threads)
            verb_of(call.verb)(
                self._model, self._pairs, store=call.store, part=(part, call.parts), progress=False, **self._options
            )
        except Exception as error:
            log.write_text(traceback.format_exc(), encoding="utf-8")
            return f"{type(error).__name__}: {in_words(error)}"
        with replacing(call.receipt(part)) as beside:
            beside.write_text(call.digest, encoding="utf-8")
        return ""

    @cached_property
    def _model(self) -> "VisionLanguageModel":
        return self.call.load_model()

    @cached_property
    def _pairs(self) -> "MinimalPairs":
        return saved_pairs(self.call.pairs)

    @cached_property
    def _options(self) -> dict[str, Any]:
        options = self.call.options
        reference = options.get("reference")
        return options if reference is None else {**options, "reference": saved_pairs(reference)}


def folder_beside(store: Path) -> Path:
    """Return the folder beside a store for what its workers need and write."""
    return store.with_name(store.name + ".cluster")


def saved_pairs(folder: Path) -> "MinimalPairs":
    """Return saved pairs."""
    from notice_lens.pairs import MinimalPairs

    return MinimalPairs.load(folder)


def verb_of(name: str) -> Callable[..., Any]:
    """Return a verb by its name."""
    from notice_lens import patching

    return getattr(patching, name)


def check_verb(name: Any) -> None:
    """Raise ValueError if no verb of that name computes parts."""
    check_choice("verb that computes parts", getattr(name, "__name__", name), get_args(Verb))
    if not isinstance(name, str):
        raise TypeError(f"verb={name!r}: expected its name, {name.__name__!r}")


def check_options(verb: str, options: Mapping[str, Any]) -> None:
    """Raise TypeError for an option that the verb does not have, before anything is sent to a worker."""
    signature = inspect.signature(verb_of(verb)).parameters.values()
    named = [one.name for one in signature if one.kind is not one.VAR_KEYWORD][2:]
    valid = dict.fromkeys([*named, *(field.name for field in fields(Options))])
    for name in options:
        if name in DECIDED:
            raise TypeError(f"{name} is not an option here: {DECIDED[name]}")
        if name not in valid:
            raise TypeError(one_of(f"option of {verb}", name, (one for one in valid if one not in DECIDED)))


def check_model_source(model: Any) -> None:
    """Raise TypeError for what no worker can load."""
    if hasattr(model, "hook_dict"):
        raise TypeError(f"model is in the memory of this process, and workers load their own; give {EXAMPLE_OF_MODEL}")
    if not _is_name(model) and not callable(model):
        raise TypeError(f"model is of type {type(model).__name__}; expected {EXAMPLE_OF_MODEL}")


def as_sent(model: Any) -> Any:
    """Return a model's source as workers can use it, whatever folder they start in."""
    if _is_name(model) and str(model) not in BUNDLED and Path(model).exists():
        return str(Path(model).resolve())
    return model if callable(model) else str(model)


def digest_of(**decides: Any) -> str:
    """Return a digest of everything that decides the numbers of a call; empty where that cannot be told.

    Of a model's folder these are the names, sizes and times of its files.
    """
    from notice_lens.patching.identity import code_digest

    model = decides["model"]
    if isinstance(model, str) and model not in BUNDLED and Path(model).is_dir():
        files = sorted(path for path in Path(model).iterdir() if path.is_file())
        decides["files"] = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return code_digest({"version": __version__, **{name: _by_content(value) for name, value in decides.items()}})


def _by_content(value: Any) -> Any:
    """Return options with their pairs as fingerprints."""
    if isinstance(value, Mapping):
        return {str(name): _by_content(item) for name, item in value.items()}
    return getattr(value, "fingerprint", value)


def _is_name(model: Any) -> bool:
    return isinstance(model, str | PathLike)
