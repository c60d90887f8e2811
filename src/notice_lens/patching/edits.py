"""Sites and edits. A site is checked against its model when it is built, so that no edit can miss.

A `Site` names a whole family of activations, which a sweep patches one after the other. An `Edit` is one replaced
activation of a variant, as the caller writes it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from notice_lens.errors import one_of
from notice_lens.models.bridge import refuse_bridge
from notice_lens.models.protocol import axes
from notice_lens.pairs.roles import ALL, CORRECT

if TYPE_CHECKING:
    from notice_lens.models.protocol import AnyStackConfig, VisionLanguageModel
    from notice_lens.pairs import MinimalPairs

OF_KEYS = ("hook_k", "hook_v", "hook_rot_k")
"""Activations with as many heads as there are of keys and values."""
WITH_HEADS = (*OF_KEYS, "hook_q", "hook_rot_q", "hook_z", "hook_result", "hook_attn_scores", "hook_pattern")
POSITIONS = ("each", "all", "roles", "regions")
EDIT_SOURCES = ("other", "zero", "mean", "resample", "donor")
"""Where an edit may take its values from."""


def check_model(model: Any) -> None:
    """Raise TypeError if the model is something else, such as the pairs."""
    refuse_bridge(model)
    if not hasattr(model, "stack"):
        if hasattr(model, "state_dict"):
            from notice_lens.models.blip.weights import refuse_wrapped

            refuse_wrapped(model)
        raise TypeError(
            f"the model comes first: expected a HookedBLIP or a HookedVLM, got {type(model).__name__}; of a model of "
            "transformers, HookedVLM.from_hf(model, processor) makes one"
        )


@dataclass(frozen=True)
class Edit:
    """One edit of a variant: a site with an index and a source.

    Attributes:
        site: Stack and activation, such as `text.cross_attn.z`.
        layer: The layer; None for embeddings.
        head: The head; None for all.
        positions: A role, a region, a number, several of them, or `all`. For `k` and `v` these are positions of keys,
            in cross-attention those of the stack that is read; for everything else those of the site's own stack.
        keys: The same for the keys of scores and patterns.
        source: `other` (the run that is patched in), `donor`, `zero`, `mean` or `resample` (another pair's clean run).
    """

    site: str
    layer: Any = None
    head: Any = None
    positions: Any = "all"
    keys: Any = "all"
    source: Any = "other"


@dataclass(frozen=True)
class Site:
    """The activations that a sweep patches, one after the other. Built by `Site.of`, which checks them.

    Attributes:
        stack: One of the model's stacks: `vision`, `text` and `decoder` in BLIP, `vision`, `projector` and `language`
            on hosted models.
        activation: The hook point without stack and layer, such as `cross_attn.hook_z`.
        layers: The layers, one at a time; empty for embeddings.
        heads: The heads, one at a time; None for all heads at once, or an activation without heads.
        positions: `each` position separately, `all` at once, `roles` (tokens) or `regions` (image positions) at once,
            or some of them by number or name. Of `hook_k` and `hook_v` the keys, of scores and patterns the queries.
        keys: The same for the keys of scores and patterns; None elsewhere.
    """

    stack: str
    activation: str
    layers: tuple[int, ...]
    heads: tuple[int, ...] | None
    positions: str | tuple[int, ...] | tuple[str, ...]
    keys: str | tuple[int, ...] | tuple[str, ...] | None = None

    @classmethod
    def of(
        cls,
        model: "VisionLanguageModel",
        name: Any,
        *,
        layers: Any = None,
        heads: Any = "each",
        positions: Any = None,
        keys: Any = None,
        pairs: "MinimalPairs | None" = None,
    ) -> "Site":
        """Return a site of a model, checked.

        Args:
            model: The model.
            name: Stack and activation: `text.cross_attn` (its z), `text.cross_attn.pattern`, `vision.resid_pre`,
                `decoder.mlp.post`; the `hook_` of the last part may be left out. A `Site` is checked again.
            layers: One, several, or None for all.
            heads: `each`, one, several, or None for all at once.
            positions: See `Site`; None takes the model's own choice for tokens (`roles` in BLIP, `last` where the
                answer follows the prompt in one row), and `all` elsewhere.
            keys: For scores and patterns; None takes `all`.
            pairs: The pairs that are to be patched. Where their questions have no role `correct`, since they do not
                contain their answer, None takes `all` for tokens too.

        Raises:
            ValueError: There is no such stack, activation, layer, head or kind of position; the message names the
                nearest that there is.
            TypeError: `model` is not a model.
        """
        check_model(model)
        if isinstance(name, Site):
            return cls._checked(model, name, (layers, heads, positions, keys))
        stack, activation = _parse(model, str(name))
        cfg = model.stack(stack).cfg
        embedded = f"{stack}.{activation}" in model.hook_dict
        axis, key_axis = axes(model.cfg, stack, activation)
        kinds = model.cfg.streams
        default = _default_positions(model, kinds[axis], pairs)
        with_heads = activation.rpartition(".")[2] in WITH_HEADS
        if keys is not None and key_axis is None:
            raise ValueError(f"keys are for scores and patterns; {stack}.{activation} has positions alone")
        if embedded and layers is not None:
            raise ValueError(
                f"layers {layers!r} asked for; {stack}.{activation} is before the first layer, and has none"
            )
        if not with_heads and heads is not None and heads != "each":
            raise ValueError(f"heads {heads!r} asked for; {stack}.{activation} has no heads")
        return cls(
            stack,
            activation,
            () if embedded else _numbers("layer", layers, _layers_with(model, stack, activation), stack),
            None if heads is None or not with_heads else _heads(cfg, activation, heads, stack),
            _positions(default if positions is None else positions, kinds[axis], f"{stack}.{activation}"),
            None
            if key_axis is None
            else _positions("all" if keys is None else keys, kinds[key_axis], f"keys of {stack}.{activation}"),
        )

    @classmethod
    def _checked(cls, model: "VisionLanguageModel", site: "Site", given: Any) -> "Site":
        """Return a site that was built before, checked again: it may be of another model."""
        if given != (None, "each", None, None):
            raise ValueError(f"{site.name} is a Site already; give layers, heads, positions and keys when it is built")
        with_heads = site.activation.rpartition(".")[2] in WITH_HEADS
        return cls.of(
            model,
            site.name,
            layers=site.layers or None,
            heads=site.heads if with_heads else "each",
            positions=site.positions,
            keys=site.keys,
        )

    @property
    def name(self) -> str:
        """Stack and activation."""
        return f"{self.stack}.{self.activation}"

    def hook(self, layer: int | None) -> str:
        """Return the hook point in a layer; None for embeddings."""
        return self.name if layer is None else f"{self.stack}.blocks.{layer}.{self.activation}"


def _default_positions(model: "VisionLanguageModel", kinds: Sequence[str], pairs: Any) -> Any:
    """Return the positions that are patched by default."""
    if "prompt" not in kinds:
        return ALL
    own = model.cfg.default_positions
    return ALL if own == "roles" and not _name_their_answer(pairs) else own


def _name_their_answer(pairs: Any) -> bool:
    """Return whether any of the pairs has a role `correct`; also where nothing is known of pairs."""
    columns = getattr(getattr(pairs, "dataset", None), "column_names", ())
    if "roles" not in columns or not len(pairs):
        return True
    return any(span["role"] == CORRECT for spans in pairs["roles"] for span in spans or ())


def _parse(model: "VisionLanguageModel", name: str) -> tuple[str, str]:
    stack, _, rest = name.partition(".")
    if stack not in model.cfg.stacks:
        raise ValueError(f"site {name!r}: " + one_of("stack", stack, model.cfg.stacks))
    valid = model.activations(stack)
    short = {leaf.replace("hook_", ""): leaf for leaf in valid}
    short |= {module: f"{module}.hook_z" for module in ("attn", "cross_attn") if f"{module}.hook_z" in valid}
    found = short.get(rest.replace("hook_", ""))
    if found is None:
        raise ValueError(f"site {name!r}: " + one_of(f"activation of `{stack}`", rest, short))
    return stack, found


def _layers_with(model: "VisionLanguageModel", stack: str, activation: str) -> list[int]:
    """Return the layers that have an activation: cross-attention may be in some of them alone."""
    n_layers = model.stack(stack).cfg.n_layers
    return [layer for layer in range(n_layers) if f"{stack}.blocks.{layer}.{activation}" in model.hook_dict]


def _heads(cfg: "AnyStackConfig", activation: str, heads: Any, stack: str) -> tuple[int, ...]:
    """Return heads of queries, or of keys and values as far as these have their own number."""
    of_keys = activation.rpartition(".")[2] in OF_KEYS
    what = "key-value head" if of_keys and cfg.n_key_value_heads != cfg.n_heads else "head"
    each = range(cfg.n_key_value_heads if of_keys else cfg.n_heads)
    return _numbers(what, None if isinstance(heads, str) and heads == "each" else heads, each, stack)


def _numbers(what: str, asked: Any, valid: Sequence[int], stack: str) -> tuple[int, ...]:
    """Layers or heads, each once, in the requested order."""
    if asked is None:
        return tuple(valid)
    single = isinstance(asked, str) or not isinstance(asked, Iterable)
    several = [_plain(number) for number in ([asked] if single else asked)]
    for number in several:
        if not isinstance(number, int) or isinstance(number, bool) or number not in valid:
            raise ValueError(f"{what} {number!r} asked for; `{stack}` has {what}s {listed(valid)}")
    if len(set(several)) < len(several) or not several:
        raise ValueError(f"{what}s {several} asked for; expected one or more of them, each once")
    return tuple(several)


def listed(numbers: Sequence[int]) -> str:
    """Return numbers in words: `0 to 11`, or one after the other where some are left out."""
    if list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))


def _positions(asked: Any, kinds: Sequence[str], what: str) -> Any:
    """Return a specification of positions, checked against the kinds that there are."""
    these = f"these are {' and '.join('token' if kind == 'prompt' else kind for kind in kinds)} positions"
    if isinstance(asked, str):
        if asked not in POSITIONS:
            listed = f"; a role or region by its name goes into a list: [{asked!r}]"
            raise ValueError(f"{what}: " + one_of("kind of positions", asked, POSITIONS) + listed)
        if asked == "roles" and "prompt" not in kinds:
            raise ValueError(f"{what}: roles are words of the question, and {these}")
        if asked == "regions" and "image" not in kinds:
            raise ValueError(f"{what}: regions are parts of the image, and {these}")
        return asked
    several = tuple(_plain(one) for one in (asked if isinstance(asked, Iterable) else [asked]))
    if not several or len(set(several)) < len(several):
        raise ValueError(f"{what}: positions {list(several)} asked for; expected one or more, each once")
    names = [isinstance(one, str) for one in several]
    if any(names) != all(names) or not all(isinstance(one, int | str) and not isinstance(one, bool) for one in several):
        raise ValueError(f"{what}: positions {list(several)} asked for; expected numbers, or names of roles or regions")
    if all(names) and not {"prompt", "image"} & set(kinds):
        raise ValueError(f"{what}: positions of an answer have no names; give numbers")
    if not all(names) and min(several) < 0:
        raise ValueError(f"{what}: position {min(several)} asked for; they count from 0")
    return several


def _plain(value: Any) -> Any:
    """A number of NumPy as Python's."""
    return value.item() if isinstance(value, np.generic) else value
