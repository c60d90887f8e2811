"""HookedVLM: any Hugging Face vision-language model, hosted and hooked."""

from notice_lens.models.vlm.hooked_vlm import HookedVLM

__all__ = ["HookedVLM"]
