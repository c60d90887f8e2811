"""Loading a vision-language model by the hub id or the folder of its checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils import logging

from notice_lens.errors import in_words
from notice_lens.models.vlm.families import FAMILIES
from notice_lens.models.vlm.processors import load_processor

_LISTED = 8
_FILES = ("revision", "token", "cache_dir", "local_files_only", "subfolder", "trust_remote_code")


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Load without transformers' progress bar: of a small model it is gone before it is read."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_model(
    name_or_folder: str | PathLike[str],
    *,
    revision: str | None,
    dtype: torch.dtype | str,
    device_map: Any,
    quantization_config: Any,
    **options: Any,
) -> tuple[PreTrainedModel, Any, str]:
    """Return the model, its processor or None, and why there is no processor.

    Args:
        name_or_folder: The hub id, or a folder with `config.json` and weights.
        revision: The hub's branch, tag or commit.
        dtype: As transformers takes it; `auto` is what the weights are saved in.
        device_map: As transformers takes it.
        quantization_config: As transformers takes it.
        **options: Whatever else `from_pretrained` of transformers takes.

    Raises:
        FileNotFoundError: There is no such folder or model, or no weights in it.
        ValueError: It is not a vision-language model, or weights are missing or of another shape.
    """
    name = str(name_or_folder)
    if isinstance(name_or_folder, PathLike) and not Path(name).is_dir():
        raise FileNotFoundError(f"no folder {name}: expected one with config.json and weights")
    files: dict[str, Any] = {key: options[key] for key in _FILES if key in options} | {"revision": revision}
    config = _config(name, files)
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            name,
            dtype=dtype,
            device_map=device_map,
            quantization_config=quantization_config,
            output_loading_info=True,
            revision=revision,
            **options,
        )
    except OSError as error:
        raise FileNotFoundError(f"the weights of {name} cannot be read: {in_words(error)}") from error
    model, report = loaded  # two, since output_loading_info is set
    _check_complete(name, report)
    try:
        return model, load_processor(name, config, **files), ""
    except Exception as error:  # transformers raises almost anything here, and pictures may come prepared
        return model, None, f"none could be loaded beside the weights of {name}: {in_words(error)}"


def _config(name: str, files: dict[str, Any]) -> Any:
    """The config of a checkpoint that is a vision-language model's."""
    try:
        config = AutoConfig.from_pretrained(name, **files)
    except OSError as error:
        raise FileNotFoundError(f"no model {name!r}: {in_words(error)}") from error
    except (ValueError, KeyError) as error:
        raise ValueError(f"the config of {name} cannot be read: {in_words(error)}") from error
    if config.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ValueError(
            f"{name} is a {config.model_type!r}, which transformers does not know as a vision-language model with an "
            f"unembedding; tested are {', '.join(FAMILIES)}"
            + ("; load BLIP with HookedBLIP" if config.model_type.startswith("blip") else "")
        )
    return config


def _check_complete(name: str, report: dict[str, Any]) -> None:
    """Raise ValueError if weights are missing, where transformers would continue with random ones."""
    mismatched = [entry[0] if isinstance(entry, tuple) else entry for entry in report.get("mismatched_keys", ())]
    for what, keys in (("are missing", report.get("missing_keys", ())), ("have another shape", mismatched)):
        keys = sorted(map(str, keys))
        if keys:
            more = f", and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
            raise ValueError(f"in {name}, weights {what}: {', '.join(keys[:_LISTED])}{more}")
