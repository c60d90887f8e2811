"""The table of a hosted model's hook points: shape, and which tensor of Hugging Face's each of them is."""

from typing import TYPE_CHECKING

import pandas as pd
from torch import nn

from notice_lens.models.describe import HooksTable
from notice_lens.models.hook_names import HookName
from notice_lens.models.hooks import BLIPHookPoint
from notice_lens.models.vlm.families import unread_vision_layers
from notice_lens.models.vlm.taps import AttentionTap, ResultTap, Tap

if TYPE_CHECKING:
    from notice_lens.models.vlm.hooked_vlm import HookedVLM


def hooks_table(model: "HookedVLM") -> HooksTable:
    """Return the table of a model's hook points; layers are written once, as `blocks.L`."""
    names = {module: name for name, module in model.hf_model.named_modules()}
    rows: dict[str, dict[str, str]] = {}
    for tap in model.taps():
        if isinstance(tap, AttentionTap):
            inside = [(point, f"in {names[tap.attention.module]}: {stage}") for stage, point in tap.points.items()]
        else:
            inside = [(tap.point, _tensor(tap, names))]
        for point, tensor in inside:
            name = HookName.parse(str(point.name))
            key = str(name).replace(f"blocks.{name.layer}.", "blocks.L.")
            rows.setdefault(
                key,
                {
                    "hook point": key,
                    "shape": f"[{point.shape.replace(' ', ', ')}]",
                    "Hugging Face": tensor.replace(f".{name.layer}.", ".L."),
                    "note": _note(model, name),
                },
            )
    return HooksTable(pd.DataFrame(list(rows.values())))


def _tensor(tap: Tap | ResultTap, names: dict[nn.Module, str]) -> str:
    """The module and which of its tensors, `<` its input and `>` its output."""
    if isinstance(tap, ResultTap):
        return f"{names[tap.attention.o]}, head by head"
    columns = tap.columns
    which = ""
    if columns is not None and columns.width != getattr(tap.module, "out_features", columns.width):
        which = f"[{columns.start}:{columns.start + columns.width}]" if tap.side.value == ">" else ""
    arrow = "<" if tap.side.value == "~" else tap.side.value
    kept = ", and the stream that the block keeps" if tap.side.value == "~" else ""
    return f"{arrow} {names[tap.module]}{which}{kept}"


def _note(model: "HookedVLM", name: HookName) -> str:
    notes = [model.family.notes.get(f"{name.stack}.{name.leaf}", "")]
    if name.leaf.endswith("hook_result"):
        notes.append("with use_attn_result")
    if name.stack == "vision" and name.layer == 0:
        unread = unread_vision_layers(model.config, model.layers_by_stack["vision"])
        if unread:
            layers = f"layer {unread[0]}" if len(unread) == 1 else f"layers {unread[0]} to {unread[-1]}"
            notes.append(f"the model does not read what {layers} give")
    return "; ".join(filter(None, notes))


def point_of(model: "HookedVLM", name: str) -> BLIPHookPoint:
    """Return a hook point by its full name."""
    point = model.hook_dict[name]
    assert isinstance(point, BLIPHookPoint), name
    return point
