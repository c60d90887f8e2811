"""The first screen: two pictures, the question and both answers, what heads carry together, and the curve behind it."""

import re
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from made_results import important as made_important
from made_results import swept
from notice_lens import viz
from notice_lens.pairs import behaviour_filter, mini_world
from notice_lens.report.context import page_context
from notice_lens.report.data import ReportData
from notice_lens.report.page_data import fitting
from notice_lens.report.sentences import few_heads, few_heads_rows, findings, idle_heads, worked_example
from notice_lens.report.small_pictures import curve
from notice_lens.viz.circuit_figures import enough_heads


def made_data() -> ReportData:
    states = mini_world("states", 6)
    pairs = {"states, text": states, "states, image": states}
    effects = {name: swept(one, name.rpartition(" ")[2]) for name, one in pairs.items()}
    return ReportData.collect(None, pairs, effects, progress=False)


def made_curve(pairs: int = 30) -> xr.Dataset:
    share = np.array([[0, 0.5, 0.9], [0, 0.4, 1.0]])
    both = ("direction", "size")
    variables = {
        "share": (both, share), "share_low": (both, share - 0.05), "share_high": (both, share + 0.05),
        "turned": (both, share), "random": (both, share / 2), "mismatched": ("size", share[0] / 3),
        "change": ((*both, "pair"), np.zeros((2, 3, pairs))),
        "order": (("half", "rank"), np.array([["text.cross_attn.L0.H1", "text.cross_attn.L1.H0"]] * 2, object)),
    }  # fmt: skip
    coords = {"direction": ["denoise", "noise"], "size": [0, 1, 2]}
    return xr.Dataset(variables, coords, {"n_nodes": 2, "n_random": 7, "pairs": pairs, "clusters": 28})


def with_curve(data: ReportData) -> ReportData:
    return replace(data, curves={data.conditions[0].name: made_curve().drop_dims("pair")})


def test_the_first_sentence_says_how_few_heads_are_enough():
    data = with_curve(made_data())
    task = data.conditions[0].task
    assert findings(data)[0] == (
        f"{task}, where the question is changed: 2 of 2 heads carry 90% [85, 95] of the answer; as many at random 45%; "
        "these heads from an unrelated picture 30% (30 pairs in 28 clusters)."
    )
    assert findings(made_data())[0] != findings(data)[0]


def test_the_table_has_controls_beside_what_few_heads_carry():
    data = with_curve(made_data())
    facts = {"answered_as_expected": [6, 8]}
    data = replace(data, conditions=(replace(data.conditions[0], facts=facts), *data.conditions[1:]))
    (row,) = few_heads_rows(data)
    assert row == {
        "name": "states, where the question is changed", "answered": "6 of 8", "heads": "2 of 2",
        "which": "L0.H1, L1.H0", "share": "90% [85, 95]", "random": "45%", "mismatched": "30%",
    }  # fmt: skip
    with_range = made_curve().assign(mismatched=("size", [np.nan] * 3))
    with_range["random_low"], with_range["random_high"] = with_range["random"] - 0.3, with_range["random"] + 0.4
    (row,) = few_heads_rows(replace(data, curves={data.conditions[0].name: with_range}))
    assert (row["random"], row["mismatched"]) == ("45% [15, 85]", "not measured")


def test_one_sentence_is_of_all_conditions():
    data = made_data()
    text, image = (one.name for one in data.conditions)
    assert few_heads(data) == ""
    one = replace(data, curves={image: made_curve()})
    assert few_heads(one) == (
        "2 of 2 heads carry 80\N{NO-BREAK SPACE}% of the answer and more from picture to words; as many random heads "
        "45\N{NO-BREAK SPACE}% and the same heads from an unrelated picture 30\N{NO-BREAK SPACE}%."
    )
    fewer = made_curve()
    fewer["share"][0] = np.array([0, 0.83, 0.95])
    both = replace(data, curves={text: made_curve(), image: fewer})
    weak = made_curve()
    weak["share"][0] = np.array([0, 0.3, 0.5])
    assert few_heads(replace(data, curves={image: weak})).startswith("2 of 2 heads carry 50\N{NO-BREAK SPACE}% of the")
    assert few_heads(both) == (
        "In each of 2 conditions, 1 to 2 of 2 heads carry 80\N{NO-BREAK SPACE}% of the answer and more; as many random "
        "heads 25 to 45\N{NO-BREAK SPACE}% and the same heads from an unrelated picture 17 to 30\N{NO-BREAK SPACE}%."
    )


def test_pairs_that_the_model_answers_are_counted(mini):
    """The count is that of the last filter for the condition's corruption, whatever was selected after it."""
    states = mini_world("states", 8, seed=3)
    kept = {corruption: behaviour_filter(mini, states, corruption, progress=False) for corruption in ("image", "text")}
    pairs = {f"states, {corruption}": own.select(range(2)) for corruption, own in kept.items()}
    effects = {name: swept(one, name.rpartition(" ")[2]) for name, one in pairs.items()}
    data = ReportData.collect(None, pairs, effects, progress=False)
    found = {one.corruption: one.facts["answered_as_expected"] for one in data.conditions}
    assert found == {corruption: [len(own), 8] for corruption, own in kept.items()}


def test_the_first_pair_has_its_pictures_and_both_answers():
    data = made_data()
    first = page_context(data, fitting(data, 10**7))["first_pair"]
    condition = next(one for one in data.conditions if one.corruption == "image")
    pair = data.pairs[condition.shown[0]]
    assert first["question"] == pair.prompts["clean"]
    assert [picture["answer"] for picture in first["pictures"]] == [pair.answers["clean"], pair.answers["image"]]
    assert all(picture["address"].startswith("data:image/") for picture in first["pictures"])


def test_a_curve_is_drawn_to_scale():
    drawn = curve("states", made_curve())
    assert drawn["share"] == "10.0,120.0 130.0,67.5 250.0,25.5"
    assert drawn["random"] == "10.0,120.0 130.0,93.8 250.0,72.8"
    assert drawn["band"].split()[0] == "10.0,125.2"
    assert len(drawn["band"].split()) == 6
    without = made_curve()
    without["mismatched"] = without["mismatched"] * np.nan
    assert curve("states", without)["mismatched"] == ""


def test_the_page_and_the_folder_keep_the_curve(tmp_path):
    data = with_curve(made_data())
    data.save(tmp_path / "report")
    again = ReportData.load(tmp_path / "report")
    (name,) = again.curves
    xr.testing.assert_allclose(again.curves[name].drop_vars("order"), data.curves[name].drop_vars("order"))
    page = viz.report(again, tmp_path / "page.html").read_text()
    assert 'class="profile together"' in page
    assert "What the best heads carry together" in page
    assert page == viz.report(data, tmp_path / "other.html").read_text()
    plain = viz.report(made_data(), tmp_path / "plain.html").read_text()
    assert "What the best heads carry together" not in plain


def test_what_is_not_a_curve_is_refused():
    from notice_lens.report.collect import without_pairs

    with pytest.raises(ValueError, match=r"curves: expected results of circuits.restoration_curve"):
        without_pairs(xr.Dataset({"share": 1.0}))
    assert "change" not in without_pairs(made_curve())


def test_conditions_of_pictures_are_named_by_their_tasks():
    data = made_data()
    image = next(one for one in data.conditions if one.corruption == "image")
    (row,) = few_heads_rows(replace(data, curves={image.name: made_curve()}))
    assert row["name"] == "states"
    twice = replace(data, conditions=(*data.conditions, replace(image, name="states, other pictures")))
    rows = few_heads_rows(replace(twice, curves={image.name: made_curve(), "states, other pictures": made_curve()}))
    assert [row["name"] for row in rows] == ["states, where the picture is changed", "states, other pictures"]


def test_heads_that_one_half_alone_ranks_among_the_best_are_in_brackets():
    one_sided = made_curve()
    one_sided["order"] = (("half", "rank"), np.array([["s.L0.H1", "s.L1.H0"], ["s.L1.H0", "s.L0.H1"]], object))
    fewer = one_sided.copy(deep=True)
    fewer["share"][0] = np.array([0, 0.83, 0.95])
    assert enough_heads(fewer).names == ["(L0.H1)", "(L1.H0)"]
    assert enough_heads(one_sided).names == ["L0.H1", "L1.H0"]


def test_heads_that_do_nothing_are_counted():
    """Random heads are a weak control where most heads do nothing, and the page says so."""
    data = with_curve(made_data())
    quiet = []
    for one in data.conditions:
        effect = one.heads["effect"].copy(deep=True)
        effect[:2] = effect[:2].where(np.abs(effect[:2]) > 0.2, 0.0004)
        quiet.append(replace(one, heads=one.heads.assign(effect=effect)))
    idle = sum(
        max(abs(float(one.heads["effect"][layer, head])) for one in quiet) < 0.001
        for layer in range(3)
        for head in range(8)
    )
    assert idle > 10
    assert idle_heads(replace(data, conditions=tuple(quiet))).startswith(f"{idle} of the 24 heads do nothing here")
    assert idle_heads(made_data()) == ""


def test_the_arithmetic_of_a_share_of_what_the_donor_leaves_is_shown():
    heads = made_important()
    data = made_data()
    data = replace(data, conditions=(replace(data.conditions[0], heads=heads), *data.conditions[1:]))
    said = worked_example(data)
    assert said.startswith(f"For instance L1.H2 in {data.conditions[0].name}: matched ")
    numbers = [float(one.replace(",", "")) for one in re.findall(r"\d+\.?\d*", said.partition(": ")[2])]
    matched, mismatched, of_gap, left, share = numbers
    assert matched - mismatched == pytest.approx(of_gap, abs=0.11)
    assert of_gap / left * 100 == pytest.approx(share, abs=0.5)


def test_what_was_left_out_is_said_on_the_first_screen_with_or_without_curves(tmp_path):
    note = "scenes, text: left out, the model answers 0 of 40 pairs as expected."
    for number, data in enumerate((made_data(), with_curve(made_data()))):
        page = viz.report(replace(data, notes=(note, "another note")), tmp_path / f"{number}.html").read_text()
        head = page[page.index("<header") : page.index("</header>")]
        assert note in head
        assert "another note" not in head
