"""Masks by their content: which pixels of an image or array belong to its object, or why they are ambiguous.

Files that are called masks hold different things: black and white, class indices with a void (VOC: object 1, void
255), trimaps (1, 2, 3), cut-outs whose alpha is the mask. A threshold on brightness turns most of them into something
else, so the values decide:

1. Alpha that is not constant *is* the mask: half opaque or more belongs to the object.
2. Otherwise, two values of which one is 0: the other one is the object.
3. Many values that gather at black and at white, with nothing but edges between: a black-and-white mask whose edges are
   soft, or that was stored as JPEG. Half of white or more belongs to the object.
4. Anything else is refused with the values that were read; `label` names the values that are the object.

Limits: a cut-out on a black background without alpha is refused; an index mask stored as JPEG has lost its indices.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Num, Shaped
from PIL import Image

MaskLabel = int | Sequence[int]
"""The value, or values, of the object in a mask that holds indices."""

MASK_VALUES_SHOWN = 8
"""As many values are named in a message. A mask with no more of them than this has levels, not soft edges."""
_SETTLES = (
    'label= names the index that is the object, such as label=1, or several: label=[1, 2]; in a row, {"mask": ..., '
    '"label": 1}'
)
_VOID = 255
"""The index that data sets give to pixels that count as nothing."""
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_NEAR = 1 / 8
"""How far from black and from white a pixel of a soft mask may lie, as a share of white."""
_MOST_NEAR = 0.85
"""The least share of a soft mask's pixels that lie so near: edges are thin."""
_MOST_FLAT = 0.02
"""The most pixels within an even area that is neither black nor white, as a share of the white ones."""
_GREY = 16
"""How far the channels of a grey picture lie apart at most, in 8 bits: JPEG rounds each for itself."""


def object_of_picture(image: Image.Image, label: Any = None) -> Bool[np.ndarray, "height width"]:
    """Return the pixels of a mask image that belong to its object; rules and limits are the module's.

    Args:
        image: In the mode that its file has: `pictures.as_stored`.
        label: The values that are the object, of an image that holds indices.

    Raises:
        ValueError: The object is ambiguous; the message says what was read, and what settles it.
    """
    kind = f"an image of mode {image.mode}"
    if image.mode in _WITH_ALPHA:
        if label is not None:
            raise ValueError(f"label={label!r} is for masks that hold indices; this is {kind}, with alpha")
        alpha = np.asarray(image.getchannel("A" if image.mode[-1] == "A" else "a"))
        if alpha.min() != alpha.max():
            return _opaque(alpha, kind)
        return _object_of_colours(image, f"{kind}, alpha {alpha.max()} everywhere", label)
    if image.mode == "P" and label is None:
        return _object_of_palette(image, kind)
    if image.mode in ("1", "F", "L", "P") or image.mode.startswith("I"):
        # Black and white as 0 and 1: unlike an array of booleans, a file may not be all black.
        values = np.asarray(image, np.uint8) if image.mode == "1" else np.asarray(image)
        mask = object_of_values(values, kind, label)
    else:
        mask = _object_of_colours(image, kind, label)
    if label is None:
        _check_transparency(image, mask, kind)
    return mask


def object_of_values(
    values: Shaped[np.ndarray, "height width"], kind: str = "an array", label: Any = None
) -> Bool[np.ndarray, "height width"]:
    """Return the pixels of an array of values that belong to the object.

    Args:
        values: Booleans, which may all be False, or finite numbers from 0 on.
        kind: What holds them, for messages.
        label: The values that are the object.

    Raises:
        ValueError: As `object_of_picture`.
    """
    if values.dtype.kind not in "biuf":
        raise ValueError(f"it is {kind} of {values.dtype}; expected booleans or numbers")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"it is {kind} that holds NaN or infinity; expected 0 outside of the object and 1 inside")
    levels = np.unique(values)
    if label is not None:
        return _labelled(values, levels, kind, label)
    if values.dtype == bool or levels.tolist() in ([1], [0, 1]):
        return values == 1
    if len(levels) == 2 and levels[0] == 0:
        return values == levels[1]
    if _is_soft(values, levels):
        return values >= _white(levels) / 2
    raise ValueError(_unclear(levels, kind))


def _labelled(
    values: Shaped[np.ndarray, "height width"], levels: Shaped[np.ndarray, " level"], kind: str, label: Any
) -> Bool[np.ndarray, "height width"]:
    """Return where the values are among the labels, of which one has to occur."""
    try:
        labels = np.atleast_1d(np.asarray(label))
    except ValueError:  # of unequal depth
        labels = np.empty(0)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"label={label!r}: expected a whole number, or several")
    if not np.isin(labels, levels).any():
        raise ValueError(f"label={label!r} does not occur in it: it is {kind} with {_listed(levels)}")
    return np.isin(values, labels)


def _opaque(alpha: Num[np.ndarray, "height width"], kind: str) -> Bool[np.ndarray, "height width"]:
    """Return where a cut-out is opaque by half or more."""
    opaque = alpha >= 128
    if opaque.all() or not opaque.any():
        raise ValueError(
            f"it is {kind} whose alpha runs from {alpha.min()} to {alpha.max()}: nothing is cut out, since no part of "
            f"it is {'transparent' if opaque.all() else 'opaque'} by half or more"
        )
    return opaque


def _object_of_palette(image: Image.Image, kind: str) -> Bool[np.ndarray, "height width"]:
    """Return the object of an image of palette indices: colours and transparency may not contradict the indices.

    Tools that make files small sort palettes as they like: 0 may be white.
    """
    indices = np.asarray(image)
    mask = object_of_values(indices, kind)
    rgb = image.convert("RGB")
    void = indices == _VOID
    if void.any() and not (np.asarray(rgb)[void] == 255).all():
        raise ValueError(f"it is {kind} with the values 0, 255, where 255 is not white: void, as in VOC? {_SETTLES}")
    if rgb.getcolors(1) is None and (_object_of_colours(rgb, kind, None) != mask).any():
        raise ValueError(f"it is {kind} whose colours and indices contradict each other. {_SETTLES}")
    _check_transparency(image, mask, kind)
    return mask


def _check_transparency(image: Image.Image, mask: Bool[np.ndarray, "height width"], kind: str) -> None:
    """Raise ValueError if a transparent colour or index is not what lies outside of the object."""
    if not image.has_transparency_data:
        return
    alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    if alpha.min() != alpha.max() and (_opaque(alpha, kind) != mask).any():
        raise ValueError(f"it is {kind} whose transparency and values contradict each other. {_SETTLES}")


def _object_of_colours(image: Image.Image, kind: str, label: Any) -> Bool[np.ndarray, "height width"]:
    """Return the object of a picture in colours: of a grey one by its values, otherwise the one that is not black."""
    rgb = np.asarray(image.convert("RGB"))
    channels = rgb.astype(np.int16)
    if (channels.max(-1) - channels.min(-1)).max(initial=0) <= _GREY:
        return object_of_values(rgb[..., 1], kind, label)
    if label is not None:
        raise ValueError(f"label={label!r} is for masks that hold indices; this is {kind}, in colours")
    colours = np.unique(rgb.reshape(-1, 3), axis=0)
    if len(colours) == 2 and not colours[0].any():
        return np.any(rgb, axis=-1)
    shown = ", ".join(str(tuple(colour)) for colour in colours[:MASK_VALUES_SHOWN].tolist())
    more = f" and {len(colours) - MASK_VALUES_SHOWN:,} more" if len(colours) > MASK_VALUES_SHOWN else ""
    raise ValueError(
        f"it is {kind} with the colours {shown}{more}: not a mask of one object. Expected black and one other colour, "
        "or an image of indices with label="
    )


def _white(levels: Num[np.ndarray, " level"]) -> int:
    """Return the value of white: 1 for floats up to 1, otherwise the largest number of 8 or 16 bits."""
    if levels.dtype.kind == "f" and levels[-1] <= 1:
        return 1
    return 255 if levels[-1] <= 255 else 65535


def _is_soft(values: Num[np.ndarray, "height width"], levels: Num[np.ndarray, " level"]) -> bool:
    """Return whether values are a black-and-white mask with soft edges, or with JPEG's noise.

    An index fills an area with its value, however near to black or white that is; soft edges and noise do not.
    """
    white = _white(levels)
    if len(levels) <= MASK_VALUES_SHOWN or levels[0] < 0 or levels[-1] > white:
        return False
    black_ones, white_ones = values <= white * _NEAR, values >= white * (1 - _NEAR)
    if not white_ones.any() or not black_ones.any() or (black_ones | white_ones).mean() < _MOST_NEAR:
        return False
    inner = values[1:-1, 1:-1]
    # White that JPEG has darkened by a rounding step is still white.
    even = (inner > 0) & (inner < white * 0.985)
    height, width = inner.shape
    for down in range(3):
        for right in range(3):
            even &= values[down : down + height, right : right + width] == inner
    return int(even.sum()) <= _MOST_FLAT * int(white_ones.sum())


def _listed(levels: Num[np.ndarray, " level"]) -> str:
    """Return the values for a message, the first few and how many more there are."""
    if len(levels) <= MASK_VALUES_SHOWN:
        return f"the value{'s' * (len(levels) > 1)} {', '.join(f'{level:g}' for level in levels.tolist())}"
    return f"{len(levels):,} values from {levels[0]:g} to {levels[-1]:g}"


def _unclear(levels: Num[np.ndarray, " level"], kind: str) -> str:
    """Return why values are not a mask of one object, and how to say which of them are the object."""
    said = f"it is {kind} with {_listed(levels)}: "
    if len(levels) > MASK_VALUES_SHOWN:
        return said + (
            "not a mask of one object, which is black and white but for its edges. Give a mask of two values, such as "
            "values > 0.5, or label= for one that holds indices"
        )
    if levels.tolist() == [0]:
        return said + "no pixel belongs to an object. Leave a region out where its picture does not show it"
    if len(levels) == 1:
        return said + "all of the picture, or none? label= names the value that is the object"
    usual = ", as in trimaps" if levels.tolist() == [1, 2, 3] else ""
    if levels[-1] == _VOID:
        usual = ", as in VOC, where 255 is void"
    return said + f"indices{usual}, of which any may be the object. {_SETTLES}"
