"""Processors of vision-language models: loaded beside the weights, without their video part where that cannot be made.

Processors of Qwen-VL, InternVL, SmolVLM, LLaVA-OneVision and GLM-4V have a part for videos that needs torchvision.
Pictures do not need it, so where torchvision is missing the processor is made without (`image_only`).
"""

from functools import cache
from typing import Any

from transformers import AutoProcessor, PreTrainedConfig, ProcessorMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils.import_utils import is_torchvision_available


@cache
def image_only(kind: type) -> type:
    """Return a processor class that has no video part; it is saved under the name of the one it stands for."""

    def get_attributes(cls: type) -> list[str]:
        return [name for name in kind.get_attributes() if not name.startswith("video")]  # pyright: ignore

    return type(kind.__name__, (kind,), {"get_attributes": classmethod(get_attributes)})


def load_processor(name_or_folder: str, config: PreTrainedConfig, **options: Any) -> Any:
    """Return the processor beside a model's weights.

    Args:
        name_or_folder: As `AutoProcessor.from_pretrained` takes it.
        config: The model's config.
        **options: `revision`, `token`, `trust_remote_code` and the like.

    Raises:
        Exception: Whatever transformers raises if a processor is missing or cannot be loaded.
    """
    kind = PROCESSOR_MAPPING.get(type(config), None)
    try:
        found = AutoProcessor.from_pretrained(name_or_folder, **options)
    except Exception:
        if not _needs_torchvision(kind):
            raise
        found = None
    if not isinstance(found, ProcessorMixin) and _needs_torchvision(kind):
        # Without torchvision, AutoProcessor gives a part of the processor and calls it one.
        return image_only(kind).from_pretrained(name_or_folder, **options)  # pyright: ignore[reportAttributeAccessIssue]
    return found


def _needs_torchvision(kind: Any) -> bool:
    """Return whether a processor class has a part for videos that cannot be made here."""
    return not is_torchvision_available() and isinstance(kind, type) and "video_processor" in kind.get_attributes()  # pyright: ignore
