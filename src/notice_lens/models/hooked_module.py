"""A `HookedRootModule` that never fails silently and removes no hook but its own.

Shared by the whole model and by the lens. Four rules on top of TransformerLens:

1. A name or a names filter that matches nothing raises, with the nearest valid names; so does one that matches only
   hook points that are switched off (`hook_result`, the split inputs).
2. All names are looked up before the first hook is attached, and what a run attached is removed when it ends, however
   it ends. Hooks that the caller attached stay.
3. `run_with_cache` gives an `ActivationCache`.
4. One thread at a time: a run and a `hooks` block hold the model, and another thread waits (`in_use.py`).
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

from torch import Tensor
from transformer_lens import ActivationCache, HookedRootModule
from transformer_lens.hook_points import HookPoint, LensHandle

from notice_lens.models.hook_names import HookName, unknown_hook
from notice_lens.models.hooks import AliasPoint, CopyingHookPoint
from notice_lens.models.in_use import InUse

HookSpec = tuple[str | Callable[[str], bool], Callable[..., Any]]
NamesFilter = str | Sequence[str] | Callable[[str], bool] | None
HookDirection = Literal["fwd", "bwd"]

_SWITCHES = {
    "hook_result": "use_attn_result",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
}

logger = logging.getLogger(__name__)


class HookedModule(HookedRootModule):
    """Base of `HookedBLIP` and `Lens`; subclasses fill `hook_dict` and say what their layers are."""

    @property
    def in_use(self) -> InUse:
        """The lock that holds the model for one thread at a time; a lens has its model's."""
        raise NotImplementedError

    @property
    def layers_by_stack(self) -> Mapping[str | None, int]:
        """Layers of each stack that hook names can begin with; under None for names without one."""
        raise NotImplementedError

    def switched_off(self, name: str) -> str | None:
        """The switch that the hook point `name` needs and that is off; None where it fires."""
        switch = _SWITCHES.get(HookName.parse(name).leaf.rsplit(".", 1)[-1])
        return switch if switch and not getattr(self.attention_of(name), switch) else None

    def attention_of(self, name: str) -> Any:
        """The attention module that the hook point `name` belongs to."""
        raise NotImplementedError

    def explain_missing(self, name: str) -> str:
        """Explain why a name is not a hook point here."""
        return unknown_hook(name, self.hook_dict, self.layers_by_stack)

    def names_matching(self, names: NamesFilter) -> list[str]:
        """The hook points that a filter means: one name, several, a predicate, or None for all that fire.

        Raises:
            KeyError: A name does not exist, or a predicate matches nothing; the nearest valid names are given.
            ValueError: All that is meant is switched off.
        """
        if names is None:
            return [name for name in self.hook_dict if self.switched_off(name) is None]
        found = self._existing(names)
        firing = [name for name in found if self.switched_off(name) is None]
        # A name that was spelled out has to fire; of a predicate's matches, some have to.
        silent = [name for name in found if name not in firing]
        if silent and (not callable(names) or not firing):
            switch = self.switched_off(silent[0])
            raise ValueError(f"{silent[0]} fires only with {switch}: call set_{switch}(True) first")
        return firing

    def _existing(self, names: str | Sequence[str] | Callable[[str], bool]) -> list[str]:
        """Return the hook points that a filter means, switched on or off. Raises KeyError if it matches nothing."""
        if callable(names):
            found = [name for name in self.hook_dict if names(name)]
        else:
            found = [names] if isinstance(names, str) else list(names)
            for name in found:
                if name not in self.hook_dict:
                    raise KeyError(self.explain_missing(name))
        if not found:
            raise KeyError(
                f"the names filter matches none of the {len(self.hook_dict)} hook points, which are called "
                f"{_some(self.hook_dict)}"
            )
        return found

    @contextmanager
    def hooks(
        self,
        fwd_hooks: Sequence[HookSpec] = (),
        bwd_hooks: Sequence[HookSpec] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Iterator["HookedModule"]:
        """Attach hooks for the length of a `with` block, which holds the model: another thread that wants it waits.

        Args:
            fwd_hooks: (name or predicate on names, function of the activation and `hook`).
            bwd_hooks: The same for gradients.
            reset_hooks_end: Whether to remove these hooks at the end; no others are removed in any case.
            clear_contexts: Whether to empty the `ctx` of every hook point at the end.

        Raises:
            KeyError, ValueError: As `names_matching`; then nothing was attached.
            RuntimeError: Another thread has not let go of the model for a minute.
        """
        directions: tuple[tuple[HookDirection, Sequence[HookSpec]], ...] = (("fwd", fwd_hooks), ("bwd", bwd_hooks))
        with self.in_use.held() as changes:
            changes.at_end(self._stop_caching)
            to_attach: list[tuple[str, Callable[..., Any], HookDirection]] = [
                (name, hook, direction)
                for direction, hooks in directions
                for names, hook in hooks
                for name in self.names_matching(names)
            ]
            if clear_contexts:
                changes.at_end(self.clear_contexts)
            changes.set(self, "context_level", self.context_level + 1)
            attached = [
                changes.attach(self._point(name), hook, direction, level=self.context_level)
                for name, hook, direction in to_attach
            ]
            if not reset_hooks_end:
                changes.keep(attached)
            yield self

    def _stop_caching(self) -> None:
        self.is_caching = False

    def _point(self, name: str) -> CopyingHookPoint | AliasPoint:
        return cast(CopyingHookPoint | AliasPoint, self.hook_dict[name])

    def run_with_hooks(
        self,
        *model_args: Any,
        fwd_hooks: Sequence[HookSpec] = (),
        bwd_hooks: Sequence[HookSpec] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        **model_kwargs: Any,
    ) -> Tensor:
        """The logits of a run with these hooks attached; see `hooks`."""
        if bwd_hooks and reset_hooks_end:
            logger.warning("backward hooks are removed when the forward pass ends; pass reset_hooks_end=False")
        with self.hooks(fwd_hooks, bwd_hooks, reset_hooks_end, clear_contexts):
            return self(*model_args, **model_kwargs)

    def add_hook(
        self,
        name: str | Callable[[str], bool],
        hook: Callable[..., Any],
        dir: HookDirection = "fwd",
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
    ) -> None:
        """Attach a hook until `reset_hooks`. Raises as `names_matching`."""
        how = {"is_permanent": is_permanent, "level": level, "prepend": prepend}
        with self.in_use.held() as changes:
            points = [self._point(found) for found in self.names_matching(name)]
            changes.keep([changes.attach(point, hook, dir, **how) for point in points])

    def list_hooks(
        self, name_filter: Any = None, dir: Literal["fwd", "bwd", "both"] = "both", including_permanent: bool = True
    ) -> dict[str, list[LensHandle]]:
        """The attached hooks by hook point, as in TransformerLens. Raises KeyError if a filter matches nothing."""
        if name_filter is not None:
            self._existing(name_filter)
        with self.in_use.held():
            return super().list_hooks(name_filter, dir, including_permanent)

    def reset_hooks(self, *args: Any, **kwargs: Any) -> None:
        """Remove hooks, as in TransformerLens."""
        with self.in_use.held():
            super().reset_hooks(*args, **kwargs)

    def get_caching_hooks(self, names_filter: NamesFilter = None, *args: Any, **kwargs: Any) -> Any:
        """The hooks that fill a cache, as in TransformerLens. Raises as `names_matching`."""
        return super().get_caching_hooks(self.names_matching(names_filter), *args, **kwargs)

    def add_caching_hooks(self, names_filter: NamesFilter = None, *args: Any, **kwargs: Any) -> dict:
        """Attach hooks that fill a cache, as in TransformerLens. Raises as `names_matching`."""
        with self.in_use.held():
            return super().add_caching_hooks(self.names_matching(names_filter), *args, **kwargs)

    def run_with_cache(
        self, *model_args: Any, return_cache_object: bool = True, remove_batch_dim: bool = False, **kwargs: Any
    ) -> tuple[Tensor, Any]:
        """The logits and every activation, or those that `names_filter` names.

        Args:
            *model_args: What the model takes.
            return_cache_object: Whether to give an `ActivationCache` or a plain dict.
            remove_batch_dim: Whether to drop the batch axis of a single example.
            **kwargs: `names_filter`, `device`, `pos_slice` and the rest of TransformerLens's options.

        Raises:
            KeyError, ValueError: As `names_matching`; `incl_bwd`, since no output of BLIP is a scalar.
        """
        if kwargs.get("incl_bwd"):
            raise ValueError(
                "incl_bwd needs a scalar output, and this model gives logits: attach hooks(bwd_hooks=...) and call "
                "backward on a metric of the logits inside the block"
            )
        with self.in_use.held() as changes:
            changes.at_end(self._stop_caching)
            out, cache = super().run_with_cache(*model_args, remove_batch_dim=remove_batch_dim, **kwargs)
        if remove_batch_dim and len(out) != 1:
            raise ValueError(f"remove_batch_dim=True needs a single example; this batch has {len(out)}")
        if not return_cache_object:
            return out, cache
        return out, self.make_cache(cache, not remove_batch_dim, model_args[0] if model_args else kwargs.get("inputs"))

    def make_cache(self, cache: dict[str, Tensor], has_batch_dim: bool, inputs: Any = None) -> ActivationCache:
        """Return the cache object of a run on `inputs`."""
        return ActivationCache(cache, self, has_batch_dim)


def _some(names: Mapping[str, HookPoint]) -> str:
    """Return the first few names, as examples for a message."""
    first = list(names)[:3]
    return ", ".join(first) + (", ..." if len(names) > len(first) else "")
