"""Checks of two inputs that are patched into each other, and of the model that runs them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from notice_lens.models.offloading import device_of
from notice_lens.models.vlm.families import image_token_id

OWNERS = ("transformers", "accelerate", "torch")
"""Packages that keep their own hooks on a model; these are part of the model."""


def ready_for(hf: nn.Module, inputs: Any) -> dict[str, Any]:
    """Return a processor's inputs on the model's device, floats in its dtype.

    Raises:
        TypeError: They are no mapping, or there are no token ids among them.
        ValueError: They are not of one example.
    """
    if not isinstance(inputs, Mapping) or not isinstance(inputs.get("input_ids"), Tensor):
        what = sorted(map(str, inputs)) if isinstance(inputs, Mapping) else type(inputs).__name__
        raise TypeError(
            "expected a mapping with a tensor `input_ids`, as processor(text=..., images=..., return_tensors='pt') "
            f"gives it; got {what}"
        )
    shape = list(inputs["input_ids"].shape)
    if len(shape) != 2 or shape[0] != 1:
        raise ValueError(f"input_ids of shape {shape}; expected those of one example, [1, pos]: loop over examples")
    device = device_of(hf.get_input_embeddings())  # pyright: ignore[reportCallIssue]
    dtype = next(one.dtype for one in hf.parameters() if one.is_floating_point())

    def moved(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(device, dtype if value.is_floating_point() else None)

    return {name: moved(value) for name, value in inputs.items() if value is not None}


def check_inputs(hf: Any, clean: Mapping[str, Any], corrupted: Mapping[str, Any]) -> None:
    """Check that positions of two inputs correspond.

    Raises:
        ValueError: They have other names, other numbers of tokens, or the image at other positions.
    """
    if sorted(clean) != sorted(corrupted):
        raise ValueError(
            f"the clean inputs have {sorted(clean)}, the corrupted ones {sorted(corrupted)}; expected both as one "
            "processor gives them"
        )
    ids = [inputs["input_ids"][0] for inputs in (clean, corrupted)]
    image = image_token_id(hf.config)
    is_image = [one == image if image is not None else torch.zeros_like(one, dtype=torch.bool) for one in ids]
    counts = [int(one.sum()) for one in is_image]
    if counts[0] != counts[1]:
        raise ValueError(
            f"the clean inputs have {counts[0]} image tokens, the corrupted ones {counts[1]}, so their positions do "
            "not correspond: resize both pictures to one size before the processor"
        )
    if len(ids[0]) != len(ids[1]):
        raise ValueError(
            f"the clean inputs have {len(ids[0])} positions, the corrupted ones {len(ids[1])}, so they do not "
            "correspond: replace words by words of as many tokens"
        )
    if not torch.equal(is_image[0], is_image[1]):
        raise ValueError("the image is at other positions in the corrupted inputs than in the clean ones")
    masks = [inputs.get("attention_mask") for inputs in (clean, corrupted)]
    if isinstance(masks[0], Tensor) and not torch.equal(masks[0], masks[1]):  # pyright: ignore[reportArgumentType]
        raise ValueError("the two inputs are padded at other positions; give them without padding")


def check_runnable(model: Any) -> None:
    """Raise ValueError for a model in training mode, or with hooks on it, naming the module.

    Hooks that transformers and accelerate keep on a model are a part of it.
    """
    hf = getattr(model, "hf_model", model)
    has_dropout = hf is not model or not hasattr(model, "stack")  # HookedBLIP has none
    if has_dropout and hf.training:
        raise ValueError("the model is in training mode, in which dropout changes every run: call model.eval()")
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    hooked = []
    for root in {id(model): model, id(hf): hf}.values():
        for name, module in root.named_modules():
            hooks = [hook for kind in kinds for hook in (vars(module).get(kind) or {}).values()]
            if any((getattr(hook, "__module__", None) or "").partition(".")[0] not in OWNERS for hook in hooks):
                hooked.append(name or "the model itself")
    if hooked:
        raise ValueError(
            f"there are hooks on the model, at {', '.join(dict.fromkeys(hooked[:3]))}: a sweep runs its own "
            "forward pass, which would bypass them; remove them first (model.reset_hooks() removes those of hook "
            "points)"
        )
