"""The page of a study of a large model stays small enough to send to somebody."""

import numpy as np
import xarray as xr
from PIL import Image

import made_results as made
from notice_lens import viz
from notice_lens.report.data import ReportData, ReportPicture, ShownCondition, ShownPair
from notice_lens.report.image_bytes import thumbnail
from report_pages import stored

ONE_PAIR = (2, 2, 32, 32)  # run, role, layer, head


def a_photograph(g: np.random.Generator) -> ReportPicture:
    """A picture that compresses badly, as large as a page takes one."""
    small = Image.fromarray(g.integers(0, 256, (40, 40, 3), np.uint8)).resize((320, 320), Image.Resampling.BICUBIC)
    return ReportPicture(*thumbnail(small))


def test_a_study_of_a_large_model_has_a_page_of_less_than_20_mb(tmp_path):
    """Six conditions of 1,024 heads that look at 576 patches, and 24 pairs of each with photographs."""
    g, n = np.random.default_rng(0), 24
    conditions = [f"task {k}, {which}" for k in range(3) for which in ("image", "text")]
    heads = {name: made.important(32, 32, seed=number) for number, name in enumerate(conditions)}
    shown = tuple(
        ShownCondition(
            name, name.partition(",")[0], name.rpartition(" ")[2], "last", found, tuple(range(k * n, (k + 1) * n)),
            g.normal(size=(n, 32, 32)), {},
        )
        for k, (name, found) in enumerate(heads.items())
    )  # fmt: skip
    pairs = tuple(
        ShownPair(
            f"pair {k}", shown[k // n].task, "", {"clean": "is it red or green?"}, {"clean": "red"}, {},
            {side: a_photograph(g) for side in ("clean", "corrupt")}, {},
        )
        for k in range(n * len(shown))
    )  # fmt: skip
    patches = g.integers(0, 256, (*ONE_PAIR, 576), np.uint8)
    dims, one = ("pair", "run", "role", "layer", "head"), g.uniform(size=ONE_PAIR).astype(np.float32)
    size = (len(pairs), *one.shape)
    attention = xr.Dataset(
        {
            "attention": ((*dims, "patch"), np.broadcast_to(patches, (*size, 576))),
            "largest": (dims, np.broadcast_to(one, size)),
            "elsewhere": (dims, np.broadcast_to(one, size)),
        },
        {"pair": [pair.id for pair in pairs], "run": ["clean", "image"], "role": ["last", "noun"],
         "layer": range(32), "head": range(32)},
        {"grid": (24, 24), "beside": "class token"},
    )  # fmt: skip
    data = ReportData("A large study", shown, pairs, attention, universal=made.universal(heads))
    page = viz.report(data, tmp_path / "report.html")
    assert 5e6 < page.stat().st_size < 20e6
    sent = stored(page.read_text(encoding="utf-8"))
    assert [condition["shown"] for condition in sent["conditions"]] == [[place] for place in range(6)]
    assert [pair["id"] for pair in sent["pairs"]] == [f"pair {k * n}" for k in range(6)], "and no pictures of others"
    assert list(sent["attention"]["maps"]) == [str(place) for place in range(6)]
