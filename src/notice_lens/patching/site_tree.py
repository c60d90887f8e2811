"""Results of many sites in one tree, found by their names as they are written."""

from collections.abc import Mapping
from typing import Any, overload

import xarray as xr

from notice_lens.models.names import one_of


class SiteTree(xr.DataTree):
    """An `xarray.DataTree` with a group for each site.

    A group is called as its site, `text.cross_attn.hook_z`; `text.cross_attn.z` and `text.cross_attn` find it too.
    """

    __slots__ = ()

    @classmethod
    def of(cls, groups: Mapping[str, xr.Dataset], attrs: Mapping[str, Any]) -> "SiteTree":
        """The tree of some sites' results.

        Args:
            groups: By name of the site.
            attrs: Of the whole.
        """
        children: Any = {name: xr.DataTree(dataset) for name, dataset in groups.items()}
        tree = cls(xr.Dataset(attrs=dict(attrs)), children=children)
        return tree

    def __getitem__(self, key: Any) -> Any:
        """A site's group.

        Raises:
            KeyError: There is no such site; the message names the nearest.
        """
        if isinstance(key, str) and key.strip("/"):
            site, *inside = key.strip("/").split("/")
            named = {short(name): name for name in self.children}
            if short(site) not in named:
                raise KeyError(one_of("site", site, self.children))
            key = "/".join([named[short(site)], *inside])
        return super().__getitem__(key)


def short(name: str) -> str:
    """A site's name without what may be left out."""
    plain = name.replace("hook_", "")
    return plain.removesuffix(".z") if plain.endswith("attn.z") else plain


@overload
def dataset_of(effects: xr.Dataset | xr.DataTree) -> xr.Dataset: ...
@overload
def dataset_of(effects: None) -> None: ...
@overload
def dataset_of(effects: Any) -> Any: ...
def dataset_of(effects: Any) -> Any:
    """A site's group as a Dataset; anything that is no tree as it is.

    Raises:
        TypeError: It is a whole tree, whose sites each have numbers of their own.
    """
    if not isinstance(effects, xr.DataTree):
        return effects
    if effects.children:
        sites = list(map(str, effects.children))
        raise TypeError(f"a tree of {len(sites)} sites was given; take one of them, such as effects[{sites[0]!r}]")
    return effects.to_dataset()
