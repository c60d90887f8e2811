"""Messages: what was asked, what is valid, and the nearest name."""

from typing import Any

import numpy as np
import pytest
import torch

from conftest import make_pair
from notice_lens import HookedBLIP
from notice_lens.pairs import MinimalPairs, Noise
from notice_lens.patching import Edit, Site, patch_heads, patch_modules, run_variants, sweep
from notice_lens.patching.edits import check_model
from refusals import says

pytestmark = pytest.mark.usefixtures("unchecked")

# Sites

LAYERS = "`text` has layers 0 to 2"
HEADS = "`text` has heads 0 to 7"
SITES: list[tuple[Any, dict[str, Any], str]] = [
    ("test.attn", {}, "site 'test.attn': no stack 'test'; did you mean 'text'? valid: 'vision', 'text', 'decoder'"),
    ("", {}, "site '': no stack ''; valid: 'vision', 'text', 'decoder'"),
    (3, {}, "site '3': no stack '3'; valid: 'vision'"),
    ("text", {}, "site 'text': no activation of `text` ''; valid: 'embed'"),
    ("text.cross_atn", {}, "site 'text.cross_atn': no activation of `text` 'cross_atn'; did you mean 'cross_attn'?"),
    ("vision.cross_attn", {}, "site 'vision.cross_attn': no activation of `vision` 'cross_attn'; did you mean"),
    ("text.attn.inside", {}, "site 'text.attn.inside': no activation of `text` 'attn.inside'; did you mean"),
    ("text.attn", {"layers": 12}, f"layer 12 asked for; {LAYERS}"),
    ("text.attn", {"layers": [0, -1]}, f"layer -1 asked for; {LAYERS}"),
    ("text.attn", {"layers": True}, f"layer True asked for; {LAYERS}"),
    ("text.attn", {"layers": 1.5}, f"layer 1.5 asked for; {LAYERS}"),
    ("text.attn", {"layers": "last"}, f"layer 'last' asked for; {LAYERS}"),
    ("text.attn", {"layers": []}, "layers [] asked for; expected one or more of them, each once"),
    ("text.attn", {"layers": [1, 1]}, "layers [1, 1] asked for; expected one or more of them, each once"),
    ("text.attn", {"heads": 8}, f"head 8 asked for; {HEADS}"),
    ("text.attn", {"heads": "eahc"}, f"head 'eahc' asked for; {HEADS}"),
    ("text.attn", {"heads": [0, 0]}, "heads [0, 0] asked for; expected one or more of them, each once"),
    ("text.resid_pre", {"heads": [0]}, "heads [0] asked for; text.hook_resid_pre has no heads"),
    ("text.embed", {"layers": 0}, "layers 0 asked for; text.hook_embed is before the first layer, and has none"),
    ("text.attn", {"keys": "all"}, "keys are for scores and patterns; text.attn.hook_z has positions alone"),
    ("text.attn", {"positions": "rolse"}, "text.attn.hook_z: no kind of positions 'rolse'; did you mean 'roles'?"),
    ("text.attn", {"positions": "roles of words"}, "text.attn.hook_z: no kind of positions 'roles of words'"),
    ("text.attn", {"positions": "regions"}, "text.attn.hook_z: regions are parts of the image, and these are token"),
    ("vision.attn", {"positions": "roles"}, "vision.attn.hook_z: roles are words of the question, and these are image"),
    ("text.cross_attn.k", {"positions": "roles"}, "text.cross_attn.hook_k: roles are words of the question, and these"),
    ("decoder.attn", {"positions": ["noun"]}, "decoder.attn.hook_z: positions of an answer have no names; give"),
    ("text.attn", {"positions": []}, "text.attn.hook_z: positions [] asked for; expected one or more, each once"),
    ("text.attn", {"positions": [2, 2]}, "text.attn.hook_z: positions [2, 2] asked for; expected one or more, each"),
    (
        "text.attn",
        {"positions": [1, "noun"]},
        "text.attn.hook_z: positions [1, 'noun'] asked for; expected numbers,",
    ),
    ("text.attn", {"positions": 1.5}, "text.attn.hook_z: positions [1.5] asked for; expected numbers, or names of"),
    ("text.attn", {"positions": True}, "text.attn.hook_z: positions [True] asked for; expected numbers, or names of"),
    ("text.attn", {"positions": [0, -2]}, "text.attn.hook_z: position -2 asked for; they count from 0"),
    (
        "text.attn.pattern",
        {"keys": "regions"},
        "keys of text.attn.hook_pattern: regions are parts of the image, and these are token positions",
    ),
    ("text.cross_attn.pattern", {"keys": ["a", 1]}, "keys of text.cross_attn.hook_pattern: positions ['a', 1] asked"),
]


@pytest.mark.parametrize(("name", "where", "message"), SITES, ids=lambda value: str(value)[:40])
def test_a_site_that_is_not_there(model: HookedBLIP, name: Any, where: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=says(message)):
        Site.of(model, name, **where)


@pytest.mark.parametrize("other", [None, "mini", ()])
def test_a_model_that_is_none(other: Any) -> None:
    with pytest.raises(
        TypeError, match=rf"the model comes first: expected a HookedBLIP or a HookedVLM, got {type(other).__name__}"
    ):
        check_model(other)


def test_roles_are_positions(model: HookedBLIP, pairs: MinimalPairs) -> None:
    with pytest.raises(TypeError, match=r"roles: there is no such option; positions='roles' takes each"):
        patch_heads(model, pairs, roles=["correct"])


def test_a_name_of_positions_goes_into_a_list(model: HookedBLIP) -> None:
    with pytest.raises(ValueError, match="a role or region by its name goes into a list: \\['noun'\\]"):
        Site.of(model, "text.attn", positions="noun")


def test_numbers_of_numpy_and_ranges_are_numbers(model: HookedBLIP) -> None:
    site = Site.of(model, "text.attn", layers=np.arange(2), heads=range(1, 3), positions=np.array([4, 2]))
    assert site == Site.of(model, "text.attn", layers=[0, 1], heads=[1, 2], positions=[4, 2])
    assert {type(number) for number in (*site.layers, *(site.heads or ()), *site.positions)} == {int}
    assert Site.of(model, "text.attn", layers=np.int64(2)).layers == (2,)


def test_a_site_is_checked_against_every_model(model: HookedBLIP) -> None:
    larger = make_pair("vqa", text={"num_hidden_layers": 6}).model
    caption = make_pair("caption").model
    for site in ("text.attn", "text.embed", "text.resid_post", "text.cross_attn.pattern"):
        for heads in ("each", None):
            built = Site.of(model, site, heads=heads)
            assert Site.of(model, built) == built
    with pytest.raises(ValueError, match=says("layer 3 asked for; `text` has layers 0 to 2")):
        Site.of(model, Site.of(larger, "text.attn", layers=[3, 5], heads=0))
    with pytest.raises(ValueError, match=says("site 'text.attn.hook_z': no stack 'text'; valid: 'vision', 'decoder'")):
        Site.of(caption, Site.of(model, "text.attn"))
    with pytest.raises(ValueError, match=says("text.attn.hook_z is a Site already; give layers, heads, positions and")):
        Site.of(model, Site.of(model, "text.attn"), positions="all")


# Roles, regions and positions that pairs do not have

PLACES = [
    ("text.attn", ["nuon"], "text.attn.hook_z: no role 'nuon'; did you mean 'noun'? valid: '[CLS]', 'noun'"),
    ("vision.attn", ["objct"], "vision.attn.hook_z: no region 'objct'; did you mean 'object'? valid: 'object'"),
    ("text.attn", [9], "text.attn.hook_z: position 9 asked for; there are 0 to 8"),
    ("vision.attn", [65], "vision.attn.hook_z: position 65 asked for; there are 0 to 64"),
    ("decoder.attn", [1], "decoder.attn.hook_z: position 1 asked for; there are 0 to 0"),
]


@pytest.mark.parametrize(("name", "positions", "message"), PLACES, ids=lambda value: str(value)[:30])
def test_places_that_no_pair_has(
    model: HookedBLIP, pairs: MinimalPairs, name: str, positions: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=says(message)):
        sweep(model, pairs, Site.of(model, name, positions=positions), progress=False)


def test_pairs_without_regions(model: HookedBLIP, pairs: MinimalPairs) -> None:
    rows = [{**pair.record, "clean_image": pair.clean_image, "corrupt_image": pair.corrupt_image} for pair in pairs]
    kept = ("id", "task", "clean_image", "corrupt_image", "clean_prompt", "correct_answer", "incorrect_answer")
    bare = MinimalPairs.from_rows([{column: row[column] for column in kept} for row in rows])
    with pytest.raises(ValueError, match=says("vision.attn.hook_z: these pairs have no regions; positions='all' or")):
        sweep(model, bare, Site.of(model, "vision.attn", positions="regions"), progress=False)


# Options

OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"corrupton": "text"}, TypeError, "no option 'corrupton'; did you mean 'corruption'? valid: 'corruption', 'dir"),
    ({"batch_size": 3}, TypeError, "no option 'batch_size'; "),
    ({"positions": "all"}, TypeError, "positions belong to a site: Site.of(model, name, positions=...)"),
    ({"keys": "all"}, TypeError, "keys belong to a site: Site.of(model, name, keys=...)"),
    ({"corruption": "txt"}, ValueError, "no corruption 'txt'; did you mean 'text'? valid: 'image', 'text', or Noise("),
    ({"corruption": None}, ValueError, "no corruption None; valid: 'image', 'text', or Noise(...)"),
    ({"corruption": ["image"]}, ValueError, "no corruption ['image']; did you mean 'image'?"),
    ({"direction": "denoising"}, ValueError, "no direction 'denoising'; did you mean 'denoise'? valid: 'denoise', 'n"),
    ({"contrast": "incorect"}, ValueError, "no contrast 'incorect'; did you mean 'incorrect'? valid: 'auto', 'incor"),
    ({"source": "zeros"}, ValueError, "no source 'zeros'; did you mean 'zero'? valid: 'other', 'zero', 'mean'"),
    ({"source": "donor"}, ValueError, "no source 'donor'; "),
    ({"controls": ["self", "mismatch"]}, ValueError, "no control 'mismatch'; did you mean 'mismatched'? valid: 'self'"),
    ({"controls": None}, ValueError, "no control None; valid: 'self', 'mismatched'; () for none"),
    ({"min_gap": -1}, ValueError, "min_gap=-1: expected a logit difference, 0 or more"),
    ({"min_gap": float("nan")}, ValueError, "min_gap=nan: expected a logit difference, 0 or more"),
    ({"min_gap": "small"}, ValueError, "min_gap='small': expected a logit difference, 0 or more"),
    ({"memory": 0}, ValueError, "memory=0: expected a number of bytes, 1 or more, or None"),
    ({"memory": "2GB"}, ValueError, "memory='2GB': expected a number of bytes, 1 or more, or None"),
    ({"seed": None}, ValueError, "seed=None: expected a whole number"),
    ({"dtype": "flaot32"}, ValueError, "no dtype of a result 'flaot32'; did you mean 'float32'? valid: 'float16', 'f"),
    ({"dtype": torch.float64}, ValueError, "no dtype of a result torch.float64; did you mean 'float64'?"),
    ({"dtype": "int64"}, ValueError, "no dtype of a result 'int64'; did you mean"),
    ({"store": 3}, TypeError, "store=3: expected the path of a folder, or None"),
    ({"metrics": "logit_dif"}, ValueError, "no metric 'logit_dif'; did you mean 'logit_diff_change'? valid: 'answer_p"),
    ({"metrics": ["kl", "mine"]}, ValueError, "no metric 'mine'; "),
    ({"metrics": []}, ValueError, "no metrics given; there are 'answer_prob', "),
    ({"metrics": None}, ValueError, "no metrics given; there are 'answer_prob', "),
    ({"metrics": len}, TypeError, "metrics are names, or a mapping of names to functions; got a function"),
    ({"metrics": {"kl": len}}, ValueError, "'kl' is a metric already; choose another name"),
    ({"metrics": {"mine": 3}}, TypeError, "metric 'mine' has to be a function of logits, got int"),
    ({"metrics": {3: len}}, ValueError, "metric 3: a name is text"),
    ({"metrics": {"noise_floor": len}}, ValueError, "metric 'noise_floor': a result may have that itself"),
    ({"metrics": {"kl_mismatched": len}}, ValueError, "metric 'kl_mismatched': a result may have that itself"),
    ({"metrics": {"mine_clean": len}}, ValueError, "metric 'mine_clean': a result may have that itself"),
]


@pytest.mark.parametrize(("options", "error", "message"), OPTIONS, ids=lambda value: str(value)[:40])
def test_options_that_are_not_there(
    model: HookedBLIP, pairs: MinimalPairs, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=says(message)):
        sweep(model, pairs, "text.attn", **options)
    if options.keys() & {"positions", "source"}:
        return
    with pytest.raises(error, match=says(message)):
        patch_heads(model, pairs, **options)
    with pytest.raises(error, match=says(message)):
        patch_modules(model, pairs, **options)
    with pytest.raises(error, match=says(message)):
        run_variants(model, pairs, {"one": Edit("text.attn", 0)}, **options)


def test_one_control_needs_no_list(model: HookedBLIP, pairs: MinimalPairs) -> None:
    effects = sweep(model, pairs, Site.of(model, "text.attn", layers=0, heads=0), controls="self", progress=False)
    assert effects.attrs["controls"] == ["self"]
    assert effects.noise_floor.notnull().all()
    assert "kl_mismatched" not in effects


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda logits: logits.mean(), ValueError, "metric 'mine' gave [] for 2 rows of logits [2, 1, "),
        (lambda logits: logits[:, 0], ValueError, "metric 'mine' gave [2, "),
        (lambda logits: 3.0, TypeError, "metric 'mine' gave a float for 2 rows of logits [2, 1, "),
        (lambda logits: logits.numpy()[:, 0, 0], TypeError, "metric 'mine' gave a ndarray for 2 rows"),
        (lambda logits: logits[:1, 0, 0], ValueError, "metric 'mine' gave [1] for 2 rows"),
        (lambda logits: logits[:, 0, 0] * 1j, TypeError, "metric 'mine' gave torch.complex64"),
        (lambda logits: torch.fft.fft(logits[:, 0])[:, 0], TypeError, "metric 'mine' gave torch.complex64"),
        (lambda logits: logits[:, 0, 0].to_sparse(), TypeError, "metric 'mine' gave torch.float32 (torch.sparse_coo)"),
        (lambda logits: logits[:, 0, 0] / 0, ValueError, "metric 'mine' gave NaN or infinity for 2 of 2 rows"),
        (lambda logits: torch.tensor([1.0, torch.nan]), ValueError, "metric 'mine' gave NaN or infinity for 1 of 2"),
    ],
)
def test_a_metric_of_another_shape(
    model: HookedBLIP, pairs: MinimalPairs, function: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=says(message) + ".*; expected a tensor with one number a row"):
        sweep(model, pairs, Site.of(model, "text.attn", layers=2), metrics={"mine": function}, progress=False)


def test_noise_that_this_model_does_not_take(model: HookedBLIP, pairs: MinimalPairs) -> None:
    with pytest.raises(ValueError, match=says("no hook for noise 'text.hook_embd'; did you mean 'text.hook_embed'?")):
        sweep(model, pairs, "text.attn", corruption=Noise("text.hook_embd"), progress=False)
    message = "a model of kind 'vqa' takes noise at vision.hook_embed or text.hook_embed, not decoder.hook_embed"
    with pytest.raises(ValueError, match=says(message)):
        sweep(model, pairs, "text.attn", corruption=Noise("decoder.hook_embed"), progress=False)


# Several sites


def test_sites_that_do_not_go_together(model: HookedBLIP, pairs: MinimalPairs) -> None:
    with pytest.raises(ValueError, match=says("no sites given; expected sites such as 'text.cross_attn'")):
        sweep(model, pairs, [])
    message = (
        "sites of one sweep share their dimensions: text.attn.hook_z has layer, head, role, text.hook_mlp_out layer, "
        "role; sweep them one after the other"
    )
    with pytest.raises(ValueError, match=says(message)):
        sweep(model, pairs, ["text.attn", "text.mlp_out"])
    with pytest.raises(ValueError, match="vision.hook_embed has none, "):
        sweep(model, pairs, ["vision.embed", "text.attn"])
    with pytest.raises(ValueError, match=says("site text.attn.hook_z is given 2 times; expected each once")):
        sweep(model, pairs, ["text.attn", Site.of(model, "text.attn.z", layers=0)])
    with pytest.raises(ValueError, match=says("with_sites=False is for one site; got text.attn.hook_z, text.cross")):
        sweep(model, pairs, ["text.attn", "text.cross_attn"], with_sites=False)
    with pytest.raises(ValueError, match=says("site '3': no stack '3'")):
        sweep(model, pairs, 3)


def test_heads_and_modules(model: HookedBLIP, pairs: MinimalPairs) -> None:
    with pytest.raises(ValueError, match=says("text.hook_mlp_out has no heads; patch_modules is for what whole modul")):
        patch_heads(model, pairs, "text.mlp_out")
    with pytest.raises(ValueError, match=says("layer 4 asked for; `vision` has layers 0 to 3")):
        patch_heads(model, pairs, "vision.attn", layers=4)
    with pytest.raises(ValueError, match=says("no stack 'txt'; did you mean 'text'? valid: 'vision', 'text', 'decod")):
        patch_modules(model, pairs, "txt")
    with pytest.raises(ValueError, match=says("layer 3 asked for; `decoder` has layers 0 to ")):
        patch_modules(model, pairs, "decoder", layers=[0, 3])


def test_the_mean_is_not_for_patterns(model: HookedBLIP, pairs: MinimalPairs) -> None:
    with pytest.raises(ValueError, match=says("source='mean' is not for scores and patterns (text.blocks.0.cross_att")):
        sweep(model, pairs, "text.cross_attn.pattern", source="mean", progress=False)


def _into(logits: torch.Tensor) -> torch.Tensor:
    logits.zero_()
    return logits[:, 0, 0]


def _into_the_rows(logits: torch.Tensor) -> torch.Tensor:
    logits[:, -1] += torch.arange(logits.shape[-1])
    return logits[:, -1, 3]


def _through_numpy(logits: torch.Tensor) -> torch.Tensor:
    logits.numpy()[...] = 7
    return logits.sum((1, 2)) * 0


class _Buffered:
    """A metric that returns the same tensor each time, and keeps what it was given."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []
        self.buffer = torch.zeros(0)

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        for earlier in self.seen:
            earlier.fill_(99)
        self.seen.append(logits)
        if len(self.buffer) < len(logits):
            self.buffer = torch.zeros(len(logits))
        self.buffer.fill_(-5)
        self.buffer[: len(logits)] = logits[:, 0, 3]
        return self.buffer[: len(logits)]


def _in_place_log_softmax(logits: torch.Tensor) -> torch.Tensor:
    return logits.sub_(logits.logsumexp(-1, keepdim=True))[:, -1, 3]


@pytest.mark.parametrize("function", [_into, _into_the_rows, _through_numpy, _Buffered(), _in_place_log_softmax])
def test_a_metric_that_writes_changes_no_other(
    model: HookedBLIP, pairs: MinimalPairs, function: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("notice_lens.patching.engine.pair_batch.ROWS_OF_LOGITS", 5)  # several calls for each wave
    site, built_in = Site.of(model, "text.attn", layers=2), dict.fromkeys(["answer_prob", "logit_diff_change", "kl"])
    plain = sweep(
        model, pairs, site, metrics={**built_in, "own": lambda logits: logits[:, 0, 3].clone()}, progress=False
    )
    written = sweep(model, pairs, site, metrics={**built_in, "own": function, "last": _into}, progress=False)
    for name in plain.data_vars:
        if name.startswith("own") and not isinstance(function, _Buffered):
            continue
        np.testing.assert_array_equal(written[name], plain[name], err_msg=str(name))
