"""The folder of the trained mini BLIP, which is bundled with the package."""

from importlib.resources import files
from pathlib import Path


def mini_folder() -> Path:
    """The folder of the mini BLIP in Hugging Face's format, for any `from_pretrained`.

    Raises:
        FileNotFoundError: if this installation came without the weights.
    """
    folder = Path(str(files("notice_lens.mini"))) / "weights"
    if not (folder / "model.safetensors").exists():
        raise FileNotFoundError(
            f"{folder} holds no model.safetensors: this installation lacks the mini BLIP's weights; "
            "install the package again, or train the model with tools/train_mini of its source"
        )
    return folder
