"""Signatures of the verbs: what Shift-Tab shows."""

import inspect
import re
from typing import Any, get_type_hints

import pytest

from notice_lens import patching
from notice_lens.patching.options import Options, SweepOptions

VERBS = (
    "sweep", "patch_heads", "patch_modules", "patch_paths", "run_variants", "ablate", "faithfulness", "screen",
    "attribute", "split", "pairs_of_heads",
)  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_every_parameter_has_a_type_that_says_something(verb):
    for parameter in inspect.signature(getattr(patching, verb)).parameters.values():
        shown = str(parameter.annotation)
        assert parameter.annotation not in (inspect.Parameter.empty, Any), parameter
        assert "Any" not in shown.replace("Any]", ""), parameter
        if parameter.kind is parameter.VAR_KEYWORD:
            assert re.fullmatch(r"Unpack\[\w*Options\]", shown)


def test_patch_heads_shows_what_matters():
    parameters = inspect.signature(patching.patch_heads).parameters
    defaults = {name: parameters[name].default for name in ("corruption", "direction", "controls", "store", "source")}
    assert defaults == {
        "corruption": "image", "direction": "denoise", "controls": ("self", "mismatched"), "store": None,
        "source": "other",
    }  # fmt: skip
    for name in ("sweep", "patch_heads"):
        own = inspect.signature(getattr(patching, name)).parameters
        for option in own.keys() & Options.__dataclass_fields__.keys():
            assert own[option].default == Options.__dataclass_fields__[option].default, option


def test_the_set_of_options_is_the_options():
    assert SweepOptions.__annotations__.keys() == Options.__dataclass_fields__.keys()
    for name in SweepOptions.__annotations__:
        assert f"        {name}: " in (SweepOptions.__doc__ or ""), name
    assert get_type_hints(Options)["direction"] is Any
