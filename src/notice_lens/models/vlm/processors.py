"""Processors of vision-language models: loaded beside the weights, without their video part where that cannot be made.

Processors of Qwen-VL, InternVL, SmolVLM, LLaVA-OneVision and GLM-4V have a part for videos that needs torchvision.
Pictures do not need it, so where torchvision is missing the processor is made without (`image_only`).
"""

from functools import cache, wraps
from typing import Any

from transformers import AutoProcessor, PreTrainedConfig
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils.import_utils import is_torchvision_available


@cache
def image_only(kind: type) -> type:
    """Return a processor class that has no video part; it is saved under the name of the one it stands for."""

    def get_attributes(cls: type) -> list[str]:
        return [name for name in kind.get_attributes() if not name.startswith("video")]  # pyright: ignore

    @wraps(kind.__init__)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        kind.__init__(self, *args, **({"video_processor": None} | kwargs))

    members = {"__init__": __init__, "get_attributes": classmethod(get_attributes)}
    return type(kind.__name__, (kind,), members)


def load_processor(name_or_folder: str, config: PreTrainedConfig, **options: Any) -> Any:
    """Return the processor beside a model's weights.

    Args:
        name_or_folder: As `AutoProcessor.from_pretrained` takes it.
        config: The model's.
        **options: `revision`, `token`, `trust_remote_code` and the like.

    Raises:
        Exception: Whatever transformers raises where there is none, or where it cannot be made.
    """
    try:
        return AutoProcessor.from_pretrained(name_or_folder, **options)
    except Exception:
        kind = PROCESSOR_MAPPING.get(type(config), None)
        if is_torchvision_available() or not isinstance(kind, type) or "video_processor" not in _attributes(kind):
            raise
        return image_only(kind).from_pretrained(name_or_folder, **options)  # pyright: ignore[reportAttributeAccessIssue]


def _attributes(kind: Any) -> list[str]:
    """The parts that a processor class is made of."""
    return kind.get_attributes()
