"""The report's text, its safety and its size, without a browser."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

import made_results as made
from notice_lens import viz
from notice_lens.pairs import mini_world
from notice_lens.report.data import ReportData
from notice_lens.report.label_rows import label_rows
from notice_lens.report.page_data import fitting, page_data, safe_json
from notice_lens.report.sentences import findings
from notice_lens.report.small_pictures import forest, forest_limits
from notice_lens.viz import words
from notice_lens.viz.words import percent, shade, small, whole
from report_pages import stored


@pytest.fixture(scope="module")
def data(mini) -> ReportData:
    """A third of a demo's: one task, two corruptions, 24 pairs each."""
    states = mini_world("states", 24)
    pairs = {"states, image": states, "states, text": states}
    effects = {name: made.swept(one, name.split(", ")[1]) for name, one in pairs.items()}
    important = {name: made.important(seed=number) for number, name in enumerate(pairs)}
    return ReportData.collect(
        mini,
        pairs,
        effects,
        important=important,
        profiles=dict.fromkeys(pairs, made.profile()),
        universal=made.universal(important),
        functions=made.functions(),
        labels=made.labels(),
        notes=["Outlier avoidance is not testable: there are no outliers."],
        progress=False,
    )


@pytest.fixture(scope="module")
def text(data, tmp_path_factory) -> str:
    return viz.report(data, tmp_path_factory.mktemp("page") / "report.html").read_text(encoding="utf-8")


class Reader(HTMLParser):
    """The page's elements, and its text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data


def test_a_demo_of_three_such_tasks_is_small(text):
    assert 0.5e6 < len(text.encode()) < 12e6 / 3


def test_the_numbers_that_matter_are_said(text):
    said = " ".join(Reader(text).text.split())
    null = "by their layers alone 0.3 would be expected (as many: p .012)"
    assert f"2 of 24 heads are universal over 2 conditions; {null}: L1.H2, L2.H5." in said
    assert "Implicit segmentation, confirmed by cutting attention: L1.H2. Such a head looks at" in said
    assert "cutting inside the object costs 12 % of the gap [8, 16], p = 0.001" in said
    assert "constant masks" in said
    assert "not testable: there are no outliers" in said
    assert "+21.7 % [+18.8, +24.6]" in said
    assert "60 (58 clusters)" in said
    assert "centre of mass 1.10 [0.90, 1.30]" in said
    assert "arXiv:2406.16320" in said
    assert "q at most 0.05" in said


def test_every_condition_has_a_heat_map_of_all_heads(text, data):
    buttons = [
        attrs for tag, attrs in Reader(text).tags if tag == "button" and attrs.get("class", "").startswith("cell ")
    ]
    assert len(buttons) == 2 * 24
    assert sum(button["tabindex"] == "0" for button in buttons) == 2, "one stop for the tab key in each map"
    best = next(button for button in buttons if (button["data-layer"], button["data-head"]) == ("1", "2"))
    assert best["class"].split()[0] == "cell"
    assert best["class"].split()[-1] == "significant"
    assert {"p7", "p8"} & set(best["class"].split())
    assert best["aria-label"] == "L1.H2: +21.7\xa0% [+18.8, +24.6]; rules passed: significant, two-sigma"


def test_nothing_is_loaded_and_the_policy_has_the_hashes(text):
    tags = Reader(text).tags
    assert not [tag for tag, _ in tags if tag in ("link", "iframe", "object", "embed", "base")]
    assert not [name for _, attrs in tags for name in attrs if name == "style" or name.startswith("on")]
    assert all(attrs["src"].startswith("data:image/") for _, attrs in tags if "src" in attrs)
    hrefs = [attrs["href"] for tag, attrs in tags if tag == "a"]
    assert hrefs
    assert all(href.startswith("#") for href in hrefs)
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {href[1:] for href in hrefs} <= set(ids)
    policy = next(attrs["content"] for tag, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    for kind, tag in (("style-src", "style"), ("script-src", "script")):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1]
        assert f"{kind} 'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'" in policy


NASTY = "</script><script>alert(1)</script><!--\u2028\u2029<img src=x onerror=alert(2)> \"&'"


def test_nothing_that_a_user_wrote_becomes_markup(data, tmp_path):
    pair = replace(
        data.pairs[0], id=NASTY, task=NASTY, group=NASTY, prompts={"clean": NASTY, "corrupt": NASTY},
        spans={"clean": {NASTY: (0, 5)}},
        answers={"clean": NASTY, "image": NASTY}, regions={"clean": {NASTY: np.eye(8, dtype=bool)}, "corrupt": {}},
    )  # fmt: skip
    heads = data.conditions[0].heads.assign_attrs(ranked_by=NASTY, rule=NASTY)
    condition = replace(
        data.conditions[0], name=NASTY, task=NASTY, role=NASTY, facts={NASTY: NASTY, "sites": NASTY}, heads=heads
    )
    labels = (
        {"layer": 1, "head": 2, "label": NASTY, "evidence": NASTY},
        {"layer": None, "reason": NASTY, "testable": False},
    )
    nasty = replace(
        data, title=NASTY, conditions=(condition, *data.conditions[1:]), pairs=(pair, *data.pairs[1:]), labels=labels,
        notes=(NASTY,), settings={NASTY: NASTY, "model": NASTY}, functions={NASTY: made.functions()},
    )  # fmt: skip
    text = viz.report(nasty, tmp_path / "report.html").read_text(encoding="utf-8")
    clean = viz.report(data, tmp_path / "clean.html").read_text(encoding="utf-8")
    count = [tag for tag, _ in Reader(text).tags].count
    expected = [tag for tag, _ in Reader(clean).tags].count
    assert (count("script"), count("img"), count("style")) == (expected("script"), expected("img"), 1)
    assert not [name for _, attrs in Reader(text).tags for name in attrs if name.startswith("on")]
    assert "<!--" not in text
    assert stored(text)["pairs"][0]["id"] == NASTY
    assert nasty.title in Reader(text).text


def test_json_has_no_character_that_ends_its_element():
    value = {"<!--": ["</script>", "\u2028\u2029", "&lt;", 'quote " and \\']}
    text = safe_json(value)
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        safe_json([float("nan")])


def test_attention_on_the_page_is_what_was_kept(data, text):
    sent = stored(text)["attention"]
    number, run, role = 3, "image", "correct"
    one = sent["maps"][str(number)][run]
    row = one["roles"].index(sent["roles"].index(role))
    patches = np.frombuffer(base64.b64decode(one["patches"]), np.uint8).reshape(len(one["roles"]), 3, 8, 64)
    sizes = np.frombuffer(base64.b64decode(one["sizes"]), "<u2").reshape(2, len(one["roles"]), 3, 8) / 65535
    kept = data.maps().isel(pair=number).sel(run=run, role=role)
    found = patches[row] / 255 * sizes[0, row][..., None]
    assert np.allclose(found, kept, atol=1e-4)
    assert np.allclose(sizes[1, row], kept.elsewhere, atol=1e-4)


def test_a_budget_takes_roles_first_and_then_pairs(data):
    full = fitting(data, 10**9)
    assert full.most is None
    assert set(full.roles) > {"correct", "noun"}
    roles = fitting(data, 200_000)
    assert roles == (("correct",), None)
    few = fitting(data, 60_000)
    assert few.roles == ("correct",)
    assert 1 <= few.most < 24
    sent = page_data(data, 60_000)
    assert {len(condition["shown"]) for condition in sent["conditions"]} == {few.most}
    assert sum(len(run["patches"]) for maps in sent["attention"]["maps"].values() for run in maps.values()) <= 60_000


def test_what_numbers_are_is_said_for_each_condition(data, tmp_path):
    """A condition of a text corruption is ranked by matched; its numbers are no differences, and are not called so."""
    image, text = (replace(condition, heads=condition.heads.copy()) for condition in data.conditions)
    image.heads.attrs["ranked_by"], text.heads.attrs["ranked_by"] = "matched minus mismatched", "matched"
    mixed = replace(data, conditions=(image, text), labels=())
    page = viz.report(mixed, tmp_path / "mixed.html").read_text(encoding="utf-8")
    assert re.findall(r'class="number">([a-z ]*matched[^<[]*) \[interval\]</th>', page) == [
        *("matched", "mismatched", "matched minus mismatched"),
        *("matched", "mismatched"),
    ]
    assert "what is ranked, as each map says" in page
    assert [condition["ranked"] for condition in page_data(mixed)["conditions"]] == [
        "matched minus mismatched",
        "matched",
    ]
    alone = replace(mixed, conditions=(text,), universal=None)
    assert "mismatched image does" not in " ".join(findings(alone))


def test_every_count_and_number_has_its_null_its_clusters_and_its_interval(data, text):
    """The headline, the table of universal heads and the strongest head say what they rest on."""
    first, strongest, *_ = findings(data)
    null = "by their layers alone 0.3 would be expected (as many: p .012)"
    assert "2 of 24 heads are universal over 2 conditions" in first
    assert null in first
    assert re.search(
        r"restores \+\d+\.\d.% \[.+\] of the gap, and .+% \[.+\] from an unrelated picture. The difference is "
        r"\+21\.7.% \[\+18\.8, \+24\.6\] of the gap: significantly more than 2.%, corrected for all heads ",
        strongest,
    )
    assert re.search(r"\(q (= |< )\.\d{3}; 60 pairs, \d+ clusters\)\.$", strongest)
    assert "middle layers 33% [25%, 40%]; p = .400" in text
    assert null in text.split("Universal heads</h2>")[1]
    assert "as a share of what the donor leaves of the gap" in text
    assert "For instance L1.H2 in states, image: matched 23.9 less mismatched 2.2 is 21.7\xa0% of the gap." in text
    assert "leaves 70\xa0% of the gap to bring back, and of that it is 31.0\xa0%." in text
    assert re.findall(r'data-values="(\w+)"', text) == ["map", "effect_matched", "effect_mismatched", "effect"]


def test_matched_and_mismatched_have_intervals_of_their_own(data, text):
    """In the table, with the level and the clusters above it, and in what the script reads; none without them."""
    heads = data.conditions[0].heads.sel(layer=1, head=2)
    section = text.split("The strongest heads, with their intervals</h2>")[1].split("</section>")[0]
    row = next(row for row in section.split("<tr>") if 'data-condition="0" data-layer="1" data-head="2"' in row)
    found = re.findall(r'<td class="number">([^ <]*)\xa0% \[([^,]*), ([^]]*)\]</td>', row)
    columns = (f"effect_{name}" for name in ("matched", "mismatched"))
    names = [(name, f"{name}_low", f"{name}_high") for name in (*columns, "effect_of_gap")]
    said = [[float(number.replace("\N{MINUS SIGN}", "-")) for number in each] for each in found]
    np.testing.assert_allclose(said, [[100 * float(heads[name]) for name in each] for each in names], atol=0.051)
    assert "the 95\xa0% interval of each" in section
    assert "states, image: 60 pairs, 58 clusters" in section
    sent = stored(text)["conditions"][0]["values"]
    for name in ("effect_matched_low", "effect_matched_high", "effect_mismatched_low", "effect_mismatched_high"):
        np.testing.assert_allclose(sent[name], data.conditions[0].heads[name].values.ravel(), rtol=1e-4)


def test_heads_of_an_earlier_version_have_no_interval_of_the_parts(data, tmp_path):
    """Their report is read as before; nothing is said of intervals that are not there."""
    ends = [name for name in data.conditions[0].heads if re.search("matched_|gap_", str(name))]
    assert len(ends) == 6
    older = [replace(one, heads=one.heads.drop_vars(ends)) for one in data.conditions]
    page = viz.report(replace(data, conditions=tuple(older)), tmp_path / "page.html").read_text(encoding="utf-8")
    section = page.split("The strongest heads, with their intervals</h2>")[1].split("</section>")[0]
    assert "interval of each" not in section
    assert 'class="number">matched</th>' in section
    assert "minus mismatched [interval]" in section


def test_no_universal_head_is_said_plainly(data):
    important = {condition.name: condition.heads for condition in data.conditions}
    none = replace(data, universal=made.universal(important, none=True), labels=())
    assert findings(none)[0].startswith("No head is universal: none of 24 is significant in all 2 conditions.")
    assert findings(none)[0].endswith("The nearest is L1.H2, significant in 2 of 2.")


@pytest.mark.parametrize("seed", range(4))
def test_the_head_that_is_called_nearest_is_the_first_of_the_table(data, tmp_path, seed):
    """Where all p are 1 the count decides, in the headline and in the table, which shows twelve heads of 24."""
    draw = np.random.default_rng(seed)
    important = {condition.name: condition.heads for condition in data.conditions}
    found = made.universal(important, none=True)
    count = np.zeros(found["count"].shape, int)
    layer, head = int(draw.integers(3)), int(draw.integers(8))
    count[layer, head] = 1
    effect = found.effect.copy(data=draw.uniform(0.1, 1, found.effect.shape))
    effect.loc[{"layer": layer, "head": head}] = 1e-6  # the least of all: only the count speaks for it
    found = found.assign(p=found.p * 0 + 1, q=found.p * 0 + 1, count=(("layer", "head"), count), effect=effect)
    none = replace(data, universal=found, labels=())
    assert findings(none)[0].endswith(f"The nearest is L{layer}.H{head}, significant in 1 of 2.")
    page = viz.report(none, tmp_path / "page.html").read_text(encoding="utf-8")
    rows = Reader(page[page.index('class="plain universal"') :]).tags
    first = next(attrs for tag, attrs in rows if tag == "button")
    assert (first["data-layer"], first["data-head"]) == (str(layer), str(head))
    assert viz.universal(found, top=1).data[0].y[0] == f"L{layer}.H{head}"


@pytest.mark.parametrize("rules", [["significant", "two_sigma"], ["significant"]])
def test_what_was_not_tested_is_never_called_not_significant(data, tmp_path, rules):
    """Too few clusters: no p, so neither a count of significant heads, nor a verdict on one, nor on universal ones."""
    kept = ["effect", "low", "high", "p", "q", *rules]
    conditions = tuple(
        replace(condition, heads=made.untested(condition.heads)[kept].assign_attrs(condition.heads.attrs))
        for condition in data.conditions
    )
    universal = made.universal({condition.name: condition.heads for condition in data.conditions}, none=True)
    nothing = universal.p * np.nan
    universal = universal.assign(p=nothing, q=nothing, count=universal["count"] * 0, selection_frequency=nothing)
    untested = replace(data, conditions=conditions, universal=universal, labels=())
    text = viz.report(untested, tmp_path / "untested.html").read_text(encoding="utf-8")
    said = " ".join(Reader(text).text.split())
    assert "nan" not in said.lower()
    assert said.count("not tested") > 10
    assert "none of 24 passes" not in said
    assert findings(untested)[0].startswith("Universal heads: not tested")
    labels = [attrs["aria-label"] for tag, attrs in Reader(text).tags if "cell " in str(attrs.get("class"))]
    assert len(labels) == 48
    assert all("significance not tested" in label for label in labels)
    hovers = viz.heads(conditions[0].heads).data[0].customdata.ravel()
    assert all("significant: not tested" in hover for hover in hovers)
    assert "not tested" in viz.heads(conditions[0].heads).layout.title.subtitle.text
    assert "not tested" in viz.universal(universal).layout.title.text


def test_one_condition_that_was_not_tested_beside_one_that_was(data, tmp_path):
    conditions = (data.conditions[0], replace(data.conditions[1], heads=made.untested(data.conditions[1].heads)))
    mixed = replace(data, conditions=conditions, universal=None, labels=())
    page = viz.report(mixed, tmp_path / "mixed.html").read_text(encoding="utf-8")
    summary = page[page.index("Summary of the conditions") : page.index("Heads and pairs</h2>")]
    rows = re.findall(r'<td class="number">([^<]*)</td><td class="number">2</td>', summary)
    assert rows == ["2", "not tested"]


@pytest.mark.parametrize("missing", ["no variable", "no donor", "one donor"])
def test_without_a_mismatched_effect_none_is_drawn(data, tmp_path, missing):
    """Not at zero, where it would say that a wrong image restores nothing."""
    heads = data.conditions[0].heads.copy(deep=True)
    if missing == "no variable":
        heads = heads.drop_vars("effect_mismatched")
    elif missing == "no donor":
        heads["effect_mismatched"] = heads.effect_mismatched * np.nan
    else:
        heads["effect_mismatched"] = heads.effect_mismatched.where(heads.effect == heads.effect.max())
    one = replace(data, conditions=(replace(data.conditions[0], heads=heads),), universal=None, labels=())
    tags = Reader(viz.report(one, tmp_path / "one.html").read_text(encoding="utf-8")).tags
    drawn = [attrs for tag, attrs in tags if tag == "circle" and attrs.get("class") == "mismatched" and "cx" in attrs]
    in_rows = [attrs for attrs in drawn if attrs["cx"] != "6"]  # the key has one of its own
    assert len(in_rows) == (1 if missing == "one donor" else 0)
    lines = [attrs for tag, attrs in tags if tag == "line" and attrs.get("class") == "mismatched"]
    assert len(lines) == len(in_rows)
    others = [
        attrs for tag, attrs in tags if tag == "circle" and attrs.get("class") == "matched" and attrs["cx"] != "6"
    ]
    assert len(others) == 6, "the heads' own effects are drawn all the same"


def test_a_forest_is_drawn_to_one_scale(data):
    """Places are linear in the effects, over all conditions; an interval that ends far out is cut off at the edge."""
    limits = forest_limits(data.conditions)
    for condition in data.conditions:
        rows = forest(condition, limits)
        assert len(rows) == 6
        for row in rows:
            at = condition.heads.sel(layer=row["layer"], head=row["head"])
            names = ("effect_matched", "effect_mismatched") if len(row["marks"]) == 2 else ("effect",)
            for mark, name in zip(row["marks"], names, strict=True):
                ends = words.interval_of(name)
                expected = [10 + 220 * (float(at[one]) - limits[0]) / (limits[1] - limits[0]) for one in (name, *ends)]
                assert [mark["x"], mark["low"], mark["high"]] == pytest.approx(np.clip(expected, 10, 230), abs=0.06)
    wide = data.conditions[0].heads.assign(effect_matched_high=data.conditions[0].heads.effect_matched_high + 13)
    assert {row["marks"][0]["high"] for row in forest(replace(data.conditions[0], heads=wide), limits)} == {230.0}


def test_numbers_that_are_missing_are_neither_drawn_nor_written(data, tmp_path):
    """A profile without a share, an interval or a centre; a baseline; a frequency."""
    profile = made.profile() * np.nan
    profile["share"][0] = 1.0
    facts = {**data.conditions[0].facts, "logit_diff_corrupt": None}
    assert data.universal is not None
    universal = data.universal.assign(selection_frequency=data.universal.selection_frequency * np.nan)
    conditions = (replace(data.conditions[0], profile=profile, facts=facts), data.conditions[1])
    page = viz.report(replace(data, conditions=conditions, universal=universal), tmp_path / "missing.html")
    reader = Reader(page.read_text(encoding="utf-8"))
    assert "nan" not in reader.text.lower()
    assert not [value for _, attrs in reader.tags for value in attrs.values() if value == "nan"]
    assert len([1 for _, attrs in reader.tags if attrs.get("class") == "share"]) == 1 + 3
    assert len([1 for _, attrs in reader.tags if attrs.get("class") == "interval"]) == 3


@pytest.mark.parametrize("scale", [0.0, 1e-5, -1e-5, np.nan])
def test_no_effect_at_all_is_no_strongest_head(data, scale):
    sign = np.sign(data.conditions[0].heads[["effect", "low", "high"]])
    conditions = tuple(replace(condition, heads=condition.heads.assign(sign * scale)) for condition in data.conditions)
    (said,) = findings(replace(data, conditions=conditions, universal=None, labels=()))
    assert (
        said == "No head has an effect at \N{LEFT DOUBLE QUOTATION MARK}correct\N{RIGHT DOUBLE QUOTATION MARK}: "
        "all are below 0.05\xa0% of the gap."
    )


def test_labels_by_task_are_of_that_tasks_conditions(data, mini):
    """Of several tasks a label that names none belongs to no condition; of one task it needs no name."""
    first, second = data.conditions[0], replace(data.conditions[1], task="faces")
    rows = label_rows({"states": made.labels(), "faces": [{"layer": 0, "head": 3, "label": "object inhibition"}]})
    named = replace(data, conditions=(first, second), labels=(*rows, {"layer": 2, "head": 7, "label": "unknown task"}))
    sent = {(row["layer"], row["head"]): row["conditions"] for row in page_data(named)["labels"]}
    assert sent == {(1, 2): [0], (0, 3): [1], (2, 7): []}
    said = findings(named)[-3:]
    assert [one.split(". Such")[0] for one in said] == [
        "Implicit segmentation, confirmed by cutting attention: L1.H2 in states",
        "Object inhibition, confirmed by cutting attention: L0.H3 in faces",
        "Unknown task, confirmed by cutting attention: L2.H7.",
    ]
    alone = page_data(replace(data, labels=tuple(made.labels())))["labels"]
    assert [row["conditions"] for row in alone] == [[0, 1]]


def test_plain_means_alone_and_a_condition_without_any_effect(data, tmp_path):
    heads = data.conditions[0].heads[["effect"]]
    heads.attrs = {}
    alone = replace(
        data,
        conditions=(replace(data.conditions[0], heads=heads),),
        universal=None,
        labels=(),
        functions={},
        attention=None,
    )
    text = viz.report(alone, tmp_path / "alone.html").read_text(encoding="utf-8")
    for absent in ("Matched against", "Universal heads", "What heads do", "significant"):
        assert absent not in Reader(text).text
    assert "do not look at the image" in text
    nothing = replace(alone, conditions=(replace(alone.conditions[0], heads=heads * np.nan),))
    said = Reader(viz.report(nothing, tmp_path / "none.html").read_text(encoding="utf-8")).text
    assert "No effect: the clean and the corrupted run answer alike" in said
    assert "nan" not in said.lower()
    with pytest.raises(ValueError, match="a report needs at least one condition"):
        viz.report(replace(data, conditions=()), tmp_path / "x.html")


def test_words_of_numbers():
    assert [percent(value) for value in (0.234, -0.5, 0.0, -0.0001, np.nan)] == [
        "+23.4\xa0%", "\N{MINUS SIGN}50.0\xa0%", "0.0\xa0%", "0.0\xa0%", "none",
    ]  # fmt: skip
    assert [whole(value) for value in (0.234, -0.5, -0.001, np.nan)] == ["23", "\N{MINUS SIGN}50", "0", ""]
    assert [small(value) for value in (0.0123, 1e-5, 1.0, np.nan)] == [".012", "< .001", "1.000", "not tested"]
    assert [shade(value, 0.8) for value in (0.8, -0.4, 0.01, np.nan, 2.0)] == ["p8", "n4", "z", "none", "p8"]


def test_wide_intervals_leave_the_colours_to_the_effects(data, tmp_path):
    """Of few pairs an interval may reach many times its effect; it stands in no map, and the scale is the maps'."""
    wider = []
    for one in data.conditions:
        ends = [name for name in one.heads if str(name).endswith(("low", "high"))]
        wider.append(replace(one, heads=one.heads.assign({name: one.heads[name] * 100 for name in ends})))
    assert any("effect_matched_low" in one.heads for one in wider)
    pages = [
        viz.report(replace(data, conditions=tuple(some)), tmp_path / f"{number}.html").read_text(encoding="utf-8")
        for number, some in enumerate((data.conditions, wider))
    ]
    first, second = (re.search(r"full colour at ([^<]+)<", page) for page in pages)
    assert first is not None
    assert second is not None
    assert first[1] == second[1]
    assert re.findall(r'class="cell (\w+)', pages[0]) == re.findall(r'class="cell (\w+)', pages[1])
