"""The result of a divided call: the parts' numbers joined, with what the verb adds to those of all pairs.

`patching.gather` joins numbers of pairs. Some verbs add what follows from all of them: an ablation means and intervals,
a split its interaction. That is added here by the verb's own function, so that no worker and no model is needed.
"""

from typing import TYPE_CHECKING, Any

from notice_lens.cluster.call import Call
from notice_lens.patching.store.parts import has_parts

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.patching.results import SiteTree

OF_ABLATION = ("value", "joint", "confidence", "seed")
OF_SITE = ("sites", "pairs_without_donor", "pairs_below_min_gap")
"""Attributes of a site's result that the tree of all sites does not have."""


def gathered(call: Call, lazy: bool) -> "xr.Dataset | SiteTree":
    """Return the result of all parts.

    Args:
        call: The call.
        lazy: Whether numbers stay on disk.
    """
    from notice_lens.patching.writer import gather

    if call.verb == "attribute":
        return _tree(call, lazy)
    effects, options = gather(call.store, lazy=lazy), call.options
    if call.verb == "ablate":
        from notice_lens.patching.ablation import finished

        return finished(effects, **{name: options[name] for name in OF_ABLATION if name in options})
    if call.verb == "split":
        from notice_lens.patching.pattern_vs_values import with_interaction

        return with_interaction(effects)
    return effects.assign_attrs(run=options.get("run", "clean")) if call.verb == "knockout" else effects


def _tree(call: Call, lazy: bool) -> "SiteTree":
    """Return the groups of all sites in the folder."""
    from notice_lens.patching.results import SiteTree
    from notice_lens.patching.writer import gather

    groups = {path.name: gather(path, lazy=lazy) for path in sorted(call.store.iterdir()) if has_parts(path)}
    attrs: dict[str, Any] = dict(next(iter(groups.values())).attrs)
    return SiteTree.of(groups, {name: value for name, value in attrs.items() if name not in OF_SITE})
