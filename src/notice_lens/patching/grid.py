"""The shape of a result: its dimensions and coordinates, and the cell of each entry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from notice_lens.errors import one_of
from notice_lens.patching.edits import Site, axes
from notice_lens.patching.engine.measure import Cell, CellEdit
from notice_lens.patching.engine.sources import PARTS, ingredients
from notice_lens.patching.paths import Receiver
from notice_lens.patching.positions import Places

if TYPE_CHECKING:
    from notice_lens.models import HookedBLIP

SOURCES = ("other", "zero", "mean", "resample", "donor")
NUMBERED = ("layer", "head", "position", "key_position", "neuron")
"""Dimensions whose labels are numbers, and stand in their order."""


@dataclass(frozen=True)
class Edit:
    """One edit of a variant: a site with an index and a source.

    Attributes:
        site: Stack and activation, such as `text.cross_attn.z`.
        layer: The layer; None for embeddings.
        head: The head; None for all.
        positions: A role, a region, a number, several of them, or `all`. Keys for `q`, `k` and `v` of the source.
        keys: The same for the keys of scores and patterns.
        source: `other` (the run that is patched in), `donor`, `zero`, `mean` or `resample` (another pair's clean run).
    """

    site: str
    layer: Any = None
    head: Any = None
    positions: Any = "all"
    keys: Any = "all"
    source: Any = "other"


@dataclass(frozen=True)
class Grid:
    """A result without its numbers.

    Attributes:
        dims: Dimensions behind `pair`.
        coords: Labels of each.
        cells: What is measured; each at its place in the result.
    """

    dims: tuple[str, ...]
    coords: Mapping[str, list[Any]]
    cells: Sequence[Cell]

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the dimensions."""
        return tuple(len(self.coords[dim]) for dim in self.dims)

    @property
    def hooks(self) -> list[str]:
        """Every hook point that is edited."""
        return list(dict.fromkeys(edit.hook for cell in self.cells for edit in cell.edits))

    @property
    def receivers(self) -> list[Receiver]:
        """Every end of a path."""
        return list(dict.fromkeys(cell.receiver for cell in self.cells if cell.receiver is not None))

    def hooks_from(self, source: str) -> list[str]:
        """Every hook point that takes its values from a source."""
        edits = (edit for cell in self.cells for edit in cell.edits)
        return list(dict.fromkeys(edit.hook for edit in edits if edit.source == source))

    @property
    def recorded(self) -> list[str]:
        """Every hook point that is edited, or that values of an edit are made of."""
        of_parts = {hook for source in PARTS for hook in self.hooks_from(source)}
        return [*self.hooks, *(made for hook in self.hooks if hook in of_parts for made in ingredients(hook))]

    @property
    def sources(self) -> set[str]:
        """Where edits take their values from."""
        return {edit.source for cell in self.cells for edit in cell.edits}


def grid_of_sites(
    model: "HookedBLIP", places: Places, sites: Sequence[Site], source: str, answer_length: int, with_sites: bool
) -> Grid:
    """Every layer, head and label of some sites.

    Args:
        model: The model.
        places: Positions of the pairs.
        sites: With the same dimensions.
        source: Where edits take their values from.
        answer_length: Positions of the longest answer.
        with_sites: Whether there is a dimension of sites, though there may be one site alone.

    Raises:
        ValueError: The sites differ in their dimensions, or a label is known to no pair.
    """
    names = [site.name for site in sites]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"site {name} comes {names.count(name)} times; each goes into a sweep once")
    if len(names) > 1 and not with_sites:
        raise ValueError(f"with_sites=False is for one site; got {', '.join(names)}")
    parts = [Layout.of(model, places, site, answer_length) for site in sites]
    first = parts[0]
    for part in parts:
        if part.dims != first.dims:
            raise ValueError(
                f"sites of one sweep share their dimensions: {first.site.name} has {_some(first.dims)}, "
                f"{part.site.name} {_some(part.dims)}; sweep them one after the other"
            )
    coords = {
        dim: sorted({label for part in parts for label in part.coords[dim]})
        if dim in NUMBERED
        else list(dict.fromkeys(label for part in parts for label in part.coords[dim]))
        for dim in first.dims
    }
    if with_sites:
        coords["site"] = names
    dims = (*(["site"] if with_sites else []), *first.dims)
    at = {dim: {label: number for number, label in enumerate(labels)} for dim, labels in coords.items()}
    cells = []
    for part in parts:
        first_place = (at["site"][part.site.name],) if with_sites else ()
        for labels, edit in part.edits(source):
            place = (at[dim][label] for dim, label in zip(part.dims, labels, strict=True))
            cells.append(Cell((*first_place, *place), (edit,)))
    return Grid(dims, coords, cells)


@dataclass(frozen=True)
class Layout:
    """How the result of one site is laid out.

    Attributes:
        site: The site.
        coords: Labels of each dimension behind `pair`, in their order.
        axis: What its positions are.
        key_axis: What its keys are, of scores and patterns.
    """

    site: Site
    coords: dict[str, list[Any]]
    axis: str
    key_axis: str | None

    @classmethod
    def of(cls, model: "HookedBLIP", places: Places, site: Site, answer_length: int) -> "Layout":
        """The layout of a site.

        Args:
            model: The model.
            places: Positions of the pairs.
            site: The site.
            answer_length: Positions of the longest answer.

        Raises:
            ValueError: A label is known to no pair.
        """
        axis, key_axis = axes(model, site.stack, site.activation)
        coords: dict[str, list[Any]] = {}
        if site.layers:
            coords["layer"] = list(site.layers)
        if site.heads is not None:
            coords["head"] = list(site.heads)
        dim, labels = places.labels(site.positions, axis, site.name, answer_length)
        if dim is not None:
            coords[dim] = labels
        if key_axis is not None:
            dim, labels = places.labels(site.keys, key_axis, f"keys of {site.name}", answer_length)
            if dim is not None:
                coords[f"key_{dim}"] = labels
        return cls(site, coords, axis, key_axis)

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimensions behind `pair`."""
        return tuple(self.coords)

    def edits(self, source: str) -> list[tuple[tuple[Any, ...], CellEdit]]:
        """Labels along the dimensions, and the edit there."""
        found = []
        for labels in product(*self.coords.values()):
            at = dict(zip(self.dims, labels, strict=True))
            label = next((at[dim] for dim in ("role", "region", "position") if dim in at), None)
            key = next((at[f"key_{dim}"] for dim in ("role", "region", "position") if f"key_{dim}" in at), None)
            hook = self.site.hook(at.get("layer"))
            found.append((labels, CellEdit(hook, at.get("head"), label, self.axis, key, self.key_axis, source)))
        return found


def check_variants(variants: Any) -> None:
    """Raises where variants are not one or more edits each, by name.

    Raises:
        TypeError: It is no mapping of names.
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
        several = edits if isinstance(edits, list | tuple) else [edits]
        if not several or not all(isinstance(edit, Edit) for edit in several):
            raise ValueError(f"variant {name!r} is {edits!r}; {expected}")


def grid_of_variants(model: "HookedBLIP", places: Places, variants: Mapping[str, Any], answer_length: int) -> Grid:
    """One entry for each variant.

    Args:
        model: The model.
        places: Positions of the pairs.
        variants: By name, one or several `Edit`s; as `check_variants` lets through.
        answer_length: Positions of the longest answer.

    Raises:
        ValueError: An edit does not fit the model or the pairs.
    """
    cells = []
    for number, (name, edits) in enumerate(variants.items()):
        several = [edits] if isinstance(edits, Edit) else edits
        try:
            resolved = [one for edit in several for one in _resolved(model, places, edit, answer_length)]
        except ValueError as error:
            raise ValueError(f"variant {name!r}: {error}") from error
        cells.append(Cell((number,), tuple(resolved)))
    return Grid(("variant",), {"variant": list(variants)}, cells)


def _resolved(model: "HookedBLIP", places: Places, edit: Edit, answer_length: int) -> list[CellEdit]:
    """An edit of a variant, checked; several labels are edits of each."""
    if edit.source not in SOURCES:
        raise ValueError(one_of("source", edit.source, SOURCES))
    for what, asked in (("layer", edit.layer), ("head", edit.head)):
        if asked is not None and not isinstance(asked, int):
            raise ValueError(f"{what} {asked!r} asked for; an edit of {edit.site} is in one {what}, given as a number")
    heads = None if edit.head is None else [edit.head]
    spec: dict[str, Any] = {"layers": edit.layer, "heads": heads, "positions": _spec(edit.positions)}
    site = Site.of(model, edit.site, **spec)
    axis, key_axis = axes(model, site.stack, site.activation)
    if key_axis is not None or edit.keys != "all":
        site = Site.of(model, edit.site, **spec, keys=_spec(edit.keys))
    if site.layers and edit.layer is None:
        raise ValueError(f"an edit of {site.name} needs a layer, 0 to {len(site.layers) - 1}")
    _, labels = places.labels(site.positions, axis, site.name, answer_length)
    keys = [None] if key_axis is None else places.labels(site.keys, key_axis, f"keys of {site.name}", answer_length)[1]
    hook = site.hook(edit.layer if site.layers else None)
    return [CellEdit(hook, edit.head, label, axis, key, key_axis, edit.source) for label, key in product(labels, keys)]


def _spec(positions: Any) -> Any:
    """Positions of an edit: a single role or region is a list of one."""
    single = isinstance(positions, str) and positions not in ("all", "each", "roles", "regions")
    return [positions] if single else positions


def _some(dims: Sequence[str]) -> str:
    return ", ".join(dims) or "none"
