"""Labels in each of their forms."""

import numpy as np
import pandas as pd
import xarray as xr

from notice_lens.report.label_rows import label_rows


def test_a_result_over_candidates_and_kinds():
    dims = ("candidate", "kind")
    labels = xr.Dataset(
        {
            "label": ("candidate", np.array(["segmentation", ""], object)),
            "verdict": (
                dims,
                np.array([["given", "no candidate"], ["not testable: constant masks", "p too large"]], object),
            ),
            "role": (dims, np.array([["noun", ""], ["", "noun"]], object)),
            "p_causal": (dims, [[0.001, np.nan], [np.nan, 0.4]]),
        },
        {"layer": ("candidate", [1, 2]), "head": ("candidate", [5, 0]), "kind": ["segmentation", "avoidance"]},
    )
    rows = label_rows(labels)
    assert [(row["layer"], row["head"], row["label"]) for row in rows] == [
        (1, 5, "segmentation"), (1, 5, None), (2, 0, None), (2, 0, None),
    ]  # fmt: skip
    assert rows[0]["evidence"] == {"role": "noun", "p_causal": 0.001}
    assert rows[2]["reason"] == "segmentation: not testable: constant masks"
    assert [row.get("testable") for row in rows] == [None, True, False, True]


def test_a_table_mappings_and_nothing():
    rows = [{"layer": 1, "head": 2, "label": "x", "p": np.float64(0.5)}]
    assert label_rows(pd.DataFrame(rows)) == label_rows(rows) == ({"layer": 1, "head": 2, "label": "x", "p": 0.5},)
    assert label_rows(None) == ()
