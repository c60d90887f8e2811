"""The shape of a result: its dimensions and coordinates, and the variant behind each of its entries.

A grid is laid over prepared pairs and knows them no more: the positions of an edit are labels (a role, a region, an
index), which the engine looks up pair by pair.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from notice_lens.errors import one_of
from notice_lens.models.protocol import axes
from notice_lens.pairs.roles import IN_IMAGE
from notice_lens.patching.edits import EDIT_SOURCES, Edit, Site
from notice_lens.patching.engine.measure import Variant
from notice_lens.patching.engine.plan import HookEdit, LabelledPositions
from notice_lens.patching.engine.receivers import Receiver
from notice_lens.patching.engine.sources import HALF_SOURCES, ingredients
from notice_lens.patching.positions import POSITION_DIMS
from notice_lens.patching.prepare import Prepared

NUMBERED = ("layer", "head", "position", "key_position", "neuron")
"""Dimensions whose labels are numbers, and stand in their order."""


@dataclass(frozen=True)
class Grid:
    """A result without its numbers.

    Attributes:
        dims: Dimensions after `pair`.
        coords: Labels of each.
        variants: The patched runs to measure, each with its index in the result.
    """

    dims: tuple[str, ...]
    coords: Mapping[str, list[Any]]
    variants: Sequence[Variant]

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the dimensions."""
        return tuple(len(self.coords[dim]) for dim in self.dims)

    @cached_property
    def hooks(self) -> dict[str, list[str]]:
        """Every hook point that is edited, by the source of its values."""
        edits = dict.fromkeys((edit.source, edit.hook) for variant in self.variants for edit in variant.edits)
        return {source: [hook for own, hook in edits if own == source] for source, _ in edits}

    @property
    def recorded(self) -> list[str]:
        """Every hook point that is edited, or that the values of an edit are computed from."""
        made_of = [
            hook for source in HALF_SOURCES for edited in self.hooks.get(source, ()) for hook in ingredients(edited)
        ]
        return list(dict.fromkeys([*(hook for hooks in self.hooks.values() for hook in hooks), *made_of]))

    @property
    def receivers(self) -> list[Receiver]:
        """Every end of a path."""
        return list(dict.fromkeys(variant.receiver for variant in self.variants if variant.receiver is not None))


def grid_of_sites(prepared: Prepared, sites: Sequence[Site], source: str, with_sites: bool | None = None) -> Grid:
    """Return the grid of every layer, head and label of some sites.

    Args:
        prepared: The pairs.
        sites: With the same dimensions.
        source: Where edits take their values from.
        with_sites: Whether there is a dimension `site`; None adds it where there are several sites.

    Raises:
        ValueError: The sites differ in their dimensions, or no pair knows a label.
    """
    names = [site.name for site in sites]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"site {name} is given {names.count(name)} times; expected each once")
    if len(names) > 1 and with_sites is False:
        raise ValueError(f"with_sites=False is for one site; got {', '.join(names)}")
    parts = [SiteGrid.of(prepared, site) for site in sites]
    first = parts[0]
    for part in parts:
        if part.dims != first.dims:
            raise ValueError(
                f"sites of one sweep share their dimensions: {first.site.name} has {_some(first.dims)}, "
                f"{part.site.name} {_some(part.dims)}; sweep them one after the other"
            )
    labels = {dim: list(dict.fromkeys(label for part in parts for label in part.coords[dim])) for dim in first.dims}
    coords = {dim: sorted(own) if dim in NUMBERED else own for dim, own in labels.items()}
    if with_sites or len(names) > 1:
        coords = {"site": names, **coords}
    index = {dim: {label: number for number, label in enumerate(own)} for dim, own in coords.items()}
    variants = []
    for part in parts:
        start = [names.index(part.site.name)] if "site" in coords else []
        for at, edit in part.edits(source):
            variants.append(Variant((*start, *(index[dim][label] for dim, label in at.items())), (edit,)))
    return Grid(tuple(coords), coords, variants)


@dataclass(frozen=True)
class SiteGrid:
    """The layout of one site's result.

    Attributes:
        site: The site.
        coords: Labels of each dimension after `pair`, in their order.
        axis: The stack whose positions it has.
        key_axis: The stack whose positions its keys are, of scores and patterns; None elsewhere.
    """

    site: Site
    coords: dict[str, list[Any]]
    axis: str
    key_axis: str | None

    @classmethod
    def of(cls, prepared: Prepared, site: Site) -> "SiteGrid":
        """Return the layout of a site.

        Raises:
            ValueError: No pair knows a label.
        """
        axis, key_axis = axes(prepared.model.cfg, site.stack, site.activation)
        coords: dict[str, list[Any]] = {}
        if site.layers:
            coords["layer"] = list(site.layers)
        if site.heads is not None:
            coords["head"] = list(site.heads)
        asked: list[tuple[Any, str, str, str]] = [(site.positions, axis, site.name, "")]
        if key_axis is not None:
            asked.append((site.keys, key_axis, f"keys of {site.name}", "key_"))
        for spec, stack, what, prefix in asked:
            dim, labels = prepared.positions.labels(spec, stack, what, prepared.patchable(stack))
            if dim is not None:
                coords[prefix + dim] = labels
        return cls(site, coords, axis, key_axis)

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimensions after `pair`."""
        return tuple(self.coords)

    def edits(self, source: str) -> list[tuple[dict[str, Any], HookEdit[LabelledPositions]]]:
        """Return every edit, each with its labels by dimension."""
        of_positions = next((dim for dim in self.dims if dim in POSITION_DIMS.values()), "")
        of_keys = next((dim for dim in self.dims if dim.startswith("key_")), "")
        edits = []
        for labels in product(*self.coords.values()):
            at = dict(zip(self.dims, labels, strict=True))
            keys = None if self.key_axis is None else LabelledPositions(_label(at, of_keys), self.key_axis)
            positions = LabelledPositions(_label(at, of_positions), self.axis)
            edits.append((at, HookEdit(self.site.hook(at.get("layer")), positions, source, at.get("head"), keys)))
        return edits


def _label(at: Mapping[str, Any], dim: str) -> Any:
    """Return the label of positions at an entry of a dimension: a region is the image's, whatever roles there are."""
    return IN_IMAGE + at[dim] if dim.endswith("region") else at.get(dim)


def check_variants(variants: Any) -> None:
    """Raise where variants are something else than one or more edits each, by name.

    Raises:
        TypeError: They are not a mapping of names.
        ValueError: There are no variants, or one is something else than edits.
    """
    expected = "expected a mapping of names to one or more Edits"
    if not isinstance(variants, Mapping):
        raise TypeError(f"variants are of type {type(variants).__name__}; {expected}")
    if not variants:
        raise ValueError(f"no variants given; {expected}")
    for name, edits in variants.items():
        if not isinstance(name, str):
            raise TypeError(f"variant {name!r}: a name is text; {expected}")
        own = edits if isinstance(edits, list | tuple) else [edits]
        if not own or not all(isinstance(edit, Edit) for edit in own):
            raise ValueError(f"variant {name!r} is {edits!r}; {expected}")


def grid_of_variants(prepared: Prepared, variants: Mapping[str, Edit | Sequence[Edit]]) -> Grid:
    """Return the grid with one entry for each variant.

    Args:
        prepared: The pairs.
        variants: One or several edits by name; as `check_variants` lets through.

    Raises:
        ValueError: An edit does not fit the model or the pairs.
    """
    found = []
    # Variants of a circuit share most of their edits.
    known: dict[str, list[HookEdit[LabelledPositions]]] = {}
    for number, (name, edits) in enumerate(variants.items()):
        own: list[HookEdit[LabelledPositions]] = []
        for edit in [edits] if isinstance(edits, Edit) else edits:
            written = repr(edit)
            if written not in known:
                try:
                    known[written] = edits_at(prepared, edit)
                except ValueError as error:
                    raise ValueError(f"variant {name!r}: {error}") from error
            own += known[written]
        found.append(Variant((number,), tuple(own)))
    return Grid(("variant",), {"variant": list(variants)}, found)


def edits_at(prepared: Prepared, edit: Edit) -> list[HookEdit[LabelledPositions]]:
    """Return an edit of the caller's, checked, as edits of a hook point: one for each label of its positions.

    Args:
        prepared: The pairs.
        edit: As the caller writes it.

    Raises:
        ValueError: It does not fit the model or the pairs.
    """
    if edit.source not in EDIT_SOURCES:
        raise ValueError(one_of("source", edit.source, EDIT_SOURCES))
    for what, asked in (("layer", edit.layer), ("head", edit.head)):
        if asked is not None and not isinstance(asked, int):
            raise ValueError(f"{what} {asked!r} asked for; an edit of {edit.site} is in one {what}, given as a number")
    heads = None if edit.head is None else [edit.head]
    spec: dict[str, Any] = {"layers": edit.layer, "heads": heads, "positions": _spec(edit.positions)}
    if edit.keys != "all":
        spec["keys"] = _spec(edit.keys)
    site = Site.of(prepared.model, edit.site, **spec)
    if site.layers and edit.layer is None:
        raise ValueError(f"an edit of {site.name} needs a layer, 0 to {len(site.layers) - 1}")
    return [one for _, one in SiteGrid.of(prepared, site).edits(edit.source)]


def _spec(positions: Any) -> Any:
    """Return positions of an edit as a site takes them: a single role or region is a list of one."""
    single = isinstance(positions, str) and positions not in ("all", "each", "roles", "regions")
    return [positions] if single else positions


def _some(dims: Sequence[str]) -> str:
    return ", ".join(dims) or "none"
