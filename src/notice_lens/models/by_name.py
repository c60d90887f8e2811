"""Models by name: those that ship with the package, folders and hub ids, whichever class they need."""

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

if TYPE_CHECKING:
    import torch

    from notice_lens.models.blip.hooked_blip import HookedBLIP
    from notice_lens.models.vlm import HookedVLM

BUNDLED = ("mini", "mini-blip", "mini-llava")
"""Models that ship with the package."""


class ModelOptions(TypedDict, total=False):
    """Options of `from_pretrained`.

    Attributes:
        dtype: float32, bfloat16, float16 or float64, as torch's dtype or its name.
        revision: The hub's branch, tag or commit.
        processor: The folder or hub id of a processor, or a processor, to use instead of the one beside the weights.
        enc_token: Of a BLIP: whether `[CLS]` is replaced by `[ENC]`.
        device_map: Of all others, as transformers takes it, such as `auto` for a model larger than a card.
        quantization_config: Of all others, as transformers takes it.
        attn_implementation: Of all others, as transformers takes it.
        trust_remote_code: Of all others, as transformers takes it.
    """

    dtype: "torch.dtype | str"
    revision: str | None
    processor: Any
    enc_token: bool
    device_map: Any
    quantization_config: Any
    attn_implementation: str
    trust_remote_code: bool


def load_model(name: str, device: str | None = None, **options: "Unpack[ModelOptions]") -> "HookedBLIP | HookedVLM":
    """Return a model by folder, hub id, `mini-blip`, `mini-llava` or `mini`.

    A BLIP becomes a `HookedBLIP`, any other a `HookedVLM`.

    Args:
        name: Which.
        device: Where to; None takes a GPU where there is one. A `device_map` goes before it.
        **options: Of `from_pretrained`.

    Raises:
        ValueError: There is no such device here.
        FileNotFoundError: There is no such model.
        TypeError: The model's class takes no option of that name.
    """
    import torch

    from notice_lens import HookedBLIP, HookedVLM

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for the device
        raise ValueError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error
    given: dict[str, Any] = dict(options)
    if name in ("mini", "mini-blip"):
        return HookedBLIP.mini("pictures" if name == "mini-blip" else "drawn", device=device, **given)
    if name == "mini-llava":
        return HookedVLM.mini(device=device, **given)
    _refuse_slip(name)
    if _is_blip(name):
        return HookedBLIP.from_pretrained(name, device=device, **given)
    return HookedVLM.from_pretrained(name, **{"device_map": device, **given})


def _refuse_slip(name: str) -> None:
    """Raise FileNotFoundError for a name that is neither a folder nor a hub id, and nearly that of a bundled model."""
    near = get_close_matches(name.replace("_", "-"), BUNDLED, 1, 0.8)
    if near and "/" not in name and not Path(name).exists():
        raise FileNotFoundError(f"cannot load {name!r}: no such folder; did you mean {near[0]!r}, which is bundled?")


def _is_blip(name: str) -> bool:
    """Return whether a checkpoint is a BLIP by its config; True without a config: its loader names what is missing."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name).model_type == "blip"
    except Exception:  # of any kind: `from_pretrained` names what is wrong with the folder or the name
        return True
