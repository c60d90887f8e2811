"""What a sweep needs of its model and its pairs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from notice_lens.patching.options import Options

if TYPE_CHECKING:
    from notice_lens.models import HookedBLIP


def refuse_hooks(blip: "HookedBLIP") -> None:
    """A sweep runs a forward pass of its own: hooks of the caller would be passed by, so they are refused."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    watched = [
        name or "the model itself"
        for name, module in blip.named_modules()
        if any(getattr(module, own) for own in kinds)
    ]
    if watched:
        raise ValueError(
            f"there are hooks on the model, at {', '.join(watched[:3])}: a sweep runs its own forward pass, which "
            "would pass them by; remove them first (blip.reset_hooks() removes those of hook points)"
        )


def refuse_fixed(options: Mapping[str, Any], fixed: Mapping[str, str], what: str) -> None:
    """Raises TypeError where an option is given that is decided already.

    Args:
        options: What was given.
        fixed: Why, by the name of what is decided.
        what: Whose options they are, with its article.
    """
    for name, why in fixed.items():
        if name in options:
            raise TypeError(f"{name} is no option of {what}: {why}")


def refuse_mismatched(options: Mapping[str, Any], why: str) -> None:
    """Raises ValueError where the mismatched donor is among the controls asked for."""
    controls = options.get("controls", "self")
    if "mismatched" in ([controls] if isinstance(controls, str) else controls):
        raise ValueError(why)


def check_pairs(pairs: Any, options: Options) -> None:
    """Raises where pairs are none, or lack what the corruption needs."""
    from notice_lens.pairs import MinimalPairs

    if not isinstance(pairs, MinimalPairs):
        raise TypeError(f"pairs are of type {type(pairs).__name__}; expected MinimalPairs, see MinimalPairs.from_rows")
    if not len(pairs):
        dropped = f" ({len(pairs.dropped)} were dropped, see pairs.dropped)" if len(pairs.dropped) else ""
        raise ValueError(f"there are no pairs to patch{dropped}")
    if options.corruption == "text":
        lacking = [name for name, value in zip(pairs["id"], pairs["corrupt_prompt"], strict=True) if value is None]
        if lacking:
            raise ValueError(
                f"{len(lacking)} of {len(pairs)} pairs have no corrupt_prompt, such as {lacking[0]!r}; "
                "symmetric_replacement writes them, corruption='image' needs none"
            )
