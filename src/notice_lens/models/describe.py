"""Tables that print well: the hook points with their shapes, and the report of `check`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from notice_lens.models.hook_names import HookName
from notice_lens.models.hooks import CopyingHookPoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from notice_lens.models.blip.hooked_blip import HookedBLIP

# What each leaf is in Hugging Face's modules, below the layer. `>` is the module's output, `<` its input.
_VISION = {
    "hook_embed": "embeddings: class_embedding and > patch_embedding",
    "hook_pos_embed": "embeddings.position_embedding",
    "hook_resid_pre": "< (the block)",
    "ln1.hook_scale": "layer_norm1: standard deviation",
    "ln1.hook_normalized": "layer_norm1: before weight and bias",
    "attn.hook_q_input": "< layer_norm1, for each head's query",
    "attn.hook_k_input": "< layer_norm1, for each head's key",
    "attn.hook_v_input": "< layer_norm1, for each head's value",
    "attn.hook_q": "> self_attn.qkv, first third",
    "attn.hook_k": "> self_attn.qkv, second third",
    "attn.hook_v": "> self_attn.qkv, last third",
    "attn.hook_attn_scores": "self_attn: before the softmax",
    "attn.hook_pattern": "> self_attn [1]",
    "attn.hook_z": "< self_attn.projection",
    "attn.hook_result": "self_attn.projection, head by head",
    "hook_attn_out": "> self_attn [0]",
    "hook_resid_mid": "< layer_norm2",
    "ln2.hook_scale": "layer_norm2: standard deviation",
    "ln2.hook_normalized": "layer_norm2: before weight and bias",
    "mlp.hook_pre": "> mlp.fc1",
    "mlp.hook_post": "< mlp.fc2",
    "hook_mlp_out": "> mlp",
    "hook_resid_post": "> (the block)",
    "ln_final.hook_scale": "post_layernorm: standard deviation",
    "ln_final.hook_normalized": "post_layernorm: before weight and bias",
}


def _bert_attention(ours: str, theirs: str, source: str) -> dict[str, str]:
    return {
        f"{ours}.hook_q_input": f"< {theirs}.self.query, for each head",
        f"{ours}.hook_k_input": f"{source}, for each head's key",
        f"{ours}.hook_v_input": f"{source}, for each head's value",
        f"{ours}.hook_q": f"> {theirs}.self.query",
        f"{ours}.hook_k": f"> {theirs}.self.key",
        f"{ours}.hook_v": f"> {theirs}.self.value",
        f"{ours}.hook_attn_scores": f"{theirs}.self: before the softmax",
        f"{ours}.hook_pattern": f"> {theirs}.self [1]",
        f"{ours}.hook_z": f"> {theirs}.self [0]",
        f"{ours}.hook_result": f"{theirs}.output.dense, head by head",
    }


_TEXT = {
    "hook_embed": "> embeddings.word_embeddings",
    "hook_pos_embed": "> embeddings.position_embeddings",
    "ln_embed.hook_scale": "embeddings.LayerNorm: standard deviation",
    "ln_embed.hook_normalized": "embeddings.LayerNorm: before weight and bias",
    "hook_resid_pre": "< (the block)",
    **_bert_attention("attn", "attention", "< attention.self.key"),
    "hook_attn_out": "> attention.output.dense",
    "hook_resid_mid": "< attention.output.LayerNorm",
    "ln1.hook_scale": "attention.output.LayerNorm: standard deviation",
    "ln1.hook_normalized": "attention.output.LayerNorm: before weight and bias",
    **_bert_attention("cross_attn", "crossattention", "encoder_hidden_states"),
    "hook_cross_attn_out": "> crossattention.output.dense",
    "hook_resid_mid_cross": "< crossattention.output.LayerNorm",
    "ln2.hook_scale": "crossattention.output.LayerNorm: standard deviation",
    "ln2.hook_normalized": "crossattention.output.LayerNorm: before weight and bias",
    "mlp.hook_pre": "> intermediate.dense",
    "mlp.hook_post": "> intermediate",
    "hook_mlp_out": "> output.dense",
    "hook_resid_post": "< output.LayerNorm",
    "ln3.hook_scale": "output.LayerNorm: standard deviation",
    "ln3.hook_normalized": "output.LayerNorm: before weight and bias",
    "hook_normalized_resid_post": "> (the block)",
}
_HUGGING_FACE = {
    "vision": ("vision_model", "encoder.layers", _VISION),
    "text": ("text_encoder", "encoder.layer", _TEXT),
    "decoder": ("text_decoder.bert", "encoder.layer", _TEXT),
}

# Hook points where a change need not change anything, and why.
INERT_WITH_ONE_ANSWER_TOKEN = {
    f"attn.{hook}": "with one answer token, self-attention has one position to look at, to which the softmax gives 1 "
    "whatever its score"
    for hook in ("hook_q_input", "hook_k_input", "hook_q", "hook_k", "hook_attn_scores")
}
"""Leaves of the decoder that are inert while the answer is `[DEC]` alone."""


class HooksTable:
    """Hook points with shape and Hugging Face's tensor; `frame` is the table itself.

    Layers are written once, as `blocks.L`.
    """

    def __init__(self, frame: pd.DataFrame):
        self.frame = frame

    def __len__(self) -> int:
        return len(self.frame)

    def __str__(self) -> str:
        return self.frame.to_string(index=False, justify="left", formatters=_left_aligned(self.frame))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.frame.to_html(index=False, border=0)

    def to_markdown(self) -> str:
        """The table in Markdown, for docs."""
        rows = [list(self.frame.columns), ["---"] * self.frame.shape[1], *self.frame.to_numpy().tolist()]
        return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def hooks_table(model: "HookedBLIP", aliases: "Mapping[str, str] | None" = None) -> HooksTable:
    """The table of a model's hook points, or of a lens's names for them.

    Args:
        model: The model.
        aliases: Lens name to full name; None for all full names.
    """
    rows: dict[str, dict[str, str]] = {}
    for alias, full in (aliases or {name: name for name in model.hook_dict}).items():
        parsed, shown = HookName.parse(full), HookName.parse(alias)
        key = str(shown).replace(f"blocks.{shown.layer}.", "blocks.L.")
        point = model.hook_dict[full]
        assert isinstance(point, CopyingHookPoint), full
        row = {"hook point": key, "shape": f"[{point.shape.replace(' ', ', ')}]"}
        if aliases is not None:
            row["full name"] = full.replace(f"blocks.{parsed.layer}.", "blocks.L.")
        rows[key] = row | {"Hugging Face": _hugging_face(parsed), "note": _note(model, parsed)}
    return HooksTable(pd.DataFrame(list(rows.values())))


def _hugging_face(name: HookName) -> str:
    prefix, layers, leaves = _HUGGING_FACE[name.stack or ""]
    where = f"{prefix}.{layers}.L" if name.layer is not None else prefix
    entry = leaves.get(name.leaf, "")
    if not entry:  # a step that was added to a block, which Hugging Face's modules need not have
        return ""
    arrow, what = entry[:2], entry[2:]
    if arrow not in ("> ", "< "):
        arrow, what = "", entry
    if what == "(the block)":
        return f"{arrow}{where}"
    return what if what.startswith("encoder_hidden_states") else f"{arrow}{where}.{what}"


def _note(model: "HookedBLIP", name: HookName) -> str:
    notes = []
    if name.leaf.endswith("_input"):
        notes.append("with use_split_qkv_input")
    if name.leaf.endswith("hook_result"):
        notes.append("with use_attn_result")
    if name.stack == "decoder" and name.leaf in INERT_WITH_ONE_ANSWER_TOKEN:
        notes.append("inert with one answer token")
    if name.stack == "vision" and name.leaf.startswith("ln1."):
        notes.append("with use_split_qkv_input: three times, with a head axis")
    return "; ".join(notes)


def _left_aligned(frame: pd.DataFrame) -> dict:
    widths = {column: max(len(column), frame[column].str.len().max()) for column in frame}
    return {column: f"{{:<{width}s}}".format for column, width in widths.items()}


@dataclass(frozen=True)
class CheckResult:
    """One self-test: a relative error or change, its bound, and the hook point that is furthest off.

    Attributes:
        name: The name of the test.
        value: The error, or the change.
        bound: Its largest allowed value, or its smallest.
        at_least: Whether the bound is a lower one.
        where: The hook point with the largest error, where it is one of many.
    """

    name: str
    value: float
    bound: float
    at_least: bool = False
    where: str = ""

    @property
    def passed(self) -> bool:
        """True where the value keeps to its bound; NaN does not."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        where = f", largest at {self.where}" if self.where else ""
        least = "least" if self.at_least else "most"
        verdict = "pass" if self.passed else "FAIL"
        return f"{verdict}  {self.name}: {self.value:.1e} (at {least} {self.bound:.0e}){where}"


@dataclass(frozen=True)
class CheckReport:
    """The results of `HookedBLIP.check`."""

    results: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        """True where every self-test passed."""
        return all(result.passed for result in self.results)

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """The self-tests that did not pass."""
        return tuple(result for result in self.results if not result.passed)

    def __str__(self) -> str:
        verdict = "all checks passed" if self.passed else f"{len(self.failures)} of {len(self.results)} checks failed"
        return "\n".join([*map(str, self.results), verdict])

    __repr__ = __str__
