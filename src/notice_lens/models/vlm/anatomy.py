"""The parts of a hosted model, found once and checked: blocks, attention, MLPs and projections.

Nothing is changed here. A part that is not found, or one that cannot be hooked, raises with the class that was looked
at and the names that were expected.
"""

from dataclasses import dataclass
from inspect import signature
from typing import Any

from torch import nn

from notice_lens.models.vlm.families import NAMES, REFUSED, attention_output, child, mlp_output


@dataclass(frozen=True)
class Slice:
    """Some columns of a module's output or input, cut into heads or not.

    Attributes:
        module: Hugging Face's.
        start: The first column.
        width: How many.
        n_heads: How many heads they are; None if they are not heads.
    """

    module: nn.Module
    start: int
    width: int
    n_heads: int | None = None


@dataclass(frozen=True)
class AttentionParts:
    """One attention module and its projections.

    Attributes:
        module: Hugging Face's.
        q, k, v: Outputs that are queries, keys and values.
        o: The output projection.
        n_heads, n_kv_heads, d_head: Query heads, key-value heads, width of a head.
        is_cross: Whether it looks at the image's states instead of its own.
        rotary: Whether queries and keys are turned by their position.
        norm_over_heads: Whether one norm goes over the queries, or keys, of all heads together, as in InternVL's tower.
    """

    module: nn.Module
    q: Slice
    k: Slice
    v: Slice
    o: nn.Module
    n_heads: int
    n_kv_heads: int
    d_head: int
    is_cross: bool
    rotary: bool
    norm_over_heads: bool


@dataclass(frozen=True)
class MLPParts:
    """One MLP, as far as its neurons can be told apart: a mixture of experts has none of the slices."""

    module: nn.Module
    pre: Slice | None
    pre_linear: Slice | None
    down: nn.Module | None


@dataclass(frozen=True)
class BlockParts:
    """One block: what it is given, its attention, what it adds, and the norm that reads the stream half-way."""

    module: nn.Module
    attn: AttentionParts
    attn_out: nn.Module
    mid_norm: nn.Module
    mlp: MLPParts
    mlp_out: nn.Module


@dataclass(frozen=True)
class QFormerBlockParts:
    """One block of a Q-Former: self-attention, in some blocks cross-attention to the tower's states, and an MLP.

    Attributes:
        module: Hugging Face's.
        attn: Self-attention among the learned queries, and the question's tokens where the Q-Former reads them.
        attn_norm: The norm of the stream after self-attention was added to it.
        cross_attn: From the learned queries to the tower's states; None in blocks without.
        cross_attn_norm: The norm after it.
        mlp: The MLP of the learned queries.
        mlp_norm: The norm after it.
    """

    module: nn.Module
    attn: AttentionParts
    attn_norm: nn.Module
    cross_attn: AttentionParts | None
    cross_attn_norm: nn.Module | None
    mlp: MLPParts
    mlp_norm: nn.Module


@dataclass(frozen=True)
class QFormerParts:
    """A Q-Former: blocks between the tower and the projector, which turn an image into a fixed number of states.

    Attributes:
        module: Hugging Face's.
        blocks: In order.
        n_queries: How many queries are learned.
    """

    module: nn.Module
    blocks: tuple[QFormerBlockParts, ...]
    n_queries: int


@dataclass(frozen=True)
class ModelParts:
    """A whole model.

    Attributes:
        language: The blocks of the language model.
        vision: The blocks of the vision tower.
        qformer: What reads the tower for the projector; None where the projector reads it itself.
        embed: The token embeddings.
        ln_final: The norm after the last block of the language model.
        unembed: The unembedding.
        tower: The vision tower.
        projector: From the tower to the language model's width.
        deepstack: More of them, for features that enter at later blocks.
    """

    language: tuple[BlockParts, ...]
    vision: tuple[BlockParts, ...]
    qformer: QFormerParts | None
    embed: nn.Module
    ln_final: nn.Module
    unembed: nn.Module
    tower: nn.Module
    projector: nn.Module
    deepstack: tuple[nn.Module, ...]


def model_parts(model: Any) -> ModelParts:
    """Return the parts of a Hugging Face vision-language model.

    Raises:
        ValueError: A part is missing, or of a kind that cannot be hooked; the message says which.
    """
    language, tower = model.get_decoder(), model.get_encoder(modality="image")
    if language is model or tower is None or tower is model or tower is model.base_model:
        missing = "language model" if language is model else "vision tower"
        raise ValueError(
            f"no {missing} found in {type(model).__name__}: expected a vision-language model, as "
            "AutoModelForImageTextToText loads it"
        )
    language = _inner_decoder(language)
    shared = getattr(language.config, "num_kv_shared_layers", 0) or 0
    if shared:
        raise ValueError(
            f"the last {shared} layers of {type(language).__name__} share the keys and values of earlier ones: a key "
            "or value there belongs to no single layer, and notice-lens does not hook such models"
        )
    projector = child(model.base_model, "projector") or child(tower, "projector")
    if projector is None:
        raise ValueError(_missing("projector", model.base_model))
    unembed = model.get_output_embeddings()
    if unembed is None:
        raise ValueError(f"{type(model).__name__} has no unembedding: expected a model that gives logits")
    return ModelParts(
        language=_stack(language),
        vision=_stack(tower),
        qformer=_qformer(model.base_model),
        embed=model.get_input_embeddings(),
        ln_final=_required(language, "ln_final"),
        unembed=unembed,
        tower=tower,
        projector=projector,
        deepstack=tuple(child(tower, "deepstack") or ()),  # pyright: ignore[reportArgumentType]
    )


def _inner_decoder(language: Any) -> Any:
    """Return the module that holds the blocks, where the language model has its unembedding inside.

    Raises:
        ValueError: It is an encoder-decoder, or its norms come after the additions.
    """
    config = language.config
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"{type(language).__name__} ({config.model_type!r}) is an encoder-decoder: its encoder reads image and "
            "prompt both ways, and its decoder reads the encoder by cross-attention beside its self-attention, with "
            "position biases in its scores; notice-lens hooks decoder-only language models, such as OPT and Llama"
        )
    if getattr(config, "do_layer_norm_before", True) is False:
        raise ValueError(
            f"{type(language).__name__} ({config.model_type!r}) normalises after its additions "
            "(`do_layer_norm_before` is False): its blocks do not add to one stream, and notice-lens does not hook "
            "such language models"
        )
    while (inner := language.get_decoder()) is not language:
        language = inner
    return language


def _stack(root: nn.Module) -> tuple[BlockParts, ...]:
    """Every block of a stack, in order: the entries of its lists of modules that look like blocks."""
    blocks = [
        entry
        for module in root.modules()
        if isinstance(module, nn.ModuleList)
        for entry in module
        if _own_mlp(entry) is not None
    ]
    if not blocks:
        raise ValueError(f"no blocks found in {type(root).__name__}: expected a list of modules with an MLP each")
    return tuple(_block(block, layer) for layer, block in enumerate(blocks))


def _block(block: nn.Module, layer: int) -> BlockParts:
    for name, what in REFUSED.items():
        if hasattr(block, name):
            raise ValueError(
                f"layer {layer} ({type(block).__name__}) has {what} (`{name}`): its positions are mixed without a "
                "pattern of attention, and notice-lens does not hook such models"
            )
    cross = child(block, "cross_attn")
    own = child(block, "attn")
    if cross is not None and own is not None:
        raise ValueError(
            f"layer {layer} ({type(block).__name__}) has both self-attention and cross-attention; expected one"
        )
    module = cross or own
    if module is None:
        raise ValueError(_missing("attn", block, f"layer {layer}"))
    mlp = _own_mlp(block)
    assert mlp is not None, "blocks are found by it"
    parts = _mlp(mlp)
    written = parts.down if mlp is block and parts.down is not None else mlp
    attention = _attention(module, is_cross=cross is not None)
    return BlockParts(
        module=block,
        attn=attention,
        attn_out=attention_output(block, module),
        mid_norm=_required(block, "resid_mid"),
        mlp=parts,
        mlp_out=mlp_output(block, written),
    )


def _own_mlp(block: nn.Module) -> nn.Module | None:
    """Return the MLP of a block: a child of it, or the block itself where it holds both layers (OPT); else None."""
    found = child(block, "mlp")
    if found is None and all(child(block, role) is not None for role in ("attn", "fc", "down")):
        return block
    return found


def _qformer(model: nn.Module) -> QFormerParts | None:
    """Return the Q-Former of a model, or None.

    Raises:
        ValueError: Its blocks are not those that can be hooked; the message says what is missing.
    """
    module, learned = child(model, "qformer"), getattr(model, "query_tokens", None)
    if module is None:
        return None
    if not isinstance(learned, nn.Parameter):
        raise ValueError(f"{type(model).__name__} has a Q-Former, and no learned queries for it (`query_tokens`)")
    blocks = [
        entry
        for own in module.modules()
        if isinstance(own, nn.ModuleList)
        for entry in own
        if child(entry, "query_fc") is not None
    ]
    if not any(child(block, "cross_attn") for block in blocks):
        raise ValueError(f"no block of {type(module).__name__} reads the image: expected some with cross-attention")
    return QFormerParts(module, tuple(map(_qformer_block, blocks)), learned.shape[1])


def _qformer_block(block: nn.Module) -> QFormerBlockParts:
    attn, cross = _required(block, "attn"), child(block, "cross_attn")
    fc, output = _required(_required(block, "query_fc"), "dense"), _required(block, "query_output")
    return QFormerBlockParts(
        module=block,
        attn=_wrapped_attention(attn, is_cross=False),
        attn_norm=_required(_required(attn, "output"), "sum_norm"),
        cross_attn=None if cross is None else _wrapped_attention(cross, is_cross=True),
        cross_attn_norm=None if cross is None else _required(_required(cross, "output"), "sum_norm"),
        mlp=MLPParts(block, Slice(fc, 0, _width(fc, "out_features")), None, _required(output, "dense")),
        mlp_norm=_required(output, "sum_norm"),
    )


def _wrapped_attention(wrapper: nn.Module, is_cross: bool) -> AttentionParts:
    """Return an attention of a Q-Former, whose output projection is beside it, as in BERT."""
    return _attention(_required(wrapper, "attn"), is_cross, _required(_required(wrapper, "output"), "dense"))


def _attention(module: nn.Module, is_cross: bool, out: nn.Module | None = None) -> AttentionParts:
    """Return the projections of an attention module; `out` is the output projection where it is not inside."""
    out = _required(module, "o") if out is None else out
    d_head = getattr(module, "head_dim", getattr(module, "attention_head_size", None))
    if not isinstance(d_head, int):
        raise ValueError(f"{type(module).__name__} does not say how wide a head is (`head_dim`)")
    n_heads = _width(out, "in_features") // d_head
    fused = child(module, "qkv")
    if fused is None:
        q, k, v = (_required(module, role) for role in ("q", "k", "v"))
        n_kv_heads = _width(k, "out_features") // d_head
        starts = (0, 0, 0)
    else:
        q = k = v = fused
        n_kv_heads = (_width(fused, "out_features") // d_head - n_heads) // 2
        starts = (0, n_heads * d_head, (n_heads + n_kv_heads) * d_head)
    return AttentionParts(
        module=module,
        q=Slice(q, starts[0], n_heads * d_head, n_heads),
        k=Slice(k, starts[1], n_kv_heads * d_head, n_kv_heads),
        v=Slice(v, starts[2], n_kv_heads * d_head, n_kv_heads),
        o=out,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        d_head=d_head,
        is_cross=is_cross,
        rotary=_is_rotary(module),
        norm_over_heads=n_heads > 1 and n_heads * d_head in _norm_widths(module),
    )


def _is_rotary(module: nn.Module) -> bool:
    """Return whether the attention is handed rotary embeddings, which its forward then names."""
    return "position_embeddings" in signature(type(module).forward).parameters


def _norm_widths(module: nn.Module) -> set[int]:
    """Return the widths of the norms inside an attention module: those of queries and keys."""
    norms = (own for name, own in module.named_children() if "norm" in name)
    return {weight.numel() for own in norms if (weight := getattr(own, "weight", None)) is not None}


def _mlp(module: nn.Module) -> MLPParts:
    gate, up, both = (child(module, role) for role in ("gate", "up", "gate_up"))
    plain, down = child(module, "fc"), child(module, "down")
    if both is not None and down is not None:
        width = _width(down, "in_features")
        return MLPParts(module, Slice(both, 0, width), Slice(both, width, width), down)
    if gate is not None and up is not None and down is not None:
        width = _width(down, "in_features")
        return MLPParts(module, Slice(gate, 0, width), Slice(up, 0, width), down)
    if plain is not None and down is not None:
        return MLPParts(module, Slice(plain, 0, _width(down, "in_features")), None, down)
    return MLPParts(module, None, None, None)


def _width(module: nn.Module, which: str) -> int:
    width = getattr(module, which, None)
    if not isinstance(width, int):
        raise ValueError(f"expected a linear layer with `{which}`, found {type(module).__name__}")
    return width


def _required(module: nn.Module, role: str) -> nn.Module:
    found = child(module, role)
    if found is None:
        raise ValueError(_missing(role, module))
    return found


def _missing(role: str, module: nn.Module, where: str = "") -> str:
    """The message for a part that is not there."""
    children = ", ".join(name for name, _ in module.named_children())
    return (
        f"no `{role}` found in {where + ', ' if where else ''}{type(module).__name__}: expected a child called "
        f"{' or '.join(NAMES[role])}; it has {children or 'none'}"
    )
