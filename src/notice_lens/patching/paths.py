"""Path patching: the effect of what one part of the model passes to another.

`patch_paths` is the verb, `Paths` its senders and receivers, checked against the model. How a path is computed is in
`notice_lens.patching.engine.path_walk`, and for decoders in `notice_lens.patching.engine.causal.paths`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Unpack

from notice_lens.errors import one_of
from notice_lens.models.blip.steps import OUTPUT
from notice_lens.models.in_use import one_thread_at_a_time, outside_inference_mode
from notice_lens.patching.edits import Site, check_model
from notice_lens.patching.engine.measure import Variant
from notice_lens.patching.engine.plan import HookEdit, LabelledPositions
from notice_lens.patching.engine.protocol import engine_of
from notice_lens.patching.engine.receivers import PathRules, Receiver
from notice_lens.patching.grid import Grid, grid_of_sites
from notice_lens.patching.options import Numbers, Options, PositionSpec, VariantOptions
from notice_lens.patching.prepare import Prepared, prepare
from notice_lens.patching.runner import SweepRunner

if TYPE_CHECKING:
    import xarray as xr

    from notice_lens.models.protocol import VisionLanguageModel
    from notice_lens.pairs import MinimalPairs


@one_thread_at_a_time
@outside_inference_mode
def patch_paths(
    model: "VisionLanguageModel",
    pairs: "MinimalPairs",
    sender: str | Site | Sequence[str | Site] | None = None,
    receiver: str | Site = "logits",
    *,
    positions: PositionSpec | None = None,
    sender_layers: Numbers | None = None,
    sender_heads: Numbers | Literal["each"] | None = "each",
    receiver_layers: Numbers | None = None,
    receiver_heads: Numbers | Literal["each"] | None = "each",
    joint: bool = False,
    freeze_layernorm: bool = False,
    freeze_mlp: bool = True,
    **options: "Unpack[VariantOptions]",
) -> "xr.Dataset":
    """Patch each path from a sender to a receiver: the effect of what one part of the model passes to another.

    1. The base run and the other run; `direction` says which of clean and corrupted is which.
    2. The base run, in which the sender takes its values from the other run. A path lies in the stacks that it names:
       nodes *between* sender and receiver in those stacks are frozen at the base run. The receiver's input is recorded.
    3. The base run, in which the receiver takes the changed input. *Everything after the receiver runs free.*

    So "text head to answer" is the receiver `text.output`, with the decoder running free. Effects of single paths do
    not add up to the total: LayerNorms and softmaxes are not linear.

    Args:
        model: The model.
        pairs: The pairs.
        sender: Heads, MLPs or embeddings: `text.cross_attn` (each head's z), `text.attn`, `text.mlp_out`,
            `text.embed`, `vision.attn`, ...; of a hosted model also `language.attn`, `language.mlp_out`,
            `language.resid_pre` (the stream itself) and `projector.out`; a `Site`; or several of them. None takes the
            heads of `model.cfg.default_site`.
        receiver: Queries, keys or values (`text.attn.q`), an MLP's input (`text.mlp.pre`), a stack's output
            (`text.output`), or `logits`: the output of the senders' stack, since all later stacks run free. Keys and
            values of BLIP's cross-attention read the stack before: `text.cross_attn.k` takes senders of `vision`. Those
            of a hosted language model take senders of `vision` and of the projector, which is recomputed.
        positions: Of the sender, as `patch_heads`, and of the receiver: frozen attention moves nothing elsewhere.
        sender_layers: One, several, or None for all.
        sender_heads: `each`, one, several, or None for all at once.
        receiver_layers: As `sender_layers`.
        receiver_heads: As `sender_heads`.
        joint: Whether all senders are sent together.
        freeze_layernorm: Whether LayerNorms on the path divide by the base run's scale; else they are recomputed.
            On HookedBLIP alone.
        freeze_mlp: Whether MLPs on the path write what they write in the base run; else they read the changed stream.
        **options: As `sweep`.

    Returns:
        Dimensions `pair, sender_layer, sender_head`, then `role`, `region`, `position` or none, then `receiver_layer`
        and `receiver_head` where there are; variables as of `sweep`; NaN where there is no such path.

    Raises:
        ValueError: There is no path from there to there, the model has no such paths, or as `sweep`.

    Source: path patching after Wang et al. (arXiv 2211.00593) and Goldowsky-Dill et al. (arXiv 2304.05969).
    """
    check_model(model)
    rules = engine_of(model).paths(model)
    chosen = Options.of(options)
    if chosen.source != "other":
        raise ValueError(f"source={chosen.source!r}: senders take their values from the other run, source='other'")
    sender = model.cfg.default_site if sender is None else sender
    senders = _senders(model, pairs, sender, sender_layers, sender_heads, positions)
    ends = _receiver(model, rules, receiver, receiver_layers, receiver_heads)
    paths = Paths.of(model, rules, senders, joint, ends, freeze_layernorm=freeze_layernorm, freeze_mlp=freeze_mlp)
    prepared = prepare(model, pairs, chosen)
    return SweepRunner(prepared, grid_of_paths(prepared, paths), asdict(paths)).run()


def _senders(
    model: "VisionLanguageModel", pairs: "MinimalPairs", sender: Any, layers: Any, heads: Any, positions: Any
) -> list[Site]:
    several = list(sender) if isinstance(sender, list | tuple) else [sender]
    if len(several) == 1 and not isinstance(several[0], Site):
        return [Site.of(model, several[0], layers=layers, heads=heads, positions=positions, pairs=pairs)]
    return [_one_of_several(model, pairs, one, layers, heads, positions) for one in several]


def _one_of_several(
    model: "VisionLanguageModel", pairs: "MinimalPairs", name: Any, layers: Any, heads: Any, positions: Any
) -> Site:
    """Return one of several senders: layers and heads are for those that have them."""
    found = Site.of(model, name) if isinstance(name, Site) else Site.of(model, name, positions=positions, pairs=pairs)
    if isinstance(name, Site):
        return found
    layers, heads = layers if found.layers else None, heads if found.heads else "each"
    return Site.of(model, name, layers=layers, heads=heads, positions=positions, pairs=pairs)


def _receiver(model: "VisionLanguageModel", rules: PathRules, name: Any, layers: Any, heads: Any) -> Any:
    """Return a receiver as a site, or by its name where it is a stack's output."""
    if isinstance(name, Site):
        return Site.of(model, name)
    outputs = [f"{stack}.{OUTPUT}" for stack in rules.stacks]
    if name in (*outputs, "logits"):
        if layers is not None or heads != "each":
            raise ValueError(f"{name} has no layers and heads to choose")
        return name
    try:
        site = Site.of(model, name, layers=layers, heads=heads, positions="all")
    except ValueError as error:
        raise ValueError(f"receiver {name!r}: {error}; or {', '.join(outputs)}, logits") from error
    if site.stack not in rules.receiving or site.activation not in rules.receivers:
        own = [one for one in rules.receivers if one in model.activations(rules.receiving[-1])]
        stack = site.stack if site.stack in rules.receiving else rules.receiving[-1]
        short = [f"{stack}.{one.replace('hook_', '')}" for one in own]
        raise ValueError(one_of("receiver", site.name, [*short, *outputs, "logits"]))
    return site


@dataclass(frozen=True)
class Paths:
    """The paths that are patched. Built by `Paths.of`, which checks them.

    Attributes:
        senders: Sites of one stack.
        joint: Whether all of them, in all layers and heads, are sent together.
        receiver: Queries, keys, values or an MLP's input; or the name of a stack, for its output.
        freeze_layernorm: Whether LayerNorms on the path keep the base run's scale.
        freeze_mlp: Whether MLPs on the path keep what they write.
    """

    senders: tuple[Site, ...]
    joint: bool
    receiver: Site | str
    freeze_layernorm: bool
    freeze_mlp: bool

    @classmethod
    def of(
        cls,
        model: "VisionLanguageModel",
        rules: PathRules,
        senders: Sequence[Site],
        joint: bool,
        receiver: Any,
        **freeze: bool,
    ) -> "Paths":
        """Return the paths, checked.

        Args:
            model: The model.
            rules: What sends and receives in it.
            senders: Where they start.
            joint: See the class.
            receiver: A checked `Site`, `logits`, or `<stack>.output`.
            **freeze: See the class.

        Raises:
            ValueError: No path goes from there to there.
        """
        stacks = {site.stack for site in senders}
        if len(stacks) > 1:
            raise ValueError(f"senders of one call are in one stack; got {', '.join(sorted(stacks))}")
        for site in senders:
            if site.stack in rules.refused:
                raise ValueError(f"no paths from {site.name}: {rules.refused[site.stack]}")
            if site.stack not in rules.stacks or site.activation not in rules.senders:
                stack = site.stack if site.stack in rules.stacks else rules.stacks[-1]
                there = model.activations(stack)
                short = [f"{stack}.{name.replace('hook_', '')}" for name in rules.senders if name in there]
                raise ValueError(one_of("sender", site.name, short) + ": heads, MLPs and embeddings send")
        if freeze["freeze_layernorm"] and not rules.can_freeze_layernorm:
            raise ValueError(
                "freeze_layernorm=True: the norms of a hosted model are Hugging Face's own modules, which are "
                "recomputed on every path; leave it out"
            )
        if not isinstance(receiver, Site):
            receiver = senders[0].stack if receiver == "logits" else str(receiver).removesuffix(f".{OUTPUT}")
        paths = cls(tuple(senders), joint, receiver, **freeze)
        paths._check(rules, model.cfg.stacks)
        return paths

    @property
    def stack(self) -> str:
        """The senders' stack."""
        return self.senders[0].stack

    def _check(self, rules: PathRules, stacks: Sequence[str]) -> None:
        if rules.goes(self.stack, next(self.receivers())[1]):
            return
        ends = self.receiver if isinstance(self.receiver, str) else self.receiver.stack
        what = f"{ends}.{OUTPUT}" if isinstance(self.receiver, str) else self.receiver.name
        if stacks.index(ends) < stacks.index(self.stack):
            raise ValueError(f"no path from {self.stack} to {what}: `{ends}` comes before `{self.stack}`")
        if ends == self.stack:
            stack, _ = next(self.receivers())[1].reads(stacks)
            raise ValueError(f"no path from {self.stack} to {what}: these read `{stack}` alone; choose senders in it")
        raise ValueError(f"no path from {self.stack} to {what}: {rules.instead(self.stack)}")

    def receivers(self) -> Iterator[tuple[dict[str, Any], Receiver]]:
        """Yield every receiver with its labels."""
        freeze = (self.freeze_layernorm, self.freeze_mlp)
        if isinstance(self.receiver, str):
            yield {}, Receiver(f"{self.receiver}.{OUTPUT}", None, *freeze)
            return
        for layer in self.receiver.layers:
            for head in (None,) if self.receiver.heads is None else self.receiver.heads:
                labels = {"receiver_layer": layer, **({} if head is None else {"receiver_head": head})}
                yield labels, Receiver(self.receiver.hook(layer), head, *freeze)


def grid_of_paths(prepared: Prepared, paths: Paths) -> Grid:
    """Return the grid of every path of some senders and receivers; the result is NaN where there is no path.

    Args:
        prepared: The pairs.
        paths: The paths.

    Raises:
        ValueError: No receiver comes after a sender.
    """
    grid = _sender_grid(prepared, paths)
    found = list(paths.receivers())
    coords = {dim: list(dict.fromkeys(labels[dim] for labels, _ in found)) for dim in found[0][0]}
    own = {f"sender_{dim}" if dim in ("site", "layer", "head") else dim: grid.coords[dim] for dim in grid.dims}
    variants, rules = [], engine_of(prepared.model).paths(prepared.model)
    for sender in grid.variants:
        for labels, receiver in found:
            if any(rules.comes_before(edit.hook, receiver) for edit in sender.edits):
                index = (*sender.at, *(coords[dim].index(labels[dim]) for dim in coords))
                variants.append(Variant(index, sender.edits, receiver))
    if not variants:
        raise ValueError(
            f"no path from {grid.variants[0].edits[0].hook} to {found[-1][1].hook}: a receiver comes after its sender, "
            "and in another module; the order in a block is self-attention, cross-attention, MLP"
        )
    return Grid((*own, *coords), {**own, **coords}, variants)


def _sender_grid(prepared: Prepared, paths: Paths) -> Grid:
    """Return the grid of senders: every sender separately, or all of them together at each label of positions."""
    if not paths.joint:
        return grid_of_sites(prepared, paths.senders, "other")
    grids = [grid_of_sites(prepared, [site], "other") for site in paths.senders]
    labels = [{dim: tuple(grid.coords[dim]) for dim in grid.dims if dim not in ("layer", "head")} for grid in grids]
    if any(one != labels[0] for one in labels):
        raise ValueError(
            f"senders that are patched together must have the same positions; got {', '.join(map(str, labels))}"
        )
    together: dict[tuple[int, ...], list[HookEdit[LabelledPositions]]] = {}
    for grid in grids:
        kept = [number for number, dim in enumerate(grid.dims) if dim in labels[0]]
        for sender in grid.variants:
            together.setdefault(tuple(sender.at[number] for number in kept), []).extend(sender.edits)
    variants = [Variant(index, tuple(edits)) for index, edits in together.items()]
    return Grid(tuple(labels[0]), {dim: list(own) for dim, own in labels[0].items()}, variants)
