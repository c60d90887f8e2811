"""The folders of the trained mini models, which are bundled with the package."""

from importlib.resources import files
from pathlib import Path

from notice_lens.errors import check_choice

BLIP_FOLDERS = {"drawn": "weights", "pictures": "blip_weights"}
"""The folder of the BLIP of each world."""


def mini_folder(world: str = "drawn") -> Path:
    """Return the folder of a mini BLIP in Hugging Face's format, for any `from_pretrained`.

    Args:
        world: The pictures that it answers about, `drawn` or `pictures`.

    Raises:
        ValueError: There is no such world.
        FileNotFoundError: This installation came without the weights.
    """
    check_choice("world", world, tuple(BLIP_FOLDERS))
    return _folder(BLIP_FOLDERS[world], f"the mini BLIP of the {'drawn' if world == 'drawn' else 'picture'} world")


def llava_folder() -> Path:
    """Return the folder of the mini LLaVA in Hugging Face's format, for any `from_pretrained`.

    Raises:
        FileNotFoundError: This installation came without the weights.
    """
    return _folder("llava_weights", "the mini LLaVA")


def _folder(name: str, model: str) -> Path:
    folder = Path(str(files("notice_lens.mini"))) / name
    if not (folder / "model.safetensors").exists():
        raise FileNotFoundError(
            f"{folder} holds no model.safetensors: this installation lacks {model}'s weights; "
            "install the package again, or train the model with tools/train_mini of its source"
        )
    return folder
