"""The reference's signatures are those that a call has: every option by name, with the default that it uses."""

import inspect
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from notice_lens import HookedBLIP, circuits, pairs, patching, study, viz
from notice_lens.pairs import MinimalPairs, mini_world
from notice_lens.patching.options import Options

pytest.importorskip("sphinx", reason="what writes the reference is of the extra `docs`")
DOCS = Path(__file__).parents[1] / "docs"
signatures = runpy.run_path(str(DOCS / "signatures.py"))
expanded, written = signatures["expanded"], signatures["written"]
HEAD = ["text.cross_attn.L2.H2", "text.cross_attn.L2.H4"]
VERBS: dict[Callable[..., Any], tuple[Any, ...]] = {
    patching.sweep: ("text.cross_attn",),
    patching.patch_heads: (),
    patching.patch_modules: (),
    patching.run_variants: ({"one": patching.Edit("text.cross_attn", 2, 2, source="other")},),
    patching.patch_paths: (),
    patching.knockout: (),
    patching.attribute: ("text.cross_attn",),
    patching.screen: ("text.cross_attn",),
    patching.ablate: ("text.cross_attn",),
    patching.faithfulness: (HEAD,),
    patching.split: (),
    circuits.restoration_curve: (),
    circuits.minimal_circuit: (),
    circuits.circuit_graph: (HEAD,),
}
"""Verbs that take options by name alone, with what they need beside a model and pairs."""


class Read(Exception):
    """Raised in place of a sweep once its options were read."""


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> list[Options]:
    """Return the list of the options that verbs read; the first time stops the verb."""
    seen: list[Options] = []
    of = Options.of.__func__  # pyright: ignore[reportFunctionMemberAccess]

    def read(cls: type[Options], given: Any) -> Options:
        seen.append(of(cls, given))
        raise Read

    monkeypatch.setattr(Options, "of", classmethod(read))
    return seen


@pytest.fixture(scope="module")
def world() -> tuple[HookedBLIP, MinimalPairs]:
    return HookedBLIP.mini(), mini_world("states", n=4, seed=0)


def collected(verb: Callable[..., Any]) -> dict[str, Any]:
    """Return the options that a verb does not write out itself, with the reference's defaults."""
    own = inspect.signature(verb).parameters
    return {name: one.default for name, one in expanded(verb).parameters.items() if name not in own}


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_a_call_uses_the_defaults_that_the_reference_shows(verb: Any, options: list[Options], world: Any) -> None:
    shown = collected(verb)
    assert shown, "nothing was expanded"
    with pytest.raises(Read):
        verb(*world, *VERBS[verb])
    used = options[0]
    decided = {"metrics"} if verb is patching.ablate else set()  # what an ablation needs comes with those asked for
    for name, default in shown.items():
        value = getattr(used, name)
        as_given = (default,) if name == "controls" and isinstance(default, str) else default
        assert name in decided or value == as_given, f"{verb.__name__}: {name}"


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_a_verb_takes_the_options_that_the_reference_shows_and_none_that_it_decides(
    verb: Any, options: list[Options], world: Any, tmp_path: Path
) -> None:
    shown = {**collected(verb), "progress": False}
    if "part" in shown:
        shown |= {"part": (0, 2), "store": tmp_path / "store"}
    with pytest.raises(Read):
        verb(*world, *VERBS[verb], **shown)
    for name in (name for fixed in signatures["_fixed"](verb) for name in fixed):
        assert name not in shown
        with pytest.raises(TypeError, match=f"{name} (is not an option|belongs to)"):
            verb(*world, *VERBS[verb], **{name: getattr(Options(), name)})


def test_rules_of_several_conditions_are_those_of_one() -> None:
    one = inspect.signature(circuits.important_heads).parameters
    for verb in (circuits.universal_heads, circuits.compare_corruptions):
        shown = collected(verb)
        assert {"smallest_effect", "alpha", "cluster"} <= set(shown)
        assert all(default == one[name].default for name, default in shown.items())


@pytest.mark.parametrize("module", [patching, circuits, pairs, viz, study], ids=lambda module: module.__name__)
def test_no_public_signature_hides_its_options(module: Any) -> None:
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isfunction(value):
            shown = written(expanded(value))
            assert "Unpack" not in shown, name
            assert "notice_lens." not in shown, name
            assert " at 0x" not in shown, name


def test_a_signature_is_written_as_it_is_called() -> None:
    def verb(model: HookedBLIP, site: "str | None" = None, **options: Any) -> None: ...

    verb.__annotations__["options"] = "Unpack[JointOptions]"  # as a module writes it that imports the set for types

    shown = written(expanded(verb))
    assert shown.startswith("(model: HookedBLIP, site: str | None = None, *, contrast: Literal['auto', 'incorrect'] =")
    assert "corruption: Literal['image', 'text'] | Noise = 'image'" in shown


def test_an_unknown_set_of_options_is_named() -> None:
    with pytest.raises(ValueError, match="no set of options Misspelt"):
        signatures["option_set"]("Misspelt")
