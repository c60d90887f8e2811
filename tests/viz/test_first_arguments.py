"""A first argument that a function cannot draw is answered with a sentence: what it takes, and what came."""

from inspect import unwrap  # without the types that tests check at run time, as a user has it
from typing import Any

import pytest

import made_results as made
from notice_lens import viz
from notice_lens.pairs import mini_world

CALLS = {
    "attention": lambda wrong: viz.attention(wrong, mini_world("states", 1), 0, 2, 2),
    "explore": viz.explore,
    "heads": viz.heads,
    "modules": viz.modules,
    "pairs": viz.pairs,
    "paths": viz.paths,
    "profile": viz.profile,
    "report": lambda wrong: unwrap(viz.report)(wrong, "never-written.html"),
    "show": viz.show,
    "universal": viz.universal,
}


@pytest.fixture(scope="module")
def wrong(mini) -> dict[str, Any]:
    """What a notebook has at hand, by its type."""
    pairs = mini_world("states", 2)
    several = (mini, pairs, pairs[0], made.swept(pairs), [made.swept(pairs)], None, 3)
    return {type(each).__name__: each for each in several}


@pytest.mark.parametrize("name", CALLS)
def test_it_says_what_it_takes_and_what_came(name, wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind, each in wrong.items():
        if (name, kind) in {("heads", "Dataset"), ("pairs", "MinimalPairs")}:
            continue  # which it draws
        with pytest.raises((TypeError, ValueError), match=f"^viz.{name} (takes|draws) ") as raised:
            CALLS[name](each)
        assert kind in str(raised.value) or kind == "Dataset"
    assert not list(tmp_path.iterdir())


def test_it_says_what_would_do(wrong, mini):
    pairs = wrong["MinimalPairs"]
    with pytest.raises(TypeError, match=r"ReportData\.collect\(model, \{name: pairs\}, \{name: effects\}\) makes one"):
        CALLS["report"](wrong["Dataset"])
    with pytest.raises(TypeError, match=r"pairs\[:1\] is a MinimalPairs of one"):
        viz.pairs(pairs[0])
    with pytest.raises(TypeError, match=r"circuits\.attention_maps\(model, pairs\) makes them"):
        CALLS["attention"](mini)
    maps = viz.ReportData.collect(mini, {"one": pairs}, {"one": wrong["Dataset"]}, progress=False).maps()
    for missing in ({"layer": 1}, {"head": 1}, {}):
        with pytest.raises(TypeError, match="draws one head; got layer=.*, head=.*: give both"):
            viz.attention(maps, pairs, **missing)
    assert viz.attention(maps, pairs, 0, 1, 2) == viz.attention(maps, pairs, 0, layer=1, head=2)
